//! A node with two uplinks: on segments of their own, and on one.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use eip_lab::{
    bird::{Bird, BirdOptions, NODE_AS},
    daemon::{Daemon, DaemonOptions},
    documents, needs,
    packet::{IpPacket, Transport},
    plan::{CLIENT, EIP_CIDR, EIP_CIDR6, NODE_UPLINK, ROUTER_UPLINK, VM1, VM2, eip, mac_text},
    sniff::{Frame, Injector, Way},
    traffic::{self, PATIENCE, SILENCE},
    wait::wait_until,
    world::{DefaultRoute, World, WorldOptions},
};
use serde_json::json;

use crate::support::{Stage, at, raise};

/// Long enough for any machine.
const LONG: Duration = Duration::from_mins(1);
/// The node on its second segment, and the router there.
const SECOND: (&str, &str) = ("172.16.1.10", "2001:db8:17::10");
const SECOND_GATEWAY: (&str, &str) = ("172.16.1.1", "2001:db8:17::1");
const THIEF: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

fn options(more: &[&str]) -> DaemonOptions {
    let more = ["--uplink", "up1"].iter().chain(more);
    DaemonOptions {
        more: more.map(|flag| (*flag).to_owned()).collect(),
        ..DaemonOptions::default()
    }
}

/// `up1` at the node and `ru1` at the router, without addresses.
fn plug_in(world: &World) {
    let router = world.router.name();
    let line = format!("link add up1 type veth peer name ru1 netns {router}\nlink set up1 up\n");
    world.node.ip(&line).unwrap();
    world.router.ip("link set ru1 up\n").unwrap();
    world.node.sh("ethtool -K up1 gro on").unwrap();
    world.router.sh("ethtool -K ru1 tx off").unwrap();
}

/// A second uplink with a segment of its own.
fn on_two_segments(options: WorldOptions) -> World {
    let world = raise(options);
    plug_in(&world);
    for (ns, device, (v4, v6)) in [
        (&world.node, "up1", SECOND),
        (&world.router, "ru1", SECOND_GATEWAY),
    ] {
        ns.ip(&format!(
            "addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\n"
        ))
        .unwrap();
        ns.wait_local(v6.parse::<Ipv6Addr>().unwrap()).unwrap();
    }
    world
}

/// The router sends what is for EIPs there.
fn toward(world: &World, (v4, v6): (&str, &str)) {
    world
        .router
        .ip(&format!(
            "route replace {EIP_CIDR} via {v4}\nroute replace {EIP_CIDR6} via {v6}\n"
        ))
        .unwrap();
}

/// Both VMs are reached in both families, and reach the client.
fn works(stage: &Stage) {
    let client = &stage.world.client;
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        for (address, far) in [(at(eip.v4), at(CLIENT.v4)), (at(eip.v6), at(CLIENT.v6))] {
            wait_until(LONG, &format!("{address} answers"), || {
                traffic::udp(client, address, 100, SILENCE).is_ok()
            })
            .unwrap();
            traffic::tcp(client, address, PATIENCE).unwrap();
            let answer = traffic::tcp(stage.ns(vm), far, PATIENCE).unwrap();
            assert_eq!(answer.server_saw.ip(), address.ip(), "{}", vm.name);
        }
    }
}

/// The router's interfaces that packets to EIPs left by, and those that packets from EIPs came in by, since
/// its frames were cleared.
fn ways(world: &World) -> (Vec<String>, Vec<String>) {
    let is_eip = |address: IpAddr| {
        [eip::VM1, eip::VM2]
            .iter()
            .any(|eip| address == eip.v4 || address == eip.v6)
    };
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for frame in world.router_frames().frames() {
        let Some(packet) = IpPacket::parse(&frame.bytes) else {
            continue;
        };
        if frame.interface.starts_with("ru") && frame.way == Way::Out && is_eip(packet.destination)
        {
            there.push(frame.interface.clone());
        }
        if frame.interface.starts_with("ru") && frame.way == Way::In && is_eip(packet.source) {
            back.push(frame.interface.clone());
        }
    }
    for ways in [&mut there, &mut back] {
        ways.sort();
        ways.dedup();
    }
    (there, back)
}

