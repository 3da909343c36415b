//! tc programs: a tcx link where the kernel has them, else a filter of the clsact qdisc.

use std::{mem, path::Path};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkOrder},
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};
use eip_common::reason::Hook;
use nix::libc::{EINVAL, ENODEV, EOPNOTSUPP};

use super::{
    AttachError, Attacher,
    pin::{is_updated, link_path, open_pin, pin, unpin},
    refused,
};
use crate::{
    dataplane::{
        bpf::program_name,
        maps::root_os_error,
        netlink::{
            NetlinkError, RouteClient,
            filters::{self, Filter, Side},
            links::Interface,
        },
    },
    model::TcMode,
};

/// Handle of our filters.
const HANDLE: u32 = 0xe1b;
/// Before what asks for no priority (49152 and down from there) and after nearly nothing.
const FIRST: u16 = 7;
/// After what asks for no priority.
const LAST: u16 = 60_007;

/// Where a tc program goes.
#[derive(Debug, Clone, Copy)]
pub(in crate::dataplane) struct TcPlace {
    /// For aya.
    pub(in crate::dataplane) attach_type: TcAttachType,
    /// For netlink.
    pub(in crate::dataplane) side: Side,
    priority: u16,
}

/// Where the program of a tc hook goes; `None` for XDP.
pub(in crate::dataplane) const fn tc_place(hook: Hook) -> Option<TcPlace> {
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

impl Attacher<'_> {
    /// Attaches, or replaces, the program of a tc hook; afterwards it runs exactly once.
    pub(in crate::dataplane) async fn attach_tc(
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

pub(in crate::dataplane) async fn remove_filters(
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
pub(in crate::dataplane) struct TcxProgram {
    pub(in crate::dataplane) id: u32,
    pub(in crate::dataplane) name: String,
}

/// All programs at a tcx hook; none on a kernel without tcx or an interface that is gone.
pub(in crate::dataplane) fn tcx_programs(
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

/// Before 6.6 the kernel knows no tcx attach type.
fn is_unsupported(error: &AttachError) -> bool {
    matches!(error, AttachError::Kernel { source, .. }
        if matches!(root_os_error(source), Some(EINVAL | EOPNOTSUPP)))
}
