//! What the controller keeps of the objects it watches: little, and nothing that can be wrong in a
//! way that hurts other objects.

use std::{collections::BTreeMap, net::IpAddr};

use kube::core::{DynamicObject, ObjectMeta};
use serde::de::DeserializeOwned;

use crate::{
    model::{ObjectName, POD, VmPhase},
    source::{
        kube::{NODE_LABEL, OTHER_NODE_LABEL},
        objects::{
            self, EipBindingSpec, EipBindingStatus, MigrationState, PodSpec, PodStatus, VmNetwork,
            VmSpec, VmStatus,
        },
    },
};

/// Finalizer of the older operator, as it spelt it.
pub(super) const OLD_FINALIZER: &str = "virteip.github.com/finlizer";
/// Annotation of a pod: its networks and addresses, written by Multus.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Label of a virt-launcher pod: the VM it belongs to, by uid.
pub(super) const CREATED_BY_LABEL: &str = "kubevirt.io/created-by";

/// An `EipBinding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    /// Its name.
    pub(super) name: ObjectName,
    /// Identity.
    pub(super) uid: String,
    /// Version of the object; a write names it, so that nothing newer is overwritten.
    pub(super) resource_version: String,
    /// Creation, in seconds since the epoch.
    pub(super) created: i64,
    /// Version of the spec.
    pub(super) generation: i64,
    /// Somebody has deleted it.
    pub(super) is_deleting: bool,
    /// All finalizers.
    pub(super) finalizers: Vec<String>,
    /// [`NODE_LABEL`] and [`OTHER_NODE_LABEL`], where they are set.
    pub(super) labels: BTreeMap<String, String>,
    /// What is wanted; an error when it cannot be read.
    pub(super) spec: Result<EipBindingSpec, String>,
    /// What was written about it.
    pub(super) status: EipBindingStatus,
}

/// A `VirtualMachineInstance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vm {
    /// Identity: a restarted VM is another one.
    pub(super) uid: String,
    /// Phase.
    pub(super) phase: VmPhase,
    /// Where it runs, as its status says.
    pub(super) node: Option<String>,
    /// The migration under way, or the last one.
    pub(super) migration: Option<MigrationState>,
    /// Addresses its status claims for the pod network.
    pub(super) claims: Vec<IpAddr>,
    /// Its networks, as its spec names them.
    pub(super) networks: Vec<Network>,
    /// It has its node's addresses and none of its own.
    pub(super) is_host_network: bool,
}

/// A network of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    /// As the VM calls it.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: NetworkKind,
}

/// What a network of a VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkKind {
    /// The pod has its own addresses there.
    Pod,
    /// A further one, by Multus.
    Secondary {
        /// Its `NetworkAttachmentDefinition`, `NAMESPACE/NAME`.
        definition: String,
        /// The pod's interface, where the VM's status names it.
        interface: Option<String>,
    },
}

/// What a pod has on a network beside the pod network, as its annotation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    /// The `NetworkAttachmentDefinition`, `NAMESPACE/NAME`.
    pub(super) definition: String,
    /// The pod's interface.
    pub(super) interface: String,
    /// Its addresses there.
    pub(super) addresses: Vec<IpAddr>,
}

/// A virt-launcher pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    /// Name.
    pub(super) name: ObjectName,
    /// Uid of its VM.
    pub(super) vm: String,
    /// Where it runs.
    pub(super) node: Option<String>,
    /// Its own addresses; none once it has ended, for somebody else may have them then.
    pub(super) addresses: Vec<IpAddr>,
    /// Further networks; none once it has ended.
    pub(super) attachments: Vec<Attachment>,
    /// Creation, in seconds since the epoch.
    pub(super) created: i64,
}

