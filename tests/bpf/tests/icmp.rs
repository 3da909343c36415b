//! ICMP errors: the packet around and the packet inside.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics at the line that is wrong"
)]

use eip_bpf_tests::{
    Action, World, checksums_are_right,
    packet::{Ends, ends, ip, translated, with_macs},
    world::{DOOR_MAC, OTHER_PORT, VM_MAC},
};
use eip_common::{
    abi::Delivery,
    reason::{Hook, Reason},
};
use etherparse::{
    Icmpv4Type,
    icmpv4::{DestUnreachableHeader, RedirectCode, RedirectHeader, TimeExceededCode},
};

const CLIENT: &str = "198.51.100.7";
const ROUTER: &str = "192.0.2.1";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";

fn kinds() -> [Icmpv4Type; 5] {
    [
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: 1300,
        }),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        Icmpv4Type::Redirect(RedirectHeader {
            code: RedirectCode::RedirectForHost,
            gateway_internet_address: [192, 0, 2, 254],
        }),
        Icmpv4Type::ParameterProblem(etherparse::icmpv4::ParameterProblemHeader::BadLength),
    ]
}

fn quotes(quoted: Ends) -> Vec<(&'static str, Vec<u8>)> {
    let tcp = quoted.tcp(22, 40000, "A", &[1; 64])[14..].to_vec();
    let udp = quoted.udp(53, 40000, &[1; 64])[14..].to_vec();
    let plain_udp = quoted.udp_without_checksum(53, 40000, &[1; 64])[14..].to_vec();
    let options = quoted.raw_with(17, &quoted.udp(1, 2, b"x")[34..], |header| {
        header.options = [1, 1, 1, 1].into();
        header.set_payload_len(9).unwrap();
    })[14..]
        .to_vec();
    let later = quoted.raw_with(17, &[5; 64], |header| {
        header.fragment_offset = 125_u16.try_into().unwrap();
    })[14..]
        .to_vec();
    vec![
        ("8 bytes of TCP", tcp[..28].to_vec()),
        ("TCP header", tcp[..40].to_vec()),
        ("whole TCP segment", tcp),
        ("8 bytes of UDP", udp[..28].to_vec()),
        ("whole UDP datagram", udp),
        ("UDP without checksum", plain_udp[..28].to_vec()),
        ("echo", quoted.echo_request(7, b"12345678")[14..].to_vec()),
        ("later fragment", later[..28].to_vec()),
        ("GRE", quoted.raw(47, &[0; 8])[14..].to_vec()),
        ("IP options", options),
        (
            "IP header and nothing else",
            quoted.raw(6, &[9; 20])[14..34].to_vec(),
        ),
    ]
}

/// The quote with other addresses, its checksums recomputed by the independent library where the
/// whole packet is there, carried over where only 8 bytes of it are.
fn requoted(quote: &[u8], source: &str, destination: &str, whole: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(whole);
    let mut expected = translated(&frame, ip(source), ip(destination), 0)[14..].to_vec();
    expected.truncate(quote.len());
    expected
}

#[test]
fn an_error_from_the_network_reaches_the_vm_about_its_own_packet() {
    for kind in kinds() {
        for (name, quote) in quotes(ends(EIP, CLIENT).ttl(60)) {
            println!("{kind:?} quoting {name}");
            let mut world = World::node();
            let slot = world.bind(EIP, VM, Delivery::Peer);
            let error = ends(ROUTER, EIP).icmp_error(kind.clone(), &quote);
            let run = world.send(Hook::UplinkTc, &error);
            run.ended(Reason::DeliveredPeer)
                .with(Action::Redirect)
                .carried(&[(slot, 1, 0)]);
            checksums_are_right(&run.packet).unwrap();
            assert_eq!(&run.packet[30..34], &ip(VM), "outer destination");
            assert_eq!(&run.packet[42 + 12..42 + 16], &ip(VM), "quoted source");
            assert_eq!(
                &run.packet[42 + 16..42 + 20],
                &ip(CLIENT),
                "quoted destination"
            );
            assert_eq!(run.packet.len(), error.len());
        }
    }
}

