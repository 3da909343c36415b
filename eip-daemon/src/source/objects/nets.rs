//! Objects that say which networks are internal to the cluster.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Metadata, ObjectError};
use crate::model::{NetFact, NodeFact, Origin, Secret};

/// Kind of a node.
pub const NODE_KIND: &str = "Node";
/// Its API version.
pub const NODE_API: &str = "v1";
/// Kind of a range of service addresses.
pub const SERVICE_CIDR_KIND: &str = "ServiceCIDR";
/// Its API versions.
pub const SERVICE_CIDR_APIS: [&str; 2] = ["networking.k8s.io/v1", "networking.k8s.io/v1beta1"];

/// A `Node`: its pod networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec.
    pub spec: NodeSpec,
}

/// `spec` of a [`Node`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// The first pod network.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// All of them; empty before Kubernetes had more than one.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

impl Node {
    /// What it says beside its networks. Other annotations are nobody's business here.
    #[must_use]
    pub fn node_fact(&self) -> NodeFact {
        let annotations = self.metadata.annotations.iter();
        let ours = annotations.filter(|(key, _)| key.contains("/bgp-peers-"));
        NodeFact {
            name: self.metadata.name.clone().unwrap_or_default(),
            labels: self.metadata.labels.clone(),
            annotations: ours
                .map(|(key, value)| (key.clone(), Secret(value.clone())))
                .collect(),
        }
    }

    /// Its networks.
    ///
    /// # Errors
    /// A bad name, or a network that is none.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<NetFact, ObjectError> {
        let texts = if self.spec.pod_cidrs.is_empty() {
            self.spec.pod_cidr.into_iter().collect()
        } else {
            self.spec.pod_cidrs
        };
        Ok(NetFact {
            kind: NODE_KIND.to_owned(),
            name: self.metadata.object_name()?,
            nets: parsed("spec.podCIDRs", &texts)?,
            origin,
        })
    }
}

/// A `ServiceCIDR`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec.
    pub spec: ServiceCidrSpec,
}

/// `spec` of a [`ServiceCidr`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// One network per family.
    pub cidrs: Vec<String>,
}

impl ServiceCidr {
    /// What it says.
    ///
    /// # Errors
    /// A bad name, or a network that is none.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<NetFact, ObjectError> {
        Ok(NetFact {
            kind: SERVICE_CIDR_KIND.to_owned(),
            name: self.metadata.object_name()?,
            nets: parsed("spec.cidrs", &self.spec.cidrs)?,
            origin,
        })
    }
}

fn parsed(field: &str, texts: &[String]) -> Result<Vec<IpNet>, ObjectError> {
    let expected = "a network such as 10.96.0.0/12";
    texts
        .iter()
        .map(|text| {
            let net: IpNet = text
                .trim()
                .parse()
                .map_err(|_| ObjectError::invalid(field, text, expected))?;
            Ok(net.trunc())
        })
        .collect()
}
