//! The node as the kernel shows it, with the little memory that a faithful look needs.
//!
//! Two things are remembered between looks, both bounded by what is there:
//! - behind which port of a bridge a MAC was last seen. Bridges forget a silent VM after 300 seconds
//!   although it has not moved; its port stays known for as long as it is a port of that bridge and
//!   nobody else claims the MAC, and the VM is probed meanwhile so that the bridge learns it again;
//! - when a neighbour was last asked for, so that a VM that does not answer is not asked all the time.

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
use crate::model::{Link, NetworkView, RouteTo};

/// One question per neighbour in this time. The kernel itself sends three requests a second apart.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
const BRIDGE: &str = "bridge";

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
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
    memory.recall_ports(&mut view);
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
    /// Adds the ports the bridges have forgotten, and forgets what is not true any more.
    fn recall_ports(&mut self, view: &mut NetworkView) {
        let vms: BTreeSet<(u32, Mac)> = vm_macs(view).collect();
        let is_member = |bridge: u32, port: u32| {
            view.links
                .get(&port)
                .is_some_and(|link| link.master == Some(bridge))
        };
        self.ports
            .retain(|key, port| vms.contains(key) && is_member(key.0, *port));
        for key in vms {
            match view.bridge_ports.get(&key) {
                Some(port) => {
                    self.ports.insert(key, *port);
                }
                None => {
                    if let Some(port) = self.ports.get(&key) {
                        view.bridge_ports.insert(key, *port);
                    }
                }
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

/// Bridge and MAC of every VM behind a bridge.
fn vm_macs(view: &NetworkView) -> impl Iterator<Item = (u32, Mac)> {
    view.routes
        .iter()
        .filter(|(_, route)| is_local(route))
        .filter_map(|(address, route)| {
            let bridge = view
                .links
                .get(&route.ifindex)
                .filter(|link| link.kind == BRIDGE)?;
            let mac = view.neighbours.get(&(bridge.ifindex, *address))?;
            Some((bridge.ifindex, *mac))
        })
}

/// The interfaces doors of VMs would be on, as far as they are known.
fn candidate_ports(view: &NetworkView) -> BTreeSet<u32> {
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
