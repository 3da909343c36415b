//! Network to VM, one packet at a time.

use eip_bpf_tests::{
    Action, World, checksums_are_right,
    packet::{ends, fragment, ip, translated, with_macs},
    world::{DOOR_MAC, OTHER_PORT, PORT, VM_MAC, binding},
};
use eip_common::{
    abi::{Delivery, NET_BYPASS},
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";

#[test]
fn peer_lane_translates_address_ttl_macs_and_checksums() {
    for (name, packet) in [
        ("tcp", ends(CLIENT, EIP).tcp(40000, 22, "S", b"")),
        (
            "tcp with payload of odd length",
            ends(CLIENT, EIP).tcp(40000, 22, "AP", b"hello"),
        ),
        ("udp", ends(CLIENT, EIP).udp(40000, 53, b"query")),
        (
            "udp without checksum",
            ends(CLIENT, EIP).udp_without_checksum(40000, 53, b"query"),
        ),
        ("icmp echo", ends(CLIENT, EIP).echo_request(7, b"payload")),
        ("gre", ends(CLIENT, EIP).raw(47, &[0, 0, 8, 0, 1, 2, 3, 4])),
        ("esp", ends(CLIENT, EIP).raw(50, &[9; 40])),
        ("ipip", ends(CLIENT, EIP).raw(4, &[0x45; 20])),
        ("sctp", ends(CLIENT, EIP).raw(132, &[1; 32])),
        (
            "a protocol nobody knows, without payload",
            ends(CLIENT, EIP).raw(253, &[]),
        ),
    ] {
        println!("{name}");
        let mut world = World::node();
        let slot = world.bind(EIP, VM, Delivery::Peer);
        let expected = translated(&packet, ip(CLIENT), ip(VM), 1);
        let run = world.send(Hook::UplinkTc, &packet);
        run.ended(Reason::DeliveredPeer)
            .with(Action::Redirect)
            .carried(&[(slot, 1, 0)])
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        checksums_are_right(&run.packet).unwrap();
        let bytes = run.traffic[&slot].in_bytes;
        assert_eq!(
            bytes,
            packet.len() as u64 - 14,
            "bytes counted from the IP header on"
        );
    }
}

#[test]
fn neigh_lane_leaves_the_translation_to_the_door() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Neigh);
    let packet = ends(CLIENT, EIP).tcp(40000, 22, "S", b"");

    let redirected = world.send(Hook::UplinkTc, &packet);
    redirected
        .ended(Reason::DeliveredNeigh)
        .with(Action::Redirect)
        .carried(&[])
        .leaving(&translated(&packet, ip(CLIENT), ip(EIP), 1));

    let entered = world.send(Hook::DoorIn, &redirected.packet);
    entered
        .ended(Reason::Translated)
        .with(Action::Pass)
        .carried(&[(slot, 1, 0)])
        .leaving(&translated(&packet, ip(CLIENT), ip(VM), 1));
}

#[test]
fn what_comes_for_a_vm_that_moved_is_sent_on_untranslated_to_its_node() {
    let mut world = World::node();
    let target = "192.0.2.12";
    world.uplink(PORT, 1500);
    let away = binding(ip(target), Delivery::Forward, OTHER_PORT, 7, 0);
    world.put_binding(EIP, away);
    let packet = ends(CLIENT, EIP).tcp(40000, 22, "AP", b"on its way");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::Forwarded)
        .with(Action::Redirect)
        .carried(&[])
        .leaving(&translated(&packet, ip(CLIENT), ip(EIP), 1));
    // Two nodes that each believe the other one has it do not send a packet round for ever.
    let last = ends(CLIENT, EIP).ttl(1).udp(1, 2, b"x");
    world
        .send(Hook::UplinkTc, &last)
        .ended(Reason::TtlExceeded)
        .with(Action::Pass)
        .leaving(&last);
    // Nor do the doors of other VMs take it for theirs.
    world
        .send(Hook::DoorIn, &packet)
        .ended(Reason::WrongPort)
        .leaving(&packet);
}

#[test]
fn stack_lane_gives_the_packet_to_the_kernel_as_it_came() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Stack);
    let packet = ends(CLIENT, EIP).udp(1, 2, b"x");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredStack)
        .with(Action::Pass)
        .carried(&[])
        .leaving(&packet);
    world
        .send(Hook::DoorIn, &packet)
        .ended(Reason::Translated)
        .carried(&[(slot, 1, 0)])
        .leaving(&translated(&packet, ip(CLIENT), ip(VM), 0));
}

