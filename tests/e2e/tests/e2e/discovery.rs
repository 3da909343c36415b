//! Neighbour discovery on the uplink's segment: IPv6 elastic IPs announced on layer 2, asked for by a
//! kernel, by a program and by hand.

use std::{net::Ipv6Addr, time::Duration};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    packet::{IpPacket, Transport},
    plan::{EIP_CIDR6, ROUTER_UPLINK, VM1, VM2, eip, mac_text},
    sniff::{Frame, Injector, Way},
    traffic::{self, PATIENCE, SILENCE},
    wait::{pause, wait_until},
    world::{World, WorldOptions},
};
use etherparse::PacketBuilder;

use crate::support::{Stage, at};

const EIP: Ipv6Addr = eip::VM1.v6;
const THIEF: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];
/// Generous: the machine may have other things to do.
const LIMIT: Duration = Duration::from_mins(1);

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// An agent that announces on layer 2 and serves nothing yet, and a router that asks for EIPs on its port.
fn stage() -> Stage {
    let options = DaemonOptions {
        more: ["--announce", "l2", "--l2-refresh", "1s"]
            .map(str::to_owned)
            .into(),
        ..DaemonOptions::default()
    };
    let stage = Stage::empty(WorldOptions::default(), options);
    let on_the_link = format!("route replace {EIP_CIDR6} dev ru0\n");
    stage.world.router.ip(&on_the_link).unwrap();
    stage
}

/// As [`stage`], with `vm1` served.
fn serving() -> Stage {
    let mut stage = stage();
    stage.daemon.serve(&VM1, EIP).unwrap();
    stage
}

fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A neighbour discovery message about `target` with a link-layer address in its options.
struct Message {
    kind: u8,
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    flags: u8,
    stated: Option<(u8, [u8; 6])>,
    hop_limit: u8,
}

impl Message {
    /// As a kernel asks that knows nothing of the target yet.
    fn asking(target: Ipv6Addr, own: [u8; 6]) -> Self {
        Self {
            kind: SOLICITATION,
            from: ROUTER_UPLINK.v6,
            to: solicited_node(target),
            target,
            flags: 0,
            stated: Some((1, own)),
            hop_limit: 255,
        }
    }

    fn send(&self, injector: &Injector, source: [u8; 6]) {
        let [.., a, b, c, d] = self.to.octets();
        let mut body = self.target.octets().to_vec();
        if let Some((kind, mac)) = self.stated {
            body.extend([kind, 1]);
            body.extend(mac);
        }
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(source, [0x33, 0x33, a, b, c, d])
            .ipv6(self.from.octets(), self.to.octets(), self.hop_limit)
            .icmpv6_raw(self.kind, 0, [self.flags, 0, 0, 0])
            .write(&mut frame, &body)
            .unwrap();
        injector.send(&frame).unwrap();
    }
}

fn router_port(stage: &Stage) -> Injector {
    Injector::open(&stage.world.router, "ru0").unwrap()
}

fn uplink_mac(stage: &Stage) -> [u8; 6] {
    Injector::open(&stage.world.node, "up0").unwrap().mac
}

/// An advertisement that reached the router from an EIP.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    to: Ipv6Addr,
    flags: u8,
    /// Source of the frame, and the option that states it.
    macs: [[u8; 6]; 2],
    hop_limit: u8,
}

fn advertisement(frame: &Frame, packet: &IpPacket, target: Ipv6Addr) -> Option<Heard> {
    let is_one = frame.interface == "ru0"
        && frame.way == Way::In
        && matches!(
            packet.transport,
            Transport::Icmp {
                kind: ADVERTISEMENT,
                ..
            }
        )
        && packet.payload.get(8..24) == Some(&target.octets())
        && packet.source == target;
    if !is_one {
        return None;
    }
    let std::net::IpAddr::V6(to) = packet.destination else {
        return None;
    };
    assert_eq!(packet.payload.get(24..26), Some(&[2, 1][..]), "{packet}");
    let mac = |bytes: Option<&[u8]>| bytes.unwrap().try_into().unwrap();
    Some(Heard {
        to,
        flags: packet.payload[4],
        macs: [mac(frame.bytes.get(6..12)), mac(packet.payload.get(26..32))],
        hop_limit: packet.ttl,
    })
}

