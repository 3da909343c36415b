//! A `Pod`, as far as it says which addresses are whose.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Metadata, ObjectError};
use crate::model::{Origin, POD, VmFact, VmInterface, VmPhase};

/// Kind of a pod.
pub const POD_KIND: &str = "Pod";
/// Its API version.
pub const POD_API: &str = "v1";

/// A plain pod, in a document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Who it is.
    pub metadata: Metadata,
    /// Where it runs.
    pub spec: PodSpec,
    /// What became of it.
    pub status: PodStatus,
}

impl Pod {
    /// The object as a fact: what has an address on a node.
    ///
    /// # Errors
    /// What is missing or wrong, and what would be right.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<VmFact, ObjectError> {
        let mut name = self.metadata.object_name()?;
        name.name.insert_str(0, POD);
        if self.spec.host_network {
            let expected = "false: such a pod has no address of its own";
            return Err(ObjectError::invalid("spec.hostNetwork", "true", expected));
        }
        Ok(VmFact {
            name,
            created: self.metadata.created()?,
            arrived: None,
            phase: self.status.phase(),
            interfaces: vec![VmInterface {
                name: String::new(),
                addresses: self.status.addresses()?,
            }],
            node: self.spec.node_name.filter(|node| !node.is_empty()),
            uid: self.metadata.uid,
            origin,
        })
    }
}

impl PodStatus {
    /// What `phase` means here.
    #[must_use]
    pub fn phase(&self) -> VmPhase {
        match self.phase.as_deref().unwrap_or_default() {
            "" | "Pending" => VmPhase::Pending,
            "Running" => VmPhase::Running,
            "Succeeded" | "Failed" => VmPhase::Final,
            _ => VmPhase::Unknown,
        }
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, ObjectError> {
        let mut addresses = Vec::new();
        let listed = self.pod_ips.iter().map(|address| &address.ip);
        for text in self.pod_ip.iter().chain(listed) {
            let address = text.parse().map_err(|_| {
                ObjectError::invalid("status.podIP", text, "an IP address like 10.244.1.10")
            })?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

/// `spec` of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it runs.
    pub node_name: Option<String>,
    /// It has the node's addresses and none of its own.
    pub host_network: bool,
}

/// `status` of a pod; only the kubelet writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: Option<String>,
    /// The main address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// One address per family.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodAddress>,
}

/// One of `status.podIPs[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct PodAddress {
    /// The address.
    pub ip: String,
}
