//! Everything a VM does with its EIP.

use std::net::{IpAddr, SocketAddr};

use eip_lab::{
    daemon::DaemonOptions,
    firewall::ForwardAccept,
    packet::Transport,
    plan::{self, CLIENT, Dual, Family, GuestPlan, POD1, ROUTER_CLIENT, VM1, VM2, eip},
    traffic::{self, Bulk, SILENCE},
    world::WorldOptions,
};
use eip_vm_tests::{PORT, pod::Binding};

use crate::support::{PATIENCE, Stage};

/// Bytes of a bulk transfer: seconds for a guest without KVM.
const MUCH: u64 = 4_000_000;

fn everything_works(mut stage: Stage) {
    for family in Family::BOTH {
        to_the_vm(&stage, family);
        from_the_vm(&mut stage, family);
    }
}

fn to_the_vm(stage: &Stage, family: Family) {
    let (client, server) = (stage.client(), stage.server(family));
    for size in [0, 1, 1000, 1472, 4000] {
        let answer = traffic::udp(client, server, size, PATIENCE).unwrap();
        assert_eq!(answer.came_from, server, "{size} bytes to the VM");
        traffic::ping(client, stage.eip(family), size, PATIENCE).unwrap();
    }
    let answer = traffic::tcp(client, server, PATIENCE).unwrap();
    assert_eq!(answer.came_from, server);
    for way in [Bulk::Upload, Bulk::Download] {
        traffic::bulk(client, server, way, MUCH).unwrap();
    }
}

fn from_the_vm(stage: &mut Stage, family: Family) {
    let client = CLIENT.of(family);
    let server = SocketAddr::new(client, PORT);
    let eip = stage.eip(family).to_string();
    let mut ask = |line: String| stage.machine.ask(&line).unwrap();
    for size in [0, 1, 1000, 1472, 4000] {
        let seen = ask(format!("udp {server} {size}"));
        assert_eq!(seen, eip, "{size} bytes of the VM");
        assert_eq!(ask(format!("ping {client} {size}")), client.to_string());
    }
    assert_eq!(ask(format!("tcp {server} 0")), eip);
    for verb in ["upload", "download"] {
        assert_eq!(ask(format!("{verb} {server} {MUCH}")), eip, "{verb}");
    }
    // Inside the cluster it is itself.
    let pod = SocketAddr::new(POD1.address.of(family), PORT);
    let seen: IpAddr = ask(format!("tcp {pod} 0")).parse().unwrap();
    assert!(plan::is_inside(seen), "a pod saw {seen}");
}

#[test]
fn a_vm_with_bridge_binding_on_a_routed_pod_has_its_eip_both_ways() {
    everything_works(Stage::raise(VM1, eip::VM1, Binding::Bridge, 1500));
}

#[test]
fn a_vm_with_masquerade_binding_on_a_bridged_pod_has_its_eip_both_ways() {
    everything_works(Stage::raise(VM2, eip::VM2, Binding::Masquerade, 1500));
}

/// The client's link is smaller than the VM believes: only an error that names the right packet tells it.
#[test]
fn a_vm_learns_of_a_small_link_behind_the_router() {
    let mut stage = Stage::raise(VM1, eip::VM1, Binding::Bridge, 1500);
    stage.world.router.ip("link set rc0 mtu 1300\n").unwrap();
    stage.client().sh("ip link set eth0 mtu 1300").unwrap();
    for family in Family::BOTH {
        // It says that it takes large segments all the same, or TCP would not try.
        let (everything, segment) = match family {
            Family::V4 => ("0.0.0.0/0", 1460),
            Family::V6 => ("::/0", 1440),
        };
        let router = ROUTER_CLIENT.of(family);
        let route = format!("ip route replace {everything} via {router} advmss {segment}");
        stage.client().sh(&route).unwrap();
        let (client, eip) = (SocketAddr::new(CLIENT.of(family), PORT), stage.eip(family));
        traffic::bulk(stage.client(), stage.server(family), Bulk::Download, MUCH).unwrap();
        let line = format!("upload {client} {MUCH}");
        assert_eq!(stage.machine.ask(&line).unwrap(), eip.to_string());
        let too_big = match family {
            Family::V4 => (3, 4),
            Family::V6 => (2, 0),
        };
        let told = stage.world.router_frames().packets(|_, packet| {
            let Transport::Icmp { kind, code } = packet.transport else {
                return false;
            };
            (kind, code) == too_big && packet.destination == eip
        });
        assert!(
            !told.is_empty(),
            "the router never said that a packet is too large ({family})"
        );
    }
}

/// The VM's link is smaller than the wire, as with an overlay.
fn a_small_link_is_found(plan: GuestPlan, eip: Dual, binding: Binding) {
    let stage = Stage::raise(plan, eip, binding, 1400);
    for family in Family::BOTH {
        let server = stage.server(family);
        for way in [Bulk::Upload, Bulk::Download] {
            traffic::bulk(stage.client(), server, way, MUCH).unwrap();
        }
    }
    let server = stage.server(Family::V4);
    // Fragments as large as the wire. One pod's kernel cuts them again because it routes, the other
    // one because its bridge shows frames to the firewall.
    traffic::udp(stage.client(), server, 4000, PATIENCE).unwrap();
    // One that fits the wire, not the link, and may not be cut: lost, but the client is told.
    traffic::udp(stage.client(), server, 1450, SILENCE).unwrap_err();
    traffic::udp(stage.client(), server, 1450, PATIENCE).unwrap();
    // An IPv6 packet is never cut on its way: the client is told, and then cuts as it has to.
    let server = stage.server(Family::V6);
    traffic::udp(stage.client(), server, 1430, SILENCE).unwrap_err();
    for size in [1430, 4000] {
        traffic::udp(stage.client(), server, size, PATIENCE).unwrap();
    }
}

#[test]
fn a_small_link_of_a_bridge_binding_is_found() {
    a_small_link_is_found(VM1, eip::VM1, Binding::Bridge);
}

#[test]
fn a_small_link_of_a_masquerade_binding_is_found() {
    a_small_link_is_found(VM2, eip::VM2, Binding::Masquerade);
}

/// A bridge that shows its frames to nobody drops what exceeds a port. What is handed to it whole is
/// lost then; the stack lane has the node's kernel cut it, and so do equal MTUs.
#[test]
fn without_br_netfilter_only_the_stack_lane_gets_large_fragments_to_a_bridge_binding() {
    for (delivery, arrives) in [("peer", false), ("stack", true)] {
        let mut stage = Stage::raise_with(
            WorldOptions {
                guest_mtu: 1400,
                forward_accept: ForwardAccept::Present,
                guests: vec![VM1, POD1],
                ..WorldOptions::default()
            },
            DaemonOptions {
                delivery,
                ..DaemonOptions::default()
            },
            (VM1, eip::VM1, Binding::Bridge),
        );
        let pod = &stage.world.guest(VM1).ns;
        // Not every kernel has br_netfilter, and then it is as if it were off.
        let _ = pod.sysctl("bridge/bridge-nf-call-iptables=0");
        traffic::udp(stage.client(), stage.server(Family::V4), 1000, PATIENCE).unwrap();
        let eip = stage.eip(Family::V4).to_string();
        stage.daemon.wait_delivery(&eip, delivery).unwrap();
        let patience = if arrives { PATIENCE } else { SILENCE };
        let answer = traffic::udp(stage.client(), stage.server(Family::V4), 4000, patience);
        assert_eq!(answer.is_ok(), arrives, "{delivery}: {answer:?}");
    }
}