fn heard(world: &World, target: Ipv6Addr) -> Vec<Heard> {
    let frames = world.router_frames().frames();
    frames
        .iter()
        .filter_map(|frame| advertisement(frame, &IpPacket::parse(&frame.bytes)?, target))
        .collect()
}

fn answered(daemon: &Daemon) -> u64 {
    daemon.count("uplink-tc", "neighbour-answered").unwrap()
}

fn groups(world: &World) -> String {
    world.node.sh("ip -6 maddr show dev up0").unwrap()
}

#[test]
fn a_neighbour_finds_an_ipv6_eip_by_its_kernel_and_by_ndisc6() {
    let mut stage = serving();
    stage.daemon.serve(&VM2, eip::VM2.v6).unwrap();
    stage.start_servers_of(eip_lab::plan::Family::V6);
    for from in [&stage.world.router, &stage.world.client] {
        let answer = traffic::udp(from, at(EIP), 100, PATIENCE).unwrap();
        assert_eq!(answer.server_was.ip(), VM1.address.v6, "{answer:?}");
        traffic::tcp(from, at(EIP), PATIENCE).unwrap();
    }
    let own = mac_text(uplink_mac(&stage));
    let line = format!("ip -6 neigh show {EIP} dev ru0");
    let known = stage.world.router.sh(&line).unwrap();
    assert!(known.contains(&own), "{known}");
    assert!(!known.contains("router"), "the VM is a host: {known}");
    for target in [EIP, eip::VM2.v6] {
        let said = stage
            .world
            .router
            .sh(&format!("ndisc6 -1 -r 10 {target} ru0"));
        let said = said.unwrap().to_lowercase();
        assert!(said.contains(&own), "{said}");
    }
}

#[test]
fn only_valid_questions_about_what_is_bound_here_are_answered() {
    let mut stage = serving();
    let asker = router_port(&stage);
    let own = uplink_mac(&stage);
    // The burst of the binding itself is over when a refresh comes.
    let told = heard(&stage.world, EIP).len();
    wait_until(LIMIT, "a refresh", || heard(&stage.world, EIP).len() > told).unwrap();
    let before = answered(&stage.daemon);
    let invalid = |daemon: &Daemon| daemon.count("uplink-tc", "neighbour-invalid").unwrap();
    let invalid_before = invalid(&stage.daemon);

    let message = || Message::asking(EIP, asker.mac);
    Message::asking(eip::UNASSIGNED.v6, asker.mac).send(&asker, asker.mac);
    Message {
        hop_limit: 254,
        ..message()
    }
    .send(&asker, asker.mac);
    // A probe for duplicates states no address (RFC 4861 section 7.1.1).
    Message {
        from: Ipv6Addr::UNSPECIFIED,
        ..message()
    }
    .send(&asker, asker.mac);
    message().send(&asker, asker.mac);
    stage
        .daemon
        .settle("one is answered and two are invalid", |daemon| {
            answered(daemon) == before + 1 && invalid(daemon) == invalid_before + 2
        })
        .unwrap();
    assert_eq!(heard(&stage.world, eip::UNASSIGNED.v6), []);
    let solicited = Heard {
        to: ROUTER_UPLINK.v6,
        flags: 0b0110_0000,
        macs: [own, own],
        hop_limit: 255,
    };
    wait_until(LIMIT, "the answer", || {
        heard(&stage.world, EIP).contains(&solicited)
    })
    .unwrap();

    // Nor is there an answer when the binding is gone.
    stage.daemon.documents().remove_binding("vm1-v6").unwrap();
    let is_gone = |daemon: &Daemon| daemon.binding(&EIP.to_string()).is_none();
    stage.daemon.settle("the binding is gone", is_gone).unwrap();
    let before = answered(&stage.daemon);
    message().send(&asker, asker.mac);
    traffic::ping(&stage.world.router, EIP.into(), 56, SILENCE).unwrap_err();
    assert_eq!(answered(&stage.daemon), before);
}

