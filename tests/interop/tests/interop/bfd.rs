//! BFD with the routers that speak it: BIRD and FRR's bfdd, mostly at 100 ms x 3. BGP's own hold time is
//! ten minutes here: whatever is noticed in time is noticed by BFD.

use std::time::Duration;

use eip_interop_tests::{Bench, Kind, Router, RouterOptions, Shape, SpeakerProcess};
use eip_lab::wait::{pause, wait_until};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::{SOON, across, options, scenarios, start, turn};

/// Far more than three packets, far less than the hold time.
const FAST: Duration = Duration::from_mins(1);
/// Seconds.
const HOLD: u32 = 600;

fn watched() -> RouterOptions {
    RouterOptions {
        bfd: Some(100),
        hold: HOLD,
        ..options()
    }
}

scenarios! {
    bfd_comes_up_and_a_silent_link_takes_bgp_down: super::Shape::Wire, super::watched()
        => super::silent_link, [bird, frr];
    bfd_notices_a_frozen_router: super::Shape::Wire, super::watched()
        => super::frozen_router, [bird, frr];
    the_router_notices_a_frozen_speaker: super::Shape::Wire, super::watched()
        => super::frozen_speaker, [bird, frr];
    bfd_works_over_ipv6: super::Shape::Wire,
        super::RouterOptions { peer: "fd99::2", local: "fd99::1", ..super::watched() }
        => super::over_ipv6, [bird, frr];
    packets_from_afar_are_not_believed: super::Shape::Wire, super::watched()
        => super::from_afar, [bird, frr];
    packets_from_afar_are_not_believed_over_ipv6: super::Shape::Wire,
        super::RouterOptions { peer: "fd99::2", local: "fd99::1", ..super::watched() }
        => super::from_afar_over_ipv6, [bird];
    the_passive_side_of_bfd_comes_up_as_well: super::Shape::Wire, super::watched()
        => super::passive, [bird, frr];
    a_planned_stop_is_no_failure_of_the_path: super::Shape::Wire,
        super::RouterOptions { bfd: Some(1000), ..super::watched() }
        => super::planned_stop, [bird, frr];
    bulk_work_does_not_make_bfd_late: super::Shape::Wire,
        // On a busy machine a router may be late itself.
        super::RouterOptions { bfd: Some(1000), ..super::watched() }
        => super::bulk, [bird, frr];
}

const AT_100_MS: &[&str] = &["--bfd", "100", "--hold", "600"];

const AT_1_S: &[&str] = &["--bfd", "1000", "--hold", "600"];

fn is_up(peer: &Value) -> bool {
    peer["bfd"]["verdict"] == "alive" && peer["state"] == "Established"
}

fn up(bench: &Bench, router: &Router<'_>, more: &[&str]) -> SpeakerProcess {
    up_with(bench, router, &[AT_100_MS, more].concat())
}

fn up_with(bench: &Bench, router: &Router<'_>, options: &[&str]) -> SpeakerProcess {
    let mut speaker = start(bench, options);
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
    wait_until(SOON, "BFD is up", || is_up(&speaker.peer().unwrap()))
        .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    speaker
}

/// Packets vanish, the link stays up.
fn silence(bench: &Bench) {
    nft(
        bench,
        "table inet silence {
           chain in { type filter hook input priority 0; iif v0 drop; }
           chain out { type filter hook output priority 0; oif v0 drop; }
         }",
    );
}

fn nft(bench: &Bench, rules: &str) {
    let mut nft = bench.router.command("nft");
    assert!(nft.arg(rules).status().unwrap().success());
}

