//! The difference between desired and observed as an ordered list of actions.
//!
//! The order is such that **after every single action** the kernel is in a state in which no packet
//! leaves wrong; a process that dies between two of them leaves such a state behind. In this order:
//!
//! 1. *Base*: config and prefixes. A VM entry without the bypass prefixes would put the EIP on traffic
//!    to pods.
//! 2. *Ways out*: our table's default, then rules by ascending priority: `unreachable` only after
//!    the rule that lets bound EIPs past it, our table only after the rules that keep local traffic
//!    out of it.
//! 3. *Uplinks and doors*: programs that find no entry do nothing, so they may stand alone. An entry
//!    without a door may not: packets would reach the VM untranslated.
//! 4. *Handing over*: an EIP that another node serves now loses its route and is overwritten in place, so
//!    that what still comes follows its VM at once.
//!    *Withdrawal*: host route, EIP, VM. The route first (the stack must not bring what the door no
//!    longer translates), the VM entry last (without it the VM's answers would leave with its own
//!    address). It comes before step 5 because an EIP that changes hands is taken from the one VM
//!    before it is given to the other: it never has two owners.
//! 5. *Programming*: first EIPs a VM keeps beside others (from then on their flows are recorded, so a
//!    change of primary cannot change the source of answers), then VM entries (the VM can answer with
//!    the right address), then all other EIPs (the network reaches it; one that is alone now stops
//!    recording only after its VM stopped looking), then host routes (so does the stack). A VM that
//!    moved to another port is overwritten in place; its new door stands since step 3, its old one
//!    until step 6.
//! 6. *Clearing*: doors and uplinks nothing uses any more, rules by descending priority, prefixes,
//!    leftovers.
//!
//! With [`Removal::Deferred`] steps 4 and 6 are left out, and so is every change of step 5 that would
//! take something from somebody: the facts may not be all there yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{
    Action, BindingState, Desired, HostRoute, Lane, Observed, TableDefault, VmState,
};

/// Whether the facts are complete, so that what they do not mention is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// They are.
    Allowed,
    /// Not yet: only add.
    Deferred,
}

/// What has to be done, in order. Empty when the kernel is as desired.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, removal: Removal) -> Vec<Action> {
    match removal {
        Removal::Allowed => {
            let mut draft = Draft::new(desired, observed);
            draft.prepare();
            draft.withdraw();
            draft.program();
            draft.clear();
            draft.actions
        }
        Removal::Deferred => {
            let additions = additions(desired, observed);
            let mut draft = Draft::new(&additions, observed);
            draft.prepare();
            draft.program();
            draft.actions
        }
    }
}

/// A plan in the making.
struct Draft<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    slots: BTreeMap<IpAddr, u32>,
    /// VM entries step 4 wrote already.
    settled: BTreeSet<IpAddr>,
    actions: Vec<Action>,
}

