//! Everything the controller has heard of, and who is concerned when it changes. Pure.
//!
//! An elastic IP has one *holder*. Who holds it in its stored status keeps it; else the oldest
//! binding that asks for it gets it, but only after every other status that names it has been
//! cleared. So no two stored statuses ever name one address, however long a write takes, and nobody
//! loses an address to an older object that was edited to ask for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::object::{Binding, Pod, Vm};
use crate::model::ObjectName;

/// Bindings whose verdict may be another one now.
pub(super) type Touched = BTreeSet<ObjectName>;

/// Who may have an elastic IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// This binding.
    Own,
    /// Another binding has it, and keeps it.
    HeldBy(ObjectName),
    /// Another binding is giving it up; its status still names it.
    BeingReleasedBy(ObjectName),
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Addresses on further networks count as the pods' annotations name them.
    trusts_network_status: bool,
    bindings: BTreeMap<ObjectName, Binding>,
    vms: BTreeMap<ObjectName, Vm>,
    pods: BTreeMap<ObjectName, Pod>,
    by_eip: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    by_vm: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// VMs by namespace and uid.
    by_uid: BTreeMap<(String, String), BTreeSet<ObjectName>>,
    /// Pods by namespace and uid of their VM: a pod of another namespace is nobody's.
    by_launcher: BTreeMap<(String, String), BTreeSet<ObjectName>>,
    /// Elastic IPs that writes on their way give to bindings. They count as held, or two decisions in
    /// a row could give one address twice.
    reserved: BTreeMap<ObjectName, IpAddr>,
}

impl Registry {
    /// Nothing is known yet.
    #[must_use]
    pub(super) fn new(trusts_network_status: bool) -> Self {
        Self {
            trusts_network_status,
            ..Self::default()
        }
    }

    /// Whether the annotations of pods are believed.
    #[must_use]
    pub(super) fn trusts_network_status(&self) -> bool {
        self.trusts_network_status
    }

    /// A binding, if it is known.
    #[must_use]
    pub(super) fn binding(&self, name: &ObjectName) -> Option<&Binding> {
        self.bindings.get(name)
    }

