//! A virt-launcher pod's network, as KubeVirt leaves it for the two bindings.

use anyhow::bail;
use eip_lab::{
    hidden,
    plan::{Attachment, Family, GuestPlan, HIDDEN, NODE_BRIDGE},
    world::Guest,
};

use crate::machine::Setup;

/// How the VM hangs on its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// A bridge joins the pod's interface and the tap; the VM has the pod's addresses.
    Bridge,
    /// The pod keeps its address and hides the VM behind it.
    Masquerade,
}

/// Wires a pod whose interface is there, and says how its VM has to be set up.
///
/// # Errors
/// When the kernel refuses.
pub fn wire(guest: &Guest, binding: Binding, mtu: u32) -> anyhow::Result<Setup> {
    match binding {
        Binding::Bridge => bridge(guest, mtu),
        Binding::Masquerade => masquerade(guest, mtu),
    }
}

fn bridge(guest: &Guest, mtu: u32) -> anyhow::Result<Setup> {
    // The pod's interface loses its addresses to the VM and gets another hardware address.
    guest.ns.ip(&format!(
        "addr flush dev eth0
        link set eth0 down
        link set eth0 address 02:00:00:00:ff:01
        link add k6t-eth0 type bridge
        link set k6t-eth0 mtu {mtu}
        addr add 169.254.75.10/32 dev k6t-eth0
        tuntap add dev tap0 mode tap
        link set tap0 mtu {mtu} master k6t-eth0 up
        link set eth0 master k6t-eth0 up
        link set k6t-eth0 up
        "
    ))?;
    guest.ns.sh("bridge link set dev eth0 learning off")?;
    let GuestPlan {
        address,
        attachment,
        mac,
        ..
    } = guest.plan;
    let (lengths, routers) = match attachment {
        Attachment::Routed => ([32, 128], ["169.254.1.1".to_owned(), "fe80::1".to_owned()]),
        Attachment::BridgePort => (
            [24, 64],
            Family::BOTH.map(|family| NODE_BRIDGE.of(family).to_string()),
        ),
    };
    let [gateway, gateway6] = routers;
    Ok(Setup {
        mac,
        address: format!("{}/{}", address.v4, lengths[0]),
        gateway,
        address6: format!("{}/{}", address.v6, lengths[1]),
        gateway6,
        mtu,
    })
}

fn masquerade(guest: &Guest, mtu: u32) -> anyhow::Result<Setup> {
    guest.ns.ip(&format!(
        "link add k6t-eth0 type bridge
        link set k6t-eth0 mtu {mtu}
        addr add 10.0.2.1/24 dev k6t-eth0
        addr add fd10:0:2::1/120 dev k6t-eth0 nodad
        tuntap add dev tap0 mode tap
        link set tap0 mtu {mtu} master k6t-eth0 up
        link set k6t-eth0 up
        "
    ))?;
    guest
        .ns
        .sysctl("ipv4/ip_forward=1\nipv6/conf/all/forwarding=1")?;
    hidden::masquerade(&guest.ns)?;
    if guest.plan.address.v4 == HIDDEN.v4 {
        bail!("{} has the address of a hidden VM", guest.plan.name);
    }
    Ok(Setup {
        mac: [2, 0, 0, 0, 0, 1],
        address: format!("{}/24", HIDDEN.v4),
        gateway: "10.0.2.1".to_owned(),
        address6: format!("{}/120", HIDDEN.v6),
        gateway6: "fd10:0:2::1".to_owned(),
        mtu,
    })
}
