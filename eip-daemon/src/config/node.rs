//! The description of the node: what flags say, what was found out, and whether the two fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eip_common::abi;
use ipnet::IpNet;

use super::{Discovered, Findings, NodeConfig, check_absolute, given, value};
use crate::{
    cli::NodeArgs,
    model::{DeliveryChoice, NodeSettings, XdpMode},
};

pub(super) fn node(
    args: &NodeArgs,
    found: &Discovered,
    findings: &mut Findings,
) -> Option<NodeConfig> {
    let node_name = node_name(args, found, findings);
    let uplinks = uplinks(args, found, findings);
    let gateways = gateways(args, found, findings);
    let eip_cidrs = networks("--eip-cidr", &args.eip_cidrs, findings);
    let internal_nets = networks("--internal-net", &args.internal_nets, findings);
    check_overlap(&eip_cidrs, &internal_nets, findings);
    check_families(&eip_cidrs, gateways, findings);
    check_internal(&eip_cidrs, &internal_nets, findings);
    check_delivery(args, findings);
    let route_table = route_table(args.route_table, findings);
    check_absolute("--bpffs", &args.bpffs, findings);
    let settings = NodeSettings {
        node_name: node_name?,
        uplinks: uplinks?,
        gateway4: gateways.v4,
        gateway6: gateways.v6,
        eip_cidrs,
        internal_nets,
        delivery: args.delivery,
        announce: args.announce,
        xdp_mode: args.xdp_mode,
        tc_mode: args.tc_mode,
        route_table: route_table?,
    };
    Some(NodeConfig {
        settings,
        bpffs: args.bpffs.clone(),
        notices: Vec::new(),
    })
}

fn node_name(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Option<String> {
    let given = args
        .node_name
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty());
    // Kubelet registers the host name in lower case.
    let name = given.map_or_else(|| found.host_name.to_lowercase(), str::to_owned);
    findings.keep("--node-name", value::node_name(&name))
}

