//! What a stateless 1:1 NAT that forwards has to make of a packet, from the RFCs. `None`: it has to
//! drop it, because it cannot keep its checksums right or because the packet lies about its length.
//!
//! Judges where netfilter does not carry. Deliberately naive: bytes, offsets, sums.

use crate::{Direction, Step, chain, checksum};

/// Replaces the bytes at `at`.
fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// The packet as it has to arrive, without what stood behind it on the link.
pub fn carried(step: &Step) -> Option<Vec<u8>> {
    let mut packet = step.packet.clone();
    let header_len = header_len(&packet)?;
    let total = usize::from(word(&packet, 2));
    if total < header_len || total > packet.len() {
        return None;
    }
    packet.truncate(total);
    let old: [u8; 8] = packet[12..20].try_into().expect("eight bytes");
    let new = translated(step, old)?;
    let field = word(&packet, 6);
    let is_later = field & 0x1fff != 0;
    let protocol = packet[9];
    if !is_later {
        carry_transport(&mut packet, header_len, protocol, old, new)?;
    }
    put(&mut packet, 12, &new);
    let sum = checksum::replaced(word(&packet, 10), &old, &new);
    // RFC 1812 section 5.3.1: one hop.
    let before = [packet[8], packet[9]];
    packet[8] = packet[8].checked_sub(1).filter(|ttl| *ttl > 0)?;
    let sum = checksum::replaced(sum, &before, &[packet[8], packet[9]]);
    put(&mut packet, 10, &sum.to_be_bytes());
    Some(packet)
}

/// Whether a packet is dropped whatever its TTL is.
pub fn is_refused(step: &Step) -> bool {
    let mut step = step.clone();
    if let Some(ttl) = step.packet.get_mut(8) {
        *ttl = 64;
    }
    carried(&step).is_none()
}

/// Length of an IPv4 header, if it is one and whole.
fn header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let length = usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && length >= 20 && length <= packet.len()).then_some(length)
}

/// Both addresses afterwards; `None` for a packet that is not about this VM.
fn translated(step: &Step, old: [u8; 8]) -> Option<[u8; 8]> {
    let (vm, eip) = chain::addresses(step.guest);
    let mut new = old;
    let (at, from, to) = match step.direction {
        Direction::Inward => (4, eip, vm),
        Direction::Outward => (0, vm, eip),
    };
    if old[at..at + 4] != from {
        return None;
    }
    put(&mut new, at, &to);
    Some(new)
}

/// Brings the transport checksum up to date. `None` for a header that is cut short.
fn carry_transport(
    packet: &mut [u8],
    l4: usize,
    protocol: u8,
    old: [u8; 8],
    new: [u8; 8],
) -> Option<()> {
    let transport = &packet[l4..];
    let least = match protocol {
        6 => 20,
        1 | 17 | 132 | 136 => 8,
        33 => 12,
        _ => 0,
    };
    if transport.len() < least || (protocol == 6 && transport[12] >> 4 < 5) {
        return None;
    }
    if protocol == 1 && is_error(transport[0]) {
        return carry_quote(packet, l4, old, new);
    }
    if let Some((at, is_optional)) = checksum_of(protocol) {
        update(packet, l4 + at, is_optional, &old, &new);
    }
    Some(())
}

/// RFC 792, RFC 1256 and later: the messages that quote a packet.
fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Where the checksum with a pseudo header stands, and whether zero says "none".
fn checksum_of(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        6 => Some((16, false)),
        33 => Some((6, false)),
        17 | 136 => Some((6, true)),
        _ => None,
    }
}

fn update(packet: &mut [u8], at: usize, is_optional: bool, old: &[u8], new: &[u8]) {
    let before = word(packet, at);
    if is_optional && before == 0 {
        return;
    }
    let sum = match checksum::replaced(before, old, new) {
        0 if is_optional => 0xffff,
        sum => sum,
    };
    put(packet, at, &sum.to_be_bytes());
}

/// RFC 5508 section 4.2 and RFC 3022 section 4.3: the packet inside an error is translated back, with
/// the checksums that are quoted.
fn carry_quote(packet: &mut [u8], l4: usize, old: [u8; 8], new: [u8; 8]) -> Option<()> {
    let before = packet[l4..].to_vec();
    let inner = l4 + 8;
    let quote = &packet[inner..];
    let inner_len = header_len(quote)?;
    let quoted: [u8; 8] = quote[12..20].try_into().expect("eight bytes");
    // The quoted packet went the other way: its source is what the error is for.
    let mut back = quoted;
    if quoted[..4] == old[4..] {
        back[..4].copy_from_slice(&new[4..]);
    }
    if quoted[4..] == old[..4] {
        back[4..].copy_from_slice(&new[..4]);
    }
    put(packet, inner + 12, &back);
    let sum = checksum::replaced(word(packet, inner + 10), &quoted, &back);
    put(packet, inner + 10, &sum.to_be_bytes());
    let is_later = word(packet, inner + 6) & 0x1fff != 0;
    let transport = inner + inner_len;
    let available = packet.len() - transport;
    if let Some((at, is_optional)) = checksum_of(packet[inner + 9])
        && !is_later
        && available >= if at == 16 { 20 } else { 8 }
    {
        update(packet, transport + at, is_optional, &quoted, &back);
    }
    let after = packet[l4..].to_vec();
    let mut rest = (before, after);
    // The sum covers everything but itself.
    for message in [&mut rest.0, &mut rest.1] {
        put(message, 2, &[0, 0]);
    }
    let sum = checksum::replaced(word(packet, l4 + 2), &rest.0, &rest.1);
    put(packet, l4 + 2, &sum.to_be_bytes());
    Some(())
}
