//! Every address of the lab, in one place. Documentation prefixes outside, Kubernetes' usual ones
//! inside; each host has both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address of each family with the prefix length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        Self {
            v4: Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]),
            v6: Ipv6Addr::new(v6[0], v6[1], v6[2], v6[3], v6[4], v6[5], v6[6], v6[7]),
        }
    }

    /// The address of a family.
    #[must_use]
    pub const fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Each of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The prefix length of one address.
    #[must_use]
    pub const fn host_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The client, far away.
pub const CLIENT: Dual = Dual::new([198, 51, 100, 2], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2]);
/// The router, toward the client.
pub const ROUTER_CLIENT: Dual = Dual::new([198, 51, 100, 1], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1]);
/// The router, toward the node's uplink: the EIP gateway.
pub const ROUTER_UPLINK: Dual = Dual::new([192, 0, 2, 1], [0x2001, 0xdb8, 0x2, 0, 0, 0, 0, 1]);
/// The node's uplink.
pub const NODE_UPLINK: Dual = Dual::new([192, 0, 2, 10], [0x2001, 0xdb8, 0x2, 0, 0, 0, 0, 0x10]);
/// The router, toward the node's management network.
pub const ROUTER_MANAGEMENT: Dual =
    Dual::new([172, 16, 0, 1], [0x2001, 0xdb8, 0x16, 0, 0, 0, 0, 1]);
/// The node in the management network.
pub const NODE_MANAGEMENT: Dual =
    Dual::new([172, 16, 0, 10], [0x2001, 0xdb8, 0x16, 0, 0, 0, 0, 0x10]);
/// The node's bridge, gateway of everything behind it.
pub const NODE_BRIDGE: Dual = Dual::new([10, 244, 2, 1], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 1]);

/// A VM behind a pod that translates, as KubeVirt's masquerade binding has it: every such VM has this address.
pub const HIDDEN: Dual = Dual::new([10, 0, 2, 2], [0xfd10, 0, 2, 0, 0, 0, 0, 2]);
/// The pod, toward that VM.
pub const HIDDEN_GATEWAY: Dual = Dual::new([10, 0, 2, 1], [0xfd10, 0, 2, 0, 0, 0, 0, 1]);

/// Where EIPs come from.
pub const EIP_CIDR: &str = "203.0.113.0/24";
/// As [`EIP_CIDR`], for IPv6.
pub const EIP_CIDR6: &str = "2001:db8:113::/64";
/// Pod network.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// As [`POD_CIDR`], for IPv6.
pub const POD_CIDR6: &str = "fd00:10:244::/48";
/// Service network.
pub const SERVICE_CIDR: &str = "10.96.0.0/12";
/// As [`SERVICE_CIDR`], for IPv6.
pub const SERVICE_CIDR6: &str = "fd00:10:96::/112";
/// Network between a pod and the VM that is hidden behind it.
pub const HIDDEN_CIDR: &str = "10.0.2.0/24";
/// As [`HIDDEN_CIDR`], for IPv6.
pub const HIDDEN_CIDR6: &str = "fd10:0:2::/120";
/// Network of the nodes.
pub const MANAGEMENT_CIDR: &str = "172.16.0.0/24";
/// As [`MANAGEMENT_CIDR`], for IPv6.
pub const MANAGEMENT_CIDR6: &str = "2001:db8:16::/64";
/// The node's name in documents and flags.
pub const NODE_NAME: &str = "hv";

/// EIPs the demo and most tests use, by VM.
pub mod eip {
    use super::Dual;

    /// For `vm1`, behind a routed veth.
    pub const VM1: Dual = Dual::new([203, 0, 113, 11], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x11]);
    /// For `vm2`, behind the bridge.
    pub const VM2: Dual = Dual::new([203, 0, 113, 12], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x12]);
    /// For `vm3`, behind the same bridge.
    pub const VM3: Dual = Dual::new([203, 0, 113, 13], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x13]);
    /// A second one for whoever wants it.
    pub const SECOND: Dual = Dual::new([203, 0, 113, 1], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1]);
    /// Of a VM on another node, for which the client's namespace stands.
    pub const ELSEWHERE: Dual =
        Dual::new([203, 0, 113, 77], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x77]);
    /// Never bound.
    pub const UNASSIGNED: Dual =
        Dual::new([203, 0, 113, 99], [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x99]);
}

/// How a guest hangs on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A routed veth with a host route, as Calico does it.
    Routed,
    /// A port of the bridge `cni0`, as bridge and flannel do it.
    BridgePort,
}

