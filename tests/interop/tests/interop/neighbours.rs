//! Who the neighbour is and how it is reached: prefixes, interfaces, hops, keys of IPv6.

use std::time::Duration;

use eip_interop_tests::{Bench, Router, RouterOptions, Shape};
use eip_lab::wait::{pause, wait_until};

use crate::{FIRST, SOON, options, scenarios, start};

fn by_prefix() -> RouterOptions {
    RouterOptions {
        range: Some("10.99.0.0/24"),
        ..options()
    }
}

fn dialling() -> RouterOptions {
    RouterOptions {
        passive: false,
        ..options()
    }
}

fn over_ipv6(password: &'static str) -> RouterOptions {
    RouterOptions {
        peer: "fd99::2",
        local: "fd99::1",
        password: Some(password),
        ..dialling()
    }
}

scenarios! {
    a_router_that_knows_us_by_prefix_takes_us: super::Shape::Wire, super::by_prefix()
        => super::known_by_prefix, [bird, frr, gobgp];
    a_router_that_knows_us_by_prefix_asks_for_the_key: super::Shape::Wire,
        super::RouterOptions { password: Some("s3cret"), ..super::by_prefix() }
        => super::known_by_prefix_and_key, [bird, frr];
    we_take_whoever_dials_from_a_prefix: super::Shape::Wire, super::dialling()
        => super::taken_by_prefix, [bird, frr, gobgp];
    we_ask_whoever_dials_from_a_prefix_for_the_key: super::Shape::Wire,
        super::RouterOptions { password: Some("s3cret"), ..super::dialling() }
        => super::taken_by_prefix_and_key, [bird, frr, gobgp];
    the_same_key_lets_an_ipv6_session_up: super::Shape::Wire, super::over_ipv6("s3cret")
        => super::right_key_over_ipv6, [bird, frr, gobgp];
    another_key_does_not_let_an_ipv6_session_up: super::Shape::Wire, super::over_ipv6("s3cret")
        => super::wrong_key_over_ipv6, [bird, frr, gobgp];
    hop_limit_security_fits_together_over_ipv6: super::Shape::Wire,
        super::RouterOptions {
            peer: "fd99::2", local: "fd99::1", ttl_security: true, ..super::dialling()
        }
        => super::ttl_security_over_ipv6, [bird, frr, gobgp];
    a_router_on_a_link_without_addresses_is_found: super::Shape::Unnumbered,
        super::RouterOptions { unnumbered: true, passive: false, ..super::options() }
        => super::unnumbered, [bird, frr];
    a_router_on_a_link_without_addresses_asks_for_the_key: super::Shape::Unnumbered,
        super::RouterOptions {
            unnumbered: true, password: Some("s3cret"), ..super::dialling()
        }
        => super::key_on_the_link, [bird, frr];
    a_router_on_a_link_without_addresses_dials_with_the_key: super::Shape::Unnumbered,
        super::RouterOptions {
            unnumbered: true, password: Some("s3cret"), ..super::dialling()
        }
        // BIRD waits for whom it knows by prefix.
        => super::key_of_one_who_dials, [frr];
    a_router_some_hops_away_is_reached: super::Shape::Hop,
        super::RouterOptions { local: "10.98.0.1", multihop: Some(4), ..super::options() }
        => super::multihop, [bird, frr, gobgp];
    a_router_that_has_enough_is_left_alone: super::Shape::Wire,
        super::RouterOptions { limit: Some(50), graceful_restart: false, ..super::options() }
        => super::prefix_limit, [bird, frr, gobgp];
}

fn known_by_prefix(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
    speaker.ask("leave").unwrap();
    router.wait_known(0, 0, SOON).unwrap();
}

fn known_by_prefix_and_key(bench: &Bench, router: &Router<'_>) {
    let mut stranger = start(bench, &["--password", "other"]);
    stranger.ask("routes 100").unwrap();
    pause(Duration::from_secs(4));
    assert_eq!(stranger.peer().unwrap()["counters"]["opensReceived"], 0);
    stranger.kill().unwrap();
    let mut speaker = start(bench, &["--password", "s3cret"]);
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
}

const RANGE: &[&str] = &["--range", "10.99.0.0/24", "--listen", "10.99.0.2:179"];

fn taken_by_prefix(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, RANGE);
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
    let peer = speaker.peer().unwrap();
    assert_eq!(peer["name"], "10.99.0.0/24[10.99.0.1]");
    assert_eq!(peer["origin"], "accepted");
}

fn taken_by_prefix_and_key(bench: &Bench, router: &Router<'_>) {
    let mut strict = start(bench, &[RANGE, &["--password", "other"]].concat());
    strict.ask("routes 100").unwrap();
    pause(Duration::from_secs(5));
    assert!(strict.peer().unwrap().is_null(), "nobody has got through");
    strict.kill().unwrap();
    let mut speaker = start(bench, &[RANGE, &["--password", "s3cret"]].concat());
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
}

const OVER_IPV6: &[&str] = &["--peer", "fd99::1", "--listen", "[fd99::2]:179"];

