//! Where the network is told to send traffic to (RFC 4271 §5.1.3, RFC 2545, RFC 8950).

use std::net::{IpAddr, Ipv4Addr};

use super::{Agreement, Endpoints};
use crate::announce::bgp::{config::ExportPolicy, wire::NextHop};

/// Where traffic is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// `NEXT_HOP` attribute.
    Plain(Ipv4Addr),
    /// In `MP_REACH_NLRI`.
    Multiprotocol(NextHop),
}

/// Configured, else our own address, else an IPv6 one where the peer takes it (RFC 8950 §4).
pub(super) fn next_hop_ipv4(
    policy: &ExportPolicy,
    endpoints: Endpoints,
    agreement: &Agreement,
) -> Option<Via> {
    let own = match endpoints.local {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => endpoints.other_ipv4,
    };
    let extended = || {
        let next_hop = next_hop_ipv6(policy, endpoints);
        next_hop.filter(|_| agreement.extended_next_hop)
    };
    policy
        .next_hop_ipv4
        .or(own)
        .map(Via::Plain)
        .or_else(extended)
}

/// Configured, else our own address.
pub(super) fn next_hop_ipv6(policy: &ExportPolicy, endpoints: Endpoints) -> Option<Via> {
    let own = match endpoints.local {
        // The link-local address stands alone only where there is nothing else.
        IpAddr::V6(own) if own.is_unicast_link_local() => endpoints.other_ipv6.or(Some(own)),
        IpAddr::V6(own) => Some(own),
        IpAddr::V4(_) => endpoints.other_ipv6,
    };
    let global = policy.next_hop_ipv6.or(own)?;
    // RFC 2545 §3: the link-local address only beside our own, on a shared link.
    let link_local = endpoints
        .link_local
        .filter(|_| policy.next_hop_ipv6.is_none());
    let link_local = link_local.filter(|link_local| *link_local != global);
    Some(Via::Multiprotocol(NextHop { global, link_local }))
}
