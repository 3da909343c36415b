//! What a stateless 1:1 NAT that forwards has to make of a packet, from the RFCs. `None`: it has to
//! drop it, because it cannot keep its checksums right or because the packet lies about its length.
//!
//! Judges where netfilter does not carry. Deliberately naive: bytes, offsets, sums.

use eip_lab::plan::Family;

use crate::{
    Place, Step, chain, checksum,
    layout::{self, Upper, upper, word},
};

/// Replaces the bytes at `at`.
fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Both addresses of a packet, source first.
struct Ends {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// The packet as it has to arrive, without what stood behind it on the link.
pub fn carried(step: &Step) -> Option<Vec<u8>> {
    if step.is_of_a_vlan() {
        return None;
    }
    let mut packet = step.packet.clone();
    let family = layout::family(&packet)?;
    let total = layout::claimed(&packet)?;
    if total < layout::header_len(&packet)? || total > packet.len() {
        return None;
    }
    packet.truncate(total);
    let ends = translated(step, &packet[layout::addresses(family)])?;
    let upper = upper(&packet)?;
    if !upper.is_later() {
        carry_upper(&mut packet, family, upper, &ends)?;
    }
    put(&mut packet, layout::addresses(family).start, &ends.new);
    // RFC 1812 section 5.3.1: one hop.
    let hops = layout::hops(family);
    let before = [packet[hops], packet[hops + 1]];
    packet[hops] = packet[hops].checked_sub(1).filter(|left| *left > 0)?;
    if family == Family::V4 {
        let sum = checksum::replaced(word(&packet, 10), &ends.old, &ends.new);
        let sum = checksum::replaced(sum, &before, &[packet[hops], packet[hops + 1]]);
        put(&mut packet, 10, &sum.to_be_bytes());
    }
    Some(packet)
}

/// Whether a packet is dropped whatever its TTL is.
pub fn is_refused(step: &Step) -> bool {
    let mut step = step.clone();
    let hops = layout::hops(step.family());
    if let Some(left) = step.packet.get_mut(hops) {
        *left = 64;
    }
    carried(&step).is_none()
}

/// Both addresses afterwards; `None` for a packet that is not about these ends.
fn translated(step: &Step, old: &[u8]) -> Option<Ends> {
    let (source, destination) = old.split_at(old.len() / 2);
    let changed = |place, address: &[u8], is_inward: bool| {
        let Place::Vm(guest, eip) = place else {
            return Some(address.to_vec());
        };
        let (vm, eip) = chain::addresses(step.family(), guest, eip);
        let (from, to) = if is_inward { (eip, vm) } else { (vm, eip) };
        (from == address).then_some(to)
    };
    let source = changed(step.path.from, source, false)?;
    let destination = changed(step.path.to, destination, true)?;
    Some(Ends {
        old: old.to_vec(),
        new: [source, destination].concat(),
    })
}

/// Brings the transport checksum up to date. `None` for a header that is cut short.
fn carry_upper(packet: &mut [u8], family: Family, upper: Upper, ends: &Ends) -> Option<()> {
    let content = &packet[upper.at..];
    let least = match upper.protocol {
        6 => 20,
        17 | 132 | 136 => 8,
        33 => 12,
        protocol if protocol == layout::icmp(family) => 8,
        _ => 0,
    };
    if content.len() < least || (upper.protocol == 6 && content[12] >> 4 < 5) {
        return None;
    }
    if upper.protocol == layout::icmp(family) && layout::is_error(family, content[0]) {
        return carry_quote(packet, family, upper.at, ends);
    }
    if let Some((at, is_optional)) = checksum_of(family, upper.protocol) {
        update(packet, upper.at + at, is_optional, &ends.old, &ends.new);
    }
    Some(())
}

/// Where the checksum with a pseudo header stands, and whether zero says "none".
fn checksum_of(family: Family, protocol: u8) -> Option<(usize, bool)> {
    match (protocol, family) {
        (6, _) => Some((16, false)),
        (33, _) => Some((6, false)),
        (17 | 136, _) => Some((6, true)),
        (58, Family::V6) => Some((2, false)),
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
fn carry_quote(packet: &mut [u8], family: Family, at: usize, ends: &Ends) -> Option<()> {
    let before = packet[at..].to_vec();
    let inner = at + 8;
    let quote = packet[inner..].to_vec();
    if layout::family(&quote)? != family {
        return None;
    }
    layout::header_len(&quote)?;
    let quoted = quote[layout::addresses(family)].to_vec();
    let half = quoted.len() / 2;
    let mut back = quoted.clone();
    // The quoted packet went the other way: its source is what the error is for.
    if quoted[..half] == ends.old[half..] {
        put(&mut back, 0, &ends.new[half..]);
    }
    if quoted[half..] == ends.old[..half] {
        put(&mut back, half, &ends.new[..half]);
    }
    put(packet, inner + layout::addresses(family).start, &back);
    if family == Family::V4 {
        let sum = checksum::replaced(word(packet, inner + 10), &quoted, &back);
        put(packet, inner + 10, &sum.to_be_bytes());
    }
    if let Some(upper) = upper(&quote).filter(|upper| !upper.is_later())
        && let Some((field, is_optional)) = checksum_of(family, upper.protocol)
        && quote.len() - upper.at >= if field == 16 { 20 } else { 8 }
    {
        let field = inner + upper.at + field;
        update(packet, field, is_optional, &quoted, &back);
    }
    // The sum covers everything but itself, and in IPv6 both addresses of the error.
    let mut after = packet[at..].to_vec();
    let mut before = before;
    put(&mut before, 2, &[0, 0]);
    put(&mut after, 2, &[0, 0]);
    let mut sum = checksum::replaced(word(packet, at + 2), &before, &after);
    if family == Family::V6 {
        sum = checksum::replaced(sum, &ends.old, &ends.new);
    }
    put(packet, at + 2, &sum.to_be_bytes());
    Some(())
}
