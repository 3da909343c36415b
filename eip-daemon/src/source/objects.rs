//! The objects of the API, as far as this agent reads them, and what they say as facts.
//!
//! Objects come from people (files) and from the API server, which has dropped unknown fields already.
//! The types here accept whatever else an object carries; `documents` points out unknown
//! fields of `spec` to people, whose typing error they are.

use std::{collections::BTreeMap, net::IpAddr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{
    Deserialize, Serialize,
    de::{self, IntoDeserializer as _, value::StrDeserializer},
};

use crate::model::{Announce, BindingFact, DeliveryChoice, ObjectName, Origin, TargetKind};

mod bgp;
mod community;
mod crd;
mod nets;
mod peer_status;
mod pod;
mod status;
mod target;
mod vm;

pub use bgp::{
    BfdSpec, BgpPeer, BgpPeerSpec, MarksSpec, MatchSpec, NextHopSpec, NumberOrWord, PEER_API,
    PEER_KIND, PEER_SPEC, PeerCrd, PreferredSpec, RuleSpec,
};
pub use crd::{definitions, definitions_as_yaml};
pub use nets::{NODE_API, NODE_KIND, Node, SERVICE_CIDR_APIS, SERVICE_CIDR_KIND, ServiceCidr};
pub use peer_status::{
    BgpPeerStatus, DOWN, EIP_NODE_API, EIP_NODE_KIND, ESTABLISHED, EipNodeCrd, EipNodeSpec,
    EipNodeStatus, NodePeer, PeerNode, REFUSED, WAITING,
};
pub use pod::{POD_API, POD_KIND, Pod, PodAddress, PodSpec, PodStatus};
pub use status::{Condition, ConditionStatus, ConditionType, EipBindingStatus, Serving};
pub use target::{TARGET_ADDRESS, TARGET_POD, TARGET_VM, TargetSpec};
pub use vm::{
    MigrationState, Multus, VM_APIS, VM_KIND, VirtualMachineInstance, VmInterfaceStatus, VmNetwork,
    VmSpec, VmStatus, interfaces,
};

/// Kind of a binding.
pub const BINDING_KIND: &str = "EipBinding";
/// Its API version.
pub const BINDING_API: &str = "virteip.github.com/v1";
/// Fields of its spec. The last three belong to the older operator: accepted and ignored.
pub const BINDING_SPEC: [&str; 10] = [
    "eip",
    "vmi",
    "target",
    "interface",
    "primary",
    "delivery",
    "announce",
    "lastHyper",
    "LastIP",
    "jobHistory",
];
/// Why an object says nothing usable. Fate: the object is refused, the others are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// A field that has to be there is not.
    #[error("{field} is missing: {expected}")]
    Missing {
        /// Path of the field.
        field: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A field holds something else than it should.
    #[error("{field}: {value:?} is not {expected}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What stands there.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl ObjectError {
    fn invalid(field: impl Into<String>, value: &str, expected: &'static str) -> Self {
        Self::Invalid {
            field: field.into(),
            value: value.to_owned(),
            expected,
        }
    }

    /// Path of the field that is wrong.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Missing { field, .. } | Self::Invalid { field, .. } => field,
        }
    }
}

/// `metadata` of any object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: Option<String>,
    /// Namespace; `default` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Identity: differs between two objects of one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Counts changes of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339; set while the object is on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Namespace and name, both as Kubernetes would take them.
    ///
    /// # Errors
    /// A missing name, or names no object can have.
    pub fn object_name(&self) -> Result<ObjectName, ObjectError> {
        let Some(name) = self.name.clone().filter(|name| !name.is_empty()) else {
            return Err(ObjectError::Missing {
                field: "metadata.name".to_owned(),
                expected: "every object has one",
            });
        };
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        if !is_subdomain(&name) {
            return Err(ObjectError::invalid("metadata.name", &name, SUBDOMAIN));
        }
        if !is_label(&namespace) {
            return Err(ObjectError::invalid(
                "metadata.namespace",
                &namespace,
                LABEL,
            ));
        }
        Ok(ObjectName { namespace, name })
    }

    fn created(&self) -> Result<Option<i64>, ObjectError> {
        let Some(text) = &self.creation_timestamp else {
            return Ok(None);
        };
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            let expected = "a time like 2026-01-31T12:00:00Z";
            ObjectError::invalid("metadata.creationTimestamp", text, expected)
        })?;
        Ok(Some(time.as_second()))
    }
}

