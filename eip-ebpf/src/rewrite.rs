//! Translation of a packet: addresses, TTL, MACs and every checksum that covers them.
//!
//! All or nothing: bounds are checked before the first store, and a packet of which a later step
//! fails is dropped by the caller, never sent half translated.

use eip_common::{
    addr::{Ipv4Wire, Mac},
    csum::Delta,
    parse::{Bytes, Checksum, ETHERNET_LEN, Headers, IPV4_LEN, Kind},
    reason::Reason,
};

use crate::{
    packet::{Skb, View},
    quote,
};

/// What to change in a packet.
#[derive(Clone, Copy)]
pub(crate) struct Change<A> {
    /// Source address afterwards.
    pub(crate) source: A,
    /// Destination address afterwards.
    pub(crate) destination: A,
    /// Whether this node routes the packet in the kernel's stead.
    pub(crate) hop: Hop,
    /// Destination and source MAC afterwards; `None` leaves them.
    pub(crate) macs: Option<(Mac, Mac)>,
}

/// Whether the packet uses up a hop here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The kernel counts it, or nothing is forwarded.
    Kept,
    /// This program forwards it.
    Used,
}

/// Addresses that a packet can be translated between.
pub(crate) trait Translate: Sized {
    /// Sum of the changed addresses.
    fn delta(headers: &Headers<Self>, change: &Change<Self>) -> Delta;
    /// Rewrites the IP header of a frame in XDP.
    fn rewrite_frame(view: View<'_>, change: &Change<Self>) -> Option<()>;
    /// Rewrites the IP header of a packet in tc.
    fn rewrite_header(skb: &Skb<'_>, change: &Change<Self>) -> Option<()>;
    /// Translates the packet quoted by an ICMP error.
    fn rewrite_quote(
        skb: &Skb<'_>,
        headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Result<(), Reason>;
}

/// Makes the change to a packet in tc.
#[inline(always)]
pub(crate) fn translate<A: Translate>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    change: &Change<A>,
) -> Result<(), Reason> {
    let delta = A::delta(headers, change);
    if let Some((destination, source)) = change.macs {
        write_macs(skb.view(), destination, source).ok_or(Reason::RewriteFailed)?;
    }
    A::rewrite_header(skb, change).ok_or(Reason::RewriteFailed)?;
    skb.update_checksum(headers.l4, headers.transport.checksum, delta)
        .ok_or(Reason::RewriteFailed)?;
    if headers.transport.kind == Kind::IcmpError {
        A::rewrite_quote(skb, headers, change)?;
    }
    Ok(())
}

/// Makes the change to a frame in XDP, whose transport checksum is complete. `l4` is a constant
/// there: frames with IP options are left to tc.
#[inline(always)]
pub(crate) fn translate_frame<A: Translate>(
    view: View<'_>,
    headers: &Headers<A>,
    change: &Change<A>,
    l4: usize,
) -> Result<(), Reason> {
    let delta = A::delta(headers, change);
    let (at, old) = match headers.transport.checksum {
        Checksum::None => (l4, [0; 2]),
        Checksum::Plain(offset) | Checksum::Optional(offset) => (
            l4 + offset,
            view.read(l4 + offset).ok_or(Reason::RewriteFailed)?,
        ),
    };
    if let Some((destination, source)) = change.macs {
        write_macs(view, destination, source).ok_or(Reason::RewriteFailed)?;
    }
    A::rewrite_frame(view, change).ok_or(Reason::RewriteFailed)?;
    match headers.transport.checksum {
        Checksum::None => Some(()),
        Checksum::Plain(_) => view.write(at, delta.applied_to(old)),
        Checksum::Optional(_) => view.write(at, delta.applied_to_udp(old)),
    }
    .ok_or(Reason::RewriteFailed)
}

#[inline(always)]
fn write_macs(view: View<'_>, destination: Mac, source: Mac) -> Option<()> {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&destination);
    macs[6..].copy_from_slice(&source);
    view.write(0, macs)
}

impl Translate for Ipv4Wire {
    #[inline(always)]
    fn delta(headers: &Headers<Self>, change: &Change<Self>) -> Delta {
        Delta::none()
            .replaced(headers.source, change.source)
            .replaced(headers.destination, change.destination)
    }

    #[inline(always)]
    fn rewrite_header(skb: &Skb<'_>, change: &Change<Self>) -> Option<()> {
        Self::rewrite_frame(skb.view(), change)
    }

    #[inline(always)]
    fn rewrite_frame(view: View<'_>, change: &Change<Self>) -> Option<()> {
        let old: [u8; IPV4_LEN] = view.read(ETHERNET_LEN)?;
        let mut new = old;
        if change.hop == Hop::Used {
            // The caller has made sure that it is at least 2.
            new[8] = old[8].wrapping_sub(1);
        }
        new[12..16].copy_from_slice(&change.source);
        new[16..20].copy_from_slice(&change.destination);
        let delta = Delta::none()
            .replaced([old[8], old[9]], [new[8], new[9]])
            .replaced([old[12], old[13], old[14], old[15]], change.source)
            .replaced([old[16], old[17], old[18], old[19]], change.destination);
        let checksum = delta.applied_to([old[10], old[11]]);
        new[10..12].copy_from_slice(&checksum);
        view.write(ETHERNET_LEN, new)
    }

    #[inline(always)]
    fn rewrite_quote(
        skb: &Skb<'_>,
        headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Result<(), Reason> {
        quote::rewrite_ipv4(skb, headers, change)
    }
}
