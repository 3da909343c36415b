//! The prefixes a node knows: which addresses are internal (bypass), which are EIPs.
//!
//! The longest match decides alone, here and in the kernel: an EIP range inside a bypass network is
//! an EIP range, a bypass network inside an EIP range is bypass.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::model::{NetState, NetworkView, NodeSettings};

/// The prefixes of the settings.
pub(super) struct Prefixes<'a> {
    settings: &'a NodeSettings,
}

impl<'a> Prefixes<'a> {
    pub(super) fn new(settings: &'a NodeSettings) -> Self {
        Self { settings }
    }

    /// The most specific EIP range around `address`.
    pub(super) fn eip_range(&self, address: IpAddr) -> Option<IpNet> {
        longest(&self.settings.eip_cidrs, address)
    }

    /// The internal network `address` belongs to: none where a more specific EIP range holds it.
    /// A prefix that is both counts as internal.
    pub(super) fn bypass(&self, address: IpAddr) -> Option<IpNet> {
        let net = longest(&self.settings.internal_nets, address)?;
        let range = self
            .eip_range(address)
            .map_or(0, |range| range.prefix_len());
        (net.prefix_len() >= range).then_some(net)
    }
}

fn longest(nets: &[IpNet], address: IpAddr) -> Option<IpNet> {
    nets.iter()
        .filter(|net| net.contains(&address))
        .max_by_key(|net| net.prefix_len())
        .map(IpNet::trunc)
}

/// What the prefix maps shall hold: internal networks, EIP ranges, and each address of the node as a
/// host prefix, so that replies to the node find their flow.
pub(super) fn nets(settings: &NodeSettings, view: &NetworkView) -> BTreeMap<IpNet, NetState> {
    let mut nets: BTreeMap<IpNet, NetState> = BTreeMap::new();
    for net in &settings.internal_nets {
        nets.entry(net.trunc()).or_default().is_bypass = true;
    }
    for net in &settings.eip_cidrs {
        nets.entry(net.trunc()).or_default().is_eip_range = true;
    }
    let prefixes = Prefixes::new(settings);
    for address in view.addresses.iter().map(|entry| entry.address.addr()) {
        // Nodes can carry thousands of addresses (kube-proxy in IPVS mode has every service's): those
        // an internal network covers anyway need no entry of their own.
        if !is_host_only(address) && prefixes.bypass(address).is_none() {
            nets.entry(IpNet::from(address)).or_default().is_bypass = true;
        }
    }
    nets
}

/// Addresses that mean something on one host or link only.
pub(super) fn is_host_only(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// Both addresses belong to one family.
pub(super) fn is_same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
