//! IPv6, one packet at a time: what `ingress`, `egress` and `flows` say of IPv4. Every expected packet is
//! built from scratch with the addresses it has to have.

use eip_bpf_tests::{
    Action, World,
    packet::with_macs,
    packet6::{
        Ends6, Extension, authentication, destination_options, ends6, fragment_header, hop_by_hop,
        ip6, routing,
    },
    world::{DOOR_MAC, OTHER_PORT, VM_MAC},
};
use eip_common::{
    abi::{Delivery, FlowKey},
    reason::{Hook, Reason},
};

const CLIENT: &str = "2001:db8:c::7";
const EIP: &str = "2001:db8:e::10";
const SECOND: &str = "2001:db8:e::20";
const VM: &str = "fd00:10:244:1::10";
const POD: &str = "fd00:10:244:9::9";

/// A packet between whatever ends.
type Built = Box<dyn Fn(Ends6) -> Vec<u8>>;

/// Packets of every kind that is carried by address, ports or checksum.
fn packets() -> Vec<(&'static str, Built)> {
    fn behind(chain: Vec<Extension>) -> Built {
        Box::new(move |ends| ends.frame(&chain, 17, &ends.udp_bytes(5000, 53, b"question")))
    }
    vec![
        (
            "tcp syn",
            Box::new(|ends: Ends6| ends.tcp(40000, 22, "S", b"")),
        ),
        (
            "tcp",
            Box::new(|ends: Ends6| ends.tcp(40000, 22, "A", b"odd")),
        ),
        (
            "udp",
            Box::new(|ends: Ends6| ends.udp(40000, 53, b"question")),
        ),
        (
            "udp without checksum",
            Box::new(|ends: Ends6| ends.udp_without_checksum(40000, 4789, b"tunnel")),
        ),
        (
            "echo request",
            Box::new(|ends: Ends6| ends.echo_request(7, b"payload")),
        ),
        (
            "echo reply",
            Box::new(|ends: Ends6| ends.echo_reply(7, b"payload")),
        ),
        (
            "an unknown ICMPv6 message",
            Box::new(|ends: Ends6| ends.icmp_raw(200, b"experiment")),
        ),
        (
            "gre",
            Box::new(|ends: Ends6| ends.frame(&[], 47, &[0, 0, 0x86, 0xdd, 1, 2, 3])),
        ),
        ("esp", Box::new(|ends: Ends6| ends.frame(&[], 50, &[7; 32]))),
        (
            "no next header",
            Box::new(|ends: Ends6| ends.frame(&[], 59, &[])),
        ),
        (
            "ICMP of IPv4",
            Box::new(|ends: Ends6| ends.frame(&[], 1, &[3, 4, 0, 0])),
        ),
        (
            "later fragment",
            Box::new(|ends: Ends6| ends.fragments(17, &[9; 2000], 1000).remove(1)),
        ),
        ("hop-by-hop options", behind(vec![hop_by_hop(2)])),
        (
            "long destination options",
            behind(vec![destination_options(30)]),
        ),
        ("a finished routing header", behind(vec![routing(0)])),
        ("an authentication header", behind(vec![authentication()])),
        (
            "an atomic fragment",
            behind(vec![fragment_header(0, false, 5)]),
        ),
        (
            "all six kinds",
            behind(vec![
                hop_by_hop(1),
                destination_options(2),
                routing(0),
                fragment_header(0, false, 5),
                authentication(),
                destination_options(1),
            ]),
        ),
        ("seven headers", behind(vec![destination_options(1); 7])),
    ]
}

#[test]
fn peer_lane_translates_address_hop_limit_macs_and_checksums() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    for (name, packet) in packets() {
        println!("{name}");
        let expected = packet(ends6(CLIENT, VM).hops(63));
        world
            .send(Hook::UplinkTc, &packet(ends6(CLIENT, EIP)))
            .ended(Reason::DeliveredPeer)
            .with(Action::Redirect)
            .carried(&[(slot, 1, 0)])
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
    }
}

