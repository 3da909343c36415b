//! Elastic IPs announced on layer 2: the router has no route to the node, only the network segment.

use std::net::Ipv4Addr;

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    plan::{VM1, eip, mac_text},
    sniff::{Injector, Way},
    traffic::{self, PATIENCE},
    uplink::Uplink,
    wait,
    world::{World, WorldOptions},
};
use serde_json::{Value, json};

use crate::support::{Stage, at};

const THIEF: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

/// The agent with EIPs announced on layer 2, serving nothing, and a router that finds EIPs by asking for
/// them on its port toward the node.
fn stage() -> Stage {
    stage_on(Uplink::Plain)
}

fn stage_on(uplink: Uplink) -> Stage {
    let options = DaemonOptions {
        more: ["--announce", "l2", "--l2-refresh", "1s"]
            .map(str::to_owned)
            .into(),
        ..DaemonOptions::default()
    };
    let world = WorldOptions {
        uplink,
        ..WorldOptions::default()
    };
    let stage = Stage::empty(world, options);
    let on_the_link = format!("route replace {} dev ru0\n", eip_lab::plan::EIP_CIDR);
    stage.world.router.ip(&on_the_link).unwrap();
    stage
}

/// An ARP message; padded, as on a wire.
fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(sender.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}

/// Operation, sender's MAC and target of every ARP message in an EIP's name that reached the router.
fn heard_from(world: &World, eip: Ipv4Addr) -> Vec<(u8, [u8; 6], [u8; 4])> {
    let frames = world.router_frames().frames();
    let arp = frames.iter().filter(|frame| {
        frame.interface == "ru0"
            && frame.way == Way::In
            && frame.bytes.get(12..14) == Some(&[8, 6])
            && frame.bytes.get(28..32) == Some(&eip.octets())
    });
    arp.map(|frame| {
        let bytes = &frame.bytes;
        (
            bytes[21],
            bytes[22..28].try_into().unwrap(),
            bytes[38..42].try_into().unwrap(),
        )
    })
    .collect()
}

fn uplink_mac(stage: &Stage) -> [u8; 6] {
    Injector::open(&stage.world.node, "up0").unwrap().mac
}

/// What the router knows about an EIP.
fn neighbour(world: &World, eip: Ipv4Addr) -> String {
    let shown = world.router.sh(&format!("ip neigh show {eip} dev ru0"));
    shown.unwrap_or_default()
}

#[test]
fn neighbours_reach_an_elastic_ip_without_a_route() {
    neighbours_reach_it(stage());
}

#[test]
fn neighbours_in_a_vlan_reach_an_elastic_ip_without_a_route() {
    neighbours_reach_it(stage_on(Uplink::Vlan));
}

fn neighbours_reach_it(mut stage: Stage) {
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let is_told = |daemon: &Daemon| {
        let binding = daemon.ask(&["get", "203.0.113.11"]).unwrap_or_default();
        let conditions = binding["conditions"].as_array();
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        conditions.is_some_and(|all| all.iter().any(is_ready))
            && binding["uplinks"] == json!(["up0"])
    };
    stage.daemon.settle("neighbours are told", is_told).unwrap();
    stage.start_servers();
    for from in [&stage.world.router, &stage.world.client] {
        let answer = traffic::udp(from, at(eip::VM1.v4), 100, PATIENCE).unwrap();
        assert_eq!(answer.server_was.ip(), VM1.address.v4, "{answer:?}");
        traffic::tcp(from, at(eip::VM1.v4), PATIENCE).unwrap();
    }
    let known = neighbour(&stage.world, eip::VM1.v4);
    assert!(known.contains(&mac_text(uplink_mac(&stage))), "{known}");
    let answered = stage
        .daemon
        .count("uplink-tc", "neighbour-answered")
        .unwrap();
    assert!(answered > 0);
}

#[test]
fn an_address_nobody_has_is_not_answered_for() {
    let mut stage = stage();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let asker = Injector::open(&stage.world.router, "ru0").unwrap();
    let me = (asker.mac, "192.0.2.1".parse().unwrap());
    let before = stage
        .daemon
        .count("uplink-tc", "neighbour-answered")
        .unwrap();
    asker.send(&arp(1, me, eip::UNASSIGNED.v4)).unwrap();
    asker.send(&arp(1, me, eip::VM1.v4)).unwrap();
    let counted = |daemon: &Daemon| {
        let count = daemon.count("uplink-tc", "neighbour-answered");
        count.is_ok_and(|count| count > before)
    };
    stage
        .daemon
        .settle("the bound one is answered", counted)
        .unwrap();
    let foreign = heard_from(&stage.world, eip::UNASSIGNED.v4);
    assert_eq!(foreign, [], "{foreign:?}");
}

