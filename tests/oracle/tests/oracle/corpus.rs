//! Real programs: what they send through the node is recorded on it, then replayed through both chains.

use std::net::IpAddr;

use eip_lab::{
    needs,
    netns::Ns,
    plan::{CLIENT, Family},
    sniff::{Frame, Sniffer, Way},
};
use eip_oracle_tests::{
    Path, Place, Step,
    chain::{Build, Chain, GUESTS, Translator, addresses},
    compare::Judge,
    layout::{self, upper},
    servers::{DNS, HTTP, Servers},
};

use crate::support::Pair;

/// What a program is run for: its name, and its command line toward an address.
type Program = (&'static str, fn(IpAddr) -> String);

/// In the order they run. All of them end by themselves.
const PROGRAMS: [Program; 12] = [
    ("curl", |to| {
        let to = std::net::SocketAddr::new(to, HTTP);
        format!("curl -sS -m 10 -o /dev/null http://{to}/100000")
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

/// What one program and its server sent each other through the node.
struct Recording {
    what: String,
    steps: Vec<Step>,
}

fn record(chain: &Chain, guest: usize, outward: bool, family: Family, run: Program) -> Recording {
    let (plan, eip) = GUESTS[guest];
    let vm = &chain.world.guest(plan).ns;
    let client = &chain.world.client;
    let (from, at, to) = if outward {
        (vm, client, CLIENT)
    } else {
        (client, vm, eip)
    };
    let sniffer = Sniffer::start(&chain.world.node).unwrap();
    let (name, line) = run;
    execute(from, at, name, &line(to.of(family)));
    let frames = sniffer.finish();
    let steps = frames.iter().filter_map(|frame| sent(frame, guest, family));
    let recording = Recording {
        what: format!("{name}, {family}, outward {outward}"),
        steps: steps.collect(),
    };
    assert!(recording.steps.len() >= 2, "{name} sent too little");
    recording
}

/// What a frame that the node received is a part of, if it is the program's or its server's.
fn sent(frame: &Frame, guest: usize, family: Family) -> Option<Step> {
    let packet = frame.bytes.get(14..)?.to_vec();
    if frame.way != Way::In || layout::family(&packet) != Some(family) {
        return None;
    }
    // Neighbours are found in every chain anew.
    if let Some(upper) = upper(&packet)
        && upper.protocol == layout::icmp(Family::V6)
        && matches!(packet.get(upper.at), Some(133..=137))
    {
        return None;
    }
    let both = packet.get(layout::addresses(family))?;
    let (source, destination) = both.split_at(both.len() / 2);
    let (vm, eip) = addresses(family, guest, 0);
    let place = Place::VMS[guest];
    let path = match frame.interface.as_str() {
        "up0" if destination == eip => Path::inward(place),
        port if port == GUESTS[guest].0.port && source == vm => Path::outward(place),
        _ => return None,
    };
    Some(Step::new(path, packet))
}

fn execute(from: &Ns, at: &Ns, name: &str, line: &str) {
    let mut server = name.starts_with("iperf3").then(|| {
        let child = at
            .command("iperf3")
            .args(["-s", "-1"])
            .stdout(std::process::Stdio::null())
            .spawn();
        eip_lab::wait::wait_until(std::time::Duration::from_secs(30), "iperf3 listens", || {
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

/// Records once, on the first of the lanes, and replays on each.
fn programs_are_carried_as_netfilter_carries_them(guest: usize, lanes: &[&'static str]) {
    needs::root().unwrap();
    let mut recorded = Vec::new();
    {
        let chain = Chain::with_traffic(Translator::Ours(lanes[0]), Build::default()).unwrap();
        let hosts = [&chain.world.client, &chain.world.guest(GUESTS[guest].0).ns];
        let _servers = hosts.map(|ns| Servers::start(ns).unwrap());
        for family in Family::BOTH {
            for program in PROGRAMS {
                for outward in [false, true] {
                    recorded.push(record(&chain, guest, outward, family, program));
                }
            }
        }
    }
    for lane in lanes {
        let mut pair = Pair::raise(lane);
        for Recording { what, steps } in &recorded {
            println!("{lane}: {what}: {} packets", steps.len());
            let judge = pair.judge_steps(steps);
            assert_eq!(judge, Ok(Judge::Netfilter), "{lane}: {what}");
        }
    }
}

#[test]
fn programs_are_carried_to_a_routed_vm_as_netfilter_carries_them() {
    programs_are_carried_as_netfilter_carries_them(0, &["peer", "stack", "xdp"]);
}

#[test]
fn programs_are_carried_to_a_bridged_vm_as_netfilter_carries_them() {
    programs_are_carried_as_netfilter_carries_them(1, &["neigh", "stack", "xdp"]);
}
