//! Differences that were found in IPv6, and those that are meant: each with a name.

use eip_lab::plan::CLIENT;
use eip_oracle_tests::{
    Direction, Step,
    chain::GUESTS,
    compare::Judge,
    packet::{Body, Damage, Order, Sum},
    six::{
        model,
        packet::{Case, Extension, Header, Quote, Shape, whole},
    },
};

use crate::support::Pair;

const BOTH: [Direction; 2] = [Direction::Inward, Direction::Outward];

/// A case between a VM and the client.
fn case(direction: Direction, guest: usize, shape: Shape) -> Case {
    Case {
        direction,
        guest,
        peer: CLIENT.v6.octets(),
        shape,
        damage: Damage::None,
    }
}

fn udp(payload: Vec<u8>) -> Body {
    Body::Udp {
        lite: false,
        ports: (4444, 53),
        sum: Sum::Right,
        payload,
    }
}

fn tcp(payload: Vec<u8>) -> Body {
    Body::Tcp {
        ports: (4444, 80),
        flags: 0x02,
        options: Vec::new(),
        sum: Sum::Right,
        payload,
    }
}

fn everywhere() -> impl Iterator<Item = (Direction, usize)> {
    BOTH.into_iter()
        .flat_map(|direction| (0..GUESTS.len()).map(move |guest| (direction, guest)))
}

fn with(extensions: Vec<Extension>) -> Header {
    Header {
        extensions,
        ..Header::default()
    }
}

fn padding() -> Extension {
    Extension::Destination(vec![1, 4, 0, 0, 0, 0])
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// One's complement arithmetic has two zeros, and protocols disagree about which one to send.
#[test]
fn a_checksum_that_becomes_zero_in_ipv6_is_written_as_netfilter_writes_it() {
    for lane in ["peer", "stack", "xdp"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            for (make, at, zero) in [
                (udp as fn(Vec<u8>) -> Body, 46, 0xffff),
                (tcp as fn(Vec<u8>) -> Body, 56, 0x0000),
            ] {
                let any = Shape::Whole(Header::default(), udp(Vec::new()));
                let ends = case(direction, guest, any).ends(direction);
                let step = |word: u16| Step {
                    direction,
                    guest,
                    packet: whole(&Header::default(), &make(word.to_be_bytes().to_vec()), ends),
                };
                // A sum is complete when its complement is added to it.
                let after = word(&model::carried(&step(0)).unwrap(), at);
                let becoming = step(after);
                assert_eq!(word(&model::carried(&becoming).unwrap(), at), zero);
                assert_eq!(pair.judge_six_steps(&[becoming]).unwrap(), Judge::Netfilter);
            }
        }
    }
}

/// The other family's ICMP means nothing here: it has no pseudo header and quotes nobody.
#[test]
fn icmpv4_inside_ipv6_is_carried_by_address() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, guest) in everywhere() {
        for kind in [0, 3, 8, 11] {
            let body = Body::Raw {
                protocol: 1,
                bytes: vec![kind, 0, 0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8],
            };
            let case = case(direction, guest, Shape::Whole(Header::default(), body));
            // Conntrack takes it for ICMP all the same, and drops a reply without its request.
            assert_ne!(pair.judge_six(&case).unwrap(), Judge::Nobody, "{kind}");
        }
    }
}

/// RFC 6946: netfilter removes the header that says so, we leave it; the receiver has the same either way.
#[test]
fn an_atomic_fragment_arrives() {
    for lane in ["peer", "stack"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            let header = with(vec![Extension::Atomic(7)]);
            let shape = Shape::Whole(header, udp(b"whole".to_vec()));
            let judge = pair.judge_six(&case(direction, guest, shape)).unwrap();
            assert_eq!(judge, Judge::Netfilter, "{lane}");
        }
    }
}

/// RFC 5095 took these headers away; a checksum in such a packet is about an address that nobody here
/// translates. Netfilter carries it, wrong.
#[test]
fn a_packet_that_is_routed_through_the_vm_is_dropped_and_counted() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, hook) in BOTH.into_iter().zip(["uplink-tc", "door-out"]) {
        let header = with(vec![Extension::Routing(1)]);
        let shape = Shape::Whole(header, udp(b"on and on".to_vec()));
        pair.judge_six(&case(direction, 0, shape)).unwrap();
        assert_eq!(pair.count(hook, "malformed"), 1);
    }
}

/// Seven extension headers are followed, which is one more than there are kinds of them.
#[test]
fn a_chain_of_extension_headers_ends_somewhere() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, hook) in BOTH.into_iter().zip(["uplink-tc", "door-out"]) {
        for (count, dropped) in [(7, 0), (8, 1)] {
            let header = with(vec![padding(); count]);
            let shape = Shape::Whole(header, udp(b"far behind".to_vec()));
            pair.judge_six(&case(direction, 0, shape)).unwrap();
            assert_eq!(pair.count(hook, "malformed"), dropped, "{count}");
        }
    }
}

/// As in IPv4: whoever cuts a datagram inside its transport header wants to hide it (RFC 7112).
#[test]
fn an_ipv6_fragment_that_hides_its_ports_is_dropped_and_counted() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, hook) in BOTH.into_iter().zip(["uplink-tc", "door-out"]) {
        let shape = Shape::Fragmented(Header::default(), tcp(vec![7; 40]), 8, Order::Forward);
        pair.judge_six(&case(direction, 0, shape)).unwrap();
        assert_eq!(pair.count(hook, "malformed"), 1);
    }
}

/// "Packet too big" is what path MTU discovery lives on; extension headers do not hide what it is about.
#[test]
fn an_error_about_a_packet_with_extension_headers_is_carried() {
    for lane in ["peer", "stack", "xdp"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            let quote = Quote {
                header: with(vec![padding(), Extension::Routing(0)]),
                body: udp(vec![1; 400]),
                quoted: 300,
                was_sent: true,
            };
            let shape = Shape::Error(Header::default(), (2, 0), [0, 0, 5, 0], quote);
            let judge = pair.judge_six(&case(direction, guest, shape)).unwrap();
            assert_eq!(judge, Judge::Netfilter, "{lane}");
        }
    }
}