#[test]
fn neigh_and_stack_lanes_leave_the_translation_to_the_door() {
    for (lane, reason, action, hops) in [
        (
            Delivery::Neigh,
            Reason::DeliveredNeigh,
            Action::Redirect,
            63,
        ),
        (Delivery::Stack, Reason::DeliveredStack, Action::Pass, 64),
    ] {
        let mut world = World::dual_stack_node();
        let slot = world.bind(EIP, VM, lane);
        for (name, packet) in packets() {
            println!("{name}");
            let at_the_door = packet(ends6(CLIENT, EIP).hops(hops));
            world
                .send(Hook::UplinkTc, &packet(ends6(CLIENT, EIP)))
                .ended(reason)
                .with(action)
                .carried(&[])
                .leaving(&at_the_door);
            world
                .send(Hook::DoorIn, &at_the_door)
                .ended(Reason::Translated)
                .with(Action::Pass)
                .carried(&[(slot, 1, 0)])
                .leaving(&packet(ends6(CLIENT, VM).hops(hops)));
        }
    }
}

#[test]
fn express_lane_takes_packets_without_extension_headers() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Xdp);
    for (name, packet) in packets() {
        println!("{name}");
        let frame = packet(ends6(CLIENT, EIP));
        let has_extensions = matches!(frame[20], 0 | 43 | 44 | 51 | 60);
        let run = world.send(Hook::UplinkXdp, &frame);
        if has_extensions {
            run.ended(Reason::LeftToTc)
                .with(Action::Pass)
                .carried(&[])
                .leaving(&frame);
        } else {
            let expected = packet(ends6(CLIENT, VM).hops(63));
            run.ended(Reason::DeliveredXdp)
                .with(Action::Redirect)
                .carried(&[(slot, 1, 0)])
                .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        }
    }
}

#[test]
fn xdp_leaves_every_other_packet_of_an_eip_to_tc() {
    let discovery = |ends: Ends6| ends.hops(255).icmp_raw(135, &[0; 16]);
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Xdp);
    for frame in [
        ends6(CLIENT, EIP).hops(1).udp(1, 2, b"x"),
        ends6(CLIENT, EIP).udp(1, 2, &[0; 1400]),
        ends6(POD, EIP).udp(1, 2, b"x"),
        ends6(SECOND, EIP).udp(1, 2, b"x"),
        ends6(CLIENT, EIP).icmp_raw(3, &[0; 48]),
        discovery(ends6("fe80::1", EIP)),
    ] {
        world
            .send(Hook::UplinkXdp, &frame)
            .ended(Reason::LeftToTc)
            .with(Action::Pass)
            .leaving(&frame);
    }
    let elsewhere = ends6(CLIENT, SECOND).udp(1, 2, b"x");
    world
        .send(Hook::UplinkXdp, &elsewhere)
        .ended(Reason::NotEip)
        .leaving(&elsewhere);
}

#[test]
fn the_vm_leaves_with_its_eip() {
    for (lane, reason, action, hops) in [
        (Delivery::Peer, Reason::SentToUplink, Action::Redirect, 63),
        (Delivery::Stack, Reason::SentToStack, Action::Pass, 64),
    ] {
        let mut world = World::dual_stack_node();
        let slot = world.bind(EIP, VM, lane);
        for (name, packet) in packets() {
            println!("{name}");
            world
                .send(Hook::DoorOut, &packet(ends6(VM, CLIENT)))
                .ended(reason)
                .with(action)
                .carried(&[(slot, 0, 1)])
                .leaving(&packet(ends6(EIP, CLIENT).hops(hops)));
        }
    }
}

