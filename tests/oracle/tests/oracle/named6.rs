//! As `named`: what only IPv6 has.

use eip_lab::plan::{CLIENT, Family};
use eip_oracle_tests::{
    Path, Place, Step,
    case::{Quote, Shape, ends},
    chain::Build,
    compare::Judge,
    packet::{Body, Extension, Header, Order, Sum, chained, cut},
};

use crate::support::{Pair, case, first_vm, step, udp};

fn padding() -> Extension {
    Extension::Destination(vec![1, 4, 0, 0, 0, 0])
}

/// RFC 6946: netfilter removes the header that says so, we leave it; the receiver has the same either way.
#[test]
fn an_atomic_fragment_arrives() {
    for lane in ["peer", "stack"] {
        let mut pair = Pair::raise(lane);
        for path in Path::everywhere() {
            let header = Header::with_extensions(vec![Extension::Atomic(7)]);
            let shape = Shape::Whole(header, udp(b"whole".to_vec()));
            let judge = pair.judge(&case(path, shape)).unwrap();
            assert_eq!(judge, Judge::Netfilter, "{lane}");
        }
    }
}

/// RFC 5095 took these headers away; a checksum in such a packet is about an address that nobody here
/// translates. Netfilter carries it, wrong.
#[test]
fn a_packet_that_is_routed_through_the_vm_is_dropped_and_counted() {
    let mut pair = Pair::raise("peer");
    for (path, hook) in first_vm() {
        let header = Header::with_extensions(vec![Extension::Routing(1)]);
        let shape = Shape::Whole(header, udp(b"on and on".to_vec()));
        pair.judge(&case(path, shape)).unwrap();
        assert_eq!(pair.count(hook, "malformed"), 1);
    }
}

/// Seven extension headers are followed, which is one more than there are kinds of them.
#[test]
fn a_chain_of_extension_headers_ends_somewhere() {
    let mut pair = Pair::raise("peer");
    for (path, hook) in first_vm() {
        for (count, dropped) in [(7, 0), (8, 1)] {
            let header = Header::with_extensions(vec![padding(); count]);
            let shape = Shape::Whole(header, udp(b"far behind".to_vec()));
            pair.judge(&case(path, shape)).unwrap();
            assert_eq!(pair.count(hook, "malformed"), dropped, "{count}");
        }
    }
}

/// "Packet too big" is what path MTU discovery lives on; extension headers do not hide what it is about.
#[test]
fn an_error_about_a_packet_with_extension_headers_is_carried() {
    for lane in ["peer", "stack", "xdp"] {
        let mut pair = Pair::raise(lane);
        for path in Path::everywhere() {
            let quote = Quote {
                header: Header::with_extensions(vec![padding(), Extension::Routing(0)]),
                body: udp(vec![1; 400]),
                quoted: 300,
                extension: None,
                was_sent: true,
            };
            let shape = Shape::Error(Header::plain(Family::V6), (2, 0), [0, 0, 5, 0], quote);
            let judge = pair.judge(&case(path, shape)).unwrap();
            assert_eq!(judge, Judge::Netfilter, "{lane}");
        }
    }
}

/// Destination options belong to the part of a packet that is cut (RFC 8200 section 4.5): the first fragment has
/// them behind its fragment header, and the transport header behind them.
#[test]
fn a_datagram_whose_extension_headers_were_cut_with_it_arrives() {
    for lane in ["peer", "stack", "xdp"] {
        let mut pair = Pair::raise(lane);
        for (id, path) in (1_u32..).zip(Path::everywhere()) {
            for (nth, order) in (0_u32..).zip([Order::Forward, Order::Backward]) {
                let ends = ends(Family::V6, path, CLIENT.v6.into());
                let (next, mut content) = chained(&[padding(), padding()], 17);
                content.extend(udp(vec![3; 900]).bytes(ends));
                let header = Header {
                    id: id << 8 | nth,
                    ..Header::with_extensions(vec![padding()])
                };
                let pieces = cut(&header, next, &content, ends, 400, order);
                let steps = pieces.into_iter().map(|packet| Step::new(path, packet));
                let judge = pair.judge_steps(&steps.collect::<Vec<_>>()).unwrap();
                assert_eq!(judge, Judge::Netfilter, "{lane} {order:?}");
            }
        }
    }
}

/// Later fragments name another next header than the first one has in the end: it was lost which EIP they belong
/// to, and they left with the primary.
#[test]
fn a_reply_whose_extension_headers_were_cut_with_it_leaves_with_the_eip_that_was_asked() {
    let build = Build {
        many_eips: true,
        ..Build::default()
    };
    let mut pair = Pair::build("peer", build);
    for number in 0..3 {
        let vm = Place::Vm(0, number);
        let asked = step(
            Path::inward(vm),
            Header::plain(Family::V6),
            udp(vec![1; 10]),
        );
        let path = Path::outward(vm);
        let ends = ends(Family::V6, path, CLIENT.v6.into());
        let (next, mut content) = chained(&[padding()], 17);
        let answer = Body::Udp {
            lite: false,
            ports: (53, 4444),
            sum: Sum::Right,
            payload: vec![9; 900],
        };
        content.extend(answer.bytes(ends));
        let header = Header {
            id: 0x9900 + u32::try_from(number).unwrap(),
            ..Header::plain(Family::V6)
        };
        let pieces = cut(&header, next, &content, ends, 400, Order::Forward);
        let pieces = pieces.into_iter().map(|packet| Step::new(path, packet));
        let steps: Vec<_> = [asked].into_iter().chain(pieces).collect();
        let judge = pair.judge_steps(&steps).unwrap();
        assert_eq!(judge, Judge::Netfilter, "{number}");
    }
}
