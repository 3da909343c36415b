//! Which actions must not be done when an earlier one of the same plan did not work.
//!
//! The order of a plan is safe when everything works. When an action fails, those that rely on it are
//! left for a later round, so that nothing is ever half-programmed, and all others go on.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::model::{Action, Observed, PolicyRule, RuleAction, RuleMatch};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(super) fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }

    pub(super) fn of_rule(rule: &PolicyRule) -> Self {
        match &rule.matches {
            RuleMatch::ArrivingFor { to: net, .. } | RuleMatch::From(net) | RuleMatch::To(net) => {
                Self::of_net(net)
            }
        }
    }
}

/// Something an action relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    /// Config and prefixes are written.
    Base(Family),
    /// Our table has its default.
    Table(Family),
    /// All rules so far are added.
    RulesAdded(Family),
    /// All rules so far are removed.
    RulesRemoved(Family),
    /// The port has its door.
    Door(u32),
    /// Nothing in the maps names the port.
    PortUnused(u32),
    /// The host route that was to go is gone.
    RouteGone(IpAddr),
    /// The EIP that was to go, or to change hands, is gone.
    EipGone(IpAddr),
    /// No other VM sends with the EIP.
    EipFree(IpAddr),
    /// The EIP is written.
    Eip(IpAddr),
    /// The EIPs that were to leave the VM have left.
    EipsLeft(IpAddr),
    /// The EIPs the VM keeps record their flows.
    Recording(IpAddr),
    /// The VM is written.
    Vm(IpAddr),
}

use Condition as C;

/// What did not work in this round.
pub(super) struct Broken<'a> {
    observed: &'a Observed,
    conditions: BTreeSet<Condition>,
}

impl<'a> Broken<'a> {
    /// `observed` is what the plan was made from.
    pub(super) fn new(observed: &'a Observed) -> Self {
        Self {
            observed,
            conditions: BTreeSet::new(),
        }
    }

    /// Everything the action relies on has worked.
    pub(super) fn allows(&self, action: &Action) -> bool {
        needs(action)
            .iter()
            .all(|condition| !self.conditions.contains(condition))
    }

    /// The action was not done.
    pub(super) fn add(&mut self, action: &Action) {
        self.conditions.extend(breaks(action, self.observed));
    }
}

fn needs(action: &Action) -> Vec<Condition> {
    match action {
        Action::PutGateway(_)
        | Action::PutNet(..)
        | Action::RemoveNet(_)
        | Action::AttachUplink(..)
        | Action::DetachUplink(_)
        | Action::AttachPort(_)
        | Action::RemoveLeftover(_)
        | Action::PutTableDefault(_)
        | Action::RemoveRoute(_) => Vec::new(),
        Action::DetachPort(port) => vec![C::PortUnused(*port)],
        Action::AddRule(rule) => {
            let family = Family::of_rule(rule);
            match rule.action {
                RuleAction::Table(_) => vec![C::RulesAdded(family), C::Table(family)],
                RuleAction::MainWithoutDefault | RuleAction::Unreachable => {
                    vec![C::RulesAdded(family)]
                }
            }
        }
        Action::RemoveRule(rule) => vec![C::RulesRemoved(Family::of_rule(rule))],
        Action::RemoveTableDefault(default) => vec![C::RulesRemoved(Family::of(default.gateway))],
        Action::RemoveBinding { eip } => vec![C::RouteGone(*eip)],
        Action::RemoveVm { vm } => vec![C::EipsLeft(*vm)],
        Action::PutVm { vm, state, .. } => vec![
            C::Base(Family::of(*vm)),
            C::Door(state.port),
            C::EipGone(state.eip),
            C::EipFree(state.eip),
            C::EipsLeft(*vm),
            C::Recording(*vm),
        ],
        Action::PutBinding { eip, state, .. } => vec![
            C::Base(Family::of(*eip)),
            C::Door(state.port),
            C::EipGone(*eip),
            C::EipFree(*eip),
            C::Vm(state.vm),
        ],
        Action::PutRoute(route) => vec![C::RouteGone(route.eip), C::Eip(route.eip)],
    }
}

fn breaks(action: &Action, observed: &Observed) -> Vec<Condition> {
    let binding = |eip: &IpAddr| observed.bindings.get(eip).map(|(state, _)| state);
    let vm_entry = |vm: &IpAddr| observed.vms.get(vm).map(|(state, _)| state);
    match action {
        Action::PutGateway(_) => vec![C::Base(Family::V4), C::Base(Family::V6)],
        Action::PutNet(net, _) => vec![C::Base(Family::of_net(net))],
        Action::PutTableDefault(default) => vec![C::Table(Family::of(default.gateway))],
        Action::AddRule(rule) => vec![C::RulesAdded(Family::of_rule(rule))],
        Action::RemoveRule(rule) => vec![C::RulesRemoved(Family::of_rule(rule))],
        Action::AttachPort(port) => vec![C::Door(*port)],
        Action::RemoveRoute(route) => vec![C::RouteGone(route.eip)],
        Action::RemoveBinding { eip } => {
            let is = binding(eip).map(|is| [C::EipsLeft(is.vm), C::PortUnused(is.port)]);
            [C::EipGone(*eip)]
                .into_iter()
                .chain(is.into_iter().flatten())
                .collect()
        }
        Action::RemoveVm { vm } => {
            let is = vm_entry(vm).map(|is| [C::EipFree(is.eip), C::PortUnused(is.port)]);
            is.into_iter().flatten().collect()
        }
        Action::PutVm { vm, state, .. } => {
            let before = vm_entry(vm)
                .filter(|is| is.eip != state.eip)
                .map(|is| C::EipFree(is.eip));
            let port = vm_entry(vm).map(|is| C::PortUnused(is.port));
            [C::Vm(*vm)].into_iter().chain(before).chain(port).collect()
        }
        Action::PutBinding { eip, state, .. } => {
            let port = binding(eip).map(|is| C::PortUnused(is.port));
            let recording = state.shares_vm.then_some(C::Recording(state.vm));
            [C::Eip(*eip)]
                .into_iter()
                .chain(port)
                .chain(recording)
                .collect()
        }
        Action::PutRoute(_)
        | Action::RemoveNet(_)
        | Action::AttachUplink(..)
        | Action::DetachUplink(_)
        | Action::DetachPort(_)
        | Action::RemoveLeftover(_)
        | Action::RemoveTableDefault(_) => Vec::new(),
    }
}
