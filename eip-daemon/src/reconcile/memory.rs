//! What was known a moment ago and is not contradicted now.
//!
//! KubeVirt empties `ipAddress` of a running VM while the guest reconfigures its interface. That does
//! not unbind it: its last address holds until it reports another one, ends, moves or is replaced by
//! another object of the same name. (What the kernel forgets about a silent VM is remembered where the
//! kernel is looked at.) This memory does not survive a restart of the process.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    desired::pod_addresses,
    model::{Facts, ObjectName, VmFact, VmInterface, VmPhase},
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
