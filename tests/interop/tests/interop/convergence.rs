//! Many routes, lossy wires, and two nodes with the same route.

use std::time::Duration;

use eip_interop_tests::{Bench, Router, RouterOptions, Shape, SpeakerProcess};
use eip_lab::wait::wait_until;

use crate::{FIRST, SOON, SPEAKER, options, scenarios, start, turn};

scenarios! {
    a_hundred_thousand_routes_of_each_family_arrive_and_leave: super::Shape::Wire,
        // Routers that share two busy cores with all this are late with KEEPALIVEs themselves.
        super::RouterOptions { hold: 30, ..super::options() }
        => super::many, [bird, frr, gobgp];
    a_wire_that_loses_three_in_a_hundred_costs_no_session: super::Shape::Wire, super::options()
        => super::lossy, [bird, frr, gobgp];
    two_nodes_share_a_route_and_one_takes_over: super::Shape::TwoSpeakers,
        super::RouterOptions { second: true, ..super::options() }
        => super::shared, [bird, frr, gobgp];
}

fn many(bench: &Bench, router: &Router<'_>) {
    let _turn = turn();
    let limit = Duration::from_mins(5);
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 100000").unwrap();
    router.wait_known(100_000, 100_000, limit).unwrap();
    speaker.ask("routes 1").unwrap();
    router.wait_known(1, 1, limit).unwrap();
    assert_eq!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

fn lossy(bench: &Bench, router: &Router<'_>) {
    let mut nft = bench.speaker.command("nft");
    let drop = "numgen random mod 100 < 3 drop";
    nft.arg(format!(
        "table inet loss {{
           chain in {{ type filter hook input priority 0; {drop}; }}
           chain out {{ type filter hook output priority 0; {drop}; }}
         }}"
    ));
    assert!(nft.status().unwrap().success());
    let mut speaker = start(bench, &[]);
    let limit = Duration::from_mins(3);
    for count in [10_000, 0, 5000, 1] {
        speaker.ask(&format!("routes {count}")).unwrap();
        router.wait_known(count, count, limit).unwrap();
    }
    assert_eq!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

fn shared(bench: &Bench, router: &Router<'_>) {
    let second = bench.third.as_ref().unwrap();
    let mut first = start(bench, &[]);
    let options = ["--id", "10.99.1.2", "--peer", "10.99.1.1"];
    let mut second = SpeakerProcess::start_in(second, bench, SPEAKER, &options).unwrap();
    let ways = |count: usize| {
        wait_until(SOON, &format!("{count} ways"), || {
            router.ways(FIRST).is_ok_and(|ways| ways == count)
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", router.describe(FIRST)));
    };
    first.ask("routes4 10").unwrap();
    ways(1);
    second.ask("routes4 10").unwrap();
    ways(2);
    // The move: the new node has it before the old one lets go; at no time has nobody.
    first.ask("routes4 0").unwrap();
    let mut least = usize::MAX;
    wait_until(SOON, "one way is left", || {
        let ways = router.ways(FIRST).unwrap_or(0);
        least = least.min(ways);
        ways == 1
    })
    .unwrap();
    assert_eq!(least, 1, "never without a way");
    let route = router.describe(FIRST).unwrap();
    assert!(route.contains("10.99.1.2"), "{route}");
    second.ask("leave").unwrap();
    ways(0);
}
