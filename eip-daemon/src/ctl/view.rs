//! From the reconciler's report to what goes over the socket. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use eip_common::{abi, addr::Mac, reason::Reason};
use ipnet::IpNet;

use super::{
    api::{self, BindingPhase},
    state::rfc3339,
};
use crate::{
    announce::l2::Conflict,
    conditions::{Aspect, Conditions, Network, conditions},
    dataplane::ReasonCount,
    model::{Announce, BindingState, Lane, NetworkView, Outcome},
    report::{BindingReport, Report},
};

/// How far a binding is.
#[must_use]
pub fn phase(report: &Report, binding: &BindingReport) -> BindingPhase {
    match &binding.outcome {
        Outcome::Elsewhere { .. } => BindingPhase::Elsewhere,
        Outcome::Waiting { .. } => BindingPhase::Waiting,
        Outcome::Refused { .. } => BindingPhase::Refused,
        Outcome::Served { .. } if binding.error.is_some() => BindingPhase::Failing,
        Outcome::Served { .. } if binding.is_fenced => BindingPhase::Fenced,
        Outcome::Served { .. } => {
            let wanted = report.desired.bindings.get(&binding.fact.eip);
            let is_there = |state: &BindingState| wanted.is_none_or(|wanted| wanted == state);
            match &binding.programmed {
                Some(state) if is_there(state) => BindingPhase::Programmed,
                _ => BindingPhase::Pending,
            }
        }
    }
}

/// How many bindings are in each phase; every phase is there.
#[must_use]
pub fn phases(report: &Report) -> BTreeMap<BindingPhase, usize> {
    let mut counts: BTreeMap<_, _> = BindingPhase::ALL.map(|phase| (phase, 0)).into();
    for binding in &report.bindings {
        *counts.entry(phase(report, binding)).or_default() += 1;
    }
    counts
}

/// Every binding, by EIP; the one that holds it first.
pub(super) fn bindings(report: &Report) -> Vec<api::Binding> {
    let mut list: Vec<_> = report
        .bindings
        .iter()
        .map(|item| binding(report, item))
        .collect();
    let place = |item: &api::Binding| {
        (
            item.eip,
            item.state,
            item.namespace.clone(),
            item.name.clone(),
        )
    };
    list.sort_by_cached_key(place);
    list
}

pub(super) fn binding(report: &Report, item: &BindingReport) -> api::Binding {
    let fact = &item.fact;
    let state = item.programmed.as_ref();
    let port_name = |ifindex: u32| interface_name(&report.view, ifindex);
    let (vm_address, reason, message) = explain(item);
    api::Binding {
        namespace: fact.name.namespace.clone(),
        name: fact.name.name.clone(),
        eip: fact.eip,
        vm: fact.vm.name.clone(),
        vm_address: state.map(|state| state.vm).or(vm_address),
        state: phase(report, item),
        reason,
        message,
        primary: state.map_or(fact.primary, |state| state.is_primary),
        requested_delivery: fact.delivery,
        delivery: state.map(|state| state.delivery),
        policy: state.map(|state| policy(state.delivery).to_owned()),
        requested_announce: fact.announce,
        announce: announce(report, item),
        port: state.map(|state| port_name(state.port)),
        l3_device: state.map(|state| port_name(state.l3)),
        mtu: state.map(|state| state.mtu),
        vm_mac: state
            .filter(|state| state.vm_mac != [0; 6])
            .map(|state| mac(state.vm_mac)),
        generation: fact.generation,
        origin: fact.origin.as_ref().map(ToString::to_string),
        contenders: contenders(report, item),
        conditions: Vec::new(),
        peers: Vec::new(),
        uplinks: Vec::new(),
        bgp: None,
        conflict: None,
        traffic: None,
        reasons: None,
    }
}

/// Adds what the network is told.
pub(super) fn add_conditions(bindings: &mut [api::Binding], report: &Report, network: &Network) {
    let mut known: BTreeMap<(&str, &str), Conditions> = report
        .bindings
        .iter()
        .filter_map(|item| {
            let name = &item.fact.name;
            let conditions = conditions(item, report, network)?;
            Some(((name.namespace.as_str(), name.name.as_str()), conditions))
        })
        .collect();
    for binding in bindings {
        let Some(all) = known.remove(&(binding.namespace.as_str(), binding.name.as_str())) else {
            continue;
        };
        binding.conditions = [
            ("Programmed", all.programmed),
            ("Announced", all.announced),
            ("Ready", all.ready),
        ]
        .map(|(type_, aspect)| condition(type_, aspect))
        .into();
        binding.peers = all.told.peers;
        binding.uplinks = all.told.uplinks;
    }
}

fn condition(type_: &str, aspect: Aspect) -> api::Condition {
    api::Condition {
        type_: type_.to_owned(),
        status: word(&aspect.status).unwrap_or_default(),
        reason: aspect.reason,
        message: aspect.message,
    }
}

/// Adds what was heard on the segments of the uplinks.
pub(super) fn add_conflicts(bindings: &mut [api::Binding], conflicts: &BTreeMap<IpAddr, Conflict>) {
    for binding in bindings.iter_mut().filter(|one| one.announce.is_some()) {
        binding.conflict = conflicts.get(&binding.eip).map(conflict);
    }
}

/// Somebody else's claim, for people.
pub(super) fn conflict(conflict: &Conflict) -> api::Conflict {
    api::Conflict {
        mac: mac(conflict.mac),
        uplink: conflict.uplink.clone(),
        since: rfc3339(conflict.since),
        claims: conflict.claims,
    }
}

