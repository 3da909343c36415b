//! A peer that sends whatever it likes: good messages, damaged ones and noise, cut anywhere. The
//! session answers or ignores, and always finds its way back.

use proptest::prelude::*;

use super::*;
use crate::announce::bgp::wire::{Family, Framer, RefreshKind, RouteRefresh, encode_keepalive};

#[derive(Debug, Clone)]
enum Part {
    Open,
    Keepalive,
    Update(Vec<u8>),
    Notification(u8, u8, Vec<u8>),
    Refresh(bool),
    Noise(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Open => peer_open().encode("tor", &mut bytes),
            Self::Keepalive => encode_keepalive(&mut bytes),
            Self::Update(body) => {
                encode_keepalive(&mut bytes);
                bytes.extend_from_slice(body);
                let len = u16::try_from(bytes.len()).unwrap();
                bytes[16..18].copy_from_slice(&len.to_be_bytes());
                bytes[18] = 2;
            }
            Self::Notification(code, subcode, data) => {
                let reason = Reason::from_wire(*code, *subcode);
                Notification::with_data(reason, data).encode(&mut bytes);
            }
            Self::Refresh(is_begin) => RouteRefresh {
                family: Family::Ipv4,
                kind: if *is_begin {
                    RefreshKind::Begin
                } else {
                    RefreshKind::Request
                },
            }
            .encode(&mut bytes),
            Self::Noise(noise) => bytes.extend_from_slice(noise),
        }
        bytes
    }
}

fn part() -> impl Strategy<Value = Part> {
    let some = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        4 => Just(Part::Open),
        4 => Just(Part::Keepalive),
        2 => some(60).prop_map(Part::Update),
        1 => (1..9_u8, 0..12_u8, some(40)).prop_map(|(c, s, d)| Part::Notification(c, s, d)),
        1 => any::<bool>().prop_map(Part::Refresh),
        1 => some(60).prop_map(Part::Noise),
    ]
}

/// One byte of a stream that is not what it was.
type Damage = Option<(prop::sample::Index, u8)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_stream_leaves_a_session_without_a_way_on(
        parts in prop::collection::vec(part(), 0..24),
        damage in prop::option::weighted(0.5, (any::<prop::sample::Index>(), any::<u8>())),
        cut in 1..200_usize,
    ) {
        let mut stream: Vec<u8> = parts.iter().flat_map(Part::bytes).collect();
        let damage: Damage = damage;
        if let (Some((at, value)), false) = (damage, stream.is_empty()) {
            let at = at.index(stream.len());
            stream[at] = value;
        }
        let mut world = World::in_state(State::OpenSent);
        let mut framer = Framer::default();
        let capacity = framer.space().len();
        for chunk in stream.chunks(cut) {
            let space = framer.space();
            space[..chunk.len()].copy_from_slice(chunk);
            framer.advance(chunk.len());
            let mut is_closed = false;
            while !is_closed {
                let outputs = match framer.next_message() {
                    Ok(None) => break,
                    Ok(Some(message)) => world.hear(Origin::Dialled, message),
                    Err(error) => world.feed(Input::BadMessage(Origin::Dialled, error)),
                };
                is_closed = outputs.iter().any(|output| output == "close dialled");
            }
            if is_closed {
                prop_assert!(world.session.next_deadline().is_some(), "it will try again");
                // The next connection is met in time, and is a new stream.
                let mut waits = 0;
                while world.state() != State::Connect {
                    world.wait();
                    waits += 1;
                    prop_assert!(waits < 10);
                }
                world.feed(Input::Dialled(endpoints()));
                framer = Framer::default();
            }
            prop_assert!(framer.space().len() >= capacity - 4096, "the buffer is not used up");
        }
        prop_assert!(world.state() >= State::OpenSent);
    }
}