#[test]
fn what_the_kernel_has_to_answer_goes_to_it_with_the_eip() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let build = |ends: Ends6, len: usize| ends.udp(1, 2, &vec![0; len]);
    let ends_here = build(ends6(CLIENT, EIP).hops(1), 1);
    world
        .send(Hook::UplinkTc, &ends_here)
        .ended(Reason::TtlExceeded)
        .with(Action::Pass)
        .carried(&[])
        .leaving(&ends_here);
    for (hops, len, reason) in [
        (1, 1, Reason::TtlExceeded),
        (64, 1500 - 48 + 1, Reason::TooLarge),
    ] {
        world
            .send(Hook::DoorOut, &build(ends6(VM, CLIENT).hops(hops), len))
            .ended(reason)
            .with(Action::Pass)
            .carried(&[(slot, 0, 1)])
            .leaving(&build(ends6(EIP, CLIENT).hops(hops), len));
    }
    world
        .send(Hook::UplinkTc, &build(ends6(CLIENT, EIP), 1400 - 48))
        .ended(Reason::DeliveredPeer);
}

#[test]
fn a_super_packet_is_judged_by_its_segments() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let packet = ends6(CLIENT, EIP).tcp(1, 2, "A", &[0; 2600]);
    for (segment, reason) in [
        (1400 - 60, Reason::DeliveredPeer),
        (1400 - 60 + 1, Reason::TooLargeAnswered),
    ] {
        world
            .send_segmented(Hook::UplinkTc, &packet, segment)
            .ended(reason);
    }
}

#[test]
fn fragments_of_a_datagram_travel_along_and_add_up() {
    let whole = |ends: Ends6| ends.fragments(17, &ends.udp_bytes(1, 2, &[3; 3000]), 1200);
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let arriving = whole(ends6(CLIENT, VM).hops(63));
    for (fragment, expected) in whole(ends6(CLIENT, EIP)).iter().zip(arriving) {
        world
            .send(Hook::UplinkTc, fragment)
            .ended(Reason::DeliveredPeer)
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
    }
    let leaving = whole(ends6(EIP, CLIENT).hops(63));
    for (fragment, expected) in whole(ends6(VM, CLIENT)).iter().zip(leaving) {
        world
            .send(Hook::DoorOut, fragment)
            .ended(Reason::SentToUplink)
            .leaving(&expected);
    }
}

#[test]
fn chains_that_end_nowhere_or_lie_are_dropped() {
    let udp = |ends: Ends6| ends.udp_bytes(1, 2, b"x");
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    for (hook, ends) in [
        (Hook::UplinkTc, ends6(CLIENT, EIP)),
        (Hook::DoorIn, ends6(CLIENT, EIP)),
        (Hook::DoorOut, ends6(VM, CLIENT)),
    ] {
        let beyond = destination_options(1);
        let mut longer_than_it_is = ends.frame(&[hop_by_hop(1)], 17, &udp(ends));
        longer_than_it_is[14 + 40 + 1] = 9;
        let mut shorter_than_it_says = ends.frame(&[], 17, &udp(ends));
        shorter_than_it_says[19] += 1;
        for (name, frame) in [
            (
                "eight headers",
                ends.frame(&vec![beyond; 8], 17, &udp(ends)),
            ),
            ("segments left", ends.frame(&[routing(1)], 17, &udp(ends))),
            ("a header longer than the packet", longer_than_it_is),
            ("a packet longer than the frame", shorter_than_it_says),
            ("a chain cut short", ends.frame(&[hop_by_hop(1)], 60, &[])),
            ("a UDP header cut short", ends.frame(&[], 17, &[0; 7])),
            (
                "a TCP header cut short behind options",
                ends.frame(&[hop_by_hop(1)], 6, &[0; 19]),
            ),
            ("an ICMPv6 header cut short", ends.frame(&[], 58, &[128; 7])),
        ] {
            println!("{name} at {}", hook.name());
            world
                .send(hook, &frame)
                .ended(Reason::Malformed)
                .with(Action::Drop)
                .carried(&[]);
        }
    }
}