/// A VM or pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestPlan {
    /// Name.
    pub name: &'static str,
    /// Its own address.
    pub address: Dual,
    /// Its host-side interface.
    pub port: &'static str,
    /// How it hangs on the node.
    pub attachment: Attachment,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A VM behind a routed veth.
pub const VM1: GuestPlan = GuestPlan {
    name: "vm1",
    address: Dual::new([10, 244, 1, 11], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x11]),
    port: "cali1",
    attachment: Attachment::Routed,
    mac: [0x02, 0, 0, 0, 0x01, 0x11],
};
/// A VM behind the bridge.
pub const VM2: GuestPlan = GuestPlan {
    name: "vm2",
    address: Dual::new([10, 244, 2, 12], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x12]),
    port: "veth2",
    attachment: Attachment::BridgePort,
    mac: [0x02, 0, 0, 0, 0x02, 0x12],
};
/// A second VM behind the same bridge.
pub const VM3: GuestPlan = GuestPlan {
    name: "vm3",
    address: Dual::new([10, 244, 2, 13], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x13]),
    port: "veth3",
    attachment: Attachment::BridgePort,
    mac: [0x02, 0, 0, 0, 0x02, 0x13],
};
/// A pod without EIP, routed.
pub const POD1: GuestPlan = GuestPlan {
    name: "pod1",
    address: Dual::new([10, 244, 1, 20], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x20]),
    port: "cali2",
    attachment: Attachment::Routed,
    mac: [0x02, 0, 0, 0, 0x01, 0x20],
};
/// A pod without EIP, behind the bridge.
pub const POD2: GuestPlan = GuestPlan {
    name: "pod2",
    address: Dual::new([10, 244, 2, 20], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x20]),
    port: "veth4",
    attachment: Attachment::BridgePort,
    mac: [0x02, 0, 0, 0, 0x02, 0x20],
};

/// A MAC the way people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A network by the text of one of this module's constants.
///
/// # Panics
/// For any other text.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "constants of this module, read by a test below"
)]
pub fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix of the address plan")
}

/// Whether an address is one of the node's that are reached from elsewhere.
#[must_use]
pub fn is_node(address: IpAddr) -> bool {
    let of_node = [NODE_UPLINK, NODE_MANAGEMENT, NODE_BRIDGE];
    of_node.iter().any(|dual| {
        Family::BOTH
            .iter()
            .any(|family| dual.of(*family) == address)
    })
}

/// The networks no packet outside the node may carry an address of.
#[must_use]
pub fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => [POD_CIDR, SERVICE_CIDR, HIDDEN_CIDR]
            .iter()
            .any(|text| text.parse::<Ipv4Net>().is_ok_and(|net| net.contains(&v4))),
        IpAddr::V6(v6) => [POD_CIDR6, SERVICE_CIDR6, HIDDEN_CIDR6]
            .iter()
            .any(|text| text.parse::<Ipv6Net>().is_ok_and(|net| net.contains(&v6))),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        EIP_CIDR, EIP_CIDR6, Family, HIDDEN, HIDDEN_CIDR, HIDDEN_CIDR6, HIDDEN_GATEWAY, POD_CIDR,
        POD_CIDR6, POD1, POD2, SERVICE_CIDR, SERVICE_CIDR6, VM1, VM2, VM3, eip, is_inside, net,
    };

    #[test]
    fn guests_are_inside_and_eips_are_not() {
        for family in [Family::V4, Family::V6] {
            for guest in [VM1, VM2, VM3, POD1, POD2] {
                assert!(is_inside(guest.address.of(family)), "{}", guest.name);
            }
            for hidden in [HIDDEN, HIDDEN_GATEWAY] {
                assert!(is_inside(hidden.of(family)));
            }
            for address in [eip::VM1, eip::VM2, eip::VM3, eip::SECOND, eip::UNASSIGNED] {
                assert!(!is_inside(address.of(family)));
            }
        }
    }

    #[test]
    fn networks_parse_and_do_not_overlap() {
        let all = [
            EIP_CIDR,
            EIP_CIDR6,
            POD_CIDR,
            POD_CIDR6,
            SERVICE_CIDR,
            SERVICE_CIDR6,
            HIDDEN_CIDR,
            HIDDEN_CIDR6,
        ]
        .map(net);
        for (index, one) in all.iter().enumerate() {
            for other in all.iter().skip(index + 1) {
                assert!(
                    !one.contains(other) && !other.contains(one),
                    "{one} {other}"
                );
            }
        }
    }
}
