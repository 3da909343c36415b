//! The VM's door: both directions of its own port.

use eip_common::{
    abi::{Binding, NET_BYPASS, NET_EIP, VM_MANY_EIPS, VM_STACK_LANE, Vm},
    parse::{Headers, Kind},
    reason::Reason,
};

use crate::{
    deliver::{Arrival, deliver, is_larger_than},
    family::Family,
    flow, maps,
    packet::{NextHop, Skb},
    rewrite::{Change, Hop, translate},
    verdict::Verdict,
};

/// tc egress of the port: whatever reaches the VM by the kernel's hand.
#[inline(always)]
pub(crate) fn enter<A: Family>(skb: &Skb<'_>) -> Verdict {
    let Some((_, destination)) = A::addresses(&skb.view()) else {
        return Verdict::of(Reason::NotIp);
    };
    let Some(binding) = A::binding(destination) else {
        return enter_direct::<A>(skb, destination);
    };
    if binding.port_ifindex != skb.ifindex() {
        return Verdict::of_binding(Reason::WrongPort, binding.slot);
    }
    let Ok(headers) = A::headers(skb) else {
        return Verdict::of_binding(Reason::Malformed, binding.slot);
    };
    flow::remember(&headers, &binding, headers.source, A::net(headers.source));
    let change = Change {
        source: headers.source,
        destination: binding.vm,
        hop: Hop::Kept,
        macs: None,
    };
    match translate(skb, &headers, &change) {
        Ok(()) => {
            maps::count_in(binding.slot, headers.len);
            Verdict::of_binding(Reason::Translated, binding.slot)
        }
        Err(reason) => Verdict::of_binding(reason, binding.slot),
    }
}

/// A packet for the VM's own address, or for none of ours.
#[inline(always)]
fn enter_direct<A: Family>(skb: &Skb<'_>, destination: A) -> Verdict {
    let Some(vm) = A::vm(destination) else {
        return Verdict::of(Reason::NotEip);
    };
    if let Ok(headers) = A::headers(skb) {
        flow::forget_for_direct(&headers);
    }
    Verdict::of_binding(Reason::Direct, vm.slot)
}

/// tc ingress of the port: whatever the VM sends.
#[inline(always)]
pub(crate) fn leave<A: Family>(skb: &Skb<'_>) -> Verdict {
    let Some((source, destination)) = A::addresses(&skb.view()) else {
        return Verdict::of(Reason::NotIp);
    };
    let Some(vm) = A::vm(source) else {
        return leave_unbound(source);
    };
    if vm.port_ifindex != skb.ifindex() {
        return Verdict::spoofed(Reason::SpoofedVm, Some(vm.slot));
    }
    let Ok(headers) = A::headers(skb) else {
        return Verdict::of_binding(Reason::Malformed, vm.slot);
    };
    if destination.stays_on_link() || headers.transport.kind == Kind::Discovery {
        return Verdict::of_binding(Reason::LinkScope, vm.slot);
    }
    let net = A::net(destination);
    if net & NET_BYPASS != 0 {
        return reply_inside(skb, &headers, &vm);
    }
    let eip = if vm.flags & VM_MANY_EIPS == 0 {
        vm.eip
    } else {
        flow::reply(skb, &headers).unwrap_or(vm.eip)
    };
    // An EIP of this node is delivered here; only EIP ranges can hold one.
    let local = if net & NET_EIP == 0 {
        None
    } else {
        A::binding(destination)
    };
    match local {
        Some(binding) => hairpin(skb, &headers, &vm, eip, &binding),
        None => send_out(skb, &headers, &vm, eip),
    }
}

/// The sender is no bound VM: it may not be an EIP either.
#[inline(always)]
fn leave_unbound<A: Family>(source: A) -> Verdict {
    let slot = A::binding(source).map(|binding| binding.slot);
    if slot.is_some() || A::net(source) & NET_EIP != 0 {
        return Verdict::spoofed(Reason::SpoofedEip, slot);
    }
    Verdict::of(Reason::NotBound)
}

/// To pod, service or node network: as the VM, unless it answers somebody who asked an EIP.
#[inline(always)]
fn reply_inside<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, vm: &Vm<A>) -> Verdict {
    let Some(eip) = flow::reply(skb, headers) else {
        return Verdict::of_binding(Reason::Bypass, vm.slot);
    };
    let slot = counter_slot(vm, eip);
    leave_as(skb, headers, eip, slot, Reason::SentAsFlow)
}

/// To an EIP of this node.
#[inline(always)]
fn hairpin<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    vm: &Vm<A>,
    eip: A,
    binding: &Binding<A>,
) -> Verdict {
    let verdict = deliver(
        skb,
        &Arrival {
            headers,
            source: eip,
            source_net: NET_EIP,
        },
        binding,
    );
    if !verdict.is_drop() {
        maps::count_out(counter_slot(vm, eip), headers.len);
    }
    verdict
}

/// To the world.
#[inline(always)]
fn send_out<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, vm: &Vm<A>, eip: A) -> Verdict {
    let slot = counter_slot(vm, eip);
    if vm.flags & VM_STACK_LANE != 0 {
        return leave_as(skb, headers, eip, slot, Reason::SentToStack);
    }
    if headers.ttl <= 1 {
        return leave_as(skb, headers, eip, slot, Reason::TtlExceeded);
    }
    let (hop, mtu) = match way_out(skb, headers, vm, eip) {
        Ok(way) => way,
        Err(reason) => return leave_as(skb, headers, eip, slot, reason),
    };
    if is_larger_than(skb, headers, mtu) {
        return leave_as(skb, headers, eip, slot, Reason::TooLarge);
    }
    let change = Change {
        source: eip,
        destination: headers.destination,
        hop: Hop::Used,
        macs: None,
    };
    if let Err(reason) = translate(skb, headers, &change) {
        return Verdict::of_binding(reason, slot);
    }
    maps::count_out(slot, headers.len);
    Verdict::redirected(Reason::SentToUplink, slot, skb.redirect_neigh(&hop))
}

/// Next hop and MTU: the operator's gateway, else what the kernel's routing says.
#[inline(always)]
fn way_out<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    vm: &Vm<A>,
    eip: A,
) -> Result<(NextHop<A>, u32), Reason> {
    if let Some(gateway) = A::gateway() {
        return Ok((gateway.hop, gateway.mtu));
    }
    let hop = skb
        .route(vm.l3_ifindex, eip, headers.destination)
        .ok_or(Reason::NoRoute)?;
    let mtu = maps::uplink_mtu(hop.ifindex).ok_or(Reason::RoutedElsewhere)?;
    Ok((hop, mtu))
}

/// Gives the packet to the kernel with its EIP.
#[inline(always)]
fn leave_as<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    eip: A,
    slot: u32,
    reason: Reason,
) -> Verdict {
    let change = Change {
        source: eip,
        destination: headers.destination,
        hop: Hop::Kept,
        macs: None,
    };
    match translate(skb, headers, &change) {
        Ok(()) => {
            maps::count_out(slot, headers.len);
            Verdict::of_binding(reason, slot)
        }
        Err(reason) => Verdict::of_binding(reason, slot),
    }
}

/// The counter slot of the EIP a packet of the VM carries.
#[inline(always)]
fn counter_slot<A: Family>(vm: &Vm<A>, eip: A) -> u32 {
    if eip == vm.eip {
        return vm.slot;
    }
    A::binding(eip).map_or(vm.slot, |binding| binding.slot)
}
