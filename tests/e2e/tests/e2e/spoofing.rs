//! A VM sends as itself or not at all; what is dropped is counted under its reason.

use std::{net::IpAddr, time::Duration};

use eip_lab::{
    daemon::DaemonOptions,
    plan::{self, CLIENT, Dual, Family, GuestPlan, POD2, VM1, VM2, VM3, eip},
    sniff::{Injector, Sniffer},
    traffic::{self, PATIENCE},
    wait,
    world::WorldOptions,
};
use etherparse::PacketBuilder;

use crate::support::{Stage, at};

const PORT: u16 = 9;

/// `vm1` routed, `vm2` and `vm3` on one bridge, all with an EIP.
fn stage() -> Stage {
    let guests = vec![VM1, VM2, VM3, plan::POD1, POD2];
    let world = WorldOptions {
        guests,
        ..WorldOptions::default()
    };
    let mut stage = Stage::dual(world, DaemonOptions::default());
    for family in Family::BOTH {
        stage.daemon.serve(&VM3, eip::VM3.of(family)).unwrap();
    }
    stage
}

fn send_as(stage: &Stage, guest: GuestPlan, to_mac: [u8; 6], from: IpAddr, to: IpAddr) {
    let injector = Injector::open(stage.ns(guest), "eth0").unwrap();
    let frame = forged(injector.mac, to_mac, from, to);
    injector.send(&frame).unwrap();
}

fn forged(from_mac: [u8; 6], to_mac: [u8; 6], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from_mac, to_mac);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    };
    builder
        .udp(4444, PORT)
        .write(&mut frame, b"not me")
        .unwrap();
    frame
}

/// As [`is_dropped_in`], in each family.
fn is_dropped(stage: &mut Stage, guest: GuestPlan, from: Dual, reason: &str) {
    for family in Family::BOTH {
        is_dropped_in(stage, guest, family, from, reason);
    }
}

