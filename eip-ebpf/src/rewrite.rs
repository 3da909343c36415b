//! Translation of a packet: addresses, TTL, MACs and every checksum that covers them.
//!
//! All or nothing: bounds are checked before the first store, and a packet of which a later step
//! fails is dropped by the caller, never sent half translated.

use core::hint::black_box;

use eip_common::{
    addr::{Ipv4Wire, Ipv6Wire, Mac},
    csum::Delta,
    parse::{self, Bytes, ETHERNET_LEN, Headers, IPV4_LEN, Kind, Quoted},
    reason::Reason,
};

use crate::{
    packet::{Skb, View},
    quote,
};

/// What to change in a packet. Addresses first and aligned, so that they are read as words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
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
pub(crate) trait Translate: Copy {
    /// Sum of the changed addresses.
    fn delta(headers: &Headers<Self>, change: &Change<Self>) -> Delta;
    /// All of [`translate`] but what an ICMP error quotes: a call costs several nanoseconds, which IPv4 can
    /// do without and IPv6 has to spend for the stack.
    fn translate_headers(
        skb: &Skb<'_>,
        headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Option<()>;
    /// Rewrites the IP header of a frame in XDP.
    fn rewrite_frame(view: View<'_>, headers: &Headers<Self>, change: &Change<Self>) -> Option<()>;
    /// Rewrites the IP header of a packet in tc.
    fn rewrite_header(skb: &Skb<'_>, headers: &Headers<Self>, change: &Change<Self>) -> Option<()>;
    /// Where the source address stands in the IP header; the destination follows it.
    const SOURCE_AT: usize;
    /// What an ICMP error quotes.
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted>;
    /// Brings the checksum of the quoted IP header at `l3` up to date and gives that change.
    fn update_quoted_header(skb: &Skb<'_>, l3: usize, addresses: Delta) -> Result<Delta, Reason>;
    /// Replaces the address at `at` if it is `old`, and gives the change.
    fn replace_address(skb: &Skb<'_>, at: usize, old: &Self, new: &Self) -> Result<Delta, Reason>;
}

/// Makes the change to a packet in tc.
#[inline(always)]
pub(crate) fn translate<A: Translate>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    change: &Change<A>,
) -> Result<(), Reason> {
    A::translate_headers(skb, headers, change).ok_or(Reason::RewriteFailed)?;
    if headers.transport.kind == Kind::IcmpError {
        let quoted = A::quoted(skb, headers);
        let quoted = quoted.as_ref().ok_or(Reason::Malformed)?;
        quote::rewrite(skb, headers, quoted, change)?;
    }
    Ok(())
}

#[inline(always)]
fn translate_headers<A: Translate>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    change: &Change<A>,
) -> Option<()> {
    let delta = A::delta(headers, change);
    if let Some((destination, source)) = change.macs {
        write_macs(skb.view(), destination, source)?;
    }
    A::rewrite_header(skb, headers, change)?;
    skb.update_checksum(headers.l4, headers.transport.checksum, delta)
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
    let transport = headers.transport.checksum;
    let old = match transport.offset() {
        None => [0; 2],
        Some(offset) => view.read(l4 + offset).ok_or(Reason::RewriteFailed)?,
    };
    if let Some((destination, source)) = change.macs {
        write_macs(view, destination, source).ok_or(Reason::RewriteFailed)?;
    }
    A::rewrite_frame(view, headers, change).ok_or(Reason::RewriteFailed)?;
    // Asked once more. An answer kept from above would bring its offset along, which is nothing where there is no
    // checksum; and verifiers before 6.3 do not see that the two cases stay apart, once both are on the stack.
    if let Some(offset) = transport.offset() {
        let new = transport.changed(old, delta);
        view.write(l4 + offset, new).ok_or(Reason::RewriteFailed)?;
    }
    Ok(())
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
    fn translate_headers(
        skb: &Skb<'_>,
        headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Option<()> {
        translate_headers(skb, headers, change)
    }

    #[inline(always)]
    fn delta(headers: &Headers<Self>, change: &Change<Self>) -> Delta {
        Delta::none()
            .replaced(headers.source, change.source)
            .replaced(headers.destination, change.destination)
    }

    #[inline(always)]
    fn rewrite_header(skb: &Skb<'_>, headers: &Headers<Self>, change: &Change<Self>) -> Option<()> {
        Self::rewrite_frame(skb.view(), headers, change)
    }

    #[inline(always)]
    fn rewrite_frame(
        view: View<'_>,
        _headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Option<()> {
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

    const SOURCE_AT: usize = parse::IPV4_ADDRESSES;

    #[inline(never)]
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted> {
        parse::ipv4_quoted(skb, quote::start(headers), quote::available(headers)?)
    }

    #[inline(always)]
    fn update_quoted_header(skb: &Skb<'_>, l3: usize, addresses: Delta) -> Result<Delta, Reason> {
        quote::update_ipv4_header(skb, l3, addresses)
    }

    #[inline(always)]
    fn replace_address(skb: &Skb<'_>, at: usize, old: &Self, new: &Self) -> Result<Delta, Reason> {
        replace_bytes(skb, at, old, new)
    }
}

impl Translate for Ipv6Wire {
    #[inline(never)]
    fn translate_headers(
        skb: &Skb<'_>,
        headers: &Headers<Self>,
        change: &Change<Self>,
    ) -> Option<()> {
        translate_headers(skb, headers, change)
    }

    #[inline(always)]
    fn delta(headers: &Headers<Self>, change: &Change<Self>) -> Delta {
        // One address after the other: read all at once they would not fit the stack.
        black_box(Delta::none().replaced(headers.source, change.source))
            .replaced(headers.destination, change.destination)
    }

    /// No checksum of its own makes up for the changes in this header, so the kernel has to be told.
    #[inline(always)]
    fn rewrite_header(skb: &Skb<'_>, headers: &Headers<Self>, change: &Change<Self>) -> Option<()> {
        if change.hop == Hop::Used {
            skb.store_summed(IPV6_HOP_LIMIT, &[headers.ttl.wrapping_sub(1)])?;
        }
        if change.source != headers.source {
            skb.store_summed(IPV6_SOURCE, &change.source)?;
        }
        if change.destination != headers.destination {
            skb.store_summed(IPV6_DESTINATION, &change.destination)?;
        }
        Some(())
    }

    #[inline(always)]
    fn rewrite_frame(view: View<'_>, headers: &Headers<Self>, change: &Change<Self>) -> Option<()> {
        if change.hop == Hop::Used {
            view.write(IPV6_HOP_LIMIT, [headers.ttl.wrapping_sub(1)])?;
        }
        view.write(IPV6_SOURCE, change.source)?;
        view.write(IPV6_DESTINATION, change.destination)
    }

    const SOURCE_AT: usize = parse::IPV6_ADDRESSES;

    #[inline(never)]
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted> {
        parse::ipv6_quoted(skb, quote::start(headers), quote::available(headers)?)
    }

    /// It has no checksum.
    #[inline(always)]
    fn update_quoted_header(_: &Skb<'_>, _: usize, _: Delta) -> Result<Delta, Reason> {
        Ok(Delta::none())
    }

    #[inline(always)]
    fn replace_address(skb: &Skb<'_>, at: usize, old: &Self, new: &Self) -> Result<Delta, Reason> {
        replace_bytes(skb, at, old, new)
    }
}

/// See [`Translate::replace_address`].
#[inline(always)]
fn replace_bytes<const N: usize>(
    skb: &Skb<'_>,
    at: usize,
    old: &[u8; N],
    new: &[u8; N],
) -> Result<Delta, Reason> {
    if skb.read::<N>(at).ok_or(Reason::Malformed)? != *old {
        return Ok(Delta::none());
    }
    skb.store(at, new).ok_or(Reason::RewriteFailed)?;
    Ok(Delta::none().replaced(*old, *new))
}

/// Where the fields of the IPv6 header stand in a frame.
const IPV6_HOP_LIMIT: usize = ETHERNET_LEN + 7;
const IPV6_SOURCE: usize = ETHERNET_LEN + 8;
const IPV6_DESTINATION: usize = ETHERNET_LEN + 24;
