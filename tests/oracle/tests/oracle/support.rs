//! Two chains side by side.

use std::collections::BTreeMap;

use eip_lab::needs;
use eip_oracle_tests::{
    Step,
    chain::{Chain, Outcome, Translator},
    compare::{self, Forwarder, Judge},
    packet::{Body, Case, Shape},
    six,
};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Netfilter and the daemon on one lane, and who judged what so far.
pub(crate) struct Pair {
    theirs: Chain,
    ours: Chain,
    forwarder: Forwarder,
    tally: BTreeMap<(&'static str, Judge), u64>,
    tried: u16,
}

impl Pair {
    /// Both chains, with this MTU on the VMs' links.
    pub(crate) fn raise(lane: &'static str, guest_mtu: u32) -> Self {
        needs::root().unwrap();
        stay_on_one_cpu();
        Self {
            theirs: Chain::raise(Translator::Netfilter, guest_mtu).unwrap(),
            ours: Chain::raise(Translator::Ours(lane), guest_mtu).unwrap(),
            forwarder: if lane == "stack" {
                Forwarder::Kernel
            } else {
                Forwarder::Programs
            },
            tally: BTreeMap::new(),
            tried: 0,
        }
    }

    /// Sends the steps through both.
    pub(crate) fn pass(&mut self, steps: &[Step]) -> (Vec<Outcome>, Vec<Outcome>) {
        self.theirs.forget().unwrap();
        self.ours.forget().unwrap();
        let through =
            |chain: &mut Chain| steps.iter().map(|step| chain.pass(step).unwrap()).collect();
        (through(&mut self.theirs), through(&mut self.ours))
    }

    /// Tries a case. Its packets get an identification of their own: the kernel may still hold
    /// fragments of the one before, which nobody can make it forget.
    pub(crate) fn judge(&mut self, case: &Case) -> Result<Judge, String> {
        self.tried = self.tried.wrapping_add(1);
        let mut case = case.clone();
        case.shape.identify(self.tried);
        let judge = self.judge_steps(&case.steps())?;
        *self.tally.entry((label(&case.shape), judge)).or_default() += 1;
        Ok(judge)
    }

    /// Tries frames as they are.
    pub(crate) fn judge_steps(&mut self, steps: &[Step]) -> Result<Judge, String> {
        let (theirs, ours) = self.pass(steps);
        compare::judge(self.forwarder, steps, &theirs, &ours)
    }

    /// As [`Pair::judge`], for IPv6.
    pub(crate) fn judge_six(&mut self, case: &six::packet::Case) -> Result<Judge, String> {
        self.tried = self.tried.wrapping_add(1);
        let steps = case.steps(self.tried.into());
        let judge = self.judge_six_steps(&steps)?;
        *self
            .tally
            .entry((label_six(&case.shape), judge))
            .or_default() += 1;
        Ok(judge)
    }

    /// As [`Pair::judge_steps`], for IPv6.
    pub(crate) fn judge_six_steps(&mut self, steps: &[Step]) -> Result<Judge, String> {
        let (theirs, ours) = self.pass(steps);
        six::compare::judge(self.forwarder, steps, &theirs, &ours)
    }

    /// How many cases of a kind a judge decided.
    pub(crate) fn judged(&self, kind: &str, judge: Judge) -> u64 {
        self.tally
            .iter()
            .filter(|((of, by), _)| *of == kind && *by == judge)
            .map(|(_, count)| count)
            .sum()
    }

    /// How often our programs ended a packet for a reason.
    pub(crate) fn count(&self, hook: &str, reason: &str) -> u64 {
        self.ours.count(hook, reason).unwrap()
    }

    /// Who judged what, for people.
    pub(crate) fn summary(&self) -> String {
        let lines = self.tally.iter();
        let lines = lines.map(|((kind, judge), count)| format!("  {kind:<10} {judge:?}: {count}"));
        lines.collect::<Vec<_>>().join("\n")
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

fn label_six(shape: &six::packet::Shape) -> &'static str {
    match shape {
        six::packet::Shape::Whole(_, body) => label_body(body),
        six::packet::Shape::Fragmented(..) => "fragments",
        six::packet::Shape::Error(..) => "error",
        six::packet::Shape::Reply(..) => "reply",
    }
}

fn label_body(body: &Body) -> &'static str {
    match body {
        Body::Udp { .. } => "udp",
        Body::Tcp { .. } => "tcp",
        Body::Icmp { .. } => "icmp",
        Body::Sctp { .. } => "sctp",
        Body::Raw { .. } => "other",
    }
}

fn label(shape: &Shape) -> &'static str {
    match shape {
        Shape::Whole(_, body) => label_body(body),
        Shape::Fragmented(..) => "fragments",
        Shape::Error(..) => "error",
        Shape::Reply(..) => "reply",
    }
}

/// Frames keep their order where one CPU carries them all.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}
