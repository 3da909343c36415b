//! How the node announces by BGP.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use super::{Discovered, Findings, given, value};
use crate::{
    announce::{bgp::config::BGP_PORT, peering::BgpSettings},
    cli::BgpArgs,
};

/// What is known about the node already.
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    /// For finding a router id.
    pub(super) uplinks: &'a [String],
    pub(super) state_dir: &'a Path,
}

pub(super) fn bgp(
    args: &BgpArgs,
    node: &Node<'_>,
    found: &Discovered,
    findings: &mut Findings,
) -> Option<BgpSettings> {
    let Node {
        name,
        uplinks,
        state_dir,
    } = *node;
    let local_as = args
        .local_as
        .map(|asn| findings.keep("--bgp-local-as", value::asn(asn)));
    let router_id = router_id(args, uplinks, found, findings);
    let listen = listen(args, findings);
    let restart_time = findings.keep(
        "--bgp-restart-time",
        value::restart_time(&args.restart_time),
    );
    let prefix = args.annotations.trim().trim_end_matches('/');
    Some(BgpSettings {
        node_name: name.to_owned(),
        local_as: match local_as {
            Some(asn) => Some(asn?),
            None => None,
        },
        router_id: router_id?,
        listen: listen?,
        restart_time: restart_time?,
        annotation_prefix: prefix.to_owned(),
        state_directory: state_dir.to_owned(),
        on_exit: args.on_exit,
    })
}

/// As asked for, else the lowest IPv4 address of an uplink, else the lowest of the node: the same
/// one after every start.
#[expect(
    clippy::option_option,
    reason = "refused, or not there and maybe not needed"
)]
fn router_id(
    args: &BgpArgs,
    uplinks: &[String],
    found: &Discovered,
    findings: &mut Findings,
) -> Option<Option<Ipv4Addr>> {
    if let Some(text) = args
        .router_id
        .as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        return findings
            .keep("--bgp-router-id", value::router_id(text))
            .map(Some);
    }
    let own = |is_candidate: &dyn Fn(u32) -> bool| {
        let addresses = found.view.addresses.iter();
        let addresses = addresses.filter(|own| is_candidate(own.ifindex));
        let v4 = addresses.filter_map(|own| match own.address.addr() {
            IpAddr::V4(v4) => Some(v4).filter(|v4| !v4.is_loopback() && !v4.is_link_local()),
            IpAddr::V6(_) => None,
        });
        v4.min()
    };
    let links = &found.view.links;
    let is_uplink = |ifindex: u32| {
        links
            .get(&ifindex)
            .is_some_and(|l| uplinks.contains(&l.name))
    };
    Some(own(&is_uplink).or_else(|| own(&|_| true)))
}

fn listen(args: &BgpArgs, findings: &mut Findings) -> Option<Vec<SocketAddr>> {
    let listen = given(&args.listen).map(|text| {
        let address = match text.parse::<IpAddr>() {
            Ok(ip) => Ok(SocketAddr::from((ip, BGP_PORT))),
            Err(_) => text.parse().map_err(|_| {
                format!("{text:?} is no address: write 192.0.2.10, or 192.0.2.10:1790 for a port")
            }),
        };
        findings.keep("--bgp-listen", address)
    });
    // All of them are looked at before the first bad one ends it.
    let listen: Vec<Option<SocketAddr>> = listen.collect();
    listen.into_iter().collect()
}
