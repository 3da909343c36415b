//! A session in a world of its own: the test is the network, the peer and the clock.

mod behaviour;
mod collision;
mod random;
mod routes;
mod stream;
mod transitions;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::*;
use crate::announce::bgp::{
    config::PeerAs,
    route::{AttributeSet, Route},
    wire::{
        Capabilities, HEADER_LEN, Message, Open, Reason, SizeLimit, decode_body, decode_header,
    },
};

const OUR_ID: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const LOWER_ID: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const HIGHER_ID: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);

/// A session, the time, and what is said of its outputs.
struct World {
    session: Session,
    now: Instant,
}

fn identity() -> Identity {
    Identity {
        local_as: 65010,
        router_id: OUR_ID,
        hostname: "node1".to_owned(),
        restart_time: Duration::from_mins(2),
    }
}

fn peer_config() -> PeerConfig {
    PeerConfig::new("tor", [10, 99, 0, 1].into(), PeerAs::Number(65001))
}

fn endpoints() -> Endpoints {
    Endpoints {
        local: OUR_ID.into(),
        other_ipv4: None,
        other_ipv6: Some("fd99::2".parse().unwrap()),
        link_local: None,
    }
}

fn peer_open() -> Open {
    Open {
        asn: 65001,
        hold_time_s: 9,
        router_id: LOWER_ID,
        capabilities: Capabilities {
            multiprotocol: true,
            ipv4: true,
            ipv6: true,
            four_octet_as: Some(65001),
            route_refresh: true,
            ..Capabilities::default()
        },
    }
}

fn hosts(count: u32) -> RouteTable {
    let route = |index: u32| Route {
        prefix: IpAddr::from(Ipv4Addr::from(0xc000_0200 + index)).into(),
        attributes: AttributeSet::default(),
    };
    RouteTable::new((0..count).map(route), true)
}

impl World {
    fn new() -> Self {
        Self::with(peer_config())
    }

    fn with(config: PeerConfig) -> Self {
        Self::with_table(config, hosts(0))
    }

    fn with_table(config: PeerConfig, table: RouteTable) -> Self {
        let session = Session::new(identity(), config, table, 7);
        Self {
            session,
            now: Instant::now(),
        }
    }

    /// Feeds an input and tells what came out, one word for each output.
    fn feed(&mut self, input: Input<'_>) -> Vec<String> {
        self.session
            .process(input, self.now)
            .iter()
            .map(describe)
            .collect()
    }

    fn hear(&mut self, origin: Origin, message: Message<'_>) -> Vec<String> {
        self.feed(Input::Message(origin, message))
    }

    fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.feed(Input::Timer)
    }

    /// Lets time pass from deadline to deadline until something comes out.
    fn wait(&mut self) -> (Duration, Vec<String>) {
        let start = self.now;
        for _ in 0..100 {
            self.now = self
                .now
                .max(self.session.next_deadline().expect("some timer runs"));
            let outputs = self.feed(Input::Timer);
            if !outputs.is_empty() {
                return (self.now - start, outputs);
            }
        }
        panic!("timers run and nothing happens");
    }

    fn state(&self) -> State {
        self.session.state()
    }

    /// A world whose session is in a state, by way of a connection we dialled.
    fn in_state(state: State) -> Self {
        Self::new().brought_to(state, peer_open())
    }

    fn brought_to(mut self, state: State, open: Open) -> Self {
        if state != State::Idle {
            self.feed(Input::Start);
        }
        if state == State::Active {
            self.feed(Input::DialFailed);
        }
        if state >= State::OpenSent {
            self.feed(Input::Dialled(endpoints()));
        }
        if state >= State::OpenConfirm {
            self.hear(Origin::Dialled, Message::Open(open));
        }
        if state == State::Established {
            self.hear(Origin::Dialled, Message::Keepalive);
        }
        assert_eq!(self.state(), state);
        self
    }

    /// Everything the session has to say about routes.
    fn routes(&mut self, origin: Origin) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        while !self.session.is_settled() {
            let before = bytes.len();
            self.session.write_routes(origin, &mut bytes, usize::MAX);
            if bytes.len() == before {
                break;
            }
        }
        split(&bytes)
    }
}

/// Cuts bytes into messages.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((_, len)) = decode_header(bytes, SizeLimit::Extended).expect("good header") {
        let (message, rest) = bytes.split_at(len);
        messages.push(message.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty());
    messages
}

fn describe(output: &Output) -> String {
    let who = |origin: &Origin| match origin {
        Origin::Dialled => "dialled",
        Origin::Accepted => "accepted",
    };
    match output {
        Output::Dial => "dial".to_owned(),
        Output::CancelDial => "cancel dial".to_owned(),
        Output::Send(origin, bytes) => format!("{} on {}", name(bytes), who(origin)),
        Output::Close(origin) => format!("close {}", who(origin)),
        Output::Reject(_, bytes) if bytes.is_empty() => "reject".to_owned(),
        Output::Reject(_, bytes) => format!("reject with {}", name(bytes)),
        Output::Up(_) => "up".to_owned(),
        Output::Down => "down".to_owned(),
    }
}

fn name(bytes: &[u8]) -> String {
    let (message_type, len) = decode_header(bytes, SizeLimit::Extended).unwrap().unwrap();
    assert_eq!(len, bytes.len(), "one message at a time");
    match decode_body(message_type, &bytes[HEADER_LEN..]).unwrap() {
        Message::Open(_) => "OPEN".to_owned(),
        Message::Update(summary) => match summary.end_of_rib {
            Some(family) => format!("End-of-RIB {}", family.name()),
            None => format!("UPDATE +{} -{}", summary.announced, summary.withdrawn),
        },
        Message::Notification(notification) => {
            let (code, subcode) = notification.reason.to_wire();
            format!("NOTIFICATION {code}/{subcode}")
        }
        Message::Keepalive => "KEEPALIVE".to_owned(),
        Message::RouteRefresh(refresh) => format!("{:?}", refresh.unwrap().kind),
    }
}
