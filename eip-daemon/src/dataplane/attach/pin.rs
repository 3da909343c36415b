//! Pinned links: what keeps a program attached when the process ends, and how it is found again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError,
    links::{FdLink, LinkError, PinnedLink},
};
use eip_common::reason::Hook;
use nix::libc::ENOLINK;

use super::{AttachError, refused};
use crate::dataplane::{bpf::program_name, maps::root_os_error, netlink::links::Interface};

/// What the kernel says about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataplane) struct LinkFacts {
    /// Number of the link.
    pub(in crate::dataplane) id: u32,
    /// Number of the program it runs.
    pub(in crate::dataplane) program_id: u32,
}

/// Where the link of a hook is pinned.
pub(in crate::dataplane) fn link_path(directory: &Path, ifindex: u32, hook: Hook) -> PathBuf {
    directory.join(format!("{ifindex}-{}", hook.name()))
}

/// Opens a pinned link; `None` when there is no such pin.
pub(super) fn open_pin(path: &Path) -> Result<Option<FdLink>, AttachError> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(source) => Err(AttachError::BrokenPin {
            path: path.to_owned(),
            source,
        }),
    }
}

/// What the kernel says about the link behind a pin; `None` when it cannot be opened.
pub(in crate::dataplane) fn link_facts(path: &Path) -> Option<LinkFacts> {
    let info = open_pin(path).ok().flatten()?.info().ok()?;
    Some(LinkFacts {
        id: info.id(),
        program_id: info.program_id(),
    })
}

/// Removes a pin and with it the attachment. Gone is as good. The link is opened first: closing the
/// last descriptor detaches at once, removing the last name does so some time later.
pub(in crate::dataplane) fn unpin(path: &Path) -> Result<(), AttachError> {
    let link = open_pin(path).ok().flatten();
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(AttachError::Unpin {
                path: path.to_owned(),
                source,
            });
        }
        _ => {}
    }
    drop(link);
    Ok(())
}

/// Keeps the link when the process ends. A link that cannot be pinned is taken off again: it would
/// end with this process, unnoticed.
pub(super) fn pin(
    link: FdLink,
    hook: Hook,
    interface: &Interface,
    path: &Path,
) -> Result<(), AttachError> {
    match link.pin(path) {
        Ok(_pinned) => Ok(()),
        Err(source) => Err(AttachError::Pin {
            program: program_name(hook),
            interface: interface.link.name.clone(),
            path: path.to_owned(),
            source,
        }),
    }
}

/// False for a link that is dead: its interface is gone, or somebody detached it.
pub(super) fn is_updated<L>(
    updated: Result<L, ProgramError>,
    hook: Hook,
    interface: &Interface,
) -> Result<bool, AttachError> {
    match updated {
        // The pin holds the link; this descriptor is not needed any more.
        Ok(_link) => Ok(true),
        Err(error) if root_os_error(&error) == Some(ENOLINK) => Ok(false),
        Err(source) => Err(refused(hook, interface, source)),
    }
}
