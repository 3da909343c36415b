//! A kernel in memory: applies actions as the real one does, fails when told to, and knows which
//! states must never be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    announce::Announcer,
    dataplane::{DataPlane, DataPlaneError},
    model::{
        Action, Announcements, BindingState, Lane, NetworkView, Observed, PolicyRule, RuleAction,
        RuleMatch, TableDefault,
    },
};

/// State that must never be, because packets would leave wrong or get lost in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// The stack brings packets for the EIP to a VM whose door does not translate them.
    RouteWithoutBinding(IpAddr, IpAddr),
    /// Packets for the EIP reach a port nobody translates at.
    BindingWithoutDoor(IpAddr),
    /// The VM's packets pass a port nobody translates at.
    VmWithoutDoor(IpAddr),
    /// The VM is reached on the EIP and answers with its own address.
    BindingWithoutVm(IpAddr),
    /// Answers of the EIP leave with another EIP.
    WrongAnswer(IpAddr),
    /// Two VMs send with one EIP.
    TwoSenders(IpAddr),
    /// A VM sends with the EIP of another one.
    WrongSender(IpAddr),
    /// Two EIPs count in one slot.
    SharedSlot(u32),
    /// A rule takes traffic out of the main table without letting local routes go first.
    RuleWithoutMain(PolicyRule),
    /// Unassigned EIPs would loop between router and node.
    Loop(PolicyRule),
    /// A rule looks up our table, which is empty.
    EmptyTable(PolicyRule),
}

/// Everything wrong with a kernel state.
pub(crate) fn violations(observed: &Observed) -> BTreeSet<Violation> {
    let mut found = BTreeSet::new();
    for route in &observed.routes {
        let vm = observed.bindings.get(&route.eip).map(|(state, _)| state.vm);
        if vm != Some(route.vm) {
            found.insert(Violation::RouteWithoutBinding(route.eip, route.vm));
        }
    }
    let mut slots = BTreeSet::new();
    for (eip, (state, slot)) in &observed.bindings {
        found.extend(binding_violation(*eip, state, observed));
        if !slots.insert(*slot) {
            found.insert(Violation::SharedSlot(*slot));
        }
    }
    let mut senders = BTreeSet::new();
    for (vm, (state, _)) in &observed.vms {
        if !observed.ports.contains(&state.port) {
            found.insert(Violation::VmWithoutDoor(*vm));
        }
        if !senders.insert(state.eip) {
            found.insert(Violation::TwoSenders(state.eip));
        }
        if observed
            .bindings
            .get(&state.eip)
            .is_some_and(|(owner, _)| owner.vm != *vm)
        {
            found.insert(Violation::WrongSender(*vm));
        }
    }
    found.extend(
        observed
            .rules
            .iter()
            .filter_map(|rule| rule_violation(rule, observed)),
    );
    found
}

fn binding_violation(eip: IpAddr, state: &BindingState, observed: &Observed) -> Option<Violation> {
    // Another node's: it needs neither door nor VM here.
    if state.delivery == Lane::Forward {
        return None;
    }
    if !observed.ports.contains(&state.port) {
        return Some(Violation::BindingWithoutDoor(eip));
    }
    let Some((vm, _)) = observed.vms.get(&state.vm) else {
        return Some(Violation::BindingWithoutVm(eip));
    };
    let is_recorded = state.shares_vm && vm.has_many;
    (vm.eip != eip && !is_recorded).then_some(Violation::WrongAnswer(eip))
}

