//! Timers, refusals, back-off and farewells.

use super::*;
use crate::announce::bgp::config::{GracefulRestartMode, Initiative, RefusedCapabilities};

fn notification(code: u8, subcode: u8) -> Message<'static> {
    Message::Notification(Notification::new(Reason::from_wire(code, subcode)))
}

/// Our OPEN on a fresh connection.
fn sent_open(world: &mut World) -> Open {
    let outputs = world
        .session
        .process(Input::Dialled(endpoints()), world.now);
    let Some(Output::Send(_, bytes)) = outputs.first() else {
        panic!("{outputs:?}")
    };
    match decode_body(
        crate::announce::bgp::wire::MessageType::Open,
        &bytes[HEADER_LEN..],
    ) {
        Ok(Message::Open(open)) => open,
        other => panic!("{other:?}"),
    }
}

#[test]
fn established_comes_only_after_the_peers_keepalive() {
    let mut world = World::in_state(State::OpenSent);
    assert_eq!(
        world.hear(Origin::Dialled, Message::Open(peer_open())),
        ["KEEPALIVE on dialled"]
    );
    assert_eq!(world.state(), State::OpenConfirm);
    assert_eq!(world.hear(Origin::Dialled, Message::Keepalive), ["up"]);
}

#[test]
fn opens_that_do_not_fit_are_refused_with_their_subcode() {
    let ours = Open {
        router_id: OUR_ID,
        ..peer_open()
    };
    let rows: &[(&str, PeerAs, Open, &str)] = &[
        (
            "another AS",
            PeerAs::Number(65001),
            Open {
                asn: 65002,
                ..peer_open()
            },
            "2/2",
        ),
        (
            "AS 0",
            PeerAs::External,
            Open {
                asn: 0,
                ..peer_open()
            },
            "2/2",
        ),
        (
            "our AS from outside",
            PeerAs::External,
            Open {
                asn: 65010,
                ..peer_open()
            },
            "2/2",
        ),
        ("another AS inside", PeerAs::Internal, peer_open(), "2/2"),
        (
            "identifier 0",
            PeerAs::External,
            Open {
                router_id: Ipv4Addr::UNSPECIFIED,
                ..peer_open()
            },
            "2/3",
        ),
        (
            "our identifier inside",
            PeerAs::Internal,
            Open { asn: 65010, ..ours },
            "2/3",
        ),
    ];
    for (name, peer_as, open, error) in rows {
        let mut config = peer_config();
        config.session.peer_as = *peer_as;
        let mut world = World::with(config).brought_to(State::OpenSent, peer_open());
        let outputs = world.hear(Origin::Dialled, Message::Open(*open));
        assert_eq!(
            outputs[0],
            format!("NOTIFICATION {error} on dialled"),
            "{name}"
        );
    }
    // RFC 6286 §2.1: outside the AS an equal identifier is no conflict.
    let mut world = World::in_state(State::OpenSent);
    assert_eq!(
        world.hear(Origin::Dialled, Message::Open(ours)),
        ["KEEPALIVE on dialled"]
    );
}

#[test]
fn hold_timer_expiry_closes_with_notification_in_every_state_that_has_one() {
    for (state, seconds) in [
        (State::OpenSent, 240),
        (State::OpenConfirm, 9),
        (State::Established, 9),
    ] {
        let mut world = World::in_state(state);
        world.now += Duration::from_millis(1000 * seconds - 1);
        assert!(
            world
                .feed(Input::Timer)
                .iter()
                .all(|output| output.starts_with("KEEPALIVE"))
        );
        world.now += Duration::from_millis(1);
        let outputs = world.feed(Input::Timer);
        assert_eq!(
            outputs[..2],
            ["NOTIFICATION 4/0 on dialled", "close dialled"],
            "{state:?}"
        );
    }
}

#[test]
fn keepalives_and_updates_keep_the_session_up() {
    let mut world = World::in_state(State::Established);
    for round in 0..20 {
        world.pass(5);
        let message = if round % 2 == 0 {
            Message::Keepalive
        } else {
            Message::Update(crate::announce::bgp::wire::UpdateSummary::default())
        };
        world.hear(Origin::Dialled, message);
    }
    assert_eq!(world.state(), State::Established);
}

