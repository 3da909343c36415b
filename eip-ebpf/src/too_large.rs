//! Packets from the network that the VM's link does not take and nobody may cut up: their sender is told.
//!
//! Not left to the kernel, although it would answer too: its answer comes from an address of the node, goes
//! where the node's own routes lead, and knows no limit (the kernel exempts these messages from its own).
//! In XDP where what XDP sends leaves the uplink, before the kernel spends anything on the packet; else in tc.

use eip_common::{
    abi::{NET_BYPASS, NET_EIP, NO_SLOT},
    parse::{Bytes, Fragment, Headers, Kind, protocol},
    reason::{Hook, Reason},
    too_large::REST,
};

use crate::{
    deliver::is_larger_than,
    family::Family,
    maps,
    packet::{Captured, Frame, SEND_BACK, Skb, View, now},
    verdict::Verdict,
};

/// Whether a packet larger than its link is one whose sender is told. The others go to the kernel: those
/// that may be fragmented, and those nobody answers (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4).
#[inline(always)]
pub(crate) fn is_answered<A: Family>(view: View<'_>, headers: &Headers<A>) -> bool {
    let is_error = matches!(headers.transport.kind, Kind::IcmpError | Kind::Discovery);
    // What a later fragment of an ICMP message belongs to cannot be seen: it may be an error.
    let is_such_a_part = headers.fragment != Fragment::Later
        || A::ANSWERS_LATER && headers.protocol != protocol::ICMPV6;
    headers.dont_fragment
        && is_such_a_part
        && !is_error
        && !headers.source.stays_on_link()
        && is_unicast(view)
}

/// Nobody answers what was sent to a group on the link. Reads more than it needs: a check for one byte
/// compiles to one that gives the verifier no range.
#[inline(always)]
fn is_unicast(view: View<'_>) -> bool {
    view.read::<12>(0).is_some_and(|macs| macs[0] & 1 == 0)
}

/// Whether to answer. The parts of this module are functions of their own that hand over one number: together
/// they are more than is left of a program's stack.
const NO: u32 = 0;
/// Whether to answer: this CPU has told enough senders in this second.
const OVER_THE_RATE: u32 = 1;
/// Whether to answer.
const YES: u32 = 2;

#[inline(always)]
fn within_the_rate() -> u32 {
    if maps::may_answer(now()) {
        YES
    } else {
        OVER_THE_RATE
    }
}

/// What [`crate::uplink::classify`] gives instead of an action: the frame is longer than the link of its
/// binding, and has not been counted. No action of XDP is this number.
pub(crate) const TOO_LARGE_FRAME: u32 = u32::MAX;

/// Such a frame in XDP, to its end. Reads it once more, as [`in_tc`] does and for its reason.
#[inline(never)]
pub(crate) fn in_xdp<A: Family>(frame: &Frame<'_>) -> u32 {
    let mut link = Link {
        slot: NO_SLOT,
        mtu: 0,
    };
    find_link::<A, _>(frame, &mut link);
    let verdict = match judge_frame::<A>(frame, link.mtu) {
        YES if link.mtu != 0 && replace_frame::<A>(frame, link.mtu) => {
            Verdict::redirected(Reason::TooLargeAnswered, link.slot, SEND_BACK)
        }
        YES if link.mtu != 0 => Verdict::of_binding(Reason::RewriteFailed, link.slot),
        OVER_THE_RATE => Verdict::of_binding(Reason::TooLargeDropped, link.slot),
        _ => Verdict::of_binding(Reason::LeftToTc, link.slot),
    };
    verdict.finish_xdp(Hook::UplinkXdp, frame)
}

#[inline(never)]
fn judge_frame<A: Family>(frame: &Frame<'_>, mtu: u32) -> u32 {
    if !maps::sends_xdp(frame.interface()) {
        return NO;
    }
    let headers = A::answered_headers(frame.view(), frame.view().l3_len());
    let Ok(headers) = &headers else {
        return NO;
    };
    // Who sends from an EIP or from inside may be a liar: tc knows.
    let is_stranger = A::net(headers.source) & (NET_BYPASS | NET_EIP) == 0;
    if headers.len > mtu && is_stranger && is_answered(frame.view(), headers) {
        within_the_rate()
    } else {
        NO
    }
}

#[inline(never)]
fn replace_frame<A: Family>(frame: &Frame<'_>, mtu: u32) -> bool {
    let Some(l4) = A::answered_l4(frame.view()) else {
        return false;
    };
    frame.cut(l4 + REST).is_some()
        && frame.grow_head(A::ANSWER_ROOM).is_some()
        && A::write_answer(frame.view(), mtu).is_some()
}

/// What [`crate::uplink::receive`] gives instead of an action: the packet is larger than the VM's link, and has
/// not been counted. No action of tc is this number.
pub(crate) const TOO_LARGE: i32 = i32::MIN;

/// Such a packet, to its end. Reads it once more: this is a rare way, and what it needs shall not live on
/// the way of all others.
#[inline(never)]
pub(crate) fn in_tc<A: Family>(skb: &Skb<'_>, hook: Hook) -> i32 {
    let mut link = Link {
        slot: NO_SLOT,
        mtu: 0,
    };
    find_link::<A, _>(skb, &mut link);
    let reason = answer::<A>(skb, link.mtu);
    let verdict = match reason {
        Reason::TooLargeAnswered => Verdict::redirected(reason, link.slot, skb.send_back()),
        _ => Verdict::of_binding(reason, link.slot),
    };
    verdict.finish_tc(hook, skb)
}

#[inline(always)]
fn answer<A: Family>(skb: &Skb<'_>, mtu: u32) -> Reason {
    match judge_skb::<A>(skb, mtu) {
        YES if mtu != 0 => {}
        OVER_THE_RATE => return Reason::TooLargeDropped,
        _ => return Reason::TooLarge,
    }
    let Some(l4) = A::answered_l4(skb.view()) else {
        return Reason::TooLarge;
    };
    // Refused for what has an unfinished checksum further inside: it goes to the kernel as it came.
    if skb.resize(short(l4 + REST)).is_none() {
        return Reason::TooLarge;
    }
    if replace_skb::<A>(skb, mtu) {
        Reason::TooLargeAnswered
    } else {
        Reason::RewriteFailed
    }
}

/// What a packet is too large for. All zero but the slot: its binding has just gone.
struct Link {
    slot: u32,
    mtu: u32,
}

#[inline(never)]
fn find_link<A: Family, P: Captured>(packet: &P, link: &mut Link) {
    if let Some((_, eip)) = A::addresses(&packet.bytes())
        && let Some((slot, mtu)) = A::link(eip)
    {
        *link = Link { slot, mtu };
    }
}

#[inline(never)]
fn judge_skb<A: Family>(skb: &Skb<'_>, mtu: u32) -> u32 {
    let headers = A::answered_headers(skb.view(), skb.l3_len());
    let Ok(headers) = &headers else {
        return NO;
    };
    // A fragment may be here for the sake of larger ones.
    if is_larger_than(skb, headers, mtu) && is_answered(skb.view(), headers) {
        within_the_rate()
    } else {
        NO
    }
}

#[inline(never)]
fn replace_skb<A: Family>(skb: &Skb<'_>, mtu: u32) -> bool {
    skb.grow_head(short(A::ANSWER_ROOM)).is_some() && A::write_answer(skb.view(), mtu).is_some()
}

#[inline(always)]
const fn short(len: usize) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "constants of a few bytes")]
    let short = len as u32;
    short
}
