//! "What would become of this packet?": the programs run on it, and nothing else happens.

use std::net::IpAddr;

use eip_lab::{
    daemon::DaemonOptions,
    plan::{CLIENT, Family, POD1, VM1, VM2, eip},
    traffic::{self, PATIENCE},
    world::WorldOptions,
};
use serde_json::Value;

use crate::support::{Stage, at};

struct Traced {
    answer: Value,
    is_success: bool,
}

fn trace(stage: &Stage, line: &str) -> Traced {
    let arguments: Vec<_> = ["-o", "json", "trace"]
        .into_iter()
        .chain(line.split(' '))
        .collect();
    let output = stage.daemon.eipctl(&arguments).unwrap();
    let answer = serde_json::from_str(&output.stdout);
    Traced {
        answer: answer.unwrap_or_else(|error| panic!("{line}: {error}: {output:?}")),
        is_success: output.status.success(),
    }
}

impl Traced {
    /// Hook and reason of every hop of a way.
    fn hops(&self, way: &str) -> Vec<(String, String)> {
        let hops = self.answer[way]["hops"].as_array().unwrap();
        hops.iter()
            .map(|hop| {
                let text = |name: &str| hop[name].as_str().unwrap_or("-").to_owned();
                if hop["hook"] != "kernel" {
                    assert_eq!(hop["isAttached"], true, "the attached program: {hop:#}");
                }
                let after = &hop["after"];
                assert!(after.is_null() || after["checksums"] == "right", "{hop:#}");
                (text("hook"), text("reason"))
            })
            .collect()
    }

    #[track_caller]
    fn went(&self, way: &str, expected: &[(&str, &str)]) -> &Self {
        let hops = self.hops(way);
        let hops: Vec<_> = hops
            .iter()
            .map(|(hook, reason)| (hook.as_str(), reason.as_str()))
            .collect();
        assert_eq!(hops, expected, "{:#}", self.answer);
        self
    }

    /// The packet after the last hop that changed it.
    fn last(&self, way: &str) -> &Value {
        let hops = self.answer[way]["hops"].as_array().unwrap();
        &hops.iter().rfind(|hop| !hop["after"].is_null()).unwrap()["after"]
    }
}

const IN: &[(&str, &str)] = &[
    ("uplink-xdp", "left-to-tc"),
    ("uplink-tc", "delivered-peer"),
];
const OUT: &[(&str, &str)] = &[("door-out", "sent-to-uplink")];

#[test]
fn a_trace_shows_each_hop_both_ways_and_leaves_nothing_behind() {
    let stage = Stage::plain();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    let count = |hook, reason| stage.daemon.count(hook, reason).unwrap();
    let before = (
        count("uplink-tc", "delivered-peer"),
        count("door-out", "sent-to-uplink"),
    );
    let client = CLIENT.v4;
    for (vm, eip) in [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)] {
        for proto in [
            "tcp --dport 22 --syn",
            "udp --dport 53 --size 900",
            "icmp",
            "132",
            "47",
        ] {
            let traced = trace(
                &stage,
                &format!("--from {client} --to {eip} --proto {proto}"),
            );
            assert!(traced.is_success, "{proto}: {:#}", traced.answer);
            traced.went("forward", IN).went("reply", OUT);
            assert_eq!(
                traced.last("forward")["destination"],
                vm.address.v4.to_string()
            );
            assert_eq!(traced.last("reply")["source"], eip.to_string());
        }
        // What the VM starts; its EIP names it as well.
        for from in [vm.address.v4, eip] {
            let traced = trace(
                &stage,
                &format!("--from {from} --to {client} --proto tcp --syn"),
            );
            assert!(traced.is_success);
            traced.went("forward", OUT).went("reply", IN);
        }
    }
    let after = (
        count("uplink-tc", "delivered-peer"),
        count("door-out", "sent-to-uplink"),
    );
    assert_eq!(after, before, "a trace is not counted");
    let frames = stage
        .world
        .client_frames()
        .packets(|_, packet| packet.protocol == 132);
    assert!(frames.is_empty(), "nothing is sent: {frames:?}");
}

#[test]
fn a_trace_follows_fragments_and_icmp_errors_in_both_families() {
    let stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    for family in Family::BOTH {
        let (client, eip) = (CLIENT.of(family), eip::VM1.of(family));
        let vm = VM1.address.of(family);
        let there = format!("--from {client} --to {eip}");
        let back = format!("--from {vm} --to {client}");
        for more in [
            "--proto tcp --syn",
            "--proto icmp",
            "--proto udp --size 1200 --fragment first",
            "--proto udp --size 1200 --fragment later",
        ] {
            let traced = trace(&stage, &format!("{there} {more}"));
            traced.went("forward", IN).went("reply", OUT);
            assert_eq!(traced.last("forward")["destination"], vm.to_string());
            let traced = trace(&stage, &format!("{back} {more}"));
            traced.went("forward", OUT).went("reply", IN);
            assert_eq!(traced.last("forward")["source"], eip.to_string());
        }
        // The addresses of the quote are translated with those around it.
        let quotes = |traced: &Traced, from: IpAddr, to: IpAddr| {
            let quotes = traced.last("forward")["quotes"]
                .as_str()
                .unwrap()
                .to_owned();
            let (start, rest) = quotes.split_once(" > ").unwrap();
            assert!(start.contains(&from.to_string()), "{quotes}");
            assert!(rest.contains(&to.to_string()), "{quotes}");
            assert!(quotes.ends_with("checksums right"), "{quotes}");
            assert!(traced.answer["reply"].is_null(), "nobody answers an error");
        };
        for (error, proto) in [
            ("unreachable", "udp"),
            ("too-large", "tcp"),
            ("time-exceeded", "icmp"),
        ] {
            let more = format!("--proto {proto} --icmp-error {error}");
            let traced = trace(&stage, &format!("{there} {more}"));
            quotes(traced.went("forward", IN), vm, client);
            let traced = trace(&stage, &format!("{back} {more}"));
            quotes(traced.went("forward", OUT), client, eip);
        }
    }
}

