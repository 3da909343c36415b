//! From bytes to headers.
//!
//! The same code runs in the kernel programs and on the host, where it is property-tested: it reads
//! through [`Bytes`] and knows no packet memory, no maps and no verdicts. Everything it accepts has
//! lengths that do not contradict each other; everything it refuses says whether the bytes are no
//! IP packet at all or a packet that lies.

use crate::addr::{Ipv4Wire, Ipv6Wire, Port};

/// Length of an untagged Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethertype of an 802.1Q tag.
pub const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// Ethertype of an 802.1ad (QinQ) outer tag.
pub const ETHERTYPE_QINQ: [u8; 2] = [0x88, 0xa8];

/// IP protocol numbers that need more than an address rewrite.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Source of bytes: a packet in the kernel, a slice on the host.
pub trait Bytes {
    /// The `N` bytes at `offset`, if the packet has them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

/// Why bytes are not a packet that can be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Too short for an IP header, or not the version the ethertype says.
    NotIp,
    /// The headers contradict each other or the length of the packet.
    Malformed,
}

/// Which part of a datagram a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The beginning, with the transport header.
    First,
    /// The rest, without ports.
    Later,
}

/// Where the checksum that covers the addresses stands, from the start of the transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// No checksum covers the addresses.
    None,
    /// At this offset.
    Plain(usize),
    /// At this offset; zero means that the sender computed none (RFC 768).
    Optional(usize),
}

/// What matters of the transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Source port, or the identifier of an ICMP query, or zero.
    pub source: Port,
    /// Destination port, or the identifier of an ICMP query, or zero.
    pub destination: Port,
    /// The checksum to keep right.
    pub checksum: Checksum,
    /// What it is, where that matters.
    pub kind: Kind,
}

/// Transport kinds that the packet path treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment that opens a connection (SYN without ACK).
    TcpOpen,
    /// Any other TCP segment; holds the length of its header.
    Tcp(usize),
    /// An ICMP error: it quotes a packet of the other direction.
    IcmpError,
    /// Everything else, later fragments included.
    Other,
}

impl Transport {
    /// Nothing but addresses.
    const OPAQUE: Self = Self {
        source: [0; 2],
        destination: [0; 2],
        checksum: Checksum::None,
        kind: Kind::Other,
    };
}

/// A parsed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Identification of a fragment; IPv4 uses the last two bytes.
    pub id: [u8; 4],
    /// Fragmentation.
    pub fragment: Fragment,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the transport header starts.
    pub l4: usize,
    /// Bytes from the IP header to the end of the packet.
    pub len: u32,
    /// What follows the IP header.
    pub transport: Transport,
}

