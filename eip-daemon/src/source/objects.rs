//! The objects of the API, as far as this agent reads them, and what they say as facts.
//!
//! Objects come from people (files) and from the API server, which has dropped unknown fields already.
//! The types here accept whatever else an object carries; [`super::documents`] points out unknown
//! fields of `spec` to people, whose typing error they are.

use std::net::IpAddr;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, IntoDeserializer as _, value::StrDeserializer},
};

use crate::model::{BindingFact, DeliveryChoice, ObjectName, Origin, VmFact, VmInterface, VmPhase};

/// Kind of a binding.
pub const BINDING_KIND: &str = "EipBinding";
/// Its API version.
pub const BINDING_API: &str = "virteip.github.com/v1";
/// Fields of its spec. The last three belong to the older operator: accepted and ignored.
pub const BINDING_SPEC: [&str; 7] = [
    "eip",
    "vmi",
    "primary",
    "delivery",
    "lastHyper",
    "LastIP",
    "jobHistory",
];
/// Kind of a running VM.
pub const VM_KIND: &str = "VirtualMachineInstance";
/// Its API versions, the current one first.
pub const VM_APIS: [&str; 2] = ["kubevirt.io/v1", "kubevirt.io/v1alpha3"];

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
}

/// `spec` of an `EipBinding`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EipBindingSpec {
    /// The elastic IP.
    pub eip: Option<String>,
    /// Name of the VM, in the binding's namespace.
    pub vmi: Option<String>,
    /// The VM's EIP for what it starts itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
    /// Lane; the node's setting without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
}

impl EipBinding {
    /// The object as a fact.
    ///
    /// # Errors
    /// What is missing or wrong, and what would be right.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<BindingFact, ObjectError> {
        let name = self.metadata.object_name()?;
        Ok(BindingFact {
            created: self.metadata.created()?,
            vm: self.spec.vm(&name.namespace)?,
            eip: self.spec.eip()?,
            generation: self.metadata.generation.unwrap_or(0),
            primary: self.spec.primary.unwrap_or(false),
            delivery: self.spec.delivery()?,
            name,
            origin,
        })
    }
}

impl EipBindingSpec {
    fn eip(&self) -> Result<IpAddr, ObjectError> {
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

    fn vm(&self, namespace: &str) -> Result<ObjectName, ObjectError> {
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

    fn delivery(&self) -> Result<Option<DeliveryChoice>, ObjectError> {
        let Some(text) = &self.delivery else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, de::value::Error> = text.as_str().into_deserializer();
        DeliveryChoice::deserialize(name).map(Some).map_err(|_| {
            ObjectError::invalid(
                "spec.delivery",
                text,
                "one of auto, peer, neigh, stack, xdp",
            )
        })
    }
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

/// A `VirtualMachineInstance`: a few of its several hundred fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct VirtualMachineInstance {
    /// Who it is.
    pub metadata: Metadata,
    /// Which networks it has.
    pub spec: VmSpec,
    /// What became of it.
    pub status: VmStatus,
}

/// `spec` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct VmSpec {
    /// Its networks.
    pub networks: Vec<VmNetwork>,
}

/// One of `spec.networks[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct VmNetwork {
    /// Name interfaces refer to.
    pub name: String,
    /// Present, be it empty, on the pod network.
    #[serde(deserialize_with = "is_present")]
    pub pod: bool,
    /// Present on a secondary network, or on one that takes the pod network's place.
    pub multus: Option<Multus>,
}

/// `multus` of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Multus {
    /// The network replaces the pod network.
    #[serde(rename = "default")]
    pub is_default: bool,
}

/// `status` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmStatus {
    /// Phase.
    pub phase: Option<String>,
    /// Node it runs on.
    pub node_name: Option<String>,
    /// What is known of its interfaces.
    pub interfaces: Vec<VmInterfaceStatus>,
}