/// An `EipBinding`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EipBinding {
    /// [`BINDING_API`].
    pub api_version: String,
    /// [`BINDING_KIND`].
    pub kind: String,
    /// Who it is.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it asks for.
    #[serde(default)]
    pub spec: EipBindingSpec,
    /// What became of it, in a cluster. Documents of a directory have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EipBindingStatus>,
}

/// What is wanted: an elastic IP for a VM.
#[derive(
    Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "virteip.github.com",
    version = "v1",
    kind = "EipBinding",
    root = "BindingCrd",
    plural = "eipbindings",
    namespaced,
    status = "EipBindingStatus",
    shortname = "eipb",
    category = "kubevirt",
    doc = "An elastic IP and the KubeVirt VM of the same namespace that it belongs to.",
    selectable = ".spec.eip",
    selectable = ".spec.vmi",
    selectable = ".status.node",
    printcolumn = r#"{"name":"EIP","type":"string","jsonPath":".spec.eip"}"#,
    printcolumn = r#"{"name":"VMI","type":"string","jsonPath":".spec.vmi"}"#,
    printcolumn = r#"{"name":"VMI-IP","type":"string","jsonPath":".status.vmAddress"}"#,
    printcolumn = r#"{"name":"NODE","type":"string","jsonPath":".status.node"}"#,
    printcolumn = r#"{"name":"READY","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"REASON","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"PEERS","type":"string","jsonPath":".status.serving.peers","priority":1}"#,
    printcolumn = r#"{"name":"UPLINKS","type":"string","jsonPath":".status.serving.uplinks","priority":1}"#,
    printcolumn = r#"{"name":"TARGET","type":"string","jsonPath":".spec.target.name","priority":1}"#,
    printcolumn = r#"{"name":"MESSAGE","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["eip"], "x-kubernetes-validations" = [{
    "rule": "has(self.vmi) != has(self.target)",
    "message": "a binding has one of spec.vmi and spec.target"
}, {
    "rule": "has(self.eip)",
    "message": "spec.eip is missing: the elastic IP, such as 203.0.113.10"
}, {
    "rule": "!has(self.interface) || !has(self.target) || self.target.kind == 'VirtualMachineInstance'",
    "message": "spec.interface is for VMs: a plain pod has one network here, so leave it out"
}]))]
pub struct EipBindingSpec {
    /// The elastic IP, such as 203.0.113.10. One binding holds an address at a time.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "isIP(self)",
        "message": "spec.eip has to be a single IP address such as 203.0.113.10"
    }]), length(max = 45))]
    pub eip: Option<String>,
    /// Name of the `VirtualMachineInstance`, in the binding's own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub vmi: Option<String>,
    /// What it belongs to, where `vmi` does not say it: a plain pod of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSpec>,
    /// The VM's network that the elastic IP leads to, by its name in the VM's `spec.networks`; the pod
    /// network without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub interface: Option<String>,
    /// Whether the VM starts its own connections with this elastic IP, if it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
    /// How packets reach the VM on its node: `auto`, `peer`, `neigh`, `stack` or `xdp`; the node's
    /// setting without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self in ['auto', 'peer', 'neigh', 'stack', 'xdp']",
        "message": "spec.delivery has to be one of auto, peer, neigh, stack, xdp"
    }]), length(max = 16))]
    pub delivery: Option<String>,
    /// How the network is told where it is: `bgp`, `l2`, `both` or `none`; the node's setting
    /// without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self in ['bgp', 'l2', 'both', 'none']",
        "message": "spec.announce has to be one of bgp, l2, both, none"
    }]), length(max = 16))]
    pub announce: Option<String>,
    /// Written by the older operator; ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_hyper: Option<String>,
    /// Written by the older operator; ignored.
    #[serde(rename = "LastIP", skip_serializing_if = "Option::is_none")]
    pub last_ip: Option<String>,
    /// A setting of the older operator; ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_history: Option<i32>,
}

impl EipBinding {
    /// The object as a fact.
    ///
    /// # Errors
    /// What is missing or wrong, and what would be right.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<BindingFact, ObjectError> {
        let name = self.metadata.object_name()?;
        let created = self.metadata.created()?;
        let (kind, vm) = self.spec.target(&name.namespace)?;
        Ok(BindingFact {
            moving: crate::model::Moving::default(),
            created,
            vm,
            interface: self.spec.interface(kind)?,
            kind,
            eip: self.spec.eip()?,
            generation: self.metadata.generation.unwrap_or(0),
            primary: self.spec.primary.unwrap_or(false),
            delivery: self.spec.delivery()?,
            announce: self.spec.announce()?,
            name,
            origin,
        })
    }
}