#[test]
fn neighbour_discovery_and_what_never_leaves_the_link_is_not_touched() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let solicitation = |ends: Ends6| ends.hops(255).icmp_raw(135, &[0; 16]);
    let advertisement = |ends: Ends6| ends.hops(255).icmp_raw(136, &[0; 16]);
    let gateway = "fd00:10:244:1::1";
    for packet in [
        solicitation(ends6(VM, "ff02::1:ff00:1")),
        solicitation(ends6(VM, "fe80::1")),
        solicitation(ends6(VM, gateway)),
        advertisement(ends6(VM, gateway)),
        ends6(VM, "ff02::2").hops(255).icmp_raw(133, &[]),
        ends6(VM, "ff02::16").icmp_raw(143, &[0; 4]),
        ends6(VM, "ff02::fb").udp(5353, 5353, b"query"),
        ends6(VM, "fe80::1").udp(546, 547, b"renew"),
    ] {
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::LinkScope)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&packet);
    }
    for packet in [
        solicitation(ends6("fe80::2", "fe80::5")),
        solicitation(ends6("::", "ff02::1:ff00:10")),
    ] {
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::NotBound)
            .leaving(&packet);
    }
    for packet in [
        solicitation(ends6(gateway, VM)),
        advertisement(ends6("fe80::1", VM)),
    ] {
        world
            .send(Hook::DoorIn, &packet)
            .ended(Reason::Direct)
            .leaving(&packet);
    }
    // What is answered on an uplink is in `neighbour`; the rest goes on to the kernel.
    let advertised = ends6("fe80::1", EIP).hops(255).icmp_raw(134, &[0; 8]);
    world
        .send(Hook::UplinkTc, &advertised)
        .ended(Reason::LinkScope)
        .with(Action::Pass)
        .leaving(&advertised);
}

#[test]
fn discovery_of_a_stranger_beyond_the_link_does_not_leave_with_the_vms_address() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let build = |ends: Ends6| ends.icmp_raw(135, &[0; 16]);
    world
        .send(Hook::DoorOut, &build(ends6(VM, CLIENT).hops(255)))
        .ended(Reason::SentToUplink)
        .leaving(&build(ends6(EIP, CLIENT).hops(254)));
}

#[test]
fn nobody_sends_with_an_address_that_is_not_its_own() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_at(SECOND, "fd00:10:244:2::20", Delivery::Peer, OTHER_PORT);
    for (hook, source, destination, reason) in [
        (Hook::DoorOut, EIP, CLIENT, Reason::SpoofedEip),
        (Hook::DoorOut, "2001:db8:e::99", CLIENT, Reason::SpoofedEip),
        (
            Hook::DoorOut,
            "fd00:10:244:2::20",
            CLIENT,
            Reason::SpoofedVm,
        ),
        (Hook::UplinkTc, EIP, EIP, Reason::SpoofedFromNetwork),
        (Hook::UplinkTc, SECOND, EIP, Reason::SpoofedFromNetwork),
    ] {
        world
            .send(hook, &ends6(source, destination).udp(1, 2, b"x"))
            .ended(reason)
            .with(Action::Drop)
            .carried(&[]);
    }
    let flooded = ends6(CLIENT, SECOND).udp(1, 2, b"x");
    world
        .send(Hook::DoorIn, &flooded)
        .ended(Reason::WrongPort)
        .with(Action::Pass)
        .leaving(&flooded);
}

#[test]
fn an_eip_on_this_node_is_delivered_here() {
    let mut world = World::dual_stack_node();
    let mine = world.bind(EIP, VM, Delivery::Peer);
    let theirs = world.bind_at(SECOND, "fd00:10:244:2::20", Delivery::Peer, OTHER_PORT);
    for (name, packet) in packets() {
        println!("{name}");
        let expected = packet(ends6(EIP, "fd00:10:244:2::20").hops(63));
        world
            .send(Hook::DoorOut, &packet(ends6(VM, SECOND)))
            .ended(Reason::DeliveredPeer)
            .with(Action::Redirect)
            .carried(&[(mine, 0, 1), (theirs, 1, 0)])
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
    }
}

