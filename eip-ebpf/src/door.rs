//! The VM's door: both directions of its own port.

use eip_common::{
    abi::{NET_BYPASS, NET_EIP, NO_SLOT, VM_MANY_EIPS, VM_STACK_LANE, Vm},
    parse::{Headers, Kind},
    reason::{Hook, Reason},
};

use crate::{
    carry::{Plan, Way, carry_out},
    deliver::{deliver, is_larger_than},
    family::Family,
    flow, maps,
    packet::Skb,
    rewrite::Hop,
    verdict::Verdict,
};

/// tc egress of the port, to its end.
#[inline(never)]
pub(crate) fn enter<A: Family>(skb: &Skb<'_>) -> i32 {
    entered::<A>(skb).finish_tc(Hook::DoorIn, skb)
}

/// Whatever reaches the VM by the kernel's hand.
#[inline(always)]
fn entered<A: Family>(skb: &Skb<'_>) -> Verdict {
    let Some((_, destination)) = A::addresses(&skb.view()) else {
        return Verdict::of(Reason::NotIp);
    };
    let binding = A::binding(destination);
    let Some(binding) = &binding else {
        return enter_direct::<A>(skb, destination);
    };
    if binding.port_ifindex != skb.ifindex() {
        return Verdict::of_binding(Reason::WrongPort, binding.slot);
    }
    if maps::is_fenced(binding.slot) {
        return Verdict::of_binding(Reason::Fenced, binding.slot);
    }
    let headers = A::headers(skb);
    let Ok(headers) = &headers else {
        return Verdict::of_binding(Reason::Malformed, binding.slot);
    };
    let source_net = A::net(headers.source);
    flow::remember(headers, binding, &headers.source, source_net);
    let mut plan = Plan::untouched(headers, Reason::Translated, binding.slot);
    plan.change.destination = binding.vm;
    plan.way = Way::Kernel;
    plan.arrives = true;
    carry_out(skb, headers, &plan)
}

/// A packet for the VM's own address, or for none of ours.
#[inline(always)]
fn enter_direct<A: Family>(skb: &Skb<'_>, destination: A) -> Verdict {
    let Some(vm) = A::vm(destination) else {
        return Verdict::of(Reason::NotEip);
    };
    if let Ok(headers) = &A::headers(skb) {
        flow::forget_for_direct(headers);
    }
    Verdict::of_binding(Reason::Direct, vm.slot)
}

/// tc ingress of the port, to its end.
#[inline(never)]
pub(crate) fn leave<A: Family>(skb: &Skb<'_>) -> i32 {
    left::<A>(skb).finish_tc(Hook::DoorOut, skb)
}

/// Whatever the VM sends.
#[inline(always)]
fn left<A: Family>(skb: &Skb<'_>) -> Verdict {
    let Some((source, _)) = A::addresses(&skb.view()) else {
        return Verdict::of(Reason::NotIp);
    };
    let vm = A::vm(source);
    let Some(vm) = &vm else {
        return leave_unbound(source);
    };
    if vm.port_ifindex != skb.ifindex() {
        return Verdict::of_binding(Reason::SpoofedVm, vm.slot);
    }
    let headers = A::headers(skb);
    let Ok(headers) = &headers else {
        return Verdict::of_binding(Reason::Malformed, vm.slot);
    };
    let mut plan = Plan::untouched(headers, Reason::LinkScope, vm.slot);
    if !headers.destination.stays_on_link() {
        plan_leave(skb, headers, vm, &mut plan);
    }
    carry_out(skb, headers, &plan)
}

/// What becomes of a packet that a VM may send off its link.
#[inline(always)]
fn plan_leave<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, vm: &Vm<A>, plan: &mut Plan<A>) {
    let net = A::net(headers.destination);
    if net & NET_BYPASS != 0 {
        return reply_inside(skb, headers, vm, plan);
    }
    if maps::is_fenced(vm.slot) {
        plan.reason = Reason::Fenced;
        return;
    }
    plan.change.source = vm.eip;
    if vm.flags & VM_MANY_EIPS != 0 {
        let _ = flow::reply(skb, headers, &mut plan.change.source);
    }
    leave_as_eip(plan, vm);
    // An EIP of this node is delivered here; only EIP ranges can hold one.
    if net & NET_EIP == 0 || !hairpin(skb, headers, plan) {
        send_out(skb, headers, vm, plan);
    }
}

