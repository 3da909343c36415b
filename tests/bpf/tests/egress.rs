//! VM to network, one packet at a time.

use eip_bpf_tests::{
    Action, World, checksums_are_right,
    packet::{ends, fragment, ip, translated, with_macs},
    world::{DOOR_MAC, OTHER_PORT, VM_MAC, binding},
};
use eip_common::{
    abi::{BINDING_PRIMARY, Delivery, NET_EIP},
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";
const POD: &str = "10.244.9.9";

#[test]
fn the_vm_leaves_with_its_eip() {
    for (name, packet) in [
        ("tcp", ends(VM, CLIENT).tcp(22, 40000, "SA", b"")),
        ("udp", ends(VM, CLIENT).udp(53, 40000, b"answer")),
        (
            "udp without checksum",
            ends(VM, CLIENT).udp_without_checksum(53, 40000, b"answer"),
        ),
        (
            "icmp echo reply",
            ends(VM, CLIENT).echo_reply(7, b"payload"),
        ),
        ("gre", ends(VM, CLIENT).raw(47, &[0, 0, 8, 0, 1, 2, 3, 4])),
        (
            "later fragment",
            fragment(&ends(VM, CLIENT).udp(1, 2, &[7; 2000]), 1000).remove(1),
        ),
    ] {
        println!("{name}");
        for lane in [Delivery::Peer, Delivery::Neigh, Delivery::Xdp] {
            let mut world = World::node();
            let slot = world.bind(EIP, VM, lane);
            let run = world.send(Hook::DoorOut, &packet);
            run.ended(Reason::SentToUplink)
                .with(Action::Redirect)
                .carried(&[(slot, 0, 1)])
                .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 1));
            assert_eq!(run.traffic[&slot].out_bytes, packet.len() as u64 - 14);
        }
    }
}

#[test]
fn fragments_leave_with_the_eip_and_add_up_to_the_right_datagram() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let whole = ends(VM, CLIENT).tcp(9, 10, "A", &[0x5a; 3000]);
    let expected = translated(&whole, ip(EIP), ip(CLIENT), 1);
    let mut payload = Vec::new();
    for piece in fragment(&whole, 1200) {
        let run = world.send(Hook::DoorOut, &piece);
        run.ended(Reason::SentToUplink);
        assert_eq!(&run.packet[26..30], &ip(EIP));
        payload.extend_from_slice(&run.packet[34..]);
    }
    assert_eq!(payload, expected[34..]);
}

#[test]
fn the_stack_lane_takes_what_the_vm_sends_too() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Stack);
    let packet = ends(VM, CLIENT).udp(1, 2, b"x");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::SentToStack)
        .with(Action::Pass)
        .carried(&[(slot, 0, 1)])
        .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 0));
}

#[test]
fn pods_are_talked_to_with_the_vms_own_address() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    for packet in [
        ends(VM, POD).tcp(40000, 80, "S", b""),
        ends(VM, POD).udp(40000, 53, b"query"),
        ends(VM, POD).echo_request(3, b""),
        ends(VM, POD).raw(47, &[0; 8]),
    ] {
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::Bypass)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&packet);
    }
}

#[test]
fn what_never_leaves_the_link_is_not_touched() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    for destination in [
        "224.0.0.251",
        "239.1.2.3",
        "255.255.255.255",
        "169.254.1.1",
        "0.0.0.0",
        "127.0.0.1",
    ] {
        let packet = ends(VM, destination).udp(68, 67, b"discover");
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::LinkScope)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&packet);
    }
}

#[test]
fn another_address_of_the_guest_passes_untouched() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends("10.244.1.77", CLIENT).udp(1, 2, b"x");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::NotBound)
        .with(Action::Pass)
        .leaving(&packet);
}

#[test]
fn a_vm_cannot_send_as_an_eip() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_at("203.0.113.11", "10.244.1.11", Delivery::Peer, OTHER_PORT);
    for (name, source) in [
        ("its own EIP", EIP),
        ("the EIP of another VM", "203.0.113.11"),
        ("an unassigned EIP", "203.0.113.200"),
    ] {
        println!("{name}");
        for destination in [CLIENT, POD, "203.0.113.11"] {
            let packet = ends(source, destination).udp(1, 2, b"spoof");
            world
                .send(Hook::DoorOut, &packet)
                .ended(Reason::SpoofedEip)
                .with(Action::Drop)
                .carried(&[]);
        }
    }
}

#[test]
fn a_bound_eip_outside_every_range_is_protected_too() {
    let mut world = World::new();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(EIP, CLIENT).udp(1, 2, b"spoof");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::SpoofedEip)
        .with(Action::Drop);
}

#[test]
fn a_vm_cannot_send_as_a_vm_bound_elsewhere() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let victim = world.bind_at("203.0.113.11", "10.244.1.11", Delivery::Peer, OTHER_PORT);
    for destination in [CLIENT, POD] {
        let packet = ends("10.244.1.11", destination).udp(1, 2, b"spoof");
        let run = world.send(Hook::DoorOut, &packet);
        run.ended(Reason::SpoofedVm).with(Action::Drop).carried(&[]);
        assert_eq!(
            run.moved_for[&(victim, Hook::DoorOut, Reason::SpoofedVm)],
            1
        );
    }
}