fn rule_violation(rule: &PolicyRule, observed: &Observed) -> Option<Violation> {
    if rule.action == RuleAction::MainWithoutDefault {
        return None;
    }
    let lets_main_first = |other: &PolicyRule| {
        other.matches == rule.matches
            && other.priority < rule.priority
            && other.action == RuleAction::MainWithoutDefault
    };
    if !observed.rules.iter().any(lets_main_first) {
        return Some(Violation::RuleWithoutMain(rule.clone()));
    }
    let RuleAction::Table(table) = rule.action else {
        return None;
    };
    let net = match &rule.matches {
        RuleMatch::From(net) | RuleMatch::To(net) | RuleMatch::ArrivingFor { to: net, .. } => net,
    };
    if let RuleMatch::To(range) = &rule.matches {
        let guards = |other: &PolicyRule| {
            other.action == RuleAction::Unreachable
                && matches!(&other.matches, RuleMatch::ArrivingFor { to, .. } if to == range)
        };
        if !observed.rules.iter().any(guards) {
            return Some(Violation::Loop(rule.clone()));
        }
    }
    let is_default = |default: &TableDefault| {
        default.table == table && default.gateway.is_ipv4() == net.addr().is_ipv4()
    };
    let is_set = observed.table_defaults.iter().any(is_default);
    (!is_set).then(|| Violation::EmptyTable(rule.clone()))
}

/// Does to `observed` what the kernel would do.
pub(crate) fn apply(observed: &mut Observed, action: &Action) {
    match action.clone() {
        Action::PutGateway(gateway) => observed.gateway = Some(gateway),
        Action::PutNet(net, state) => drop(observed.nets.insert(net, state)),
        Action::RemoveNet(net) => drop(observed.nets.remove(&net)),
        Action::AttachUplink(index, state) => {
            observed.leftovers.remove(&index);
            observed.uplinks.insert(index, state);
        }
        Action::DetachUplink(index) => drop(observed.uplinks.remove(&index)),
        Action::AttachPort(index) => {
            observed.leftovers.remove(&index);
            observed.ports.insert(index);
        }
        Action::DetachPort(index) => {
            observed.ports.remove(&index);
        }
        Action::RemoveLeftover(index) => {
            observed.leftovers.remove(&index);
            observed.ports.remove(&index);
        }
        Action::PutBinding {
            eip, state, slot, ..
        } => {
            observed.bindings.insert(eip, (state, slot));
        }
        Action::RemoveBinding { eip } => drop(observed.bindings.remove(&eip)),
        Action::PutVm { vm, state, slot } => drop(observed.vms.insert(vm, (state, slot))),
        Action::RemoveVm { vm } => drop(observed.vms.remove(&vm)),
        Action::PutRoute(route) => {
            // As with NLM_F_REPLACE: one of the same destination makes room, others stay.
            let old = observed
                .routes
                .iter()
                .find(|old| old.eip == route.eip)
                .cloned();
            old.map(|old| observed.routes.remove(&old));
            observed.routes.insert(route);
        }
        Action::RemoveRoute(route) => {
            observed.routes.remove(&route);
        }
        Action::AddRule(rule) => drop(observed.rules.insert(rule)),
        Action::RemoveRule(rule) => {
            observed.rules.remove(&rule);
        }
        Action::PutTableDefault(default) => {
            observed.table_defaults.retain(|old| {
                old.table != default.table || old.gateway.is_ipv4() != default.gateway.is_ipv4()
            });
            observed.table_defaults.insert(default);
        }
        Action::RemoveTableDefault(default) => {
            observed.table_defaults.remove(&default);
        }
    }
}

/// Decides which actions fail.
pub(super) type Fault = Box<dyn FnMut(&Action) -> bool + Send>;

/// What a test decides about the kernel.
#[derive(Default)]
pub(super) struct World {
    pub(super) view: NetworkView,
    pub(super) observed: Observed,
    /// Which actions fail.
    pub(super) fails: Option<Fault>,
    /// Nothing can be read.
    pub(super) is_blind: bool,
    /// `CLOCK_BOOTTIME`.
    pub(super) boot_time: u64,
    /// What was written of the lease map: slots that nobody holds keep theirs.
    pub(super) leases: BTreeMap<u32, u64>,
    /// Slots that came into the kernel while no lease of theirs ran.
    pub(super) unleased: BTreeSet<u32>,
    /// What was done, failed tries left out.
    pub(super) applied: Vec<Action>,
    /// Violations that an action brought about.
    pub(super) introduced: BTreeMap<usize, BTreeSet<Violation>>,
}

