//! Whether an EIP can be one on this node, before anybody looks at its VM.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Node, prefixes};
use crate::model::{BindingFact, Outcome, RefuseReason};

/// `Err` is the refusal, with what is wrong and what would be right.
pub(super) fn eip(eip: IpAddr, node: &Node<'_>) -> Result<(), Outcome> {
    let range = in_range(eip, node)?;
    not_of_the_node(eip, node)?;
    not_the_gateway(eip, node)?;
    not_reserved_in(eip, range)?;
    not_broadcast_of_a_link(eip, node)?;
    not_anycast_of_a_link(eip, node)?;
    match node.prefixes.bypass(eip) {
        Some(net) => Err(refused(
            RefuseReason::InsideBypass,
            format!("{eip} is inside the internal network {net}: take an address outside"),
        )),
        None => Ok(()),
    }
}

/// The refusal of a binding whose EIP an older one holds.
pub(super) fn conflict(loser: &BindingFact, holder: &BindingFact) -> Outcome {
    refused(
        RefuseReason::Conflict,
        format!(
            "{} is held by the older EipBinding {}: choose another address or delete that binding",
            loser.eip, holder.name
        ),
    )
}

pub(super) fn refused(reason: RefuseReason, message: String) -> Outcome {
    Outcome::Refused { reason, message }
}

fn in_range(eip: IpAddr, node: &Node<'_>) -> Result<IpNet, Outcome> {
    if !is_unicast(eip) {
        return Err(refused(
            RefuseReason::NotUnicast,
            format!("{eip} is not a unicast address others can reach"),
        ));
    }
    node.prefixes.eip_range(eip).ok_or_else(|| {
        refused(
            RefuseReason::OutsideEipCidrs,
            format!(
                "{eip} is outside the EIP ranges ({})",
                list(&node.settings.eip_cidrs)
            ),
        )
    })
}

fn not_of_the_node(eip: IpAddr, node: &Node<'_>) -> Result<(), Outcome> {
    let Some(ifindex) = node.addresses.get(&eip) else {
        return Ok(());
    };
    let interface = match node.view.links.get(ifindex) {
        Some(link) => link.name.as_str(),
        None => "an interface",
    };
    Err(refused(
        RefuseReason::IsNodeAddress,
        format!("{eip} is an address of this node (on {interface}): take it off or choose another"),
    ))
}

/// The gateway that was set, and those the default routes name.
fn not_the_gateway(eip: IpAddr, node: &Node<'_>) -> Result<(), Outcome> {
    let set = [
        node.settings.gateway4.map(IpAddr::V4),
        node.settings.gateway6.map(IpAddr::V6),
    ];
    let found = node.view.default_routes.iter().map(|route| route.gateway);
    if set
        .into_iter()
        .chain(found)
        .flatten()
        .any(|gateway| gateway == eip)
    {
        let message = format!("{eip} is the gateway: bound to a VM, it would cut the node off");
        return Err(refused(RefuseReason::IsGateway, message));
    }
    Ok(())
}

/// The first and last address of an IPv4 range of /30 or shorter; the first of an IPv6 range, which
/// routers answer on (subnet-router anycast, RFC 4291 2.6.1).
fn not_reserved_in(eip: IpAddr, range: IpNet) -> Result<(), Outcome> {
    if range.max_prefix_len() - range.prefix_len() < 2 {
        return Ok(());
    }
    if eip == range.network() {
        return Err(network_address(eip, range));
    }
    if eip.is_ipv4() && eip == range.broadcast() {
        return Err(broadcast(eip, range));
    }
    Ok(())
}

/// The kernel has a broadcast route for it: packets to it never reach a VM.
fn not_broadcast_of_a_link(eip: IpAddr, node: &Node<'_>) -> Result<(), Outcome> {
    match node.broadcasts.get(&eip) {
        Some(net) => Err(broadcast(eip, *net)),
        None => Ok(()),
    }
}

/// The node answers on it itself: packets to it never reach a VM.
fn not_anycast_of_a_link(eip: IpAddr, node: &Node<'_>) -> Result<(), Outcome> {
    match node.anycasts.get(&eip) {
        Some(net) => Err(network_address(eip, *net)),
        None => Ok(()),
    }
}

fn network_address(eip: IpAddr, net: IpNet) -> Outcome {
    let what = if eip.is_ipv4() {
        "the network address"
    } else {
        "the address of every router (subnet-router anycast)"
    };
    refused(
        RefuseReason::IsNetworkAddress,
        format!("{eip} is {what} of {net}"),
    )
}

fn broadcast(eip: IpAddr, net: IpNet) -> Outcome {
    refused(
        RefuseReason::IsBroadcastAddress,
        format!("{eip} is the broadcast address of {net}"),
    )
}

fn is_unicast(address: IpAddr) -> bool {
    let is_usable = match address {
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_broadcast(),
        // An IPv4-mapped address never stands in a packet.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    };
    is_usable && !address.is_multicast() && !prefixes::is_host_only(address)
}

fn list(nets: &[IpNet]) -> String {
    if nets.is_empty() {
        return "none are set: give --eip-cidr".to_owned();
    }
    nets.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
