//! Program before announce, withdraw before unprogram.

use super::*;

async fn standing() -> (Bench, Facts) {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    assert!(bench.report().in_sync);
    (bench, facts)
}

fn eips(bench: &Bench) -> BTreeSet<IpAddr> {
    let world = bench.kernel.world();
    world.observed.bindings.keys().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn an_eip_is_announced_when_it_is_in_the_kernel() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().fails = Some(Box::new(|action| matches!(action, Action::AttachPort(11))));
    bench.deaf_round().await;
    let wanted = bench.network.air().wanted.clone();
    assert!(
        wanted.is_complete,
        "a failing one does not hold the others back"
    );
    let expected: Vec<IpAddr> = vec![ip("203.0.113.11"), ip("203.0.113.12")];
    assert!(wanted.wanted.keys().eq(&expected), "{wanted:?}");
    bench.kernel.world().fails = None;
    tokio::time::advance(PATIENCE).await;
    bench.deaf_round().await;
    assert!(
        bench
            .network
            .air()
            .wanted
            .wanted
            .contains_key(&ip("203.0.113.10"))
    );
    assert_eq!(bench.network.air().too_early, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn an_eip_that_goes_stays_in_the_kernel_until_the_network_has_forgotten_it() {
    let (mut bench, mut facts) = standing().await;
    facts.bindings.remove(0);
    bench.facts.send_replace(facts);
    let gone = ip("203.0.113.10");
    assert_eq!(bench.deaf_round().await, [], "withdrawn, not unprogrammed");
    assert!(!bench.network.air().wanted.wanted.contains_key(&gone));
    assert!(eips(&bench).contains(&gone) && !bench.report().in_sync);
    assert_eq!(bench.deaf_round().await, []);
    bench.network.listen();
    let actions = bench.deaf_round().await;
    assert!(
        actions.contains(&Action::RemoveBinding { eip: gone }),
        "{actions:?}"
    );
    assert!(!eips(&bench).contains(&gone) && bench.report().in_sync);
    assert_eq!(bench.report().repairs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_does_not_listen_is_given_up() {
    let (mut bench, mut facts) = standing().await;
    facts.bindings.clear();
    bench.facts.send_replace(facts);
    bench.deaf_round().await;
    assert_eq!(eips(&bench).len(), 3);
    tokio::time::advance(PATIENCE).await;
    bench.deaf_round().await;
    assert_eq!(eips(&bench).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_eip_that_is_wanted_again_in_time_was_never_away() {
    let (mut bench, facts) = standing().await;
    let mut fewer = facts.clone();
    fewer.bindings.remove(0);
    bench.facts.send_replace(fewer);
    bench.deaf_round().await;
    bench.facts.send_replace(facts);
    assert_eq!(bench.deaf_round().await, []);
    assert!(bench.report().in_sync);
}

#[tokio::test(start_paused = true)]
async fn an_eip_that_moves_to_another_vm_here_is_announced_all_the_time() {
    let (mut bench, mut facts) = standing().await;
    facts.bindings.swap_remove(1);
    facts.bindings[0].vm = object("b");
    bench.facts.send_replace(facts);
    bench.deaf_round().await;
    let moved = ip("203.0.113.10");
    assert!(bench.network.air().wanted.wanted.contains_key(&moved));
    let vm = bench.kernel.world().observed.bindings[&moved].0.vm;
    assert_eq!(vm, ip("10.244.0.2"));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_announced_is_withdrawn_first_too() {
    let (bench, mut facts) = standing().await;
    facts.bindings.remove(0);
    let mut next = Bench::between(bench.kernel.clone(), bench.network.clone(), facts);
    next.deaf_round().await;
    assert!(eips(&next).contains(&ip("203.0.113.10")));
    next.network.listen();
    next.deaf_round().await;
    assert!(!eips(&next).contains(&ip("203.0.113.10")));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_to_be_all_before_the_facts_are() {
    let (bench, facts) = standing().await;
    let incomplete = Facts {
        complete: false,
        ..facts.clone()
    };
    let mut next = Bench::between(bench.kernel.clone(), FakeNetwork::default(), incomplete);
    next.deaf_round().await;
    assert!(!next.network.air().wanted.is_complete);
    next.facts.send_replace(facts);
    next.deaf_round().await;
    let wanted = next.network.air().wanted.clone();
    assert!(wanted.is_complete && wanted.wanted.len() == 3);
}
