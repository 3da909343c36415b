//! Strategies: every kind of packet a NAT meets, and some that nobody sends on purpose. Boxed, because a
//! tree of all of them by value does not fit the stack of a test.

use eip_lab::plan::CLIENT;
use eip_oracle_tests::{
    Direction,
    packet::{Body, Case, Damage, Header, Order, Quote, Shape, Sum},
};
use proptest::{collection::vec, option, prelude::*};

/// Longest payload: with all options there may be, a packet still fits the wire.
const LONGEST: usize = 1380;

pub(crate) fn payload() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..80),
        1 => vec(any::<u8>(), 0..LONGEST),
    ]
    .boxed()
}

pub(crate) fn sum() -> BoxedStrategy<Sum> {
    prop_oneof![
        6 => Just(Sum::Right),
        1 => Just(Sum::Zero),
        1 => (1_u16..).prop_map(Sum::Wrong),
    ]
    .boxed()
}

pub(crate) fn ports() -> BoxedStrategy<(u16, u16)> {
    (1_u16.., 1_u16..).boxed()
}

/// IP options that a router has nothing to do about: padding, the security label of RFC 1108 and an
/// experimental one (RFC 4727). Routers write into records and timestamps, drop source routes, and
/// Linux clears what stands behind an end of the list: see `named`.
fn ip_options() -> BoxedStrategy<Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1, 1, 1, 1]),
        Just(vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        vec(any::<u8>(), 6).prop_map(|content| [vec![30, 8], content].concat()),
    ];
    prop_oneof![
        6 => Just(Vec::new()),
        1 => vec(option, 1..4).prop_map(|options| options.concat()),
    ]
    .boxed()
}

fn header() -> BoxedStrategy<Header> {
    let ttl = prop_oneof![6 => Just(64_u8), 1 => 0_u8..4, 1 => any::<u8>()];
    (any::<u8>(), any::<u16>(), any::<bool>(), ttl, ip_options())
        .prop_map(|(tos, id, dont_fragment, ttl, options)| Header {
            tos,
            id,
            dont_fragment,
            ttl,
            options,
        })
        .boxed()
}

/// A header that no router stops.
fn sound_header() -> BoxedStrategy<Header> {
    (header(), 8_u8..)
        .prop_map(|(header, ttl)| Header { ttl, ..header })
        .boxed()
}

pub(crate) fn udp() -> BoxedStrategy<Body> {
    let lite = prop_oneof![5 => Just(false), 1 => Just(true)];
    (lite, ports(), sum(), payload())
        .prop_map(|(lite, ports, sum, payload)| Body::Udp {
            lite,
            ports,
            sum,
            payload,
        })
        .boxed()
}

pub(crate) fn tcp() -> BoxedStrategy<Body> {
    let flags = prop_oneof![
        4 => Just(0x02_u8),
        2 => Just(0x10),
        1 => prop_oneof![Just(0x18_u8), Just(0x11), Just(0x14), Just(0x12), Just(0xc2)],
        1 => any::<u8>(),
    ];
    let options = prop_oneof![
        Just(Vec::new()),
        Just(vec![2, 4, 5, 180]),
        Just(vec![
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7
        ]),
    ];
    (ports(), flags, options, sum(), payload())
        .prop_map(|(ports, flags, options, sum, payload)| Body::Tcp {
            ports,
            flags,
            options,
            sum,
            payload,
        })
        .boxed()
}