#[test]
fn an_ipv6_binding_is_told_to_its_neighbours_and_again() {
    let mut stage = stage();
    let own = uplink_mac(&stage);
    // Somebody else had the address: the router's memory follows.
    let memory = format!(
        "neigh replace {EIP} lladdr {} dev ru0 nud stale\n",
        mac_text(THIEF)
    );
    stage.world.router.ip(&memory).unwrap();
    assert_eq!(heard(&stage.world, EIP), []);
    stage.daemon.serve(&VM1, EIP).unwrap();
    let told = || heard(&stage.world, EIP);
    wait_until(LIMIT, "a burst and a refresh", || told().len() >= 4).unwrap();
    let unsolicited = Heard {
        to: "ff02::1".parse().unwrap(),
        flags: 0b0010_0000,
        macs: [own, own],
        hop_limit: 255,
    };
    assert!(told().iter().all(|one| *one == unsolicited), "{:?}", told());
    let line = format!("ip -6 neigh show {EIP} dev ru0");
    let known = || stage.world.router.sh(&line).unwrap_or_default();
    assert!(known().contains(&mac_text(own)), "{}", known());
}

#[test]
fn the_uplink_is_in_the_solicited_node_group_while_the_agent_runs_and_answers_go_on_without_it() {
    let mut stage = serving();
    let group = solicited_node(EIP).to_string();
    wait_until(LIMIT, "the group is joined", || {
        groups(&stage.world).contains(&group)
    })
    .unwrap();
    stage.daemon.kill9().unwrap();
    wait_until(LIMIT, "a membership ends with its process", || {
        !groups(&stage.world).contains(&group)
    })
    .unwrap();
    // What reaches the node is answered, also to one that knows nothing.
    stage.world.router.ip("neigh flush dev ru0\n").unwrap();
    traffic::ping(&stage.world.router, EIP.into(), 56, PATIENCE).unwrap();
    stage.daemon.restart().unwrap();
    wait_until(LIMIT, "the group is joined again", || {
        groups(&stage.world).contains(&group)
    })
    .unwrap();
    stage.daemon.documents().remove_binding("vm1-v6").unwrap();
    wait_until(LIMIT, "nobody is left to ask for", || {
        !groups(&stage.world).contains(&group)
    })
    .unwrap();
}

#[test]
fn a_host_that_wants_an_ipv6_eip_for_itself_learns_that_it_is_taken() {
    let stage = serving();
    let router = &stage.world.router;
    router
        .sysctl("ipv6/conf/ru0/accept_dad=1\nipv6/conf/ru0/dad_transmits=1")
        .unwrap();
    router.ip(&format!("addr add {EIP}/128 dev ru0\n")).unwrap();
    let shown = || router.sh("ip -6 addr show dev ru0").unwrap();
    wait_until(LIMIT, "the address is a duplicate", || {
        shown().contains("dadfailed")
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", shown()));
    router.ip(&format!("addr del {EIP}/128 dev ru0\n")).unwrap();
    traffic::ping(&stage.world.client, EIP.into(), 56, PATIENCE).unwrap();
}

#[test]
fn another_owner_of_an_ipv6_eip_is_reported_until_it_is_gone() {
    let mut stage = serving();
    let contested = |daemon: &Daemon| {
        let binding = daemon.binding(&EIP.to_string())?;
        binding["conflict"]["mac"].as_str().map(str::to_owned)
    };
    assert_eq!(contested(&stage.daemon), None);
    let thief = router_port(&stage);
    let claim = Message {
        kind: ADVERTISEMENT,
        from: EIP,
        to: "ff02::1".parse().unwrap(),
        flags: 0b0010_0000,
        stated: Some((2, THIEF)),
        ..Message::asking(EIP, THIEF)
    };
    // From beyond the link anybody could say so: not a claim.
    Message {
        hop_limit: 254,
        ..claim
    }
    .send(&thief, THIEF);
    let is_counted = |daemon: &Daemon| {
        let count = daemon.count("uplink-tc", "neighbour-invalid");
        count.is_ok_and(|count| count == 1)
    };
    stage.daemon.settle("it is invalid", is_counted).unwrap();
    pause(Duration::from_millis(50));
    assert_eq!(contested(&stage.daemon), None);

    let claim = Message {
        hop_limit: 255,
        ..claim
    };
    // Again and again: a conflict ends soon after the last claim.
    let is_told = |daemon: &Daemon| {
        claim.send(&thief, THIEF);
        contested(daemon) == Some(mac_text(THIEF))
    };
    stage
        .daemon
        .settle("the conflict is reported", is_told)
        .unwrap();
    let claims = stage.daemon.count("uplink-tc", "address-claimed").unwrap();
    assert!(claims >= 1);
    stage
        .daemon
        .settle("the conflict ends", |daemon| contested(daemon).is_none())
        .unwrap();
}
