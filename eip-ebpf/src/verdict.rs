//! From a reason to an action. The only place that counts how packets end.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use eip_common::reason::{Class, Hook, Reason};

use crate::maps;

/// How the program ends a packet.
#[must_use = "a verdict that is dropped lets the packet pass uncounted"]
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    reason: Reason,
    slot: Option<u32>,
    redirect: Option<i64>,
}

impl Verdict {
    /// Ends the packet for a reason that concerns no binding.
    #[inline(always)]
    pub(crate) const fn of(reason: Reason) -> Self {
        Self {
            reason,
            slot: None,
            redirect: None,
        }
    }

    /// Ends a packet of the binding with this counter slot.
    #[inline(always)]
    pub(crate) const fn of_binding(reason: Reason, slot: u32) -> Self {
        Self {
            reason,
            slot: Some(slot),
            redirect: None,
        }
    }

    /// Ends a packet of a binding with what a redirect helper returned.
    #[inline(always)]
    pub(crate) const fn redirected(reason: Reason, slot: u32, code: i64) -> Self {
        Self {
            reason,
            slot: Some(slot),
            redirect: Some(code),
        }
    }

    #[inline(always)]
    fn count(self, hook: Hook) {
        maps::count_reason(hook, self.reason);
        if let Some(slot) = self.slot
            && self.reason.is_exception()
        {
            maps::count_binding_reason(hook, self.reason, slot);
        }
    }

    /// Counts and gives the tc action. What goes on to the kernel goes on to the programs behind this
    /// one first: `TC_ACT_UNSPEC` is "next" for tcx and clsact alike.
    #[inline(always)]
    pub(crate) fn finish_tc(self, hook: Hook) -> i32 {
        self.count(hook);
        match (self.reason.class(), self.redirect) {
            (Class::Drop, _) => TC_ACT_SHOT,
            #[expect(clippy::cast_possible_truncation, reason = "helpers return tc actions")]
            (Class::Carry | Class::Pass, Some(code)) => code as i32,
            (Class::Carry | Class::Pass, None) => TC_ACT_UNSPEC,
        }
    }

    /// Counts and gives the XDP action.
    #[inline(always)]
    pub(crate) fn finish_xdp(self, hook: Hook) -> u32 {
        self.count(hook);
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
