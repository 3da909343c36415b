//! From a reason to an action. The only place that counts how packets end.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use eip_common::{
    abi::{BY_PORT, NO_SLOT},
    reason::{Class, Hook, Reason},
};

use crate::{
    maps,
    packet::{Captured, Frame, Skb, capture, now},
};

/// How the program ends a packet.
#[must_use = "a verdict that is dropped lets the packet pass uncounted"]
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    reason: Reason,
    slot: u32,
    redirect: i32,
}

/// No helper has been asked to redirect the packet.
const NO_REDIRECT: i32 = i32::MIN;

impl Verdict {
    /// Ends the packet for a reason that concerns no binding.
    #[inline(always)]
    pub(crate) const fn of(reason: Reason) -> Self {
        Self::of_binding(reason, NO_SLOT)
    }

    /// Ends a packet of the binding with this counter slot.
    #[inline(always)]
    pub(crate) const fn of_binding(reason: Reason, slot: u32) -> Self {
        Self {
            reason,
            slot,
            redirect: NO_REDIRECT,
        }
    }

    /// Ends a packet of a binding with what a redirect helper returned.
    #[inline(always)]
    pub(crate) const fn redirected(reason: Reason, slot: u32, code: i64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "helpers return tc and XDP actions"
        )]
        let redirect = code as i32;
        Self {
            reason,
            slot,
            redirect,
        }
    }

    #[inline(always)]
    fn count<C: Captured>(self, hook: Hook, packet: &C) {
        maps::count_reason(hook, self.reason);
        if self.reason.is_exception() {
            if self.slot != NO_SLOT {
                maps::count_binding_reason(hook, self.reason, self.slot);
            }
            // What a VM sent as somebody else: the port it is behind is to blame, the binding it
            // pretends to be, if that is one, only the victim.
            if matches!(self.reason, Reason::SpoofedEip | Reason::SpoofedVm) {
                maps::count_binding_reason(hook, self.reason, BY_PORT | packet.interface());
            }
        }
        if maps::watch().is_some() {
            show(hook, self.reason, self.slot, packet);
        }
    }

    /// Counts and gives the tc action. What goes on to the kernel goes on to the programs behind this
    /// one first: `TC_ACT_UNSPEC` is "next" for tcx and clsact alike.
    #[inline(never)]
    pub(crate) fn finish_tc(self, hook: Hook, skb: &Skb<'_>) -> i32 {
        self.count(hook, skb);
        match (self.reason.class(), self.redirect) {
            (Class::Drop, _) => TC_ACT_SHOT,
            (Class::Carry | Class::Pass, NO_REDIRECT) => TC_ACT_UNSPEC,
            (Class::Carry | Class::Pass, code) => code,
        }
    }

    /// Counts and gives the XDP action.
    #[inline(always)]
    pub(crate) fn finish_xdp(self, hook: Hook, frame: &Frame<'_>) -> u32 {
        self.count(hook, frame);
        match (self.reason.class(), self.redirect) {
            (Class::Drop, _) => xdp_action::XDP_DROP,
            (Class::Carry | Class::Pass, NO_REDIRECT) => xdp_action::XDP_PASS,
            (Class::Carry | Class::Pass, code) => code.cast_unsigned(),
        }
    }
}

/// Writes a sample when somebody wants to see packets like this one.
#[inline(never)]
fn show<C: Captured>(hook: Hook, reason: Reason, slot: u32, packet: &C) {
    let Some(watch) = maps::watch() else {
        return;
    };
    let time = now();
    let is_of_them =
        watch.slot == NO_SLOT || slot == watch.slot || packet.interface() == watch.port;
    if time < watch.until
        && watch.reasons & (1 << reason as u64) != 0
        && watch.hooks & (1 << hook as u32) != 0
        && is_of_them
    {
        let about = (hook, reason, slot);
        maps::sample(watch, time, |place| capture(place, packet, about, time));
    }
}
