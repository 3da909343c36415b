//! The agents of the model: what each hears by its watches, what it makes of that, and a kernel in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use kube::{core::DynamicObject, runtime::watcher::Event};
use serde_json::json;

use super::super::object::{Binding, Pod};
use crate::{
    announce::wanted,
    desired,
    model::{
        Announce, DeliveryChoice, Desired, Facts, Lane, Link, NetworkView, NodeAddress,
        NodeSettings, ObjectName, Observed, Outcome, RouteTo, TcMode, XdpMode,
    },
    reconcile::{
        Removal,
        fake::{apply, violations},
        plan,
    },
    source::{
        kube::{
            NODE_LABEL, OTHER_NODE_LABEL,
            collect::{Collection, Stream},
        },
        objects::{BINDING_API, BINDING_KIND, Serving},
    },
};

const UPLINK: u32 = 2;
/// How long both nodes are told of.
const HAND_OVER: Duration = Duration::from_secs(10);
/// The watches by label.
pub(super) const WATCHES: [(Stream, &str); 2] = [
    (Stream::Bindings, NODE_LABEL),
    (Stream::OtherBindings, OTHER_NODE_LABEL),
];

/// A node with its agent.
pub(super) struct Node {
    pub(super) name: &'static str,
    settings: NodeSettings,
    uplink: IpAddr,
    booted: Instant,
    collection: Collection,
    /// What a restart begins with.
    facts: Facts,
    pub(super) kernel: Observed,
    /// What the API server has sent and the agent has not read.
    coming: [VecDeque<Event<DynamicObject>>; 2],
    /// What it would write of each binding.
    pub(super) told: BTreeMap<ObjectName, Serving>,
}

impl Node {
    pub(super) fn new(name: &'static str, number: u8, now: Instant) -> Self {
        let mut node = Self {
            name,
            settings: NodeSettings {
                node_name: name.to_owned(),
                uplinks: vec!["up0".to_owned()],
                gateway4: None,
                gateway6: None,
                eip_cidrs: vec!["203.0.113.0/24".parse().unwrap()],
                internal_nets: vec!["10.0.0.0/8".parse().unwrap()],
                delivery: DeliveryChoice::Auto,
                announce: Announce::Bgp,
                xdp_mode: XdpMode::Auto,
                tc_mode: TcMode::Auto,
                route_table: 1180,
            },
            uplink: IpAddr::from([192, 0, 2, 11 + number]),
            booted: now,
            collection: Collection::default(),
            facts: Facts::default(),
            kernel: Observed::default(),
            coming: Default::default(),
            told: BTreeMap::new(),
        };
        node.restart(&BTreeMap::new(), now);
        node
    }

    /// Another process: it has the kernel as it stands and the facts in the file.
    pub(super) fn restart(&mut self, bindings: &BTreeMap<ObjectName, Binding>, now: Instant) {
        self.collection = Collection::new(self.name.to_owned(), Some(HAND_OVER));
        let boot = now.duration_since(self.booted).as_nanos();
        self.collection
            .resume(&self.facts, now, u64::try_from(boot).unwrap());
        self.facts.complete = false;
        self.told.clear();
        for stream in [Stream::Nodes, Stream::ServiceCidrs, Stream::Peers] {
            self.collection.take(stream, Event::Init, now);
            self.collection.take(stream, Event::InitDone, now);
        }
        for watch in 0..WATCHES.len() {
            self.list(watch, bindings);
        }
    }

    /// A watch begins anew: what was on its way is not sent any more.
    pub(super) fn list(&mut self, watch: usize, bindings: &BTreeMap<ObjectName, Binding>) {
        let label = WATCHES[watch].1;
        let shown = bindings
            .values()
            .filter(|binding| self.is_shown(binding, label));
        let listed = shown.map(|binding| Event::InitApply(object(binding)));
        let events = [Event::Init].into_iter().chain(listed);
        self.coming[watch] = events.chain([Event::InitDone]).collect();
    }

    fn is_shown(&self, binding: &Binding, label: &str) -> bool {
        binding
            .labels
            .get(label)
            .is_some_and(|node| node == self.name)
    }

    /// A binding changed at the API server, in its `version`.
    pub(super) fn changed(
        &mut self,
        before: Option<&Binding>,
        after: Option<&Binding>,
        version: u64,
    ) {
        for (watch, (_, label)) in WATCHES.iter().enumerate() {
            let shown = |binding: &&Binding| self.is_shown(binding, label);
            let event = match (before.filter(shown), after.filter(shown)) {
                (_, Some(after)) => Event::Apply(object(after)),
                (Some(before), None) => {
                    let mut gone = object(before);
                    gone.metadata.resource_version = Some(version.to_string());
                    Event::Delete(gone)
                }
                (None, None) => continue,
            };
            self.coming[watch].push_back(event);
        }
    }

