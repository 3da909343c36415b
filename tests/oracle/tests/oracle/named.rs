//! Differences that were found, and corners that chance does not hit: each with a name.

use eip_lab::plan::{CLIENT, Family};
use eip_oracle_tests::{
    Path, Place, Step,
    case::{Quote, Shape, ends},
    chain::{Build, addresses},
    checksum,
    compare::Judge,
    layout::{self, word},
    model,
    packet::{Body, Header, Net, Order, Sum, fragments, icmp, whole},
};

use crate::support::{Pair, case, first_vm, step, tcp, udp};

/// With this MTU on the VMs' links.
fn pair_of_mtu(lane: &'static str, guest_mtu: u32) -> Pair {
    let build = Build {
        guest_mtu,
        ..Build::default()
    };
    Pair::build(lane, build)
}

/// One's complement arithmetic has two zeros, and protocols disagree about which one to send.
#[test]
fn a_checksum_that_becomes_zero_is_written_as_netfilter_writes_it() {
    for lane in ["peer", "neigh", "stack", "xdp"] {
        let mut pair = Pair::raise(lane);
        for family in Family::BOTH {
            for path in Path::everywhere() {
                for (make, at, zero) in [
                    (udp as fn(Vec<u8>) -> Body, 6, 0xffff),
                    (tcp as fn(Vec<u8>) -> Body, 16, 0x0000),
                ] {
                    let at = layout::fixed(family) + at;
                    let step = |word: u16| {
                        let body = make(word.to_be_bytes().to_vec());
                        step(path, Header::plain(family), body)
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
}

#[test]
fn an_ip_header_checksum_that_becomes_zero_is_written_as_netfilter_writes_it() {
    for lane in ["peer", "xdp"] {
        let mut pair = Pair::raise(lane);
        for path in Path::everywhere() {
            let step = |id: u16| {
                let header = Header {
                    id: id.into(),
                    ..Header::plain(Family::V4)
                };
                step(path, header, udp(Vec::new()))
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

/// It was taken for an error of ICMPv6, whose quote was missed: dropped as malformed. The other family's ICMP
/// means nothing: it has no pseudo header, or needs none, and quotes nobody.
#[test]
fn the_icmp_of_the_other_family_is_carried_by_address() {
    let mut pair = Pair::raise("peer");
    for (family, other, kinds) in [
        (Family::V4, 58, [0, 2, 128, 134]),
        (Family::V6, 1, [0, 3, 8, 11]),
    ] {
        for path in Path::everywhere() {
            for kind in kinds {
                let body = Body::Raw {
                    protocol: other,
                    bytes: vec![kind, 0, 0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8],
                };
                let shape = Shape::Whole(Header::plain(family), body);
                // Conntrack takes it for ICMP all the same, and drops a reply without its request.
                let judge = pair.judge(&case(path, shape)).unwrap();
                assert_ne!(judge, Judge::Nobody, "{family} {kind}");
            }
        }
    }
}

/// RFC 3828 section 3.1 forbids it, so nobody can say what a quote of it should become: netfilter
/// calculates with it, we keep it, and both carry the error.
#[test]
fn an_error_that_quotes_udp_lite_without_a_checksum_is_carried() {
    for lane in ["peer", "stack"] {
        let mut pair = Pair::raise(lane);
        for path in Path::everywhere() {
            let quote = Quote {
                header: Header::plain(Family::V4),
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
            let shape = Shape::Error(Header::plain(Family::V4), (11, 0), [0; 4], quote);
            let judge = pair.judge(&case(path, shape)).unwrap();
            assert_eq!(judge, Judge::Model, "{lane}");
        }
    }
}

/// RFC 1858, RFC 7112: whoever cuts a datagram inside its transport header wants to hide it. Netfilter puts
/// the datagram together and carries it; we drop that one piece, count it, and so the datagram.
#[test]
fn a_fragment_that_hides_its_ports_is_dropped_and_counted() {
    let mut pair = Pair::raise("peer");
    for (round, family) in (1..).zip(Family::BOTH) {
        for (path, hook) in first_vm() {
            let shape =
                Shape::Fragmented(Header::plain(family), tcp(vec![7; 40]), 8, Order::Forward);
            assert_eq!(pair.judge(&case(path, shape)).unwrap(), Judge::Model);
            assert_eq!(pair.count(hook, "malformed"), round);
        }
    }
}

/// A router may write its address into the packet, and Linux clears what stands behind the end of a
/// list. Redirects do neither, and the stack lane does both: the receiver gets the options in any case.
#[test]
fn options_that_routers_work_on_arrive_on_every_lane() {
    let record = [vec![7, 11, 4], vec![0; 8], vec![1]].concat();
    let garbage = vec![1, 0, 0xde, 0xad];
    for (lane, is_as_netfilter) in [("peer", false), ("stack", true)] {
        let mut pair = Pair::raise(lane);
        for options in [&record, &garbage] {
            let path = Path::inward(Place::VMS[0]);
            let header = Header::with_options(options.clone());
            let (theirs, ours) = pair.pass(&[step(path, header, udp(b"recorded".to_vec()))]);
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
        let mut pair = pair_of_mtu(lane, 1400);
        for (guest, vm) in Place::VMS.into_iter().enumerate() {
            for size in [1372, 1373, 1400, 1472] {
                let header = Header {
                    net: Net::V4 {
                        dont_fragment: true,
                        options: Vec::new(),
                    },
                    ..Header::plain(Family::V4)
                };
                let step = step(Path::inward(vm), header, udp(vec![5; size]));
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
                    let eip = addresses(Family::V4, guest, 0).1;
                    assert_eq!(ours[26..30], eip, "{lane} {size}");
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
        let mut pair = pair_of_mtu(lane, 1400);
        for vm in Place::VMS {
            let path = Path::inward(vm);
            for body in [udp(vec![5; 1440]), udp(vec![6; 1000])] {
                let header = Header::plain(Family::V4);
                let shape = Shape::Whole(header.clone(), body.clone());
                let judge = pair.judge(&case(path, shape)).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane}");
                let shape = Shape::Fragmented(header, body, 488, Order::Backward);
                let judge = pair.judge(&case(path, shape)).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane}");
            }
        }
    }
}

/// A VM that asks for its own EIP gets its own packet back, from that EIP. Not compared behind a bridge, which
/// does not send a packet back out of the port it came from for netfilter.
#[test]
fn a_vm_reaches_itself_by_its_own_eip_as_with_netfilter() {
    for lane in ["peer", "neigh", "stack"] {
        let mut pair = Pair::raise(lane);
        for family in Family::BOTH {
            let [vm, _] = Place::VMS;
            let path = Path { from: vm, to: vm };
            for body in [udp(vec![1; 100]), tcp(vec![2; 100])] {
                let shape = Shape::Whole(Header::plain(family), body);
                let judge = pair.judge(&case(path, shape)).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane} {family}");
            }
        }
    }
}

/// Later fragments have no ports to tell the flow by: their datagram leaves with the EIP that was asked, whole.
#[test]
fn a_reply_in_fragments_leaves_with_the_eip_that_was_asked() {
    let build = Build {
        many_eips: true,
        ..Build::default()
    };
    for lane in ["peer", "stack"] {
        let mut pair = Pair::build(lane, build);
        for family in Family::BOTH {
            for number in 0..3 {
                let vm = Place::Vm(0, number);
                let header = Header {
                    id: 0x7700 + u32::try_from(number).unwrap(),
                    ..Header::plain(family)
                };
                let asked = step(Path::inward(vm), Header::plain(family), udp(vec![1; 10]));
                let path = Path::outward(vm);
                let answer = Body::Udp {
                    lite: false,
                    ports: (53, 4444),
                    sum: Sum::Right,
                    payload: vec![9; 3000],
                };
                let there = ends(family, path, CLIENT.of(family));
                let pieces = fragments(&header, &answer, there, 1000, Order::Forward);
                let pieces = pieces.into_iter().map(|packet| Step::new(path, packet));
                let steps: Vec<_> = [asked].into_iter().chain(pieces).collect();
                let judge = pair.judge_steps(&steps).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane} {family} {number}");
            }
        }
    }
}

/// RFC 1122 section 3.2.2: nobody sends one, so nobody has to make sense of it; what is quoted inside of what is
/// quoted stays as it is, and the packet does not leave wrong.
#[test]
fn an_error_about_an_error_is_carried_with_its_own_quote_translated() {
    for lane in ["peer", "stack"] {
        let mut pair = Pair::raise(lane);
        for (family, inner, outer) in [(Family::V4, (3, 3), (11, 0)), (Family::V6, (1, 4), (3, 0))]
        {
            for path in Path::everywhere() {
                // The quoted error went the other way and quotes a packet of this way.
                let there = ends(family, path.turned(), CLIENT.of(family));
                let innermost = whole(
                    &Header::plain(family),
                    &udp(b"innermost".to_vec()),
                    there.turned(),
                );
                let error = icmp(inner, [0; 4], Sum::Right, &innermost, there);
                let quote = Quote {
                    header: Header::plain(family),
                    body: Body::Raw {
                        protocol: layout::icmp(family),
                        bytes: error,
                    },
                    quoted: 100,
                    extension: None,
                    was_sent: false,
                };
                let shape = Shape::Error(Header::plain(family), outer, [0; 4], quote);
                let judge = pair.judge(&case(path, shape)).unwrap();
                assert_eq!(judge, Judge::Model, "{lane} {family}");
            }
        }
    }
}
