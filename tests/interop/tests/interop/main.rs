//! The list of what a speaker has to do to be trusted, against each router that has the feature.
//!
//! Needs root and Debian's `bird2`, `frr` and `gobgpd`. Without them a test fails and says so.
#![cfg(test)]
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eip_interop_tests::{Bench, Kind, Known, Router, RouterOptions, Shape, SpeakerProcess};
use eip_lab::needs;
use eip_lab::wait::{pause, wait_until};
use nix::sys::signal::{Signal, kill};

mod bfd;
mod convergence;
mod neighbours;
mod segments;
mod wire;

const SPEAKER: &str = env!("CARGO_BIN_EXE_eip-test-speaker");
/// How long anything may take that has to come, on a machine that is busy with other things.
const SOON: Duration = Duration::from_mins(1);
const FIRST: &str = "100.64.0.0";

/// Scenarios with tens of thousands of routes take turns: side by side they would measure what two
/// cores can do for all of them.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // One that failed is no reason for the next to fail.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A router of this kind can be run here.
fn require(kind: Kind) {
    let program = match kind {
        Kind::Bird => "/usr/sbin/bird",
        Kind::Frr => "/usr/lib/frr/bgpd",
        Kind::Gobgp => "/usr/bin/gobgpd",
    };
    needs::root().unwrap();
    needs::program(program).unwrap();
}

fn start(bench: &Bench, options: &[&str]) -> SpeakerProcess {
    SpeakerProcess::start(bench, SPEAKER, options).unwrap()
}

/// Runs a scenario with a router one wire away and shows the logs when it fails.
fn against(kind: Kind, options: RouterOptions, scenario: impl FnOnce(&Bench, &Router<'_>)) {
    across(Shape::Wire, kind, options, scenario);
}

/// The same with something else between the two.
fn across(
    shape: Shape,
    kind: Kind,
    options: RouterOptions,
    scenario: impl FnOnce(&Bench, &Router<'_>),
) {
    require(kind);
    let bench = Bench::raise(shape).unwrap();
    let router = Router::start(kind, &bench, options).unwrap();
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&bench, &router)));
    if let Err(panic) = outcome {
        eprintln!("{}", router.log());
        std::panic::resume_unwind(panic);
    }
}

