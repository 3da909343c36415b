//! A `VirtualMachineInstance`, as KubeVirt writes it.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{Metadata, ObjectError};
use crate::model::{Origin, VmFact, VmInterface, VmPhase};

/// Kind of a running VM.
pub const VM_KIND: &str = "VirtualMachineInstance";
/// Its API versions, the current one first.
pub const VM_APIS: [&str; 2] = ["kubevirt.io/v1", "kubevirt.io/v1alpha3"];

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
    /// Its `NetworkAttachmentDefinition`: `NAME` in the VM's namespace, or `NAMESPACE/NAME`.
    #[serde(rename = "networkName")]
    pub network_name: String,
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
    /// The live migration under way, or the last one.
    pub migration_state: Option<MigrationState>,
}

/// `status.migrationState` of a VM. It stays when the migration is over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationState {
    /// Where it goes.
    pub target_node: Option<String>,
    /// The pod it goes to.
    pub target_pod: Option<String>,
    /// When the guest began to run there, in RFC 3339: the earliest safe sign.
    pub target_node_domain_ready_timestamp: Option<String>,
    /// When it was over, in RFC 3339.
    pub end_timestamp: Option<String>,
    /// It is over, well or not.
    pub completed: bool,
    /// It did not work: the VM stays where it was.
    pub failed: bool,
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
    /// The pod's interface it is connected to.
    pub pod_interface_name: Option<String>,
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
            arrived: self.status.arrived(),
            interfaces: interfaces(&self.spec, &self.status)?,
            node: self.status.node_name.filter(|node| !node.is_empty()),
            uid: self.metadata.uid,
            origin,
        })
    }
}

impl VmStatus {
    /// When the last live migration brought it to where it is, in seconds since the epoch. A time that
    /// cannot be read is none: it only decides what is preferred for a while.
    fn arrived(&self) -> Option<i64> {
        let migration = self.migration_state.as_ref().filter(|one| !one.failed)?;
        migration
            .target_node
            .as_ref()
            .filter(|target| Some(*target) == self.node_name.as_ref())?;
        let ready = migration.target_node_domain_ready_timestamp.as_ref();
        let time = ready.or(migration.end_timestamp.as_ref())?;
        let time: jiff::Timestamp = time.parse().ok()?;
        Some(time.as_second())
    }
}

impl VmNetwork {
    /// The pod has its own addresses there.
    #[must_use]
    pub fn is_pod_network(&self) -> bool {
        let multus = self.multus.as_ref();
        self.pod || multus.is_some_and(|multus| multus.is_default)
    }
}

/// The pod network's name: the EIP is for the address there, wherever it stands in the list.
fn pod_network(spec: &VmSpec) -> Option<&str> {
    let mut networks = spec.networks.iter();
    networks
        .find(|network| network.is_pod_network())
        .map(|network| network.name.as_str())
}

/// The pod network first, also when the status has no address of it yet. Interfaces without a
/// network name are the guest's own business; one stands in for the pod network only where the
/// object names no networks and no interface has a name (objects written by hand).
///
/// # Errors
/// An address that is none.
pub fn interfaces(spec: &VmSpec, status: &VmStatus) -> Result<Vec<VmInterface>, ObjectError> {
    let mut all = Vec::new();
    for (position, interface) in status.interfaces.iter().enumerate() {
        all.push((interface.is_of_guest(), interface.to_interface(position)?));
    }
    let has_names = all.iter().any(|(_, interface)| !interface.name.is_empty());
    let mut interfaces: Vec<VmInterface> = all
        .into_iter()
        .filter(|(is_of_guest, interface)| {
            !interface.name.is_empty() || !(has_names || *is_of_guest)
        })
        .map(|(_, interface)| interface)
        .collect();
    if let Some(pod) = pod_network(spec) {
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

impl VmStatus {
    /// What `phase` means here.
    #[must_use]
    pub fn phase(&self) -> VmPhase {
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
