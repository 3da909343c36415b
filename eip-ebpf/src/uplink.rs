//! From the network: XDP and tc ingress on an uplink.

use eip_common::{
    abi::{BINDING_SHARES_VM, Binding, Delivery, NET_BYPASS, NET_EIP},
    neighbour::ETHERTYPE_ARP,
    parse::{
        Bytes, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN,
        Fragment, Headers, Kind, ParseError,
    },
    reason::{Hook, Reason},
};

use crate::{
    carry::{Plan, carry_out},
    deliver::deliver,
    family::Family,
    maps,
    packet::{Frame, Skb, View},
    rewrite::{Change, Hop, translate_frame},
    too_large::{TOO_LARGE, TOO_LARGE_FRAME},
    verdict::Verdict,
};

/// What an Ethernet header announces.
pub(crate) enum Carries {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// A VLAN tag before whatever else.
    Tag,
    /// Anything else, or nothing.
    Other,
}

/// Reads the ethertype.
#[inline(always)]
pub(crate) fn carries(view: View<'_>) -> Carries {
    match view.read::<ETHERNET_LEN>(0) {
        Some(header) => match [header[12], header[13]] {
            ETHERTYPE_IPV4 => Carries::Ipv4,
            ETHERTYPE_IPV6 => Carries::Ipv6,
            ETHERTYPE_ARP => Carries::Arp,
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => Carries::Tag,
            _ => Carries::Other,
        },
        None => Carries::Other,
    }
}

/// tc ingress, to its end, or [`TOO_LARGE`].
#[inline(never)]
pub(crate) fn receive<A: Family>(skb: &Skb<'_>) -> i32 {
    match received::<A>(skb) {
        Some(verdict) => verdict.finish_tc(Hook::UplinkTc, skb),
        None => TOO_LARGE,
    }
}

/// Checks the sender and delivers.
#[inline(always)]
fn received<A: Family>(skb: &Skb<'_>) -> Option<Verdict> {
    let Some((_, destination)) = A::addresses(&skb.view()) else {
        return Some(Verdict::of(Reason::NotIp));
    };
    let binding = A::binding(destination);
    let Some(binding) = &binding else {
        return Some(Verdict::of(Reason::NotEip));
    };
    if maps::is_fenced(binding.slot) {
        return Some(Verdict::of_binding(Reason::Fenced, binding.slot));
    }
    let headers = A::headers(skb);
    let Ok(headers) = &headers else {
        return Some(Verdict::of_binding(Reason::Malformed, binding.slot));
    };
    if headers.transport.kind == Kind::Discovery {
        return Some(Verdict::of_binding(Reason::LinkScope, binding.slot));
    }
    let source_net = A::net(headers.source);
    if source_net & NET_EIP != 0 && A::binding(headers.source).is_some() {
        return Some(Verdict::of_binding(
            Reason::SpoofedFromNetwork,
            binding.slot,
        ));
    }
    let mut plan = Plan::untouched(headers, Reason::NotEip, binding.slot);
    deliver(skb, headers, source_net, binding, &mut plan);
    if plan.reason == Reason::TooLarge {
        return None;
    }
    Some(carry_out(skb, headers, &plan))
}

/// XDP, to its end, or [`TOO_LARGE_FRAME`].
#[inline(never)]
pub(crate) fn classify<A: Family>(frame: &Frame<'_>) -> u32 {
    match classified::<A>(frame) {
        Some(verdict) => verdict.finish_xdp(Hook::UplinkXdp, frame),
        None => TOO_LARGE_FRAME,
    }
}

/// Carries what the express lane may carry. Whatever it is not sure of it leaves to tc unchanged.
#[inline(always)]
fn classified<A: Family>(frame: &Frame<'_>) -> Option<Verdict> {
    let view = frame.view();
    let Some((_, destination)) = A::addresses(&view) else {
        return Some(Verdict::of(Reason::NotIp));
    };
    let binding = A::binding(destination);
    let Some(binding) = &binding else {
        return Some(Verdict::of(Reason::NotEip));
    };
    let is_large = view.l3_len() > binding.mtu && binding.delivery != Delivery::Stack as u8;
    let is_express = binding.delivery == Delivery::Xdp as u8;
    if !(is_large || is_express) || maps::is_fenced(binding.slot) {
        return Some(Verdict::of_binding(Reason::LeftToTc, binding.slot));
    }
    if is_large {
        return None;
    }
    Some(match &A::plain_headers(view, view.l3_len()) {
        Ok(headers) if may_take_express(headers, binding) => express(frame, headers, binding),
        Ok(_) | Err(ParseError::Malformed | ParseError::NotIp) => {
            Verdict::of_binding(Reason::LeftToTc, binding.slot)
        }
    })
}

/// The express lane is for what needs neither state nor an answer nor a second look.
#[inline(always)]
fn may_take_express<A: Family>(headers: &Headers<A>, binding: &Binding<A>) -> bool {
    headers.ttl > 1
        && headers.len <= binding.mtu
        && !matches!(headers.transport.kind, Kind::IcmpError | Kind::Discovery)
        && headers.fragment != Fragment::First
        && binding.flags & BINDING_SHARES_VM == 0
        && A::net(headers.source) & (NET_BYPASS | NET_EIP) == 0
}

#[inline(never)]
fn express<A: Family>(frame: &Frame<'_>, headers: &Headers<A>, binding: &Binding<A>) -> Verdict {
    let change = Change {
        source: headers.source,
        destination: binding.vm,
        hop: Hop::Used,
        macs: Some((binding.vm_mac, binding.node_mac)),
    };
    match translate_frame(frame.view(), headers, &change, A::PLAIN_L4) {
        Ok(()) => {
            maps::count_in(binding.slot, headers.len);
            let code = frame.redirect(binding.port_ifindex);
            Verdict::redirected(Reason::DeliveredXdp, binding.slot, code)
        }
        Err(reason) => Verdict::of_binding(reason, binding.slot),
    }
}
