//! What a packet costs in each program, in nanoseconds over a program that does nothing.
//!
//! Run by `cargo xtask bench packet`. Programs take turns in every round, so that a slow moment of the
//! machine hits all of them; the table shows medians of the rounds.
//!
//! `BPF_PROG_TEST_RUN` feeds its output back as the next input. The bindings here are therefore a
//! full-cycle permutation of addresses: each translation gives a packet for the *next* random binding
//! ("spread"), or for the same one ("hot"). Every row checks that each of its packets ended for the
//! reason it claims to measure.
//!
//! A TTL lasts 250 runs, so that is the length of a call. For XDP the kernel patches its dispatcher
//! before and after every call, which leaves caches cold: no fair place for a spread row, and the
//! reason why those exist for tc alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use eip_bpf_tests::{
    World,
    packet::ends,
    packet6::{ends6, ip6},
    world::{PORT, binding},
};
use eip_common::{
    abi::{BINDING_PRIMARY, Delivery, NET_BYPASS, Vm},
    parse::ETHERTYPE_IPV6,
    reason::{Hook, Reason},
};

const ROUNDS: usize = 5;
/// Runs per call: a TTL of 255 lasts that long.
const REPEAT: u32 = 250;
/// Calls per round and row.
const CALLS: u32 = 100;
/// What the permutation adds: odd, so that it is a full cycle over a power of two.
const STEP: u32 = 48_271;
const BINDINGS: [u32; 4] = [1, 1024, 4096, 131_072];

/// Which packets of one row follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    /// All of one binding.
    Hot,
    /// Each of another binding.
    Random,
}

struct Row {
    name: String,
    hook: Hook,
    reason: Reason,
    packet: Vec<u8>,
    /// Where the address of the binding stands in the packet, and how many bindings there are, when
    /// each call starts at another one.
    start: Option<(usize, u32)>,
    world: usize,
    goal: Option<u64>,
    samples: Vec<u64>,
}

fn main() {
    println!("loading programs and filling maps ...");
    let mut worlds = Vec::new();
    let mut rows = Vec::new();
    for spread in [Spread::Hot, Spread::Random] {
        for count in BINDINGS {
            if spread == Spread::Random && count == 1 {
                continue;
            }
            worlds.push(filled_world(count, spread));
            rows_for(&mut rows, worlds.len() - 1, count, spread);
        }
    }
    let baseline = Baseline::load();
    let mut floor: BTreeMap<bool, Vec<u64>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        for is_xdp in [true, false] {
            floor
                .entry(is_xdp)
                .or_default()
                .push(baseline.measure(is_xdp));
        }
        for row in &mut rows {
            let sample = measure(&mut worlds[row.world], row);
            row.samples.push(sample);
        }
    }
    print_table(&rows, floor);
}

/// Address number `index`, as EIP and VM alike.
fn address(index: u32) -> String {
    let [_, b, c, d] = index.to_be_bytes();
    format!("100.{b}.{c}.{d}")
}

/// The same of the other family.
fn address6(index: u32) -> String {
    format!("2001:db8:113::{:x}:{:x}", index >> 16, index & 0xffff)
}

/// A world in which translating address `i` gives its successor.
fn filled_world(count: u32, spread: Spread) -> World {
    let mut world = World::with_max_bindings(count.max(4096));
    world.net("10.244.0.0/16", NET_BYPASS);
    for other in [
        "10.96.0.0/12",
        "172.16.0.0/24",
        "192.168.7.0/24",
        "10.9.0.0/16",
        "10.8.0.0/16",
    ] {
        world.net(other, NET_BYPASS);
    }
    world.net("fd00:10:244::/48", NET_BYPASS);
    world.gateways("192.0.2.1", ip6("fe80::1"), 1500);
    for index in 0..count {
        let next = match spread {
            Spread::Hot => index,
            Spread::Random => (index + STEP) % count,
        };
        let (here, there) = (address(index), address(next));
        let lane = Delivery::Xdp;
        world.put_binding(
            &here,
            binding(
                eip_bpf_tests::ip(&there),
                lane,
                PORT,
                index,
                BINDING_PRIMARY,
            ),
        );
        let vm = Vm {
            eip: eip_bpf_tests::ip(&there),
            port_ifindex: PORT,
            l3_ifindex: PORT,
            slot: index,
            flags: 0,
        };
        world.put_vm(&here, vm);
        let (here, there) = (ip6(&address6(index)), ip6(&address6(next)));
        world.put_binding6(here, binding(there, lane, PORT, index, BINDING_PRIMARY));
        let vm = Vm {
            eip: there,
            port_ifindex: PORT,
            l3_ifindex: PORT,
            slot: index,
            flags: 0,
        };
        world.put_vm6(here, vm);
    }
    world
}

