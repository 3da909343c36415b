//! Whatever is sent, the same arrives as through netfilter, or what the model says.

use std::{cell::RefCell, fmt::Debug};

use eip_lab::plan::Family;
use eip_oracle_tests::compare::Judge;
use proptest::{
    strategy::BoxedStrategy,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    generate, generate6,
    support::{KINDS, Pair},
};

/// Cases of one lane: `EIP_ORACLE_CASES`, else enough to meet every kind many times.
fn cases() -> u32 {
    std::env::var("EIP_ORACLE_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(400)
}

/// Judges many cases of one family on one lane.
fn judged<C: Debug>(
    lane: &'static str,
    family: Family,
    cases: &BoxedStrategy<C>,
    judge: fn(&mut Pair, &C) -> Result<Judge, String>,
) {
    let pair = Pair::raise(lane, 1500);
    let pair = RefCell::new(pair);
    let config = Config {
        cases: self::cases(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(cases, |case| {
        judge(&mut pair.borrow_mut(), &case)
            .map(drop)
            .map_err(TestCaseError::fail)
    });
    let pair = pair.into_inner();
    println!("{lane}, {family}:\n{}", pair.summary());
    if let Err(error) = result {
        panic!("{lane}, {family}: {error}");
    }
    for kind in KINDS {
        assert!(
            pair.judged(kind, Judge::Netfilter) > 0,
            "netfilter judged no {kind}:\n{}",
            pair.summary()
        );
    }
}

fn lane_equals_netfilter(lane: &'static str) {
    judged(lane, Family::V4, &generate::case(), Pair::judge);
}

fn lane_equals_netfilter_in_ipv6(lane: &'static str) {
    judged(lane, Family::V6, &generate6::case(), Pair::judge_six);
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

#[test]
fn the_peer_lane_equals_netfilter_in_ipv6() {
    lane_equals_netfilter_in_ipv6("peer");
}

#[test]
fn the_neigh_lane_equals_netfilter_in_ipv6() {
    lane_equals_netfilter_in_ipv6("neigh");
}

#[test]
fn the_stack_lane_equals_netfilter_in_ipv6() {
    lane_equals_netfilter_in_ipv6("stack");
}

#[test]
fn the_xdp_lane_equals_netfilter_in_ipv6() {
    lane_equals_netfilter_in_ipv6("xdp");
}
