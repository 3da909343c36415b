//! The kernel side as the reconciler sees it: read the node, read back what is ours, change it.

use std::{collections::BTreeSet, net::IpAddr};

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

    /// Makes one change.
    fn apply(
        &mut self,
        action: &Action,
    ) -> impl Future<Output = Result<(), DataPlaneError>> + Send;
}