fn right_key_over_ipv6(bench: &Bench, router: &Router<'_>) {
    for passive in [&[][..], &["--passive"]] {
        let mut speaker = start(
            bench,
            &[OVER_IPV6, &["--password", "s3cret"], passive].concat(),
        );
        speaker.ask("routes 100").unwrap();
        router.wait_known(100, 100, SOON).unwrap();
        speaker.ask("leave").unwrap();
        router.wait_known(0, 0, SOON).unwrap();
    }
}

fn wrong_key_over_ipv6(bench: &Bench, _router: &Router<'_>) {
    for key in [&["--password", "other"][..], &[]] {
        let mut speaker = start(bench, &[OVER_IPV6, key].concat());
        speaker.ask("routes 100").unwrap();
        pause(Duration::from_secs(5));
        let peer = speaker.peer().unwrap();
        assert_eq!(peer["counters"]["opensReceived"], 0, "{peer:#}");
    }
}

fn ttl_security_over_ipv6(bench: &Bench, router: &Router<'_>) {
    for passive in [&[][..], &["--passive"]] {
        let mut speaker = start(bench, &[OVER_IPV6, &["--ttl-security"], passive].concat());
        speaker.ask("routes 100").unwrap();
        router.wait_known(100, 100, SOON).unwrap();
        speaker.ask("leave").unwrap();
        router.wait_known(0, 0, SOON).unwrap();
    }
}

fn unnumbered(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--unnumbered", "v0", "--listen", "[::]:179"]);
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
    let route = router.describe(FIRST).unwrap();
    assert!(route.contains("fe80::"), "IPv4 over IPv6: {route}");
    // The router gets another address, as if its line card had been replaced.
    let ns = &bench.router;
    ns.ip("link set v0 down\nlink set v0 address 02:00:00:00:00:77\nlink set v0 up\n")
        .unwrap();
    wait_until(SOON, "the new address is found", || {
        let peer = speaker.peer().unwrap();
        let is_new = peer["address"].as_str().is_some_and(|a| a.ends_with(":77"));
        is_new && peer["state"] == "Established"
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    router.wait_known(100, 100, SOON).unwrap();
}

const ON_THE_LINK: &[&str] = &["--unnumbered", "v0", "--listen", "[::]:179"];

fn key_on_the_link(bench: &Bench, router: &Router<'_>) {
    for key in [&["--password", "other"][..], &[]] {
        let mut stranger = start(bench, &[ON_THE_LINK, key].concat());
        stranger.ask("routes 100").unwrap();
        wait_until(SOON, "the router is heard and does not answer", || {
            let error = stranger.peer().unwrap()["transportError"].clone();
            error.as_str().is_some_and(|text| text.contains("password"))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:#}", stranger.peer().unwrap()));
        let peer = stranger.peer().unwrap();
        assert_eq!(peer["counters"]["opensReceived"], 0, "{peer:#}");
        stranger.kill().unwrap();
    }
    let mut speaker = start(bench, &[ON_THE_LINK, &["--password", "s3cret"]].concat());
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
}

/// The key has to be on the listener before the router dials, whose address nobody has configured.
fn key_of_one_who_dials(bench: &Bench, router: &Router<'_>) {
    let right = ["--passive", "--password", "s3cret"];
    let mut speaker = start(bench, &[ON_THE_LINK, &right].concat());
    speaker.ask("routes 100").unwrap();
    router.wait_known(100, 100, SOON).unwrap();
    assert_eq!(speaker.peer().unwrap()["origin"], "accepted");
}

fn multihop(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &["--peer", "10.98.0.1", "--multihop", "4"]);
    speaker.ask("routes4 100").unwrap();
    router.wait_known(100, 0, SOON).unwrap();
    assert_eq!(
        speaker.peer().unwrap()["ipv6"]["reason"],
        serde_json::Value::Null,
        "IPv6 has a next hop as well"
    );
    speaker.ask("leave").unwrap();
    // Without it our segments do not get that far.
    let mut speaker = start(bench, &["--peer", "10.98.0.1"]);
    speaker.ask("routes4 100").unwrap();
    pause(Duration::from_secs(4));
    assert_eq!(speaker.peer().unwrap()["counters"]["opensReceived"], 0);
}

fn prefix_limit(bench: &Bench, router: &Router<'_>) {
    let mut speaker = start(bench, &[]);
    speaker.ask("routes 50").unwrap();
    router.wait_known(50, 50, SOON).unwrap();
    // One more is not enough for FRR, which looks before it counts.
    speaker.ask("routes 80").unwrap();
    wait_until(SOON, "the router says that it has enough", || {
        let peer = speaker.peer().unwrap();
        peer["lastReceived"]["code"] == 6 && peer["lastReceived"]["subcode"] == 1
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    let opens = |peer: &serde_json::Value| peer["counters"]["opensSent"].as_u64().unwrap();
    let before = opens(&speaker.peer().unwrap());
    pause(Duration::from_secs(10));
    let tries = opens(&speaker.peer().unwrap()) - before;
    assert!(tries <= 3, "{tries} tries in 10 s");
    // As an operator would: fewer routes, then another chance.
    speaker.ask("routes 40").unwrap();
    router.forgive().unwrap();
    router.wait_known(40, 40, 2 * SOON).unwrap();
}
