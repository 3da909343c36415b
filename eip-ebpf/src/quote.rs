//! Translation of the packet that an ICMP error quotes.
//!
//! The quoted packet travelled the other way: what became of the error's source happened to the
//! quote's destination, and the reverse. So one rule serves every direction: where the quote names
//! the error's old source as its destination, it gets the new one, and likewise the other pair. A
//! quote that names neither is about somebody else's packet and stays as it is.
//!
//! Three checksums follow: the quote's IP header (IPv4), its transport checksum if that much is
//! quoted, and that of the ICMP message around it (RFC 792, RFC 1191, RFC 4443, RFC 4884).

use eip_common::{
    csum::Delta,
    parse::{Bytes, Headers, Quoted},
    reason::Reason,
};

use crate::{
    packet::Skb,
    rewrite::{Change, Translate},
};

/// Length of the ICMP header before the quote.
const ICMP_LEN: u8 = 8;

/// Where the quoted packet starts.
#[inline(always)]
pub(crate) const fn start<A>(headers: &Headers<A>) -> usize {
    headers.l4 + ICMP_LEN as usize
}

/// Bytes from there to the end of the error. RFC 4884 extensions count as quoted: they follow a quote
/// of at least 128 bytes, behind every header that is looked at.
#[inline(always)]
pub(crate) fn available<A>(headers: &Headers<A>) -> Option<u32> {
    headers
        .len
        .checked_sub(headers.before_transport())?
        .checked_sub(u32::from(ICMP_LEN))
}

/// Translates the quote of an ICMP error.
#[inline(never)]
pub(crate) fn rewrite<A: Translate>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    quoted: &Quoted,
    change: &Change<A>,
) -> Result<(), Reason> {
    let source_at = start(headers) + A::SOURCE_AT;
    let destination_at = source_at + size_of::<A>();
    let answered = A::replace_address(skb, source_at, &headers.destination, &change.destination)?;
    let asked = A::replace_address(skb, destination_at, &headers.source, &change.source)?;
    let addresses = answered.and(asked);
    let header = A::update_quoted_header(skb, start(headers), addresses)?;
    let transport = update_transport(skb, quoted, addresses)?;
    // What of it the message's own pseudo header makes up for, `translate` has seen to.
    skb.update_plain_checksum(headers.l4 + 2, addresses.and(header).and(transport))
        .ok_or(Reason::RewriteFailed)
}

/// Brings the quote's transport checksum up to date, where there is one.
#[inline(always)]
fn update_transport(skb: &Skb<'_>, quoted: &Quoted, addresses: Delta) -> Result<Delta, Reason> {
    let Some(offset) = quoted.checksum.offset() else {
        return Ok(Delta::none());
    };
    let at = quoted.l4 + offset;
    let old: [u8; 2] = skb.read(at).ok_or(Reason::Malformed)?;
    let new = quoted.checksum.changed(old, addresses);
    skb.store(at, &new).ok_or(Reason::RewriteFailed)?;
    Ok(Delta::none().replaced(old, new))
}

/// Brings the checksum of a quoted IPv4 header up to date.
#[inline(always)]
pub(crate) fn update_ipv4_header(
    skb: &Skb<'_>,
    l3: usize,
    addresses: Delta,
) -> Result<Delta, Reason> {
    let at = l3 + 10;
    let old: [u8; 2] = skb.read(at).ok_or(Reason::Malformed)?;
    let new = addresses.applied_to(old);
    skb.store(at, &new).ok_or(Reason::RewriteFailed)?;
    Ok(Delta::none().replaced(old, new))
}
