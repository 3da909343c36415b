//! Attaches programs, replaces them without a gap, takes them off.
//!
//! A link is pinned as `<ifindex>-<hook>`: an interface may be renamed, and its index is not given
//! away again while it exists. A later process opens the pin and updates the link in place, so no
//! packet meets a hook without a program. A link whose interface is gone is dead for good (the kernel
//! says so on update) and its pin makes room for a new one.
//!
//! Order among other programs at the same hook, tcx and clsact alike: seen from the VM, ours stand
//! outside. `eip_door_in` runs first on egress and `eip_door_out` last on ingress, so a CNI's program
//! between them and the VM sees the VM's own address both ways, and its policy and connection
//! tracking hold. The uplink program runs first: what is not for an EIP goes on to the next program.

mod pin;
mod tc;
mod xdp;

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use eip_common::reason::Hook;
pub(super) use pin::{link_facts, link_path, unpin};
pub(super) use tc::{TcPlace, remove_filters, tc_place, tcx_programs};
pub(super) use xdp::WithoutXdp;

use super::{
    bpf::{Programs, program_name},
    netlink::{NetlinkError, RouteClient, links::Interface},
};
use crate::model::{TcMode, XdpMode};

/// A program could not be attached, replaced or taken off. Fate: retried with backoff; the interface
/// counts as not ready.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused.
    #[error("attach {program} to {interface}")]
    Kernel {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The cause.
        #[source]
        source: ProgramError,
    },
    /// The interface went away.
    #[error("attach to interface {ifindex}: it does not exist (any more)")]
    NoInterface {
        /// Its index.
        ifindex: u32,
    },
    /// The link cannot be pinned; it was taken off again.
    #[error("pin the link of {program} on {interface} at {path}")]
    Pin {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: PinError,
    },
    /// A pin of ours cannot be opened as a link.
    #[error("open pinned link {path}: remove it, or run `eip-daemon cleanup`")]
    BrokenPin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: LinkError,
    },
    /// A pin of ours cannot be removed.
    #[error("remove pin {path}")]
    Unpin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The interface has an XDP program that is not ours. It is left alone.
    #[error(
        "{interface} runs XDP program {id} of somebody else: detach it, or use --xdp-mode auto or off"
    )]
    ForeignXdp {
        /// Name of the interface.
        interface: String,
        /// Id of that program.
        id: u32,
    },
    /// Somebody else's filter stands at our priority and handle. It is left alone.
    #[error("{interface} has a foreign filter at priority {priority}, handle {handle:#x}: move it")]
    ForeignFilter {
        /// Name of the interface.
        interface: String,
        /// Priority.
        priority: u16,
        /// Handle.
        handle: u32,
    },
    /// The qdisc or the filters cannot be seen to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Everything an attachment needs.
pub(super) struct Attacher<'a> {
    pub(super) programs: &'a mut Programs,
    pub(super) client: &'a RouteClient,
    pub(super) directory: &'a Path,
    pub(super) tc_mode: TcMode,
    pub(super) xdp_mode: XdpMode,
}

/// Takes the program of a hook off an interface that may be gone already. True if there was one.
pub(super) async fn detach(
    client: &RouteClient,
    directory: &Path,
    ifindex: u32,
    hook: Hook,
) -> Result<bool, AttachError> {
    let path = link_path(directory, ifindex, hook);
    let was_pinned = path.exists();
    unpin(&path)?;
    let Some(place) = tc_place(hook) else {
        return Ok(was_pinned);
    };
    Ok(remove_filters(client, ifindex, hook, place).await? || was_pinned)
}

fn refused(hook: Hook, interface: &Interface, source: ProgramError) -> AttachError {
    let interface = interface.link.name.clone();
    AttachError::Kernel {
        program: program_name(hook),
        interface,
        source,
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
