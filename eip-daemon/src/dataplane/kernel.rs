//! The data plane of a real kernel.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

use tokio::sync::Notify;

use super::{
    Counters, DataPlane, DataPlaneError,
    inspect::{Attachment, Inspector},
    options::DataPlaneOptions,
};
use crate::model::{Action, NetworkView, Observed};

/// Why the kernel side cannot start. Fate of each: the process stops and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No BPF file system there.
    #[error("no BPF file system at {path}: mount one with `mount -t bpf bpf {path}`")]
    BpffsNotMounted {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Programs, maps, links, routes and rules of one node.
#[derive(Debug)]
pub struct KernelDataPlane {
    events: Arc<Notify>,
}

impl KernelDataPlane {
    /// Loads the programs, takes over the maps an earlier process left, or makes them. Attaches
    /// nothing. Has to be called inside a tokio runtime.
    pub fn open(options: DataPlaneOptions) -> Result<Self, OpenError> {
        Err(OpenError::BpffsNotMounted {
            path: options.bpffs,
        })
    }

    /// Wakes the reconciler when the node's network changes. Coalesced.
    #[must_use]
    pub fn events(&self) -> Arc<Notify> {
        Arc::clone(&self.events)
    }

    /// The kernel's counters.
    #[must_use]
    pub fn counters(&self) -> Arc<dyn Counters> {
        unimplemented!("follows with the maps")
    }

    /// Read access to attachments and maps that outlives the move of `self` into the reconciler.
    #[must_use]
    pub fn inspector(&self) -> Arc<dyn Inspector> {
        unimplemented!("follows with the maps")
    }

    /// What was attached when the kernel was last read.
    #[must_use]
    pub fn attachments(&self) -> Vec<Attachment> {
        self.inspector().attachments()
    }
}

impl DataPlane for KernelDataPlane {
    async fn view(
        &mut self,
        _vm_addresses: &BTreeSet<IpAddr>,
    ) -> Result<NetworkView, DataPlaneError> {
        Ok(NetworkView::default())
    }

    async fn observe(&mut self) -> Result<Observed, DataPlaneError> {
        Ok(Observed::default())
    }

    async fn apply(&mut self, _action: &Action) -> Result<(), DataPlaneError> {
        Ok(())
    }
}
