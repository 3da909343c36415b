//! As [`crate::model`], for IPv6 (RFC 8200, RFC 4443). `None`: it has to be dropped.

use super::{ADDRESSES, FIXED};
use crate::{Direction, Step, chain, checksum};

/// Extension headers a packet may have.
const MOST_EXTENSIONS: usize = 7;

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What stands behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upper {
    pub(super) protocol: u8,
    pub(super) at: usize,
    /// A later fragment: no header of what is carried stands there.
    pub(super) is_later: bool,
    /// Where the fragment header stands, and where its own number is written.
    pub(super) fragment: Option<(usize, usize)>,
}

/// Walks the chain; `None` for one that is cut short, too long, or routes on.
pub(super) fn upper(packet: &[u8]) -> Option<Upper> {
    let mut upper = Upper {
        protocol: *packet.get(6).filter(|_| packet.len() >= FIXED)?,
        at: FIXED,
        is_later: false,
        fragment: None,
    };
    let mut written = 6;
    let mut followed = 0;
    while matches!(upper.protocol, 0 | 43 | 44 | 51 | 60) && !upper.is_later {
        let header = packet.get(upper.at..upper.at + 8)?;
        let length = match upper.protocol {
            43 if header[3] != 0 => return None,
            44 => {
                upper.is_later = u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0;
                upper.fragment = Some((upper.at, written));
                8
            }
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        written = upper.at;
        upper.protocol = header[0];
        upper.at += length;
        followed += 1;
        if upper.at > packet.len() || followed > MOST_EXTENSIONS {
            return None;
        }
    }
    Some(upper)
}

/// The packet as it has to arrive, without what stood behind it on the link.
pub fn carried(step: &Step) -> Option<Vec<u8>> {
    let mut packet = step.packet.clone();
    if packet.len() < FIXED || packet[0] >> 4 != 6 {
        return None;
    }
    let total = FIXED + usize::from(word(&packet, 4));
    if total > packet.len() {
        return None;
    }
    packet.truncate(total);
    let old: [u8; 32] = packet[ADDRESSES].try_into().expect("two addresses");
    let new = translated(step, old)?;
    let upper = upper(&packet)?;
    if !upper.is_later {
        carry_upper(&mut packet, upper, &old, &new)?;
    }
    put(&mut packet, ADDRESSES.start, &new);
    packet[7] = packet[7].checked_sub(1).filter(|hops| *hops > 0)?;
    Some(packet)
}

/// Whether a packet is dropped whatever its hop limit is.
pub fn is_refused(step: &Step) -> bool {
    let mut step = step.clone();
    if let Some(hops) = step.packet.get_mut(7) {
        *hops = 64;
    }
    carried(&step).is_none()
}

fn translated(step: &Step, old: [u8; 32]) -> Option<[u8; 32]> {
    let (vm, eip) = chain::addresses6(step.guest);
    let mut new = old;
    let (at, from, to) = match step.direction {
        Direction::Inward => (16, eip, vm),
        Direction::Outward => (0, vm, eip),
    };
    if old[at..at + 16] != from {
        return None;
    }
    put(&mut new, at, &to);
    Some(new)
}

fn carry_upper(packet: &mut [u8], upper: Upper, old: &[u8; 32], new: &[u8; 32]) -> Option<()> {
    let content = &packet[upper.at..];
    let least = match upper.protocol {
        6 => 20,
        17 | 58 | 132 | 136 => 8,
        33 => 12,
        _ => 0,
    };
    if content.len() < least || (upper.protocol == 6 && content[12] >> 4 < 5) {
        return None;
    }
    // RFC 4443 section 2.1: types below 128 are errors.
    if upper.protocol == 58 && content[0] < 128 {
        return carry_quote(packet, upper.at, old, new);
    }
    if let Some((at, is_optional)) = checksum_of(upper.protocol) {
        update(packet, upper.at + at, is_optional, old, new);
    }
    Some(())
}

/// Where the checksum with a pseudo header stands, and whether zero says "none".
fn checksum_of(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        6 => Some((16, false)),
        33 => Some((6, false)),
        17 | 136 => Some((6, true)),
        58 => Some((2, false)),
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

/// The packet inside an error is translated back, with the checksum that is quoted.
fn carry_quote(packet: &mut [u8], at: usize, old: &[u8; 32], new: &[u8; 32]) -> Option<()> {
    let before = packet[at..].to_vec();
    let inner = at + 8;
    let quote = packet[inner..].to_vec();
    if quote.len() < FIXED || quote[0] >> 4 != 6 {
        return None;
    }
    let quoted: [u8; 32] = quote[ADDRESSES].try_into().expect("two addresses");
    let mut back = quoted;
    if quoted[..16] == old[16..] {
        back[..16].copy_from_slice(&new[16..]);
    }
    if quoted[16..] == old[..16] {
        back[16..].copy_from_slice(&new[..16]);
    }
    put(packet, inner + ADDRESSES.start, &back);
    if let Some(upper) = upper(&quote).filter(|upper| !upper.is_later)
        && let Some((field, is_optional)) = checksum_of(upper.protocol)
        && quote.len() - upper.at >= if field == 16 { 20 } else { 8 }
    {
        update(
            packet,
            inner + upper.at + field,
            is_optional,
            &quoted,
            &back,
        );
    }
    // The sum covers both addresses of the error, and everything but itself.
    let mut covered = [
        [&old[..], &before].concat(),
        [&new[..], &packet[at..]].concat(),
    ];
    for bytes in &mut covered {
        put(bytes, 32 + 2, &[0, 0]);
    }
    let sum = checksum::replaced(word(packet, at + 2), &covered[0], &covered[1]);
    put(packet, at + 2, &sum.to_be_bytes());
    Some(())
}
