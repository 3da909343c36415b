//! Where on this node a VM address is: its port, its L3 device, its MAC.
//!
//! ```text
//! routed:  route to VM ─> veth (L3 device and port)
//! bridge:  route to VM ─> bridge (L3 device) ─ neighbour ─> MAC ─ forwarding entry ─> port
//! ```

use std::net::IpAddr;

use eip_common::addr::Mac;

use crate::model::{Link, Location, NetworkView, WaitReason};

/// Why a VM cannot be placed at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The reason the binding will show.
    pub reason: WaitReason,
    /// What was found, what is missing.
    pub message: String,
}

/// Kinds of interfaces that lead to other nodes.
const TUNNELS: [&str; 11] = [
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "ipip",
    "ip6tnl",
    "sit",
    "wireguard",
    "vti",
];

/// Finds the place of `vm`. `uplinks` are names of interfaces behind which no VM of this node is.
///
/// # Errors
/// The reason why its binding has to wait.
pub fn locate(vm: IpAddr, view: &NetworkView, uplinks: &[String]) -> Result<Location, Unplaced> {
    let l3 = l3_device(vm, view)?;
    let (port, vm_mac) = if l3.kind == "bridge" {
        let (port, mac) = bridge_port(vm, l3, view)?;
        (port, Some(mac))
    } else {
        (l3, view.neighbours.get(&(l3.ifindex, vm)).copied())
    };
    for link in [l3, port] {
        leads_to_a_vm(vm, link, uplinks)?;
    }
    let node_mac = l3.mac.ok_or_else(|| no_ethernet(l3))?;
    port.mac.ok_or_else(|| no_ethernet(port))?;
    Ok(Location {
        port: port.ifindex,
        l3: l3.ifindex,
        mtu: port.mtu.min(l3.mtu),
        vm_mac,
        node_mac,
    })
}

fn l3_device(vm: IpAddr, view: &NetworkView) -> Result<&Link, Unplaced> {
    let route = view.routes.get(&vm).ok_or_else(|| {
        unplaced(
            WaitReason::NoRoute,
            format!("the node has no route to the VM's address {vm}"),
        )
    })?;
    if !route.is_unicast {
        let message = format!("the node's route to {vm} is not a unicast route");
        return Err(unplaced(WaitReason::NotLocal, message));
    }
    if let Some(gateway) = route.gateway {
        let message = format!("the node's route to {vm} goes through {gateway}: it is not here");
        return Err(unplaced(WaitReason::NotLocal, message));
    }
    view.links.get(&route.ifindex).ok_or_else(|| {
        unplaced(
            WaitReason::NoRoute,
            format!("the interface of the route to {vm} is gone"),
        )
    })
}

fn bridge_port<'a>(
    vm: IpAddr,
    bridge: &Link,
    view: &'a NetworkView,
) -> Result<(&'a Link, Mac), Unplaced> {
    let unknown = |what: &str| {
        unplaced(
            WaitReason::PortUnknown,
            format!("{what} {vm} on bridge {}", bridge.name),
        )
    };
    let mac = *view
        .neighbours
        .get(&(bridge.ifindex, vm))
        .ok_or_else(|| unknown("no neighbour entry yet for"))?;
    let index = view
        .bridge_ports
        .get(&(bridge.ifindex, mac))
        .ok_or_else(|| unknown("no forwarding entry yet for"))?;
    view.links
        .get(index)
        .filter(|port| port.master == Some(bridge.ifindex))
        .map(|port| (port, mac))
        .ok_or_else(|| unknown("a stale forwarding entry for"))
}

fn leads_to_a_vm(vm: IpAddr, link: &Link, uplinks: &[String]) -> Result<(), Unplaced> {
    let what = if uplinks.contains(&link.name) {
        "an uplink"
    } else if TUNNELS.contains(&link.kind.as_str()) {
        "a tunnel"
    } else {
        return Ok(());
    };
    let message = format!(
        "{vm} is behind {what} ({}): the VM is not on this node",
        link.name
    );
    Err(unplaced(WaitReason::NotLocal, message))
}

fn no_ethernet(link: &Link) -> Unplaced {
    let message = format!(
        "{} (kind {:?}) has no Ethernet address",
        link.name, link.kind
    );
    unplaced(WaitReason::PortUnsupported, message)
}

fn unplaced(reason: WaitReason, message: String) -> Unplaced {
    Unplaced { reason, message }
}