fn uplinks(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Option<Vec<String>> {
    let flag = "--uplink";
    let given: Vec<&str> = given(&args.uplinks).collect();
    if given.is_empty() {
        return discovered_uplinks(found, findings);
    }
    let mut names: Vec<String> = Vec::new();
    for name in given {
        let Some(name) = findings.keep(flag, value::interface(name)) else {
            continue;
        };
        if names.contains(&name) {
            findings.notice(flag, format!("{name} is given twice; once is enough"));
            continue;
        }
        if !found.view.links.values().any(|link| link.name == name) {
            let text = format!("no interface {name} yet; it is taken when it appears");
            findings.notice(flag, text);
        }
        names.push(name);
    }
    if names.len() > abi::MAX_UPLINKS as usize {
        let count = names.len();
        findings.refuse(
            flag,
            format!("{count} uplinks, at most {} work", abi::MAX_UPLINKS),
        );
    }
    (!names.is_empty()).then_some(names)
}

/// Every device that holds a default route of the lowest metric: more than one with ECMP, or when
/// the two families leave by different ways.
fn discovered_uplinks(found: &Discovered, findings: &mut Findings) -> Option<Vec<String>> {
    let routes = &found.view.default_routes;
    let mut names: Vec<String> = Vec::new();
    for is_v4 in [true, false] {
        let family = || {
            routes
                .iter()
                .filter(|route| value::is_v4_route(route, is_v4))
        };
        let Some(best) = family().map(|route| route.metric).min() else {
            continue;
        };
        for route in family().filter(|route| route.metric == best) {
            let link = found.view.links.get(&route.ifindex);
            let Some(name) = link.map(|link| link.name.clone()) else {
                continue;
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        let text = "no uplink is named and the node has no default route to find one by: name the \
                    interface toward the routers";
        findings.refuse("--uplink", text);
        return None;
    }
    Some(names)
}

#[derive(Debug, Clone, Copy, Default)]
struct Gateways {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

fn gateways(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Gateways {
    let flag = "--gateway-ip";
    let mut gateways = Gateways::default();
    for text in given(&args.gateway_ips) {
        let Some(ip) = findings.keep(flag, value::gateway(text)) else {
            continue;
        };
        if found
            .view
            .addresses
            .iter()
            .any(|own| own.address.addr() == ip)
        {
            findings.refuse(
                flag,
                format!("{ip} is an address of this node: name the router's"),
            );
            continue;
        }
        let other: Option<IpAddr> = match ip {
            IpAddr::V4(v4) => gateways.v4.replace(v4).map(Into::into),
            IpAddr::V6(v6) => gateways.v6.replace(v6).map(Into::into),
        };
        if let Some(other) = other.filter(|other| *other != ip) {
            let text = format!("{other} and {ip} are of one family: one gateway per family");
            findings.refuse(flag, text);
        }
    }
    gateways
}

fn networks(flag: &'static str, texts: &[String], findings: &mut Findings) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = Vec::new();
    for text in given(texts) {
        let Some(net) = findings.keep(flag, value::network(text)) else {
            continue;
        };
        if nets.contains(&net) {
            findings.notice(flag, format!("{net} is given twice; once is enough"));
            continue;
        }
        nets.push(net);
    }
    if texts.is_empty() || (nets.is_empty() && given(texts).next().is_none()) {
        findings.notice(flag, value::without_networks(flag));
    }
    nets
}

fn check_overlap(eip_cidrs: &[IpNet], internal: &[IpNet], findings: &mut Findings) {
    for cidr in eip_cidrs {
        for net in internal {
            if net.contains(cidr) {
                let text = format!(
                    "{cidr} lies inside --internal-net {net}, so no elastic IP of it could ever be \
                     used: take it out of the internal network, or choose another prefix"
                );
                findings.refuse("--eip-cidr", text);
            } else if cidr.contains(net) {
                let text = format!("addresses of --internal-net {net} are refused as elastic IPs");
                findings.notice("--eip-cidr", format!("{cidr}: {text}"));
            }
        }
    }
}

fn check_families(eip_cidrs: &[IpNet], gateways: Gateways, findings: &mut Findings) {
    let has_v4 = eip_cidrs.iter().any(|net| net.addr().is_ipv4());
    let has_v6 = eip_cidrs.iter().any(|net| net.addr().is_ipv6());
    if let Some(ip) = gateways.v4.filter(|_| has_v6 && !has_v4) {
        findings.refuse(
            "--gateway-ip",
            format!("{ip} is IPv4 and every --eip-cidr is IPv6"),
        );
    }
    if let Some(ip) = gateways.v6.filter(|_| has_v4 && !has_v6) {
        findings.refuse(
            "--gateway-ip",
            format!("{ip} is IPv6 and every --eip-cidr is IPv4"),
        );
    }
}

/// A VM's address has to be internal, in the family of its EIP.
fn check_internal(eip_cidrs: &[IpNet], internal: &[IpNet], findings: &mut Findings) {
    if internal.is_empty() {
        return;
    }
    for (is_v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let of_family = |net: &IpNet| net.addr().is_ipv4() == is_v4;
        if eip_cidrs.iter().any(of_family) && !internal.iter().any(of_family) {
            let text = format!(
                "none is {family}, but an --eip-cidr is: VMs get {family} elastic IPs only where a Node or \
                 ServiceCIDR object names the network of their addresses"
            );
            findings.notice("--internal-net", text);
        }
    }
}

fn check_delivery(args: &NodeArgs, findings: &mut Findings) {
    if args.delivery == DeliveryChoice::Xdp && args.xdp_mode == XdpMode::Off {
        let text = "xdp needs an XDP program on the uplink: drop --xdp-mode off, or choose auto";
        findings.refuse("--delivery", text);
    }
}

fn route_table(table: u32, findings: &mut Findings) -> Option<u32> {
    findings.keep("--route-table", value::route_table(table))
}
