//! Where things stand in a packet of either family. Deliberately naive: bytes and offsets.

use std::ops::Range;

use eip_lab::plan::Family;

use crate::checksum;

/// Extension headers a packet may have.
const MOST_EXTENSIONS: usize = 7;

/// Two bytes as a number; zero where there are none.
pub fn word(packet: &[u8], at: usize) -> u16 {
    packet
        .get(at..at + 2)
        .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// What the version says.
pub fn family(packet: &[u8]) -> Option<Family> {
    match packet.first()? >> 4 {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

/// Length of a header without options.
pub const fn fixed(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Both addresses, source first.
pub const fn addresses(family: Family) -> Range<usize> {
    match family {
        Family::V4 => 12..20,
        Family::V6 => 8..40,
    }
}

/// The source address.
pub fn source(family: Family) -> Range<usize> {
    let Range { start, end } = addresses(family);
    start..start.midpoint(end)
}

/// TTL or hop limit.
pub const fn hops(family: Family) -> usize {
    match family {
        Family::V4 => 8,
        Family::V6 => 7,
    }
}

/// The protocol number of a family's ICMP.
pub const fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// Whether a message of the family's ICMP quotes a packet: RFC 792, RFC 1256 and later; RFC 4443 section 2.1.
pub const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => kind < 128,
    }
}

/// The length a packet says it has.
pub fn claimed(packet: &[u8]) -> Option<usize> {
    Some(match family(packet)? {
        Family::V4 => word(packet, 2).into(),
        Family::V6 => fixed(Family::V6) + usize::from(word(packet, 4)),
    })
}

/// The packet without what stands behind it on the link.
pub fn trimmed(packet: &[u8]) -> &[u8] {
    claimed(packet)
        .and_then(|length| packet.get(..length))
        .unwrap_or(packet)
}

/// Length of the header without extension headers, if it is whole.
pub fn header_len(packet: &[u8]) -> Option<usize> {
    let length = match family(packet)? {
        Family::V4 => usize::from(packet[0] & 0xf) * 4,
        Family::V6 => fixed(Family::V6),
    };
    (length >= fixed(family(packet)?) && length <= packet.len()).then_some(length)
}

/// What part of a datagram a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where its content starts in the packet.
    pub content: usize,
    /// Where that stands in the datagram.
    pub offset: usize,
    /// Others follow.
    pub more: bool,
    /// IPv6: where the fragment header stands, and where its own number is written.
    header: (usize, usize),
}

/// What stands behind the IP header and extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol.
    pub protocol: u8,
    /// Where it starts.
    pub at: usize,
    /// Whether the packet is a fragment; in IPv6 also the fragment header of a packet that is none.
    pub fragment: Option<Fragment>,
}

impl Upper {
    /// A later fragment: no header of what is carried stands there.
    pub fn is_later(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }
}

/// Finds it; `None` for a header that is cut short, and for a chain of extension headers that is, is too
/// long, or routes on.
pub fn upper(packet: &[u8]) -> Option<Upper> {
    let at = header_len(packet)?;
    if family(packet)? == Family::V6 {
        return behind_extensions(packet);
    }
    let field = word(packet, 6);
    let fragment = Fragment {
        content: at,
        offset: usize::from(field & 0x1fff) * 8,
        more: field & 0x2000 != 0,
        header: (0, 0),
    };
    Some(Upper {
        protocol: packet[9],
        at,
        fragment: (fragment.offset > 0 || fragment.more).then_some(fragment),
    })
}

fn behind_extensions(packet: &[u8]) -> Option<Upper> {
    let mut upper = Upper {
        protocol: packet[6],
        at: fixed(Family::V6),
        fragment: None,
    };
    let mut written = 6;
    let mut followed = 0;
    while matches!(upper.protocol, 0 | 43 | 44 | 51 | 60) && !upper.is_later() {
        let header = packet.get(upper.at..upper.at + 8)?;
        let length = match upper.protocol {
            43 if header[3] != 0 => return None,
            44 => {
                let field = word(header, 2);
                upper.fragment = Some(Fragment {
                    content: upper.at + 8,
                    offset: (field & 0xfff8).into(),
                    more: field & 1 == 1,
                    header: (upper.at, written),
                });
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

/// What all fragments of a datagram have in common.
pub fn datagram(packet: &[u8], fragment: &Fragment) -> Vec<u8> {
    let of = |family| &packet[addresses(family)];
    match family(packet) {
        // RFC 791: addresses, identification and protocol.
        Some(Family::V4) | None => [of(Family::V4), &packet[4..6], &packet[9..10]].concat(),
        Some(Family::V6) => {
            let (at, _) = fragment.header;
            [of(Family::V6), &packet[at + 4..at + 8]].concat()
        }
    }
}

/// The datagram whose first fragment this is.
pub fn joined(first: &[u8], fragment: &Fragment, content: &[u8]) -> Option<Vec<u8>> {
    let mut datagram;
    if family(first)? == Family::V4 {
        let header = fragment.content;
        datagram = [&first[..header], content].concat();
        let length = u16::try_from(datagram.len()).ok()?;
        datagram[2..4].copy_from_slice(&length.to_be_bytes());
        datagram[6] &= 0x40;
        datagram[7] = 0;
        datagram[10..12].fill(0);
        let sum = checksum::internet(&datagram[..header]);
        datagram[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let (at, written) = fragment.header;
        datagram = [&first[..at], content].concat();
        datagram[written] = first[at];
        let length = u16::try_from(datagram.len() - fixed(Family::V6)).ok()?;
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Some(datagram)
}