impl<'a> Draft<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        Self {
            desired,
            observed,
            slots: slots(desired, observed),
            settled: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Steps 1 to 3.
    fn prepare(&mut self) {
        let Self {
            desired,
            observed,
            actions,
            ..
        } = self;
        if observed.gateway.as_ref() != Some(&desired.gateway) {
            actions.push(Action::PutGateway(desired.gateway.clone()));
        }
        let nets = changed(&desired.nets, &observed.nets);
        actions.extend(nets.map(|(net, state)| Action::PutNet(*net, *state)));
        let defaults = desired.table_defaults.difference(&observed.table_defaults);
        actions.extend(defaults.cloned().map(Action::PutTableDefault));
        let rules = desired.rules.difference(&observed.rules);
        actions.extend(rules.cloned().map(Action::AddRule));
        let uplinks = changed(&desired.uplinks, &observed.uplinks);
        actions.extend(uplinks.map(|(index, state)| Action::AttachUplink(*index, state.clone())));
        let ports = desired.ports.difference(&observed.ports);
        actions.extend(ports.copied().map(Action::AttachPort));
    }

    /// Step 4.
    fn withdraw(&mut self) {
        let Self {
            desired, observed, ..
        } = *self;
        let is_gone = |route: &&HostRoute| !is_kept(route, desired, observed);
        let (handed, routes): (Vec<_>, Vec<_>) = observed
            .routes
            .iter()
            .filter(is_gone)
            .cloned()
            .partition(|route| is_forwarded(route.eip, &desired.bindings));
        self.actions
            .extend(handed.into_iter().map(Action::RemoveRoute));
        for (eip, want) in &desired.bindings {
            if want.delivery == Lane::Forward && self.differs(*eip, want) {
                self.put_binding(*eip, want);
            }
        }
        self.actions
            .extend(routes.into_iter().map(Action::RemoveRoute));
        for (eip, (is, _)) in &observed.bindings {
            let want = desired.bindings.get(eip);
            let stays = want.is_some_and(|want| {
                // Between two nodes an EIP changes hands in one store, there and back.
                want.vm == is.vm || want.delivery == Lane::Forward || is.delivery == Lane::Forward
            });
            if !stays {
                self.actions.push(Action::RemoveBinding { eip: *eip });
            }
        }
        for (vm, (is, _)) in &observed.vms {
            match desired.vms.get(vm) {
                None => self.actions.push(Action::RemoveVm { vm: *vm }),
                Some(want) if is_taken(is.eip, *vm, desired) => self.hand_over(*vm, want),
                Some(_) => {}
            }
        }
    }

    /// The VM's primary EIP goes to another VM. It falls back to one it already has, and is without
    /// any for a moment when it has none (two VMs that exchange their EIPs).
    fn hand_over(&mut self, vm: IpAddr, want: &VmState) {
        let has = |eip: &IpAddr| {
            let is = self.observed.bindings.get(eip).map(|(is, _)| is.vm);
            is == Some(vm) && self.desired.bindings.get(eip).map(|want| want.vm) == Some(vm)
        };
        if has(&want.eip) {
            self.settled.insert(vm);
            return self.put_vm(vm, want.clone());
        }
        match self.desired.bindings.keys().copied().find(has) {
            Some(eip) => self.put_vm(
                vm,
                VmState {
                    eip,
                    has_many: true,
                    ..want.clone()
                },
            ),
            None => self.actions.push(Action::RemoveVm { vm }),
        }
    }

    /// Step 5.
    fn program(&mut self) {
        let Self {
            desired, observed, ..
        } = *self;
        let (shared, others): (Vec<_>, Vec<_>) = desired
            .bindings
            .iter()
            .filter(|(eip, want)| want.delivery != Lane::Forward && self.differs(**eip, want))
            .partition(|(eip, want)| is_shared_already(**eip, want, observed));
        for (eip, want) in shared {
            self.put_binding(*eip, want);
        }
        for (vm, want) in &desired.vms {
            let slot = self.slot(want.eip);
            let is = observed.vms.get(vm);
            if !self.settled.contains(vm) && is != Some(&(want.clone(), slot)) {
                self.put_vm(*vm, want.clone());
            }
        }
        for (eip, want) in others {
            self.put_binding(*eip, want);
        }
        let routes = desired.routes.difference(&observed.routes);
        self.actions.extend(routes.cloned().map(Action::PutRoute));
    }

    /// Step 6.
    fn clear(&mut self) {
        let Self {
            desired,
            observed,
            actions,
            ..
        } = self;
        let ports = observed.ports.difference(&desired.ports);
        actions.extend(ports.copied().map(Action::DetachPort));
        let uplinks = observed
            .uplinks
            .keys()
            .filter(|index| !desired.uplinks.contains_key(index));
        actions.extend(uplinks.copied().map(Action::DetachUplink));
        let rules = observed
            .rules
            .iter()
            .rev()
            .filter(|rule| !desired.rules.contains(rule));
        actions.extend(rules.cloned().map(Action::RemoveRule));
        let defaults = observed
            .table_defaults
            .iter()
            .filter(|is| !is_replaced(is, desired));
        actions.extend(defaults.cloned().map(Action::RemoveTableDefault));
        let nets = observed
            .nets
            .keys()
            .filter(|net| !desired.nets.contains_key(net));
        actions.extend(nets.copied().map(Action::RemoveNet));
        let leftovers = observed
            .leftovers
            .iter()
            .filter(|index| !desired.ports.contains(index) && !desired.uplinks.contains_key(index));
        actions.extend(leftovers.copied().map(Action::RemoveLeftover));
    }

    fn differs(&self, eip: IpAddr, want: &BindingState) -> bool {
        let is = self.observed.bindings.get(&eip);
        is.is_none_or(|(is, slot)| is != want || *slot != self.slot(eip))
    }

    fn put_vm(&mut self, vm: IpAddr, state: VmState) {
        let slot = self.slot(state.eip);
        self.actions.push(Action::PutVm { vm, state, slot });
    }

    fn put_binding(&mut self, eip: IpAddr, state: &BindingState) {
        let slot = self.slot(eip);
        let is_new_slot = self
            .observed
            .bindings
            .get(&eip)
            .is_none_or(|(_, is)| *is != slot);
        self.actions.push(Action::PutBinding {
            eip,
            state: state.clone(),
            slot,
            is_new_slot,
        });
    }

    fn slot(&self, eip: IpAddr) -> u32 {
        self.slots.get(&eip).copied().unwrap_or_default()
    }
}

