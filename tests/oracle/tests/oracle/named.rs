//! Differences that were found, and corners that chance does not hit: each with a name.

use eip_lab::plan::CLIENT;
use eip_oracle_tests::{
    Direction, Step,
    chain::{GUESTS, addresses},
    checksum,
    compare::Judge,
    model,
    packet::{Body, Case, Damage, Ends, Header, Order, Quote, Shape, Sum, icmp, whole},
};

use crate::support::Pair;

const BOTH: [Direction; 2] = [Direction::Inward, Direction::Outward];

/// A case between a VM and the client.
fn case(direction: Direction, guest: usize, shape: Shape) -> Case {
    Case {
        direction,
        guest,
        peer: CLIENT.v4.octets(),
        shape,
        damage: Damage::None,
    }
}

fn ends(direction: Direction, guest: usize) -> Ends {
    let any = Shape::Whole(Header::default(), udp(Vec::new()));
    case(direction, guest, any).ends(direction)
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

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// One's complement arithmetic has two zeros, and protocols disagree about which one to send.
#[test]
fn a_checksum_that_becomes_zero_is_written_as_netfilter_writes_it() {
    for lane in ["peer", "neigh", "stack", "xdp"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            for (make, at, zero) in [
                (udp as fn(Vec<u8>) -> Body, 26, 0xffff),
                (tcp as fn(Vec<u8>) -> Body, 36, 0x0000),
            ] {
                let step = |word: u16| Step {
                    direction,
                    guest,
                    packet: whole(
                        &Header::default(),
                        &make(word.to_be_bytes().to_vec()),
                        ends(direction, guest),
                    ),
                };
                // A sum is complete when its complement is added to it: after the translation, and before.
                let after = word(&model::carried(&step(0)).unwrap(), at);
                let before = word(&step(0).packet, at);
                let becoming = step(after);
                assert_eq!(word(&model::carried(&becoming).unwrap(), at), zero);
                let being = step(before);
                assert_eq!(word(&being.packet, at), zero);
                for step in [becoming, being] {
                    assert_eq!(pair.judge_steps(&[step]).unwrap(), Judge::Netfilter);
                }
            }
        }
    }
}

#[test]
fn an_ip_header_checksum_that_becomes_zero_is_written_as_netfilter_writes_it() {
    for lane in ["peer", "xdp"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            let step = |id| {
                let header = Header {
                    id,
                    ..Header::default()
                };
                Step {
                    direction,
                    guest,
                    packet: whole(&header, &udp(Vec::new()), ends(direction, guest)),
                }
            };
            let after = word(&model::carried(&step(0)).unwrap(), 10);
            let before = word(&step(0).packet, 10);
            assert_eq!(word(&model::carried(&step(after)).unwrap(), 10), 0);
            for step in [step(after), step(before)] {
                assert_eq!(pair.judge_steps(&[step]).unwrap(), Judge::Netfilter);
            }
        }
    }
}

/// It was taken for an error of ICMPv6, whose quote was missed: dropped as malformed.
#[test]
fn icmpv6_inside_ipv4_is_carried_by_address() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, guest) in everywhere() {
        for kind in [0, 2, 128, 134] {
            let body = Body::Raw {
                protocol: 58,
                bytes: icmp((kind, 0), [1, 2, 3, 4], Sum::Right, b"echo"),
            };
            let case = case(direction, guest, Shape::Whole(Header::default(), body));
            pair.judge(&case).unwrap();
        }
    }
}

/// RFC 3828 section 3.1 forbids it, so nobody can say what a quote of it should become: netfilter
/// calculates with it, we keep it, and both carry the error.
#[test]
fn an_error_that_quotes_udp_lite_without_a_checksum_is_carried() {
    for lane in ["peer", "stack"] {
        let mut pair = Pair::raise(lane, 1500);
        for (direction, guest) in everywhere() {
            let quote = Quote {
                header: Header::default(),
                body: Body::Udp {
                    lite: true,
                    ports: (1, 1),
                    sum: Sum::Zero,
                    payload: Vec::new(),
                },
                quoted: 8,
                extension: None,
                was_sent: true,
            };
            let shape = Shape::Error(Header::default(), (11, 0), [0; 4], quote);
            let judge = pair.judge(&case(direction, guest, shape)).unwrap();
            assert_eq!(judge, Judge::Model, "{lane}");
        }
    }
}