/// Reads the IPv4 packet at `l3`.
///
/// `available` is the number of bytes from `l3` to the end of the frame: trailing padding is fine, a
/// packet that claims more than there is lies.
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv4<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv4Wire>, ParseError> {
    let header: [u8; IPV4_LEN] = bytes.read(l3).ok_or(ParseError::NotIp)?;
    if header[0] >> 4 != 4 {
        return Err(ParseError::NotIp);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = ipv4_len(&header, available);
    #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
    let shortest = header_len as u32;
    if header_len < IPV4_LEN || len < shortest || len > available {
        return Err(ParseError::Malformed);
    }
    let fragment = ipv4_fragment(&header);
    let protocol = header[9];
    let l4 = l3 + header_len;
    let transport = match fragment {
        Fragment::Later => Transport::OPAQUE,
        Fragment::Whole | Fragment::First => {
            transport(bytes, l4, protocol, len - shortest).ok_or(ParseError::Malformed)?
        }
    };
    Ok(Headers {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        ttl: header[8],
        protocol,
        id: [0, 0, header[4], header[5]],
        fragment,
        l3,
        l4,
        len,
        transport,
    })
}

/// Total length. A super-packet beyond 64 KiB ("BIG TCP" of IPv4) has zero there and its length in
/// the frame alone.
#[inline(always)]
fn ipv4_len(header: &[u8; IPV4_LEN], available: u32) -> u32 {
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    if total == 0 && available > 0xffff { available } else { total }
}

#[inline(always)]
fn ipv4_fragment(header: &[u8; IPV4_LEN]) -> Fragment {
    let field = u16::from_be_bytes([header[6], header[7]]);
    let more = field & 0x2000 != 0;
    match (field & 0x1fff, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Reads the transport header at `l4`, of which the IP header leaves `len` bytes. `None` when the
/// header is cut short: its checksum could not be kept right.
#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, l4: usize, number: u8, len: u32) -> Option<Transport> {
    match number {
        protocol::TCP => tcp(bytes, l4, len),
        protocol::UDP | protocol::UDP_LITE => {
            let header: [u8; 8] = sized(bytes, l4, len)?;
            Some(ports(&header, Checksum::Optional(6)))
        }
        protocol::DCCP => {
            let header: [u8; 12] = sized(bytes, l4, len)?;
            Some(ports(&header, Checksum::Plain(6)))
        }
        // SCTP's CRC32c does not cover addresses (RFC 9260 section 6.8).
        protocol::SCTP => {
            let header: [u8; 8] = sized(bytes, l4, len)?;
            Some(ports(&header, Checksum::None))
        }
        protocol::ICMP => icmp(bytes, l4, len),
        _ => Some(Transport::OPAQUE),
    }
}

/// `N` bytes, if the IP header leaves room for them.
#[inline(always)]
fn sized<B: Bytes + ?Sized, const N: usize>(bytes: &B, at: usize, len: u32) -> Option<[u8; N]> {
    if (len as usize) < N { None } else { bytes.read(at) }
}

#[inline(always)]
fn ports<const N: usize>(header: &[u8; N], checksum: Checksum) -> Transport {
    Transport {
        source: [header[0], header[1]],
        destination: [header[2], header[3]],
        checksum,
        kind: Kind::Other,
    }
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(bytes: &B, l4: usize, len: u32) -> Option<Transport> {
    let header: [u8; 20] = sized(bytes, l4, len)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 {
        return None;
    }
    let is_open = header[13] & 0x12 == 0x02;
    Some(Transport {
        kind: if is_open { Kind::TcpOpen } else { Kind::Tcp(header_len) },
        ..ports(&header, Checksum::Plain(16))
    })
}

/// ICMPv4 has no pseudo header (RFC 792): nothing to keep right unless it quotes a packet.
#[inline(always)]
fn icmp<B: Bytes + ?Sized>(bytes: &B, l4: usize, len: u32) -> Option<Transport> {
    let header: [u8; 8] = sized(bytes, l4, len)?;
    Some(match header[0] {
        // Echo, timestamp, information, mask: queries and replies with an identifier.
        0 | 8 | 13..=18 => {
            let id = [header[4], header[5]];
            Transport { source: id, destination: id, ..Transport::OPAQUE }
        }
        3 | 4 | 5 | 11 | 12 => Transport { kind: Kind::IcmpError, ..Transport::OPAQUE },
        _ => Transport::OPAQUE,
    })
}

/// A destination that never leaves the link: this network, link-local, multicast, reserved and
/// broadcast (RFC 6890).
#[inline(always)]
#[must_use]
pub fn ipv4_stays_on_link(address: Ipv4Wire) -> bool {
    address[0] == 0 || address[0] == 127 || address[0] >= 224 || (address[0] == 169 && address[1] == 254)
}

/// As [`ipv4_stays_on_link`]: unspecified, loopback, link-local and multicast (RFC 4291).
#[inline(always)]
#[must_use]
pub fn ipv6_stays_on_link(address: Ipv6Wire) -> bool {
    let is_link_local = address[0] == 0xfe && address[1] & 0xc0 == 0x80;
    let is_unspecified_or_loopback = address[..15] == [0; 15] && address[15] <= 1;
    address[0] == 0xff || is_link_local || is_unspecified_or_loopback
}

/// The beginning of a packet quoted by an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Transport protocol.
    pub protocol: u8,
    /// Where its transport header starts.
    pub l4: usize,
    /// Ports or identifier, as in [`Transport`]; zero when not quoted.
    pub source_port: Port,
    /// As `source_port`.
    pub destination_port: Port,
    /// Its transport checksum, if that much was quoted.
    pub checksum: Checksum,
}

/// Reads the IPv4 packet quoted at `l3`, of which `available` bytes are there. Quotes are cut short
/// by nature (RFC 792: header and 8 bytes); `None` when not even the header is whole.
#[inline(always)]
pub fn ipv4_quoted<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Option<Quoted<Ipv4Wire>> {
    let header: [u8; IPV4_LEN] = sized(bytes, l3, available)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || header_len > available {
        return None;
    }
    let l4 = l3 + header_len as usize;
    let protocol = header[9];
    let (source_port, destination_port, checksum) = match ipv4_fragment(&header) {
        Fragment::Later => ([0; 2], [0; 2], Checksum::None),
        Fragment::Whole | Fragment::First => {
            quoted_transport(bytes, l4, protocol, available - header_len)
        }
    };
    Some(Quoted {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        protocol,
        l4,
        source_port,
        destination_port,
        checksum,
    })
}

/// Ports and checksum as far as the quote has them.
#[inline(always)]
fn quoted_transport<B: Bytes + ?Sized>(
    bytes: &B,
    l4: usize,
    number: u8,
    len: u32,
) -> (Port, Port, Checksum) {
    let Some(header) = sized::<B, 8>(bytes, l4, len) else {
        return ([0; 2], [0; 2], Checksum::None);
    };
    let source = [header[0], header[1]];
    let destination = [header[2], header[3]];
    match number {
        protocol::TCP if len >= 20 => (source, destination, Checksum::Plain(16)),
        protocol::UDP | protocol::UDP_LITE => (source, destination, Checksum::Optional(6)),
        protocol::DCCP => (source, destination, Checksum::Plain(6)),
        protocol::TCP | protocol::SCTP => (source, destination, Checksum::None),
        protocol::ICMP => {
            let id = [header[4], header[5]];
            (id, id, Checksum::None)
        }
        _ => ([0; 2], [0; 2], Checksum::None),
    }
}

#[cfg(test)]
mod tests;
