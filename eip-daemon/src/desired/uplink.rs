//! The node's side toward the routers: uplinks, gateway, policy rules and our table.
//!
//! Rules, per family, in order of priority (U an uplink, C an EIP range, A an address of the uplink
//! the gateway is on, T our table):
//!
//! | offset | rule | why |
//! |---|---|---|
//! | 0 | `iif U to C` main without default | bound EIPs have host routes in main |
//! | 1 | `iif U to C` unreachable | an EIP nobody has must not loop between router and node |
//! | 10 | `from C` main without default | EIP to pods and VMs of this node stays on it |
//! | 11 | `from A` main without default | ICMP errors of the node to its own VMs |
//! | 15 | `to C` main without default | as 0, for packets from elsewhere |
//! | 16 | `to C` T | pods and the node reach EIPs of other nodes through the routers |
//! | 20 | `from C` T | EIP traffic leaves by the uplink |
//! | 21 | `from A` T | and so do ICMP errors about it |
//!
//! The first two are always there; the others only where the main table's default route does not
//! already lead where EIP traffic has to go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Node,
    prefixes::{is_host_only, is_same_family},
};
use crate::model::{
    DefaultRoute, GatewayState, Link, PolicyRule, RULE_PRIORITIES, RuleAction, RuleMatch,
    TableDefault, UplinkState,
};

const GUARD_MAIN: u32 = 0;
const GUARD_UNREACHABLE: u32 = 1;
const FROM_RANGE_MAIN: u32 = 10;
const FROM_UPLINK_MAIN: u32 = 11;
const TO_RANGE_MAIN: u32 = 15;
const TO_RANGE_TABLE: u32 = 16;
const FROM_RANGE_TABLE: u32 = 20;
const FROM_UPLINK_TABLE: u32 = 21;

/// The uplinks that exist.
pub(super) fn states(node: &Node<'_>) -> BTreeMap<u32, UplinkState> {
    uplinks(node)
        .map(|link| {
            (
                link.ifindex,
                UplinkState {
                    name: link.name.clone(),
                    mtu: link.mtu,
                    mac: link.mac.unwrap_or_default(),
                },
            )
        })
        .collect()
}

/// What the config map says. One interface serves both families there: an IPv6 gateway that is
/// plainly on another uplink than the IPv4 one is left to the routes.
pub(super) fn gateway(node: &Node<'_>) -> GatewayState {
    let gateway4 = node.settings.gateway4;
    let gateway6 = node.settings.gateway6;
    let first = gateway4.map(IpAddr::V4).or(gateway6.map(IpAddr::V6));
    let Some(link) = first.and_then(|gateway| uplink_toward(gateway, node)) else {
        return GatewayState::default();
    };
    let is_reached_there =
        |gateway: IpAddr| is_on(gateway, link, node) || connected_uplink(gateway, node).is_none();
    GatewayState {
        gateway4,
        gateway6: gateway6.filter(|gateway| is_reached_there(IpAddr::V6(*gateway))),
        ifindex: link.ifindex,
        mtu: link.mtu,
    }
}

/// All rules of both families.
pub(super) fn rules(node: &Node<'_>) -> BTreeSet<PolicyRule> {
    let detours = detours(node);
    let mut rules = BTreeSet::new();
    for cidr in node.settings.eip_cidrs.iter().map(IpNet::trunc) {
        guard(&mut rules, cidr, node);
        if detours
            .iter()
            .any(|detour| is_same_family(detour.gateway, cidr.addr()))
        {
            detour_range(&mut rules, cidr, node.settings.route_table);
        }
    }
    for detour in &detours {
        detour_uplink(&mut rules, detour, node);
    }
    rules
}

/// The defaults of our table, at most one per family.
pub(super) fn table_defaults(node: &Node<'_>) -> BTreeSet<TableDefault> {
    detours(node).into_iter().collect()
}

fn guard(rules: &mut BTreeSet<PolicyRule>, cidr: IpNet, node: &Node<'_>) {
    for link in uplinks(node) {
        let arriving = RuleMatch::ArrivingFor {
            iif: link.name.clone(),
            to: cidr,
        };
        rules.insert(rule(
            GUARD_MAIN,
            arriving.clone(),
            RuleAction::MainWithoutDefault,
        ));
        rules.insert(rule(GUARD_UNREACHABLE, arriving, RuleAction::Unreachable));
    }
}