/// RFC 1858: whoever cuts a datagram inside its transport header wants to hide it. Netfilter puts the
/// datagram together and carries it; we drop that one piece, count it, and so the datagram.
#[test]
fn a_fragment_that_hides_its_ports_is_dropped_and_counted() {
    let mut pair = Pair::raise("peer", 1500);
    for (direction, hook) in BOTH.into_iter().zip(["uplink-tc", "door-out"]) {
        let shape = Shape::Fragmented(Header::default(), tcp(vec![7; 40]), 8, Order::Forward);
        assert_eq!(
            pair.judge(&case(direction, 0, shape)).unwrap(),
            Judge::Model
        );
        assert_eq!(pair.count(hook, "malformed"), 1);
    }
}

/// A router may write its address into the packet, and Linux clears what stands behind the end of a
/// list. Redirects do neither, and the stack lane does both: the receiver gets the options in any case.
#[test]
fn options_that_routers_work_on_arrive_on_every_lane() {
    let record = [vec![7, 11, 4], vec![0; 8], vec![1]].concat();
    let garbage = vec![1, 0, 0xde, 0xad];
    for (lane, is_as_netfilter) in [("peer", false), ("stack", true)] {
        let mut pair = Pair::raise(lane, 1500);
        for options in [&record, &garbage] {
            let header = Header {
                options: options.clone(),
                ..Header::default()
            };
            let case = case(
                Direction::Inward,
                0,
                Shape::Whole(header, udp(b"recorded".to_vec())),
            );
            let (theirs, ours) = pair.pass(&case.steps());
            let [theirs, ours] = [theirs, ours].map(|outcomes| outcomes[0].arrived.clone());
            assert_eq!(theirs.len(), 1);
            assert_eq!(ours.len(), 1);
            assert_eq!(ours == theirs, is_as_netfilter, "{lane}");
            if !is_as_netfilter {
                assert_eq!(ours[0][34..34 + options.len()], options[..]);
            }
        }
    }
}

#[test]
fn a_packet_too_large_for_the_vm_is_answered_as_netfilter_answers() {
    for lane in ["peer", "neigh", "stack", "xdp"] {
        let mut pair = Pair::raise(lane, 1400);
        for guest in 0..GUESTS.len() {
            for size in [1372, 1373, 1400, 1472] {
                let header = Header {
                    dont_fragment: true,
                    ..Header::default()
                };
                let packet = whole(&header, &udp(vec![5; size]), ends(Direction::Inward, guest));
                let step = Step {
                    direction: Direction::Inward,
                    guest,
                    packet,
                };
                let (theirs, ours) = pair.pass(&[step]);
                let is_too_large = size > 1372;
                assert_eq!(ours[0].arrived, theirs[0].arrived, "{lane} {size}");
                assert_eq!(ours[0].arrived.is_empty(), is_too_large, "{lane} {size}");
                assert_eq!(ours[0].returned.len(), theirs[0].returned.len());
                // Apart from who says so: see `compare`.
                for (ours, theirs) in ours[0].returned.iter().zip(&theirs[0].returned) {
                    assert_eq!(ours[34..36], [3, 4], "fragmentation needed");
                    assert_eq!(word(ours, 40), 1400, "the MTU of the VM's link");
                    if lane == "stack" {
                        assert_eq!(ours[34..], theirs[34..], "{size}");
                        continue;
                    }
                    // The programs quote what RFC 1191 asks for and no more, and speak for the EIP.
                    let (message, quote) = (&ours[34..], &ours[42..70]);
                    assert_eq!(ours[26..30], addresses(guest).1, "{lane} {size}");
                    assert_eq!(checksum::internet(message), 0, "{lane} {size}");
                    assert_eq!(quote, &theirs[42..70], "{lane} {size}");
                    assert_eq!(message[36..], [0; 20], "{lane} {size}");
                }
            }
        }
    }
}

#[test]
fn a_datagram_that_may_be_cut_arrives_as_netfilter_delivers_it() {
    for lane in ["peer", "neigh", "stack", "xdp"] {
        let mut pair = Pair::raise(lane, 1400);
        for guest in 0..GUESTS.len() {
            for body in [udp(vec![5; 1440]), udp(vec![6; 1000])] {
                let shape = Shape::Whole(Header::default(), body.clone());
                let judge = pair.judge(&case(Direction::Inward, guest, shape)).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane}");
                let shape = Shape::Fragmented(Header::default(), body, 488, Order::Backward);
                let judge = pair.judge(&case(Direction::Inward, guest, shape)).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane}");
            }
        }
    }
}