#[test]
fn keepalives_leave_at_a_third_of_the_hold_time_with_jitter() {
    let mut world = World::in_state(State::Established);
    let mut gaps = Vec::new();
    for _ in 0..200 {
        let (gap, outputs) = world.wait();
        assert_eq!(outputs, ["KEEPALIVE on dialled"]);
        gaps.push(gap);
        world.feed(Input::Taken(Origin::Dialled));
        world.hear(Origin::Dialled, Message::Keepalive);
    }
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least >= Duration::from_millis(2250) && *most <= Duration::from_secs(3));
    assert!(
        *most > *least + Duration::from_millis(500),
        "{least:?} to {most:?} is no jitter"
    );
}

#[test]
fn a_hold_time_of_zero_means_no_timers() {
    let open = Open {
        hold_time_s: 0,
        ..peer_open()
    };
    let mut world = World::new().brought_to(State::Established, open);
    assert_eq!(world.session.next_deadline(), None);
    assert_eq!(world.pass(100_000), Vec::<String>::new());
    assert_eq!(world.state(), State::Established);
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_after_eight_minutes() {
    let mut world = World::in_state(State::Established);
    let start = world.now;
    let outputs = loop {
        world.now += Duration::from_secs(3);
        world.hear(Origin::Dialled, Message::Keepalive);
        let outputs = world.feed(Input::Timer);
        if world.state() != State::Established {
            break outputs;
        }
    };
    assert_eq!(outputs[0], "NOTIFICATION 8/0 on dialled");
    assert_eq!(world.now - start, Duration::from_mins(8));
}

#[test]
fn a_peer_that_takes_a_byte_now_and_then_is_not() {
    let mut world = World::in_state(State::Established);
    for round in 0..1000 {
        world.now += Duration::from_secs(3);
        world.hear(Origin::Dialled, Message::Keepalive);
        if round % 100 == 0 {
            world.feed(Input::Taken(Origin::Dialled));
        }
        world.feed(Input::Timer);
    }
    assert_eq!(world.state(), State::Established);
}

#[test]
fn a_lost_connection_is_dialled_again_within_a_second() {
    let mut world = World::in_state(State::Established);
    assert_eq!(
        world.feed(Input::Closed(Origin::Dialled)),
        ["close dialled", "down"]
    );
    assert_eq!(world.state(), State::Active);
    let (waited, outputs) = world.wait();
    assert_eq!(outputs, ["dial"]);
    assert!(waited <= Duration::from_secs(1), "{waited:?}");
}

#[test]
fn a_peer_that_refuses_every_open_is_not_pestered() {
    let mut world = World::in_state(State::Idle);
    let start = world.now;
    let mut attempts = Vec::new();
    let mut outputs = world.feed(Input::Start);
    while attempts.len() < 12 {
        if outputs.contains(&"dial".to_owned()) {
            attempts.push((world.now - start).as_secs());
            world.feed(Input::Dialled(endpoints()));
            world.hear(Origin::Dialled, notification(2, 2));
            assert_eq!(world.state(), State::Idle);
            let refused = world.feed(Input::Accepted(endpoints()));
            assert_eq!(refused, ["reject with NOTIFICATION 6/5"]);
        }
        outputs = world.wait().1;
    }
    let early = attempts.iter().filter(|second| **second <= 30).count();
    assert!(early <= 5, "{attempts:?}");
    let gaps: Vec<u64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.last().is_some_and(|gap| (89..=120).contains(gap)),
        "{gaps:?}"
    );
}

#[test]
fn a_peer_that_accepts_the_open_and_refuses_what_follows_is_not_pestered_either() {
    let mut world = World::in_state(State::Idle);
    let start = world.now;
    let mut attempts = 0;
    let mut outputs = world.feed(Input::Start);
    while world.now - start < Duration::from_mins(1) {
        if outputs.contains(&"dial".to_owned()) {
            attempts += 1;
            world.feed(Input::Dialled(endpoints()));
            world.hear(Origin::Dialled, Message::Open(peer_open()));
            world.hear(Origin::Dialled, Message::Keepalive);
            assert_eq!(world.state(), State::Established);
            world.hear(Origin::Dialled, notification(6, 4));
        }
        outputs = world.wait().1;
    }
    assert!(attempts <= 6, "{attempts} attempts in a minute");
}