/// Shares its world with the test.
#[derive(Clone, Default)]
pub(super) struct FakeKernel {
    world: Arc<Mutex<World>>,
}

impl FakeKernel {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

const UNREADABLE: DataPlaneError = DataPlaneError::MapFull { map: "FAKE" };

impl DataPlane for FakeKernel {
    async fn view(&mut self, vms: &BTreeSet<IpAddr>) -> Result<NetworkView, DataPlaneError> {
        let world = self.world();
        if world.is_blind {
            return Err(UNREADABLE);
        }
        let mut view = world.view.clone();
        view.routes.retain(|vm, _| vms.contains(vm));
        Ok(view)
    }

    async fn observe(&mut self) -> Result<Observed, DataPlaneError> {
        let world = self.world();
        if world.is_blind {
            Err(UNREADABLE)
        } else {
            let mut observed = world.observed.clone();
            let slots = observed.bindings.values().map(|(_, slot)| *slot);
            let lease = |slot| (slot, world.leases.get(&slot).copied().unwrap_or(0));
            observed.leases = slots.map(lease).collect();
            Ok(observed)
        }
    }

    async fn apply(&mut self, action: &Action) -> Result<(), DataPlaneError> {
        let mut world = self.world();
        let World {
            observed,
            fails,
            applied,
            introduced,
            leases,
            unleased,
            boot_time,
            ..
        } = &mut *world;
        if fails.as_mut().is_some_and(|fails| fails(action)) {
            return Err(UNREADABLE);
        }
        if let Action::PutBinding { slot, .. } | Action::PutVm { slot, .. } = action
            && leases
                .get(slot)
                .is_none_or(|until| *until != 0 && *until <= *boot_time)
        {
            unleased.insert(*slot);
        }
        let before = violations(observed);
        apply(observed, action);
        let new: BTreeSet<Violation> = violations(observed).difference(&before).cloned().collect();
        if !new.is_empty() {
            introduced.insert(applied.len(), new);
        }
        applied.push(action.clone());
        Ok(())
    }

    fn boot_time(&self) -> u64 {
        self.world().boot_time
    }

    fn renew(&mut self, slot: u32, until: u64) -> Result<(), DataPlaneError> {
        self.world().leases.insert(slot, until);
        Ok(())
    }
}

/// What the network has been told.
#[derive(Default)]
pub(super) struct Air {
    /// Announced, or withdrawn and still believed.
    pub(super) believed: BTreeSet<IpAddr>,
    pub(super) wanted: Announcements,
    /// The network takes nothing at the moment.
    pub(super) is_deaf: bool,
    /// Announced although it was not in the kernel.
    pub(super) too_early: BTreeSet<IpAddr>,
}

/// A network in memory that shares its state with the test. It learns at once, and forgets when the
/// test lets it.
#[derive(Clone, Default)]
pub(super) struct FakeNetwork {
    air: Arc<Mutex<Air>>,
}

impl FakeNetwork {
    pub(super) fn air(&self) -> MutexGuard<'_, Air> {
        self.air.lock().unwrap()
    }

    /// Takes what there is to take.
    pub(super) fn listen(&self) {
        let mut air = self.air();
        if air.wanted.is_complete && !air.is_deaf {
            air.believed = air.wanted.wanted.keys().copied().collect();
        }
    }
}

impl Announcer for FakeNetwork {
    fn announce(&mut self, wanted: &Announcements) {
        let mut air = self.air();
        air.wanted = wanted.clone();
        for eip in wanted.wanted.keys() {
            air.believed.insert(*eip);
            if !wanted.programmed.contains(eip) {
                air.too_early.insert(*eip);
            }
        }
    }

    fn lingering(&self, leaving: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.air().believed.intersection(leaving).copied().collect()
    }
}