impl EipBindingSpec {
    /// The elastic IP.
    ///
    /// # Errors
    /// It is missing, or is no address.
    pub fn eip(&self) -> Result<IpAddr, ObjectError> {
        let text = required(
            self.eip.as_ref(),
            "spec.eip",
            "the elastic IP, like 203.0.113.10",
        )?;
        text.parse().map_err(|_| {
            let expected = if text.contains('/') {
                "a single address: leave the prefix length out"
            } else {
                "an IP address like 203.0.113.10"
            };
            ObjectError::invalid("spec.eip", text, expected)
        })
    }

    /// The VM, for a binding in `namespace`.
    ///
    /// # Errors
    /// It is missing, or no object can have that name.
    pub fn vm(&self, namespace: &str) -> Result<ObjectName, ObjectError> {
        let expected = "the name of the VirtualMachineInstance";
        let text = required(self.vmi.as_ref(), "spec.vmi", expected)?;
        if !is_subdomain(text) {
            let expected = "the name of a VirtualMachineInstance in the binding's own namespace";
            return Err(ObjectError::invalid("spec.vmi", text, expected));
        }
        Ok(ObjectName {
            namespace: namespace.to_owned(),
            name: text.clone(),
        })
    }

    /// What the elastic IP belongs to, for a binding in `namespace`: `spec.vmi` or `spec.target`.
    ///
    /// # Errors
    /// Neither is given, or both are, or one that cannot be.
    pub fn target(&self, namespace: &str) -> Result<(TargetKind, ObjectName), ObjectError> {
        let Some(target) = &self.target else {
            return Ok((TargetKind::Vm, self.vm(namespace)?));
        };
        if let Some(vmi) = self.vmi.as_ref().filter(|vmi| !vmi.is_empty()) {
            let expected = "allowed beside spec.target: a binding has one of the two";
            return Err(ObjectError::invalid("spec.vmi", vmi, expected));
        }
        target.resolve(namespace)
    }

    /// The VM's network, for a target of a kind.
    ///
    /// # Errors
    /// The target is no VM.
    pub fn interface(&self, kind: TargetKind) -> Result<Option<String>, ObjectError> {
        let Some(name) = self.interface.as_ref().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if kind != TargetKind::Vm {
            let expected = "allowed here: only a VM has several networks to choose from";
            return Err(ObjectError::invalid("spec.interface", name, expected));
        }
        Ok(Some(name.clone()))
    }

    fn delivery(&self) -> Result<Option<DeliveryChoice>, ObjectError> {
        one_of(
            self.delivery.as_ref(),
            "spec.delivery",
            "one of auto, peer, neigh, stack, xdp",
        )
    }

    fn announce(&self) -> Result<Option<Announce>, ObjectError> {
        one_of(
            self.announce.as_ref(),
            "spec.announce",
            "one of bgp, l2, both, none",
        )
    }
}

/// The value a name stands for; an absent field stands for none.
fn one_of<T: de::DeserializeOwned>(
    text: Option<&String>,
    field: &str,
    expected: &'static str,
) -> Result<Option<T>, ObjectError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let name: StrDeserializer<'_, de::value::Error> = text.as_str().into_deserializer();
    let value = T::deserialize(name).map(Some);
    value.map_err(|_| ObjectError::invalid(field, text, expected))
}

fn required<'a>(
    value: Option<&'a String>,
    field: &str,
    expected: &'static str,
) -> Result<&'a String, ObjectError> {
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| ObjectError::Missing {
            field: field.to_owned(),
            expected,
        })
}

/// What [`is_label`] expects, for people.
pub(super) const LABEL: &str = "a lower-case name of at most 63 letters, digits and '-'";
/// What [`is_subdomain`] expects, for people.
pub(super) const SUBDOMAIN: &str = "a lower-case name of letters, digits, '-' and '.'";

/// RFC 1123 label, as Kubernetes names namespaces.
pub(super) fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_plain_word(name)
}

/// RFC 1123 subdomain, as Kubernetes names objects (it does not limit the single parts).
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_plain_word)
}

fn is_plain_word(word: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = word.as_bytes();
    bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes
            .iter()
            .all(|byte| is_alphanumeric(byte) || *byte == b'-')
}
