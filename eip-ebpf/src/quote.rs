//! Translation of the packet that an ICMP error quotes.
//!
//! The quoted packet travelled the other way: what became of the error's source happened to the
//! quote's destination, and the reverse. So one rule serves every direction: where the quote names
//! the error's old source as its destination, it gets the new one, and likewise the other pair. A
//! quote that names neither is about somebody else's packet and stays as it is.
//!
//! Three checksums follow: the quote's IP header, its transport checksum if that much is quoted, and
//! that of the ICMP message around it (RFC 792, RFC 1191, RFC 4884).

use eip_common::{
    addr::Ipv4Wire,
    csum::Delta,
    parse::{self, Bytes, Checksum, Headers, Quoted},
    reason::Reason,
};

use crate::{packet::Skb, rewrite::Change};

/// Length of the ICMP header before the quote.
const ICMP_LEN: usize = 8;

/// The packet an ICMPv4 error quotes.
#[inline(always)]
pub(crate) fn ipv4(skb: &Skb<'_>, headers: &Headers<Ipv4Wire>) -> Option<Quoted<Ipv4Wire>> {
    let l3 = headers.l4 + ICMP_LEN;
    #[expect(clippy::cast_possible_truncation, reason = "header lengths")]
    let before = (l3 - headers.l3) as u32;
    parse::ipv4_quoted(skb, l3, headers.len.checked_sub(before)?)
}

/// Translates the quote of an ICMPv4 error.
#[inline(always)]
pub(crate) fn rewrite_ipv4(
    skb: &Skb<'_>,
    headers: &Headers<Ipv4Wire>,
    change: &Change<Ipv4Wire>,
) -> Result<(), Reason> {
    let quoted = ipv4(skb, headers).ok_or(Reason::Malformed)?;
    let source = mapped(quoted.source, headers.destination, change.destination);
    let destination = mapped(quoted.destination, headers.source, change.source);
    let addresses = Delta::none()
        .replaced(quoted.source, source)
        .replaced(quoted.destination, destination);
    let at = headers.l4 + ICMP_LEN + 10;
    let old: [u8; 2] = skb.read(at).ok_or(Reason::Malformed)?;
    let new = addresses.applied_to(old);
    let (transport_at, transport_old, transport_new) = transport(skb, &quoted, addresses);
    let message = addresses
        .replaced(old, new)
        .replaced(transport_old, transport_new);

    skb.store(at, header_tail(new, source, destination))
        .ok_or(Reason::RewriteFailed)?;
    if transport_new != transport_old {
        skb.store(transport_at, transport_new)
            .ok_or(Reason::RewriteFailed)?;
    }
    skb.update_plain_checksum(headers.l4 + 2, message)
        .ok_or(Reason::RewriteFailed)
}

/// `new` for an address that was translated, itself for any other.
#[inline(always)]
fn mapped<A: Copy + Eq>(address: A, old: A, new: A) -> A {
    if address == old { new } else { address }
}

/// Where the quote's transport checksum is, as it was and as it has to be; alike where there is none.
#[inline(always)]
fn transport<A>(skb: &Skb<'_>, quoted: &Quoted<A>, delta: Delta) -> (usize, [u8; 2], [u8; 2]) {
    let offset = match quoted.checksum {
        Checksum::None => return (0, [0; 2], [0; 2]),
        Checksum::Plain(offset) | Checksum::Optional(offset) => offset,
    };
    let at = quoted.l4 + offset;
    let Some(old) = skb.read::<2>(at) else {
        return (0, [0; 2], [0; 2]);
    };
    let new = match quoted.checksum {
        Checksum::Optional(_) => delta.applied_to_udp(old),
        Checksum::None | Checksum::Plain(_) => delta.applied_to(old),
    };
    (at, old, new)
}

/// Checksum and addresses as they stand in an IPv4 header.
#[inline(always)]
fn header_tail(checksum: [u8; 2], source: Ipv4Wire, destination: Ipv4Wire) -> [u8; 10] {
    let mut tail = [0; 10];
    tail[..2].copy_from_slice(&checksum);
    tail[2..6].copy_from_slice(&source);
    tail[6..].copy_from_slice(&destination);
    tail
}
