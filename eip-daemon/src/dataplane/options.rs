//! What the kernel side is told at start, and where it keeps what outlives the process.

use std::path::{Path, PathBuf};

use eip_common::abi;

use crate::model::{TcMode, XdpMode};

/// Settings of the kernel side. Fixed for the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlaneOptions {
    /// A mounted BPF file system; `eip/` below it is ours.
    pub bpffs: PathBuf,
    /// XDP attachment on uplinks.
    pub xdp_mode: XdpMode,
    /// tc attachment everywhere.
    pub tc_mode: TcMode,
    /// Entries of the binding, VM and traffic maps, when they are first made.
    pub max_bindings: u32,
    /// Entries of the flow maps, when they are first made.
    pub max_flows: u32,
    /// Names of the interfaces toward the routers.
    pub uplinks: Vec<String>,
    /// Our own routing table.
    pub route_table: u32,
}

impl Default for DataPlaneOptions {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from(DEFAULT_BPFFS),
            xdp_mode: XdpMode::Auto,
            tc_mode: TcMode::Auto,
            max_bindings: abi::DEFAULT_MAX_BINDINGS,
            max_flows: abi::DEFAULT_MAX_FLOWS,
            uplinks: Vec::new(),
            route_table: DEFAULT_ROUTE_TABLE,
        }
    }
}

/// Where systemd and every container runtime mount the BPF file system.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
/// Our routing table unless configured otherwise.
pub const DEFAULT_ROUTE_TABLE: u32 = 201;

/// The directory that is ours, below the mounted BPF file system.
#[must_use]
pub fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("eip")
}

/// Where the maps are pinned.
#[must_use]
pub fn map_directory(bpffs: &Path) -> PathBuf {
    pin_directory(bpffs).join("maps")
}

/// Where the links of attached programs are pinned.
#[must_use]
pub fn link_directory(bpffs: &Path) -> PathBuf {
    pin_directory(bpffs).join("links")
}