fn icmp() -> BoxedStrategy<Body> {
    // Echo, timestamp, information and mask; some that only conntrack has an opinion about.
    let kind = prop_oneof![
        6 => Just((8_u8, 0_u8)),
        1 => Just((13, 0)),
        1 => Just((15, 0)),
        1 => Just((17, 0)),
        1 => (prop_oneof![Just(0_u8), Just(14), 20_u8..], any::<u8>()),
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

pub(crate) fn sctp() -> BoxedStrategy<Body> {
    // INIT, DATA, HEARTBEAT, ABORT; an INIT has 16 bytes at least.
    let chunk = prop_oneof![4 => Just(1_u8), 1 => Just(0), 1 => Just(4), 1 => Just(6)];
    (ports(), chunk, vec(any::<[u8; 4]>(), 4..40))
        .prop_map(|(ports, chunk, words)| Body::Sctp {
            ports,
            chunk,
            content: words.concat(),
        })
        .boxed()
}

pub(crate) fn raw() -> BoxedStrategy<Body> {
    // IPIP, DCCP, GRE, ESP, AH, OSPF, L2TP, and whatever.
    let protocol = prop_oneof![
        Just(4_u8),
        Just(33),
        Just(47),
        Just(50),
        Just(51),
        Just(89),
        Just(115),
        any::<u8>(),
    ];
    (protocol, payload())
        .prop_map(|(protocol, bytes)| Body::Raw { protocol, bytes })
        .boxed()
}

fn body() -> BoxedStrategy<Body> {
    prop_oneof![4 => udp(), 4 => tcp(), 2 => icmp(), 1 => sctp(), 2 => raw()].boxed()
}

fn quote() -> BoxedStrategy<Quote> {
    let quoted = prop_oneof![3 => Just(8_usize), 2 => 0_usize..40, 1 => 0_usize..548];
    let extension = option::weighted(0.2, vec(any::<[u8; 4]>(), 1..8));
    let was_sent = prop_oneof![5 => Just(true), 1 => Just(false)];
    (sound_header(), body(), quoted, extension, was_sent)
        .prop_map(|(header, body, quoted, extension, was_sent)| Quote {
            header,
            body,
            quoted,
            extension: extension.map(|words| words.concat()),
            was_sent,
        })
        .boxed()
}

fn error() -> BoxedStrategy<Shape> {
    let kind = prop_oneof![
        4 => (Just(3_u8), 0_u8..16),
        1 => Just((4, 0)),
        1 => (Just(5_u8), 0_u8..4),
        3 => (Just(11_u8), 0_u8..2),
        1 => (Just(12_u8), 0_u8..3),
    ];
    (header(), kind, any::<[u8; 4]>(), quote())
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
        let request = plain((8, 0), rest, payload.clone());
        Shape::Reply(request, header, plain((0, 0), rest, payload))
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
    let body = prop_oneof![3 => udp(), 1 => icmp(), 1 => tcp(), 1 => raw()];
    let order = prop_oneof![
        3 => Just(Order::Forward),
        2 => Just(Order::Backward),
        1 => Just(Order::Repeated),
    ];
    (sound_header(), body, 1_usize..40, order)
        .prop_map(|(header, body, words, order)| {
            let header = Header {
                dont_fragment: false,
                ..header
            };
            Shape::Fragmented(header, body, words * 8, order)
        })
        .boxed()
}

fn damage() -> BoxedStrategy<Damage> {
    prop_oneof![
        6 => Just(Damage::None),
        1 => (1_usize..30).prop_map(Damage::Padding),
        1 => (1_usize..60).prop_map(Damage::Truncated),
        1 => (any::<u16>(), 1_u8..).prop_map(|(at, bits)| Damage::Flipped(at.into(), bits)),
    ]
    .boxed()
}

/// Any case.
pub(crate) fn case() -> BoxedStrategy<Case> {
    let shape = prop_oneof![
        8 => (header(), body()).prop_map(|(header, body)| Shape::Whole(header, body)),
        4 => error(),
        2 => reply(),
        3 => fragmented(),
    ];
    let direction = prop_oneof![Just(Direction::Inward), Just(Direction::Outward)];
    // Any host of the network for benchmarks (RFC 2544): addresses change the sums.
    let peer = prop_oneof![
        Just(CLIENT.v4.octets()),
        any::<[u8; 2]>().prop_map(|host| [198, 18, host[0], host[1]]),
    ];
    (direction, 0_usize..2, peer, shape, damage())
        .prop_map(|(direction, guest, peer, shape, damage)| Case {
            direction,
            guest,
            peer,
            shape,
            damage,
        })
        .boxed()
}
