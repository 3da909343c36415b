//! Who tells what about BGP sessions: each agent a small object of its own node (`EipNode`), the controller
//! the sum of them in `status` of each `BgpPeer`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, ConditionType, status::condition_of};

/// Kind of what an agent says about its node.
pub const EIP_NODE_KIND: &str = "EipNode";
/// Its API version.
pub const EIP_NODE_API: &str = super::BINDING_API;

/// `spec` of an `EipNode`: nothing is asked of a node.
#[derive(
    Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "virteip.github.com",
    version = "v1",
    kind = "EipNode",
    root = "EipNodeCrd",
    status = "EipNodeStatus",
    plural = "eipnodes",
    shortname = "eipn",
    doc = "What the agent of a node has made of its bindings and BGP peers. Written by that agent alone.",
    printcolumn = r#"{"name":"SESSIONS","type":"string","jsonPath":".status.sessions"}"#,
    printcolumn = r#"{"name":"PROGRAMMED","type":"integer","jsonPath":".status.programmed"}"#,
    printcolumn = r#"{"name":"PENDING","type":"integer","jsonPath":".status.pending"}"#,
    printcolumn = r#"{"name":"DRAINED","type":"boolean","jsonPath":".status.drained"}"#,
    printcolumn = r#"{"name":"VERSION","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"REPORTED","type":"date","jsonPath":".status.reportedAt"}"#
)]
#[serde(default)]
pub struct EipNodeSpec {}

/// `status` of an `EipNode`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EipNodeStatus {
    /// Version of the agent.
    pub version: String,
    /// When the agent last wrote this. It does so every few minutes though nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub reported_at: Option<String>,
    /// Interfaces toward the routers.
    pub uplinks: Vec<String>,
    /// Bindings that the node's kernel has.
    pub programmed: i64,
    /// Bindings of this node that its kernel does not have.
    pub pending: i64,
    /// Routes are being withdrawn, or are: `eipctl drain`.
    pub drained: bool,
    /// Peers with a session that is up, of all: `3/4`.
    pub sessions: String,
    /// BGP sessions, and peers without one.
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]
    ))]
    pub peers: Vec<NodePeer>,
    /// How many more there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_peers: Option<i64>,
}

/// A BGP session of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePeer {
    /// Its name: the peer's, with the address behind it where a peer is a range.
    pub name: String,
    /// The `BgpPeer`.
    pub peer: String,
    /// `Established`, `Down`, `Waiting` for a router that nobody has met, or `Refused`.
    pub state: String,
    /// Since when it is in that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Address of the router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// AS of the router, once it has named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_as: Option<i64>,
    /// IPv4 routes the router has from this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_routes: Option<i64>,
    /// IPv6 routes the router has from this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_routes: Option<i64>,
    /// `Up` or `Down`, where BFD is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// Why the session is not up, or the peer is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub problem: Option<String>,
    /// The last NOTIFICATION sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<String>,
    /// The last NOTIFICATION received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received: Option<String>,
}

/// State of a session that is up.
pub const ESTABLISHED: &str = "Established";
/// State of one that is not.
pub const DOWN: &str = "Down";
/// State of a peer nobody has met.
pub const WAITING: &str = "Waiting";
/// State of a peer that the node does not take as it is written.
pub const REFUSED: &str = "Refused";

/// `status` of a `BgpPeer`: the sum of what the nodes say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpPeerStatus {
    /// The generation of the spec that `Accepted` is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes whose agent has this peer.
    pub selected: i64,
    /// Nodes with a session that is up.
    pub established: i64,
    /// The two as people read them: `3/4`.
    pub sessions: String,
    /// Nodes without a session that is up, and why: the first of them by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["node"]
    ))]
    pub not_established: Vec<PeerNode>,
    /// How many more there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_nodes: Option<i64>,
    /// `Accepted`: the spec can be used. `Established`: every node that shall has a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Option<Vec<Condition>>,
}

impl BgpPeerStatus {
    /// The condition of a type, when it was written.
    #[must_use]
    pub fn condition(&self, of: &ConditionType) -> Option<&Condition> {
        condition_of(self.conditions.as_deref(), of)
    }
}

/// A node without a session that is up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerNode {
    /// The node.
    pub node: String,
    /// Why not.
    #[schemars(length(max = 1024))]
    pub problem: String,
}