#[test]
fn a_trace_of_a_vlan_that_nobody_has_ends_in_the_kernel() {
    let stage = Stage::plain();
    let line = format!("--from {} --to {}", CLIENT.v4, eip::VM1.v4);
    let traced = trace(&stage, &format!("{line} --vlan 200.100"));
    traced.went(
        "forward",
        &[
            ("uplink-xdp", "tagged"),
            ("uplink-tc", "tagged"),
            ("kernel", "-"),
        ],
    );
    assert_eq!(
        traced.answer["forward"]["end"],
        "dropped by the kernel: up0 has no VLAN 200"
    );
    assert!(!traced.is_success);
    for vlan in ["0", "4095", "1.2.3", "x"] {
        let line = format!("trace {line} --vlan {vlan}");
        let arguments: Vec<_> = line.split(' ').collect();
        let output = stage.daemon.eipctl(&arguments).unwrap();
        assert_eq!(output.status.code(), Some(2), "{vlan}: {output:?}");
    }
}

#[test]
fn a_trace_of_a_pod_finds_the_flow_of_its_own_and_remembers_none() {
    let stage = Stage::plain();
    let flows = || {
        let path = stage.daemon.map("FLOW4_V1");
        let dump = stage
            .daemon
            .bpftool(&format!("-j map dump pinned {}", path.display()))
            .unwrap();
        serde_json::from_str::<Value>(&dump)
            .unwrap()
            .as_array()
            .unwrap()
            .len()
    };
    let pod = POD1.address.v4;
    let line = format!(
        "--from {pod} --to {} --proto tcp --dport 22 --syn",
        eip::VM1.v4
    );
    let traced = trace(&stage, &line);
    assert!(traced.is_success, "{:#}", traced.answer);
    traced
        .went("forward", &[("kernel", "-"), ("door-in", "translated")])
        .went("reply", &[("door-out", "sent-as-flow"), ("kernel", "-")]);
    assert_eq!(flows(), 0);

    // A flow that is really there is followed: the VM answers the pod as its EIP.
    let reply = format!(
        "--from {} --to {pod} --proto udp --sport 7000 --dport 4321",
        VM1.address.v4
    );
    trace(&stage, &reply).went("forward", &[("door-out", "bypass"), ("kernel", "-")]);
    traffic::udp(stage.ns(POD1), at(eip::VM1.v4), 100, PATIENCE).unwrap();
    assert!(flows() > 0);
}

#[test]
fn a_trace_names_why_a_packet_does_not_arrive() {
    let stage = Stage::plain();
    let (client, eip, vm) = (CLIENT.v4, eip::VM1.v4, VM1.address.v4);
    for (line, hook, reason) in [
        (
            format!("--from 203.0.113.99 --to {client} --in cali1"),
            "door-out",
            "spoofed-eip",
        ),
        (
            format!("--from {} --to {client} --in cali1", VM2.address.v4),
            "door-out",
            "spoofed-vm",
        ),
        (
            format!("--from {client} --to {eip} --ttl 1"),
            "uplink-tc",
            "ttl-exceeded",
        ),
        (
            format!("--from {vm} --to {client} --ttl 1"),
            "door-out",
            "ttl-exceeded",
        ),
    ] {
        let traced = trace(&stage, &line);
        assert!(!traced.is_success, "{line}: {:#}", traced.answer);
        let hops = traced.hops("forward");
        let last = hops.last().unwrap();
        assert_eq!((last.0.as_str(), last.1.as_str()), (hook, reason), "{line}");
        assert!(traced.answer["reply"].is_null());
    }
    for line in [
        format!("--from {client} --to {eip} --in cali2"),
        format!("--from {client} --to {eip} --in nothing0"),
        format!("--from {client} --to 2001:db8::1"),
        format!("--from {client} --to {eip} --size 9000"),
        format!("--from {client} --to {eip} --proto wrong"),
    ] {
        let arguments: Vec<_> = ["trace"].into_iter().chain(line.split(' ')).collect();
        let output = stage.daemon.eipctl(&arguments).unwrap();
        assert!(!output.status.success(), "{line}: {output:?}");
        assert!(!output.stderr.trim().is_empty(), "{line}");
    }
}
