//! The node as the kernel shows it, with the little memory that a faithful look needs.
//!
//! A VM that is silent has not moved, and an EIP must not be taken from it for that. So three things are
//! remembered between looks, all bounded by what is there:
//! - the MAC a VM's address last resolved to. The kernel forgets it when the VM does not answer for a
//!   while (paused, busy, restarting its network) or when its neighbour table is large;
//! - behind which port of a bridge a MAC was last seen. Bridges forget a silent one after 300 seconds;
//! - when a neighbour was last asked for, so that a VM that does not answer is not asked all the time.
//!
//! The first two hold while the route leads to the same interface and, behind a bridge, while the port
//! is a port of that bridge: the interface of a VM that is gone is gone with it. What the kernel says
//! now always wins, and what it has forgotten is asked for at every look. They survive a restart, because
//! the bindings in the maps say both.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType;
use eip_common::{abi::program, addr::Mac};

use super::{
    attach,
    netlink::{
        Generic, NetlinkError, RouteClient, XdpFeatures,
        filters::{self, Side},
        links, lookup, neighbours,
    },
};
use crate::model::{BindingState, Link, NetworkView, RouteTo};

/// One question per neighbour in this time. The kernel itself sends three requests a second apart.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How a binding says that its VM was not resolved.
const UNKNOWN_MAC: Mac = [0; 6];
const BRIDGE: &str = "bridge";

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    macs: BTreeMap<(u32, IpAddr), Mac>,
    ports: BTreeMap<(u32, Mac), u32>,
    asked: BTreeMap<(u32, IpAddr), Instant>,
}

/// Looks at everything, asks for what is not resolved.
pub(super) async fn look(
    client: &RouteClient,
    generic: &Generic,
    memory: &mut Memory,
    vm_addresses: &BTreeSet<IpAddr>,
    now: Instant,
) -> Result<NetworkView, NetlinkError> {
    let interfaces = links::list(client).await?;
    let mut view = NetworkView {
        links: interfaces
            .into_iter()
            .map(|(ifindex, found)| (ifindex, found.link))
            .collect(),
        addresses: links::addresses(client).await?,
        neighbours: neighbours::list(client).await?,
        bridge_ports: neighbours::forwarding(client).await?,
        routes: lookup::look_up(client, vm_addresses).await?,
        default_routes: lookup::defaults(client).await?,
        foreign_egress: BTreeSet::new(),
        xdp_ports: receivers(generic).await,
    };
    let wanted = questions(&view);
    memory.recall(&mut view);
    memory.ask(client, &wanted, now).await;
    view.foreign_egress = foreign_egress(client, &view).await?;
    Ok(view)
}

/// A kernel that does not say which ports take XDP frames has none that are known to.
async fn receivers(generic: &Generic) -> BTreeSet<u32> {
    match generic.xdp_features().await {
        Ok(features) => features
            .as_ref()
            .map(XdpFeatures::receivers)
            .unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "XDP features are not known");
            BTreeSet::new()
        }
    }
}

/// What to ask a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Who has this address?
    Resolve,
    /// Are you still there? For a VM whose port the bridge does not know.
    Confirm(Mac),
}

/// The VMs on this node that are not resolved, or whose port is not known.
fn questions(view: &NetworkView) -> BTreeMap<(u32, IpAddr), Question> {
    let local = view.routes.iter().filter(|(_, route)| is_local(route));
    local
        .filter_map(|(address, route)| {
            let link = view.links.get(&route.ifindex)?;
            let question = match view.neighbours.get(&(link.ifindex, *address)) {
                None => Question::Resolve,
                Some(mac) if !knows_port(view, link, *mac) => Question::Confirm(*mac),
                Some(_) => return None,
            };
            Some(((link.ifindex, *address), question))
        })
        .collect()
}

const fn is_local(route: &RouteTo) -> bool {
    route.is_unicast && route.gateway.is_none()
}

fn knows_port(view: &NetworkView, link: &Link, mac: Mac) -> bool {
    link.kind != BRIDGE || view.bridge_ports.contains_key(&(link.ifindex, mac))
}

