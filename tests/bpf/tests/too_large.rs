//! Packets larger than the VM's link: who is told, in which words, and how often.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics at the line that is wrong"
)]

use eip_bpf_tests::{
    Action, World, checksums_are_right,
    packet::{NODE_MAC, SENDER_MAC, ends, fragment, ip, translated},
    packet6::{destination_options, ends6, fragment_header, hop_by_hop, ip6},
    world::{PORT, binding},
};
use eip_common::{
    abi::{BINDING_PRIMARY, Delivery, MAX_ANSWERS, UPLINK_SENDS_XDP},
    reason::{Hook, Reason},
};
use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, icmpv4::DestUnreachableHeader};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";
const CLIENT6: &str = "2001:db8:51::7";
const EIP6: &str = "2001:db8:e::10";
const VM6: &str = "fd00:10:244:1::10";
/// MTU of every link here.
const MTU: usize = 1400;

/// Every lane that does not leave a packet to the kernel anyway.
const LANES: [Delivery; 3] = [Delivery::Peer, Delivery::Neigh, Delivery::Xdp];

/// A node whose uplink is of a driver that sends what XDP sends back.
fn node(lane: Delivery) -> (World, u32) {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, lane);
    world.bind(EIP6, VM6, lane);
    world.uplink_with(PORT, 1500, UPLINK_SENDS_XDP);
    (world, slot)
}

/// The frame says to the client, in the name of the EIP, which MTU it has to use.
#[track_caller]
fn is_answer(answer: &[u8], about: &[u8]) {
    assert_eq!(
        (&answer[..6], &answer[6..12]),
        (&SENDER_MAC[..], &NODE_MAC[..])
    );
    assert_eq!(&answer[12..14], &[8, 0]);
    checksums_are_right(answer).unwrap();
    assert_eq!(
        (&answer[26..30], &answer[30..34]),
        (&ip(EIP)[..], &about[26..30])
    );
    let end = 14 + usize::from(u16::from_be_bytes([answer[16], answer[17]]));
    let icmp = Icmpv4Slice::from_slice(&answer[34..end]).unwrap();
    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
    assert_eq!(
        &icmp.payload()[..28],
        &about[14..42],
        "header and eight bytes, as they came"
    );
}

#[test]
fn the_sender_is_told_in_xdp_by_the_eip() {
    for lane in LANES {
        let (mut world, slot) = node(lane);
        let fits = ends(CLIENT, EIP).tcp(1, 2, "A", &[0; MTU - 40]);
        let run = world.send(Hook::UplinkXdp, &fits);
        assert!(
            !run.moved
                .contains_key(&(Hook::UplinkXdp, Reason::TooLargeAnswered))
        );
        for packet in [
            ends(CLIENT, EIP).tcp(1, 2, "A", &[0; MTU - 39]),
            ends(CLIENT, EIP).udp(1, 2, &[7; 1472]),
            ends(CLIENT, EIP).echo_request(1, &[7; 1472]),
            ends(CLIENT, EIP).raw(50, &[7; 1480]),
        ] {
            let run = world.send(Hook::UplinkXdp, &packet);
            run.ended(Reason::TooLargeAnswered)
                .with(Action::Redirect)
                .carried(&[]);
            assert_eq!(
                run.moved_for.keys().next().map(|(slot, _, _)| *slot),
                Some(slot)
            );
            is_answer(&run.packet, &packet);
        }
    }
}

#[test]
fn the_sender_is_told_in_tc_where_xdp_cannot_send() {
    for lane in LANES {
        let (mut world, _) = node(lane);
        world.uplink(PORT, 1500);
        for packet in [
            ends(CLIENT, EIP).tcp(1, 2, "A", &[0; 1460]),
            ends(CLIENT, EIP).udp(1, 2, &[7; 1472]),
            ends(CLIENT, EIP).echo_request(1, &[7; 1472]),
        ] {
            world
                .send(Hook::UplinkXdp, &packet)
                .ended(Reason::LeftToTc)
                .leaving(&packet);
            let run = world.send(Hook::UplinkTc, &packet);
            run.ended(Reason::TooLargeAnswered)
                .with(Action::Redirect)
                .carried(&[]);
            is_answer(&run.packet, &packet);
        }
    }
}

#[test]
fn a_super_packet_is_answered_once_when_its_segments_are_too_large() {
    let (mut world, _) = node(Delivery::Peer);
    let packet = ends(CLIENT, EIP).tcp(1, 2, "A", &[0; 2722]);
    world
        .send_segmented(Hook::UplinkTc, &packet, 1360)
        .ended(Reason::DeliveredPeer);
    let run = world.send_segmented(Hook::UplinkTc, &packet, 1361);
    run.ended(Reason::TooLargeAnswered).with(Action::Redirect);
    is_answer(&run.packet, &packet);
}

