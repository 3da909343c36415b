//! A `Pod`, as far as it says which addresses are whose.

use serde::Deserialize;

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