/// Sends one forged packet toward the client and expects it to be dropped for one reason.
fn is_dropped_in(stage: &mut Stage, guest: GuestPlan, family: Family, from: Dual, reason: &str) {
    let (from, to) = (from.of(family), CLIENT.of(family));
    let gateway = stage.gateway_mac(guest);
    let before = stage.daemon.count("door-out", reason).unwrap();
    send_as(stage, guest, gateway, from, to);
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

fn seen_at_client(stage: &Stage, from: IpAddr) -> usize {
    stage
        .world
        .client_frames()
        .packets(|_, packet| packet.source == from && packet.payload.ends_with(b"not me"))
        .len()
}

#[test]
fn a_vm_cannot_send_with_an_elastic_ip_itself() {
    let mut stage = stage();
    for (guest, other) in [(VM1, eip::VM2), (VM2, eip::VM1), (VM2, eip::VM3)] {
        is_dropped(&mut stage, guest, other, "spoofed-eip");
    }
    is_dropped(&mut stage, VM1, eip::VM1, "spoofed-eip");
    is_dropped(&mut stage, VM2, eip::UNASSIGNED, "spoofed-eip");
}

#[test]
fn a_vm_cannot_send_with_the_address_of_another() {
    let mut stage = stage();
    is_dropped(&mut stage, VM1, VM2.address, "spoofed-vm");
    is_dropped(&mut stage, VM2, VM1.address, "spoofed-vm");
    is_dropped(&mut stage, VM2, VM3.address, "spoofed-vm");
}

#[test]
fn a_vm_cannot_pretend_to_a_neighbour_on_its_bridge() {
    let mut stage = stage();
    for family in Family::BOTH {
        let [own, other, pod] = [VM2, VM3, POD2].map(|guest| guest.address.of(family));
        let sniffer = Sniffer::start(stage.ns(POD2)).unwrap();
        let before = stage.daemon.count("door-out", "spoofed-vm").unwrap();
        send_as(&stage, VM2, POD2.mac, other, pod);
        stage
            .daemon
            .settle("the forgery is counted", |daemon| {
                daemon
                    .count("door-out", "spoofed-vm")
                    .is_ok_and(|count| count == before + 1)
            })
            .unwrap();
        // Under its own address it gets through, so the way was open.
        send_as(&stage, VM2, POD2.mac, own, pod);
        let packet = sniffer
            .wait_for(PATIENCE, "the honest packet", |_, packet| {
                packet.payload.ends_with(b"not me")
            })
            .unwrap();
        assert_eq!(packet.source, own);
    }
}

#[test]
fn the_network_cannot_send_as_an_elastic_ip_of_this_node() {
    let mut stage = stage();
    let sniffer = Sniffer::start(stage.ns(VM2)).unwrap();
    let injector = Injector::open(&stage.world.router, "ru0").unwrap();
    let uplink = Injector::open(&stage.world.node, "up0").unwrap().mac;
    for (family, expected) in Family::BOTH.into_iter().zip(1..) {
        let (from, to) = (eip::VM1.of(family), eip::VM2.of(family));
        let frame = forged(injector.mac, uplink, from, to);
        injector.send(&frame).unwrap();
        stage
            .daemon
            .settle("it is counted", |daemon| {
                ["uplink-xdp", "uplink-tc"].iter().any(|hook| {
                    daemon
                        .count(hook, "spoofed-from-network")
                        .is_ok_and(|count| count == expected)
                })
            })
            .unwrap();
    }
    wait::pause(Duration::from_millis(50));
    assert!(
        sniffer
            .packets(|_, packet| packet.payload.ends_with(b"not me"))
            .is_empty()
    );
}

#[test]
fn drops_are_told_for_the_binding_they_belong_to() {
    let mut stage = stage();
    is_dropped(&mut stage, VM2, eip::VM1, "spoofed-eip");
    let output = stage.daemon.eipctl(&["drops"]).unwrap();
    assert!(
        output.status.success() && output.stdout.contains("spoofed-eip"),
        "{output:?}"
    );
    traffic::udp(&stage.world.client, at(eip::VM2.v4), 10, PATIENCE).unwrap();
}

/// The switch of the samples, as the kernel has it.
fn is_watching(stage: &Stage) -> bool {
    let path = stage.daemon.map("WATCH_V1");
    let dump = stage
        .daemon
        .bpftool(&format!(
            "-j map lookup pinned {} key 0 0 0 0",
            path.display()
        ))
        .unwrap();
    let entry: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let bytes = entry["value"].as_array().unwrap().iter().take(8);
    bytes.into_iter().any(|byte| byte != "0x00")
}

#[test]
fn drops_are_shown_as_they_happen_to_whoever_asked_for_them_and_off_when_nobody_looks() {
    let stage = stage();
    assert!(!is_watching(&stage));
    let gateway = stage.gateway_mac(VM1);
    let victim = eip::VM2.v4.to_string();
    let followed = std::thread::scope(|scope| {
        let follow = |more: &'static [&'static str], eip: String| {
            let daemon = &stage.daemon;
            scope.spawn(move || {
                let line = ["-o", "json", "drops", &eip, "--follow", "-n", "2"];
                daemon.eipctl(&[&line[..], more].concat()).unwrap()
            })
        };
        let of_victim = follow(&["--reason", "spoofed-eip,spoofed-vm"], victim.clone());
        let of_culprit = follow(&["--hook", "door-out"], eip::VM1.v4.to_string());
        wait::wait_until(PATIENCE, "samples are on", || is_watching(&stage)).unwrap();
        while !of_victim.is_finished() || !of_culprit.is_finished() {
            send_as(&stage, VM1, gateway, eip::VM2.v4.into(), CLIENT.v4.into());
            traffic::udp(&stage.world.client, at(eip::VM1.v4), 10, PATIENCE).unwrap();
        }
        [of_victim, of_culprit].map(|follow| follow.join().unwrap())
    });
    for output in followed {
        assert!(output.status.success(), "{output:?}");
        let samples = output.stdout.lines().filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event.get("sample").cloned()
        });
        let samples: Vec<_> = samples.collect();
        assert_eq!(samples.len(), 2, "{output:?}");
        for sample in samples {
            assert_eq!(sample["reason"], "spoofed-eip", "{sample:#}");
            assert_eq!(
                (&sample["hook"], &sample["class"]),
                (&"door-out".into(), &"drop".into())
            );
            assert_eq!(sample["interface"], VM1.port);
            assert_eq!(sample["eip"], victim);
            let summary = format!("{victim}:4444 > {}:{PORT} udp ttl 64 len 34 DF", CLIENT.v4);
            assert_eq!(sample["packet"]["summary"], summary);
        }
    }
    wait::wait_until(PATIENCE, "samples are off", || !is_watching(&stage)).unwrap();
    // Both sides' counters show it, and whose doing it was.
    for (eip, whose) in [
        (victim.as_str(), "somebody else pretended to be this one"),
        (
            &eip::VM1.v4.to_string(),
            "this VM pretended to be somebody else",
        ),
    ] {
        let said = stage.daemon.eipctl(&["drops", eip]).unwrap();
        assert!(
            said.stdout.contains("spoofed-eip") && said.stdout.contains(whose),
            "{said:?}"
        );
    }
    for wrong in [&["--reason", "no-such"][..], &["--hook", "no-such"]] {
        let said = stage
            .daemon
            .eipctl(&[&["drops", "--follow"], wrong].concat())
            .unwrap();
        assert!(
            !said.status.success() && said.stderr.contains("known are"),
            "{said:?}"
        );
    }
}