#[test]
fn a_session_that_has_lasted_makes_up_for_earlier_failures() {
    let mut world = World::in_state(State::Idle);
    world.feed(Input::Start);
    for _ in 0..8 {
        world.feed(Input::Dialled(endpoints()));
        world.hear(Origin::Dialled, notification(6, 5));
        assert_eq!(world.wait().1, ["dial"]);
    }
    world.feed(Input::Dialled(endpoints()));
    world.hear(Origin::Dialled, Message::Open(peer_open()));
    world.hear(Origin::Dialled, Message::Keepalive);
    for _ in 0..12 {
        world.pass(5);
        world.hear(Origin::Dialled, Message::Keepalive);
    }
    world.feed(Input::Closed(Origin::Dialled));
    assert!(world.wait().0 <= Duration::from_secs(1));
}

#[test]
fn a_passive_session_never_dials_and_waits_for_ever() {
    let mut config = peer_config();
    config.transport.initiative = Initiative::Passive;
    let mut world = World::with(config);
    assert_eq!(world.feed(Input::Start), Vec::<String>::new());
    assert_eq!(
        (world.state(), world.session.next_deadline()),
        (State::Active, None)
    );
    assert_eq!(
        world.feed(Input::Accepted(endpoints())),
        ["OPEN on accepted"]
    );
    world.feed(Input::Closed(Origin::Accepted));
    assert_eq!(
        (world.state(), world.session.next_deadline()),
        (State::Active, None)
    );
}

#[test]
fn a_dial_that_takes_too_long_is_given_up_and_tried_again() {
    let mut world = World::in_state(State::Connect);
    assert_eq!(
        world.wait(),
        (Duration::from_secs(10), vec!["cancel dial".to_owned()])
    );
    assert_eq!(world.wait().1, ["dial"]);
}

#[test]
fn capabilities_are_left_out_only_where_that_is_configured() {
    for (mode, expected) in [
        (RefusedCapabilities::Insist, Some(65010)),
        (RefusedCapabilities::DoWithout, None),
    ] {
        for (code, subcode) in [(2, 4), (2, 7)] {
            let mut config = peer_config();
            config.session.on_refused_capabilities = mode;
            let mut world = World::with(config).brought_to(State::OpenSent, peer_open());
            world.hear(Origin::Dialled, notification(code, subcode));
            world.wait();
            let open = sent_open(&mut world);
            assert_eq!(open.capabilities.four_octet_as, expected, "{mode:?}");
        }
    }
}

#[test]
fn only_a_new_process_says_that_it_has_restarted() {
    let restart = |open: Open| {
        open.capabilities
            .graceful_restart
            .expect("GR is on by default")
    };
    let mut world = World::in_state(State::Connect);
    let first = restart(sent_open(&mut world));
    assert!(first.has_restarted && first.covers_notification);
    assert_eq!(
        (first.restart_time_s, first.keeps_ipv4, first.keeps_ipv6),
        (120, Some(true), Some(true))
    );
    // A connection that came to nothing does not count.
    world.feed(Input::Closed(Origin::Dialled));
    world.wait();
    assert!(restart(sent_open(&mut world)).has_restarted);
    world.hear(Origin::Dialled, Message::Open(peer_open()));
    world.hear(Origin::Dialled, Message::Keepalive);
    world.feed(Input::Closed(Origin::Dialled));
    world.wait();
    assert!(!restart(sent_open(&mut world)).has_restarted);
}

#[test]
fn graceful_restart_can_be_switched_off() {
    let mut config = peer_config();
    config.session.graceful_restart = GracefulRestartMode::Off;
    let mut world = World::with(config).brought_to(State::Connect, peer_open());
    assert_eq!(sent_open(&mut world).capabilities.graceful_restart, None);
}

/// A peer that keeps routes over a NOTIFICATION.
fn keeping_open() -> Open {
    let mut open = peer_open();
    open.capabilities.graceful_restart = Some(crate::announce::bgp::wire::GracefulRestart {
        has_restarted: false,
        covers_notification: true,
        restart_time_s: 120,
        keeps_ipv4: None,
        keeps_ipv6: None,
    });
    open
}

