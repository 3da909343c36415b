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
    slot: Option<u32>,
    redirect: Option<i64>,
    blames_port: bool,
}

impl Verdict {
    /// Ends the packet for a reason that concerns no binding.
    #[inline(always)]
    pub(crate) const fn of(reason: Reason) -> Self {
        Self {
            reason,
            slot: None,
            redirect: None,
            blames_port: false,
        }
    }

    /// Ends a packet of the binding with this counter slot.
    #[inline(always)]
    pub(crate) const fn of_binding(reason: Reason, slot: u32) -> Self {
        Self {
            reason,
            slot: Some(slot),
            redirect: None,
            blames_port: false,
        }
    }

    /// Ends a packet of a binding with what a redirect helper returned.
    #[inline(always)]
    pub(crate) const fn redirected(reason: Reason, slot: u32, code: i64) -> Self {
        Self {
            reason,
            slot: Some(slot),
            redirect: Some(code),
            blames_port: false,
        }
    }

    /// Drops what a VM sent as somebody else: counted for the binding it pretends to be, if that is one,
    /// and for the port it is behind.
    #[inline(always)]
    pub(crate) const fn spoofed(reason: Reason, slot: Option<u32>) -> Self {
        Self {
            reason,
            slot,
            redirect: None,
            blames_port: true,
        }
    }

    /// Whether the packet ends here.
    #[inline(always)]
    pub(crate) fn is_drop(self) -> bool {
        matches!(self.reason.class(), Class::Drop)
    }

    #[inline(always)]
    fn count(self, hook: Hook, packet: &impl Captured) {
        maps::count_reason(hook, self.reason);
        if self.reason.is_exception() {
            if let Some(slot) = self.slot {
                maps::count_binding_reason(hook, self.reason, slot);
            }
            if self.blames_port {
                maps::count_binding_reason(hook, self.reason, BY_PORT | packet.interface());
            }
        }
        self.show(hook, packet);
    }

    /// Writes a sample when somebody wants to see packets like this one.
    #[inline(always)]
    fn show(self, hook: Hook, packet: &impl Captured) {
        let Some(watch) = maps::watch() else {
            return;
        };
        let time = now();
        let is_of_them = watch.slot == NO_SLOT
            || self.slot == Some(watch.slot)
            || packet.interface() == watch.port;
        if time < watch.until
            && watch.reasons & (1 << self.reason as u64) != 0
            && watch.hooks & (1 << hook as u32) != 0
            && is_of_them
        {
            let about = (hook, self.reason, self.slot.unwrap_or(NO_SLOT));
            maps::sample(watch, time, |place| capture(place, packet, about, time));
        }
    }

    /// Counts and gives the tc action. What goes on to the kernel goes on to the programs behind this
    /// one first: `TC_ACT_UNSPEC` is "next" for tcx and clsact alike.
    #[inline(always)]
    pub(crate) fn finish_tc(self, hook: Hook, skb: &Skb<'_>) -> i32 {
        self.count(hook, skb);
        match (self.reason.class(), self.redirect) {
            (Class::Drop, _) => TC_ACT_SHOT,
            #[expect(clippy::cast_possible_truncation, reason = "helpers return tc actions")]
            (Class::Carry | Class::Pass, Some(code)) => code as i32,
            (Class::Carry | Class::Pass, None) => TC_ACT_UNSPEC,
        }
    }

    /// Counts and gives the XDP action.
    #[inline(always)]
    pub(crate) fn finish_xdp(self, hook: Hook, frame: &Frame<'_>) -> u32 {
        self.count(hook, frame);
        match (self.reason.class(), self.redirect) {
            (Class::Drop, _) => xdp_action::XDP_DROP,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "helpers return XDP actions"
            )]
            (Class::Carry | Class::Pass, Some(code)) => code as u32,
            (Class::Carry | Class::Pass, None) => xdp_action::XDP_PASS,
        }
    }
}