#[test]
fn what_is_not_for_an_eip_passes_untouched_at_every_hook() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    for other in ["203.0.113.1", "203.0.113.100", "192.0.2.10"] {
        let packet = ends(CLIENT, other).tcp(1, 2, "S", b"");
        for hook in [Hook::UplinkXdp, Hook::UplinkTc, Hook::DoorIn] {
            world
                .send(hook, &packet)
                .ended(Reason::NotEip)
                .with(Action::Pass)
                .carried(&[])
                .leaving(&packet);
        }
    }
}

#[test]
fn bindings_match_whole_addresses_only() {
    let mut world = World::node();
    let short = world.bind("203.0.113.1", "10.244.1.1", Delivery::Peer);
    let long = world.bind("203.0.113.11", "10.244.1.11", Delivery::Peer);
    let packet = ends(CLIENT, "203.0.113.11").udp(1, 2, b"");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer)
        .carried(&[(long, 1, 0)]);
    let packet = ends(CLIENT, "203.0.113.1").udp(1, 2, b"");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer)
        .carried(&[(short, 1, 0)]);
}

#[test]
fn frames_that_carry_no_ip_pass() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let mut lldp = ends(CLIENT, EIP).udp(1, 2, b"x");
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let mut version = ends(CLIENT, EIP).udp(1, 2, b"x");
    version[14] = 0x65;
    for packet in [lldp, version] {
        for hook in Hook::ALL {
            world
                .send(hook, &packet)
                .ended(Reason::NotIp)
                .with(Action::Pass)
                .leaving(&packet);
        }
    }
}

#[test]
fn tagged_frames_are_left_to_the_vlan_interface() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let untagged = ends(CLIENT, EIP).udp(1, 2, b"x");
    let mut tagged = untagged[..12].to_vec();
    tagged.extend_from_slice(&[0x81, 0x00, 0x00, 0x64]);
    tagged.extend_from_slice(&untagged[12..]);
    for hook in [Hook::UplinkXdp, Hook::UplinkTc] {
        world
            .send(hook, &tagged)
            .ended(Reason::Tagged)
            .with(Action::Pass)
            .leaving(&tagged);
    }
}

#[test]
fn a_packet_whose_ttl_ends_here_goes_to_the_kernel_for_the_answer() {
    for lane in [Delivery::Peer, Delivery::Neigh, Delivery::Xdp] {
        let mut world = World::node();
        let slot = world.bind(EIP, VM, lane);
        let packet = ends(CLIENT, EIP).ttl(1).udp(1, 33434, b"probe");
        let run = world.send(Hook::UplinkTc, &packet);
        run.ended(Reason::TtlExceeded)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&packet);
        assert_eq!(
            run.moved_for[&(slot, Hook::UplinkTc, Reason::TtlExceeded)],
            1
        );
    }
}

#[test]
fn a_packet_that_may_be_fragmented_is_handed_over_whole() {
    let udp = ends(CLIENT, EIP).udp(1, 2, &[7; 1450]);
    let packet = ends(CLIENT, EIP).raw_with(17, &udp[34..], |header| header.dont_fragment = false);
    for (lane, reason) in [
        (Delivery::Peer, Reason::DeliveredPeer),
        (Delivery::Xdp, Reason::DeliveredPeer),
        // Its port would drop it: the kernel fragments, if its firewall lets it forward.
        (Delivery::Neigh, Reason::TooLarge),
    ] {
        let mut world = World::node();
        world.bind(EIP, VM, lane);
        let run = world.send(Hook::UplinkTc, &packet);
        run.ended(reason);
        if reason == Reason::DeliveredPeer {
            let expected = translated(&packet, ip(CLIENT), ip(VM), 1);
            run.leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        } else {
            run.with(Action::Pass).leaving(&packet);
        }
    }
}

#[test]
fn all_fragments_of_a_datagram_take_one_way_through_the_neigh_lane() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Neigh);
    let udp = ends(CLIENT, EIP).udp(9, 10, &[0xa5; 3000]);
    let whole = ends(CLIENT, EIP).raw_with(17, &udp[34..], |header| header.dont_fragment = false);
    let pieces = fragment(&whole, 1480);
    // An uplink as small as the link of the VM carries no fragment that is too large.
    world.uplink(PORT, 1400);
    world
        .send(Hook::UplinkTc, &pieces[2])
        .ended(Reason::DeliveredNeigh);
    world.uplink(PORT, 1500);
    for piece in &pieces {
        world
            .send(Hook::UplinkTc, piece)
            .ended(Reason::TooLarge)
            .leaving(piece);
    }
}