#[test]
fn an_ipv6_sender_is_told_that_its_packet_is_too_big() {
    for (hook, lane) in [
        (Hook::UplinkXdp, Delivery::Peer),
        (Hook::UplinkXdp, Delivery::Xdp),
        (Hook::UplinkTc, Delivery::Peer),
        (Hook::UplinkTc, Delivery::Neigh),
    ] {
        let (mut world, _) = node(lane);
        let packet = ends6(CLIENT6, EIP6).tcp(1, 2, "A", &[0; MTU - 59]);
        let run = world.send(hook, &packet);
        run.ended(Reason::TooLargeAnswered)
            .with(Action::Redirect)
            .carried(&[]);
        let answer = &run.packet;
        assert_eq!(
            (&answer[..6], &answer[6..12]),
            (&SENDER_MAC[..], &NODE_MAC[..])
        );
        assert_eq!(
            (&answer[22..38], &answer[38..54]),
            (&ip6(EIP6)[..], &ip6(CLIENT6)[..])
        );
        let end = 54 + usize::from(u16::from_be_bytes([answer[18], answer[19]]));
        let icmp = Icmpv6Slice::from_slice(&answer[54..end]).unwrap();
        assert!(icmp.is_checksum_valid(ip6(EIP6), ip6(CLIENT6)));
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
        assert_eq!(icmp.bytes5to8(), 1400_u32.to_be_bytes());
        assert_eq!(
            &icmp.payload()[..48],
            &packet[14..62],
            "header and eight bytes, as they came"
        );
    }
}

/// The frame says to the client, in the name of the EIP, which MTU it has to use; it quotes the packet as far
/// as eight bytes behind a fragment header.
#[track_caller]
fn is_answer_about_a_fragment(answer: &[u8], about: &[u8]) {
    assert_eq!(
        (&answer[22..38], &answer[38..54]),
        (&ip6(EIP6)[..], &ip6(CLIENT6)[..])
    );
    let end = 54 + usize::from(u16::from_be_bytes([answer[18], answer[19]]));
    let icmp = Icmpv6Slice::from_slice(&answer[54..end]).unwrap();
    assert!(icmp.is_checksum_valid(ip6(EIP6), ip6(CLIENT6)));
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
    assert_eq!(icmp.bytes5to8(), 1400_u32.to_be_bytes());
    assert_eq!(&icmp.payload()[..56], &about[14..70]);
}

#[test]
fn every_ipv6_fragment_that_is_too_large_is_answered_and_the_rest_is_carried() {
    for lane in LANES {
        let ends = ends6(CLIENT6, EIP6);
        let fragments = ends.fragments(17, &ends.udp_bytes(1, 2, &[7; 2992]), 1440);
        let [first, later, last] = fragments.as_slice() else {
            panic!("three fragments")
        };
        for hook in [Hook::UplinkXdp, Hook::UplinkTc] {
            let (mut world, _) = node(lane);
            for packet in [first, later] {
                let run = world.send(hook, packet);
                run.ended(Reason::TooLargeAnswered)
                    .with(Action::Redirect)
                    .carried(&[]);
                is_answer_about_a_fragment(&run.packet, packet);
            }
        }
        let (mut world, _) = node(lane);
        // What is left of the datagram waits for nobody: not in the kernel, either.
        world.send(Hook::UplinkTc, last).ended(match lane {
            Delivery::Neigh => Reason::DeliveredNeigh,
            _ => Reason::DeliveredPeer,
        });
    }
}

#[test]
fn ipv6_fragments_that_may_be_of_an_error_are_not_answered() {
    let ends = ends6(CLIENT6, EIP6);
    let behind = |chain: &[_], protocol| ends.frame(chain, protocol, &[1; 1440]);
    let fragment = |offset, more| fragment_header(offset, more, 7);
    for (name, packet) in [
        ("of an error", behind(&[fragment(0, true)], 58)),
        (
            "later, of any ICMPv6 message",
            behind(&[fragment(1448, true)], 58),
        ),
        (
            "with another extension header before",
            behind(&[destination_options(1), fragment(0, true)], 17),
        ),
        (
            "with another extension header behind",
            behind(&[fragment(0, true), destination_options(1)], 17),
        ),
    ] {
        println!("{name}");
        let (mut world, _) = node(Delivery::Peer);
        world
            .send(Hook::UplinkXdp, &packet)
            .ended(Reason::LeftToTc)
            .leaving(&packet);
        world
            .send(Hook::UplinkTc, &packet)
            .ended(Reason::TooLarge)
            .with(Action::Pass)
            .leaving(&packet);
    }
}

