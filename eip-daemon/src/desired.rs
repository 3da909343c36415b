//! What shall be in the kernel of this node, as a function of facts, settings and the node's own
//! network. Pure: no clock, no I/O, no logging. Whatever is wrong comes back as an [`Outcome`] of
//! the binding it concerns and hurts no other binding.
//!
//! ```text
//! binding ─> validate (the EIP itself) ─> target (its VM, here?) ─> locate (port, L3 device)
//!         ─> owner of the EIP (oldest wins) ─> primary per VM and family ─> lane
//! ```
//!
//! Invariants, each held by a test:
//! - an EIP has one owner: the oldest binding that is not itself refused;
//! - a VM address has one owner: the oldest VM on this node that reports it;
//! - a VM has one primary EIP per family;
//! - every binding has a VM entry, a door and a host route in the same `Desired`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use ipnet::IpNet;

use crate::model::{
    Announce, Announcement, BindingFact, BindingState, Desired, Facts, HostRoute, Lane, Location,
    NetworkView, NodeSettings, ObjectName, Outcome, VmState,
};

mod away;
mod lane;
mod locate;
mod prefixes;
mod target;
mod uplink;
mod validate;

#[cfg(test)]
mod tests;

pub use locate::{Unplaced, locate};
pub use target::pod_addresses;

use lane::Choice;
use prefixes::Prefixes;
use target::Targets;

/// Addresses of VMs on this node that bindings point at: the routes to them have to be looked up.
#[must_use]
pub fn vm_addresses(facts: &Facts, settings: &NodeSettings) -> BTreeSet<IpAddr> {
    let settings = &with_internal_nets(settings, facts);
    let targets = Targets::new(facts, settings);
    let prefixes = Prefixes::new(settings);
    facts
        .bindings
        .iter()
        .filter_map(|binding| targets.resolve(binding, &prefixes).ok())
        .collect()
}

/// The settings, with the internal networks that objects name besides. Those may change while the
/// process runs.
///
/// Networks of nodes that lie side by side become one: the map of prefixes has 1024 entries, and a cluster
/// may have thousands of nodes. What touches an EIP range stays as it is, for there the longest match
/// decides.
fn with_internal_nets(settings: &NodeSettings, facts: &Facts) -> NodeSettings {
    let mut settings = settings.clone();
    let touches_eips = |net: &IpNet| {
        let mut ranges = settings.eip_cidrs.iter();
        ranges.any(|range| range.contains(net) || net.contains(range))
    };
    let found: BTreeSet<IpNet> = facts
        .nets
        .iter()
        .flat_map(|fact| &fact.nets)
        .copied()
        .collect();
    let (single, joined): (Vec<IpNet>, Vec<IpNet>) = found.into_iter().partition(touches_eips);
    for net in single.into_iter().chain(IpNet::aggregate(&joined)) {
        if !settings.internal_nets.contains(&net) {
            settings.internal_nets.push(net);
        }
    }
    settings
}

/// Everything that shall be in the kernel, and what became of every binding.
#[must_use]
pub fn compute(facts: &Facts, settings: &NodeSettings, view: &NetworkView) -> Desired {
    let settings = &with_internal_nets(settings, facts);
    let node = Node::new(settings, view);
    let mut desired = Desired {
        nets: prefixes::nets(settings, view),
        gateway: uplink::gateway(&node),
        uplinks: uplink::states(&node),
        rules: uplink::rules(&node),
        table_defaults: uplink::table_defaults(&node),
        ..Desired::default()
    };
    let (served, outcomes) = settle(facts, &node);
    desired.outcomes = outcomes;
    let primaries = choose_primaries(&served);
    for candidate in &served {
        program(&mut desired, candidate, &primaries, &node);
    }
    away::forward(&mut desired, facts, &node);
    desired
}

/// The node as every step needs it.
struct Node<'a> {
    settings: &'a NodeSettings,
    view: &'a NetworkView,
    prefixes: Prefixes<'a>,
    /// Its own addresses and the interfaces they are on. A node can have thousands.
    addresses: BTreeMap<IpAddr, u32>,
    /// Broadcast addresses of the networks it is connected to.
    broadcasts: BTreeMap<IpAddr, IpNet>,
    /// Addresses every router of those networks has, this node among them (RFC 4291 section 2.6.1).
    anycasts: BTreeMap<IpAddr, IpNet>,
}

impl<'a> Node<'a> {
    fn new(settings: &'a NodeSettings, view: &'a NetworkView) -> Self {
        let own = view.addresses.iter();
        let connected = own.clone().map(|entry| entry.address);
        let is_v4 = |net: &IpNet| net.addr().is_ipv4();
        Self {
            settings,
            view,
            prefixes: Prefixes::new(settings),
            addresses: own
                .map(|entry| (entry.address.addr(), entry.ifindex))
                .collect(),
            broadcasts: connected
                .clone()
                .filter(|net| is_v4(net) && net.prefix_len() <= 30)
                .map(|net| (net.broadcast(), net.trunc()))
                .collect(),
            // A /127 has none (RFC 6164).
            anycasts: connected
                .filter(|net| !is_v4(net) && net.prefix_len() <= 126)
                .map(|net| (net.network(), net.trunc()))
                .collect(),
        }
    }
}

/// A binding that will be served.
struct Candidate<'a> {
    fact: &'a BindingFact,
    vm: IpAddr,
    location: Location,
    arrived: Option<SystemTime>,
}

/// Older first; without a creation time (written by hand) older than with one, so that what
/// `eipctl bind` adds, which is stamped with the present, takes nothing from it; then by name.
fn seniority(fact: &BindingFact) -> (Option<i64>, &ObjectName) {
    (fact.created, &fact.name)
}

