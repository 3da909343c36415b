//! What nobody renews is not served, and not announced.

use std::time::Duration;

use eip_common::abi::LEASE_NOT_BEGUN;

use super::*;
use crate::reconcile::{Fence, FenceOn, FencePolicy};

const SECOND: u64 = 1_000_000_000;
/// The time of the first round.
const START: u64 = 1000 * SECOND;

/// A node that serves three elastic IPs with leases of 30 s.
async fn leased(facts: Facts, kernel: Option<FakeKernel>) -> (Bench, Arc<Notify>) {
    let mut bench = match kernel {
        Some(kernel) => Bench::on(kernel, facts),
        None => Bench::new(three_vms().0, facts),
    };
    let reread = Arc::new(Notify::new());
    let policy = FencePolicy {
        after: Some(Duration::from_secs(30)),
        on: FenceOn::Stall,
    };
    bench.reconciler.fence = Fence::new(policy, None, Arc::clone(&reread));
    if bench.kernel.world().boot_time == 0 {
        bench.kernel.world().boot_time = START;
    }
    bench.round().await;
    (bench, reread)
}

fn read_at(seconds: u64) -> Facts {
    Facts {
        read_at: Some(seconds * SECOND),
        ..three_vms().1
    }
}

fn leases(bench: &Bench) -> BTreeSet<u64> {
    bench.kernel.world().leases.values().copied().collect()
}

fn announced(bench: &Bench) -> usize {
    bench.network.air().wanted.wanted.len()
}

#[tokio::test]
async fn a_binding_is_renewed_before_it_is_announced_and_while_the_process_runs() {
    let (mut bench, _) = leased(read_at(999), None).await;
    assert_eq!(leases(&bench), [START + 30 * SECOND].into());
    assert_eq!(announced(&bench), 3);
    for _ in 0..10 {
        bench.kernel.world().boot_time += 9 * SECOND;
        bench.round().await;
        let now = bench.kernel.world().boot_time;
        assert!(
            leases(&bench)
                .iter()
                .all(|until| *until > now + 10 * SECOND)
        );
    }
    // What cannot be read is served on: the process is there to answer for it.
    bench.kernel.world().is_blind = true;
    for _ in 0..10 {
        bench.kernel.world().boot_time += 9 * SECOND;
        bench.round().await;
    }
    let now = bench.kernel.world().boot_time;
    assert!(leases(&bench).iter().all(|until| *until > now));
}

#[tokio::test]
async fn a_process_that_stood_still_serves_and_announces_nothing_before_it_has_read_again() {
    let (mut bench, reread) = leased(read_at(999), None).await;
    bench.kernel.world().boot_time += 60 * SECOND;
    bench.round().await;
    assert_eq!(announced(&bench), 0);
    assert_eq!(leases(&bench), [START + 30 * SECOND].into());
    assert!(bench.report().bindings.iter().all(|one| one.is_fenced));
    reread.notified().await;
    // What was on its way before it fell asleep is no newer.
    bench.facts.send_replace(read_at(1030));
    bench.round().await;
    assert_eq!(announced(&bench), 0);
    bench.facts.send_replace(read_at(1061));
    bench.round().await;
    assert_eq!(announced(&bench), 3);
    assert!(!bench.report().bindings.iter().any(|one| one.is_fenced));
}

#[tokio::test]
async fn nothing_is_in_the_kernel_for_a_moment_without_a_lease() {
    let (mut bench, _) = leased(read_at(999), None).await;
    let (_, all) = three_vms();
    // Long after, slots change hands: what is written in them has ended.
    for seconds in [1000, 2000] {
        bench.kernel.world().boot_time += 1000 * SECOND;
        let facts = Facts {
            bindings: Vec::new(),
            ..read_at(seconds)
        };
        bench.facts.send_replace(facts);
        bench.round().await;
        let facts = Facts {
            bindings: all.bindings.iter().rev().cloned().collect(),
            ..read_at(seconds + 1001)
        };
        bench.facts.send_replace(facts);
        bench.round().await;
    }
    assert_eq!(bench.kernel.world().unleased, BTreeSet::new());
}

#[tokio::test]
async fn what_is_new_to_a_process_that_stood_still_waits_for_new_facts_too() {
    let mut fewer = read_at(999);
    fewer.bindings.truncate(1);
    let (mut bench, _) = leased(fewer, None).await;
    // It comes in the same moment as the process wakes up.
    bench.kernel.world().boot_time += 60 * SECOND;
    bench.facts.send_replace(read_at(999));
    bench.round().await;
    assert_eq!(
        leases(&bench),
        [LEASE_NOT_BEGUN, START + 30 * SECOND].into()
    );
    assert_eq!(announced(&bench), 0);
    bench.facts.send_replace(read_at(1061));
    bench.round().await;
    assert_eq!(announced(&bench), 3);
}

#[tokio::test]
async fn a_restart_in_time_goes_on_and_one_after_the_end_waits_for_facts() {
    let incomplete = || Facts {
        complete: false,
        ..three_vms().1
    };
    let (bench, _) = leased(read_at(999), None).await;
    bench.kernel.world().boot_time += 25 * SECOND;
    let (next, _) = leased(incomplete(), Some(bench.kernel.clone())).await;
    assert_eq!(leases(&next), [START + 55 * SECOND].into());
    assert_eq!(announced(&next), 3);
    bench.kernel.world().boot_time += 31 * SECOND;
    let (mut late, _) = leased(incomplete(), Some(bench.kernel.clone())).await;
    assert_eq!(announced(&late), 0);
    late.facts.send_replace(read_at(1057));
    late.round().await;
    assert_eq!(announced(&late), 3);
}

#[tokio::test]
async fn without_a_policy_bindings_are_served_for_ever() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().boot_time = START;
    bench.round().await;
    assert_eq!(leases(&bench), [0].into());
    bench.kernel.world().boot_time *= 1000;
    bench.round().await;
    assert_eq!((leases(&bench), announced(&bench)), ([0].into(), 3));
}