#[test]
fn what_nobody_answers_is_left_alone() {
    let may_be_cut = {
        let udp = ends(CLIENT, EIP).udp(1, 2, &[7; 1450]);
        ends(CLIENT, EIP).raw_with(17, &udp[34..], |header| header.dont_fragment = false)
    };
    let error = {
        let quote = ends(EIP, CLIENT).udp(2, 1, &[0; 1400])[14..].to_vec();
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        ends("192.0.2.1", EIP).icmp_error(kind, &quote)
    };
    let later = ends(CLIENT, EIP).raw_with(17, &[7; 1480], |header| {
        header.fragment_offset = 185.try_into().unwrap();
    });
    let mut to_a_group = ends(CLIENT, EIP).udp(1, 2, &[0; 1400]);
    to_a_group[0] = 1;
    let options = ends(CLIENT, EIP).raw_with(17, &[0; 1470], |header| {
        header.options = [1, 1, 1, 1].into();
        header.set_payload_len(1470).unwrap();
    });
    for (name, packet, in_tc) in [
        ("may be fragmented", may_be_cut, Reason::DeliveredPeer),
        ("an ICMP error", error, Reason::TooLarge),
        ("a later fragment", later, Reason::TooLarge),
        ("to a group of the link", to_a_group, Reason::TooLarge),
        ("with options", options, Reason::TooLarge),
        (
            "from nobody",
            ends("0.0.0.0", EIP).udp(1, 2, &[0; 1400]),
            Reason::TooLarge,
        ),
        (
            "from a group",
            ends("224.0.0.9", EIP).udp(1, 2, &[0; 1400]),
            Reason::TooLarge,
        ),
        (
            "from an EIP of this node",
            ends(EIP, EIP).udp(1, 2, &[0; 1400]),
            Reason::SpoofedFromNetwork,
        ),
        (
            "an IPv6 packet with extension headers",
            ends6(CLIENT6, EIP6).frame(&[hop_by_hop(1)], 17, &[0; 1400]),
            Reason::TooLarge,
        ),
    ] {
        println!("{name}");
        let (mut world, _) = node(Delivery::Peer);
        world
            .send(Hook::UplinkXdp, &packet)
            .ended(Reason::LeftToTc)
            .with(Action::Pass)
            .leaving(&packet);
        let run = world.send(Hook::UplinkTc, &packet);
        run.ended(in_tc);
        if in_tc == Reason::TooLarge {
            run.with(Action::Pass).leaving(&packet);
        }
    }
}

#[test]
fn the_stack_lane_leaves_the_answer_to_the_kernel() {
    let (mut world, _) = node(Delivery::Stack);
    let packet = ends(CLIENT, EIP).udp(1, 2, &[0; 1472]);
    for (hook, reason) in [
        (Hook::UplinkXdp, Reason::LeftToTc),
        (Hook::UplinkTc, Reason::DeliveredStack),
    ] {
        world.send(hook, &packet).ended(reason).leaving(&packet);
    }
}

#[test]
fn a_first_fragment_that_may_not_be_cut_again_is_answered() {
    let (mut world, _) = node(Delivery::Peer);
    let mut first = fragment(&ends(CLIENT, EIP).udp(1, 2, &[7; 2000]), 1480).remove(0);
    first[20] |= 0x40;
    let first = translated_header(&first);
    let run = world.send(Hook::UplinkTc, &first);
    run.ended(Reason::TooLargeAnswered);
    is_answer(&run.packet, &first);
}

/// The header's checksum after an edit.
fn translated_header(packet: &[u8]) -> Vec<u8> {
    let mut later = packet.to_vec();
    // As a later fragment, of which `translated` touches the header alone.
    later[21] |= 1;
    let later = translated(&later, ip(CLIENT), ip(EIP), 0);
    let mut packet = packet.to_vec();
    let sum = u16::from_be_bytes([later[24], later[25]]);
    let (sum, carry) = sum.overflowing_add(1);
    packet[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    packet
}

#[test]
fn a_flood_of_too_large_packets_is_answered_at_a_bounded_rate() {
    let (mut world, _) = node(Delivery::Peer);
    let packet = ends(CLIENT, EIP).udp(1, 2, &[0; 1472]);
    for hook in [Hook::UplinkXdp, Hook::UplinkTc] {
        // The second that is spent may end before the packet comes.
        let dropped = (0..100).find_map(|_| {
            world.answered_before(MAX_ANSWERS);
            let run = world.send(hook, &packet);
            (run.action == Action::Drop).then_some(run)
        });
        dropped
            .expect("a second without answers")
            .ended(Reason::TooLargeDropped)
            .leaving(&packet);

        world.answered_before(MAX_ANSWERS - 1);
        world.send(hook, &packet).ended(Reason::TooLargeAnswered);
    }
}

#[test]
fn an_mtu_that_16_bits_do_not_hold_is_no_reason_to_answer_wrong() {
    let mut world = World::node();
    let mut value = binding(ip(VM), Delivery::Peer, PORT, 0, BINDING_PRIMARY);
    value.mtu = 65_600;
    world.put_binding(EIP, value);
    let packet = ends(CLIENT, EIP).udp(1, 2, &[0; 1472]);
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer);
}
