//! What is told to the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::ObjectName;

/// How routers and hosts learn that an EIP lives on this node.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// Host routes to BGP peers.
    #[default]
    Bgp,
    /// ARP and neighbour discovery on the uplinks.
    L2,
    /// Both.
    Both,
    /// Neither: static routes of the operator lead here.
    None,
}

impl Announce {
    /// Name in objects and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bgp => "bgp",
            Self::L2 => "l2",
            Self::Both => "both",
            Self::None => "none",
        }
    }

    /// BGP peers are told.
    #[must_use]
    pub const fn includes_bgp(self) -> bool {
        matches!(self, Self::Bgp | Self::Both)
    }

    /// The network segments of the uplinks are told.
    #[must_use]
    pub const fn includes_l2(self) -> bool {
        matches!(self, Self::L2 | Self::Both)
    }
}

/// How one elastic IP shall be told to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// The binding it is for.
    pub binding: ObjectName,
    /// By which means.
    pub by: Announce,
    /// When the VM came here from another node, which may still announce it too: for a while this
    /// node is to be preferred.
    pub arrived: Option<SystemTime>,
}

/// The whole set an announcer gets to see.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcements {
    /// What shall be announced by some means.
    pub wanted: BTreeMap<IpAddr, Announcement>,
    /// What is in the kernel, wanted or not. The first set shows what an earlier process may have
    /// announced.
    pub programmed: BTreeSet<IpAddr>,
    /// Nothing is missing from `wanted`. Until then nothing may be withdrawn for not being there.
    pub is_complete: bool,
}