/// The sender is no bound VM: it may not be an EIP either.
#[inline(never)]
fn leave_unbound<A: Family>(source: A) -> Verdict {
    let slot = A::binding(source).map_or(NO_SLOT, |binding| binding.slot);
    if slot != NO_SLOT || A::net(source) & NET_EIP != 0 {
        return Verdict::of_binding(Reason::SpoofedEip, slot);
    }
    Verdict::of(Reason::NotBound)
}

/// With the EIP that is its source in the plan.
#[inline(always)]
fn leave_as_eip<A: Family>(plan: &mut Plan<A>, vm: &Vm<A>) {
    if plan.change.source != vm.eip {
        plan.slot = counter_slot(&plan.change.source, vm.slot);
    }
    plan.sent = Some(plan.slot);
    plan.way = Way::Kernel;
}

/// To pod, service or node network: as the VM, unless it answers somebody who asked an EIP. A neighbour
/// with an address of such a network is still a neighbour.
#[inline(always)]
fn reply_inside<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, vm: &Vm<A>, plan: &mut Plan<A>) {
    if headers.transport.kind == Kind::Discovery {
        return;
    }
    plan.reason = Reason::Bypass;
    if flow::reply(skb, headers, &mut plan.change.source) {
        if maps::is_fenced(vm.slot) {
            plan.reason = Reason::Fenced;
            return;
        }
        plan.reason = Reason::SentAsFlow;
        leave_as_eip(plan, vm);
    }
}

/// To an EIP of this node, if it is one.
#[inline(never)]
fn hairpin<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, plan: &mut Plan<A>) -> bool {
    let binding = A::binding(headers.destination);
    let Some(binding) = &binding else {
        return false;
    };
    if maps::is_fenced(binding.slot) {
        (plan.reason, plan.slot, plan.way) = (Reason::Fenced, binding.slot, Way::Untouched);
        return true;
    }
    deliver(skb, headers, NET_EIP, binding, plan);
    true
}

/// To the world.
#[inline(always)]
fn send_out<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, vm: &Vm<A>, plan: &mut Plan<A>) {
    if vm.flags & VM_STACK_LANE != 0 {
        plan.reason = Reason::SentToStack;
    } else if headers.ttl <= 1 {
        plan.reason = Reason::TtlExceeded;
    } else {
        plan.reason = way_out(skb, headers, vm, plan);
        if plan.reason == Reason::SentToUplink {
            plan.change.hop = Hop::Used;
        } else {
            plan.way = Way::Kernel;
        }
    }
}

/// Next hop: the operator's gateway, else what the kernel's routing says.
#[inline(never)]
fn way_out<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    vm: &Vm<A>,
    plan: &mut Plan<A>,
) -> Reason {
    let (hop, mtu) = if let Some(gateway) = A::gateway() {
        (gateway.hop, Some(gateway.mtu))
    } else {
        let route = skb.route(vm.l3_ifindex, plan.change.source, headers.destination);
        let Some(hop) = route else {
            return Reason::NoRoute;
        };
        (hop, maps::uplink_mtu(hop.ifindex))
    };
    plan.way = Way::Neighbour(hop);
    match mtu {
        None => Reason::RoutedElsewhere,
        Some(mtu) if is_larger_than(skb, headers, mtu) => Reason::TooLarge,
        Some(_) => Reason::SentToUplink,
    }
}

/// The counter slot of an EIP other than the VM's primary one, or that one's.
#[inline(never)]
fn counter_slot<A: Family>(eip: &A, primary: u32) -> u32 {
    A::binding(*eip).map_or(primary, |binding| binding.slot)
}
