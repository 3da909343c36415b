//! The node's side toward the world: uplinks, the way out, what the network is told, and netfilter.

use std::net::IpAddr;

use eip_common::reason::{Hook, Reason};

use super::{Case, bad, kernel::not_attached, ok, skipped, way_out};
use crate::{
    ctl::api::ChainLink,
    model::{BindingState, Lane, Link, XdpMode},
};

pub(super) const NAMES: [&str; 4] = [UPLINKS, WAY_OUT, ANNOUNCEMENT, FORWARDING];
const UPLINKS: &str = "uplinks";
const WAY_OUT: &str = "way out";
const ANNOUNCEMENT: &str = "announcement";
const FORWARDING: &str = "forwarding";

/// So many packets have to be missing before it is called a loss.
const ENOUGH: u64 = 4;

pub(super) fn links(case: &Case<'_>, wanted: &BindingState) -> Vec<ChainLink> {
    vec![
        uplinks(case),
        ways(case, wanted),
        announcement(case),
        forwarding(case, wanted),
    ]
}

fn uplinks(case: &Case<'_>) -> ChainLink {
    let names = &case.settings.uplinks;
    let links = &case.now.view.links;
    let mut good = Vec::new();
    let mut wrong = Vec::new();
    for name in names {
        let found = links.values().find(|link| link.name == *name);
        match found.map_or_else(
            || Err(format!("no interface {name}")),
            |link| uplink(case, link),
        ) {
            Ok(()) => good.push(name.clone()),
            Err(why) => wrong.push(why),
        }
    }
    if names.is_empty() {
        return bad(UPLINKS, "no uplink is configured", "name one with --uplink");
    }
    if good.is_empty() {
        let cure = "bring an interface toward the routers up, or name another one with --uplink";
        return bad(UPLINKS, wrong.join("; "), cure);
    }
    let mut link = ok(UPLINKS, format!("our programs run on {}", good.join(", ")));
    link.notes = wrong;
    link
}

fn uplink(case: &Case<'_>, link: &Link) -> Result<(), String> {
    let name = &link.name;
    if !link.is_up {
        return Err(format!("{name} is down: ip link set {name} up"));
    }
    if !case.now.running.contains(&link.ifindex) {
        return Err(format!("{name} has no carrier"));
    }
    if let Some(wrong) = not_attached(case, link.ifindex, Hook::UplinkTc) {
        return Err(wrong);
    }
    let has_xdp = not_attached(case, link.ifindex, Hook::UplinkXdp).is_none();
    if !has_xdp && matches!(case.settings.xdp_mode, XdpMode::Native | XdpMode::Generic) {
        return Err(format!("{} does not run on {name}", Hook::UplinkXdp.name()));
    }
    if !case.now.uplink_map.contains(&link.ifindex) {
        return Err(format!("{name} is not in the uplink map"));
    }
    Ok(())
}

fn ways(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let missing: Vec<_> = case
        .report
        .desired
        .rules
        .difference(&case.now.kernel.rules)
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        let found = format!("rules are missing: {}", missing.join("; "));
        return bad(
            WAY_OUT,
            found,
            "the agent adds them again within seconds; if they go again, somebody else removes them",
        );
    }
    let eip = case.eip();
    let gateway = match eip {
        IpAddr::V4(_) => case.settings.gateway4.map(IpAddr::from),
        IpAddr::V6(_) => case.settings.gateway6.map(IpAddr::from),
    };
    let way = way_out(eip, wanted.l3);
    let is_uplink = |ifindex: u32| case.now.uplink_map.contains(&ifindex);
    if let Some(gateway) = gateway {
        return by_gateway(case, gateway, is_uplink);
    }
    match case.now.ways.get(&way) {
        Some(route) if is_uplink(route.ifindex) => {
            let uplink = case.name_of(route.ifindex);
            let via = route
                .gateway
                .map_or_else(String::new, |hop| format!(" via {hop}"));
            ok(WAY_OUT, format!("from {eip} out of {uplink}{via}"))
        }
        Some(route) => {
            let other = case.name_of(route.ifindex);
            let found = format!(
                "what has {eip} as its source is routed out of {other}, which is no uplink"
            );
            bad(
                WAY_OUT,
                found,
                format!("name it with --uplink {other}, or set --gateway-ip"),
            )
        }
        None => bad(
            WAY_OUT,
            format!("the kernel does not forward what comes from {eip}"),
            "add a default route for the uplink or set --gateway-ip; `sysctl net.ipv4.ip_forward` has to be 1, \
             and rp_filter of the VM's device must not be in the way",
        ),
    }
}

fn by_gateway(case: &Case<'_>, gateway: IpAddr, is_uplink: impl Fn(u32) -> bool) -> ChainLink {
    let cure = "give the uplink an address in the gateway's network, or correct --gateway-ip";
    // Every interface has a route to a link-local address; the uplink is where it is looked for.
    if matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return ok(WAY_OUT, format!("by the gateway {gateway} on the uplink"));
    }
    match case.now.view.routes.get(&gateway) {
        None => bad(WAY_OUT, format!("no route to the gateway {gateway}"), cure),
        Some(route) if route.gateway.is_some() => bad(
            WAY_OUT,
            format!("the gateway {gateway} is behind another router"),
            cure,
        ),
        Some(route) if !is_uplink(route.ifindex) => {
            let other = case.name_of(route.ifindex);
            bad(
                WAY_OUT,
                format!("the gateway {gateway} is on {other}, which is no uplink"),
                cure,
            )
        }
        Some(route) => {
            let uplink = case.name_of(route.ifindex);
            let mut link = ok(WAY_OUT, format!("by the gateway {gateway} on {uplink}"));
            if !case
                .now
                .view
                .neighbours
                .contains_key(&(route.ifindex, gateway))
            {
                link.notes.push(format!(
                    "{gateway} is not resolved on {uplink} at the moment"
                ));
            }
            link
        }
    }
}

