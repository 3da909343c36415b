//! Random histories of objects, writes and crashes against the pure parts, with a server that keeps
//! versions as the real one does.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    controller::{
        object::OLD_FINALIZER,
        registry::Registry,
        verdict::{self, Write},
    },
    source::objects::Serving,
};

const NAMESPACES: [&str; 2] = ["ns", "other"];
const NODES: [&str; 3] = ["a", "b", "c"];

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Bind {
        namespace: usize,
        own: usize,
        eip: u8,
        vm: usize,
    },
    Delete {
        namespace: usize,
        own: usize,
    },
    Vm {
        namespace: usize,
        vm: usize,
        life: u8,
        node: usize,
    },
    Pod {
        namespace: usize,
        vm: usize,
        node: usize,
        is_alive: bool,
    },
    Hear {
        kind: usize,
    },
    Decide {
        namespace: usize,
        own: usize,
    },
    Land,
    Report {
        namespace: usize,
        own: usize,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let (namespace, own, vm, node) = (0..2_usize, 0..3_usize, 0..2_usize, 0..3_usize);
    prop_oneof![
        2 => (namespace.clone(), own.clone(), 0..3_u8, vm.clone())
            .prop_map(|(namespace, own, eip, vm)| Step::Bind { namespace, own, eip, vm }),
        1 => (namespace.clone(), own.clone())
            .prop_map(|(namespace, own)| Step::Delete { namespace, own }),
        2 => (namespace.clone(), vm.clone(), 0..8_u8, node.clone())
            .prop_map(|(namespace, vm, life, node)| Step::Vm { namespace, vm, life, node }),
        2 => (namespace.clone(), vm, node, any::<bool>())
            .prop_map(|(namespace, vm, node, is_alive)| Step::Pod { namespace, vm, node, is_alive }),
        6 => (0..3_usize).prop_map(|kind| Step::Hear { kind }),
        5 => (namespace.clone(), own.clone())
            .prop_map(|(namespace, own)| Step::Decide { namespace, own }),
        4 => Just(Step::Land),
        1 => (namespace, own).prop_map(|(namespace, own)| Step::Report { namespace, own }),
        1 => Just(Step::Crash),
    ]
}

#[derive(Debug, Clone)]
enum Heard {
    Binding(ObjectName, Option<Box<Binding>>),
    Vm(ObjectName, Option<Vm>),
    Pod(ObjectName, Option<Pod>),
}

/// The API server and one controller, with the way between them.
#[derive(Default)]
struct Model {
    bindings: BTreeMap<ObjectName, Binding>,
    vms: BTreeMap<ObjectName, Vm>,
    pods: BTreeMap<ObjectName, Pod>,
    version: u64,
    /// What was not heard yet, per kind: kinds are heard in any order, each in its own.
    pending: [VecDeque<Heard>; 3],
    registry: Registry,
    /// Writes on their way.
    flying: VecDeque<(ObjectName, String, Write)>,
}

impl Model {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn store(&mut self, name: ObjectName, binding: Option<Binding>) {
        match binding.clone() {
            Some(binding) => self.bindings.insert(name.clone(), binding),
            None => self.bindings.remove(&name),
        };
        self.pending[0].push_back(Heard::Binding(name, binding.map(Box::new)));
    }

    fn go(&mut self, step: &Step) {
        match *step {
            Step::Bind {
                namespace,
                own,
                eip,
                vm,
            } => self.bind(namespace, own, eip, vm),
            Step::Delete { namespace, own } => {
                let name = name(NAMESPACES[namespace], &format!("b{own}"));
                let Some(mut binding) = self.bindings.get(&name).cloned() else {
                    return;
                };
                if binding.finalizers.is_empty() {
                    self.store(name, None);
                } else {
                    binding.is_deleting = true;
                    binding.resource_version = self.next_version();
                    self.store(name, Some(binding));
                }
            }
            Step::Vm {
                namespace,
                vm,
                life,
                node,
            } => self.live(namespace, vm, life, node),
            Step::Pod {
                namespace,
                vm,
                node,
                is_alive,
            } => self.pod(namespace, vm, node, is_alive),
            Step::Hear { kind } => self.hear(kind),
            Step::Decide { namespace, own } => {
                let name = name(NAMESPACES[namespace], &format!("b{own}"));
                self.decide(&name);
            }
            Step::Land => self.land(),
            Step::Report { namespace, own } => {
                let name = name(NAMESPACES[namespace], &format!("b{own}"));
                self.report(&name);
            }
            Step::Crash => self.crash(),
        }
    }