#[test]
fn a_super_packet_is_judged_by_its_segments() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(CLIENT, EIP).tcp(1, 2, "A", &[0; 2720]);
    world
        .send_segmented(Hook::UplinkTc, &packet, 1360)
        .ended(Reason::DeliveredPeer)
        .with(Action::Redirect);
    world
        .send_segmented(Hook::UplinkTc, &packet, 1361)
        .ended(Reason::TooLargeAnswered)
        .with(Action::Redirect);
}

#[test]
fn ip_options_travel_along() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let udp = ends(CLIENT, EIP).udp(5, 6, b"options");
    let packet = ends(CLIENT, EIP).raw_with(17, &udp[34..], |header| {
        // Router alert, and four times no-operation.
        header.options = [148, 4, 0, 0, 1, 1, 1, 1].into();
        header.set_payload_len(udp.len() - 34).unwrap();
    });
    assert_eq!(packet[14], 0x47);
    let run = world.send(Hook::UplinkTc, &packet);
    run.ended(Reason::DeliveredPeer);
    checksums_are_right(&run.packet).unwrap();
    assert_eq!(&run.packet[34..42], &[148, 4, 0, 0, 1, 1, 1, 1]);
    assert_eq!(&run.packet[30..34], &ip(VM));
}

/// Left to the receiver, which drops the one and by default refuses the other.
#[test]
fn a_wrong_header_checksum_stays_wrong_and_a_source_route_travels_along() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let right = ends(CLIENT, EIP).udp(5, 6, b"sums");
    let expected = translated(&right, ip(CLIENT), ip(VM), 1);
    let off_by = |sum: &[u8], other: &[u8]| {
        let stated = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[24], bytes[25]]));
        (stated(sum) + 0xffff - stated(other)) % 0xffff
    };
    let mut wrong = right.clone();
    wrong[25] ^= 0x11;
    let run = world.send(Hook::UplinkTc, &wrong);
    run.ended(Reason::DeliveredPeer);
    assert_ne!(off_by(&wrong, &right), 0);
    assert_eq!(off_by(&run.packet, &expected), off_by(&wrong, &right));

    let route = [131, 7, 4, 192, 0, 2, 1, 0];
    let routed = ends(CLIENT, EIP).raw_with(17, &right[34..], |header| {
        header.options = route.into();
        header.set_payload_len(right.len() - 34).unwrap();
    });
    let run = world.send(Hook::UplinkTc, &routed);
    run.ended(Reason::DeliveredPeer);
    assert_eq!(&run.packet[34..42], &route);
    checksums_are_right(&run.packet).unwrap();
}

#[test]
fn fragments_are_translated_and_add_up_to_the_right_datagram() {
    for (lane, hook) in [
        (Delivery::Peer, Hook::UplinkTc),
        (Delivery::Neigh, Hook::DoorIn),
    ] {
        let mut world = World::node();
        world.bind(EIP, VM, lane);
        let whole = ends(CLIENT, EIP).udp(9, 10, &[0xa5; 3000]);
        let hops = u8::from(hook == Hook::UplinkTc);
        let expected = translated(&whole, ip(CLIENT), ip(VM), hops);
        let mut payload = Vec::new();
        for piece in fragment(&whole, 1000) {
            let run = world.send(hook, &piece);
            assert_eq!(&run.packet[30..34], &ip(VM));
            payload.extend_from_slice(&run.packet[34..]);
        }
        assert_eq!(
            payload,
            expected[34..],
            "reassembled transport header, checksum and data"
        );
    }
}

#[test]
fn an_eip_of_this_node_does_not_arrive_from_the_network() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    world.bind("203.0.113.11", "10.244.1.11", Delivery::Peer);
    let packet = ends("203.0.113.11", EIP).udp(1, 2, b"spoof");
    let run = world.send(Hook::UplinkTc, &packet);
    run.ended(Reason::SpoofedFromNetwork)
        .with(Action::Drop)
        .carried(&[]);
    assert_eq!(
        run.moved_for[&(slot, Hook::UplinkTc, Reason::SpoofedFromNetwork)],
        1
    );
    // One that lives on another node does.
    let packet = ends("203.0.113.99", EIP).udp(1, 2, b"neighbour");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer);
}

