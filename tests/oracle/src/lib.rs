//! A differential oracle: Linux netfilter and the programs under test get the same packets.
//!
//! ```text
//!   router ──ru0─────up0── node with nft 1:1 dnat and snat ──┬── vm1 (routed)     Chain::netfilter
//!                                                            └── vm2 (bridge port)
//!   router ──ru0─────up0── node with the real daemon ────────┬── vm1 (routed)     Chain::ours
//!                                                            └── vm2 (bridge port)
//! ```
//!
//! Both chains have the same addresses, hardware addresses and number of hops. A frame is put on the wire
//! toward the node, or out of a VM's interface; what comes out at the other end, and what comes back,
//! is compared byte for byte. [`compare`] has the list of what may differ, each with its reason.
//!
//! Conntrack does not carry everything that a stateless 1:1 NAT has to: what it calls INVALID it does
//! not translate. Where it is silent, [`model`] says what has to arrive: written from the RFCs, with
//! arithmetic of its own. The model is compared with netfilter too wherever that carries, so it cannot
//! be wrong in the same way as the programs unnoticed. A third judge, etherparse, computes every
//! checksum anew.
//!
//! [`packet`] describes packets as values that proptest can make and shrink, [`chain`] moves frames. [`six`]
//! does for IPv6 what [`packet`], [`model`] and [`compare`] do for IPv4.
#![forbid(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::expect_used,
    reason = "test support panics at the line that is wrong"
)]

use eip_lab::plan::Family;

pub mod chain;
pub mod checksum;
pub mod compare;
pub mod conntrack;
pub mod model;
pub mod packet;
pub mod servers;
pub mod six;

/// Which way a frame goes through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the network to a VM.
    Inward,
    /// From a VM to the network.
    Outward,
}

impl Step {
    /// The packet's version decides.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.packet.first().map(|byte| byte >> 4) {
            Some(6) => Family::V6,
            _ => Family::V4,
        }
    }

    /// What stands in the link header.
    #[must_use]
    pub fn ethertype(&self) -> [u8; 2] {
        match self.family() {
            Family::V4 => [8, 0],
            Family::V6 => [0x86, 0xdd],
        }
    }
}

/// One frame on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it is put in.
    pub direction: Direction,
    /// Index of the VM in [`chain::GUESTS`].
    pub guest: usize,
    /// The IP packet, without a link header.
    pub packet: Vec<u8>,
}
