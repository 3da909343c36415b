//! A VM sends as itself or not at all; what is dropped is counted under its reason.

use std::{net::Ipv4Addr, time::Duration};

use eip_lab::{
    daemon::DaemonOptions,
    plan::{self, CLIENT, GuestPlan, POD2, VM1, VM2, VM3, eip},
    sniff::{Injector, Sniffer},
    traffic::{self, PATIENCE},
    wait,
    world::WorldOptions,
};
use etherparse::PacketBuilder;

use crate::support::{Stage, at};

const PORT: u16 = 9;

/// `vm1` routed, `vm2` and `vm3` on one bridge, all with an EIP.
fn stage() -> Option<Stage> {
    let guests = vec![VM1, VM2, VM3, plan::POD1, POD2];
    let world = WorldOptions {
        guests,
        ..WorldOptions::default()
    };
    let mut stage = Stage::new(world, DaemonOptions::default())?;
    stage.daemon.serve(&VM3, eip::VM3.v4).unwrap();
    Some(stage)
}

fn send_as(stage: &Stage, guest: GuestPlan, to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) {
    let injector = Injector::open(stage.ns(guest), "eth0").unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(injector.mac, to_mac)
        .ipv4(from.octets(), to.octets(), 64)
        .udp(4444, PORT)
        .write(&mut frame, b"not me")
        .unwrap();
    injector.send(&frame).unwrap();
}

/// Sends one forged packet toward the client and expects it to be dropped for one reason.
fn is_dropped(stage: &mut Stage, guest: GuestPlan, from: Ipv4Addr, reason: &str) {
    let gateway = stage.gateway_mac(guest);
    let before = stage.daemon.count("door-out", reason).unwrap();
    send_as(stage, guest, gateway, from, CLIENT.v4);
    stage
        .daemon
        .settle(
            &format!("{reason} is counted for {} as {from}", guest.name),
            |daemon| {
                daemon
                    .count("door-out", reason)
                    .is_ok_and(|count| count == before + 1)
            },
        )
        .unwrap();
    assert_eq!(seen_at_client(stage, from), 0, "{} as {from}", guest.name);
}

fn seen_at_client(stage: &Stage, from: Ipv4Addr) -> usize {
    stage
        .world
        .client_frames()
        .packets(|_, packet| packet.source == from && packet.payload.ends_with(b"not me"))
        .len()
}

#[test]
fn a_vm_cannot_send_with_an_elastic_ip_itself() {
    let Some(mut stage) = stage() else { return };
    for (guest, other) in [(VM1, eip::VM2.v4), (VM2, eip::VM1.v4), (VM2, eip::VM3.v4)] {
        is_dropped(&mut stage, guest, other, "spoofed-eip");
    }
    is_dropped(&mut stage, VM1, eip::VM1.v4, "spoofed-eip");
    is_dropped(&mut stage, VM2, eip::UNASSIGNED.v4, "spoofed-eip");
}

#[test]
fn a_vm_cannot_send_with_the_address_of_another() {
    let Some(mut stage) = stage() else { return };
    is_dropped(&mut stage, VM1, VM2.address.v4, "spoofed-vm");
    is_dropped(&mut stage, VM2, VM1.address.v4, "spoofed-vm");
    is_dropped(&mut stage, VM2, VM3.address.v4, "spoofed-vm");
}

#[test]
fn a_vm_cannot_pretend_to_a_neighbour_on_its_bridge() {
    let Some(mut stage) = stage() else { return };
    let sniffer = Sniffer::start(stage.ns(POD2)).unwrap();
    let before = stage.daemon.count("door-out", "spoofed-vm").unwrap();
    send_as(&stage, VM2, POD2.mac, VM3.address.v4, POD2.address.v4);
    stage
        .daemon
        .settle("the forgery is counted", |daemon| {
            daemon
                .count("door-out", "spoofed-vm")
                .is_ok_and(|count| count == before + 1)
        })
        .unwrap();
    // Under its own address it gets through, so the way was open.
    send_as(&stage, VM2, POD2.mac, VM2.address.v4, POD2.address.v4);
    let packet = sniffer
        .wait_for(PATIENCE, "the honest packet", |_, packet| {
            packet.payload.ends_with(b"not me")
        })
        .unwrap();
    assert_eq!(packet.source, VM2.address.v4);
}

#[test]
fn the_network_cannot_send_as_an_elastic_ip_of_this_node() {
    let Some(mut stage) = stage() else { return };
    let sniffer = Sniffer::start(stage.ns(VM2)).unwrap();
    let injector = Injector::open(&stage.world.router, "ru0").unwrap();
    let uplink = Injector::open(&stage.world.node, "up0").unwrap().mac;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(injector.mac, uplink)
        .ipv4(eip::VM1.v4.octets(), eip::VM2.v4.octets(), 64)
        .udp(4444, PORT)
        .write(&mut frame, b"not me")
        .unwrap();
    injector.send(&frame).unwrap();
    stage
        .daemon
        .settle("it is counted", |daemon| {
            ["uplink-xdp", "uplink-tc"].iter().any(|hook| {
                daemon
                    .count(hook, "spoofed-from-network")
                    .is_ok_and(|count| count == 1)
            })
        })
        .unwrap();
    wait::pause(Duration::from_millis(50));
    assert!(
        sniffer
            .packets(|_, packet| packet.payload.ends_with(b"not me"))
            .is_empty()
    );
}

#[test]
fn drops_are_told_for_the_binding_they_belong_to() {
    let Some(mut stage) = stage() else { return };
    is_dropped(&mut stage, VM2, eip::VM1.v4, "spoofed-eip");
    let output = stage.daemon.eipctl(&["drops"]).unwrap();
    assert!(
        output.status.success() && output.stdout.contains("spoofed-eip"),
        "{output:?}"
    );
    traffic::udp(&stage.world.client, at(eip::VM2.v4), 10, PATIENCE).unwrap();
}
