//! Two connections at once (RFC 4271 §6.8, RFC 6286 §2.3), in both orders and with every outcome.

use super::*;

/// Both connections are open, no OPEN has arrived.
fn both_open() -> World {
    let mut world = World::in_state(State::Connect);
    assert_eq!(
        world.feed(Input::Accepted(endpoints())),
        ["OPEN on accepted"]
    );
    assert_eq!(world.feed(Input::Dialled(endpoints())), ["OPEN on dialled"]);
    world
}

fn open_from(router_id: Ipv4Addr) -> Message<'static> {
    Message::Open(Open {
        router_id,
        ..peer_open()
    })
}

#[test]
fn the_connection_of_the_side_with_the_higher_identifier_stays() {
    let rows = [
        ("ours is higher", LOWER_ID, Origin::Dialled),
        ("the peer's is higher", HIGHER_ID, Origin::Accepted),
    ];
    for (name, peer_id, winner) in rows {
        for first in Origin::ALL {
            let mut world = both_open();
            let mut outputs = world.hear(first, open_from(peer_id));
            outputs.extend(world.hear(first.other(), open_from(peer_id)));
            let loser = if winner == Origin::Dialled {
                "accepted"
            } else {
                "dialled"
            };
            let cease = format!("NOTIFICATION 6/7 on {loser}");
            assert!(
                outputs.contains(&cease),
                "{name}, {first:?} first: {outputs:?}"
            );
            assert!(
                outputs.contains(&format!("close {loser}")),
                "{name}, {first:?} first"
            );
            assert_eq!(
                world.hear(winner, Message::Keepalive),
                ["up"],
                "{name}, {first:?} first"
            );
        }
    }
}

#[test]
fn with_equal_identifiers_the_higher_as_wins() {
    for (asn, loser) in [(64999, "accepted"), (65011, "dialled")] {
        let mut config = peer_config();
        config.session.peer_as = PeerAs::External;
        let mut world = World::with(config).brought_to(State::Connect, peer_open());
        world.feed(Input::Accepted(endpoints()));
        world.feed(Input::Dialled(endpoints()));
        let open = Message::Open(Open {
            asn,
            router_id: OUR_ID,
            ..peer_open()
        });
        let mut outputs = world.hear(Origin::Dialled, open.clone());
        outputs.extend(world.hear(Origin::Accepted, open));
        assert!(
            outputs.contains(&format!("close {loser}")),
            "AS {asn}: {outputs:?}"
        );
    }
}

#[test]
fn an_established_session_wins_whatever_the_identifiers_say() {
    let mut world = both_open();
    world.hear(Origin::Dialled, open_from(HIGHER_ID));
    world.hear(Origin::Dialled, Message::Keepalive);
    assert_eq!(world.state(), State::Established);
    let outputs = world.feed(Input::Accepted(endpoints()));
    assert_eq!(
        outputs,
        ["reject with NOTIFICATION 6/7", "KEEPALIVE on dialled"]
    );
    assert_eq!(world.state(), State::Established);
}

#[test]
fn the_session_that_comes_up_first_takes_the_dial_back() {
    let mut world = World::in_state(State::Connect);
    world.feed(Input::Accepted(endpoints()));
    world.hear(Origin::Accepted, open_from(HIGHER_ID));
    let outputs = world.hear(Origin::Accepted, Message::Keepalive);
    assert_eq!(outputs, ["cancel dial", "up"]);
    // It came up all the same, between the two.
    assert_eq!(world.feed(Input::Dialled(endpoints())), ["reject"]);
    assert_eq!(world.state(), State::Established);
}

#[test]
fn the_end_of_the_loser_is_no_setback_for_the_winner() {
    let mut world = both_open();
    world.hear(Origin::Accepted, open_from(HIGHER_ID));
    let cease = Message::Notification(Notification::new(Reason::ConnectionCollision));
    world.hear(Origin::Dialled, cease);
    assert_eq!(world.hear(Origin::Accepted, Message::Keepalive), ["up"]);
    assert_eq!(world.session.snapshot().last_received, None);
}

#[test]
fn when_the_winner_dies_the_session_is_tried_again() {
    let mut world = both_open();
    world.hear(Origin::Dialled, open_from(HIGHER_ID));
    world.hear(Origin::Accepted, open_from(HIGHER_ID));
    world.feed(Input::Closed(Origin::Accepted));
    assert_eq!(world.state(), State::Active);
    assert_eq!(world.wait().1, ["dial"]);
}

#[test]
fn a_second_connection_of_the_peer_replaces_one_that_is_not_up() {
    let mut world = World::in_state(State::Connect);
    world.feed(Input::Accepted(endpoints()));
    let outputs = world.feed(Input::Accepted(endpoints()));
    assert_eq!(outputs, ["close accepted", "OPEN on accepted"]);
}

#[test]
fn a_timer_runs_after_every_end_of_a_collision() {
    for first in Origin::ALL {
        for lost in Origin::ALL {
            for peer_id in [LOWER_ID, HIGHER_ID] {
                let mut world = both_open();
                world.hear(first, open_from(peer_id));
                world.feed(Input::Closed(lost));
                world.feed(Input::Closed(lost.other()));
                assert!(
                    world.session.next_deadline().is_some(),
                    "{first:?} {lost:?} {peer_id}"
                );
            }
        }
    }
}