/// On a busy machine the path may have been taken for dead before: what counts is the end of it.
fn wait_lost(speaker: &mut SpeakerProcess) {
    wait_until(FAST, "BGP is down at once", || {
        let peer = speaker.peer().unwrap();
        let is_lost = peer["bfd"]["lost"] != 0 && peer["counters"]["lost"] != 0;
        is_lost && peer["bfd"]["verdict"] != "alive" && peer["state"] != "Established"
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
}

fn silent_link(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up(bench, router, &[]);
    wait_until(SOON, "both sides have come down to 100 ms", || {
        speaker.peer().unwrap()["bfd"]["detectionTimeMs"] == 300
    })
    .unwrap();
    silence(bench);
    wait_lost(&mut speaker);
    let peer = speaker.peer().unwrap();
    assert_eq!(peer["lastSent"]["code"], 6);
    assert_eq!(peer["lastSent"]["subcode"], 10, "BFD Down");
    nft(bench, "delete table inet silence");
    wait_until(SOON, "all is well again", || {
        is_up(&speaker.peer().unwrap())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    router.wait_known(100, 100, SOON).unwrap();
}

fn frozen_router(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up(bench, router, &[]);
    for pid in router.pids() {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_lost(&mut speaker)));
    for pid in router.pids() {
        kill(pid, Signal::SIGCONT).unwrap();
    }
    lost.unwrap();
}

fn frozen_speaker(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up(bench, router, &[]);
    kill(speaker.pid(), Signal::SIGSTOP).unwrap();
    // The router keeps what it has as stale, or drops it; what it does not do is to go on as if.
    let noticed = wait_until(FAST, "the router has noticed", || {
        let state = router.bfd().unwrap_or_default();
        !state.contains("Up") && !state.contains("up")
    });
    kill(speaker.pid(), Signal::SIGCONT).unwrap();
    noticed.unwrap_or_else(|error| panic!("{error:#}: {:?}", router.bfd()));
    wait_until(SOON, "all is well again", || {
        is_up(&speaker.peer().unwrap())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    router.wait_known(100, 100, SOON).unwrap();
}

fn over_ipv6(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up(bench, router, &["--peer", "fd99::1"]);
    silence(bench);
    wait_lost(&mut speaker);
}

/// RFC 5881 section 5: a packet that has crossed a router has a TTL below 255.
fn from_afar(bench: &Bench, router: &Router<'_>) {
    is_not_believed(bench, router, &[]);
}

fn from_afar_over_ipv6(bench: &Bench, router: &Router<'_>) {
    is_not_believed(bench, router, &["--peer", "fd99::1"]);
}

fn is_not_believed(bench: &Bench, router: &Router<'_>, options: &[&str]) {
    let mut speaker = up(bench, router, options);
    nft(
        bench,
        "table inet afar {
           chain out {
             type filter hook output priority mangle;
             udp dport 3784 ip ttl set 254;
             udp dport 3784 ip6 hoplimit set 254;
           }
         }",
    );
    wait_lost(&mut speaker);
    assert_eq!(speaker.peer().unwrap()["lastSent"]["subcode"], 10);
    speaker.kill().unwrap();
    // Where that is wanted they count: nothing else is wrong with them.
    up(
        bench,
        router,
        &[options, &["--bfd-min-ttl", "254"]].concat(),
    );
}

fn passive(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up(bench, router, &["--bfd-passive"]);
    silence(bench);
    wait_lost(&mut speaker);
}

fn planned_stop(bench: &Bench, router: &Router<'_>) {
    let mut speaker = up_with(bench, router, AT_1_S);
    speaker.ask("leave").unwrap();
    router.wait_known(0, 0, SOON).unwrap();
    let log = router.log();
    assert!(!log.contains("Control Detection Time Expired"), "{log}");
}

/// Two hundred thousand routes are put together, compared and written meanwhile.
fn bulk(bench: &Bench, router: &Router<'_>) {
    let _turn = turn();
    let mut speaker = up_with(bench, router, AT_1_S);
    for count in [50_000, 1, 50_000, 1] {
        speaker.ask(&format!("routes {count}")).unwrap();
        pause(Duration::from_millis(700));
    }
    let settled = router.wait_known(1, 1, Duration::from_mins(5));
    let peer = speaker.peer().unwrap();
    assert_eq!(
        (&peer["bfd"]["lost"], &peer["counters"]["lost"]),
        (&0.into(), &0.into()),
        "{peer:#}"
    );
    settled.unwrap_or_else(|error| panic!("{error:#}: {peer:#}"));
}

/// Only BIRD can be told to watch a neighbour without a BGP session.
#[test]
fn bgp_waits_for_bfd_where_that_is_wanted() {
    let options = RouterOptions {
        bfd: None,
        ..watched()
    };
    across(Shape::Wire, Kind::Bird, options, |bench, router| {
        let mut speaker = start(bench, &[AT_100_MS, &["--bfd-strict"]].concat());
        speaker.ask("routes 100").unwrap();
        pause(Duration::from_secs(3));
        let peer = speaker.peer().unwrap();
        assert_eq!(peer["counters"]["opensSent"], 0, "not even tried: {peer:#}");
        router.watch("10.99.0.2").unwrap();
        router.wait_known(100, 100, SOON).unwrap();
        silence(bench);
        wait_lost(&mut speaker);
        pause(Duration::from_secs(3));
        assert_eq!(speaker.peer().unwrap()["state"], "Idle");
        nft(bench, "delete table inet silence");
        router.wait_known(100, 100, SOON).unwrap();
        wait_until(SOON, "up again", || is_up(&speaker.peer().unwrap())).unwrap();
    });
}