#[test]
fn malformed_packets_of_a_vm_go_nowhere() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let mut lying = ends(VM, CLIENT).udp(1, 2, b"x");
    lying[16..18].copy_from_slice(&999_u16.to_be_bytes());
    for packet in [
        lying,
        ends(VM, CLIENT).raw(6, &[0; 12]),
        ends(VM, POD).raw(17, &[0; 4]),
    ] {
        let run = world.send(Hook::DoorOut, &packet);
        run.ended(Reason::Malformed).with(Action::Drop).carried(&[]);
        assert_eq!(run.moved_for[&(slot, Hook::DoorOut, Reason::Malformed)], 1);
    }
}

#[test]
fn a_packet_whose_ttl_ends_here_goes_to_the_kernel_as_the_eip() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(VM, CLIENT).ttl(1).udp(1, 33434, b"probe");
    let run = world.send(Hook::DoorOut, &packet);
    run.ended(Reason::TtlExceeded)
        .with(Action::Pass)
        .carried(&[(slot, 0, 1)])
        .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 0));
    assert_eq!(
        run.moved_for[&(slot, Hook::DoorOut, Reason::TtlExceeded)],
        1
    );
}

#[test]
fn a_packet_larger_than_the_uplink_goes_to_the_kernel_as_the_eip() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.gateway("192.0.2.1", 1300);
    let packet = ends(VM, CLIENT).udp(1, 2, &[0; 1300]);
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::TooLarge)
        .with(Action::Pass)
        .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 0));
    let segments = ends(VM, CLIENT).tcp(1, 2, "A", &[0; 2520]);
    world
        .send_segmented(Hook::DoorOut, &segments, 1260)
        .ended(Reason::SentToUplink);
    world
        .send_segmented(Hook::DoorOut, &segments, 1261)
        .ended(Reason::TooLarge);
}

#[test]
fn without_a_route_the_kernel_answers_to_the_eip() {
    let mut world = World::node();
    world.without_gateway();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(VM, CLIENT).udp(1, 2, b"x");
    // Loopback forwards nothing: the lookup has no answer.
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::NoRoute)
        .with(Action::Pass)
        .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 0));
}

#[test]
fn an_eip_on_this_node_is_delivered_here() {
    const SECOND: &str = "203.0.113.11";
    const SECOND_VM: &str = "10.244.1.11";
    for (lane, reason) in [
        (Delivery::Peer, Reason::DeliveredPeer),
        (Delivery::Xdp, Reason::DeliveredPeer),
        (Delivery::Neigh, Reason::DeliveredNeigh),
        (Delivery::Stack, Reason::DeliveredStack),
    ] {
        let mut world = World::node();
        let first = world.bind(EIP, VM, Delivery::Peer);
        let second = world.bind_at(SECOND, SECOND_VM, lane, OTHER_PORT);
        let packet = ends(VM, SECOND).tcp(40000, 22, "S", b"");
        let run = world.send(Hook::DoorOut, &packet);
        run.ended(reason);
        let here = reason == Reason::DeliveredPeer;
        let hops = u8::from(lane != Delivery::Stack);
        let destination = if here { ip(SECOND_VM) } else { ip(SECOND) };
        let expected = translated(&packet, ip(EIP), destination, hops);
        if here {
            run.carried(&[(first, 0, 1), (second, 1, 0)])
                .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        } else {
            run.carried(&[(first, 0, 1)]).leaving(&expected);
        }
        checksums_are_right(&run.packet).unwrap();
    }
}

#[test]
fn a_vm_reaches_itself_by_its_own_eip() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(VM, EIP).echo_request(9, b"me");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::DeliveredPeer)
        .with(Action::Redirect)
        .carried(&[(slot, 1, 1)])
        .leaving(&with_macs(
            translated(&packet, ip(EIP), ip(VM), 1),
            VM_MAC,
            DOOR_MAC,
        ));
}

#[test]
fn an_eip_on_another_node_is_reached_by_the_network() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(VM, "203.0.113.99").udp(1, 2, b"x");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::SentToUplink)
        .carried(&[(slot, 0, 1)])
        .leaving(&translated(&packet, ip(EIP), ip("203.0.113.99"), 1));
}

#[test]
fn a_hairpin_whose_ttl_ends_or_size_exceeds_goes_to_the_kernel_as_the_eip() {
    let mut world = World::node();
    world.net("203.0.113.0/24", NET_EIP);
    world.bind(EIP, VM, Delivery::Peer);
    world.put_binding(
        "203.0.113.11",
        binding(
            ip("10.244.1.11"),
            Delivery::Peer,
            OTHER_PORT,
            5,
            BINDING_PRIMARY,
        ),
    );
    for (packet, reason) in [
        (
            ends(VM, "203.0.113.11").ttl(1).udp(1, 2, b""),
            Reason::TtlExceeded,
        ),
        (
            ends(VM, "203.0.113.11").udp(1, 2, &[0; 1400]),
            Reason::TooLarge,
        ),
    ] {
        world
            .send(Hook::DoorOut, &packet)
            .ended(reason)
            .with(Action::Pass)
            .leaving(&translated(&packet, ip(EIP), ip("203.0.113.11"), 0));
    }
}