#[test]
fn either_of_two_uplinks_carries_both_directions_and_stands_in_for_the_other() {
    let world = on_two_segments(WorldOptions {
        default_route: DefaultRoute::Uplink,
        ..WorldOptions::default()
    });
    let second_choice = format!(
        "route add default via {} metric 100\nroute add ::/0 via {} metric 2048\n",
        SECOND_GATEWAY.0, SECOND_GATEWAY.1
    );
    world.node.ip(&second_choice).unwrap();
    let options = DaemonOptions {
        gateway: None,
        ..options(&[])
    };
    let mut stage = Stage::inside(world, options);
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        stage.daemon.serve(&vm, eip.v4).unwrap();
        stage.daemon.serve(&vm, eip.v6).unwrap();
    }
    stage.start_servers();
    stage.start_servers_of(eip_lab::plan::Family::V6);
    let ways = |stage: &Stage| {
        stage.world.router_frames().clear();
        works(stage);
        ways(&stage.world)
    };
    let only = |name: &str| vec![name.to_owned()];
    assert_eq!(ways(&stage), (only("ru0"), only("ru0")));
    // In by the one and out by the other: what came in has no say in where the answer leaves.
    toward(&stage.world, SECOND);
    assert_eq!(ways(&stage), (only("ru1"), only("ru0")));

    stage.world.node.ip("link set up0 down\n").unwrap();
    assert_eq!(ways(&stage), (only("ru1"), only("ru1")));

    let (v4, v6) = (ROUTER_UPLINK.v4, ROUTER_UPLINK.v6);
    stage
        .world
        .node
        .ip(&format!(
            "link set up0 up
            addr replace {}/64 dev up0 nodad
            route replace default via {v4}
            route replace ::/0 via {v6}
            ",
            NODE_UPLINK.v6
        ))
        .unwrap();
    assert_eq!(ways(&stage), (only("ru1"), only("ru0")));
}

/// A router whose two ports are one segment, with the EIPs on it, and a node that announces them there on
/// both of its uplinks: some times when they come, and then no more.
fn on_one_segment() -> Stage {
    let world = raise(WorldOptions::default());
    plug_in(&world);
    let (v4, v6) = (ROUTER_UPLINK.v4, ROUTER_UPLINK.v6);
    world
        .router
        .ip(&format!(
            "link add seg0 type bridge
            link set seg0 up
            addr flush dev ru0
            link set ru0 master seg0
            link set ru1 master seg0
            addr add {v4}/24 dev seg0
            addr add {v6}/64 dev seg0 nodad
            route replace {EIP_CIDR} dev seg0
            route replace {EIP_CIDR6} dev seg0
            "
        ))
        .unwrap();
    world.router.wait_local(v6).unwrap();
    let options = options(&[
        "--announce",
        "l2",
        "--l2-repeat",
        "2",
        "--l2-refresh",
        "off",
    ]);
    Stage::inside(world, options)
}

/// A frame says that an EIP of `vm1` is here.
fn announces(frame: &Frame) -> bool {
    if frame.bytes.get(12..14) == Some(&[8, 6]) {
        return frame.bytes.get(28..32) == Some(&eip::VM1.v4.octets());
    }
    let packet = IpPacket::parse(&frame.bytes);
    packet.is_some_and(|packet| {
        matches!(packet.transport, Transport::Icmp { kind: 136, .. })
            && packet.source == IpAddr::V6(eip::VM1.v6)
    })
}

/// How many announcements with the uplink's hardware address came in by a port of the router.
fn heard(stage: &Stage, port: &str, mac: [u8; 6]) -> usize {
    let frames = stage.world.router_frames().frames();
    let heard = frames.iter().filter(|frame| {
        frame.interface == port
            && frame.way == Way::In
            && frame.bytes.get(6..12) == Some(&mac[..])
            && announces(frame)
    });
    heard.count()
}

fn told_on(daemon: &Daemon, uplinks: &[&str]) -> bool {
    [eip::VM1.v4.to_string(), eip::VM1.v6.to_string()]
        .iter()
        .all(|eip| {
            let binding = daemon.binding(eip).unwrap_or_default();
            binding["uplinks"] == json!(uplinks)
        })
}

fn conflict(daemon: &Daemon) -> Option<String> {
    let binding = daemon.binding(&eip::VM1.v4.to_string())?;
    binding["conflict"]["mac"].as_str().map(str::to_owned)
}