    /// Reads the next event of a watch. `false` when there is none.
    pub(super) fn hear(&mut self, watch: usize, now: Instant) -> bool {
        let event = self.coming[watch].pop_front();
        let is_one = event.is_some();
        if let Some(event) = event {
            self.collection.take(WATCHES[watch].0, event, now);
        }
        is_one
    }

    /// The agent looks, decides and does the first so many things. `Ok(true)` when there was something
    /// to do.
    pub(super) fn round(
        &mut self,
        pods: &BTreeMap<ObjectName, Pod>,
        now: Instant,
        limit: usize,
    ) -> Result<bool, String> {
        self.collection.settle(now);
        if self.collection.is_complete() {
            self.facts = self.collection.facts();
        }
        let desired = desired::compute(&self.facts, &self.settings, &self.view(pods));
        let removal = if self.facts.complete {
            Removal::Allowed
        } else {
            Removal::Deferred
        };
        let actions = plan(&desired, &self.kernel, removal);
        for action in actions.iter().take(limit) {
            apply(&mut self.kernel, action);
            let wrong = violations(&self.kernel);
            if !wrong.is_empty() {
                return Err(format!("{} after {action:?}: {wrong:?}", self.name));
            }
        }
        let announced = wanted(&desired, &self.kernel, true, 0).wanted;
        for eip in announced.keys() {
            if !self.kernel.bindings.contains_key(eip) {
                return Err(format!("{} announces {eip} and has it not", self.name));
            }
        }
        self.note(&desired);
        Ok(!actions.is_empty())
    }

    /// As `feedback` would say it.
    fn note(&mut self, desired: &Desired) {
        self.told.clear();
        for fact in &self.facts.bindings {
            let is_served = match &desired.outcomes[&fact.name] {
                Outcome::Elsewhere { .. } => continue,
                Outcome::Served { .. } => {
                    let is = self.kernel.bindings.get(&fact.eip).map(|(state, _)| state);
                    is.filter(|is| desired.bindings.get(&fact.eip) == Some(is))
                }
                Outcome::Waiting { .. } | Outcome::Refused { .. } => None,
            };
            let serving = Serving {
                node: self.name.to_owned(),
                eip: is_served.map(|_| fact.eip.to_string()),
                vm_address: is_served.map(|state| state.vm.to_string()),
                node_address: is_served.map(|_| self.uplink.to_string()),
                ..Serving::default()
            };
            self.told.insert(fact.name.clone(), serving);
        }
    }

    /// Elastic IPs it gives to VMs, with their addresses.
    pub(super) fn served(&self) -> BTreeMap<IpAddr, IpAddr> {
        let own = self.kernel.bindings.iter();
        own.filter(|(_, (state, _))| state.delivery != Lane::Forward)
            .map(|(eip, (state, _))| (*eip, state.vm))
            .collect()
    }

    /// All elastic IPs that are in its kernel, those included that it sends on to other nodes.
    pub(super) fn programmed(&self) -> BTreeSet<IpAddr> {
        self.kernel.bindings.keys().copied().collect()
    }

    fn view(&self, pods: &BTreeMap<ObjectName, Pod>) -> NetworkView {
        let mut view = NetworkView::default();
        let link = |ifindex: u32, name: &str, kind: &str| Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            master: None,
            vlan: None,
            is_up: true,
        };
        view.links.insert(UPLINK, link(UPLINK, "up0", ""));
        view.addresses.push(NodeAddress {
            ifindex: UPLINK,
            address: format!("{}/24", self.uplink).parse().unwrap(),
        });
        let here = pods
            .values()
            .filter(|pod| pod.node.as_deref() == Some(self.name));
        for address in here.flat_map(|pod| &pod.addresses) {
            let IpAddr::V4(v4) = address else { continue };
            let ifindex = 100 + u32::from_be_bytes(v4.octets()) % 0x1_0000;
            let name = format!("cali{ifindex}");
            view.links.insert(ifindex, link(ifindex, &name, "veth"));
            let route = RouteTo {
                ifindex,
                gateway: None,
                is_unicast: true,
            };
            view.routes.insert(*address, route);
            view.neighbours
                .insert((ifindex, *address), [6, 0, 0, 0, 0, 1]);
        }
        view
    }
}

/// A binding as the API server shows it.
fn object(binding: &Binding) -> DynamicObject {
    let object = json!({
        "apiVersion": BINDING_API,
        "kind": BINDING_KIND,
        "metadata": {
            "name": binding.name.name,
            "namespace": binding.name.namespace,
            "uid": binding.uid,
            "generation": binding.generation,
            "resourceVersion": binding.resource_version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": binding.is_deleting.then_some("2026-01-01T00:00:00Z"),
            "labels": binding.labels,
        },
        "spec": binding.spec.as_ref().unwrap(),
        "status": binding.status,
    });
    serde_json::from_value(object).unwrap()
}