#[test]
fn the_quoted_transport_checksum_is_that_of_the_packet_the_vm_sent() {
    for (name, whole) in [
        (
            "tcp",
            ends(EIP, CLIENT).tcp(22, 40000, "A", &[1; 33])[14..].to_vec(),
        ),
        (
            "udp",
            ends(EIP, CLIENT).udp(53, 40000, &[1; 33])[14..].to_vec(),
        ),
        (
            "plain udp",
            ends(EIP, CLIENT).udp_without_checksum(53, 40000, &[1; 33])[14..].to_vec(),
        ),
    ] {
        for length in [28, 40, whole.len()] {
            println!("{name} {length}");
            if name == "tcp" && length == 28 {
                continue; // its checksum is not quoted
            }
            let quote = &whole[..length.min(whole.len())];
            let kind = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
            let error = ends(ROUTER, EIP).icmp_error(kind.clone(), quote);
            let expected = ends(ROUTER, VM)
                .ttl(63)
                .icmp_error(kind, &requoted(quote, VM, CLIENT, &whole));
            let mut world = World::node();
            world.bind(EIP, VM, Delivery::Peer);
            world
                .send(Hook::UplinkTc, &error)
                .ended(Reason::DeliveredPeer)
                .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
        }
    }
}

#[test]
fn an_error_of_the_vm_leaves_about_the_packet_the_peer_sent() {
    for kind in kinds() {
        for (name, quote) in quotes(ends(CLIENT, VM).ttl(60)) {
            println!("{kind:?} quoting {name}");
            let mut world = World::node();
            let slot = world.bind(EIP, VM, Delivery::Peer);
            let error = ends(VM, CLIENT).icmp_error(kind.clone(), &quote);
            let run = world.send(Hook::DoorOut, &error);
            run.ended(Reason::SentToUplink).carried(&[(slot, 0, 1)]);
            checksums_are_right(&run.packet).unwrap();
            assert_eq!(&run.packet[26..30], &ip(EIP), "outer source");
            assert_eq!(&run.packet[42 + 12..42 + 16], &ip(CLIENT), "quoted source");
            assert_eq!(
                &run.packet[42 + 16..42 + 20],
                &ip(EIP),
                "quoted destination"
            );
        }
    }
}

#[test]
fn errors_with_extensions_keep_them() {
    // RFC 4884: the quote padded to 128 bytes, its length in words in the second half of the header,
    // then an extension structure with a checksum of its own.
    let whole = ends(EIP, CLIENT).udp(53, 40000, &[1; 64])[14..].to_vec();
    let mut quote = whole.clone();
    quote.resize(128, 0);
    let extension = [0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0, 1, 2, 3];
    quote.extend_from_slice(&extension);
    let kind = Icmpv4Type::Unknown {
        type_u8: 11,
        code_u8: 0,
        bytes5to8: [0, 32, 0, 0],
    };
    let error = ends(ROUTER, EIP).icmp_error(kind.clone(), &quote);
    let mut expected_quote = requoted(&whole, VM, CLIENT, &whole);
    expected_quote.resize(128, 0);
    expected_quote.extend_from_slice(&extension);
    let expected = ends(ROUTER, VM).ttl(63).icmp_error(kind, &expected_quote);
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world
        .send(Hook::UplinkTc, &error)
        .ended(Reason::DeliveredPeer)
        .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
}

#[test]
fn an_error_between_two_vms_of_this_node_is_translated_for_both() {
    const SECOND: &str = "203.0.113.11";
    const SECOND_VM: &str = "10.244.1.11";
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_at(SECOND, SECOND_VM, Delivery::Peer, OTHER_PORT);
    // The second VM had sent from its EIP; the first saw SECOND -> VM and complains about it.
    let quote = ends(SECOND, VM).udp(5, 9, b"closed")[14..].to_vec();
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let error = ends(VM, SECOND).icmp_error(kind.clone(), &quote);
    let run = world.send(Hook::DoorOut, &error);
    run.ended(Reason::DeliveredPeer);
    let expected = ends(EIP, SECOND_VM)
        .ttl(63)
        .icmp_error(kind, &ends(SECOND_VM, EIP).udp(5, 9, b"closed")[14..]);
    run.leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
}

