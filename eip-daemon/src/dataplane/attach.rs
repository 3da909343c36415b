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

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, LinkOrder, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
        xdp::{XdpLink, XdpMode as AyaXdpMode},
    },
};
use eip_common::reason::Hook;
use nix::libc::{EINVAL, ENODEV, ENOLINK, EOPNOTSUPP};

use super::{
    bpf::{Programs, program_name},
    maps::root_os_error,
    netlink::{
        NetlinkError, RouteClient,
        filters::{self, Filter, Side},
        links::{self, Interface},
    },
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

/// Handle of our filters.
const HANDLE: u32 = 0xe1b;
/// Before what asks for no priority (49152 and down from there) and after nearly nothing.
const FIRST: u16 = 7;
/// After what asks for no priority.
const LAST: u16 = 60_007;

/// Where a tc program goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TcPlace {
    /// For aya.
    pub(super) attach_type: TcAttachType,
    /// For netlink.
    pub(super) side: Side,
    priority: u16,
}

/// Where the program of a tc hook goes; `None` for XDP.
pub(super) const fn tc_place(hook: Hook) -> Option<TcPlace> {
    let (attach_type, side, priority) = match hook {
        Hook::UplinkXdp => return None,
        Hook::UplinkTc => (TcAttachType::Ingress, Side::Ingress, FIRST),
        Hook::DoorIn => (TcAttachType::Egress, Side::Egress, FIRST),
        Hook::DoorOut => (TcAttachType::Ingress, Side::Ingress, LAST),
    };
    Some(TcPlace {
        attach_type,
        side,
        priority,
    })
}

const fn order(place: TcPlace) -> LinkOrder {
    if place.priority == FIRST {
        LinkOrder::first()
    } else {
        LinkOrder::last()
    }
}

/// Where the link of a hook is pinned.
pub(super) fn link_path(directory: &Path, ifindex: u32, hook: Hook) -> PathBuf {
    directory.join(format!("{ifindex}-{}", hook.name()))
}

/// How an uplink came out without XDP although it was not switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithoutXdp {
    /// Somebody else's program is there.
    Foreign,
    /// The driver and the generic path both refused.
    Unsupported,
}

/// Everything an attachment needs.
pub(super) struct Attacher<'a> {
    pub(super) programs: &'a mut Programs,
    pub(super) client: &'a RouteClient,
    pub(super) directory: &'a Path,
    pub(super) tc_mode: TcMode,
    pub(super) xdp_mode: XdpMode,
}