fn key(peer: &str, vm_port: u16, peer_port: u16, protocol: u8) -> FlowKey<[u8; 16]> {
    FlowKey {
        vm: ip6(VM),
        peer: ip6(peer),
        vm_port: vm_port.to_be_bytes(),
        peer_port: peer_port.to_be_bytes(),
        protocol,
        reserved: [0; 3],
    }
}

#[test]
fn pods_talk_to_the_vms_own_address_and_are_answered_by_the_eip_they_asked() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let conversations: [(Built, Built, FlowKey<[u8; 16]>); 3] = [
        (
            Box::new(|ends| ends.tcp(4000, 80, "S", b"")),
            Box::new(|ends| ends.tcp(80, 4000, "SA", b"")),
            key(POD, 80, 4000, 6),
        ),
        (
            Box::new(|ends| ends.udp(4000, 53, b"q")),
            Box::new(|ends| ends.udp(53, 4000, b"a")),
            key(POD, 53, 4000, 17),
        ),
        (
            Box::new(|ends| ends.echo_request(9, b"")),
            Box::new(|ends| ends.echo_reply(9, b"")),
            key(POD, 9, 9, 58),
        ),
    ];
    for (question, reply, key) in conversations {
        let direct = reply(ends6(VM, POD));
        world
            .send(Hook::DoorOut, &direct)
            .ended(Reason::Bypass)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&direct);
        world
            .send(Hook::DoorIn, &question(ends6(POD, EIP)))
            .ended(Reason::Translated)
            .leaving(&question(ends6(POD, VM)));
        assert_eq!(world.flow(&key), Some(ip6(EIP)));
        world
            .send(Hook::DoorOut, &reply(ends6(VM, POD)))
            .ended(Reason::SentAsFlow)
            .with(Action::Pass)
            .carried(&[(slot, 0, 1)])
            .leaving(&reply(ends6(EIP, POD)));
        world
            .send(Hook::DoorIn, &question(ends6(POD, VM)))
            .ended(Reason::Direct);
        assert_eq!(world.flow(&key), None, "the peer turned to the VM itself");
    }
}

#[test]
fn fragmented_replies_stay_with_the_eip_that_was_asked() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_second(EIP, SECOND, VM, Delivery::Peer);
    world
        .send(Hook::UplinkTc, &ends6(CLIENT, SECOND).udp(4000, 53, b"q"))
        .ended(Reason::DeliveredPeer);
    let reply = |ends: Ends6| ends.fragments(17, &ends.udp_bytes(53, 4000, &[1; 2500]), 1200);
    let expected = reply(ends6(SECOND, CLIENT).hops(63));
    for (fragment, expected) in reply(ends6(VM, CLIENT)).iter().zip(expected) {
        world
            .send(Hook::DoorOut, fragment)
            .ended(Reason::SentToUplink)
            .leaving(&expected);
    }
    let unasked = |ends: Ends6| ends.udp(1, 2, b"mine");
    world
        .send(Hook::DoorOut, &unasked(ends6(VM, CLIENT)))
        .ended(Reason::SentToUplink)
        .leaving(&unasked(ends6(EIP, CLIENT).hops(63)));
}

#[test]
fn a_vm_has_an_eip_of_each_family_at_once() {
    use eip_bpf_tests::packet::{ends, ip, translated};
    let mut world = World::dual_stack_node();
    let v4 = world.bind("203.0.113.10", "10.244.1.10", Delivery::Peer);
    let v6 = world.bind(EIP, VM, Delivery::Peer);
    let packet = ends("10.244.1.10", "198.51.100.7").udp(1, 2, b"x");
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::SentToUplink)
        .carried(&[(v4, 0, 1)])
        .leaving(&translated(
            &packet,
            ip("203.0.113.10"),
            ip("198.51.100.7"),
            1,
        ));
    world
        .send(Hook::DoorOut, &ends6(VM, CLIENT).udp(1, 2, b"x"))
        .ended(Reason::SentToUplink)
        .carried(&[(v6, 0, 1)])
        .leaving(&ends6(EIP, CLIENT).hops(63).udp(1, 2, b"x"));
}
