//! ICMPv6 errors: the packet around and the packet inside. Every expected packet is built from scratch
//! with the addresses it has to have, in and around the quote.
use eip_bpf_tests::{
    Action, World,
    packet::with_macs,
    packet6::{Ends6, destination_options, ends6, fragment_header, hop_by_hop},
    world::{DOOR_MAC, OTHER_PORT, VM_MAC},
};
use eip_common::{
    abi::Delivery,
    reason::{Hook, Reason},
};
use etherparse::{
    Icmpv6Type,
    icmpv6::{DestUnreachableCode, ParameterProblemCode, ParameterProblemHeader, TimeExceededCode},
};

const CLIENT: &str = "2001:db8:c::7";
const ROUTER: &str = "2001:db8:f::1";
const EIP: &str = "2001:db8:e::10";
const SECOND: &str = "2001:db8:e::20";
const VM: &str = "fd00:10:244:1::10";
const OTHER_VM: &str = "fd00:10:244:2::20";
const POD: &str = "fd00:10:244:9::9";

fn kinds() -> [Icmpv6Type; 4] {
    [
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
        Icmpv6Type::PacketTooBig { mtu: 1300 },
        Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        Icmpv6Type::ParameterProblem(ParameterProblemHeader {
            code: ParameterProblemCode::UnrecognizedNextHeader,
            pointer: 40,
        }),
    ]
}

/// A quote of a packet between whatever ends.
type Quote = Box<dyn Fn(Ends6) -> Vec<u8>>;

fn quotes() -> Vec<(&'static str, Quote)> {
    fn cut(len: usize, build: impl Fn(Ends6) -> Vec<u8> + 'static) -> Quote {
        Box::new(move |ends| {
            let mut packet = build(ends);
            packet.truncate(len);
            packet
        })
    }
    let tcp = |ends: Ends6| ends.packet(&[], 6, &ends.tcp_bytes(22, 40000, "A", &[1; 65]));
    let udp = |ends: Ends6| ends.packet(&[], 17, &ends.udp_bytes(53, 40000, &[1; 65]));
    let plain = |ends: Ends6| {
        let mut datagram = ends.udp_bytes(53, 40000, &[1; 65]);
        datagram[6..8].copy_from_slice(&[0, 0]);
        ends.packet(&[], 17, &datagram)
    };
    let echo = |ends: Ends6| {
        let id = etherparse::IcmpEchoHeader { id: 7, seq: 1 };
        let kind = Icmpv6Type::EchoRequest(id);
        ends.packet(&[], 58, &ends.icmp_bytes(&kind, b"12345678"))
    };
    let behind = |ends: Ends6| {
        let chain = [hop_by_hop(1), destination_options(2)];
        ends.packet(&chain, 17, &ends.udp_bytes(53, 40000, b"x"))
    };
    let first = |ends: Ends6| {
        let datagram = ends.udp_bytes(53, 40000, &[2; 1500]);
        ends.packet(&[fragment_header(0, true, 9)], 17, &datagram[..1200])
    };
    let later = |ends: Ends6| ends.packet(&[fragment_header(1200, false, 9)], 17, &[5; 64]);
    let endless = |ends: Ends6| ends.packet(&vec![hop_by_hop(1); 9], 17, &[0; 8]);
    // RFC 4884: the quote is padded to 128 bytes; an extension follows.
    let extended = move |ends: Ends6| {
        let mut quote = udp(ends);
        quote.resize(128, 0);
        quote.extend_from_slice(&[0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0, 0, 1, 1]);
        quote
    };
    vec![
        ("the IP header and nothing else", cut(40, tcp)),
        ("8 bytes of TCP", cut(48, tcp)),
        ("16 bytes of TCP", cut(56, tcp)),
        ("a TCP header", cut(60, tcp)),
        ("a whole TCP segment", Box::new(tcp)),
        ("6 bytes of UDP", cut(46, udp)),
        ("8 bytes of UDP", cut(48, udp)),
        ("a whole UDP datagram", Box::new(udp)),
        ("UDP without checksum", Box::new(plain)),
        ("an echo request", Box::new(echo)),
        ("2 bytes of an echo request", cut(42, echo)),
        ("UDP behind options", Box::new(behind)),
        ("options cut short", cut(50, behind)),
        ("a first fragment", cut(1000, first)),
        ("a later fragment", Box::new(later)),
        ("a chain without end", Box::new(endless)),
        ("GRE", Box::new(|ends: Ends6| ends.packet(&[], 47, &[0; 8]))),
        ("an RFC 4884 extension", Box::new(extended)),
    ]
}

#[test]
fn an_error_from_the_network_reaches_the_vm_about_its_own_packet() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    for kind in kinds() {
        for (name, quote) in quotes() {
            println!("{kind:?} quoting {name}");
            let sent = quote(ends6(EIP, CLIENT).hops(60));
            let seen = quote(ends6(VM, CLIENT).hops(60));
            let expected = ends6(ROUTER, VM).hops(63).icmp(&kind, &seen);
            world
                .send(Hook::UplinkTc, &ends6(ROUTER, EIP).icmp(&kind, &sent))
                .ended(Reason::DeliveredPeer)
                .with(Action::Redirect)
                .carried(&[(slot, 1, 0)])
                .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        }
    }
}