/// One of `status.interfaces[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmInterfaceStatus {
    /// Name of the network; empty for what only the guest knows.
    pub name: Option<String>,
    /// The main address.
    pub ip_address: Option<String>,
    /// All addresses.
    pub ip_addresses: Option<Vec<String>>,
    /// Where the entry comes from: `domain`, `guest-agent`, `multus-status`.
    pub info_source: Option<String>,
}

/// `pod: {}` and `pod: null` mean the same to KubeVirt's authors when they write it by hand.
fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl VirtualMachineInstance {
    /// The object as a fact.
    ///
    /// # Errors
    /// What is missing or wrong, and what would be right.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<VmFact, ObjectError> {
        Ok(VmFact {
            name: self.metadata.object_name()?,
            created: self.metadata.created()?,
            phase: self.status.phase(),
            interfaces: self.interfaces()?,
            node: self.status.node_name.filter(|node| !node.is_empty()),
            uid: self.metadata.uid,
            origin,
        })
    }

    /// The pod network's name: the EIP is for the address there, wherever it stands in the list.
    fn pod_network(&self) -> Option<&str> {
        let replaces_pod = |network: &&VmNetwork| {
            network.pod
                || network
                    .multus
                    .as_ref()
                    .is_some_and(|multus| multus.is_default)
        };
        self.spec
            .networks
            .iter()
            .find(replaces_pod)
            .map(|network| network.name.as_str())
    }

    /// The pod network first, also when the status has no address of it yet. Interfaces without a
    /// network name are the guest's own business; one stands in for the pod network only where the
    /// object names no networks and no interface has a name (objects written by hand).
    fn interfaces(&self) -> Result<Vec<VmInterface>, ObjectError> {
        let mut all = Vec::new();
        for (position, status) in self.status.interfaces.iter().enumerate() {
            all.push((status.is_of_guest(), status.to_interface(position)?));
        }
        let has_names = all.iter().any(|(_, interface)| !interface.name.is_empty());
        let mut interfaces: Vec<VmInterface> = all
            .into_iter()
            .filter(|(is_of_guest, interface)| {
                !interface.name.is_empty() || !(has_names || *is_of_guest)
            })
            .map(|(_, interface)| interface)
            .collect();
        if let Some(pod) = self.pod_network() {
            let is_pod = |interface: &VmInterface| interface.name == pod || !has_names;
            match interfaces.iter().position(is_pod) {
                Some(index) => {
                    let first = interfaces.remove(index);
                    interfaces.insert(0, first);
                }
                None => interfaces.insert(
                    0,
                    VmInterface {
                        name: pod.to_owned(),
                        addresses: Vec::new(),
                    },
                ),
            }
        }
        Ok(interfaces)
    }
}

impl VmStatus {
    fn phase(&self) -> VmPhase {
        match self.phase.as_deref().unwrap_or_default() {
            "" | "Pending" | "Scheduling" | "Scheduled" | "WaitingForSync" => VmPhase::Pending,
            "Running" => VmPhase::Running,
            "Succeeded" | "Failed" => VmPhase::Final,
            _ => VmPhase::Unknown,
        }
    }
}

impl VmInterfaceStatus {
    fn is_of_guest(&self) -> bool {
        self.info_source.as_deref() == Some("guest-agent")
    }

    fn to_interface(&self, position: usize) -> Result<VmInterface, ObjectError> {
        let field = format!("status.interfaces[{position}].ipAddress");
        let listed = self.ip_addresses.iter().flatten();
        let mut addresses = Vec::new();
        for text in self
            .ip_address
            .iter()
            .chain(listed)
            .filter(|text| !text.is_empty())
        {
            // Older releases report what the guest agent says with its prefix length.
            let bare = text.split('/').next().unwrap_or(text);
            let address: IpAddr = bare
                .parse()
                .map_err(|_| ObjectError::invalid(field.clone(), text, "an IP address"))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(VmInterface {
            name: self.name.clone().unwrap_or_default(),
            addresses,
        })
    }
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