    /// All bindings.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (&ObjectName, &Binding)> {
        self.bindings.iter()
    }

    /// The names of all VMs.
    pub(super) fn vms(&self) -> impl Iterator<Item = &ObjectName> {
        self.vms.keys()
    }

    /// The names of all pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &ObjectName> {
        self.pods.keys()
    }

    /// A VM, if it is known.
    #[must_use]
    pub(super) fn vm(&self, name: &ObjectName) -> Option<&Vm> {
        self.vms.get(name)
    }

    /// The virt-launcher pods of a VM.
    #[must_use]
    pub(super) fn pods_of(&self, vm: &ObjectName, uid: &str) -> Vec<&Pod> {
        let key = (vm.namespace.clone(), uid.to_owned());
        let names = self.by_launcher.get(&key).into_iter().flatten();
        names.filter_map(|name| self.pods.get(name)).collect()
    }

    /// A binding is there, or has changed. An older version than the known one says nothing.
    pub(super) fn put_binding(&mut self, name: &ObjectName, binding: Binding) -> Touched {
        let before = self.bindings.get(name);
        if before.is_some_and(|before| is_older(&binding, before) || *before == binding) {
            return Touched::new();
        }
        self.exchange_binding(name, Some(binding))
    }

    /// A binding is gone.
    pub(super) fn remove_binding(&mut self, name: &ObjectName) -> Touched {
        self.exchange_binding(name, None)
    }

    fn exchange_binding(&mut self, name: &ObjectName, after: Option<Binding>) -> Touched {
        let concerned: BTreeSet<IpAddr> = self
            .bindings
            .get(name)
            .into_iter()
            .chain(&after)
            .flat_map(|binding| [binding.eip(), binding.held()])
            .chain([self.reserved.get(name).copied()])
            .flatten()
            .collect();
        let before = self.holders(&concerned);
        self.unlist(name);
        if let Some(after) = after {
            self.list(name, after);
        }
        let after = self.holders(&concerned);
        let mut touched = Touched::from([name.clone()]);
        for (eip, (before, after)) in concerned.iter().zip(before.into_iter().zip(after)) {
            if before != after {
                touched.extend(self.by_eip.get(eip).into_iter().flatten().cloned());
            }
        }
        touched
    }

    /// A write on its way makes this binding hold (or not hold) an elastic IP. Forgotten when a newer
    /// version of the object is heard: it contains the write, or makes the server refuse it. Not
    /// before, whatever became of the write: one that seems lost may have arrived.
    pub(super) fn reserve(&mut self, name: &ObjectName, held: Option<IpAddr>) {
        let Some(binding) = self.bindings.get(name).cloned() else {
            return;
        };
        let Some(eip) = held.filter(|eip| binding.held() != Some(*eip)) else {
            return;
        };
        self.reserved.insert(name.clone(), eip);
        self.by_eip.entry(eip).or_default().insert(name.clone());
    }

    fn has(&self, name: &ObjectName, binding: &Binding, eip: IpAddr) -> bool {
        binding.held() == Some(eip) || self.reserved.get(name) == Some(&eip)
    }

    fn holders(&self, eips: &BTreeSet<IpAddr>) -> Vec<Holder> {
        eips.iter().map(|eip| self.holder(*eip)).collect()
    }

    fn list(&mut self, name: &ObjectName, binding: Binding) {
        for eip in [binding.eip(), binding.held()].into_iter().flatten() {
            self.by_eip.entry(eip).or_default().insert(name.clone());
        }
        if let Some(vm) = binding.vm() {
            self.by_vm.entry(vm).or_default().insert(name.clone());
        }
        self.bindings.insert(name.clone(), binding);
    }

    fn unlist(&mut self, name: &ObjectName) {
        let Some(binding) = self.bindings.remove(name) else {
            return;
        };
        let reserved = self.reserved.remove(name);
        for eip in [binding.eip(), binding.held(), reserved]
            .into_iter()
            .flatten()
        {
            drop_from(&mut self.by_eip, &eip, name);
        }
        if let Some(vm) = binding.vm() {
            drop_from(&mut self.by_vm, &vm, name);
        }
    }

    /// A VM is there, or has changed.
    pub(super) fn put_vm(&mut self, name: &ObjectName, vm: Vm) -> Touched {
        if self.vms.get(name) == Some(&vm) {
            return Touched::new();
        }
        self.unlist_vm(name);
        let key = (name.namespace.clone(), vm.uid.clone());
        self.by_uid.entry(key).or_default().insert(name.clone());
        self.vms.insert(name.clone(), vm);
        self.bound_to(name)
    }

    /// A VM is gone.
    pub(super) fn remove_vm(&mut self, name: &ObjectName) -> Touched {
        self.unlist_vm(name);
        self.bound_to(name)
    }

    fn unlist_vm(&mut self, name: &ObjectName) {
        if let Some(vm) = self.vms.remove(name) {
            drop_from(&mut self.by_uid, &(name.namespace.clone(), vm.uid), name);
        }
    }

    /// A pod is there, or has changed.
    pub(super) fn put_pod(&mut self, pod: Pod) -> Touched {
        if self.pods.get(&pod.name) == Some(&pod) {
            return Touched::new();
        }
        let mut touched = self.remove_pod(&pod.name.clone());
        let key = (pod.name.namespace.clone(), pod.vm.clone());
        self.by_launcher
            .entry(key)
            .or_default()
            .insert(pod.name.clone());
        touched.extend(self.bound_to_uid(&pod.name.namespace, &pod.vm));
        self.pods.insert(pod.name.clone(), pod);
        touched
    }

    /// A pod is gone.
    pub(super) fn remove_pod(&mut self, name: &ObjectName) -> Touched {
        let Some(pod) = self.pods.remove(name) else {
            return Touched::new();
        };
        let key = (name.namespace.clone(), pod.vm.clone());
        drop_from(&mut self.by_launcher, &key, name);
        self.bound_to_uid(&name.namespace, &pod.vm)
    }

    fn bound_to(&self, vm: &ObjectName) -> Touched {
        self.by_vm.get(vm).cloned().unwrap_or_default()
    }

    fn bound_to_uid(&self, namespace: &str, uid: &str) -> Touched {
        let key = (namespace.to_owned(), uid.to_owned());
        let vms = self.by_uid.get(&key).into_iter().flatten();
        let bindings = vms.filter_map(|vm| self.by_vm.get(vm)).flatten();
        bindings.cloned().collect()
    }

    /// Whether a binding may have the elastic IP it asks for.
    #[must_use]
    pub(super) fn claim(&self, name: &ObjectName, eip: IpAddr) -> Claim {
        match self.holder(eip) {
            Holder::Keeps(holder) if holder == *name => Claim::Own,
            Holder::Keeps(holder) => Claim::HeldBy(holder),
            Holder::Next { next, blocked_by } if next == *name => match blocked_by {
                Some(other) => Claim::BeingReleasedBy(other),
                None => Claim::Own,
            },
            Holder::Next { next, .. } => Claim::HeldBy(next),
            // It asks for the address, so somebody does.
            Holder::Nobody => Claim::Own,
        }
    }

    fn holder(&self, eip: IpAddr) -> Holder {
        let concerned = self.by_eip.get(&eip).into_iter().flatten();
        let concerned: Vec<(&ObjectName, &Binding)> = concerned
            .filter_map(|name| self.bindings.get_key_value(name))
            .collect();
        let asking = || {
            let asking = concerned
                .iter()
                .filter(|(_, binding)| binding.eip() == Some(eip) && !binding.is_deleting);
            asking.copied()
        };
        let oldest = |(name, binding): &(&ObjectName, &Binding)| (binding.created, (*name).clone());
        let keeping = asking().filter(|(name, binding)| self.has(name, binding, eip));
        if let Some((name, _)) = keeping.min_by_key(oldest) {
            return Holder::Keeps(name.clone());
        }
        let Some((next, _)) = asking().min_by_key(oldest) else {
            return Holder::Nobody;
        };
        let blocked_by = concerned
            .iter()
            .find(|(name, binding)| *name != next && self.has(name, binding, eip))
            .map(|(name, _)| (*name).clone());
        Holder::Next {
            next: next.clone(),
            blocked_by,
        }
    }
}

/// Who has an elastic IP.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// Nobody asks for it.
    Nobody,
    /// It is in the status of this binding, which still asks for it.
    Keeps(ObjectName),
    /// The oldest that asks, once nobody else's status names it.
    Next {
        next: ObjectName,
        blocked_by: Option<ObjectName>,
    },
}

fn drop_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

/// Versions of one object are numbers that grow. Of what is no number nothing can be said.
fn is_older(binding: &Binding, known: &Binding) -> bool {
    let number = |binding: &Binding| binding.resource_version.parse::<u64>().ok();
    binding.uid == known.uid
        && matches!((number(binding), number(known)), (Some(new), Some(old)) if new < old)
}