#[test]
fn a_stop_that_drops_routes_is_a_hard_reset_where_a_plain_one_would_keep_them() {
    let farewell = |routes| Farewell::Cease {
        reason: Reason::AdministrativeShutdown,
        text: "maintenance".to_owned(),
        routes,
    };
    let rows = [
        ("keeps", keeping_open(), RouteFate::Dropped, "6/9"),
        ("keeps, and shall", keeping_open(), RouteFate::Kept, "6/2"),
        ("does not keep", peer_open(), RouteFate::Dropped, "6/2"),
    ];
    for (name, open, routes, expected) in rows {
        let mut world = World::new().brought_to(State::Established, open);
        let outputs = world.feed(Input::Stop(farewell(routes)));
        assert_eq!(
            outputs[0],
            format!("NOTIFICATION {expected} on dialled"),
            "{name}"
        );
        let sent = world.session.snapshot().last_sent.unwrap();
        assert_eq!(sent.reason, Reason::AdministrativeShutdown, "{name}");
        assert_eq!(sent.text.as_deref(), Some("maintenance"), "{name}");
    }
}

#[test]
fn a_dead_path_ends_the_session_at_once_and_is_tried_again_soon() {
    let rows = [
        ("keeps", keeping_open(), RouteFate::Kept, "6/10"),
        ("keeps, must not", keeping_open(), RouteFate::Dropped, "6/9"),
        ("does not keep", peer_open(), RouteFate::Dropped, "6/10"),
    ];
    for (name, open, routes, expected) in rows {
        let mut world = World::new().brought_to(State::Established, open);
        let outputs = world.feed(Input::PathDead(routes));
        let notification = format!("NOTIFICATION {expected} on dialled");
        assert_eq!(outputs, [&notification, "close dialled", "down"], "{name}");
        let sent = world.session.snapshot().last_sent.unwrap();
        assert_eq!(sent.reason, Reason::BfdDown, "{name}");
        let (waited, outputs) = world.wait();
        assert_eq!(outputs, ["dial"], "{name}");
        assert!(waited <= Duration::from_secs(1), "{name}: {waited:?}");
    }
}

#[test]
fn errors_of_both_directions_are_remembered_with_their_text() {
    let mut world = World::in_state(State::Established);
    let text = Notification::with_communication(Reason::AdministrativeReset, "line card swap");
    world.hear(Origin::Dialled, Message::Notification(text));
    let snapshot = world.session.snapshot();
    let received = snapshot.last_received.unwrap();
    assert_eq!(received.reason, Reason::AdministrativeReset);
    assert_eq!(received.text.as_deref(), Some("line card swap"));
    assert_eq!(snapshot.last_sent, None);
    assert_eq!(
        (snapshot.counters.established, snapshot.counters.lost),
        (1, 1)
    );
}

#[test]
fn what_ended_the_last_session_is_remembered() {
    type End = fn(&mut World);
    let rows: [(&str, End); 5] = [
        (
            "the connection was closed without a NOTIFICATION",
            |world| drop(world.feed(Input::Closed(Origin::Dialled))),
        ),
        ("received 6/4 administrative reset", |world| {
            drop(world.hear(Origin::Dialled, notification(6, 4)));
        }),
        ("sent 4/0 hold timer expired", |world| {
            drop(world.pass(90));
        }),
        ("sent 6/10 BFD down", |world| {
            drop(world.feed(Input::PathDead(RouteFate::Kept)));
        }),
        ("sent 6/3 peer de-configured", |world| {
            drop(world.feed(Input::Stop(Farewell::Cease {
                reason: Reason::PeerDeconfigured,
                text: String::new(),
                routes: RouteFate::Dropped,
            })));
        }),
    ];
    for (expected, end) in rows {
        let mut world = World::in_state(State::Established);
        assert_eq!(world.session.snapshot().last_loss, None);
        end(&mut world);
        let loss = world.session.snapshot().last_loss.expect(expected);
        assert_eq!(loss.to_string(), expected);
        // One that never came up is no loss.
        world.feed(Input::Closed(Origin::Dialled));
        assert_eq!(world.session.snapshot().last_loss, Some(loss));
    }
}

#[test]
fn unknown_capabilities_are_no_obstacle() {
    let mut open = peer_open();
    open.capabilities.unknown = 40;
    World::new().brought_to(State::Established, open);
}

#[test]
fn a_peer_that_rests_finds_us_ready_when_it_wakes() {
    let mut world = World::in_state(State::OpenSent);
    world.hear(Origin::Dialled, notification(6, 5));
    assert_eq!(world.state(), State::Active);
    assert_eq!(
        world.feed(Input::Accepted(endpoints())),
        ["OPEN on accepted"]
    );
}
