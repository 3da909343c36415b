//! Which address is whose: exact matches, several EIPs, no host address, nobody's address, gateways.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    documents,
    plan::{CLIENT, Family, NODE_UPLINK, VM1, VM2, eip},
    sniff::Way,
    traffic::{self, PATIENCE, SILENCE},
    wait::pause,
    world::WorldOptions,
};

use crate::support::{PORT, Stage, at};

#[test]
fn an_eip_that_begins_like_another_is_another() {
    let mut stage = Stage::empty(WorldOptions::default(), DaemonOptions::default());
    stage.start_servers();
    // .1 and .11
    stage.daemon.serve(&VM2, eip::SECOND.v4).unwrap();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let client = &stage.world.client;
    let answer = traffic::udp(client, at(eip::VM1.v4), 10, PATIENCE).unwrap();
    assert_eq!(answer.server_was, at(VM1.address.v4));
    let answer = traffic::udp(client, at(eip::SECOND.v4), 10, PATIENCE).unwrap();
    assert_eq!(answer.server_was, at(VM2.address.v4));
    stage.daemon.documents().remove_binding(VM1.name).unwrap();
    stage
        .daemon
        .settle("the one is gone", |daemon| {
            daemon.binding(&eip::VM1.v4.to_string()).is_none()
        })
        .unwrap();
    traffic::udp(client, at(eip::SECOND.v4), 10, PATIENCE).unwrap();
}

#[test]
fn every_eip_of_a_vm_answers_for_itself_and_the_primary_goes_out() {
    let mut stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    let documents = stage.daemon.documents().clone();
    for (family, name) in [(Family::V4, "vm1"), (Family::V6, "vm1-v6")] {
        let [first, second] = [eip::VM1, eip::SECOND].map(|eip| eip.of(family));
        let extra = format!("{name}-extra");
        let text = documents::binding(&extra, second, VM1.name, "");
        documents.write(&format!("{extra}.yaml"), &text).unwrap();
        let text = documents::binding(name, first, VM1.name, "  primary: true\n");
        documents
            .write(&format!("eipb-{name}.yaml"), &text)
            .unwrap();
        for eip in [first, second] {
            let key = eip.to_string();
            stage.daemon.wait_state(&key, "programmed").unwrap();
        }
        let is_first = |daemon: &Daemon| {
            let binding = daemon.binding(&first.to_string());
            binding.is_some_and(|binding| binding["primary"] == true)
        };
        stage
            .daemon
            .settle("the first is primary", is_first)
            .unwrap();
        for eip in [first, second] {
            let client = &stage.world.client;
            for size in [10, 8000] {
                let answer = traffic::udp(client, at(eip), size, PATIENCE).unwrap();
                let own = at(VM1.address.of(family));
                assert_eq!((answer.came_from, answer.server_was), (at(eip), own));
            }
            traffic::tcp(client, at(eip), PATIENCE).unwrap();
            assert_eq!(traffic::ping(client, eip, 56, PATIENCE).unwrap(), eip);
        }
        let answer = traffic::udp(stage.ns(VM1), at(CLIENT.of(family)), 10, PATIENCE).unwrap();
        assert_eq!(answer.server_saw.ip(), first);
    }
}

#[test]
fn an_eip_is_never_an_address_of_the_node() {
    let stage = Stage::plain();
    // What listens on every address of the node must not be reached through an EIP.
    let listener = stage
        .world
        .node
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2222)))
        .unwrap();
    let server = std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"the node");
        }
    });
    for eip in [eip::VM1.v4, eip::VM2.v4, eip::UNASSIGNED.v4] {
        let heard = traffic::read_all(&stage.world.client, (eip, 2222).into(), SILENCE);
        assert!(heard.is_err(), "{eip}: {heard:?}");
    }
    let addresses = stage.world.node.sh("ip -o addr").unwrap();
    assert!(!addresses.contains("203.0.113."), "{addresses}");
    // It does listen: the test would notice.
    let to = (NODE_UPLINK.v4, 2222).into();
    stage.world.leaks().allow_node_traffic();
    assert_eq!(
        traffic::read_all(&stage.world.node, to, PATIENCE).unwrap(),
        "the node"
    );
    server.join().unwrap();
}

#[test]
fn an_eip_nobody_has_does_not_loop() {
    let stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    for address in Family::BOTH.map(|family| eip::UNASSIGNED.of(family)) {
        traffic::ping(&stage.world.client, address, 56, SILENCE).unwrap_err();
        let frames = stage
            .world
            .router_frames()
            .packets(|frame, packet| frame.interface != "rc0" && packet.destination == address);
        assert_eq!(frames.len(), 1, "{frames:?}");
        // Nor does it escape when a VM, a pod or the node asks for it.
        for ns in [stage.ns(VM1), stage.ns(VM2), &stage.world.node] {
            stage.world.router_frames().clear();
            stage.world.leaks().allow_node_traffic();
            traffic::ping(ns, address, 56, SILENCE).unwrap_err();
            pause(Duration::from_millis(50));
            let frames = stage
                .world
                .router_frames()
                .packets(|_, packet| packet.destination == address);
            let count = frames.len();
            assert!(count <= 3, "{} to {address}: {count} frames", ns.name());
        }
    }
}

#[test]
fn eip_traffic_uses_the_uplink_alone_although_the_default_route_leads_elsewhere() {
    let stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    for family in Family::BOTH {
        let (client, eip) = (CLIENT.of(family), eip::VM1.of(family));
        for vm in [VM1, VM2] {
            traffic::udp(stage.ns(vm), at(client), 8000, PATIENCE).unwrap();
            traffic::tcp(stage.ns(vm), at(client), PATIENCE).unwrap();
        }
        let elsewhere = stage.world.router_frames().packets(|frame, packet| {
            frame.interface == "rm0" && (packet.source == client || packet.destination == client)
        });
        assert_eq!(elsewhere, []);
        let here = stage.world.router_frames().packets(|frame, packet| {
            frame.interface == "ru0" && frame.way == Way::In && packet.source == eip
        });
        assert!(!here.is_empty());
    }
}

#[test]
fn a_pod_without_eip_and_the_node_keep_their_own_way_out() {
    let stage = Stage::plain();
    stage.world.leaks().allow_node_traffic();
    let pod = stage.ns(eip_lab::plan::POD1);
    let answer = traffic::udp(pod, (CLIENT.v4, PORT).into(), 100, PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), eip_lab::plan::NODE_MANAGEMENT.v4);
    let answer = traffic::udp(&stage.world.node, at(CLIENT.v4), 100, PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), eip_lab::plan::NODE_MANAGEMENT.v4);
    // And somebody outside still reaches the node on its uplink address.
    traffic::ping(&stage.world.client, NODE_UPLINK.v4.into(), 56, PATIENCE).unwrap();
}