/// The name of an object of the API server. It has one.
#[must_use]
pub(super) fn name_of(metadata: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

impl Binding {
    /// Reads an object. What cannot be read is kept as the reason for it.
    #[must_use]
    pub(super) fn read(object: &DynamicObject) -> Self {
        let metadata = &object.metadata;
        let labels = metadata.labels.iter().flatten();
        Self {
            name: name_of(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            created: created(metadata),
            generation: metadata.generation.unwrap_or(0),
            is_deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            labels: labels
                .filter(|(key, _)| [NODE_LABEL, OTHER_NODE_LABEL].contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            spec: part(object, "spec"),
            // A status nobody can read is one to be written anew.
            status: part(object, "status").unwrap_or_default(),
        }
    }

    /// The elastic IP it asks for, if it can be read.
    #[must_use]
    pub(super) fn eip(&self) -> Option<IpAddr> {
        self.spec.as_ref().ok()?.eip().ok()
    }

    /// The elastic IP its status says it holds.
    #[must_use]
    pub(super) fn held(&self) -> Option<IpAddr> {
        self.status.eip.as_deref()?.parse().ok()
    }

    /// The VM or pod it names, if it can be read.
    #[must_use]
    pub(super) fn vm(&self) -> Option<ObjectName> {
        let namespace = &self.name.namespace;
        Some(self.spec.as_ref().ok()?.target(namespace).ok()?.1)
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            uid: String::new(),
            phase: VmPhase::Pending,
            node: None,
            migration: None,
            claims: Vec::new(),
            networks: Vec::new(),
            is_host_network: false,
        }
    }
}

impl Vm {
    /// Reads an object. One that cannot be read is in a phase nobody knows.
    #[must_use]
    pub(super) fn read(object: &DynamicObject) -> Self {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let namespace = name_of(&object.metadata).namespace;
        let spec: VmSpec = part(object, "spec").unwrap_or_default();
        let Ok(status) = part::<VmStatus>(object, "status") else {
            return Self {
                uid,
                phase: VmPhase::Unknown,
                networks: networks(&spec, &VmStatus::default(), &namespace),
                ..Self::default()
            };
        };
        let interfaces = objects::interfaces(&spec, &status).unwrap_or_default();
        Self {
            uid,
            phase: status.phase(),
            networks: networks(&spec, &status, &namespace),
            claims: interfaces
                .into_iter()
                .next()
                .map(|first| first.addresses)
                .unwrap_or_default(),
            node: status.node_name.filter(|node| !node.is_empty()),
            migration: status.migration_state,
            is_host_network: false,
        }
    }

    /// A plain pod is what a VM and its virt-launcher pod are together.
    #[must_use]
    pub(super) fn of_pod(object: &DynamicObject) -> Self {
        let spec: PodSpec = part(object, "spec").unwrap_or_default();
        let status: PodStatus = part(object, "status").unwrap_or_default();
        Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            phase: status.phase(),
            node: spec.node_name.filter(|node| !node.is_empty()),
            is_host_network: spec.host_network,
            ..Self::default()
        }
    }
}

/// The name of a plain pod among VMs.
#[must_use]
pub(super) fn pod_as_target(name: &ObjectName) -> ObjectName {
    ObjectName {
        namespace: name.namespace.clone(),
        name: format!("{POD}{}", name.name),
    }
}

impl Pod {
    /// Reads an object; `None` when it is no virt-launcher pod.
    #[must_use]
    pub(super) fn read(object: &DynamicObject) -> Option<Self> {
        let metadata = &object.metadata;
        let vm = metadata.labels.as_ref()?.get(CREATED_BY_LABEL)?.clone();
        // The label alone can be put on any pod; so can an owner, but only by who may make pods of
        // that namespace, and then the address is one of that namespace too.
        let is_owned = metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == vm && owner.kind == objects::VM_KIND);
        let spec: PodSpec = part(object, "spec").unwrap_or_default();
        if !is_owned || spec.host_network {
            return None;
        }
        Some(Self::of(object, vm, spec))
    }

    /// A plain pod, which belongs to nobody but itself.
    #[must_use]
    pub(super) fn plain(object: &DynamicObject) -> Self {
        let spec: PodSpec = part(object, "spec").unwrap_or_default();
        let own = object.metadata.uid.clone().unwrap_or_default();
        let is_host_network = spec.host_network;
        let mut pod = Self::of(object, own, spec);
        if is_host_network {
            pod.addresses.clear();
        }
        pod
    }

    fn of(object: &DynamicObject, vm: String, spec: PodSpec) -> Self {
        let metadata = &object.metadata;
        let status: PodStatus = part(object, "status").unwrap_or_default();
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut attachments = Vec::new();
        if !has_ended {
            let annotations = metadata.annotations.as_ref();
            let text = annotations.and_then(|all| all.get(NETWORK_STATUS));
            attachments = text.map_or_else(Vec::new, |text| attachments_of(text));
            let listed = status.pod_ips.into_iter().map(|address| address.ip);
            for text in listed.chain(status.pod_ip) {
                if let Ok(address) = text.parse()
                    && !addresses.contains(&address)
                {
                    addresses.push(address);
                }
            }
        }
        Self {
            name: name_of(metadata),
            vm,
            node: spec.node_name.filter(|node| !node.is_empty()),
            addresses,
            attachments,
            created: created(metadata),
        }
    }
}

/// The networks a VM's spec names, with what its status says of the pod's side.
fn networks(spec: &VmSpec, status: &VmStatus, namespace: &str) -> Vec<Network> {
    let kind = |network: &VmNetwork| {
        if network.is_pod_network() {
            return Some(NetworkKind::Pod);
        }
        let name = &network.multus.as_ref()?.network_name;
        let mut interfaces = status.interfaces.iter();
        let entry = interfaces.find(|one| one.name.as_ref() == Some(&network.name));
        Some(NetworkKind::Secondary {
            definition: if name.contains('/') {
                name.clone()
            } else {
                format!("{namespace}/{name}")
            },
            interface: entry.and_then(|entry| entry.pod_interface_name.clone()),
        })
    };
    let known = |network: &VmNetwork| {
        Some(Network {
            name: network.name.clone(),
            kind: kind(network)?,
        })
    };
    spec.networks.iter().filter_map(known).collect()
}

/// An entry of [`NETWORK_STATUS`].
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct NetworkStatus {
    name: String,
    interface: String,
    ips: Vec<String>,
    #[serde(rename = "default")]
    is_default: bool,
}

/// What a pod has beside the pod network. What cannot be read says nothing.
fn attachments_of(text: &str) -> Vec<Attachment> {
    let entries: Vec<NetworkStatus> = serde_json::from_str(text).unwrap_or_default();
    let secondary = entries.into_iter().filter(|entry| !entry.is_default);
    secondary
        .map(|entry| Attachment {
            definition: entry.name,
            interface: entry.interface,
            addresses: entry.ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        })
        .collect()
}

fn created(metadata: &ObjectMeta) -> i64 {
    let time = metadata.creation_timestamp.as_ref();
    time.map_or(i64::MAX, |time| time.0.as_second())
}

/// `spec` or `status` of an object.
fn part<T: DeserializeOwned + Default>(object: &DynamicObject, name: &str) -> Result<T, String> {
    match object.data.get(name) {
        None => Ok(T::default()),
        Some(value) => serde_json::from_value(without_nulls(value.clone()))
            .map_err(|error| format!("{name} cannot be read: {error}")),
    }
}

/// Written-out nulls mean "not given", except that `pod: null` names the pod network.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .filter(|(key, value)| !value.is_null() || key == "pod")
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