    fn bind(&mut self, namespace: usize, own: usize, eip: u8, vm: usize) {
        let own = format!("b{own}");
        let namespace = NAMESPACES[namespace];
        let name = name(namespace, &own);
        let fresh = binding(
            namespace,
            &own,
            &format!("203.0.113.{eip}"),
            &format!("v{vm}"),
        );
        let mut object = match self.bindings.get(&name) {
            Some(known) if known.is_deleting => return,
            Some(known) => Binding {
                spec: fresh.spec,
                generation: known.generation + 1,
                ..known.clone()
            },
            None => Binding {
                created: i64::try_from(self.version / 4).unwrap(),
                uid: format!("uid-{}", self.version),
                finalizers: if eip == 0 {
                    vec![OLD_FINALIZER.to_owned()]
                } else {
                    Vec::new()
                },
                ..fresh
            },
        };
        object.resource_version = self.next_version();
        self.store(name, Some(object));
    }

    fn live(&mut self, namespace: usize, vm: usize, life: u8, node: usize) {
        let name = name(NAMESPACES[namespace], &format!("v{vm}"));
        let known = self.vms.get(&name).cloned();
        let new_uid = format!("vm-{}-{}", name, self.next_version());
        let uid = known
            .as_ref()
            .map_or(new_uid.clone(), |known| known.uid.clone());
        let vm = match life {
            0 => None,
            1 => Some(running(&new_uid, NODES[node])),
            2 => Some(Vm {
                phase: VmPhase::Final,
                ..running(&uid, NODES[node])
            }),
            3 => Some(Vm {
                node: None,
                ..running(&uid, "")
            }),
            4 => Some(Vm {
                migration: Some(migration(NODES[node], true)),
                ..known.unwrap_or_else(|| running(&uid, "a"))
            }),
            5 => Some(Vm {
                claims: vec![ip("10.99.0.1")],
                ..running(&uid, NODES[node])
            }),
            _ => Some(running(&uid, NODES[node])),
        };
        match vm.clone() {
            Some(vm) => self.vms.insert(name.clone(), vm),
            None => self.vms.remove(&name),
        };
        self.pending[1].push_back(Heard::Vm(name, vm));
    }

    fn pod(&mut self, namespace: usize, vm: usize, node: usize, is_alive: bool) {
        let namespace = NAMESPACES[namespace];
        let Some(vm) = self.vms.get(&name(namespace, &format!("v{vm}"))).cloned() else {
            return;
        };
        let own = format!("launcher-{}-{node}", vm.uid.replace('/', "-"));
        let name = name(namespace, &own);
        let made = is_alive.then(|| Pod {
            name: name.clone(),
            vm: vm.uid.clone(),
            node: Some(NODES[node].to_owned()),
            addresses: vec![ip(&format!("10.{node}.0.{}", 1 + self.version % 200))],
            created: 0,
        });
        let pod = match (made, self.pods.get(&name)) {
            (Some(made), Some(known)) => Some(Pod {
                addresses: known.addresses.clone(),
                ..made
            }),
            (made, _) => made,
        };
        self.version += 1;
        match pod.clone() {
            Some(pod) => self.pods.insert(name.clone(), pod),
            None => self.pods.remove(&name),
        };
        self.pending[2].push_back(Heard::Pod(name, pod));
    }

    fn hear(&mut self, kind: usize) {
        let registry = &mut self.registry;
        let _touched = match self.pending[kind].pop_front() {
            Some(Heard::Binding(name, Some(binding))) => registry.put_binding(&name, *binding),
            Some(Heard::Binding(name, None)) => registry.remove_binding(&name),
            Some(Heard::Vm(name, Some(vm))) => registry.put_vm(&name, vm),
            Some(Heard::Vm(name, None)) => registry.remove_vm(&name),
            Some(Heard::Pod(_, Some(pod))) => registry.put_pod(pod),
            Some(Heard::Pod(name, None)) => registry.remove_pod(&name),
            None => return,
        };
    }

    fn decide(&mut self, name: &ObjectName) -> bool {
        let Some(binding) = self.registry.binding(name) else {
            return false;
        };
        let verdict = verdict::decide(&self.registry, name).unwrap();
        let write = verdict.next_write(name, binding, "2026-01-01T00:00:00Z");
        let uid = binding.uid.clone();
        let is_write = write.is_some();
        if matches!(write, Some(Write::Status(_))) {
            self.registry.reserve(name, verdict.held);
        }
        self.flying
            .extend(write.map(|write| (name.clone(), uid, write)));
        is_write
    }

    /// The oldest write arrives.
    fn land(&mut self) {
        let Some((name, uid, write)) = self.flying.pop_front() else {
            return;
        };
        self.take(&name, &uid, write);
    }

