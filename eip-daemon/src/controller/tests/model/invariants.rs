//! What holds at every moment, and what holds when nothing happens any more.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

impl Model {
    /// Holds at every moment: no node serves what it was never told to.
    pub(super) fn nothing_but_grants(&self) -> Result<(), String> {
        for node in &self.nodes {
            for (eip, vm) in node.served() {
                if !self.granted.contains(&(node.name.to_owned(), eip, vm)) {
                    return Err(format!("{} serves {eip} at {vm} unasked", node.name));
                }
            }
        }
        Ok(())
    }

    /// Holds at rest: each kernel has what the bindings say, and so one node each elastic IP.
    pub(super) fn kernels_as_stored(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for node in &self.nodes {
            let stored: BTreeMap<IpAddr, IpAddr> = self
                .bindings
                .values()
                .filter_map(grant_of)
                .filter(|(name, ..)| name == node.name)
                .map(|(_, eip, vm)| (eip, vm))
                .collect();
            if node.served() != stored {
                let served = node.served();
                return Err(format!("{} serves {served:?}, not {stored:?}", node.name));
            }
            for eip in node.programmed() {
                if !seen.insert(eip) {
                    return Err(format!("two nodes have {eip}"));
                }
            }
        }
        Ok(())
    }

    /// Holds at every moment.
    pub(super) fn one_holder_each(&self) -> Result<(), String> {
        let mut holders: BTreeMap<&str, &ObjectName> = BTreeMap::new();
        for (name, binding) in &self.bindings {
            let Some(eip) = binding.status.eip.as_deref() else {
                if binding.status.node.is_some() {
                    return Err(format!("{name} is granted without an elastic IP"));
                }
                continue;
            };
            if let Some(other) = holders.insert(eip, name) {
                return Err(format!("{eip} is in the status of {other} and of {name}"));
            }
        }
        Ok(())
    }

    /// Holds at rest: who should be served is, by an address of a living pod of that very VM.
    pub(super) fn as_wanted(&self) -> Result<(), String> {
        for (name, binding) in &self.bindings {
            let status = &binding.status;
            if status.observed_generation != Some(binding.generation) {
                return Err(format!("{name} was not looked at"));
            }
            if binding.finalizers.iter().any(|f| f == OLD_FINALIZER) {
                return Err(format!("{name} still has the old finalizer"));
            }
            let label = binding.labels.get(crate::source::kube::NODE_LABEL);
            if label != status.node.as_ref() {
                return Err(format!(
                    "{name} has label {label:?}, node {:?}",
                    status.node
                ));
            }
            let eip = binding.spec.as_ref().unwrap().eip.clone();
            let vm = binding.vm().and_then(|vm| self.vms.get(&vm));
            let pods: Vec<&Pod> = self
                .pods
                .values()
                .filter(|pod| {
                    pod.name.namespace == name.namespace && vm.is_some_and(|vm| vm.uid == pod.vm)
                })
                .collect();
            match (&status.node, &status.vm_address) {
                (Some(node), Some(address)) => {
                    let is_own = pods.iter().any(|pod| {
                        pod.node.as_ref() == Some(node)
                            && pod.addresses.contains(&address.parse().unwrap())
                    });
                    if !is_own || vm.is_none_or(|vm| vm.phase == VmPhase::Final) {
                        return Err(format!("{name} is granted {address} on {node}"));
                    }
                    let ready = status.condition(&ConditionType::Ready);
                    if ready.is_none_or(|ready| ready.reason != "Serving") {
                        return Err(format!("{name} is served and called {ready:?}"));
                    }
                }
                (None, None) => {
                    let should = status.eip.is_some()
                        && vm.is_some_and(|vm| {
                            vm.phase == VmPhase::Running
                                && vm.migration.is_none()
                                && pods
                                    .iter()
                                    .any(|pod| pod.node == vm.node && vm.node.is_some())
                        });
                    if should {
                        return Err(format!("{name} is not granted, though its VM runs"));
                    }
                }
                other => return Err(format!("{name} is granted half: {other:?}")),
            }
            let others_hold = self
                .bindings
                .iter()
                .any(|(other, b)| other != name && b.status.eip == eip);
            if !binding.is_deleting && status.eip != eip && !others_hold {
                return Err(format!("nobody holds {eip:?}, which {name} asks for"));
            }
        }
        Ok(())
    }
}

/// What a binding's status tells a node to serve.
pub(super) fn grant_of(binding: &Binding) -> Option<(String, IpAddr, IpAddr)> {
    let status = &binding.status;
    let (eip, vm) = (status.eip.as_deref()?, status.vm_address.as_deref()?);
    Some((status.node.clone()?, ip(eip), ip(vm)))
}