impl Attacher<'_> {
    /// Attaches, or replaces, the program of a tc hook; afterwards it runs exactly once.
    pub(super) async fn attach_tc(
        &mut self,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), AttachError> {
        let Some(place) = tc_place(hook) else {
            return Ok(());
        };
        if self.tc_mode != TcMode::Clsact {
            match self.attach_tcx(interface, hook, place) {
                Ok(()) => return self.remove_filters(interface, hook, place).await,
                Err(error) if self.tc_mode == TcMode::Auto && is_unsupported(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.attach_clsact(interface, hook, place).await?;
        unpin(&link_path(self.directory, interface.link.ifindex, hook))
    }

    /// Attaches, or replaces, the XDP program as the mode wants it. `Some` says why there is none.
    pub(super) async fn attach_xdp(
        &mut self,
        interface: &Interface,
    ) -> Result<Option<WithoutXdp>, AttachError> {
        let path = link_path(self.directory, interface.link.ifindex, Hook::UplinkXdp);
        if self.xdp_mode == XdpMode::Off {
            unpin(&path)?;
            return Ok(None);
        }
        if self.is_wrong_mode(interface) {
            unpin(&path)?;
        }
        if self.adopt_xdp(interface, &path).await? {
            return Ok(None);
        }
        let now = links::find(self.client, interface.link.ifindex).await?;
        if let Some(foreign) = now.and_then(|interface| interface.xdp) {
            if self.xdp_mode == XdpMode::Auto {
                return Ok(Some(WithoutXdp::Foreign));
            }
            let interface = interface.link.name.clone();
            return Err(AttachError::ForeignXdp {
                interface,
                id: foreign.id,
            });
        }
        self.attach_new_xdp(interface, &path)
    }

    /// The pinned link runs in a mode that is not the one asked for.
    fn is_wrong_mode(&self, interface: &Interface) -> bool {
        interface.xdp.is_some_and(|program| match self.xdp_mode {
            XdpMode::Native => !program.is_native,
            XdpMode::Generic => program.is_native,
            XdpMode::Auto | XdpMode::Off => false,
        })
    }

    fn attach_new_xdp(
        &mut self,
        interface: &Interface,
        path: &Path,
    ) -> Result<Option<WithoutXdp>, AttachError> {
        let modes: &[AyaXdpMode] = match self.xdp_mode {
            XdpMode::Auto => &[AyaXdpMode::Driver, AyaXdpMode::Skb],
            XdpMode::Native => &[AyaXdpMode::Driver],
            XdpMode::Generic => &[AyaXdpMode::Skb],
            XdpMode::Off => &[],
        };
        let mut refusal = None;
        for mode in modes {
            match self.try_xdp(interface, *mode) {
                Ok(link) => {
                    return pin(link, Hook::UplinkXdp, interface, path).map(|()| None);
                }
                Err(error) => {
                    let interface = &interface.link.name;
                    tracing::debug!(%interface, ?mode, error = %chain(&error), "no XDP in this mode");
                    refusal = Some(error);
                }
            }
        }
        match refusal {
            Some(error) if self.xdp_mode != XdpMode::Auto => Err(error),
            Some(_) => Ok(Some(WithoutXdp::Unsupported)),
            None => Ok(None),
        }
    }

    fn try_xdp(&mut self, interface: &Interface, mode: AyaXdpMode) -> Result<FdLink, AttachError> {
        let attached = self.programs.xdp().and_then(|program| {
            let id = program.attach_to_if_index(interface.link.ifindex, mode)?;
            // On EINVAL aya tries netlink, which knows no links. A kernel that has them (5.9) refuses
            // there for the same reason, so this conversion does not fail.
            FdLink::try_from(program.take_link(id)?).map_err(|_no_link| ProgramError::NotAttached)
        });
        attached.map_err(|source| refused(Hook::UplinkXdp, interface, source))
    }

    async fn adopt_xdp(&mut self, interface: &Interface, path: &Path) -> Result<bool, AttachError> {
        let Some(link) = open_pin(path)? else {
            return Ok(false);
        };
        let Ok(link) = XdpLink::try_from(link) else {
            return unpin(path).map(|()| false);
        };
        let updated = self.programs.xdp().and_then(|program| {
            let id = program.attach_to_link(link)?;
            program.take_link(id)
        });
        if !is_updated(updated, Hook::UplinkXdp, interface)? {
            return unpin(path).map(|()| false);
        }
        let now = links::find(self.client, interface.link.ifindex).await?;
        let running = now
            .and_then(|interface| interface.xdp)
            .map(|program| program.id);
        if running == Some(self.programs.id(Hook::UplinkXdp)) {
            return Ok(true);
        }
        unpin(path).map(|()| false)
    }

    fn attach_tcx(
        &mut self,
        interface: &Interface,
        hook: Hook,
        place: TcPlace,
    ) -> Result<(), AttachError> {
        let path = link_path(self.directory, interface.link.ifindex, hook);
        if self.adopt_tcx(interface, hook, place, &path)? {
            return Ok(());
        }
        let name = &interface.link.name;
        let attached = self.programs.classifier(hook).and_then(|program| {
            let options = TcAttachOptions::TcxOrder(order(place));
            let id = program.attach_with_options(name, place.attach_type, options)?;
            let link = program.take_link(id)?;
            FdLink::try_from(link).map_err(|_no_link| ProgramError::NotAttached)
        });
        let link = attached.map_err(|source| refused(hook, interface, source))?;
        pin(link, hook, interface, &path)
    }

    /// Updates the link an earlier process pinned. False when there is none that lives.
    fn adopt_tcx(
        &mut self,
        interface: &Interface,
        hook: Hook,
        place: TcPlace,
        path: &Path,
    ) -> Result<bool, AttachError> {
        let Some(link) = open_pin(path)? else {
            return Ok(false);
        };
        let Ok(link) = SchedClassifierLink::try_from(link) else {
            return unpin(path).map(|()| false);
        };
        let updated = self.programs.classifier(hook).and_then(|program| {
            let id = program.attach_to_link(link)?;
            program.take_link(id)
        });
        if !is_updated(updated, hook, interface)? {
            return unpin(path).map(|()| false);
        }
        let running = tcx_programs(&interface.link.name, place.attach_type)
            .map_err(|source| refused(hook, interface, source))?;
        if running
            .iter()
            .any(|program| program.id == self.programs.id(hook))
        {
            return Ok(true);
        }
        // The link lives on another interface.
        unpin(path).map(|()| false)
    }

    async fn attach_clsact(
        &mut self,
        interface: &Interface,
        hook: Hook,
        place: TcPlace,
    ) -> Result<(), AttachError> {
        let ifindex = interface.link.ifindex;
        filters::ensure_qdisc(self.client, ifindex).await?;
        let present = filters::list(self.client, ifindex, place.side).await?;
        let ours = present.into_iter().find(|filter| is_at(filter, place));
        if ours.as_ref().is_some_and(|filter| !filter.is_ours()) {
            let interface = interface.link.name.clone();
            let TcPlace { priority, .. } = place;
            return Err(AttachError::ForeignFilter {
                interface,
                priority,
                handle: HANDLE,
            });
        }
        let name = &interface.link.name;
        let attached = self
            .programs
            .classifier(hook)
            .and_then(|program| match ours {
                Some(_) => replace_filter(program, name, place),
                None => add_filter(program, name, place),
            });
        // A filter stays until it is deleted; dropping this would delete it.
        mem::forget(attached.map_err(|source| refused(hook, interface, source))?);
        Ok(())
    }

    async fn remove_filters(
        &self,
        interface: &Interface,
        hook: Hook,
        place: TcPlace,
    ) -> Result<(), AttachError> {
        let ifindex = interface.link.ifindex;
        remove_filters(self.client, ifindex, hook, place).await?;
        Ok(())
    }
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

pub(super) async fn remove_filters(
    client: &RouteClient,
    ifindex: u32,
    hook: Hook,
    place: TcPlace,
) -> Result<bool, NetlinkError> {
    let mut is_any = false;
    for filter in filters::list(client, ifindex, place.side).await? {
        if filter.program.as_deref() == Some(program_name(hook)) {
            filters::remove(client, ifindex, place.side, &filter).await?;
            is_any = true;
        }
    }
    if is_any {
        filters::remove_unused_qdisc(client, ifindex).await?;
    }
    Ok(is_any)
}

fn is_at(filter: &Filter, place: TcPlace) -> bool {
    filter.priority == place.priority && filter.handle == HANDLE
}

fn add_filter(
    program: &mut SchedClassifier,
    name: &str,
    place: TcPlace,
) -> Result<SchedClassifierLink, ProgramError> {
    let options = NlOptions {
        priority: place.priority,
        handle: TcHandle::from(HANDLE),
        classid: None,
    };
    let options = TcAttachOptions::Netlink(options);
    let id = program.attach_with_options(name, place.attach_type, options)?;
    program.take_link(id)
}

/// The kernel swaps the program of a filter that exists; packets see the one or the other.
fn replace_filter(
    program: &mut SchedClassifier,
    name: &str,
    place: TcPlace,
) -> Result<SchedClassifierLink, ProgramError> {
    let handle = TcHandle::from(HANDLE);
    let TcPlace {
        attach_type,
        priority,
        ..
    } = place;
    let link = SchedClassifierLink::attached(name, attach_type, priority, handle, None)?;
    let id = program.attach_to_link(link)?;
    program.take_link(id)
}

/// A program at a tcx hook.
pub(super) struct TcxProgram {
    pub(super) id: u32,
    pub(super) name: String,
}

/// All programs at a tcx hook; none on a kernel without tcx or an interface that is gone.
pub(super) fn tcx_programs(
    interface: &str,
    attach_type: TcAttachType,
) -> Result<Vec<TcxProgram>, ProgramError> {
    match SchedClassifier::query_tcx(interface, attach_type) {
        Ok((_revision, programs)) => Ok(programs
            .iter()
            .map(|program| TcxProgram {
                id: program.id(),
                name: program.name_as_str().unwrap_or_default().to_owned(),
            })
            .collect()),
        Err(error) if matches!(root_os_error(&error), Some(EINVAL | ENODEV | EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Opens a pinned link; `None` when there is no such pin.
fn open_pin(path: &Path) -> Result<Option<FdLink>, AttachError> {
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

/// The link behind a pin, for people; `None` when it cannot be opened.
pub(super) fn link_id(path: &Path) -> Option<u32> {
    let link = open_pin(path).ok().flatten()?;
    link.info().ok().map(|info| info.id())
}

/// Removes a pin and with it the attachment. Gone is as good. The link is opened first: closing the
/// last descriptor detaches at once, removing the last name does so some time later.
pub(super) fn unpin(path: &Path) -> Result<(), AttachError> {
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
fn pin(link: FdLink, hook: Hook, interface: &Interface, path: &Path) -> Result<(), AttachError> {
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
fn is_updated<L>(
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

fn refused(hook: Hook, interface: &Interface, source: ProgramError) -> AttachError {
    let interface = interface.link.name.clone();
    AttachError::Kernel {
        program: program_name(hook),
        interface,
        source,
    }
}

/// Before 6.6 the kernel knows no tcx attach type.
fn is_unsupported(error: &AttachError) -> bool {
    matches!(error, AttachError::Kernel { source, .. }
        if matches!(root_os_error(source), Some(EINVAL | EOPNOTSUPP)))
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