/// What is asked for, and what the network has of it.
fn announcement(case: &Case<'_>) -> ChainLink {
    let Some(announcement) = case.report.desired.announcements.get(&case.eip()) else {
        let found = "not to be announced: the routers need a route to this node";
        return skipped(ANNOUNCEMENT, found);
    };
    let by = announcement.by;
    let asked = ok(
        ANNOUNCEMENT,
        format!("to be announced by: {by}", by = by.name()),
    );
    let link = if by.includes_bgp() {
        told_to_peers(case, asked)
    } else {
        asked
    };
    if by.includes_l2() {
        told_to_neighbours(case, link)
    } else {
        link
    }
}

/// What BGP peers have of it.
fn told_to_peers(case: &Case<'_>, asked: ChainLink) -> ChainLink {
    let peers = case.bgp.as_ref().map_or(&[][..], |route| &route.peers);
    if peers.is_empty() {
        let note = "no BGP peer on this node: the routers need a static route";
        return noted(asked, [note.to_owned()]);
    }
    let told = peers.iter().filter(|peer| peer.advertised).count();
    let remarks = peers.iter().filter_map(|peer| {
        let remark = peer.remark.as_ref()?;
        Some(format!("{}: {remark}", peer.peer))
    });
    let found = format!(
        "{}; {told} of {} BGP peers have it",
        asked.found,
        peers.len()
    );
    let link = match told {
        0 => bad(
            ANNOUNCEMENT,
            found,
            "see `eipctl bgp peers` for what keeps sessions down",
        ),
        _ => ok(ANNOUNCEMENT, found),
    };
    noted(link, remarks)
}

/// What the segments of the uplinks have of it. Somebody else who answers for the address breaks it
/// whatever BGP peers have: some neighbours believe them.
fn told_to_neighbours(case: &Case<'_>, link: ChainLink) -> ChainLink {
    let answered: u64 = [Hook::UplinkXdp, Hook::UplinkTc]
        .map(|hook| packets(case, hook, Reason::NeighbourAnswered))
        .iter()
        .sum();
    let found = format!(
        "{}; answered {answered} times to neighbours who asked for it",
        link.found
    );
    let link = match &case.l2.conflict {
        Some(conflict) => bad(
            ANNOUNCEMENT,
            format!(
                "{found}; {mac} on {uplink} says that it has {eip} too",
                mac = conflict.mac,
                uplink = conflict.uplink,
                eip = case.eip(),
            ),
            "find this hardware address in the switches and take the address away there, or bind \
             another EIP",
        ),
        None => ChainLink { found, ..link },
    };
    noted(link, case.l2.problems.iter().cloned())
}

fn noted(mut link: ChainLink, notes: impl IntoIterator<Item = String>) -> ChainLink {
    link.notes.extend(notes);
    link
}

/// Behaviour tells what the rules of netfilter only promise: packets that were given to the kernel and
/// did not reach the door were dropped between.
fn forwarding(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    if wanted.delivery != Lane::Stack {
        return ok(
            FORWARDING,
            "redirected past netfilter: NetworkPolicy by iptables is not seen in this lane",
        );
    }
    let given = packets(case, Hook::UplinkTc, Reason::DeliveredStack);
    let arrived = case.counted.to_vm;
    if given >= ENOUGH && arrived < given / 2 {
        let found = format!(
            "lane stack: {given} packets were given to the kernel for {}, {arrived} reached the VM's door",
            case.eip()
        );
        return bad(FORWARDING, found, accept_rules(case, wanted));
    }
    ok(
        FORWARDING,
        format!(
            "lane stack: netfilter sees client and EIP; {given} packets given to the kernel, {arrived} reached the door"
        ),
    )
}

fn packets(case: &Case<'_>, hook: Hook, reason: Reason) -> u64 {
    let counts = case.counted.reasons.iter();
    counts
        .filter(|count| count.hook == hook && count.reason == reason)
        .map(|count| count.packets)
        .sum()
}

/// The two rules, ready to be pasted.
fn accept_rules(case: &Case<'_>, wanted: &BindingState) -> String {
    let eip = case.eip();
    let range = case
        .settings
        .eip_cidrs
        .iter()
        .find(|net| net.contains(&eip));
    let what = range.map_or_else(|| eip.to_string(), ToString::to_string);
    let device = case.name_of(wanted.l3);
    let tool = if eip.is_ipv4() {
        "iptables"
    } else {
        "ip6tables"
    };
    format!(
        "look at `{tool} -vS FORWARD` and `nft list ruleset`; to accept elastic IPs there: \
         {tool} -I FORWARD -d {what} -o {device} -j ACCEPT; {tool} -I FORWARD -s {what} -i {device} -j ACCEPT"
    )
}
