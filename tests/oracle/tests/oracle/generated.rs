//! Whatever is sent, the same arrives as through netfilter, or what the model says.

use std::cell::RefCell;

use eip_oracle_tests::compare::Judge;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::{
    generate,
    support::{KINDS, Pair},
};

/// Cases of one lane: `EIP_ORACLE_CASES`, else enough to meet every kind many times.
fn cases() -> u32 {
    std::env::var("EIP_ORACLE_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(400)
}

fn lane_equals_netfilter(lane: &'static str) {
    let Some(pair) = Pair::raise(lane, 1500) else {
        return;
    };
    let pair = RefCell::new(pair);
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&generate::case(), |case| {
        pair.borrow_mut()
            .judge(&case)
            .map(drop)
            .map_err(TestCaseError::fail)
    });
    let pair = pair.into_inner();
    println!("{lane}:\n{}", pair.summary());
    if let Err(error) = result {
        panic!("{lane}: {error}");
    }
    for kind in KINDS {
        assert!(
            pair.judged(kind, Judge::Netfilter) > 0,
            "netfilter judged no {kind}:\n{}",
            pair.summary()
        );
    }
}

#[test]
fn the_peer_lane_equals_netfilter() {
    lane_equals_netfilter("peer");
}

#[test]
fn the_neigh_lane_equals_netfilter() {
    lane_equals_netfilter("neigh");
}

#[test]
fn the_stack_lane_equals_netfilter() {
    lane_equals_netfilter("stack");
}

#[test]
fn the_xdp_lane_equals_netfilter() {
    lane_equals_netfilter("xdp");
}