#[test]
fn packets_that_lie_about_their_lengths_are_dropped_and_counted() {
    let honest = ends(CLIENT, EIP).tcp(1, 2, "S", b"12345678");
    let mut long_total = honest.clone();
    long_total[16..18].copy_from_slice(&2000_u16.to_be_bytes());
    let mut short_total = honest.clone();
    short_total[16..18].copy_from_slice(&19_u16.to_be_bytes());
    let mut short_header = honest.clone();
    short_header[14] = 0x44;
    let mut long_header = honest.clone();
    long_header[14] = 0x4f;
    let mut offset = honest.clone();
    offset[46] = 0x40;
    let cut_tcp = ends(CLIENT, EIP).raw(6, &[0; 19]);
    let cut_udp = ends(CLIENT, EIP).raw(17, &[0; 7]);
    let cut_icmp = ends(CLIENT, EIP).raw(1, &[8, 0, 0, 0]);
    let cut_dccp = ends(CLIENT, EIP).raw(33, &[0; 11]);
    let cut_sctp = ends(CLIENT, EIP).raw(132, &[0; 7]);
    let tiny_first_fragment = ends(CLIENT, EIP).raw_with(6, &[0; 8], |header| {
        header.more_fragments = true;
    });
    for (name, packet) in [
        ("total length beyond the frame", long_total),
        ("total length inside the header", short_total),
        ("header length below 20", short_header),
        ("header length beyond the packet", long_header),
        ("TCP data offset below 5", offset),
        ("TCP header cut short", cut_tcp),
        ("UDP header cut short", cut_udp),
        ("ICMP header cut short", cut_icmp),
        ("DCCP header cut short", cut_dccp),
        ("SCTP header cut short", cut_sctp),
        (
            "first fragment without the TCP checksum",
            tiny_first_fragment,
        ),
    ] {
        println!("{name}");
        for (hook, lane) in [
            (Hook::UplinkTc, Delivery::Peer),
            (Hook::DoorIn, Delivery::Neigh),
        ] {
            let mut world = World::node();
            let slot = world.bind(EIP, VM, lane);
            let run = world.send(hook, &packet);
            run.ended(Reason::Malformed).with(Action::Drop).carried(&[]);
            assert_eq!(run.moved_for[&(slot, hook, Reason::Malformed)], 1);
        }
    }
}

#[test]
fn padding_behind_the_packet_is_no_lie() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let mut packet = ends(CLIENT, EIP).tcp(1, 2, "A", b"");
    packet.extend_from_slice(&[0; 6]);
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer)
        .leaving(&with_macs(
            translated(&packet, ip(CLIENT), ip(VM), 1),
            VM_MAC,
            DOOR_MAC,
        ));
}

#[test]
fn the_door_of_another_vm_lets_a_flooded_packet_pass_untouched() {
    let mut world = World::node();
    let slot = world.bind_at(EIP, VM, Delivery::Neigh, OTHER_PORT);
    let packet = ends(CLIENT, EIP).udp(1, 2, b"flooded");
    let run = world.send(Hook::DoorIn, &packet);
    run.ended(Reason::WrongPort)
        .with(Action::Pass)
        .carried(&[])
        .leaving(&packet);
    assert_eq!(run.moved_for[&(slot, Hook::DoorIn, Reason::WrongPort)], 1);
}

#[test]
fn direct_traffic_to_the_vm_passes_its_door_untouched() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends("10.244.9.9", VM).tcp(1, 2, "S", b"");
    world
        .send(Hook::DoorIn, &packet)
        .ended(Reason::Direct)
        .with(Action::Pass)
        .carried(&[])
        .leaving(&packet);
}

#[test]
fn an_unknown_delivery_byte_is_served_by_the_stack_lane() {
    let mut world = World::node();
    let mut value = binding(ip(VM), Delivery::Peer, PORT, 0, 1);
    value.delivery = 200;
    world.put_binding(EIP, value);
    let packet = ends(CLIENT, EIP).udp(1, 2, b"x");
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredStack)
        .with(Action::Pass)
        .leaving(&packet);
}

