//! The kernel side as the reconciler sees it: read the node, read back what is ours, change it.

mod adopt;
mod attach;
mod bpf;
pub mod cleanup;
mod discover;
pub mod examine;
pub mod features;
pub mod inspect;
mod kernel;
mod maps;
mod netlink;
mod options;
pub mod samples;
pub mod trace;
mod view;

use std::{collections::BTreeSet, net::IpAddr};

use eip_common::{
    abi::Traffic,
    reason::{Hook, Reason},
};

pub use attach::AttachError;
pub use bpf::{OpenError, try_programs};
pub use discover::discover;
pub use kernel::KernelDataPlane;
pub use maps::shape::PinProblem;
pub use netlink::NetlinkError;
pub use options::{
    DEFAULT_BPFFS, DEFAULT_ROUTE_TABLE, DataPlaneOptions, link_directory, map_directory,
    pin_directory,
};

use crate::model::{Action, NetworkView, Observed};

/// Why a look at the kernel or a change to it did not work.
///
/// Fate: every one of them is retried; the item stays dirty and the others go on.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// The map has no room.
    #[error("map {map} is full: raise --max-bindings")]
    MapFull {
        /// Name of the map.
        map: &'static str,
    },
    /// A map could not be read or written.
    #[error("access map {map}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The cause.
        #[source]
        source: aya::maps::MapError,
    },
    /// An EIP of one family was given to a VM address of the other. No such plan is ever made.
    #[error("bind {eip} to {vm}: not the same address family")]
    MixedFamilies {
        /// The EIP.
        eip: IpAddr,
        /// The VM.
        vm: IpAddr,
    },
    /// A program could not be attached, replaced or taken off.
    #[error(transparent)]
    Attach(Box<AttachError>),
    /// The kernel refused a look or a change over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl From<AttachError> for DataPlaneError {
    fn from(error: AttachError) -> Self {
        Self::Attach(Box::new(error))
    }
}

/// What the reconciler needs from the kernel. Tests of the reconciler use one in memory.
pub trait DataPlane: Send {
    /// Reads interfaces, addresses, neighbours, and the routes to `vm_addresses`. Neighbours among
    /// them that are not resolved are asked for, so that a later look finds them.
    fn view(
        &mut self,
        vm_addresses: &BTreeSet<IpAddr>,
    ) -> impl Future<Output = Result<NetworkView, DataPlaneError>> + Send;

    /// Reads back everything of ours.
    fn observe(&mut self) -> impl Future<Output = Result<Observed, DataPlaneError>> + Send;

    /// As [`DataPlane::observe`], but which programs run on an interface is read only where this process has
    /// changed that since the last look; elsewhere it counts as it was then. With a thousand ports that is
    /// most of a look, and nothing of it changes unless somebody interferes.
    fn observe_own_changes(
        &mut self,
    ) -> impl Future<Output = Result<Observed, DataPlaneError>> + Send {
        self.observe()
    }

    /// Makes one change.
    fn apply(&mut self, action: &Action)
    -> impl Future<Output = Result<(), DataPlaneError>> + Send;

    /// Now, in nanoseconds of `CLOCK_BOOTTIME`.
    fn boot_time(&self) -> u64;

    /// Lets the programs serve the binding with this slot until then; 0: for ever.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn renew(&mut self, slot: u32, until: u64) -> Result<(), DataPlaneError>;
}

/// A counter of one reason at one hook, summed over CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// Where.
    pub hook: Hook,
    /// Why.
    pub reason: Reason,
    /// How many packets.
    pub packets: u64,
}

/// A counter of one binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotReasonCount {
    /// The binding's slot, or [`eip_common::abi::BY_PORT`] and the ifindex of a sender's port. One that no
    /// binding holds any more may still be counted.
    pub slot: u32,
    /// Its counter.
    pub count: ReasonCount,
}

/// Read access to the kernel's counters, for `eipctl` and metrics.
pub trait Counters: Send + Sync {
    /// All reasons of the node that are not zero.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn reasons(&self) -> Result<Vec<ReasonCount>, DataPlaneError>;
    /// Traffic of one binding.
    ///
    /// # Errors
    /// When the map cannot be read, or has no such slot.
    fn traffic(&self, slot: u32) -> Result<Traffic, DataPlaneError>;
    /// Exceptional reasons of every binding, in one walk: cheaper than asking for each.
    ///
    /// # Errors
    /// The map cannot be read.
    fn all_binding_reasons(&self) -> Result<Vec<SlotReasonCount>, DataPlaneError>;
    /// Exceptional reasons of one binding.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn binding_reasons(&self, slot: u32) -> Result<Vec<ReasonCount>, DataPlaneError>;
    /// What was dropped because the sender behind a port pretended to be somebody else.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn port_reasons(&self, ifindex: u32) -> Result<Vec<ReasonCount>, DataPlaneError>;
}
