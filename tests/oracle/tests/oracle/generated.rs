//! Whatever is sent, the same arrives as through netfilter, or what the model says.

use std::cell::RefCell;

use eip_lab::plan::Family;
use eip_oracle_tests::{case::Case, chain::Build, compare::Judge};
use proptest::{
    strategy::BoxedStrategy,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    generate,
    support::{KINDS, Pair},
};

/// Cases of one lane and family: `EIP_ORACLE_CASES`, else enough to meet every kind many times.
fn cases() -> u32 {
    std::env::var("EIP_ORACLE_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(400)
}

/// Judges many cases of one kind.
fn judge_all(what: &str, pair: Pair, cases: &BoxedStrategy<Case>, count: u32) -> Pair {
    let pair = RefCell::new(pair);
    let config = Config {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(cases, |case| {
        pair.borrow_mut()
            .judge(&case)
            .map(drop)
            .map_err(TestCaseError::fail)
    });
    let mut pair = pair.into_inner();
    let tally = pair.tally();
    println!("{what}:\n{tally}");
    if let Err(error) = result {
        panic!("{what}: {error}");
    }
    for kind in KINDS {
        assert!(
            tally.judged(kind, Judge::Netfilter) > 0,
            "{what}: netfilter judged no {kind}:\n{tally}"
        );
    }
    pair
}

/// Both families on one lane, which may be up to something.
fn lane_equals_netfilter(
    lane: &'static str,
    build: Build,
    kind: fn(Family) -> BoxedStrategy<Case>,
    count: u32,
) {
    let mut pair = Pair::build(lane, build);
    for family in Family::BOTH {
        let what = format!("{lane}, {build:?}, {family}");
        pair = judge_all(&what, pair, &kind(family), count);
    }
}

#[test]
fn the_peer_lane_equals_netfilter() {
    lane_equals_netfilter("peer", Build::default(), generate::any_case, cases());
}

#[test]
fn the_neigh_lane_equals_netfilter() {
    lane_equals_netfilter("neigh", Build::default(), generate::any_case, cases());
}

#[test]
fn the_stack_lane_equals_netfilter() {
    lane_equals_netfilter("stack", Build::default(), generate::any_case, cases());
}

#[test]
fn the_xdp_lane_equals_netfilter() {
    lane_equals_netfilter("xdp", Build::default(), generate::any_case, cases());
}

#[test]
fn two_vms_that_talk_by_their_eips_see_what_netfilter_shows_them() {
    for lane in ["peer", "neigh", "stack"] {
        let count = cases() / 2;
        lane_equals_netfilter(lane, Build::default(), generate::between_vms, count);
    }
}

#[test]
fn a_vm_with_many_eips_is_known_by_the_one_that_was_asked_as_with_netfilter() {
    let build = Build {
        many_eips: true,
        ..Build::default()
    };
    for lane in ["peer", "stack"] {
        lane_equals_netfilter(lane, build, generate::with_many_eips, cases() / 2);
    }
}
