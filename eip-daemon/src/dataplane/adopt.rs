//! Recognises what is attached: by this process, by an earlier one, or no longer.
//!
//! Three things together make an attachment of ours: a pin (or, with clsact, a filter with the name of
//! our program), the kernel's word that the program runs on the interface, and the number of the
//! program. Only the program of this process counts as in place, so that an upgraded daemon replaces
//! what its predecessor left, and whatever somebody detached is attached again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use aya::programs::ProgramError;
use eip_common::{
    abi::{UPLINK_SENDS_XDP, Uplink},
    reason::Hook,
};

use super::{
    attach::{self, AttachError, TcPlace, WithoutXdp, tc_place},
    bpf::{Programs, program_name},
    inspect::{AttachMode, Attachment},
    netlink::{NetlinkError, RouteClient, filters, links::Interface},
};
use crate::model::{TcMode, UplinkState, XdpMode};

/// The two programs of a door.
pub(super) const DOOR_HOOKS: [Hook; 2] = [Hook::DoorIn, Hook::DoorOut];

/// What of ours is on the interfaces.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Programs that run, whichever process loaded them.
    pub(super) attachments: Vec<Attachment>,
    /// Everything with a pin or a filter of ours, running or not.
    traces: BTreeSet<(u32, Hook)>,
}

/// Reads pins, hooks and filters. Of `known` interfaces that have not changed since, an earlier census says it.
pub(super) async fn take_census(
    client: &RouteClient,
    directory: &Path,
    interfaces: &BTreeMap<u32, Interface>,
    known: Option<(&Census, &BTreeSet<u32>)>,
) -> Result<Census, AttachError> {
    let mut census = known.map_or_else(Census::default, |(before, changed)| {
        before.of_known(interfaces, changed)
    });
    let kept: BTreeSet<u32> = census.traces.iter().map(|(ifindex, _)| *ifindex).collect();
    let is_new = |ifindex: u32| !kept.contains(&ifindex);
    for (ifindex, hook) in pins(directory) {
        census.traces.insert((ifindex, hook));
        let Some(interface) = interfaces.get(&ifindex).filter(|_| is_new(ifindex)) else {
            continue;
        };
        let path = attach::link_path(directory, ifindex, hook);
        // A pin that cannot be opened is a trace of something, and nothing that runs.
        let Some(link) = attach::link_facts(&path) else {
            continue;
        };
        let mode = match tc_place(hook) {
            Some(place) => tcx_mode(interface, place, link.program_id)
                .map_err(|source| unreadable(hook, interface, source))?,
            None => xdp_mode(interface, link.program_id),
        };
        census.attachments.extend(mode.map(|mode| Attachment {
            ifindex,
            interface: interface.link.name.clone(),
            hook,
            mode,
            link_id: Some(link.id),
            program_id: link.program_id,
        }));
    }
    census.add_filters(client, interfaces, is_new).await?;
    Ok(census)
}

/// What runs where; more than one at a hook is one too many.
type Running<'a> = BTreeMap<(u32, Hook), Vec<&'a Attachment>>;

/// Judges the census: which interfaces are complete, and which only carry something of ours.
pub(super) struct Judge<'a> {
    pub(super) programs: &'a Programs,
    pub(super) interfaces: &'a BTreeMap<u32, Interface>,
    pub(super) uplinks: &'a BTreeMap<u32, Uplink>,
    pub(super) without_xdp: &'a BTreeMap<u32, WithoutXdp>,
    pub(super) tc_mode: TcMode,
    pub(super) xdp_mode: XdpMode,
}

/// The verdict.
#[derive(Debug, Default, Clone)]
pub(super) struct Standing {
    /// Complete uplinks.
    pub(super) uplinks: BTreeMap<u32, UplinkState>,
    /// Complete doors.
    pub(super) ports: BTreeSet<u32>,
    /// Hooks that belong to nothing complete.
    pub(super) strays: BTreeSet<(u32, Hook)>,
    /// Uplink map entries without a complete uplink.
    pub(super) stray_entries: BTreeSet<u32>,
}

impl Standing {
    /// The interfaces of everything that is not complete.
    pub(super) fn leftovers(&self) -> BTreeSet<u32> {
        let hooks = self.strays.iter().map(|(ifindex, _)| *ifindex);
        hooks.chain(self.stray_entries.iter().copied()).collect()
    }
}