fn detour_range(rules: &mut BTreeSet<PolicyRule>, cidr: IpNet, table: u32) {
    rules.extend([
        rule(
            FROM_RANGE_MAIN,
            RuleMatch::From(cidr),
            RuleAction::MainWithoutDefault,
        ),
        rule(
            TO_RANGE_MAIN,
            RuleMatch::To(cidr),
            RuleAction::MainWithoutDefault,
        ),
        rule(
            TO_RANGE_TABLE,
            RuleMatch::To(cidr),
            RuleAction::Table(table),
        ),
        rule(
            FROM_RANGE_TABLE,
            RuleMatch::From(cidr),
            RuleAction::Table(table),
        ),
    ]);
}

fn detour_uplink(rules: &mut BTreeSet<PolicyRule>, detour: &TableDefault, node: &Node<'_>) {
    let own = node
        .view
        .addresses
        .iter()
        .filter(|entry| entry.ifindex == detour.ifindex);
    for address in own.map(|entry| entry.address.addr()) {
        if is_host_only(address) || !is_same_family(address, detour.gateway) {
            continue;
        }
        let from = RuleMatch::From(IpNet::from(address));
        let table = RuleAction::Table(detour.table);
        rules.insert(rule(
            FROM_UPLINK_MAIN,
            from.clone(),
            RuleAction::MainWithoutDefault,
        ));
        rules.insert(rule(FROM_UPLINK_TABLE, from, table));
    }
}

fn rule(offset: u32, matches: RuleMatch, action: RuleAction) -> PolicyRule {
    PolicyRule {
        priority: RULE_PRIORITIES.start() + offset,
        matches,
        action,
    }
}

/// The families whose EIP traffic the main table would lead astray, and where it has to go instead.
/// A family without an EIP range has none.
fn detours(node: &Node<'_>) -> Vec<TableDefault> {
    let set4 = node.settings.gateway4.map(IpAddr::V4);
    let set6 = node.settings.gateway6.map(IpAddr::V6);
    [(set4, true), (set6, false)]
        .into_iter()
        .filter(|(_, is_v4)| {
            node.settings
                .eip_cidrs
                .iter()
                .any(|cidr| cidr.addr().is_ipv4() == *is_v4)
        })
        .filter_map(|(set, is_v4)| detour(set, is_v4, node))
        .collect()
}

fn detour(set: Option<IpAddr>, is_v4: bool, node: &Node<'_>) -> Option<TableDefault> {
    let best = default_routes(node, is_v4).min_by_key(|route| route.metric);
    let leaves_by_uplink = best.is_some_and(|route| is_uplink(route.ifindex, node));
    let (gateway, ifindex) = match set {
        Some(_) if leaves_by_uplink && best.and_then(|route| route.gateway) == set => return None,
        Some(gateway) => (gateway, uplink_toward(gateway, node)?.ifindex),
        None if leaves_by_uplink => return None,
        // A default route by an uplink that another one outranks still tells the gateway.
        None => default_routes(node, is_v4)
            .filter(|route| is_uplink(route.ifindex, node))
            .min_by_key(|route| route.metric)
            .and_then(|route| Some((route.gateway?, route.ifindex)))?,
    };
    Some(TableDefault {
        table: node.settings.route_table,
        gateway,
        ifindex,
    })
}

/// A default route without gateway does not tell its family; it belongs to a point-to-point uplink,
/// which has no gateway to detour to either.
fn default_routes<'a>(node: &'a Node<'_>, is_v4: bool) -> impl Iterator<Item = &'a DefaultRoute> {
    node.view.default_routes.iter().filter(move |route| {
        route
            .gateway
            .is_some_and(|gateway| gateway.is_ipv4() == is_v4)
    })
}

fn uplinks<'a>(node: &'a Node<'_>) -> impl Iterator<Item = &'a Link> {
    node.settings
        .uplinks
        .iter()
        .filter_map(|name| node.view.links.values().find(|link| link.name == *name))
}

fn is_uplink(ifindex: u32, node: &Node<'_>) -> bool {
    uplinks(node).any(|link| link.ifindex == ifindex)
}

/// The uplink whose connected network holds the gateway, else the first one.
fn uplink_toward<'a>(gateway: IpAddr, node: &'a Node<'_>) -> Option<&'a Link> {
    connected_uplink(gateway, node).or_else(|| uplinks(node).next())
}

fn connected_uplink<'a>(gateway: IpAddr, node: &'a Node<'_>) -> Option<&'a Link> {
    uplinks(node).find(|link| is_on(gateway, link, node))
}

fn is_on(address: IpAddr, link: &Link, node: &Node<'_>) -> bool {
    node.view
        .addresses
        .iter()
        .any(|entry| entry.ifindex == link.ifindex && entry.address.contains(&address))
}
