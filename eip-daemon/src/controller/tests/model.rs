//! Random histories of objects, writes, crashes and reorderings against the pure parts of controller and
//! agents, with a server that keeps versions as the real one does and a kernel in memory for each node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    nodes::{Node, WATCHES},
    *,
};
use crate::{
    controller::{
        object::OLD_FINALIZER,
        registry::Registry,
        verdict::{self, Write},
    },
    source::objects::{Condition, ConditionStatus, ConditionType},
};

mod invariants;
mod steps;

use invariants::grant_of;
use steps::{Step, step};

const NAMESPACES: [&str; 2] = ["ns", "other"];
const NODES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Heard {
    Binding(ObjectName, Option<Box<Binding>>),
    Vm(ObjectName, Option<Vm>),
    Pod(ObjectName, Option<Pod>),
}

/// What a node was ever told to serve: the elastic IP and the address it is given to.
type Granted = BTreeSet<(String, IpAddr, IpAddr)>;

/// The API server, one controller and the agents, with the ways between them.
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
    nodes: Vec<Node>,
    now: Instant,
    granted: Granted,
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        let nodes = NODES.iter().zip(0..);
        Self {
            bindings: BTreeMap::new(),
            vms: BTreeMap::new(),
            pods: BTreeMap::new(),
            version: 0,
            pending: Default::default(),
            registry: Registry::default(),
            flying: VecDeque::new(),
            nodes: nodes
                .map(|(name, number)| Node::new(name, number, now))
                .collect(),
            now,
            granted: Granted::new(),
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn store(&mut self, name: ObjectName, binding: Option<Binding>) {
        let before = self.bindings.get(&name);
        for node in &mut self.nodes {
            node.changed(before, binding.as_ref(), self.version);
        }
        self.granted.extend(binding.as_ref().and_then(grant_of));
        match binding.clone() {
            Some(binding) => self.bindings.insert(name.clone(), binding),
            None => self.bindings.remove(&name),
        };
        self.pending[0].push_back(Heard::Binding(name, binding.map(Box::new)));
    }

    fn go(&mut self, step: &Step) -> Result<(), String> {
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
                    return Ok(());
                };
                if binding.finalizers.is_empty() {
                    self.version += 1;
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
            Step::Crash => self.crash(),
            Step::AgentHear { node, watch } => drop(self.nodes[node].hear(watch, self.now)),
            Step::Round { node, limit } => {
                let limit = limit.min(1000);
                self.nodes[node].round(&self.pods, self.now, limit)?;
            }
            Step::Report {
                node,
                namespace,
                own,
            } => {
                let name = name(NAMESPACES[namespace], &format!("b{own}"));
                self.report(node, &name);
            }
            Step::Restart { node } => {
                self.nodes[node].restart(&self.bindings, self.now);
            }
            Step::Expire { node, watch } => self.nodes[node].list(watch, &self.bindings),
            Step::Rest => {
                self.rest()?;
                self.as_wanted()?;
                self.kernels_as_stored()?;
            }
            Step::Wait { seconds } => self.now += Duration::from_secs(seconds),
        }
        self.one_holder_each()?;
        self.nothing_but_grants()
    }

    fn bind(&mut self, namespace: usize, own: usize, eip: u8, vm: usize) {
        let own = format!("b{own}");
        let namespace = NAMESPACES[namespace];
        let name = name(namespace, &own);
        let fresh = binding(
            namespace,
            &own,
            &format!("203.0.113.{}", 10 + eip),
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
            addresses: vec![self.pod_address(&vm.uid, node)],
            attachments: Vec::new(),
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

    /// An address of its own, or with some networks that of the pod the VM comes from.
    fn pod_address(&self, vm: &str, node: usize) -> IpAddr {
        let mut others = self.pods.values().filter(|pod| pod.vm == vm);
        let kept = others.find_map(|pod| pod.addresses.first().copied());
        let [.., high, low] = self.version.to_be_bytes();
        let own = IpAddr::from([10, u8::try_from(node).unwrap(), high, low]);
        kept.filter(|_| self.version.is_multiple_of(3))
            .unwrap_or(own)
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
                // Server-side apply: what others own stays.
                let mut conditions = written.conditions.unwrap_or_default();
                let agents = binding.status.conditions.into_iter().flatten();
                conditions.extend(agents.filter(|one| one.type_ != ConditionType::Ready));
                binding.status = EipBindingStatus {
                    serving: binding.status.serving,
                    conditions: Some(conditions),
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

    /// The agent of the granted node says what it has made of it; the admission policy lets no other one.
    fn report(&mut self, node: usize, name: &ObjectName) -> bool {
        let Some(serving) = self.nodes[node].told.get(name).cloned() else {
            return false;
        };
        let Some(mut binding) = self.bindings.get(name).cloned() else {
            return false;
        };
        let status = &mut binding.status;
        if status.node.as_deref() != Some(self.nodes[node].name)
            || status.serving.as_ref() == Some(&serving)
        {
            return false;
        }
        let programmed = Condition {
            type_: ConditionType::Programmed,
            status: if serving.eip.is_some() {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            },
            reason: "Said".to_owned(),
            message: String::new(),
            last_transition_time: "2026-01-01T00:00:00Z".to_owned(),
            observed_generation: Some(binding.generation),
        };
        status.serving = Some(serving);
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|one| one.type_ != ConditionType::Programmed);
        conditions.push(programmed);
        binding.resource_version = self.next_version();
        self.store(name.clone(), Some(binding));
        true
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
    fn rest(&mut self) -> Result<(), String> {
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
            for name in &names {
                is_quiet &= !self.decide(name);
            }
            // Longer than any hand-over.
            self.now += Duration::from_mins(1);
            for node in 0..self.nodes.len() {
                let here = &mut self.nodes[node];
                for watch in 0..WATCHES.len() {
                    while here.hear(watch, self.now) {
                        is_quiet = false;
                    }
                }
                is_quiet &= !here.round(&self.pods, self.now, 1000)?;
                for name in &names {
                    is_quiet &= !self.report(node, name);
                }
            }
            self.one_holder_each()?;
            self.nothing_but_grants()?;
            if is_quiet {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }
}

/// As many histories as a quick run bears; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if is_asked { default.cases } else { 200 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happens in whatever order: one holder for each elastic IP at every moment, and no node
    /// serves what it was not told to or announces what its kernel has not. As soon as nothing happens any
    /// more the stored state is what the objects ask for, and the kernels are as stored.
    #[test]
    fn any_history_keeps_one_holder_and_ends_as_wanted(
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut model = Model::new();
        for step in &steps {
            prop_assert_eq!(model.go(step), Ok(()));
        }
        prop_assert_eq!(model.rest(), Ok(()));
        prop_assert_eq!(model.as_wanted(), Ok(()));
        prop_assert_eq!(model.kernels_as_stored(), Ok(()));
    }

    /// What tenants of one namespace do is without consequence for another's, as long as they do not
    /// ask for the same address; and even then whoever holds it keeps it.
    #[test]
    fn another_namespace_changes_nothing_for_a_holder(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new();
        for step in [
            Step::Vm { namespace: 0, vm: 0, life: 1, node: 0 },
            Step::Pod { namespace: 0, vm: 0, node: 0, is_alive: true },
            Step::Bind { namespace: 0, own: 0, eip: 1, vm: 0 },
        ] {
            prop_assert_eq!(model.go(&step), Ok(()));
        }
        prop_assert_eq!(model.rest(), Ok(()));
        let before = model.bindings[&name("ns", "b0")].status.clone();
        let served = model.nodes[0].served();
        prop_assert!(before.node.is_some() && served.len() == 1);
        for step in &steps {
            let is_theirs = match step {
                Step::Bind { namespace, .. }
                | Step::Delete { namespace, .. }
                | Step::Vm { namespace, .. }
                | Step::Pod { namespace, .. } => *namespace == 1,
                _ => true,
            };
            if is_theirs {
                prop_assert_eq!(model.go(step), Ok(()));
                let (eip, vm) = served.first_key_value().unwrap();
                let now = model.nodes[0].served();
                prop_assert_eq!(now.get(eip), Some(vm));
            }
        }
        prop_assert_eq!(model.rest(), Ok(()));
        prop_assert_eq!(&model.bindings[&name("ns", "b0")].status, &before);
    }
}