    /// The server refuses a write when the object is another one meanwhile.
    fn take(&mut self, name: &ObjectName, uid: &str, write: Write) {
        let name = name.clone();
        let Some(mut binding) = self.bindings.get(&name).cloned() else {
            return;
        };
        let metadata = match &write {
            Write::Status(value) | Write::Metadata(value) => value["metadata"].clone(),
        };
        if metadata["resourceVersion"] != binding.resource_version.as_str() || binding.uid != uid {
            return;
        }
        match write {
            Write::Status(value) => {
                let written: EipBindingStatus =
                    serde_json::from_value(value["status"].clone()).unwrap();
                binding.status = EipBindingStatus {
                    serving: binding.status.serving,
                    ..written
                };
            }
            Write::Metadata(_) => {
                for (label, value) in metadata["labels"].as_object().into_iter().flatten() {
                    match value.as_str() {
                        Some(text) => binding.labels.insert(label.clone(), text.to_owned()),
                        None => binding.labels.remove(label),
                    };
                }
                if let Some(finalizers) = metadata["finalizers"].as_array() {
                    binding.finalizers = finalizers
                        .iter()
                        .map(|f| f.as_str().unwrap().to_owned())
                        .collect();
                }
            }
        }
        if binding.is_deleting && binding.finalizers.is_empty() {
            self.store(name, None);
            return;
        }
        binding.resource_version = self.next_version();
        self.store(name, Some(binding));
    }

    /// The agent of the granted node says that it serves the binding.
    fn report(&mut self, name: &ObjectName) {
        let Some(mut binding) = self.bindings.get(name).cloned() else {
            return;
        };
        let Some(node) = binding.status.node.clone() else {
            return;
        };
        binding.status.serving = Some(Serving {
            node,
            eip: binding.status.eip.clone(),
            vm_address: binding.status.vm_address.clone(),
            ..Serving::default()
        });
        binding.resource_version = self.next_version();
        self.store(name.clone(), Some(binding));
    }

    /// Another controller begins. Of the writes on their way some arrive and some do not; none does
    /// later, because the Lease is longer than a write may take.
    fn crash(&mut self) {
        while !self.flying.is_empty() {
            if self.version.is_multiple_of(2) {
                self.land();
            }
            self.flying.pop_front();
        }
        self.registry = Registry::default();
        for pending in &mut self.pending {
            pending.clear();
        }
        for (name, binding) in &self.bindings {
            self.registry.put_binding(name, binding.clone());
        }
        for (name, vm) in &self.vms {
            self.registry.put_vm(name, vm.clone());
        }
        for pod in self.pods.values() {
            self.registry.put_pod(pod.clone());
        }
    }

    /// Everything is heard, decided and written until nothing is left to do.
    fn rest(&mut self) {
        for _ in 0..200 {
            while !self.flying.is_empty() {
                self.land();
            }
            for kind in 0..3 {
                while !self.pending[kind].is_empty() {
                    self.hear(kind);
                }
            }
            let names: Vec<ObjectName> = self.bindings.keys().cloned().collect();
            let mut is_quiet = true;
            for name in names {
                is_quiet &= !self.decide(&name);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the controller does not come to rest");
    }

    /// Holds at every moment.
    fn one_holder_each(&self) -> Result<(), String> {
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
    fn as_wanted(&self) -> Result<(), String> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in whatever order: one holder for each elastic IP at every moment, and the
    /// stored state is what the objects ask for as soon as nothing happens any more.
    #[test]
    fn any_history_keeps_one_holder_and_ends_as_wanted(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::default();
        for step in &steps {
            model.go(step);
            prop_assert_eq!(model.one_holder_each(), Ok(()));
        }
        model.rest();
        prop_assert_eq!(model.one_holder_each(), Ok(()));
        prop_assert_eq!(model.as_wanted(), Ok(()));
    }

    /// What tenants of one namespace do is without consequence for another's, as long as they do not
    /// ask for the same address; and even then whoever holds it keeps it.
    #[test]
    fn another_namespace_changes_nothing_for_a_holder(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::default();
        model.go(&Step::Vm { namespace: 0, vm: 0, life: 1, node: 0 });
        model.go(&Step::Pod { namespace: 0, vm: 0, node: 0, is_alive: true });
        model.go(&Step::Bind { namespace: 0, own: 0, eip: 1, vm: 0 });
        model.rest();
        let before = model.bindings[&name("ns", "b0")].status.clone();
        prop_assert!(before.node.is_some());
        for step in &steps {
            let is_theirs = match step {
                Step::Bind { namespace, .. }
                | Step::Delete { namespace, .. }
                | Step::Vm { namespace, .. }
                | Step::Pod { namespace, .. } => *namespace == 1,
                Step::Report { .. } => false,
                _ => true,
            };
            if is_theirs {
                model.go(step);
            }
        }
        model.rest();
        prop_assert_eq!(&model.bindings[&name("ns", "b0")].status, &before);
    }
}