impl Judge<'_> {
    /// Sorts everything of ours into complete and stray.
    pub(super) fn judge(&self, census: &Census) -> Standing {
        let mut standing = Standing::default();
        let running = census.running();
        for (ifindex, interface) in self.interfaces {
            let runs = |hook| self.runs(&running, *ifindex, hook);
            if DOOR_HOOKS.into_iter().all(runs) {
                standing.ports.insert(*ifindex);
            }
            let entry = self.uplinks.get(ifindex);
            if let Some(Uplink { mtu, mac, .. }) = entry
                .copied()
                .filter(|entry| entry.flags == uplink_flags(interface))
                .filter(|_| self.is_uplink_attached(census, &running, interface))
            {
                let name = interface.link.name.clone();
                standing
                    .uplinks
                    .insert(*ifindex, UplinkState { name, mtu, mac });
            }
        }
        let is_complete = |ifindex: &u32, hook: &Hook| {
            if DOOR_HOOKS.contains(hook) {
                standing.ports.contains(ifindex)
            } else {
                standing.uplinks.contains_key(ifindex)
            }
        };
        let strays = census
            .traces
            .iter()
            .filter(|(ifindex, hook)| !is_complete(ifindex, hook));
        standing.strays = strays.copied().collect();
        let entries = self.uplinks.keys();
        standing.stray_entries = entries
            .filter(|ifindex| !standing.uplinks.contains_key(ifindex))
            .copied()
            .collect();
        standing
    }

    fn is_uplink_attached(
        &self,
        census: &Census,
        running: &Running<'_>,
        interface: &Interface,
    ) -> bool {
        let ifindex = interface.link.ifindex;
        self.runs(running, ifindex, Hook::UplinkTc) && self.is_xdp_right(census, running, interface)
    }

    fn is_xdp_right(&self, census: &Census, running: &Running<'_>, interface: &Interface) -> bool {
        let ifindex = interface.link.ifindex;
        if self.xdp_mode == XdpMode::Off {
            return !census.traces.contains(&(ifindex, Hook::UplinkXdp));
        }
        if self.runs(running, ifindex, Hook::UplinkXdp) {
            return true;
        }
        match self.without_xdp.get(&ifindex) {
            // The other program may have gone: then it is our turn.
            Some(WithoutXdp::Foreign) => interface.xdp.is_some(),
            Some(WithoutXdp::Unsupported) => true,
            None => false,
        }
    }

    /// The program of this process runs there, once, and in a way that is allowed.
    fn runs(&self, running: &Running<'_>, ifindex: u32, hook: Hook) -> bool {
        let at_hook = running.get(&(ifindex, hook)).map(Vec::as_slice);
        matches!(at_hook, Some([only]) if only.program_id == self.programs.id(hook)
            && self.is_allowed(only.mode))
    }

    const fn is_allowed(&self, mode: AttachMode) -> bool {
        match mode {
            AttachMode::XdpNative => !matches!(self.xdp_mode, XdpMode::Generic | XdpMode::Off),
            AttachMode::XdpGeneric => !matches!(self.xdp_mode, XdpMode::Native | XdpMode::Off),
            AttachMode::Tcx => !matches!(self.tc_mode, TcMode::Clsact),
            AttachMode::Clsact => !matches!(self.tc_mode, TcMode::Tcx),
        }
    }
}

impl Census {
    fn running(&self) -> Running<'_> {
        let mut running = Running::new();
        for attachment in &self.attachments {
            let place = (attachment.ifindex, attachment.hook);
            running.entry(place).or_default().push(attachment);
        }
        running
    }

    /// What is known of interfaces that are there and have not changed. A number may be that of another
    /// interface by now, which its name tells.
    fn of_known(&self, interfaces: &BTreeMap<u32, Interface>, changed: &BTreeSet<u32>) -> Self {
        let is_same = |attachment: &&Attachment| {
            let found = interfaces.get(&attachment.ifindex);
            found.is_some_and(|found| found.link.name == attachment.interface)
                && !changed.contains(&attachment.ifindex)
        };
        let attachments: Vec<Attachment> =
            self.attachments.iter().filter(is_same).cloned().collect();
        let kept: BTreeSet<u32> = attachments.iter().map(|one| one.ifindex).collect();
        let traces = self.traces.iter();
        Self {
            traces: traces
                .filter(|(ifindex, _)| kept.contains(ifindex))
                .copied()
                .collect(),
            attachments,
        }
    }

    async fn add_filters(
        &mut self,
        client: &RouteClient,
        interfaces: &BTreeMap<u32, Interface>,
        is_new: impl Fn(u32) -> bool,
    ) -> Result<(), NetlinkError> {
        for ifindex in filters::interfaces(client).await? {
            let Some(interface) = interfaces.get(&ifindex).filter(|_| is_new(ifindex)) else {
                continue;
            };
            for (hook, place) in tc_hooks() {
                for filter in filters::list(client, ifindex, place.side).await? {
                    if filter.program.as_deref() != Some(program_name(hook)) {
                        continue;
                    }
                    self.traces.insert((ifindex, hook));
                    self.attachments.push(Attachment {
                        ifindex,
                        interface: interface.link.name.clone(),
                        hook,
                        mode: AttachMode::Clsact,
                        link_id: None,
                        program_id: filter.program_id.unwrap_or(0),
                    });
                }
            }
        }
        Ok(())
    }
}

