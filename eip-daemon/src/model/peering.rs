//! Whom BGP routes are announced to, and what is said to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ObjectName, Origin};

/// Something nobody gets to see.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

/// What a `Node` object says beside its networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeFact {
    /// Its name.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Annotations with `/bgp-peers-` in their name: `PREFIX/bgp-peers-N-FIELD`.
    pub annotations: BTreeMap<String, Secret>,
}

/// What a `BgpPeer` object asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFact {
    /// The object; peers are cluster-wide, their namespace means nothing.
    pub name: ObjectName,
    /// `metadata.generation`.
    pub generation: u64,
    /// Labels a node must have to speak to this peer; none for every node.
    pub node_selector: BTreeMap<String, String>,
    /// The session.
    pub settings: PeerSettings,
    /// The routes.
    pub export: ExportSettings,
    /// Where it was read.
    pub origin: Option<Origin>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerPlace {
    /// This address.
    Address(IpAddr),
    /// Whoever dials from this prefix.
    Range(IpNet),
    /// The router on this interface, whatever its address ("unnumbered").
    Interface(String),
}

/// Which AS the peer is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerAsn {
    /// This one.
    Number(u32),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
}

/// How far away the peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerReach {
    /// On the link, or anywhere inside the AS.
    #[default]
    Direct,
    /// Up to this many hops.
    Multihop(u8),
    /// Within this many hops, checked (GTSM, RFC 5082).
    TtlSecurity(u8),
}

/// Where the password of a session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PasswordSource {
    /// In this file on the node; a line feed at its end is not part of it.
    File(PathBuf),
    /// In the object itself.
    Inline(Secret),
}

/// Bidirectional forwarding detection (RFC 5880).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdSettings {
    /// Shortest interval between packets to the peer.
    pub transmit: Duration,
    /// Shortest interval between packets of the peer.
    pub receive: Duration,
    /// Packets that may be missing in a row.
    pub multiplier: u8,
    /// The peer speaks first.
    pub passive: bool,
    /// Lowest TTL of a packet of the peer.
    pub minimum_ttl: u8,
    /// No BGP session without it.
    pub strict: bool,
}

/// A session as it is asked for; what is `None` has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerSettings {
    /// The peer.
    pub place: PeerPlace,
    /// Its AS.
    pub peer_as: PeerAsn,
    /// Our AS toward it; the node's without one.
    pub local_as: Option<u32>,
    /// Its port; 179 without one.
    pub port: Option<u16>,
    /// Interface the connection is bound to.
    pub interface: Option<String>,
    /// Our address.
    pub source: Option<IpAddr>,
    /// The peer dials.
    pub passive: bool,
    /// How far away it may be.
    pub reach: PeerReach,
    /// TCP MD5 (RFC 2385).
    pub password: Option<PasswordSource>,
    /// Hold time to propose.
    pub hold_time: Option<Duration>,
    /// Longest time the peer may take no byte.
    pub send_hold_time: Option<Duration>,
    /// Longest time to connect.
    pub connect_timeout: Option<Duration>,
    /// Address families.
    pub families: PeerFamilies,
    /// The peer keeps routes over a restart.
    pub graceful_restart: bool,
    /// Detection of a dead path.
    pub bfd: Option<BfdSettings>,
}

/// Address families of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFamilies {
    /// IPv4 unicast.
    pub ipv4: bool,
    /// IPv6 unicast.
    pub ipv6: bool,
}

impl Default for PeerFamilies {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
        }
    }
}

/// What is said about routes to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportSettings {
    /// Next hop of IPv4 routes; our address on the session without one.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes; our address on the session without one.
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// Attributes of all routes.
    pub attributes: RouteMarks,
    /// What is said otherwise about some routes. The first rule that matches a route decides.
    pub rules: Vec<ExportRule>,
    /// Prefixes announced while an EIP inside of them is.
    pub aggregates: BTreeSet<IpNet>,
    /// What is said on top for a while about EIPs whose VM has just come from another node.
    pub preferred: Option<Preference>,
}

/// What is said on top for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preference {
    /// For how long after the VM has come.
    pub duration: Duration,
    /// What.
    pub marks: RouteMarks,
}

/// Attributes; what is `None` is not said, or is as another level says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteMarks {
    /// Communities of all kinds.
    pub communities: BTreeSet<Community>,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`, inside the AS.
    pub local_pref: Option<u32>,
    /// How often our AS is prepended.
    pub prepend: Option<u8>,
}

/// A community of one of the three kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 4360.
    Extended([u8; 8]),
    /// RFC 8092.
    Large([u32; 3]),
}

/// Routes, and what is said about them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportRule {
    /// EIPs inside one of these; all without any.
    pub prefixes: Vec<IpNet>,
    /// Bindings of one of these namespaces; all without any.
    pub namespaces: BTreeSet<String>,
    /// Bindings of one of these names; all without any.
    pub bindings: BTreeSet<String>,
    /// Whether they are announced to this peer at all.
    pub announce: bool,
    /// Attributes that go before those of the peer; communities are added.
    pub attributes: RouteMarks,
}
