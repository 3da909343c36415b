//! What is attached and how full the maps are: for `eipctl status` and metrics.

use eip_common::reason::Hook;

use super::DataPlaneError;

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachMode {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the kernel's generic path.
    XdpGeneric,
    /// A tcx link (kernel 6.6 and later).
    Tcx,
    /// A direct-action filter of the clsact qdisc.
    Clsact,
}

impl AttachMode {
    /// Name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "native XDP",
            Self::XdpGeneric => "generic XDP",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One program on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Interface.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Which of our programs.
    pub hook: Hook,
    /// How.
    pub mode: AttachMode,
    /// The pinned link; `None` for clsact, which has none.
    pub link_id: Option<u32>,
    /// The program in use.
    pub program_id: u32,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFill {
    /// Name.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u32,
    /// Room.
    pub capacity: u32,
}

/// Read access to attachments and maps, apart from the reconciler that owns the data plane.
pub trait Inspector: Send + Sync {
    /// What was attached when the kernel was last read.
    fn attachments(&self) -> Vec<Attachment>;
    /// How full the hash maps are now.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn map_fill(&self) -> Result<Vec<MapFill>, DataPlaneError>;
    /// What runs otherwise than asked for, for people: a fallback, a size kept, a foreign program.
    fn notices(&self) -> Vec<String>;
}
