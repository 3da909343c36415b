//! Announcing by BGP, as it goes over the control socket.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/bgp`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpStatus {
    /// The node's AS; peers can have another one each.
    pub local_as: Option<u32>,
    /// BGP identifier.
    pub router_id: Option<IpAddr>,
    /// Sockets for connections of peers.
    pub listeners: Vec<BgpListener>,
    /// Set while the node is drained.
    pub drain: Option<BgpDrain>,
    /// Why BGP does not run although there are peers.
    pub problem: Option<String>,
    /// Peers in force, by name.
    pub peers: Vec<BgpPeer>,
    /// Peers that are not in force, or not as they are written.
    pub refused: Vec<BgpRefusal>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpListener {
    /// Where.
    pub address: String,
    /// Why it does not work.
    pub error: Option<String>,
}

/// The node is being left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpDrain {
    /// Since when, in RFC 3339.
    pub since: String,
    /// Until then routes are marked `GRACEFUL_SHUTDOWN`; after that they are withdrawn. RFC 3339.
    pub withdraw_at: String,
    /// They are withdrawn, and every peer with a session has been told.
    pub withdrawn: bool,
}

/// A peer that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRefusal {
    /// Its name.
    pub peer: String,
    /// Where it was read.
    pub origin: Option<String>,
    /// What is wrong, with the field.
    pub problem: String,
}

/// A peer in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The AS asked of it: a number, `external` or `internal`.
    pub peer_as: String,
    /// Our AS toward it.
    pub local_as: Option<u32>,
    /// State of the session as RFC 4271 §8.2.2 names it: `Idle`, ..., `Established`.
    pub state: String,
    /// Since when, in RFC 3339.
    pub since: String,
    /// How long ago that is.
    pub since_seconds: u64,
    /// Its AS, once agreed.
    pub agreed_as: Option<u32>,
    /// Its BGP identifier, once agreed.
    pub router_id: Option<IpAddr>,
    /// Hold time, once agreed; 0 for none.
    pub hold_time_seconds: Option<u64>,
    /// Why the last attempt to connect failed.
    pub transport_error: Option<String>,
    /// Why the session went down the last time it was up.
    #[serde(default)]
    pub last_loss: Option<String>,
    /// The last NOTIFICATION we sent.
    pub last_sent: Option<BgpError>,
    /// The last NOTIFICATION it sent.
    pub last_received: Option<BgpError>,
    /// IPv4 routes, while there is a session.
    pub ipv4: Option<BgpFamily>,
    /// IPv6 routes, while there is a session.
    pub ipv6: Option<BgpFamily>,
    /// Detection of a dead path, where it is asked for.
    pub bfd: Option<BgpBfd>,
    /// Messages and changes by kind.
    pub counters: BTreeMap<String, u64>,
    /// Where it was read; absent for annotations of the node.
    pub origin: Option<String>,
}

/// A BFD session (RFC 5880).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpBfd {
    /// State.
    pub state: String,
    /// The peer's state, as it last said.
    pub remote_state: String,
    /// Times the path was lost.
    pub lost: u64,
    /// Why no packets are sent or taken.
    pub error: Option<String>,
}

/// A NOTIFICATION (RFC 4271 §4.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpError {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What it means.
    pub reason: String,
    /// Text (RFC 9003), escaped, or data in hex.
    pub text: Option<String>,
}

/// Routes of one family toward one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFamily {
    /// Routes the peer has.
    pub advertised: usize,
    /// Routes it has still to be told about.
    pub pending: usize,
    /// Why the family is not spoken.
    pub silent: Option<String>,
}

/// Answer of `GET /v1/bgp/routes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoutes {
    /// Every elastic IP that is in the kernel, by address.
    pub routes: Vec<BgpRoute>,
}

/// An elastic IP toward every peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoute {
    /// The elastic IP.
    pub eip: IpAddr,
    /// Its binding.
    pub binding: String,
    /// By peer.
    pub peers: Vec<BgpRoutePeer>,
}

/// A route toward one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoutePeer {
    /// The peer.
    pub peer: String,
    /// The peer has it.
    pub advertised: bool,
    /// Why it has not, or how it has.
    pub remark: Option<String>,
}

/// Body of `POST /v1/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainBody {
    /// Routes are marked for so long before they are withdrawn; at most an hour.
    pub grace_seconds: u64,
}
