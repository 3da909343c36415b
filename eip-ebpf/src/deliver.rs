//! The last step to a VM on this node, by the lane its binding names.

use eip_common::{
    abi::{Binding, Delivery},
    parse::{Fragment, Headers, Kind},
    reason::Reason,
};

use crate::{
    family::Family,
    flow, maps,
    packet::{NextHop, Skb},
    rewrite::{Change, Hop, translate},
    verdict::Verdict,
};

/// A packet for an EIP, as it will be apart from its destination.
pub(crate) struct Arrival<'a, A> {
    /// The packet as it is.
    pub(crate) headers: &'a Headers<A>,
    /// Its source afterwards: another one only for a VM on this node.
    pub(crate) source: A,
    /// What the node knows about that source.
    pub(crate) source_net: u32,
}

/// Delivers a packet for an EIP to the VM behind it.
///
/// What the kernel has to answer itself (no hop left, too large) goes to the kernel with the EIP as
/// its destination: the answer quotes what the sender sent.
#[inline(always)]
pub(crate) fn deliver<A: Family>(
    skb: &Skb<'_>,
    arrival: &Arrival<'_, A>,
    binding: &Binding<A>,
) -> Verdict {
    let headers = arrival.headers;
    let lane = Delivery::from_byte(binding.delivery);
    let reason = match lane {
        Delivery::Stack => Reason::DeliveredStack,
        _ if headers.ttl <= 1 => Reason::TtlExceeded,
        _ if is_larger_than(skb, headers, binding.mtu) && !fits_anyway(headers, lane) => {
            Reason::TooLarge
        }
        Delivery::Neigh if has_larger_siblings(skb, headers, binding) => Reason::TooLarge,
        Delivery::Neigh => Reason::DeliveredNeigh,
        Delivery::Peer | Delivery::Xdp => Reason::DeliveredPeer,
    };
    let is_here = reason == Reason::DeliveredPeer;
    let change = Change {
        source: arrival.source,
        destination: if is_here {
            binding.vm
        } else {
            headers.destination
        },
        hop: if is_here || reason == Reason::DeliveredNeigh {
            Hop::Used
        } else {
            Hop::Kept
        },
        macs: if is_here {
            Some((binding.vm_mac, binding.node_mac))
        } else {
            None
        },
    };
    if is_here {
        flow::remember(headers, binding, arrival.source, arrival.source_net);
    }
    if let Err(reason) = translate(skb, headers, &change) {
        return Verdict::of_binding(reason, binding.slot);
    }
    match reason {
        Reason::DeliveredPeer => {
            maps::count_in(binding.slot, headers.len);
            let code = skb.redirect_peer(binding.port_ifindex);
            Verdict::redirected(reason, binding.slot, code)
        }
        Reason::DeliveredNeigh => {
            let hop = NextHop {
                ifindex: binding.l3_ifindex,
                address: binding.vm,
            };
            Verdict::redirected(reason, binding.slot, skb.redirect_neigh(&hop))
        }
        other => Verdict::of_binding(other, binding.slot),
    }
}

/// Whether a packet larger than the link goes through all the same.
///
/// One that may be fragmented has no use for an answer. The kernel would fragment and forward it, if its
/// FORWARD chain lets EIPs pass, which the redirect lanes exist to not depend on. The VM's side of the
/// port receives what is handed to it whatever its own MTU is; the redirect to a neighbour does not get
/// past the port.
#[inline(always)]
fn fits_anyway<A>(headers: &Headers<A>, lane: Delivery) -> bool {
    !headers.dont_fragment && matches!(lane, Delivery::Peer | Delivery::Xdp)
}

/// Whether another fragment of the same datagram may be too large where this one is not. The kernel
/// puts a datagram together before it forwards it: it needs all of the fragments or none.
#[inline(always)]
fn has_larger_siblings<A>(skb: &Skb<'_>, headers: &Headers<A>, binding: &Binding<A>) -> bool {
    headers.fragment != Fragment::Whole
        && maps::uplink_mtu(skb.ifindex()).is_some_and(|mtu| mtu > binding.mtu)
}

/// Whether the packet, or a segment of the super-packet it is, exceeds `mtu`.
#[inline(always)]
pub(crate) fn is_larger_than<A>(skb: &Skb<'_>, headers: &Headers<A>, mtu: u32) -> bool {
    if headers.len <= mtu {
        return false;
    }
    let segment = skb.segment_size();
    if segment == 0 {
        return true;
    }
    let transport = match headers.transport.kind {
        Kind::Tcp(len) => len,
        // UDP; anything else that segments is left to the kernel by its size.
        Kind::TcpOpen | Kind::IcmpError | Kind::Discovery | Kind::Other => 8,
    };
    #[expect(clippy::cast_possible_truncation, reason = "header lengths")]
    let before = (headers.l4 - headers.l3 + transport) as u32;
    before + segment > mtu
}
