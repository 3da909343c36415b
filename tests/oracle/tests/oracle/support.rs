//! Two chains side by side.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use eip_lab::{
    needs,
    plan::{CLIENT, Family},
};
use eip_oracle_tests::{
    Path, Place, Step,
    case::{Case, Damage, Shape},
    chain::{Build, Chain, Outcome, Translator},
    compare::{self, Forwarder, Judge},
    packet::{Body, Header, Sum},
};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Netfilter and the daemon on one lane, and who judged what so far.
pub(crate) struct Pair {
    theirs: Chain,
    ours: Chain,
    build: Build,
    forwarder: Forwarder,
    tally: Tally,
    tried: u16,
}

impl Pair {
    /// Both chains, with nothing out of the ordinary.
    pub(crate) fn raise(lane: &'static str) -> Self {
        Self::build(lane, Build::default())
    }

    /// Both chains, built like this.
    pub(crate) fn build(lane: &'static str, build: Build) -> Self {
        needs::root().unwrap();
        stay_on_one_cpu();
        Self {
            theirs: Chain::raise(Translator::Netfilter, build).unwrap(),
            ours: Chain::raise(Translator::Ours(lane), build).unwrap(),
            build,
            forwarder: if lane == "stack" {
                Forwarder::Kernel
            } else {
                Forwarder::Programs
            },
            tally: Tally::default(),
            tried: 0,
        }
    }

    /// Sends the steps through both.
    pub(crate) fn pass(&mut self, steps: &[Step]) -> (Vec<Outcome>, Vec<Outcome>) {
        let [theirs, ours] =
            self.each(|chain| steps.iter().map(|step| chain.pass(step).unwrap()).collect());
        (theirs, ours)
    }

    /// Runs something with each of them, netfilter's first, when neither remembers a connection.
    pub(crate) fn each<T>(&mut self, mut with: impl FnMut(&mut Chain) -> T) -> [T; 2] {
        [&mut self.theirs, &mut self.ours].map(|chain| {
            chain.forget().unwrap();
            with(chain)
        })
    }

    /// Tries a case. Its packets get an identification of their own: the kernel may still hold
    /// fragments of the one before, which nobody can make it forget. So they get a peer where the VM goes on to
    /// answer him as the EIP that he has asked.
    pub(crate) fn judge(&mut self, case: &Case) -> Result<Judge, String> {
        self.tried = self.tried.wrapping_add(1);
        let mut case = case.clone();
        case.shape.identify(self.tried.into());
        if self.build.many_eips {
            case.peer = stranger(case.shape.family(), self.tried);
        }
        let judge = self.judge_steps(&case.steps())?;
        *self.tally.0.entry((kind(&case.shape), judge)).or_default() += 1;
        Ok(judge)
    }

    /// Tries frames as they are.
    pub(crate) fn judge_steps(&mut self, steps: &[Step]) -> Result<Judge, String> {
        let (theirs, ours) = self.pass(steps);
        compare::judge(self.forwarder, steps, &theirs, &ours)
    }

    /// Who judged what since the last time somebody asked.
    pub(crate) fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// How often our programs ended a packet for a reason.
    pub(crate) fn count(&self, hook: &str, reason: &str) -> u64 {
        self.ours.count(hook, reason).unwrap()
    }
}

/// How many cases of a kind each judge decided.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<(&'static str, Judge), u64>);

impl Tally {
    /// By this one.
    pub(crate) fn judged(&self, kind: &'static str, judge: Judge) -> u64 {
        self.0.get(&(kind, judge)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, judge), count) in &self.0 {
            writeln!(f, "  {kind:<10} {judge:?}: {count}")?;
        }
        Ok(())
    }
}

/// Kinds of cases, all of which have to be judged by netfilter at least sometimes.
pub(crate) const KINDS: [&str; 8] = [
    "udp",
    "tcp",
    "icmp",
    "sctp",
    "other",
    "fragments",
    "error",
    "reply",
];

fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Whole(_, Body::Udp { .. }) => "udp",
        Shape::Whole(_, Body::Tcp { .. }) => "tcp",
        Shape::Whole(_, Body::Icmp { .. }) => "icmp",
        Shape::Whole(_, Body::Sctp { .. }) => "sctp",
        Shape::Whole(_, Body::Raw { .. }) => "other",
        Shape::Fragmented(..) => "fragments",
        Shape::Error(..) => "error",
        Shape::Reply(..) => "reply",
    }
}

/// Somebody else each time, of the networks for benchmarks (RFC 2544, RFC 5180).
fn stranger(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, high, low).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, number).into(),
    }
}

/// Frames keep their order where one CPU carries them all.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// A case with the client at its other end.
pub(crate) fn case(path: Path, shape: Shape) -> Case {
    Case {
        path,
        peer: CLIENT.of(shape.family()),
        shape,
        damage: Damage::None,
    }
}

/// One packet between a VM and the client.
pub(crate) fn step(path: Path, header: Header, body: Body) -> Step {
    let mut steps = case(path, Shape::Whole(header, body)).steps();
    steps.remove(0)
}

/// Both ways between the network and the routed VM, each with the hook that judges it.
pub(crate) fn first_vm() -> [(Path, &'static str); 2] {
    let vm = Place::VMS[0];
    [
        (Path::inward(vm), "uplink-tc"),
        (Path::outward(vm), "door-out"),
    ]
}

pub(crate) fn udp(payload: Vec<u8>) -> Body {
    Body::Udp {
        lite: false,
        ports: (4444, 53),
        sum: Sum::Right,
        payload,
    }
}

pub(crate) fn tcp(payload: Vec<u8>) -> Body {
    Body::Tcp {
        ports: (4444, 80),
        flags: 0x02,
        options: Vec::new(),
        sum: Sum::Right,
        payload,
    }
}