#[test]
fn an_error_of_the_vm_leaves_about_the_packet_the_peer_sent() {
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    for kind in kinds() {
        for (name, quote) in quotes() {
            println!("{kind:?} quoting {name}");
            let received = quote(ends6(CLIENT, VM).hops(60));
            let sent = quote(ends6(CLIENT, EIP).hops(60));
            world
                .send(Hook::DoorOut, &ends6(VM, CLIENT).icmp(&kind, &received))
                .ended(Reason::SentToUplink)
                .with(Action::Redirect)
                .carried(&[(slot, 0, 1)])
                .leaving(&ends6(EIP, CLIENT).hops(63).icmp(&kind, &sent));
        }
    }
}

#[test]
fn an_error_between_two_vms_of_this_node_is_translated_for_both() {
    let mut world = World::dual_stack_node();
    let mine = world.bind(EIP, VM, Delivery::Peer);
    let theirs = world.bind_at(SECOND, OTHER_VM, Delivery::Peer, OTHER_PORT);
    let kind = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
    for (name, quote) in quotes() {
        println!("{name}");
        let error = ends6(VM, SECOND).icmp(&kind, &quote(ends6(SECOND, VM)));
        let seen = quote(ends6(OTHER_VM, EIP));
        let expected = ends6(EIP, OTHER_VM).hops(63).icmp(&kind, &seen);
        world
            .send(Hook::DoorOut, &error)
            .ended(Reason::DeliveredPeer)
            .carried(&[(mine, 0, 1), (theirs, 1, 0)])
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
    }
}

#[test]
fn a_quote_about_somebody_elses_packet_stays_as_it_is() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
    for (name, quote) in quotes() {
        println!("{name}");
        let foreign = quote(ends6("2001:db8:aaaa::1", "2001:db8:bbbb::2"));
        let expected = ends6(ROUTER, VM).hops(63).icmp(&kind, &foreign);
        world
            .send(Hook::UplinkTc, &ends6(ROUTER, EIP).icmp(&kind, &foreign))
            .ended(Reason::DeliveredPeer)
            .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
    }
}

#[test]
fn an_error_without_a_whole_quoted_header_is_dropped() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
    let quote = ends6(EIP, CLIENT).packet(&[], 17, &[0; 8]);
    let mut of_ipv4 = quote.clone();
    of_ipv4[0] = 0x45;
    for quote in [&quote[..0], &quote[..1], &quote[..39], &of_ipv4[..]] {
        world
            .send(Hook::UplinkTc, &ends6(ROUTER, EIP).icmp(&kind, quote))
            .ended(Reason::Malformed)
            .with(Action::Drop)
            .carried(&[]);
    }
}

#[test]
fn an_error_behind_extension_headers_is_translated_too() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
    let build = |outer: Ends6, inner: Ends6| {
        let quote = inner.packet(&[], 17, &inner.udp_bytes(1, 2, b"x"));
        let chain = [destination_options(2)];
        outer.frame(&chain, 58, &outer.icmp_bytes(&kind, &quote))
    };
    let expected = build(ends6(ROUTER, VM).hops(63), ends6(VM, CLIENT));
    world
        .send(
            Hook::UplinkTc,
            &build(ends6(ROUTER, EIP), ends6(EIP, CLIENT)),
        )
        .ended(Reason::DeliveredPeer)
        .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
}

#[test]
fn an_error_of_the_vm_belongs_to_the_conversation_it_quotes() {
    let mut world = World::dual_stack_node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_second(EIP, SECOND, VM, Delivery::Peer);
    let kind = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
    let quote = |ends: Ends6| ends.packet(&[], 17, &ends.udp_bytes(4000, 53, b"q"));
    world
        .send(Hook::UplinkTc, &ends6(CLIENT, SECOND).udp(4000, 53, b"q"))
        .ended(Reason::DeliveredPeer);
    world
        .send(Hook::DoorIn, &ends6(POD, SECOND).udp(4000, 53, b"q"))
        .ended(Reason::Translated);
    for (peer, reason, hops) in [
        (CLIENT, Reason::SentToUplink, 63),
        (POD, Reason::SentAsFlow, 64),
    ] {
        let expected = ends6(SECOND, peer).hops(hops);
        world
            .send(
                Hook::DoorOut,
                &ends6(VM, peer).icmp(&kind, &quote(ends6(peer, VM))),
            )
            .ended(reason)
            .leaving(&expected.icmp(&kind, &quote(ends6(peer, SECOND))));
    }
}

#[test]
fn an_error_that_quotes_another_vms_conversation_does_not_carry_its_eip() {
    let mut world = World::dual_stack_node();
    let mine = world.bind(EIP, VM, Delivery::Peer);
    world.bind_at(SECOND, OTHER_VM, Delivery::Peer, OTHER_PORT);
    let question = ends6(POD, SECOND).udp(4000, 53, b"q");
    world.send(Hook::UplinkTc, &question);
    let kind = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
    let theirs = ends6(POD, OTHER_VM);
    let quote = theirs.packet(&[], 17, &theirs.udp_bytes(4000, 53, b"q"));
    let error = ends6(VM, POD).icmp(&kind, &quote);
    world
        .send(Hook::DoorOut, &error)
        .ended(Reason::Bypass)
        .carried(&[])
        .leaving(&error);
    world
        .send(Hook::DoorOut, &ends6(VM, CLIENT).icmp(&kind, &quote))
        .ended(Reason::SentToUplink)
        .carried(&[(mine, 0, 1)])
        .leaving(&ends6(EIP, CLIENT).hops(63).icmp(&kind, &quote));
}