impl Memory {
    /// What an earlier process knew, from the bindings it left: a restart while a VM is silent is no
    /// reason to take its EIP either.
    pub(super) fn of_bindings<'a>(bindings: impl Iterator<Item = &'a BindingState>) -> Self {
        let mut memory = Self::default();
        for binding in bindings.filter(|binding| binding.vm_mac != UNKNOWN_MAC) {
            memory.macs.insert((binding.l3, binding.vm), binding.vm_mac);
            if binding.port != binding.l3 {
                memory
                    .ports
                    .insert((binding.l3, binding.vm_mac), binding.port);
            }
        }
        memory
    }

    /// Adds what the kernel has forgotten, and forgets what is not true any more.
    fn recall(&mut self, view: &mut NetworkView) {
        self.recall_macs(view);
        self.recall_ports(view);
    }

    fn recall_macs(&mut self, view: &mut NetworkView) {
        let vms: BTreeSet<(u32, IpAddr)> = local_vms(view).collect();
        self.macs.retain(|key, mac| {
            vms.contains(key)
                && view.links.get(&key.0).is_some_and(|link| {
                    link.kind != BRIDGE
                        || self
                            .ports
                            .get(&(key.0, *mac))
                            .is_some_and(|port| is_port(view, key.0, *port))
                })
        });
        for key in vms {
            match view.neighbours.get(&key) {
                Some(mac) => {
                    self.macs.insert(key, *mac);
                }
                None => view
                    .neighbours
                    .extend(self.macs.get(&key).map(|mac| (key, *mac))),
            }
        }
    }

    fn recall_ports(&mut self, view: &mut NetworkView) {
        let vms: BTreeSet<(u32, Mac)> = bridged_macs(view).collect();
        self.ports
            .retain(|key, port| vms.contains(key) && is_port(view, key.0, *port));
        for key in vms {
            match view.bridge_ports.get(&key) {
                Some(port) => {
                    self.ports.insert(key, *port);
                }
                None => view
                    .bridge_ports
                    .extend(self.ports.get(&key).map(|port| (key, *port))),
            }
        }
    }

    /// Best effort: what fails is asked again.
    async fn ask(
        &mut self,
        client: &RouteClient,
        wanted: &BTreeMap<(u32, IpAddr), Question>,
        now: Instant,
    ) {
        self.asked
            .retain(|key, last| wanted.contains_key(key) && now - *last < ASK_INTERVAL);
        for ((ifindex, address), question) in wanted {
            if self.asked.contains_key(&(*ifindex, *address)) {
                continue;
            }
            self.asked.insert((*ifindex, *address), now);
            let asked = match question {
                Question::Resolve => neighbours::ask(client, *ifindex, *address).await,
                Question::Confirm(mac) => neighbours::probe(client, *ifindex, *address, *mac).await,
            };
            if let Err(error) = asked {
                tracing::debug!(%error, cause = %error.source, "neighbour not asked");
            }
        }
    }
}

fn is_port(view: &NetworkView, bridge: u32, port: u32) -> bool {
    view.links
        .get(&port)
        .is_some_and(|link| link.master == Some(bridge))
}

/// Interface and address of every VM on this node.
fn local_vms(view: &NetworkView) -> impl Iterator<Item = (u32, IpAddr)> {
    let local = view.routes.iter().filter(|(_, route)| is_local(route));
    local.map(|(address, route)| (route.ifindex, *address))
}

/// Bridge and MAC of every VM behind a bridge.
fn bridged_macs(view: &NetworkView) -> impl Iterator<Item = (u32, Mac)> {
    local_vms(view).filter_map(|key| {
        let bridge = view.links.get(&key.0).filter(|link| link.kind == BRIDGE)?;
        Some((bridge.ifindex, *view.neighbours.get(&key)?))
    })
}

/// The interfaces doors of VMs would be on, as far as they are known.
pub(super) fn candidate_ports(view: &NetworkView) -> BTreeSet<u32> {
    let local = view.routes.iter().filter(|(_, route)| is_local(route));
    local
        .filter_map(|(address, route)| {
            let link = view.links.get(&route.ifindex)?;
            if link.kind != BRIDGE {
                return Some(link.ifindex);
            }
            let mac = view.neighbours.get(&(link.ifindex, *address))?;
            view.bridge_ports.get(&(link.ifindex, *mac)).copied()
        })
        .collect()
}

/// Candidate ports with somebody else's program on egress, tcx or clsact.
async fn foreign_egress(
    client: &RouteClient,
    view: &NetworkView,
) -> Result<BTreeSet<u32>, NetlinkError> {
    let with_qdisc = filters::interfaces(client).await?;
    let mut foreign = BTreeSet::new();
    for ifindex in candidate_ports(view) {
        let Some(link) = view.links.get(&ifindex) else {
            continue;
        };
        let is_foreign = has_foreign_tcx(&link.name)
            || (with_qdisc.contains(&ifindex) && has_foreign_filter(client, ifindex).await?);
        if is_foreign {
            foreign.insert(ifindex);
        }
    }
    Ok(foreign)
}

fn has_foreign_tcx(interface: &str) -> bool {
    let is_ours = |name: &str| program::ALL.contains(&name);
    match attach::tcx_programs(interface, TcAttachType::Egress) {
        Ok(programs) => programs.iter().any(|program| !is_ours(&program.name)),
        // Unreadable is not ours to skip: the lane that minds others is right either way.
        Err(error) => {
            tracing::debug!(interface, %error, "tcx programs are not known");
            true
        }
    }
}

async fn has_foreign_filter(client: &RouteClient, ifindex: u32) -> Result<bool, NetlinkError> {
    let filters = filters::list(client, ifindex, Side::Egress).await?;
    Ok(filters.iter().any(|filter| !filter.is_ours()))
}

#[cfg(test)]
mod tests;
