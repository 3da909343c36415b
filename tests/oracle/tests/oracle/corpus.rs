//! Real programs: what they send through the node is recorded on it, then replayed through both chains.

use std::net::Ipv4Addr;

use eip_lab::{needs, netns::Ns, plan::CLIENT, sniff::Sniffer, sniff::Way};
use eip_oracle_tests::{
    Direction, Step,
    chain::{Chain, GUESTS, Translator, addresses},
    compare::Judge,
    servers::{DNS, HTTP, Servers},
};

use crate::support::Pair;

/// What a program is run for: its name, and its command line toward an address.
type Program = (&'static str, fn(Ipv4Addr) -> String);

/// In the order they run. All of them end by themselves.
const PROGRAMS: [Program; 12] = [
    ("curl", |to| {
        format!("curl -sS -m 10 -o /dev/null http://{to}:{HTTP}/100000")
    }),
    ("dig", |to| {
        format!("dig +tries=1 +time=5 @{to} -p {DNS} name.example A")
    }),
    ("dig, answered in fragments", |to| {
        format!(
            "dig +tries=1 +time=5 +bufsize=4096 +ignore @{to} -p {DNS} quitealongname.example A"
        )
    }),
    ("dig over TCP", |to| {
        format!("dig +tcp +tries=1 +time=5 @{to} -p {DNS} name.example A")
    }),
    ("ping", |to| format!("ping -c 2 -i 0.1 -W 5 {to}")),
    ("ping, in fragments", |to| {
        format!("ping -c 2 -i 0.1 -W 5 -s 8000 {to}")
    }),
    ("traceroute", |to| {
        format!("traceroute -n -q 1 -w 2 -m 5 {to}")
    }),
    ("traceroute -I", |to| {
        format!("traceroute -I -n -q 1 -w 2 -m 5 {to}")
    }),
    ("traceroute -T", |to| {
        format!("traceroute -T -p {HTTP} -n -q 1 -w 2 -m 5 {to}")
    }),
    ("mtr", |to| format!("mtr --report -c 1 -n {to}")),
    ("iperf3", |to| format!("iperf3 -c {to} -n 150K -l 10K")),
    ("iperf3 -u -R", |to| {
        format!("iperf3 -c {to} -u -R -n 100K -b 50M")
    }),
];

/// Records what one program and its server send each other through the node.
fn record(chain: &Chain, guest: usize, outward: bool, program: Program) -> Vec<Step> {
    let (plan, eip) = GUESTS[guest];
    let vm = &chain.world.guest(plan).ns;
    let client = &chain.world.client;
    let (from, at, to) = if outward {
        (vm, client, CLIENT.v4)
    } else {
        (client, vm, eip)
    };
    let sniffer = Sniffer::start(&chain.world.node).unwrap();
    let (name, line) = program;
    run(from, at, name, &line(to));
    let frames = sniffer.finish();
    let (vm, eip) = addresses(guest);
    frames
        .into_iter()
        .filter(|frame| frame.way == Way::In && frame.bytes.get(12..14) == Some(&[8, 0]))
        .filter_map(|frame| {
            let packet = frame.bytes.get(14..)?.to_vec();
            let direction = match frame.interface.as_str() {
                "up0" if packet.get(16..20) == Some(&eip) => Direction::Inward,
                port if port == plan.port && packet.get(12..16) == Some(&vm) => Direction::Outward,
                _ => return None,
            };
            Some(Step {
                direction,
                guest,
                packet,
            })
        })
        .collect()
}

fn run(from: &Ns, at: &Ns, name: &str, line: &str) {
    let mut server = name.starts_with("iperf3").then(|| {
        let child = at
            .command("iperf3")
            .args(["-s", "-1"])
            .stdout(std::process::Stdio::null())
            .spawn();
        eip_lab::wait::wait_until(std::time::Duration::from_secs(5), "iperf3 listens", || {
            at.sh("ss -Hltn sport = :5201")
                .is_ok_and(|listening| !listening.is_empty())
        })
        .unwrap();
        child.unwrap()
    });
    let said = from.sh(&format!("timeout 30 {line}"));
    if let Some(server) = &mut server {
        let _ = server.kill();
        let _ = server.wait();
    }
    let said = said.unwrap();
    println!("$ {line}\n{said}");
}

fn programs_are_carried_as_netfilter_carries_them(lane: &'static str, guest: usize) {
    needs::root().unwrap();
    let mut recorded = Vec::new();
    {
        let chain = Chain::with_traffic(Translator::Ours(lane), 1500).unwrap();
        let hosts = [&chain.world.client, &chain.world.guest(GUESTS[guest].0).ns];
        let _servers = hosts.map(|ns| Servers::start(ns).unwrap());
        for program in PROGRAMS {
            for outward in [false, true] {
                let steps = record(&chain, guest, outward, program);
                assert!(steps.len() >= 2, "{} sent {steps:?}", program.0);
                recorded.push((program.0, outward, steps));
            }
        }
    }
    let mut pair = Pair::raise(lane, 1500);
    for (name, outward, steps) in recorded {
        println!("{name}, outward {outward}: {} packets", steps.len());
        let judge = pair.judge_steps(&steps);
        assert_eq!(judge, Ok(Judge::Netfilter), "{name}, outward {outward}");
    }
}

#[test]
fn programs_are_carried_to_a_routed_vm_as_netfilter_carries_them() {
    programs_are_carried_as_netfilter_carries_them("peer", 0);
}

#[test]
fn programs_are_carried_to_a_bridged_vm_as_netfilter_carries_them() {
    programs_are_carried_as_netfilter_carries_them("neigh", 1);
}
