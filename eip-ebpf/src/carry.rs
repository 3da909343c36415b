//! What becomes of a packet: decided first, done in one place.
//!
//! A decision fills in a [`Plan`]; [`carry_out`] alone changes packets. The two, and the larger parts of
//! a decision, are functions of their own (`inline(never)`): the kernel gives a chain of calls 512 bytes
//! of stack, and what one stage needs of it (bindings, keys, route lookups) is free again for the next.

use eip_common::{parse::Headers, reason::Reason};

use crate::{
    family::Family,
    maps,
    packet::{NextHop, Skb},
    rewrite::{Change, Hop, translate},
    verdict::Verdict,
};

/// Where a packet goes.
#[derive(Clone, Copy)]
pub(crate) enum Way<A> {
    /// On to the kernel (or to its end, if the reason says so) as it came.
    Untouched,
    /// On to the kernel, changed.
    Kernel,
    /// Into the network namespace behind a port.
    Peer(u32),
    /// To a neighbour.
    Neighbour(NextHop<A>),
}

/// What becomes of a packet.
pub(crate) struct Plan<A> {
    /// Its addresses, hops and MACs afterwards.
    pub(crate) change: Change<A>,
    /// Where it goes then.
    pub(crate) way: Way<A>,
    /// Why.
    pub(crate) reason: Reason,
    /// Slot of the binding it is counted for.
    pub(crate) slot: u32,
    /// Slot of the EIP that a VM here sent it with.
    pub(crate) sent: Option<u32>,
    /// It reaches the VM of `slot` with this.
    pub(crate) arrives: bool,
}

impl<A: Family> Plan<A> {
    /// The packet as it is.
    #[inline(always)]
    pub(crate) const fn untouched(headers: &Headers<A>, reason: Reason, slot: u32) -> Self {
        Self {
            change: Change {
                source: headers.source,
                destination: headers.destination,
                hop: Hop::Kept,
                macs: None,
            },
            way: Way::Untouched,
            reason,
            slot,
            sent: None,
            arrives: false,
        }
    }
}

/// Changes the packet as planned, counts its bytes and sends it on its way.
#[inline(always)]
pub(crate) fn carry_out<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, plan: &Plan<A>) -> Verdict {
    if matches!(plan.way, Way::Untouched) {
        return Verdict::of_binding(plan.reason, plan.slot);
    }
    skb.drop_priority();
    if let Err(reason) = translate(skb, headers, &plan.change) {
        return Verdict::of_binding(reason, plan.slot);
    }
    if let Some(slot) = plan.sent {
        maps::count_out(slot, headers.len);
    }
    if plan.arrives {
        maps::count_in(plan.slot, headers.len);
    }
    match &plan.way {
        Way::Untouched | Way::Kernel => Verdict::of_binding(plan.reason, plan.slot),
        Way::Peer(port) => Verdict::redirected(plan.reason, plan.slot, skb.redirect_peer(*port)),
        Way::Neighbour(hop) => Verdict::redirected(plan.reason, plan.slot, skb.redirect_neigh(hop)),
    }
}
