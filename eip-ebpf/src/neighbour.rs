//! Who has an EIP: ARP and neighbour discovery, answered from the map that programs it.
//!
//! In tc and not in XDP: answers are then the same whatever XDP mode an uplink has, or none; `XDP_TX` out
//! of a veth needs a program on the other side; and nobody asks often enough for the difference to
//! count. What is not answered goes on to the kernel untouched.

use eip_common::{
    abi::BINDING_ANSWER_L2,
    addr::{Ipv4Wire, Ipv6Wire, Mac},
    neighbour::{
        self, ADVERTISEMENT_FRAME, Invalid, is_for, is_station, stated_mac, write_answer,
        write_arp_reply,
    },
    parse::Bytes,
    reason::{Hook, Reason},
};

use crate::{
    maps::{self, Address, Owner},
    packet::Skb,
    verdict::Verdict,
};

/// An ARP frame, to its end.
#[inline(never)]
pub(crate) fn arp(skb: &Skb<'_>) -> i32 {
    judge_arp(skb).finish_tc(Hook::UplinkTc, skb)
}

/// Whether an IPv6 packet is a neighbour solicitation or advertisement.
#[inline(always)]
pub(crate) fn is_discovery(skb: &Skb<'_>) -> bool {
    neighbour::kind(&skb.view()).is_some()
}

/// Such a packet, to its end.
#[inline(never)]
pub(crate) fn discovery(skb: &Skb<'_>) -> i32 {
    judge_discovery(skb)
        .unwrap_or(Verdict::of(Reason::NotEip))
        .finish_tc(Hook::UplinkTc, skb)
}

#[inline(always)]
fn judge_arp(skb: &Skb<'_>) -> Verdict {
    let Some((own, ethernet)) = link(skb) else {
        return Verdict::of(Reason::NotEip);
    };
    let Ok(message) = neighbour::arp(&skb.view()) else {
        return Verdict::of(Reason::NeighbourInvalid);
    };
    // Two uplinks on one segment hear each other, and have nothing to tell each other.
    if maps::is_own(message.sender_mac) {
        return Verdict::of(Reason::NotEip);
    }
    if let Some(claimed) = Ipv4Wire::owner(message.sender) {
        return Verdict::of_binding(Reason::AddressClaimed, claimed.slot);
    }
    if !message.asks() || !is_for(ethernet.destination, own) {
        return Verdict::of(Reason::NotEip);
    }
    match Ipv4Wire::owner(message.target) {
        Some(owner) => answer(skb, owner, || {
            write_arp_reply(&mut skb.view(), &message, own)
        }),
        None => Verdict::of(Reason::NotEip),
    }
}

/// `None`: it is about nobody here.
///
/// The parts are functions of their own, each reading what it needs from the packet again: together they
/// are more than a program's stack. They return numbers, because the verifier refuses what the compiler
/// makes of an enum of which not every byte is set.
#[inline(always)]
fn judge_discovery(skb: &Skb<'_>) -> Option<Verdict> {
    let (own, ethernet) = link(skb)?;
    let claimed = owner(skb, CLAIMED);
    let bound = if claimed == NOBODY {
        owner(skb, TARGET)
    } else {
        claimed
    };
    if bound == NOBODY {
        return None;
    }
    let bound = unpacked(bound);
    let stated = stated(skb);
    if stated == INVALID {
        return Some(Verdict::of_binding(Reason::NeighbourInvalid, bound.slot));
    }
    let sender = if stated == NOTHING {
        ethernet.source
    } else {
        mac(stated)
    };
    // As in ARP.
    if maps::is_own(sender) {
        return None;
    }
    if claimed != NOBODY {
        return Some(Verdict::of_binding(Reason::AddressClaimed, bound.slot));
    }
    if !is_for(ethernet.destination, own) || !is_station(sender) {
        return None;
    }
    Some(answer(skb, bound, || advertise(skb, sender, own)))
}

/// The address the sender of a message says it has.
const CLAIMED: u32 = 0;
/// The address a message is about.
const TARGET: u32 = 1;
/// Nobody here has it.
const NOBODY: u64 = u64::MAX;

/// Slot and flags of the binding of one of these addresses. Reads by the helper: the bounds of the packet
/// must not become arguments, which the optimiser would make of them.
#[inline(never)]
fn owner(skb: &Skb<'_>, which: u32) -> u64 {
    let Some(subject) = neighbour::subject(skb) else {
        return NOBODY;
    };
    let address = if which == CLAIMED {
        subject.claims()
    } else {
        subject.target
    };
    match Ipv6Wire::owner(address) {
        Some(Owner { slot, flags }) => u64::from(slot) | u64::from(flags) << 32,
        None => NOBODY,
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "taken apart as it was put together"
)]
const fn unpacked(owner: u64) -> Owner {
    Owner {
        slot: owner as u32,
        flags: (owner >> 32) as u8,
    }
}

/// The message breaks its RFC.
const INVALID: u64 = u64::MAX;
/// It states no link-layer address.
const NOTHING: u64 = u64::MAX - 1;

/// The link-layer address a valid message states. The options are read by the helper: they may be beyond
/// what is directly readable, and bounds checks in a loop do not survive the optimiser.
#[inline(never)]
fn stated(skb: &Skb<'_>) -> u64 {
    let view = skb.view();
    let Some(subject) = neighbour::subject(&view) else {
        return INVALID;
    };
    match stated_mac(&view, skb, skb.frame_len(), &subject) {
        Ok(Some(mac)) => u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]),
        Ok(None) => NOTHING,
        Err(Invalid) => INVALID,
    }
}

#[inline(always)]
const fn mac(stated: u64) -> Mac {
    let bytes = stated.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

/// Turns a solicitation into its answer.
#[inline(never)]
fn advertise(skb: &Skb<'_>, to: Mac, own: Mac) -> Option<()> {
    let question = neighbour::subject(&skb.view())?;
    skb.resize(ADVERTISEMENT_LEN)?;
    write_answer(&mut skb.view(), &question, to, own)
}

#[expect(clippy::cast_possible_truncation, reason = "86 bytes")]
const ADVERTISEMENT_LEN: u32 = ADVERTISEMENT_FRAME as u32;

/// Destination and source of the frame.
struct Ethernet {
    destination: Mac,
    source: Mac,
}

/// The uplink's own address and those of the frame; `None` where nothing is answered.
#[inline(always)]
fn link(skb: &Skb<'_>) -> Option<(Mac, Ethernet)> {
    let own = maps::uplink_mac(skb.ifindex())?;
    let view = skb.view();
    let ethernet = Ethernet {
        destination: view.read(0)?,
        source: view.read(6)?,
    };
    Some((own, ethernet))
}

/// Turns the question into its answer and sends it back, if the EIP is announced that way.
#[inline(always)]
fn answer(skb: &Skb<'_>, owner: Owner, write: impl FnOnce() -> Option<()>) -> Verdict {
    if owner.flags & BINDING_ANSWER_L2 == 0 {
        return Verdict::of_binding(Reason::NotAnnounced, owner.slot);
    }
    if maps::is_fenced(owner.slot) {
        return Verdict::of_binding(Reason::Fenced, owner.slot);
    }
    match write() {
        Some(()) => Verdict::redirected(Reason::NeighbourAnswered, owner.slot, skb.send_back()),
        None => Verdict::of_binding(Reason::RewriteFailed, owner.slot),
    }
}