#[test]
fn a_quote_about_somebody_elses_packet_stays_as_it_is() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let quote = ends("198.51.100.1", "198.51.100.2").udp(1, 2, b"foreign")[14..].to_vec();
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    let error = ends(ROUTER, EIP).icmp_error(kind.clone(), &quote);
    let expected = ends(ROUTER, VM).ttl(63).icmp_error(kind, &quote);
    world
        .send(Hook::UplinkTc, &error)
        .ended(Reason::DeliveredPeer)
        .leaving(&with_macs(expected, VM_MAC, DOOR_MAC));
}

#[test]
fn an_error_without_a_whole_quoted_header_is_dropped() {
    let quote = ends(EIP, CLIENT).udp(1, 2, b"x")[14..].to_vec();
    let mut version = quote.clone();
    version[0] = 0x65;
    let mut header_len = quote.clone();
    header_len[0] = 0x4f;
    for (name, quote) in [
        ("nothing quoted", Vec::new()),
        ("19 bytes", quote[..19].to_vec()),
        ("not IPv4", version),
        ("a header longer than the quote", header_len),
    ] {
        println!("{name}");
        let mut world = World::node();
        world.bind(EIP, VM, Delivery::Peer);
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        let error = ends(ROUTER, EIP).icmp_error(kind, &quote);
        world
            .send(Hook::UplinkTc, &error)
            .ended(Reason::Malformed)
            .with(Action::Drop)
            .carried(&[]);
    }
}

#[test]
fn an_error_that_quotes_or_extends_less_than_it_claims_is_carried_as_far_as_it_goes() {
    let whole = ends(EIP, CLIENT).udp(53, 40000, &[1; 64])[14..].to_vec();
    // The quoted packet says that it is larger than any quote, and longer than any packet.
    let mut huge = whole[..28].to_vec();
    huge[2..4].copy_from_slice(&[0xff, 0xff]);
    let inner = etherparse::Ipv4HeaderSlice::from_slice(&huge)
        .unwrap()
        .to_header();
    huge[10..12].copy_from_slice(&inner.calc_header_checksum().to_be_bytes());
    for (name, rest, quote) in [
        ("a total length of 65535", [0; 4], huge),
        // RFC 4884: the quote is 255 words long, which it is not.
        (
            "an extension beyond the message",
            [0, 255, 0, 0],
            whole[..36].to_vec(),
        ),
    ] {
        println!("{name}");
        let mut world = World::node();
        let slot = world.bind(EIP, VM, Delivery::Peer);
        let kind = Icmpv4Type::Unknown {
            type_u8: 11,
            code_u8: 0,
            bytes5to8: rest,
        };
        let error = ends(ROUTER, EIP).icmp_error(kind, &quote);
        let run = world.send(Hook::UplinkTc, &error);
        run.ended(Reason::DeliveredPeer).carried(&[(slot, 1, 0)]);
        // A sum over everything, its checksum included: etherparse's types would leave `rest` out.
        for packet in [&error, &run.packet] {
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet[34..]);
            assert_eq!(sum.ones_complement(), 0);
        }
        let quoted = &run.packet[42..];
        assert_eq!(quoted[12..16], ip(VM));
        assert_eq!(quoted[16..20], ip(CLIENT));
        assert_eq!(run.packet[38..42], rest);
    }
}

#[test]
fn an_error_that_is_dropped_on_its_way_to_an_eip_of_this_node_is_not_counted_as_carried() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    world
        .send(Hook::DoorOut, &ends(VM, EIP).icmp_error(kind, &[]))
        .ended(Reason::Malformed)
        .with(Action::Drop)
        .carried(&[]);
}
