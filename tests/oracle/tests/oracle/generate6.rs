//! Strategies for IPv6: what `generate` has for IPv4, with extension headers instead of options.

use eip_lab::plan::CLIENT;
use eip_oracle_tests::{
    Direction,
    packet::{Body, Damage, Order, Sum},
    six::packet::{Case, Extension, Header, Quote, Shape},
};
use proptest::{collection::vec, prelude::*};

use crate::generate::{payload, ports, raw, sctp, sum, tcp, udp};

/// Options that a router has nothing to do about: padding, and an experimental one to be skipped where it
/// is not known (RFC 4727).
fn options() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        Just(vec![1, 4, 0, 0, 0, 0]),
        Just(vec![0, 0, 1, 2, 0, 0]),
        any::<[u8; 4]>().prop_map(|content| [&[0x1e, 4], &content[..]].concat()),
        any::<[u8; 12]>().prop_map(|content| [&[0x1e, 12], &content[..]].concat()),
    ]
    .boxed()
}

/// In an order RFC 8200 section 4.1 knows; hop-by-hop options stand first or nowhere.
fn extensions() -> BoxedStrategy<Vec<Extension>> {
    let first = proptest::option::weighted(0.3, options().prop_map(Extension::HopByHop));
    let other = prop_oneof![
        4 => options().prop_map(Extension::Destination),
        2 => Just(Extension::Routing(0)),
        1 => Just(Extension::Authentication),
    ];
    let some = (first, vec(other, 0..4))
        .prop_map(|(first, others)| first.into_iter().chain(others).collect());
    prop_oneof![3 => Just(Vec::new()), 2 => some].boxed()
}

fn header() -> BoxedStrategy<Header> {
    let hop_limit = prop_oneof![6 => Just(64_u8), 1 => 0_u8..4, 1 => any::<u8>()];
    (any::<u8>(), any::<u32>(), hop_limit, extensions())
        .prop_map(|(class, flow, hop_limit, extensions)| Header {
            class,
            flow,
            hop_limit,
            extensions,
        })
        .boxed()
}

/// A header that no router stops.
fn sound_header() -> BoxedStrategy<Header> {
    (header(), 8_u8..)
        .prop_map(|(header, hop_limit)| Header {
            hop_limit,
            ..header
        })
        .boxed()
}

fn icmp() -> BoxedStrategy<Body> {
    // Echo requests; node information, and types nobody has assigned.
    let kind = prop_oneof![
        6 => Just((128_u8, 0_u8)),
        1 => Just((139, 0)),
        1 => (200_u8..=254, any::<u8>()),
    ];
    (kind, any::<[u8; 4]>(), sum(), payload())
        .prop_map(|(kind, rest, sum, payload)| Body::Icmp {
            kind,
            rest,
            sum,
            payload,
        })
        .boxed()
}

/// Any protocol but those that stand for extension headers, or mean another thing in IPv6.
fn other() -> BoxedStrategy<Body> {
    raw()
        .prop_filter("an extension header or ICMPv6", |body| {
            !matches!(
                body.protocol(),
                0 | 43 | 44 | 51 | 58 | 60 | 135 | 139 | 140
            )
        })
        .boxed()
}

fn body() -> BoxedStrategy<Body> {
    prop_oneof![4 => udp(), 4 => tcp(), 2 => icmp(), 1 => sctp(), 2 => other()].boxed()
}

fn error() -> BoxedStrategy<Shape> {
    let kind = prop_oneof![
        4 => (Just(1_u8), 0_u8..7),
        3 => Just((2, 0)),
        3 => (Just(3_u8), 0_u8..2),
        1 => (Just(4_u8), 0_u8..3),
    ];
    let quoted = prop_oneof![3 => Just(8_usize), 2 => 0_usize..60, 1 => 0_usize..1100];
    let was_sent = prop_oneof![5 => Just(true), 1 => Just(false)];
    let quote =
        (sound_header(), body(), quoted, was_sent).prop_map(|(header, body, quoted, was_sent)| {
            Quote {
                header,
                body,
                quoted,
                was_sent,
            }
        });
    (header(), kind, any::<[u8; 4]>(), quote)
        .prop_map(|(header, kind, rest, quote)| Shape::Error(header, kind, rest, quote))
        .boxed()
}

/// Replies that conntrack only knows after their request.
fn reply() -> BoxedStrategy<Shape> {
    let plain = |kind, rest, payload| Body::Icmp {
        kind,
        rest,
        sum: Sum::Right,
        payload,
    };
    let echo = (any::<[u8; 4]>(), payload(), header()).prop_map(move |(rest, payload, header)| {
        let request = plain((128, 0), rest, payload.clone());
        Shape::Reply(request, header, plain((129, 0), rest, payload))
    });
    let opened = (ports(), header(), payload()).prop_map(|(ports, header, payload)| {
        let segment = |ports, flags, payload| Body::Tcp {
            ports,
            flags,
            options: Vec::new(),
            sum: Sum::Right,
            payload,
        };
        let back = (ports.1, ports.0);
        Shape::Reply(
            segment(ports, 0x02, Vec::new()),
            header,
            segment(back, 0x12, payload),
        )
    });
    prop_oneof![echo, opened].boxed()
}

fn fragmented() -> BoxedStrategy<Shape> {
    let body = prop_oneof![3 => udp(), 1 => icmp(), 1 => tcp(), 1 => other()];
    let order = prop_oneof![
        3 => Just(Order::Forward),
        2 => Just(Order::Backward),
        1 => Just(Order::Repeated),
    ];
    (sound_header(), body, 1_usize..40, order)
        .prop_map(|(header, body, words, order)| Shape::Fragmented(header, body, words * 8, order))
        .boxed()
}

fn whole() -> BoxedStrategy<Shape> {
    let atomic = prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)];
    (header(), body(), atomic)
        .prop_map(|(mut header, body, atomic)| {
            header.extensions.extend(atomic.map(Extension::Atomic));
            Shape::Whole(header, body)
        })
        .boxed()
}

/// Any case.
pub(crate) fn case() -> BoxedStrategy<Case> {
    let shape = prop_oneof![8 => whole(), 4 => error(), 2 => reply(), 3 => fragmented()];
    let direction = prop_oneof![Just(Direction::Inward), Just(Direction::Outward)];
    // Any host of the network for benchmarks (RFC 5180): addresses change the sums.
    let peer = prop_oneof![
        Just(CLIENT.v6.octets()),
        any::<[u8; 10]>().prop_map(|host| {
            let mut address = [0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            address[6..].copy_from_slice(&host);
            address
        }),
    ];
    let damage = prop_oneof![
        6 => Just(Damage::None),
        1 => (1_usize..30).prop_map(Damage::Padding),
        1 => (1_usize..80).prop_map(Damage::Truncated),
    ];
    (direction, 0_usize..2, peer, shape, damage)
        .prop_map(|(direction, guest, peer, shape, damage)| Case {
            direction,
            guest,
            peer,
            shape,
            damage,
        })
        .boxed()
}
