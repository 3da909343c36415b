//! Every input in every state (RFC 4271 §8.2.2): what comes out and where it leads.

use std::fmt::Write as _;

use super::*;
use crate::announce::bgp::wire::UpdateSummary;

/// All inputs there are. A new variant of [`Input`] or [`Message`] has to be added here.
fn inputs() -> Vec<(&'static str, Input<'static>)> {
    let on = |message| Input::Message(Origin::Dialled, message);
    let stop = Farewell::Cease {
        reason: Reason::AdministrativeShutdown,
        text: String::new(),
        routes: RouteFate::Dropped,
    };
    let inputs = vec![
        ("Start", Input::Start),
        ("Stop", Input::Stop(stop)),
        ("Stop silently", Input::Stop(Farewell::Silent)),
        ("Dialled", Input::Dialled(endpoints())),
        ("DialFailed", Input::DialFailed),
        ("Accepted", Input::Accepted(endpoints())),
        ("OPEN", on(Message::Open(peer_open()))),
        ("UPDATE", on(Message::Update(UpdateSummary::default()))),
        (
            "NOTIFICATION",
            on(Message::Notification(Notification::new(Reason::Cease))),
        ),
        ("KEEPALIVE", on(Message::Keepalive)),
        ("ROUTE-REFRESH", on(Message::RouteRefresh(None))),
        (
            "bad message",
            Input::BadMessage(Origin::Dialled, Notification::new(Reason::BadMessageType)),
        ),
        ("Closed", Input::Closed(Origin::Dialled)),
        ("Taken", Input::Taken(Origin::Dialled)),
        ("path dead", Input::PathDead(RouteFate::Dropped)),
        ("Timer", Input::Timer),
    ];
    for (_, input) in &inputs {
        match input {
            Input::Start
            | Input::Stop(Farewell::Silent | Farewell::Cease { .. })
            | Input::Dialled(_)
            | Input::DialFailed
            | Input::Accepted(_)
            | Input::Message(
                _,
                Message::Open(_)
                | Message::Update(_)
                | Message::Notification(_)
                | Message::Keepalive
                | Message::RouteRefresh(_),
            )
            | Input::BadMessage(..)
            | Input::Closed(_)
            | Input::Taken(_)
            | Input::PathDead(_)
            | Input::Timer => {}
        }
    }
    inputs
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// State, input, outputs, next state. The timer is fed at once: nothing has run out yet.
const TABLE: &str = include_str!("transitions.txt");

#[test]
fn every_input_in_every_state_leads_where_the_rfc_says() {
    let mut table = String::new();
    for state in STATES {
        for (name, input) in inputs() {
            let mut world = World::in_state(state);
            let outputs = world.feed(input).join(", ");
            let next = world.state().name();
            let outputs = if outputs.is_empty() { "-" } else { &outputs };
            writeln!(table, "{} | {name} | {outputs} | {next}", state.name()).unwrap();
        }
    }
    assert_eq!(table, TABLE);
}