#[test]
fn two_uplinks_on_one_segment_are_no_strangers_to_each_other() {
    // Twice, an ARP request, an ARP reply and an unsolicited advertisement.
    const BURST: usize = 6;
    let mut stage = on_one_segment();
    let mac = |device| Injector::open(&stage.world.node, device).unwrap().mac;
    let (first, second) = (mac("up0"), mac("up1"));
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    stage.daemon.serve(&VM1, eip::VM1.v6).unwrap();
    stage.start_servers();
    stage.start_servers_of(eip_lab::plan::Family::V6);
    stage
        .daemon
        .settle("both are told", |daemon| told_on(daemon, &["up0", "up1"]))
        .unwrap();
    wait_until(LONG, "both have said it twice", || {
        heard(&stage, "ru0", first) >= BURST && heard(&stage, "ru1", second) >= BURST
    })
    .unwrap();
    for address in [at(eip::VM1.v4), at(eip::VM1.v6)] {
        for from in [&stage.world.router, &stage.world.client] {
            traffic::udp(from, address, 100, PATIENCE).unwrap();
            traffic::tcp(from, address, PATIENCE).unwrap();
        }
    }

    // The wire of one is pulled, and plugged in again: it says it again, and the other one does not.
    stage.world.router.ip("link set ru1 down\n").unwrap();
    stage
        .daemon
        .settle("one is told", |daemon| told_on(daemon, &["up0"]))
        .unwrap();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    stage.world.router_frames().clear();
    stage.world.router.ip("link set ru1 up\n").unwrap();
    wait_until(LONG, "it says it again", || {
        heard(&stage, "ru1", second) >= BURST
    })
    .unwrap();
    assert_eq!(heard(&stage, "ru0", first), 0);

    assert_eq!(conflict(&stage.daemon), None);
    let claimed = |daemon: &Daemon| daemon.count("uplink-tc", "address-claimed").unwrap();
    assert_eq!(claimed(&stage.daemon), 0);
    // A stranger is one, on every uplink that hears it.
    let stranger = Injector::open(&stage.world.router, "seg0").unwrap();
    let mut claim = vec![0xff; 6];
    claim.extend(THIEF);
    claim.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    claim.extend(THIEF);
    claim.extend(eip::VM1.v4.octets());
    claim.extend([0; 6]);
    claim.extend(eip::VM1.v4.octets());
    claim.resize(60, 0);
    stranger.send(&claim).unwrap();
    stage
        .daemon
        .settle("the stranger is reported", |daemon| {
            conflict(daemon) == Some(mac_text(THIEF)) && claimed(daemon) == 2
        })
        .unwrap();
}

#[test]
fn the_next_hop_of_routes_stays_while_another_uplink_comes_and_goes() {
    needs::program("/usr/sbin/bird").unwrap();
    let world = on_two_segments(WorldOptions::default());
    let asn = format!("--bgp-local-as={NODE_AS}");
    let mut stage = Stage::inside(world, options(&[&asn]));
    stage.world.leaks().allow_node_traffic();
    let dir = stage.daemon.dir().join("bird");
    let bird = Bird::start(&stage.world.router, &dir, &BirdOptions::default()).unwrap();
    let peer = documents::peer("tor", "");
    stage.daemon.documents().write("peer.yaml", &peer).unwrap();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    stage.start_servers();
    let route = format!("{}/32", eip::VM1.v4);
    bird.wait_routes(&[&route]).unwrap();
    let lost = |daemon: &Daemon| {
        let answer = daemon.ask(&["bgp"]).unwrap();
        answer["peers"][0]["counters"]["lost"].clone()
    };
    assert_eq!(lost(&stage.daemon), json!(0));
    let next_hop = format!("via {} on ru0", NODE_UPLINK.v4);
    for state in ["down", "up"] {
        let line = format!("link set up1 {state}\n");
        stage.world.node.ip(&line).unwrap();
        stage
            .daemon
            .settle("the agent has followed", |daemon| {
                let status = daemon.eipctl(&["status", "--check"]);
                status.is_ok_and(|output| output.status.success())
            })
            .unwrap();
        traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
        let described = bird.describe(&route).unwrap();
        assert!(described.contains(&next_hop), "{described}");
    }
    stage.world.node.ip("link del up1\n").unwrap();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    assert_eq!(lost(&stage.daemon), json!(0));
}
