//! Packets made by hand: what arrives is exactly what was sent, but for the address.

use std::{net::IpAddr, time::Duration};

use eip_lab::{
    daemon::DaemonOptions,
    firewall::ForwardAccept,
    packet::{IpPacket, Transport},
    plan::{CLIENT, Dual, Family, GuestPlan, NODE_UPLINK, ROUTER_UPLINK, VM1, VM2, eip},
    sniff::{Injector, Sniffer, Way},
    traffic::{self, Bulk, PATIENCE, SILENCE},
    uplink::Uplink,
    wait::wait_until,
    world::{WireFrames, WorldOptions},
};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    UdpHeader,
};

use crate::support::{Stage, at};

/// A VM with its EIP and the client, in one family.
#[derive(Debug, Clone, Copy)]
struct Line {
    family: Family,
    vm: GuestPlan,
    own: IpAddr,
    eip: IpAddr,
    client: IpAddr,
}

impl Line {
    fn of(self, address: Dual) -> IpAddr {
        address.of(self.family)
    }
}

/// Every VM in both families.
fn lines() -> impl Iterator<Item = Line> {
    let vms = [(VM1, eip::VM1), (VM2, eip::VM2)];
    Family::BOTH.into_iter().flat_map(move |family| {
        vms.map(|(vm, eip)| Line {
            family,
            vm,
            own: vm.address.of(family),
            eip: eip.of(family),
            client: CLIENT.of(family),
        })
    })
}

fn stage() -> Stage {
    Stage::dual(WorldOptions::default(), DaemonOptions::default())
}

/// The client's end of the wire.
fn client(stage: &Stage) -> (Injector, [u8; 6]) {
    let injector = Injector::open(&stage.world.client, "eth0").unwrap();
    (
        injector,
        Injector::open(&stage.world.router, "rc0").unwrap().mac,
    )
}

/// A VM's end of the wire.
fn guest(stage: &Stage, vm: GuestPlan) -> (Injector, [u8; 6]) {
    (
        Injector::open(stage.ns(vm), "eth0").unwrap(),
        stage.gateway_mac(vm),
    )
}

fn arrives(sniffer: &Sniffer, what: &str, mark: &[u8]) -> IpPacket {
    sniffer
        .wait_for(PATIENCE, what, |frame, packet| {
            frame.way == Way::In && packet.payload.windows(mark.len()).any(|part| part == mark)
        })
        .unwrap()
}