/// An EIP keeps its counter slot; a new one gets the lowest that nobody has. Slots of EIPs that go
/// away are free in the next plan only: a removal can fail. Two EIPs with one slot (a map somebody
/// edited) are told apart again.
fn slots(desired: &Desired, observed: &Observed) -> BTreeMap<IpAddr, u32> {
    let mut slots = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for eip in desired.bindings.keys() {
        if let Some((_, slot)) = observed.bindings.get(eip)
            && taken.insert(*slot)
        {
            slots.insert(*eip, *slot);
        }
    }
    taken.extend(observed.bindings.values().map(|(_, slot)| *slot));
    let mut free = (0..=u32::MAX).filter(|slot| !taken.contains(slot));
    for eip in desired.bindings.keys() {
        if !slots.contains_key(eip) {
            slots.extend(free.next().map(|slot| (*eip, slot)));
        }
    }
    slots
}

/// What of `desired` can be done without taking anything from anybody.
fn additions(desired: &Desired, observed: &Observed) -> Desired {
    let mut additions = desired.clone();
    let holders: BTreeMap<IpAddr, IpAddr> = observed
        .vms
        .iter()
        .map(|(vm, (is, _))| (is.eip, *vm))
        .collect();
    let is_free = |eip: IpAddr, vm: IpAddr| {
        observed
            .bindings
            .get(&eip)
            .is_none_or(|(is, _)| is.vm == vm)
            && holders.get(&eip).is_none_or(|holder| *holder == vm)
    };
    additions.vms.retain(|vm, want| {
        let is = observed.vms.get(vm).map(|(is, _)| is);
        want.has_many |= is.is_some_and(|is| is.has_many);
        is_free(want.eip, *vm) && is.is_none_or(|is| is.eip == want.eip)
    });
    let vms = &additions.vms;
    additions
        .bindings
        .retain(|eip, want| vms.contains_key(&want.vm) && is_free(*eip, want.vm));
    let bindings = &additions.bindings;
    additions
        .routes
        .retain(|route| bindings.contains_key(&route.eip));
    additions.ports = bindings.values().map(|want| want.port).collect();
    additions.ports.extend(vms.values().map(|want| want.port));
    additions
}

/// Entries of `desired` that `observed` has not, or has otherwise.
fn changed<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired
        .iter()
        .filter(|(key, want)| observed.get(key) != Some(want))
}

/// A route stays if it is desired, or if the one that will replace it in one step is to the same VM.
fn is_kept(route: &HostRoute, desired: &Desired, observed: &Observed) -> bool {
    let replaces = |want: &&HostRoute| want.eip == route.eip && want.vm == route.vm;
    desired.routes.contains(route)
        || desired
            .routes
            .iter()
            .find(replaces)
            .is_some_and(|want| !observed.routes.contains(want))
}

/// Another VM of this node shall have the EIP.
fn is_taken(eip: IpAddr, vm: IpAddr, desired: &Desired) -> bool {
    let want = desired.bindings.get(&eip);
    want.is_some_and(|want| want.vm != vm && want.delivery != Lane::Forward)
}

/// What comes for the EIP shall be sent on to another node.
fn is_forwarded(eip: IpAddr, desired: &BTreeMap<IpAddr, BindingState>) -> bool {
    desired
        .get(&eip)
        .is_some_and(|want| want.delivery == Lane::Forward)
}

/// The EIP is the VM's already and will be one of several.
fn is_shared_already(eip: IpAddr, want: &BindingState, observed: &Observed) -> bool {
    let vm = observed.bindings.get(&eip).map(|(is, _)| is.vm);
    want.shares_vm && vm == Some(want.vm)
}

/// Installing a default replaces the one of the same table and family.
fn is_replaced(is: &TableDefault, desired: &Desired) -> bool {
    desired
        .table_defaults
        .iter()
        .any(|want| want.table == is.table && want.gateway.is_ipv4() == is.gateway.is_ipv4())
}