/// What a packet does; `None` where no goal is set for so many bindings.
type Way = (&'static str, Hook, Reason, Vec<u8>, Option<u64>);

fn rows_for(rows: &mut Vec<Row>, world: usize, count: u32, spread: Spread) {
    let (kind, ways) = match spread {
        Spread::Hot => ("hot", [hits(count, spread), hot_only(count)].concat()),
        Spread::Random => ("spread", hits(count, spread)),
    };
    for (name, hook, reason, packet, goal) in ways {
        let at = match (hook == Hook::DoorOut, is_ipv6(&packet)) {
            (true, false) => 26,
            (false, false) => 30,
            (true, true) => 22,
            (false, true) => 38,
        };
        rows.push(Row {
            name: format!("{name}, {count} bindings, {kind}"),
            hook,
            reason,
            packet,
            start: (spread == Spread::Random).then_some((at, count)),
            world,
            goal,
            samples: Vec::new(),
        });
    }
}

const CLIENT: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:51::7";

fn inbound() -> Vec<u8> {
    let ends = ends(CLIENT, &address(0)).ttl(255);
    ends.udp(40000, 53, &[0; 18])
}

fn inbound6() -> Vec<u8> {
    let ends = ends6(CLIENT6, &address6(0)).hops(255);
    ends.udp(40000, 53, &[0; 18])
}

/// The ways of translated packets in tc.
fn hits(count: u32, spread: Spread) -> Vec<Way> {
    use Hook::{DoorOut, UplinkTc};
    use Reason::{DeliveredPeer, SentToUplink};
    let goal = |hot, four_thousand| match (count, spread) {
        (1, _) => Some(hot),
        (4096, Spread::Random) => Some(four_thousand),
        _ => None,
    };
    let outbound = ends(&address(0), CLIENT).ttl(255);
    let outbound = outbound.udp(53, 40000, &[0; 18]);
    let outbound6 = ends6(&address6(0), CLIENT6).hops(255);
    let outbound6 = outbound6.udp(53, 40000, &[0; 18]);
    let (to, from) = (goal(120, 160), goal(150, 190));
    vec![
        ("tc in: hit", UplinkTc, DeliveredPeer, inbound(), to),
        ("tc out: hit", DoorOut, SentToUplink, outbound, from),
        (
            "tc in: hit, IPv6",
            UplinkTc,
            DeliveredPeer,
            inbound6(),
            None,
        ),
        ("tc out: hit, IPv6", DoorOut, SentToUplink, outbound6, None),
    ]
}

/// The ways that have no row for random bindings.
fn hot_only(count: u32) -> Vec<Way> {
    use Hook::{DoorOut, UplinkTc, UplinkXdp};
    use Reason::{Bypass, DeliveredXdp, NotEip};
    let express = (count == 1).then_some(90);
    let miss = ends(CLIENT, "198.51.100.9").udp(40000, 53, &[0; 18]);
    let bypass = ends(&address(0), "10.244.9.9").udp(40000, 53, &[0; 18]);
    let hit6 = "xdp: express hit, IPv6";
    vec![
        (
            "xdp: express hit",
            UplinkXdp,
            DeliveredXdp,
            inbound(),
            express,
        ),
        (hit6, UplinkXdp, DeliveredXdp, inbound6(), None),
        ("xdp: not an EIP", UplinkXdp, NotEip, miss.clone(), Some(35)),
        ("tc in: not an EIP", UplinkTc, NotEip, miss, None),
        ("tc out: bypass", DoorOut, Bypass, bypass, None),
    ]
}

fn is_ipv6(packet: &[u8]) -> bool {
    packet[12..14] == ETHERTYPE_IPV6
}

/// Median nanoseconds per packet of one round.
fn measure(world: &mut World, row: &Row) -> u64 {
    let before = world.total(row.hook, row.reason);
    let mut samples: Vec<u64> = (0..CALLS)
        .map(|call| {
            let mut packet = row.packet.clone();
            if let Some((at, count)) = row.start {
                start_at(
                    &mut packet,
                    at,
                    call.wrapping_mul(REPEAT).wrapping_mul(STEP) % count,
                );
            }
            let mut out = vec![0; packet.len() + 64];
            let options = TestRunOptions {
                data_in: Some(&packet),
                data_out: Some(&mut out),
                repeat: REPEAT,
                ..TestRunOptions::new()
            };
            world.timed_run(row.hook, options)
        })
        .collect();
    let ended = world.total(row.hook, row.reason) - before;
    let expected = u64::from(CALLS) * u64::from(REPEAT);
    assert_eq!(
        ended, expected,
        "{}: packets that ended otherwise",
        row.name
    );
    median(&mut samples)
}

/// Makes the packet one of another binding. Its checksums are off by that, which costs nothing and
/// nobody checks here.
fn start_at(packet: &mut [u8], at: usize, index: u32) {
    if is_ipv6(packet) {
        packet[at..at + 16].copy_from_slice(&ip6(&address6(index)));
    } else {
        packet[at..at + 4].copy_from_slice(&eip_bpf_tests::ip(&address(index)));
    }
}

fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn print_table(rows: &[Row], mut floor: BTreeMap<bool, Vec<u64>>) {
    let xdp = median(floor.get_mut(&true).unwrap());
    let tc = median(floor.get_mut(&false).unwrap());
    println!("\nno-op: xdp {xdp} ns, tc {tc} ns (subtracted below)\n");
    println!(
        "{:<46} {:>8} {:>6} {:>6}",
        "", "over no-op", "ratio", "goal"
    );
    for row in rows {
        let floor = if row.hook == Hook::UplinkXdp { xdp } else { tc };
        let total = median(&mut row.samples.clone());
        let goal = row.goal.map_or(String::new(), |goal| format!("{goal}"));
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one packet")]
        let ratio = total as f64 / floor as f64;
        let over = total.saturating_sub(floor);
        println!("{:<46} {over:>7} ns {ratio:>6.1} {goal:>6}", row.name);
    }
}

struct Baseline(Ebpf);

impl Baseline {
    fn load() -> Self {
        let mut ebpf = Ebpf::load(eip_daemon::BASELINE_OBJECT).unwrap();
        let program: &mut Xdp = ebpf.program_mut("noop_xdp").unwrap().try_into().unwrap();
        program.load().unwrap();
        let program: &mut SchedClassifier =
            ebpf.program_mut("noop_tc").unwrap().try_into().unwrap();
        program.load().unwrap();
        Self(ebpf)
    }

    fn measure(&self, is_xdp: bool) -> u64 {
        let packet = ends("198.51.100.7", "198.51.100.9").udp(40000, 53, &[0; 18]);
        let mut samples: Vec<u64> = (0..CALLS)
            .map(|_| {
                let mut out = vec![0; packet.len() + 64];
                let options = TestRunOptions {
                    data_in: Some(&packet),
                    data_out: Some(&mut out),
                    repeat: REPEAT,
                    ..TestRunOptions::new()
                };
                let result = if is_xdp {
                    let program: &Xdp = self.0.program("noop_xdp").unwrap().try_into().unwrap();
                    program.test_run(options)
                } else {
                    let program: &SchedClassifier =
                        self.0.program("noop_tc").unwrap().try_into().unwrap();
                    program.test_run(options)
                };
                u64::try_from(result.unwrap().duration.as_nanos()).unwrap()
            })
            .collect();
        median(&mut samples)
    }
}
