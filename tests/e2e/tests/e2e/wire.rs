//! Packets made by hand: what arrives is exactly what was sent, but for the address.

use std::net::{IpAddr, Ipv4Addr};

use eip_lab::{
    daemon::DaemonOptions,
    firewall::ForwardAccept,
    packet::{IpPacket, Transport},
    plan::{CLIENT, GuestPlan, NODE_UPLINK, ROUTER_UPLINK, VM1, VM2, eip},
    sniff::{Injector, Sniffer, Way},
    traffic::{self, Bulk, PATIENCE, SILENCE},
    world::WorldOptions,
};
use etherparse::{IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep};

use crate::support::{Stage, at};

const LANES: [(GuestPlan, Ipv4Addr); 2] = [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)];

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

fn other(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4Header {
    let mut header = Ipv4Header::new(
        0,
        64,
        IpNumber(protocol),
        source.octets(),
        destination.octets(),
    )
    .unwrap();
    header.dont_fragment = true;
    header
}

fn frame_of(injector: &Injector, to: [u8; 6], mut header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.set_payload_len(payload.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = [to, injector.mac].concat();
    frame.extend([0x08, 0x00]);
    header.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

#[test]
fn protocols_without_ports_are_carried_by_address() {
    let Some(stage) = Stage::plain() else { return };
    let outside = Sniffer::start(&stage.world.client).unwrap();
    for (vm, eip) in LANES {
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        // IPIP, GRE, ESP, SCTP, and one nobody has assigned.
        for protocol in [4, 47, 50, 132, 253] {
            let payload = format!("inward {protocol} {} and eight more bytes", vm.name);
            let (injector, router) = client(&stage);
            let header = other(protocol, CLIENT.v4, eip);
            injector
                .send(&frame_of(&injector, router, header, payload.as_bytes()))
                .unwrap();
            let packet = arrives(&inside, &payload, payload.as_bytes());
            assert_eq!(packet.source, CLIENT.v4);
            assert_eq!(packet.destination, vm.address.v4, "protocol {protocol}");
            assert_eq!(
                (packet.protocol, &*packet.payload),
                (protocol, payload.as_bytes())
            );

            let payload = format!("outward {protocol} {} and eight more bytes", vm.name);
            let (injector, gateway) = guest(&stage, vm);
            let header = other(protocol, vm.address.v4, CLIENT.v4);
            injector
                .send(&frame_of(&injector, gateway, header, payload.as_bytes()))
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

fn udp(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
) -> impl Fn(&Injector, [u8; 6]) -> PacketBuilderStep<etherparse::UdpHeader> {
    move |injector, to| {
        PacketBuilder::ethernet2(injector.mac, to)
            .ipv4(source.octets(), destination.octets(), ttl)
            .udp(5555, 9)
    }
}

fn built(step: PacketBuilderStep<etherparse::UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_and_others_stay_right() {
    let Some(stage) = Stage::plain() else { return };
    let outside = Sniffer::start(&stage.world.client).unwrap();
    for (vm, eip) in LANES {
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        for zero in [true, false] {
            let mark = format!("{} zero {zero}", vm.name);
            let with_sum = |mut frame: Vec<u8>| {
                if zero {
                    frame.get_mut(40..42).unwrap().fill(0);
                }
                frame
            };
            let (injector, router) = client(&stage);
            let frame = built(udp(CLIENT.v4, eip, 64)(&injector, router), mark.as_bytes());
            injector.send(&with_sum(frame)).unwrap();
            let packet = arrives(&inside, &mark, mark.as_bytes());
            assert_eq!(checksum(&packet), expected(zero, &packet), "{mark}, inward");

            let (injector, gateway) = guest(&stage, vm);
            let frame = built(
                udp(vm.address.v4, CLIENT.v4, 64)(&injector, gateway),
                mark.as_bytes(),
            );
            outside.clear();
            injector.send(&with_sum(frame)).unwrap();
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
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
        panic!("{packet}")
    };
    let payload = packet.payload.get(8..).unwrap();
    etherparse::UdpHeader::without_ipv4_checksum(5555, 9, payload.len())
        .unwrap()
        .calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        .unwrap()
}

#[test]
fn the_node_is_a_hop_and_says_so_when_the_ttl_ends_there() {
    let Some(stage) = Stage::plain() else { return };
    for (vm, eip) in LANES {
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let (injector, router) = client(&stage);
        // One hop for the router, one for the node.
        let frame = built(
            udp(CLIENT.v4, eip, 3)(&injector, router),
            b"arrives with one",
        );
        injector.send(&frame).unwrap();
        assert_eq!(arrives(&inside, "TTL 3", b"arrives with one").ttl, 1);

        let frame = built(
            udp(CLIENT.v4, eip, 2)(&injector, router),
            b"ends at the node",
        );
        injector.send(&frame).unwrap();
        let error = time_exceeded(&outside);
        assert_eq!(error.source, NODE_UPLINK.v4);
        let quoted = error.quoted().unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (CLIENT.v4.into(), eip.into())
        );
    }
}

#[test]
fn a_vm_that_traces_its_way_out_sees_the_hops() {
    let Some(stage) = Stage::plain() else { return };
    for (vm, _) in LANES {
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let (injector, gateway) = guest(&stage, vm);
        let probe = |ttl| {
            built(
                udp(vm.address.v4, CLIENT.v4, ttl)(&injector, gateway),
                b"probe",
            )
        };
        injector.send(&probe(1)).unwrap();
        let quoted = time_exceeded(&inside).quoted().unwrap();
        assert_eq!(
            quoted.source, vm.address.v4,
            "the node's answer to {}",
            vm.name
        );

        inside.clear();
        injector.send(&probe(2)).unwrap();
        let error = time_exceeded(&inside);
        assert_eq!(error.source, ROUTER_UPLINK.v4);
        assert_eq!(error.destination, vm.address.v4);
        let quoted = error.quoted().unwrap();
        assert_eq!(
            quoted.source, vm.address.v4,
            "the router's answer to {}",
            vm.name
        );
    }
}

fn time_exceeded(sniffer: &Sniffer) -> IpPacket {
    sniffer
        .wait_for(PATIENCE, "a time exceeded", |frame, packet| {
            frame.way == Way::In && matches!(packet.transport, Transport::Icmp { kind: 11, .. })
        })
        .unwrap()
}

#[test]
fn ip_options_do_not_hide_the_ports() {
    let Some(stage) = Stage::plain() else { return };
    for (vm, eip) in LANES {
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let (injector, router) = client(&stage);
        let mut header = other(17, CLIENT.v4, eip);
        // Four no-operations: harmless, and they move everything behind them.
        header.options = [1, 1, 1, 1].into();
        let payload = b"behind the options";
        let mut datagram = Vec::new();
        etherparse::UdpHeader::with_ipv4_checksum(5555, 9, &header, payload)
            .unwrap()
            .write(&mut datagram)
            .unwrap();
        datagram.extend(payload);
        injector
            .send(&frame_of(&injector, router, header, &datagram))
            .unwrap();
        let packet = arrives(&inside, "the datagram with options", payload);
        assert_eq!(packet.destination, vm.address.v4);
        assert_eq!(checksum(&packet), expected(false, &packet));
    }
}

#[test]
fn a_closed_port_is_refused_in_both_directions() {
    let Some(stage) = Stage::plain() else { return };
    for (vm, eip) in LANES {
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let inside = Sniffer::start(stage.ns(vm)).unwrap();
        let (injector, router) = client(&stage);
        injector
            .send(&built(
                udp(CLIENT.v4, eip, 64)(&injector, router),
                b"closed",
            ))
            .unwrap();
        let error = unreachable(&outside);
        assert_eq!(error.source, eip);
        let quoted = error.quoted().unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (CLIENT.v4.into(), eip.into())
        );

        let (injector, gateway) = guest(&stage, vm);
        inside.clear();
        injector
            .send(&built(
                udp(vm.address.v4, CLIENT.v4, 64)(&injector, gateway),
                b"closed",
            ))
            .unwrap();
        let error = unreachable(&inside);
        assert_eq!(
            (error.source, error.destination),
            (CLIENT.v4.into(), vm.address.v4.into())
        );
        let quoted = error.quoted().unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (vm.address.v4.into(), CLIENT.v4.into())
        );
    }
}

fn unreachable(sniffer: &Sniffer) -> IpPacket {
    sniffer
        .wait_for(PATIENCE, "a port unreachable", |frame, packet| {
            frame.way == Way::In && matches!(packet.transport, Transport::Icmp { kind: 3, code: 3 })
        })
        .unwrap()
}

/// VMs whose links are smaller than the wire, as with an overlay.
fn small_links(delivery: &'static str, forward_accept: ForwardAccept) -> Option<Stage> {
    let world = WorldOptions {
        guest_mtu: 1400,
        forward_accept,
        ..WorldOptions::default()
    };
    Stage::new(
        world,
        DaemonOptions {
            delivery,
            ..DaemonOptions::default()
        },
    )
}

/// Datagrams in fragments as large as the wire.
fn fragments_arrive(stage: &Stage) {
    for (_, eip) in LANES {
        let answer = traffic::udp(&stage.world.client, at(eip), 8000, PATIENCE).unwrap();
        assert_eq!(answer.came_from, at(eip));
        traffic::ping(&stage.world.client, eip.into(), 4000, PATIENCE).unwrap();
    }
}

#[test]
fn a_packet_too_large_for_the_vm_is_answered_with_its_mtu() {
    let Some(stage) = small_links("auto", ForwardAccept::Missing) else {
        return;
    };
    for (vm, eip) in LANES {
        let outside = Sniffer::start(&stage.world.client).unwrap();
        let (injector, router) = client(&stage);
        let header = other(17, CLIENT.v4, eip);
        injector
            .send(&frame_of(&injector, router, header, &[0; 1430]))
            .unwrap();
        let error = outside
            .wait_for(PATIENCE, "fragmentation needed", |frame, packet| {
                frame.way == Way::In
                    && matches!(packet.transport, Transport::Icmp { kind: 3, code: 4 })
            })
            .unwrap();
        assert_eq!(
            error.payload.get(6..8),
            Some(&1400_u16.to_be_bytes()[..]),
            "{}",
            vm.name
        );
        let quoted = error.quoted().unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (CLIENT.v4.into(), eip.into())
        );
    }
}

#[test]
fn tcp_finds_the_smaller_mtu_of_the_vm_by_itself() {
    let Some(stage) = small_links("auto", ForwardAccept::Missing) else {
        return;
    };
    for (_, eip) in LANES {
        for way in [Bulk::Upload, Bulk::Download] {
            traffic::bulk(&stage.world.client, at(eip), way, 2_000_000).unwrap();
        }
    }
}

#[test]
fn fragments_larger_than_the_vms_link_arrive_whatever_forward_says() {
    let Some(stage) = small_links("peer", ForwardAccept::Missing) else {
        return;
    };
    fragments_arrive(&stage);
}

#[test]
fn the_stack_lane_cuts_fragments_again() {
    let Some(stage) = small_links("stack", ForwardAccept::Present) else {
        return;
    };
    fragments_arrive(&stage);
}

#[test]
fn the_neigh_lane_cuts_fragments_again() {
    let Some(stage) = small_links("neigh", ForwardAccept::Present) else {
        return;
    };
    fragments_arrive(&stage);
}

#[test]
fn what_the_neigh_lane_leaves_to_a_firewall_that_drops_it_is_counted() {
    let Some(mut stage) = small_links("neigh", ForwardAccept::Missing) else {
        return;
    };
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