/// What the programs may rely on at this uplink, as it is attached now.
///
/// Every driver that runs XDP sends back what the program says; a veth does so only into another XDP
/// program at its other end, and the generic path sees what GRO has merged.
pub(super) fn uplink_flags(interface: &Interface) -> u8 {
    let is_native = interface.xdp.is_some_and(|program| program.is_native);
    if is_native && interface.link.kind != "veth" {
        UPLINK_SENDS_XDP
    } else {
        0
    }
}

/// The hooks of tc with their places.
pub(super) fn tc_hooks() -> impl Iterator<Item = (Hook, TcPlace)> {
    Hook::ALL
        .into_iter()
        .filter_map(|hook| Some((hook, tc_place(hook)?)))
}

/// All pinned links by interface and hook. Other names in the directory are not ours.
pub(super) fn pins(directory: &Path) -> BTreeSet<(u32, Hook)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| parse_pin(entry.file_name().to_str()?))
        .collect()
}

fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, hook) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
    Some((ifindex.parse().ok()?, hook))
}

/// The link's program is at the hook; `None` once somebody detached the link.
fn tcx_mode(
    interface: &Interface,
    place: TcPlace,
    program_id: u32,
) -> Result<Option<AttachMode>, ProgramError> {
    let programs = attach::tcx_programs(&interface.link.name, place.attach_type)?;
    let is_there = programs.iter().any(|program| program.id == program_id);
    Ok(is_there.then_some(AttachMode::Tcx))
}

fn xdp_mode(interface: &Interface, program_id: u32) -> Option<AttachMode> {
    let program = interface.xdp.filter(|program| program.id == program_id)?;
    Some(if program.is_native {
        AttachMode::XdpNative
    } else {
        AttachMode::XdpGeneric
    })
}

fn unreadable(hook: Hook, interface: &Interface, source: ProgramError) -> AttachError {
    let interface = interface.link.name.clone();
    AttachError::Kernel {
        program: program_name(hook),
        interface,
        source,
    }
}

#[cfg(test)]
mod tests {
    use eip_common::{abi::UPLINK_SENDS_XDP, reason::Hook};

    use super::{Interface, parse_pin, uplink_flags};
    use crate::{dataplane::netlink::links::XdpProgram, model::Link};

    #[test]
    fn only_a_driver_with_a_queue_of_its_own_sends_xdp_frames() {
        let uplink = |kind: &str, xdp| Interface {
            link: Link {
                ifindex: 2,
                name: "eth1".to_owned(),
                kind: kind.to_owned(),
                mac: None,
                mtu: 1500,
                master: None,
                vlan: None,
                is_up: true,
            },
            xdp,
            is_running: true,
        };
        let native = Some(XdpProgram {
            id: 7,
            is_native: true,
        });
        let generic = Some(XdpProgram {
            id: 7,
            is_native: false,
        });
        assert_eq!(uplink_flags(&uplink("", native)), UPLINK_SENDS_XDP);
        assert_eq!(uplink_flags(&uplink("bond", native)), UPLINK_SENDS_XDP);
        for other in [
            uplink("veth", native),
            uplink("", generic),
            uplink("", None),
        ] {
            assert_eq!(uplink_flags(&other), 0);
        }
    }

    #[test]
    fn a_pin_names_its_interface_and_hook() {
        for hook in Hook::ALL {
            assert_eq!(parse_pin(&format!("12-{}", hook.name())), Some((12, hook)));
        }
        for other in ["", "12", "x-door-in", "12-door", "-door-in", "12-door-in-2"] {
            assert_eq!(parse_pin(other), None, "{other}");
        }
    }
}