/// One test for each router, with the same name.
macro_rules! for_each_router {
    ($($name:ident: $options:expr => $scenario:expr;)+) => {
        mod bird {
            $(#[test] fn $name() { super::against(super::Kind::Bird, $options, $scenario); })+
        }
        mod frr {
            $(#[test] fn $name() { super::against(super::Kind::Frr, $options, $scenario); })+
        }
        mod gobgp {
            $(#[test] fn $name() { super::against(super::Kind::Gobgp, $options, $scenario); })+
        }
    };
}

/// One test for each of some routers.
macro_rules! scenarios {
    ($($name:ident: $shape:expr, $options:expr => $scenario:expr, [$($kind:ident),+];)+) => {
        $(mod $name {
            $(#[test]
            fn $kind() {
                let kind = crate::$kind();
                crate::across($shape, kind, $options, $scenario);
            })+
        })+
    };
}
use scenarios;

fn bird() -> Kind {
    Kind::Bird
}

fn frr() -> Kind {
    Kind::Frr
}

fn gobgp() -> Kind {
    Kind::Gobgp
}

fn options() -> RouterOptions {
    RouterOptions::default()
}

for_each_router! {
    a_thousand_routes_of_both_families_arrive_and_leave: super::options() => super::routes_arrive_and_leave;
    the_router_may_dial_as_well: super::RouterOptions { passive: false, ..super::options() } => super::both_dial;
    the_speaker_may_wait_for_the_router: super::RouterOptions { passive: false, ..super::options() } => super::speaker_waits;
    the_same_password_lets_the_session_up: super::RouterOptions { password: Some("s3cret"), passive: false, ..super::options() } => super::right_password;
    another_password_does_not: super::RouterOptions { password: Some("s3cret"), passive: false, ..super::options() } => super::wrong_passwords;
    hop_limit_security_fits_together: super::RouterOptions { ttl_security: true, passive: false, ..super::options() } => super::ttl_security;
    a_crash_loses_no_route_and_the_return_purges_what_is_gone: super::options() => super::crash_keeps_routes;
    an_upgrade_loses_no_route: super::options() => super::upgrade_keeps_routes;
    a_router_without_hop_limit_security_is_not_believed: super::RouterOptions { passive: false, ..super::options() } => super::ttl_security_is_checked;
    a_planned_stop_withdraws_at_once_in_spite_of_graceful_restart: super::options() => super::stop_withdraws;
    a_frozen_router_is_given_up_after_the_hold_time: super::options() => super::frozen_router;
    a_frozen_speaker_is_given_up_after_the_hold_time: super::options() => super::frozen_speaker;
    communities_and_med_change_without_a_reset: super::options() => super::attributes_change;
    draining_marks_withdraws_and_comes_back: super::options() => super::drain;
    as_numbers_beyond_two_octets_work: super::RouterOptions { peer_as: 4_200_000_010, local_as: 4_200_000_001, ..super::options() } => super::large_as;
    inside_the_as_routes_carry_local_pref: super::RouterOptions { local_as: 65010, ..super::options() } => super::internal;
    a_session_over_ipv6_carries_both_families: super::RouterOptions { peer: "fd99::2", local: "fd99::1", ..super::options() } => super::over_ipv6;
}

fn routes_arrive_and_leave(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 1000").unwrap();
    router.wait_known(1000, 1000, SOON).unwrap();
    speaker.ask("routes 300").unwrap();
    router.wait_known(300, 300, SOON).unwrap();
    speaker.ask("routes 0").unwrap();
    router.wait_known(0, 0, SOON).unwrap();
    let peer = speaker.peer().unwrap();
    assert_eq!(peer["state"], "Established");
    assert_eq!(
        peer["counters"]["established"], 1,
        "one session all the way"
    );
}

fn both_dial(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--listen", "10.99.0.2:179"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    // Whatever collided has been sorted out, for good.
    pause(Duration::from_secs(4));
    assert_eq!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

fn speaker_waits(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--passive", "--listen", "10.99.0.2:179"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    assert_eq!(speaker.peer().unwrap()["origin"], "accepted");
}

fn right_password(bench: &Bench, router: &Router<'_>) {
    for options in [
        &["--password", "s3cret"][..],
        &[
            "--password",
            "s3cret",
            "--passive",
            "--listen",
            "10.99.0.2:179",
        ],
    ] {
        let mut speaker = start(bench, options);
        speaker.ask("routes 10").unwrap();
        router.wait_known(10, 10, SOON).unwrap();
        speaker.ask("leave").unwrap();
        router.wait_known(0, 0, SOON).unwrap();
    }
}

fn wrong_passwords(bench: &Bench, _router: &Router<'_>) {
    for options in [&["--password", "other"][..], &[]] {
        let options = [options, &["--listen", "10.99.0.2:179"]].concat();
        let mut speaker = start(bench, &options);
        speaker.ask("routes 10").unwrap();
        pause(Duration::from_secs(5));
        let peer = speaker.peer().unwrap();
        assert_eq!(peer["counters"]["opensReceived"], 0, "{peer:#}");
        assert_ne!(peer["state"], "Established");
    }
}

fn ttl_security(bench: &Bench, router: &Router<'_>) {
    for options in [
        &["--ttl-security"][..],
        &["--ttl-security", "--passive", "--listen", "10.99.0.2:179"],
    ] {
        let mut speaker = start(bench, options);
        speaker.ask("routes 10").unwrap();
        router.wait_known(10, 10, SOON).unwrap();
        speaker.ask("leave").unwrap();
        router.wait_known(0, 0, SOON).unwrap();
    }
    // Without it our segments have TTL 1 and are not believed. What counts is what the router has: one
    // that sets its limit after accepting may let an OPEN through and answer it.
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 10").unwrap();
    pause(Duration::from_secs(4));
    let known = router.known().unwrap();
    assert_eq!((known.ipv4, known.ipv6), (0, 0));
}

fn crash_keeps_routes(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 1000").unwrap();
    router.wait_known(1000, 1000, SOON).unwrap();
    wait_until(SOON, "End-of-RIB sent", || {
        speaker
            .peer()
            .is_ok_and(|peer| !peer["settledGeneration"].is_null())
    })
    .unwrap();
    speaker.kill().unwrap();
    wait_until(SOON, "routes are kept as stale", || {
        router.stale().is_ok_and(|stale| stale == 2000)
    })
    .unwrap();

    // The table is loaded slowly, so slowly that the session comes up before it is complete:
    // nothing may be claimed to be gone.
    let mut speaker = start(bench, &["--restart-time", "1"]);
    speaker.ask("partial 10").unwrap();
    speaker.wait_state("Established", SOON).unwrap();
    for _ in 0..20 {
        assert_eq!(router.known().unwrap().ipv4, 1000);
        pause(Duration::from_millis(100));
    }
    assert!(router.stale().unwrap() > 0, "the end has not been claimed");
    speaker.ask("routes 900").unwrap();
    let least = least_until_known(router, 900);
    assert_eq!(least, 900, "the count never dipped");
    assert_eq!(router.stale().unwrap(), 0);
}

/// Polls until the router knows so many routes of each family; the fewest IPv4 routes it had.
fn least_until_known(router: &Router<'_>, count: usize) -> usize {
    let mut least = usize::MAX;
    wait_until(SOON, "the router is up to date", || {
        let known = router.known().unwrap_or_default();
        least = least.min(known.ipv4);
        known.ipv4 == count && known.ipv6 == count && router.stale().is_ok_and(|stale| stale == 0)
    })
    .unwrap();
    least
}

fn upgrade_keeps_routes(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 1000").unwrap();
    router.wait_known(1000, 1000, SOON).unwrap();
    for _ in 0..3 {
        speaker.ask("keep").unwrap();
        speaker = start(bench, &[]);
        speaker.ask("routes 1000").unwrap();
        assert_eq!(
            least_until_known(router, 1000),
            1000,
            "the count never dipped"
        );
        speaker.wait_state("Established", SOON).unwrap();
    }
}

fn ttl_security_is_checked(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--ttl-security", "--listen", "10.99.0.2:179"]);
    speaker.ask("routes 10").unwrap();
    pause(Duration::from_secs(5));
    let peer = speaker.peer().unwrap();
    // FRR's first segments have 255 whatever it is told, so an OPEN may pass; a session does not.
    assert_eq!(peer["counters"]["established"], 0, "{peer:#}");
    assert_eq!(router.known().unwrap().ipv4, 0);
}

fn stop_withdraws(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 1000").unwrap();
    router.wait_known(1000, 1000, SOON).unwrap();
    speaker.ask("leave").unwrap();
    // Long before the restart time of two minutes is over.
    router.wait_known(0, 0, SOON).unwrap();
    assert_eq!(router.stale().unwrap(), 0);
}

fn frozen_router(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--hold", "3"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    for pid in router.pids() {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    let lost = wait_until(SOON, "the session is given up", || {
        speaker
            .peer()
            .is_ok_and(|peer| peer["lastSent"]["code"] == 4)
    });
    for pid in router.pids() {
        kill(pid, Signal::SIGCONT).unwrap();
    }
    lost.unwrap();
    assert_ne!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

fn frozen_speaker(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--hold", "3"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    kill(speaker.pid(), Signal::SIGSTOP).unwrap();
    let noticed = wait_until(SOON, "the router has noticed", || {
        let has_none = router.known().is_ok_and(|known| known == Known::default());
        has_none || router.stale().is_ok_and(|stale| stale > 0)
    });
    kill(speaker.pid(), Signal::SIGCONT).unwrap();
    noticed.unwrap();
    wait_until(SOON, "the session was lost and is back", || {
        speaker
            .peer()
            .is_ok_and(|peer| peer["counters"]["lost"] != 0 && peer["state"] == "Established")
    })
    .unwrap();
    router.wait_known(10, 10, SOON).unwrap();
}

fn attributes_change(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    speaker.ask("community 65001:7").unwrap();
    speaker.ask("med 4711").unwrap();
    wait_until(SOON, "the router sees them", || {
        let route = router.describe(FIRST).unwrap_or_default();
        let has_community = ["(65001,7)", "65001:7", "4259905543"]
            .iter()
            .any(|c| route.contains(c));
        let has_large = ["(4200000000, 1, 7)", "4200000000:1:7"]
            .iter()
            .any(|c| route.contains(c))
            || route.contains("4200000000");
        has_community && has_large && route.contains("4711")
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", router.describe(FIRST).unwrap_or_default()));
    assert_eq!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

fn drain(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    speaker.ask("drain 600").unwrap();
    wait_until(SOON, "GRACEFUL_SHUTDOWN arrives", || {
        let route = router.describe(FIRST).unwrap_or_default();
        [
            "(65535,0)",
            "65535:0",
            "graceful-shutdown",
            "gracefulShutdown",
            "4294901760",
        ]
        .iter()
        .any(|community| route.contains(community))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", router.describe(FIRST).unwrap_or_default()));
    let known = router.known().unwrap();
    assert_eq!((known.ipv4, known.ipv6), (10, 10), "marked, not gone");
    speaker.ask("drain 1").unwrap();
    router.wait_known(0, 0, SOON).unwrap();
    assert_eq!(speaker.peer().unwrap()["state"], "Established");
    speaker.ask("undrain").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
}

fn large_as(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(
        bench,
        &["--local-as", "4200000010", "--peer-as", "4200000001"],
    );
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    let route = router.describe(FIRST).unwrap();
    assert!(route.contains("4200000010"), "{route}");
}

fn internal(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--peer-as", "65010"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    let route = router.describe(FIRST).unwrap();
    let forms = [
        "BGP.local_pref: 100",
        "\"locPrf\":100",
        "{\"type\":5,\"value\":100}",
    ];
    let route_text: String = route.split_whitespace().collect::<Vec<_>>().join(" ");
    let compact = route_text.replace(": ", ":");
    let has = |form: &str| route_text.contains(form) || compact.contains(form);
    assert!(forms.iter().any(|form| has(form)), "{route}");
    assert!(!route.contains("65010"), "the path is empty: {route}");
}

fn over_ipv6(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--peer", "fd99::1"]);
    speaker.ask("routes 10").unwrap();
    router.wait_known(10, 10, SOON).unwrap();
    let route = router.describe(FIRST).unwrap();
    assert!(
        route.contains("10.99.0.2"),
        "next hop is our IPv4 address: {route}"
    );
}
