//! Which pairs to take over, from what the older agent wrote down and what it made of it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::evidence::{Evidence, SETS};

/// An elastic IP and the VM's address it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) eip: IpAddr,
    pub(super) vm: IpAddr,
    /// The one of several of its VM that the VM leaves with.
    pub(super) is_primary: bool,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.eip, self.vm)
    }
}

/// Something worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    what: String,
    text: String,
    is_left_out: bool,
}

impl Finding {
    /// Something was not taken over.
    pub(super) fn left_out(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            text: text.into(),
            is_left_out: true,
        }
    }

    fn remark(what: &Pair, text: &str) -> Self {
        Self {
            what: what.to_string(),
            text: text.to_owned(),
            is_left_out: false,
        }
    }

    pub(super) const fn is_left_out(&self) -> bool {
        self.is_left_out
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_left_out {
            "NOT TAKEN OVER "
        } else {
            ""
        };
        write!(f, "{kind}{}: {}", self.what, self.text)
    }
}

/// What is decided.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    pub(super) pairs: Vec<Pair>,
    pub(super) findings: Vec<Finding>,
}

/// Decides. What is translated now counts most, the first rule of several; then what was written down as
/// finished, though nothing translates it: somebody was told that it works.
pub(super) fn decide(evidence: &Evidence) -> Takeover {
    let mut takeover = Takeover::default();
    let rules = || evidence.rules.iter();
    let translated: Vec<(IpAddr, IpAddr)> = rules().flat_map(|rules| rules.into.clone()).collect();
    let left_as: Vec<(IpAddr, IpAddr)> = rules().flat_map(|rules| rules.out.clone()).collect();
    let mut chosen: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    for (eip, vm) in &translated {
        takeover.choose(
            &mut chosen,
            *eip,
            *vm,
            "a rule that is never reached leads there",
        );
    }
    let finished = || {
        evidence
            .records
            .iter()
            .map(|(_, record)| record)
            .filter(|record| record.is_finished)
    };
    let mut contested: BTreeSet<IpAddr> = BTreeSet::new();
    for record in finished() {
        let is_contested = !chosen.contains_key(&record.eip)
            && finished().any(|other| other.eip == record.eip && other.vm != record.vm);
        if is_contested {
            contested.insert(record.eip);
            let text = "written down for several VMs, and no rule says which of them has it";
            takeover.leave(record.eip, record.vm, text);
        } else if !contested.contains(&record.eip) {
            let text = "written down, but its rule leads elsewhere";
            takeover.choose(&mut chosen, record.eip, record.vm, text);
        }
    }
    for (_, record) in evidence
        .records
        .iter()
        .filter(|(_, record)| !record.is_finished)
    {
        if chosen.get(&record.eip) != Some(&record.vm) {
            let text = format!("was begun and not finished (step {} of 5)", record.phase);
            takeover.leave(record.eip, record.vm, &text);
        }
    }
    for (eip, vm) in &chosen {
        if eip.is_ipv4() != vm.is_ipv4() {
            takeover.leave(*eip, *vm, "the two are of different families");
            continue;
        }
        let siblings = chosen.values().filter(|other| *other == vm).count();
        let source = left_as
            .iter()
            .find(|(from, _)| from == vm)
            .map(|(_, to)| *to);
        let pair = Pair {
            eip: *eip,
            vm: *vm,
            is_primary: siblings > 1 && source == Some(*eip),
        };
        takeover.remark_on(evidence, &pair, &translated, source);
        takeover.pairs.push(pair);
    }
    takeover
}

impl Takeover {
    fn choose(
        &mut self,
        chosen: &mut BTreeMap<IpAddr, IpAddr>,
        eip: IpAddr,
        vm: IpAddr,
        why_not: &str,
    ) {
        let has = *chosen.entry(eip).or_insert(vm);
        if has != vm {
            self.leave(eip, vm, &format!("{why_not}; {eip} goes to {has}"));
        }
    }

    fn leave(&mut self, eip: IpAddr, vm: IpAddr, text: &str) {
        let finding = Finding::left_out(format!("{eip} -> {vm}"), text);
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// What was half done of a pair that is taken over.
    fn remark_on(
        &mut self,
        evidence: &Evidence,
        pair: &Pair,
        translated: &[(IpAddr, IpAddr)],
        source: Option<IpAddr>,
    ) {
        let is_written = evidence
            .records
            .iter()
            .any(|(_, record)| (record.eip, record.vm) == (pair.eip, pair.vm));
        let mut remark = |applies: bool, text: &str| {
            if applies {
                self.findings.push(Finding::remark(pair, text));
            }
        };
        remark(!is_written, "a rule has it, but no record");
        if !evidence.knows_rules {
            return;
        }
        remark(
            !translated.contains(&(pair.eip, pair.vm)),
            "kube-eip has no rule for what arrives, so it did not work; it will",
        );
        remark(
            source.is_none(),
            "kube-eip has no rule for what leaves, so the VM left with another address; it will not",
        );
        let is_in_set = |set: &str, address: IpAddr| {
            let members = evidence.sets.get(set);
            members.is_some_and(|members| members.contains(&address.to_string()))
        };
        let [eips, vms, _] = SETS;
        let is_reached = is_in_set(eips, pair.eip) && is_in_set(vms, pair.vm);
        remark(
            !(evidence.sets.is_empty() || is_reached),
            "not in kube-eip's sets, so its rules are not reached; it will work",
        );
    }
}
