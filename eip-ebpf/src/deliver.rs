//! The last step to a VM on this node, by the lane its binding names.

use eip_common::{
    abi::{Binding, Delivery},
    parse::{Fragment, Headers},
    reason::Reason,
};

use crate::{
    carry::{Plan, Way},
    family::Family,
    flow, maps,
    packet::{NextHop, Skb},
    rewrite::Hop,
};

/// How a packet for an EIP gets to the VM behind it. Its source in the plan is what the VM will see, and
/// `source_net` what the node knows about that.
///
/// What the kernel has to answer itself (no hop left, too large) goes to the kernel with the EIP as
/// its destination: the answer quotes what the sender sent.
#[inline(always)]
pub(crate) fn deliver<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    source_net: u32,
    binding: &Binding<A>,
    plan: &mut Plan<A>,
) {
    let lane = Delivery::from_byte(binding.delivery);
    plan.slot = binding.slot;
    plan.way = Way::Kernel;
    plan.reason = match lane {
        Delivery::Stack => Reason::DeliveredStack,
        _ if headers.ttl <= 1 => Reason::TtlExceeded,
        _ if is_larger_than(skb, headers, binding.mtu) && !fits_anyway(headers, lane) => {
            Reason::TooLarge
        }
        Delivery::Neigh if has_larger_siblings(skb, headers, binding) => Reason::TooLarge,
        Delivery::Neigh => Reason::DeliveredNeigh,
        Delivery::Forward => Reason::Forwarded,
        Delivery::Peer | Delivery::Xdp => Reason::DeliveredPeer,
    };
    if plan.reason == Reason::DeliveredPeer {
        flow::remember(headers, binding, &plan.change.source, source_net);
        plan.change.destination = binding.vm;
        plan.change.hop = Hop::Used;
        plan.change.macs = Some((binding.vm_mac, binding.node_mac));
        plan.way = Way::Peer(binding.port_ifindex);
        plan.arrives = true;
    } else if matches!(plan.reason, Reason::DeliveredNeigh | Reason::Forwarded) {
        plan.change.hop = Hop::Used;
        plan.way = Way::Neighbour(NextHop {
            ifindex: binding.l3_ifindex,
            address: binding.vm,
        });
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
/// puts a datagram together before it forwards it: it needs all of the fragments or none. Of one that nobody
/// may cut again, as always in IPv6, it gets none: the sender is told of the large ones.
#[inline(always)]
fn has_larger_siblings<A>(skb: &Skb<'_>, headers: &Headers<A>, binding: &Binding<A>) -> bool {
    headers.fragment != Fragment::Whole
        && !headers.dont_fragment
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
    // Of protocols but TCP and UDP, what segments is left to the kernel by its size.
    let transport = u32::from(headers.transport.header_len);
    headers.before_transport() + transport + segment > mtu
}
