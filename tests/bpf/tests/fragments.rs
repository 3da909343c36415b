//! Fragments in no order anybody hoped for. Each is translated by itself: whether they make a datagram
//! is for the receiver to judge, whom nothing may reach under a wrong address.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics at the line that is wrong"
)]

use eip_bpf_tests::{
    Action, World,
    packet::{Ends, ends, fragment, ip},
};
use eip_common::{
    abi::Delivery,
    reason::{Hook, Reason},
};
use etherparse::Ipv4HeaderSlice;

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";

/// A piece of a datagram, wherever it lies.
fn piece(ends: Ends, offset: u16, more: bool, content: &[u8]) -> Vec<u8> {
    ends.raw_with(17, content, |header| {
        header.identification = 0x4242;
        header.fragment_offset = offset.try_into().unwrap();
        header.more_fragments = more;
    })
}

/// The content behind the IP header, and the addresses of a packet whose header is right.
fn taken_apart(packet: &[u8]) -> ([u8; 4], [u8; 4], &[u8]) {
    let slice = Ipv4HeaderSlice::from_slice(&packet[14..]).unwrap();
    let header = slice.to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    (header.source, header.destination, &packet[34..])
}

#[test]
fn fragments_that_overlap_are_translated_one_by_one_and_counted() {
    // A later piece over the end of the first, one over the whole of it, one beyond the largest datagram.
    let pieces = [
        (0, true, 64),
        (4, true, 64),
        (1, true, 8),
        (0x1fff, false, 64),
    ];
    for (hook, ends, reason, becomes) in [
        (
            Hook::UplinkTc,
            ends(CLIENT, EIP),
            Reason::DeliveredPeer,
            (CLIENT, VM),
        ),
        (
            Hook::DoorOut,
            ends(VM, CLIENT),
            Reason::SentToUplink,
            (EIP, CLIENT),
        ),
    ] {
        let mut world = World::node();
        world.bind(EIP, VM, Delivery::Peer);
        for (offset, more, length) in pieces {
            let content = vec![0x11; length];
            let run = world.send(hook, &piece(ends, offset, more, &content));
            run.ended(reason).with(Action::Redirect);
            let (source, destination, carried) = taken_apart(&run.packet);
            assert_eq!((source, destination), (ip(becomes.0), ip(becomes.1)));
            if offset == 0 {
                // The checksum of UDP, which the first one holds, follows the addresses.
                assert_eq!(carried[..6], content[..6]);
                assert_ne!(carried[6..8], content[6..8]);
                assert_eq!(carried[8..], content[8..]);
            } else {
                assert_eq!(carried, content, "a later piece has no checksum");
            }
        }
    }
}

#[test]
fn the_order_of_fragments_makes_no_difference() {
    let datagram = ends(CLIENT, EIP).udp(1, 2, &[7; 300]);
    let pieces = fragment(&datagram, 96);
    let through = |order: &[usize]| {
        let mut world = World::node();
        world.bind(EIP, VM, Delivery::Peer);
        let mut carried: Vec<(usize, Vec<u8>)> = order
            .iter()
            .map(|index| {
                let run = world.send(Hook::UplinkTc, &pieces[*index]);
                run.ended(Reason::DeliveredPeer);
                (*index, run.packet)
            })
            .collect();
        carried.sort();
        carried
    };
    let forward = through(&[0, 1, 2, 3]);
    assert_eq!(through(&[3, 2, 1, 0]), forward);
    assert_eq!(through(&[2, 0, 3, 1]), forward);
}