#[test]
fn binding_and_unbinding_is_told_to_the_neighbours() {
    let mut stage = stage();
    let own = uplink_mac(&stage);
    // Somebody else had the address: the router's memory follows.
    let memory = format!(
        "neigh replace {} lladdr {} dev ru0 nud stale\n",
        eip::VM1.v4,
        mac_text(THIEF)
    );
    stage.world.router.ip(&memory).unwrap();
    assert_eq!(heard_from(&stage.world, eip::VM1.v4), []);

    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let told = || heard_from(&stage.world, eip::VM1.v4);
    let limit = std::time::Duration::from_secs(15);
    wait::wait_until(limit, "a burst and a refresh", || told().len() >= 8).unwrap();
    let expected = [
        (1, own, eip::VM1.v4.octets()),
        (2, own, eip::VM1.v4.octets()),
    ];
    assert!(
        told().iter().all(|one| expected.contains(one)),
        "{:?}",
        told()
    );
    let known = neighbour(&stage.world, eip::VM1.v4);
    assert!(known.contains(&mac_text(own)), "{known}");

    stage.daemon.documents().remove_binding(VM1.name).unwrap();
    let is_gone = |daemon: &Daemon| daemon.binding(VM1.name).is_none();
    stage.daemon.settle("the binding is gone", is_gone).unwrap();
    stage.world.router_frames().clear();
    let asker = Injector::open(&stage.world.router, "ru0").unwrap();
    let me = (asker.mac, "192.0.2.1".parse().unwrap());
    asker.send(&arp(1, me, eip::VM1.v4)).unwrap();
    // Longer than a refresh.
    wait::pause(std::time::Duration::from_millis(2500));
    assert_eq!(heard_from(&stage.world, eip::VM1.v4), []);
}

#[test]
fn another_owner_is_reported_until_it_is_gone() {
    let mut stage = stage();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let contested = |daemon: &Daemon| {
        let binding = daemon.binding(&eip::VM1.v4.to_string())?;
        binding["conflict"]["mac"].as_str().map(str::to_owned)
    };
    assert_eq!(contested(&stage.daemon), None);
    // Whoever had it before that answers the probe that comes with the announcement: a claim is listened for from
    // then on.
    stage
        .daemon
        .settle("neighbours are told", |daemon| {
            let binding = daemon.binding(&eip::VM1.v4.to_string());
            binding.is_some_and(|binding| binding["uplinks"] == json!(["up0"]))
        })
        .unwrap();
    let thief = Injector::open(&stage.world.router, "ru0").unwrap();
    let claim = arp(2, (THIEF, eip::VM1.v4), eip::VM1.v4);
    thief.send(&claim).unwrap();
    let is_told = |daemon: &Daemon| contested(daemon) == Some(mac_text(THIEF));
    stage
        .daemon
        .settle("the conflict is reported", is_told)
        .unwrap();
    assert_eq!(
        stage.daemon.count("uplink-tc", "address-claimed").unwrap(),
        1
    );
    let listed = stage.daemon.eipctl(&["list"]).unwrap();
    assert!(listed.stdout.contains("Contested"), "{}", listed.stdout);
    stage
        .daemon
        .settle("the conflict ends", |daemon| contested(daemon).is_none())
        .unwrap();
}

#[test]
fn arping_finds_an_elastic_ip_is_kept_from_taking_it_and_is_reported_when_it_does() {
    let mut stage = stage();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let router = &stage.world.router;
    let arping = |line: &str| {
        let command = router.command("arping").args(line.split(' ')).output();
        let output = command.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
        (output.status.code(), said)
    };
    let own = mac_text(uplink_mac(&stage));
    let (code, said) = arping(&format!("-f -w 60 -I ru0 {}", eip::VM1.v4));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&own), "{said}");

    // RFC 5227 section 2.1.1: who wants an address asks for it first, without naming himself.
    let (code, said) = arping(&format!("-D -w 60 -I ru0 {}", eip::VM1.v4));
    assert_eq!(code, Some(1), "it is taken: {said}");
    assert!(said.contains(&own), "{said}");
    let (code, said) = arping(&format!("-D -c 1 -w 1 -I ru0 {}", eip::UNASSIGNED.v4));
    assert_eq!(code, Some(0), "it is free: {said}");

    // And who does not listen.
    let thief = mac_text(Injector::open(router, "ru0").unwrap().mac);
    let own_it = |verb: &str| {
        let line = format!("addr {verb} {}/32 dev ru0\n", eip::VM1.v4);
        router.ip(&line).unwrap();
    };
    own_it("add");
    let contested = |daemon: &Daemon| {
        let binding = daemon.binding(&eip::VM1.v4.to_string())?;
        binding["conflict"]["mac"].as_str().map(str::to_owned)
    };
    let is_told = |daemon: &Daemon| {
        arping(&format!("-A -c 1 -I ru0 {}", eip::VM1.v4));
        contested(daemon) == Some(thief.clone())
    };
    let told = stage.daemon.settle("the conflict is reported", is_told);
    own_it("del");
    told.unwrap();
    stage
        .daemon
        .settle("the conflict ends", |daemon| contested(daemon).is_none())
        .unwrap();
}