/// Decides the fate of every binding, oldest first.
///
/// A binding that is refused for a fault of its own does not hold its EIP. One that waits or whose VM
/// runs on another node does: otherwise an EIP would change hands whenever its VM restarts.
fn settle<'a>(
    facts: &'a Facts,
    node: &Node<'_>,
) -> (Vec<Candidate<'a>>, BTreeMap<ObjectName, Outcome>) {
    let targets = Targets::new(facts, node.settings);
    let mut bindings: Vec<&BindingFact> = facts.bindings.iter().collect();
    bindings.sort_by(|a, b| seniority(a).cmp(&seniority(b)));

    let mut holders: BTreeMap<IpAddr, &BindingFact> = BTreeMap::new();
    let mut served = Vec::new();
    let mut outcomes = BTreeMap::new();
    for fact in bindings {
        let assessed = assess(fact, &targets, node);
        if matches!(assessed, Err(Outcome::Refused { .. })) {
            outcomes.extend(assessed.err().map(|outcome| (fact.name.clone(), outcome)));
            continue;
        }
        // It has left for good: whoever has the EIP here now owes it nothing.
        if let Some(left) = &fact.moving.left {
            let node = left.node.clone();
            outcomes.insert(fact.name.clone(), Outcome::Elsewhere { node });
            continue;
        }
        if let Some(holder) = holders.get(&fact.eip) {
            outcomes.insert(fact.name.clone(), validate::conflict(fact, holder));
            continue;
        }
        holders.insert(fact.eip, fact);
        match assessed {
            Ok(candidate) => served.push(candidate),
            Err(outcome) => {
                outcomes.insert(fact.name.clone(), outcome);
            }
        }
    }
    (served, outcomes)
}

/// A binding by itself, as if no other existed.
fn assess<'a>(
    fact: &'a BindingFact,
    targets: &Targets<'_>,
    node: &Node<'_>,
) -> Result<Candidate<'a>, Outcome> {
    validate::eip(fact.eip, node)?;
    let vm = targets.resolve(fact, &node.prefixes)?;
    let location = locate(vm, node.view, &node.settings.uplinks)
        .map_err(|Unplaced { reason, message }| Outcome::Waiting { reason, message })?;
    Ok(Candidate {
        fact,
        vm,
        location,
        arrived: targets.arrived(fact),
    })
}

/// The primary EIP of each VM address. `spec.primary` wins, the oldest of several; without it the
/// oldest binding. `served` is in order of seniority.
fn choose_primaries(served: &[Candidate<'_>]) -> BTreeMap<IpAddr, Primary> {
    let mut primaries: BTreeMap<IpAddr, Primary> = BTreeMap::new();
    for Candidate { fact, vm, .. } in served {
        primaries
            .entry(*vm)
            .and_modify(|primary| {
                primary.has_many = true;
                if fact.primary && !primary.is_asked_for {
                    primary.eip = fact.eip;
                    primary.is_asked_for = true;
                }
            })
            .or_insert(Primary {
                eip: fact.eip,
                is_asked_for: fact.primary,
                has_many: false,
            });
    }
    primaries
}

struct Primary {
    eip: IpAddr,
    is_asked_for: bool,
    has_many: bool,
}

/// Writes one served binding into `desired`; the primary one brings the VM's entry.
fn program(
    desired: &mut Desired,
    candidate: &Candidate<'_>,
    primaries: &BTreeMap<IpAddr, Primary>,
    node: &Node<'_>,
) {
    let Candidate {
        fact,
        vm,
        location,
        arrived,
    } = candidate;
    let Some(primary) = primaries.get(vm) else {
        return;
    };
    let is_primary = primary.eip == fact.eip;
    let Choice { lane, remark } = lane::choose(fact, location, primary.has_many, node);
    let Location { port, l3, .. } = *location;
    let (eip, vm) = (fact.eip, *vm);
    let announce = fact.announce.unwrap_or(node.settings.announce);
    if is_primary {
        let Primary { has_many, .. } = *primary;
        let uses_stack = lane == Lane::Stack;
        desired.vms.insert(
            vm,
            VmState {
                eip,
                port,
                l3,
                has_many,
                uses_stack,
            },
        );
    }
    desired
        .bindings
        .insert(eip, binding_state(candidate, lane, primary, announce));
    desired.ports.insert(port);
    desired.routes.insert(HostRoute { eip, vm, l3 });
    desired
        .announcements
        .insert(eip, announcement(fact, announce, *arrived));
    desired
        .outcomes
        .insert(fact.name.clone(), Outcome::Served { vm, note: remark });
}

fn announcement(fact: &BindingFact, by: Announce, arrived: Option<SystemTime>) -> Announcement {
    Announcement {
        binding: fact.name.clone(),
        by,
        arrived,
    }
}

fn binding_state(
    candidate: &Candidate<'_>,
    delivery: Lane,
    primary: &Primary,
    announce: Announce,
) -> BindingState {
    let Candidate {
        fact, vm, location, ..
    } = candidate;
    BindingState {
        vm: *vm,
        port: location.port,
        l3: location.l3,
        mtu: location.mtu,
        vm_mac: location.vm_mac.unwrap_or_default(),
        node_mac: location.node_mac,
        delivery,
        is_primary: primary.eip == fact.eip,
        shares_vm: primary.has_many,
        answers_l2: announce.includes_l2(),
        // Shown to people only; an object edited four billion times shows the last number.
        generation: u32::try_from(fact.generation).unwrap_or(u32::MAX),
    }
}
