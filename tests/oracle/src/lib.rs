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
//! [`packet`] describes packets of both families as values that proptest can make and shrink, [`case`] what
//! is sent of them, [`chain`] moves frames, [`layout`] knows where things stand in bytes.
#![forbid(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::expect_used,
    reason = "test support panics at the line that is wrong"
)]

use eip_lab::plan::Family;

pub mod case;
pub mod chain;
pub mod checksum;
pub mod compare;
pub mod conntrack;
pub mod layout;
pub mod model;
pub mod packet;
pub mod servers;

/// One end of a packet's way through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The network, behind the router.
    Outside,
    /// A VM: its index in [`chain::GUESTS`], and which of its EIPs it is known by.
    Vm(usize, usize),
}

impl Place {
    /// A VM that is known by its primary EIP.
    pub const VMS: [Self; 2] = [Self::Vm(0, 0), Self::Vm(1, 0)];
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where a packet is put in.
    pub from: Place,
    /// Where it has to arrive.
    pub to: Place,
}

impl Path {
    /// From the network to a VM.
    pub const fn inward(vm: Place) -> Self {
        Self {
            from: Place::Outside,
            to: vm,
        }
    }

    /// From a VM to the network.
    pub const fn outward(vm: Place) -> Self {
        Self {
            from: vm,
            to: Place::Outside,
        }
    }

    /// Both ways between the network and every VM.
    pub fn everywhere() -> impl Iterator<Item = Self> {
        let vms = Place::VMS.into_iter();
        vms.flat_map(|vm| [Self::inward(vm), Self::outward(vm)])
    }

    /// That of the answer.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }
}

/// One frame on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it is put in, and where it has to arrive.
    pub path: Path,
    /// The IP packet, without a link header.
    pub packet: Vec<u8>,
    /// The VLAN tag before it: priority and number (802.1Q).
    pub tag: Option<u16>,
}

impl Step {
    /// Without a tag.
    #[must_use]
    pub const fn new(path: Path, packet: Vec<u8>) -> Self {
        Self {
            path,
            packet,
            tag: None,
        }
    }

    /// It is of a VLAN, and none of the nodes here is in one. Number zero is none, but a priority.
    #[must_use]
    pub fn is_of_a_vlan(&self) -> bool {
        self.tag.is_some_and(|tag| tag & 0xfff != 0)
    }

    /// The packet's version decides.
    #[must_use]
    pub fn family(&self) -> Family {
        layout::family(&self.packet).unwrap_or(Family::V4)
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