/// How a binding that is served here is announced.
fn announce(report: &Report, item: &BindingReport) -> Option<Announce> {
    let is_served = matches!(item.outcome, Outcome::Served { .. });
    let chosen = report.desired.announcements.get(&item.fact.eip);
    chosen.map(|chosen| chosen.by).filter(|_| is_served)
}

/// Whether netfilter sees the packets of a lane.
pub(super) const fn policy(lane: Lane) -> &'static str {
    match lane {
        Lane::Stack => "iptables-based NetworkPolicy sees client and EIP in this lane",
        Lane::Peer | Lane::Neigh | Lane::Xdp | Lane::Forward => {
            "iptables-based NetworkPolicy is not seen in this lane"
        }
    }
}

/// The same for the whole node.
pub(super) fn node_policy(report: &Report) -> String {
    let lanes = report
        .bindings
        .iter()
        .filter_map(|item| item.programmed.as_ref());
    let (stack, past): (Vec<_>, Vec<_>) = lanes.partition(|state| state.delivery == Lane::Stack);
    match (stack.len(), past.len()) {
        (0, 0) => "no elastic IP is programmed".to_owned(),
        (_, 0) => "iptables-based NetworkPolicy holds for every elastic IP".to_owned(),
        (0, _) => "iptables-based NetworkPolicy is not seen by any elastic IP".to_owned(),
        (stack, past) => format!(
            "iptables-based NetworkPolicy holds for {stack} elastic IPs (lane stack) and is not seen by {past}"
        ),
    }
}

type Explanation = (Option<IpAddr>, Option<String>, Option<String>);

/// VM address, reason and message of what was decided, with the kernel's error first.
fn explain(item: &BindingReport) -> Explanation {
    let (vm, reason, message) = match &item.outcome {
        Outcome::Served { vm, note } => (Some(*vm), None, note.clone()),
        Outcome::Elsewhere { node } => (None, None, Some(format!("its VM runs on {node}"))),
        Outcome::Waiting { reason, message } => (None, word(reason), Some(message.clone())),
        Outcome::Refused { reason, message } => (None, word(reason), Some(message.clone())),
    };
    (vm, reason, item.error.clone().or(message))
}

/// The name a unit variant goes by in JSON, which is part of the interface; `Debug` is not.
pub(super) fn word(reason: &impl serde::Serialize) -> Option<String> {
    let value = reason.serialize(serde_json::value::Serializer).ok()?;
    value.as_str().map(str::to_owned)
}

fn contenders(report: &Report, item: &BindingReport) -> Vec<String> {
    let others = report
        .bindings
        .iter()
        .filter(|other| other.fact.eip == item.fact.eip && other.fact.name != item.fact.name);
    others.map(|other| other.fact.name.to_string()).collect()
}

/// Its name, or its number when the interface is gone.
pub(super) fn interface_name(view: &NetworkView, ifindex: u32) -> String {
    view.links
        .get(&ifindex)
        .map_or_else(|| format!("#{ifindex}"), |link| link.name.clone())
}

pub(super) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(super) fn traffic(traffic: abi::Traffic) -> api::Traffic {
    let abi::Traffic {
        in_packets,
        in_bytes,
        out_packets,
        out_bytes,
    } = traffic;
    api::Traffic {
        in_packets,
        in_bytes,
        out_packets,
        out_bytes,
    }
}

/// What was counted for one binding: for its EIP and VM, and for whoever is behind its port.
pub(super) fn reasons_of(
    binding: Vec<ReasonCount>,
    sender: Vec<ReasonCount>,
) -> Vec<api::ReasonCounter> {
    let say = |remark: &str| {
        let remark = remark.to_owned();
        move |mut counter: api::ReasonCounter| {
            if SPOOFED.iter().any(|reason| reason.name() == counter.reason) {
                counter.remark = Some(remark.clone());
            }
            counter
        }
    };
    let claimed = reasons(binding).into_iter();
    let claimed = claimed.map(say("somebody else pretended to be this one"));
    let sent = reasons(sender).into_iter();
    let sent = sent.map(say("this VM pretended to be somebody else"));
    claimed.chain(sent).collect()
}

/// What a sender is blamed for by its port.
const SPOOFED: [Reason; 2] = [Reason::SpoofedEip, Reason::SpoofedVm];

/// In packet order; the most frequent first at each hook.
pub(super) fn reasons(mut counts: Vec<ReasonCount>) -> Vec<api::ReasonCounter> {
    counts.retain(|count| count.packets > 0);
    counts.sort_by_key(|count| (count.hook, std::cmp::Reverse(count.packets), count.reason));
    counts.into_iter().map(reason).collect()
}

fn reason(count: ReasonCount) -> api::ReasonCounter {
    api::ReasonCounter {
        direction: count.hook.direction().name().to_owned(),
        hook: count.hook.name().to_owned(),
        reason: count.reason.name().to_owned(),
        class: count.reason.class().name().to_owned(),
        packets: count.packets,
        meaning: count.reason.meaning().to_owned(),
        cure: count.reason.cure().to_owned(),
        remark: None,
    }
}

/// Prefixes that shall be or are in the kernel. The flags shown are the kernel's where it has it.
pub(super) fn nets(report: &Report) -> Vec<api::Net> {
    let (wanted, programmed) = (&report.desired.nets, &report.observed.nets);
    let all: BTreeSet<&IpNet> = wanted.keys().chain(programmed.keys()).collect();
    let show = |net: &IpNet| {
        let state = programmed
            .get(net)
            .or_else(|| wanted.get(net))
            .copied()
            .unwrap_or_default();
        api::Net {
            net: *net,
            bypass: state.is_bypass,
            eip_range: state.is_eip_range,
            wanted: wanted.contains_key(net),
            programmed: programmed.contains_key(net),
        }
    };
    all.into_iter().map(show).collect()
}