/// An IP header of the family of the addresses; an IPv4 packet must not be fragmented.
fn header(protocol: u8, source: IpAddr, destination: IpAddr, ttl: u8) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let header = Ipv4Header::new(0, ttl, IpNumber(protocol), source, destination);
            IpHeaders::Ipv4(header.unwrap(), Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                next_header: IpNumber(protocol),
                hop_limit: ttl,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

fn frame_of(injector: &Injector, to: [u8; 6], mut header: IpHeaders, payload: &[u8]) -> Vec<u8> {
    header.set_payload_len(payload.len()).unwrap();
    let kind: [u8; 2] = match &mut header {
        IpHeaders::Ipv4(header, _) => {
            header.header_checksum = header.calc_header_checksum();
            [0x08, 0x00]
        }
        IpHeaders::Ipv6(..) => [0x86, 0xdd],
    };
    let mut frame = [to, injector.mac].concat();
    frame.extend(kind);
    header.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

#[test]
fn protocols_without_ports_are_carried_by_address() {
    let stage = stage();
    let outside = Sniffer::start(&stage.world.client).unwrap();
    for line in lines() {
        let Line {
            vm,
            own,
            eip,
            client: far,
            ..
        } = line;
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        // IPIP, GRE, ESP, SCTP, one nobody has assigned, and the other family's ICMP.
        let others = match line.family {
            Family::V4 => 58,
            Family::V6 => 1,
        };
        for protocol in [4, 47, 50, 132, 253, others] {
            let payload = format!("inward {protocol} {} {own} and more", vm.name);
            let (injector, router) = client(&stage);
            let header_in = header(protocol, far, eip, 64);
            injector
                .send(&frame_of(&injector, router, header_in, payload.as_bytes()))
                .unwrap();
            let packet = arrives(&inside, &payload, payload.as_bytes());
            assert_eq!(packet.source, far);
            assert_eq!(packet.destination, own, "protocol {protocol}");
            assert_eq!(
                (packet.protocol, &*packet.payload),
                (protocol, payload.as_bytes())
            );

            let payload = format!("outward {protocol} {} {own} and more", vm.name);
            let (injector, gateway) = guest(&stage, vm);
            let header_out = header(protocol, own, far, 64);
            injector
                .send(&frame_of(
                    &injector,
                    gateway,
                    header_out,
                    payload.as_bytes(),
                ))
                .unwrap();
            let packet = arrives(&outside, &payload, payload.as_bytes());
            assert_eq!(packet.source, eip, "protocol {protocol}");
            assert_eq!(
                (packet.protocol, &*packet.payload),
                (protocol, payload.as_bytes())
            );
        }
    }
}

/// A datagram in a frame.
fn udp(
    (injector, to): &(Injector, [u8; 6]),
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(injector.mac, *to)
        .ip(header(17, source, destination, ttl))
        .udp(5555, 9)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_and_others_stay_right() {
    let stage = stage();
    let outside = Sniffer::start(&stage.world.client).unwrap();
    for line in lines() {
        let Line {
            vm,
            own,
            eip,
            client: far,
            ..
        } = line;
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        // IPv6 hosts take no such datagram, but tunnels of theirs may (RFC 6935).
        for zero in [true, false] {
            let mark = format!("{eip} zero {zero}");
            let with_sum = |mut frame: Vec<u8>| {
                let at = if eip.is_ipv4() { 40 } else { 60 };
                if zero {
                    frame.get_mut(at..at + 2).unwrap().fill(0);
                }
                frame
            };
            let from = client(&stage);
            let frame = with_sum(udp(&from, far, eip, 64, mark.as_bytes()));
            from.0.send(&frame).unwrap();
            let packet = arrives(&inside, &mark, mark.as_bytes());
            assert_eq!(checksum(&packet), expected(zero, &packet), "{mark}, inward");

            let from = guest(&stage, vm);
            outside.clear();
            let frame = with_sum(udp(&from, own, far, 64, mark.as_bytes()));
            from.0.send(&frame).unwrap();
            let packet = arrives(&outside, &mark, mark.as_bytes());
            assert_eq!(packet.source, eip);
            assert_eq!(
                checksum(&packet),
                expected(zero, &packet),
                "{mark}, outward"
            );
        }
    }
}

fn checksum(packet: &IpPacket) -> u16 {
    let Transport::Udp { checksum, .. } = packet.transport else {
        panic!("{packet}")
    };
    checksum
}

/// Computed anew, by the library that made the packet.
fn expected(zero: bool, packet: &IpPacket) -> u16 {
    if zero {
        return 0;
    }
    let payload = packet.payload.get(8..).unwrap();
    sum(packet.source, packet.destination, payload)
}

fn sum(source: IpAddr, destination: IpAddr, payload: &[u8]) -> u16 {
    let header = UdpHeader::without_ipv4_checksum(5555, 9, payload.len()).unwrap();
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
        }
        _ => panic!("{source} and {destination} are of two families"),
    };
    sum.unwrap()
}

#[test]
fn the_node_is_a_hop_and_says_so_when_the_ttl_ends_there() {
    let stage = stage();
    for line in lines() {
        let Line {
            vm,
            eip,
            client: far,
            ..
        } = line;
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let from = client(&stage);
        // One hop for the router, one for the node.
        let frame = udp(&from, far, eip, 3, b"arrives with one");
        from.0.send(&frame).unwrap();
        assert_eq!(arrives(&inside, "TTL 3", b"arrives with one").ttl, 1);

        let frame = udp(&from, far, eip, 2, b"ends at the node");
        from.0.send(&frame).unwrap();
        let error = time_exceeded(&outside);
        assert_eq!(error.source, line.of(NODE_UPLINK));
        let quoted = error.quoted().unwrap();
        assert_eq!((quoted.source, quoted.destination), (far, eip));
    }
}

#[test]
fn a_vm_that_traces_its_way_out_sees_the_hops() {
    let stage = stage();
    for line in lines() {
        let Line {
            vm,
            own,
            client: far,
            ..
        } = line;
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let from = guest(&stage, vm);
        let probe = |ttl| udp(&from, own, far, ttl, b"probe");
        from.0.send(&probe(1)).unwrap();
        let quoted = time_exceeded(&inside).quoted().unwrap();
        assert_eq!(quoted.source, own, "the node's answer to {}", vm.name);

        inside.clear();
        from.0.send(&probe(2)).unwrap();
        let error = time_exceeded(&inside);
        assert_eq!(error.source, line.of(ROUTER_UPLINK));
        assert_eq!(error.destination, own);
        let quoted = error.quoted().unwrap();
        assert_eq!(quoted.source, own, "the router's answer to {}", vm.name);
    }
}

/// Waits for an ICMP error with these types and codes, for IPv4 and for IPv6.
fn error(sniffer: &Sniffer, what: &str, v4: (u8, u8), v6: (u8, u8)) -> IpPacket {
    sniffer
        .wait_for(PATIENCE, what, |frame, packet| {
            let Transport::Icmp { kind, code } = packet.transport else {
                return false;
            };
            let expected = if packet.source.is_ipv4() { v4 } else { v6 };
            frame.way == Way::In && (kind, code) == expected
        })
        .unwrap()
}

fn time_exceeded(sniffer: &Sniffer) -> IpPacket {
    error(sniffer, "a time exceeded", (11, 0), (3, 0))
}

#[test]
fn ip_options_do_not_hide_the_ports() {
    let stage = stage();
    for line in lines() {
        let Line {
            vm,
            own,
            eip,
            client: far,
            ..
        } = line;
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let (injector, router) = client(&stage);
        let payload = format!("behind the options of {eip}");
        let mut datagram = Vec::new();
        let mut udp = UdpHeader::without_ipv4_checksum(5555, 9, payload.len()).unwrap();
        udp.checksum = sum(far, eip, payload.as_bytes());
        // No-operations: harmless, and they move everything behind them.
        let with_options = match header(17, far, eip, 64) {
            IpHeaders::Ipv4(mut header, more) => {
                header.options = [1, 1, 1, 1].into();
                IpHeaders::Ipv4(header, more)
            }
            IpHeaders::Ipv6(mut header, more) => {
                header.next_header = IpNumber::IPV6_DESTINATION_OPTIONS;
                // Next header UDP, no further length, and a PadN of four bytes.
                datagram.extend([17, 0, 1, 4, 0, 0, 0, 0]);
                IpHeaders::Ipv6(header, more)
            }
        };
        udp.write(&mut datagram).unwrap();
        datagram.extend(payload.as_bytes());
        injector
            .send(&frame_of(&injector, router, with_options, &datagram))
            .unwrap();
        let packet = arrives(&inside, "the datagram with options", payload.as_bytes());
        assert_eq!(packet.destination, own);
        assert_eq!(checksum(&packet), expected(false, &packet));
    }
}

#[test]
fn a_closed_port_is_refused_in_both_directions() {
    let stage = stage();
    for line in lines() {
        let Line {
            vm,
            own,
            eip,
            client: far,
            ..
        } = line;
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let from = client(&stage);
        from.0.send(&udp(&from, far, eip, 64, b"closed")).unwrap();
        let error = unreachable(&outside);
        assert_eq!(error.source, eip);
        let quoted = error.quoted().unwrap();
        assert_eq!((quoted.source, quoted.destination), (far, eip));

        let from = guest(&stage, vm);
        inside.clear();
        from.0.send(&udp(&from, own, far, 64, b"closed")).unwrap();
        let error = unreachable(&inside);
        assert_eq!((error.source, error.destination), (far, own));
        let quoted = error.quoted().unwrap();
        assert_eq!((quoted.source, quoted.destination), (own, far));
    }
}

fn unreachable(sniffer: &Sniffer) -> IpPacket {
    error(sniffer, "a port unreachable", (3, 3), (1, 4))
}

/// VMs whose links are smaller than the wire, as with an overlay.
fn small_links(delivery: &'static str, forward_accept: ForwardAccept) -> Stage {
    let world = WorldOptions {
        guest_mtu: 1400,
        forward_accept,
        ..WorldOptions::default()
    };
    Stage::dual(
        world,
        DaemonOptions {
            delivery,
            ..DaemonOptions::default()
        },
    )
}

/// Datagrams in fragments as large as the wire. Nobody cuts an IPv6 packet on its way: the sender is told,
/// and cuts the next one as it has to be.
fn fragments_arrive(stage: &Stage) {
    let client = &stage.world.client;
    for Line { eip, .. } in lines() {
        if eip.is_ipv6() {
            wait_until(Duration::from_mins(1), "the client knows how large", || {
                traffic::udp(client, at(eip), 8000, SILENCE).is_ok()
            })
            .unwrap();
        }
        let answer = traffic::udp(client, at(eip), 8000, PATIENCE).unwrap();
        assert_eq!(answer.came_from, at(eip));
        traffic::ping(client, eip, 4000, PATIENCE).unwrap();
    }
}

/// Every line of a stage with small links is told of them, by TCP, UDP and by hand.
fn the_sender_is_told(world: WorldOptions, xdp_mode: &'static str) {
    let world = WorldOptions {
        guest_mtu: 1400,
        ..world
    };
    let daemon = DaemonOptions {
        xdp_mode,
        ..DaemonOptions::default()
    };
    let mut stage = Stage::dual(world, daemon);
    // The kernel would answer from the management network now.
    stage
        .world
        .node
        .sysctl("ipv4/icmp_errors_use_inbound_ifaddr=0")
        .unwrap();
    for line in lines() {
        let Line {
            vm,
            eip,
            client: far,
            ..
        } = line;
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let (injector, router) = client(&stage);
        let header = header(17, far, eip, 64);
        injector
            .send(&frame_of(&injector, router, header, &[0; 1430]))
            .unwrap();
        let error = error(&outside, "the packet is too big", (3, 4), (2, 0));
        // Two bytes or, in ICMPv6, four, which begin with zeros.
        let mtu = error.payload.get(6..8);
        assert_eq!(mtu, Some(&1400_u16.to_be_bytes()[..]), "{}", vm.name);
        assert_eq!((error.source, error.destination), (eip, far));
        let quoted = error.quoted().unwrap();
        assert_eq!((quoted.source, quoted.destination), (far, eip));

        // The client has it from a frame of its own now; TCP has to find it by itself.
        for cache in ["ip -4 route flush cache", "ip -6 route flush cache"] {
            stage.world.client.sh(cache).unwrap();
        }
        for way in [Bulk::Upload, Bulk::Download] {
            traffic::bulk(&stage.world.client, at(eip), way, 2_000_000).unwrap();
        }
    }
    stage
        .daemon
        .settle("the answers are counted", |daemon| {
            daemon
                .count("uplink-tc", "too-large-answered")
                .is_ok_and(|count| count >= 4)
        })
        .unwrap();
}

#[test]
fn a_sender_of_packets_too_large_for_the_vm_is_told_by_the_eip() {
    the_sender_is_told(WorldOptions::default(), "auto");
}

#[test]
fn a_sender_of_packets_too_large_for_the_vm_is_told_without_xdp() {
    the_sender_is_told(WorldOptions::default(), "off");
}

#[test]
fn a_sender_of_packets_too_large_for_the_vm_is_told_through_a_vlan_in_a_vlan() {
    let world = WorldOptions {
        uplink: Uplink::QinQ,
        ..WorldOptions::default()
    };
    the_sender_is_told(world, "auto");
}

/// GRO, super-packets and unfinished checksums on the uplink: the frame that goes back has one, too.
#[test]
fn a_sender_of_super_packets_too_large_for_the_vm_is_told_in_generic_xdp() {
    let world = WorldOptions {
        wire: WireFrames::Partial,
        ..WorldOptions::default()
    };
    the_sender_is_told(world, "generic");
}

#[test]
fn a_udp_sender_behind_a_virtual_nic_learns_the_mtu_of_the_vm() {
    let world = WorldOptions {
        guest_mtu: 1400,
        wire: WireFrames::Partial,
        ..WorldOptions::default()
    };
    let stage = Stage::dual(world, DaemonOptions::default());
    for Line { eip, family, .. } in lines() {
        let client = &stage.world.client;
        let whole = match family {
            Family::V4 => 1472,
            Family::V6 => 1452,
        };
        let learned = format!("the client knows the MTU toward {eip}");
        wait_until(Duration::from_mins(1), &learned, || {
            let _lost = traffic::udp(client, at(eip), whole, SILENCE);
            client
                .sh(&format!("ip route get {eip}"))
                .is_ok_and(|route| route.contains("mtu 1400"))
        })
        .unwrap();
        // Cut to pieces by their sender, as large as they may be.
        traffic::udp(client, at(eip), whole, PATIENCE).unwrap();
    }
}

#[test]
fn fragments_larger_than_the_vms_link_arrive_whatever_forward_says() {
    let stage = small_links("peer", ForwardAccept::Missing);
    fragments_arrive(&stage);
}

#[test]
fn the_stack_lane_cuts_fragments_again() {
    let stage = small_links("stack", ForwardAccept::Present);
    fragments_arrive(&stage);
}

#[test]
fn the_neigh_lane_cuts_fragments_again() {
    let stage = small_links("neigh", ForwardAccept::Present);
    fragments_arrive(&stage);
}

#[test]
fn what_the_neigh_lane_leaves_to_a_firewall_that_drops_it_is_counted() {
    let mut stage = small_links("neigh", ForwardAccept::Missing);
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 8000, SILENCE).unwrap_err();
    stage
        .daemon
        .settle("they are counted", |daemon| {
            daemon
                .count("uplink-tc", "too-large")
                .is_ok_and(|count| count > 0)
        })
        .unwrap();
}
