//! Strategies: every kind of packet a NAT meets, and some that nobody sends on purpose. Boxed, because a
//! tree of all of them by value does not fit the stack of a test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eip_lab::plan::{CLIENT, Family};
use eip_oracle_tests::{
    Path, Place,
    case::{Case, Damage, Quote, Shape},
    packet::{Body, Extension, Header, Net, Order, Sum, chained},
};
use proptest::{collection::vec, option, prelude::*};

/// Longest payload: with all options there may be, a packet still fits the wire.
const LONGEST: usize = 1380;

fn payload() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..80),
        1 => vec(any::<u8>(), 0..LONGEST),
    ]
    .boxed()
}

fn sum() -> BoxedStrategy<Sum> {
    prop_oneof![
        6 => Just(Sum::Right),
        1 => Just(Sum::Zero),
        1 => (1_u16..).prop_map(Sum::Wrong),
    ]
    .boxed()
}

fn ports() -> BoxedStrategy<(u16, u16)> {
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

/// Options of IPv6 that a router has nothing to do about: padding, and an experimental one to be skipped
/// where it is not known (RFC 4727).
fn ipv6_options() -> BoxedStrategy<Vec<u8>> {
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
    let first = option::weighted(0.3, ipv6_options().prop_map(Extension::HopByHop));
    let other = prop_oneof![
        4 => ipv6_options().prop_map(Extension::Destination),
        2 => Just(Extension::Routing(0)),
        1 => Just(Extension::Authentication),
    ];
    let some = (first, vec(other, 0..4))
        .prop_map(|(first, others)| first.into_iter().chain(others).collect());
    prop_oneof![3 => Just(Vec::new()), 2 => some].boxed()
}

fn net(family: Family) -> BoxedStrategy<Net> {
    match family {
        Family::V4 => (any::<bool>(), ip_options())
            .prop_map(|(dont_fragment, options)| Net::V4 {
                dont_fragment,
                options,
            })
            .boxed(),
        Family::V6 => (any::<u32>(), extensions())
            .prop_map(|(flow, extensions)| Net::V6 { flow, extensions })
            .boxed(),
    }
}

fn header(family: Family) -> BoxedStrategy<Header> {
    let ttl = prop_oneof![6 => Just(64_u8), 1 => 0_u8..4, 1 => any::<u8>()];
    (any::<u8>(), ttl, any::<u32>(), net(family))
        .prop_map(|(tos, ttl, id, net)| Header { tos, ttl, id, net })
        .boxed()
}

/// A header that no router stops.
fn sound_header(family: Family) -> BoxedStrategy<Header> {
    (header(family), 8_u8..)
        .prop_map(|(header, ttl)| Header { ttl, ..header })
        .boxed()
}

fn udp() -> BoxedStrategy<Body> {
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

fn tcp() -> BoxedStrategy<Body> {
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

/// Queries, and some types that only conntrack has an opinion about.
fn icmp(family: Family) -> BoxedStrategy<Body> {
    let kind = match family {
        // Echo, timestamp, information and mask.
        Family::V4 => prop_oneof![
            6 => Just((8_u8, 0_u8)),
            1 => Just((13, 0)),
            1 => Just((15, 0)),
            1 => Just((17, 0)),
            1 => (prop_oneof![Just(0_u8), Just(14), 20_u8..], any::<u8>()),
        ]
        .boxed(),
        // Echo requests; node information, and types nobody has assigned.
        Family::V6 => prop_oneof![
            6 => Just((128_u8, 0_u8)),
            1 => Just((139, 0)),
            1 => (200_u8..=254, any::<u8>()),
        ]
        .boxed(),
    };
    (kind, any::<[u8; 4]>(), sum(), payload())
        .prop_map(|(kind, rest, sum, payload)| Body::Icmp {
            kind,
            rest,
            sum,
            payload,
        })
        .boxed()
}

fn sctp() -> BoxedStrategy<Body> {
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

/// IPIP, DCCP, GRE, ESP, AH, OSPF, L2TP, and whatever; in IPv6 but those that stand for extension headers, or
/// mean another thing there.
fn raw(family: Family) -> BoxedStrategy<Body> {
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
    let protocol = protocol.prop_filter("an extension header or ICMPv6", move |protocol| {
        let means_more = matches!(protocol, 0 | 43 | 44 | 51 | 58 | 60 | 135 | 139 | 140);
        family == Family::V4 || !means_more
    });
    (protocol, payload())
        .prop_map(|(protocol, bytes)| Body::Raw { protocol, bytes })
        .boxed()
}

fn body(family: Family) -> BoxedStrategy<Body> {
    prop_oneof![4 => udp(), 4 => tcp(), 2 => icmp(family), 1 => sctp(), 2 => raw(family)].boxed()
}

fn quote(family: Family) -> BoxedStrategy<Quote> {
    let longest = match family {
        Family::V4 => 548_usize,
        Family::V6 => 1100,
    };
    let quoted = prop_oneof![3 => Just(8_usize), 2 => 0_usize..60, 1 => 0..longest];
    let extension = option::weighted(0.2, vec(any::<[u8; 4]>(), 1..8));
    let was_sent = prop_oneof![5 => Just(true), 1 => Just(false)];
    (
        sound_header(family),
        body(family),
        quoted,
        extension,
        was_sent,
    )
        .prop_map(|(header, body, quoted, extension, was_sent)| Quote {
            header,
            body,
            quoted,
            extension: extension.map(|words| words.concat()),
            was_sent,
        })
        .boxed()
}

fn error(family: Family) -> BoxedStrategy<Shape> {
    let kind = match family {
        Family::V4 => prop_oneof![
            4 => (Just(3_u8), 0_u8..16),
            1 => Just((4, 0)),
            1 => (Just(5_u8), 0_u8..4),
            3 => (Just(11_u8), 0_u8..2),
            1 => (Just(12_u8), 0_u8..3),
        ]
        .boxed(),
        Family::V6 => prop_oneof![
            4 => (Just(1_u8), 0_u8..7),
            3 => Just((2, 0)),
            3 => (Just(3_u8), 0_u8..2),
            1 => (Just(4_u8), 0_u8..3),
        ]
        .boxed(),
    };
    (header(family), kind, any::<[u8; 4]>(), quote(family))
        .prop_map(|(header, kind, rest, quote)| Shape::Error(header, kind, rest, quote))
        .boxed()
}

/// Replies that conntrack only knows after their request.
fn reply(family: Family) -> BoxedStrategy<Shape> {
    let (asked, answered) = match family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    };
    let plain = |kind, rest, payload| Body::Icmp {
        kind: (kind, 0),
        rest,
        sum: Sum::Right,
        payload,
    };
    let echo =
        (any::<[u8; 4]>(), payload(), header(family)).prop_map(move |(rest, payload, header)| {
            let request = plain(asked, rest, payload.clone());
            Shape::Reply(request, header, plain(answered, rest, payload))
        });
    let opened = (ports(), header(family), payload()).prop_map(|(ports, header, payload)| {
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

fn fragmented(family: Family) -> BoxedStrategy<Shape> {
    let body = prop_oneof![3 => udp(), 1 => icmp(family), 1 => tcp(), 1 => raw(family)];
    let order = prop_oneof![
        3 => Just(Order::Forward),
        2 => Just(Order::Backward),
        1 => Just(Order::Repeated),
    ];
    (sound_header(family), body, 1_usize..40, order)
        .prop_map(|(mut header, body, words, order)| {
            header.allow_fragments();
            Shape::Fragmented(header, body, words * 8, order)
        })
        .boxed()
}

fn whole(family: Family) -> BoxedStrategy<Shape> {
    let atomic = option::weighted(0.1, any::<u32>().prop_map(Extension::Atomic));
    (header(family), body(family), atomic)
        .prop_map(|(mut header, body, atomic)| {
            if let Net::V6 { extensions, .. } = &mut header.net {
                extensions.extend(atomic);
            }
            Shape::Whole(header, body)
        })
        .boxed()
}

fn damage() -> BoxedStrategy<Damage> {
    prop_oneof![
        6 => Just(Damage::None),
        1 => (1_usize..30).prop_map(Damage::Padding),
        1 => (1_usize..80).prop_map(Damage::Truncated),
        1 => prop_oneof![0_u16..0x1000, (0_u16..8).prop_map(|priority| priority << 13)]
            .prop_map(Damage::Tagged),
        1 => (any::<u16>(), 1_u8..).prop_map(|(at, bits)| Damage::Flipped(at.into(), bits)),
    ]
    .boxed()
}

/// Any host of the network for benchmarks (RFC 2544, RFC 5180): addresses change the sums.
fn stranger(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<[u8; 2]>()
            .prop_map(|host| Ipv4Addr::new(198, 18, host[0], host[1]).into())
            .boxed(),
        Family::V6 => any::<[u8; 10]>()
            .prop_map(|host| {
                let mut address = [0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                address[6..].copy_from_slice(&host);
                Ipv6Addr::from(address).into()
            })
            .boxed(),
    }
}

fn case(family: Family, path: BoxedStrategy<Path>) -> BoxedStrategy<Case> {
    let shape = prop_oneof![
        8 => whole(family),
        4 => error(family),
        2 => reply(family),
        3 => fragmented(family),
    ];
    let peer = prop_oneof![Just(CLIENT.of(family)), stranger(family)];
    (path, peer, shape, damage())
        .prop_map(|(path, peer, shape, damage)| Case {
            path,
            peer,
            shape,
            damage,
        })
        .boxed()
}

/// Anything between the network and a VM.
pub(crate) fn any_case(family: Family) -> BoxedStrategy<Case> {
    let paths = Path::everywhere().collect::<Vec<_>>();
    case(family, prop::sample::select(paths).boxed())
}

/// Anything between two VMs of the node, each of which knows the other one's EIP.
pub(crate) fn between_vms(family: Family) -> BoxedStrategy<Case> {
    let [one, other] = Place::VMS;
    let path = Path {
        from: one,
        to: other,
    };
    case(
        family,
        prop::sample::select(vec![path, path.turned()]).boxed(),
    )
}

/// Conversations with a VM that has three EIPs: begun from outside with any of them, or by the VM, which has to
/// be known by its primary.
pub(crate) fn with_many_eips(family: Family) -> BoxedStrategy<Case> {
    (any_case(family), 0_usize..3)
        .prop_map(|(mut case, eip)| {
            let begins_inside = match &case.shape {
                Shape::Whole(..) | Shape::Fragmented(..) => case.path.to == Place::Outside,
                Shape::Reply(..) => case.path.from == Place::Outside,
                // An error about a packet that nobody has seen is nobody's conversation.
                Shape::Error(.., quote) if quote.was_sent => case.path.from == Place::Outside,
                Shape::Error(..) => true,
            };
            if let Shape::Error(.., quote) = &mut case.shape {
                // Without ports nothing tells which EIP the packet came by.
                let before = match &quote.header.net {
                    Net::V4 { .. } => 0,
                    Net::V6 { extensions, .. } => chained(extensions, 0).1.len(),
                };
                quote.quoted = quote.quoted.max(before + 8);
            }
            let vm = Place::Vm(0, if begins_inside { 0 } else { eip });
            case.path = match case.path.from {
                Place::Outside => Path::inward(vm),
                Place::Vm(..) => Path::outward(vm),
            };
            case
        })
        .boxed()
}