#[test]
fn express_lane_translates_in_xdp() {
    for (name, packet) in [
        ("tcp", ends(CLIENT, EIP).tcp(40000, 22, "S", b"")),
        ("udp", ends(CLIENT, EIP).udp(40000, 53, b"query")),
        (
            "udp without checksum",
            ends(CLIENT, EIP).udp_without_checksum(40000, 53, b"query"),
        ),
        ("icmp echo", ends(CLIENT, EIP).echo_request(7, b"payload")),
        ("esp", ends(CLIENT, EIP).raw(50, &[9; 40])),
        ("later fragment", {
            fragment(&ends(CLIENT, EIP).udp(1, 2, &[7; 2000]), 1000).remove(1)
        }),
    ] {
        println!("{name}");
        let mut world = World::node();
        let slot = world.bind(EIP, VM, Delivery::Xdp);
        let expected = with_macs(translated(&packet, ip(CLIENT), ip(VM), 1), VM_MAC, DOOR_MAC);
        world
            .send(Hook::UplinkXdp, &packet)
            .ended(Reason::DeliveredXdp)
            .with(Action::Redirect)
            .carried(&[(slot, 1, 0)])
            .leaving(&expected);
    }
}

#[test]
fn express_lane_leaves_to_tc_what_needs_more_than_an_address() {
    let options = ends(CLIENT, EIP).raw_with(17, &[0; 8], |header| {
        header.options = [1, 1, 1, 1].into();
        header.set_payload_len(8).unwrap();
    });
    let mut lying = ends(CLIENT, EIP).udp(1, 2, b"x");
    lying[16..18].copy_from_slice(&999_u16.to_be_bytes());
    let first = fragment(&ends(CLIENT, EIP).udp(1, 2, &[7; 2000]), 1000).remove(0);
    for (name, packet) in [
        ("TTL ends here", ends(CLIENT, EIP).ttl(1).udp(1, 2, b"")),
        ("IP options", options),
        ("too large", ends(CLIENT, EIP).udp(1, 2, &[0; 1400])),
        ("from a pod", ends("10.244.3.3", EIP).udp(1, 2, b"")),
        ("from an EIP", ends("203.0.113.99", EIP).udp(1, 2, b"")),
        ("first fragment", first),
        ("lying length", lying),
        ("ICMP error", {
            let quote = ends(EIP, CLIENT).udp(2, 1, b"")[14..].to_vec();
            ends("192.0.2.1", EIP).icmp_error(
                etherparse::Icmpv4Type::DestinationUnreachable(
                    etherparse::icmpv4::DestUnreachableHeader::Port,
                ),
                &quote,
            )
        }),
    ] {
        println!("{name}");
        let mut world = World::node();
        world.bind(EIP, VM, Delivery::Xdp);
        world
            .send(Hook::UplinkXdp, &packet)
            .ended(Reason::LeftToTc)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&packet);
    }
}

#[test]
fn every_other_lane_is_left_to_tc_by_xdp() {
    for lane in [Delivery::Peer, Delivery::Neigh, Delivery::Stack] {
        let mut world = World::node();
        world.bind(EIP, VM, lane);
        let packet = ends(CLIENT, EIP).udp(1, 2, b"x");
        world
            .send(Hook::UplinkXdp, &packet)
            .ended(Reason::LeftToTc)
            .with(Action::Pass)
            .leaving(&packet);
    }
}

#[test]
fn what_xdp_left_of_an_express_binding_is_delivered_by_tc() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Xdp);
    let packet = ends("10.244.3.3", EIP).udp(1, 2, b"x");
    let left = world.send(Hook::UplinkXdp, &packet);
    left.ended(Reason::LeftToTc);
    world
        .send(Hook::UplinkTc, &left.packet)
        .ended(Reason::DeliveredPeer)
        .carried(&[(slot, 1, 0)]);
}

#[test]
fn a_more_specific_prefix_decides_alone() {
    let mut world = World::node();
    world.net("198.51.0.0/16", NET_BYPASS);
    world.net("198.51.100.0/24", 0);
    world.bind(EIP, VM, Delivery::Xdp);
    let inside = ends("198.51.1.1", EIP).udp(1, 2, b"");
    world.send(Hook::UplinkXdp, &inside).ended(Reason::LeftToTc);
    let outside = ends(CLIENT, EIP).udp(1, 2, b"");
    world
        .send(Hook::UplinkXdp, &outside)
        .ended(Reason::DeliveredXdp);
}
