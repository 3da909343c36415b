//! What was known a moment ago and is not contradicted now.
//!
//! Two sources forget things that are still true:
//! - KubeVirt empties `ipAddress` of a running VM while the guest reconfigures its interface;
//! - the kernel drops neighbour and bridge forwarding entries of a VM that has been silent for some
//!   minutes.
//!
//! Neither may cut a VM off. The first is remembered here, per VM object; the second is read from what
//! is programmed in the kernel, so it survives a restart of the process.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use eip_common::addr::Mac;

use crate::{
    desired::pod_addresses,
    model::{
        BindingState, Facts, Link, NetworkView, ObjectName, Observed, VmFact, VmInterface, VmPhase,
    },
};

/// The last addresses of the VMs that run on this node.
#[derive(Debug, Default)]
pub(super) struct Memory {
    vms: BTreeMap<ObjectName, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// A restarted VM is another object of the same name: nothing of the old one holds for it.
    uid: Option<String>,
    /// At most one per family.
    addresses: Vec<IpAddr>,
}

impl Memory {
    /// The facts with the addresses that running VMs stopped reporting. An address that another VM
    /// of the node reports now is not given back.
    pub(super) fn complete<'a>(&mut self, facts: &'a Facts, node: &str) -> Cow<'a, Facts> {
        let runs_here =
            |vm: &&VmFact| vm.phase == VmPhase::Running && vm.node.as_deref() == Some(node);
        let here: Vec<&VmFact> = facts.vms.iter().filter(runs_here).collect();
        if facts.complete {
            let names: BTreeSet<&ObjectName> = here.iter().map(|vm| &vm.name).collect();
            self.vms.retain(|name, _| names.contains(name));
        }
        let reported: BTreeSet<IpAddr> = here.iter().flat_map(|vm| pod_addresses(vm)).collect();
        let mut missing: BTreeMap<&ObjectName, Vec<IpAddr>> = BTreeMap::new();
        for vm in here {
            let lost = self.update(vm, &reported);
            if !lost.is_empty() {
                missing.insert(&vm.name, lost);
            }
        }
        if missing.is_empty() {
            return Cow::Borrowed(facts);
        }
        let mut completed = facts.clone();
        for vm in &mut completed.vms {
            give_back(vm, missing.get(&vm.name).into_iter().flatten());
        }
        Cow::Owned(completed)
    }

    /// Learns what the VM reports and returns what it stopped reporting.
    fn update(&mut self, vm: &VmFact, reported: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let now: Vec<IpAddr> = pod_addresses(vm).collect();
        let before = self
            .vms
            .remove(&vm.name)
            .filter(|before| before.uid == vm.uid);
        let is_lost = |address: &IpAddr| {
            now.iter().all(|other| other.is_ipv4() != address.is_ipv4())
                && !reported.contains(address)
        };
        let addresses = before.map(|before| before.addresses).unwrap_or_default();
        let lost: Vec<IpAddr> = addresses.into_iter().filter(is_lost).collect();
        let addresses = now.into_iter().chain(lost.iter().copied()).collect();
        self.vms.insert(
            vm.name.clone(),
            Remembered {
                uid: vm.uid.clone(),
                addresses,
            },
        );
        lost
    }
}

fn give_back<'a>(vm: &mut VmFact, addresses: impl Iterator<Item = &'a IpAddr>) {
    if vm.interfaces.is_empty() {
        vm.interfaces.push(VmInterface {
            name: String::new(),
            addresses: Vec::new(),
        });
    }
    if let Some(interface) = vm.interfaces.first_mut() {
        interface.addresses.extend(addresses);
    }
}

/// Adds to the view the neighbours and forwarding entries that the programmed bindings rest on, where
/// the kernel has none at the moment and route and interfaces are still the same.
pub(super) fn recall_places(view: &mut NetworkView, observed: &Observed) {
    for (state, _) in observed.bindings.values() {
        if state.vm_mac == Mac::default() || !is_still_routed(view, state) {
            continue;
        }
        let mac = *view
            .neighbours
            .entry((state.l3, state.vm))
            .or_insert(state.vm_mac);
        let is_member = view
            .links
            .get(&state.port)
            .and_then(|port: &Link| port.master)
            == Some(state.l3);
        if is_member && mac == state.vm_mac {
            view.bridge_ports
                .entry((state.l3, mac))
                .or_insert(state.port);
        }
    }
}

fn is_still_routed(view: &NetworkView, state: &BindingState) -> bool {
    view.links.contains_key(&state.port)
        && view
            .routes
            .get(&state.vm)
            .is_some_and(|route| route.ifindex == state.l3)
}
