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
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Extension headers that are followed before a packet counts as malformed. RFC 8200 section 4.1
/// lists six kinds, of which destination options may come twice.
pub const MAX_EXTENSIONS: usize = 7;

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
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
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
    /// Neighbour discovery (RFC 4861): never leaves the link, whatever its addresses.
    Discovery,
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
    /// No router may cut it up: the DF bit of IPv4, always so in IPv6.
    pub dont_fragment: bool,
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
        // Means nothing inside IPv4: carried by address, like any protocol nobody knows.
        _ if protocol == protocol::ICMPV6 => Transport::OPAQUE,
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
        dont_fragment: header[6] & 0x40 != 0,
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
    if total == 0 && available > 0xffff {
        available
    } else {
        total
    }
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
        protocol::ICMPV6 => icmpv6(bytes, l4, len),
        _ => Some(Transport::OPAQUE),
    }
}

/// `N` bytes, if the IP header leaves room for them.
#[inline(always)]
fn sized<B: Bytes + ?Sized, const N: usize>(bytes: &B, at: usize, len: u32) -> Option<[u8; N]> {
    if (len as usize) < N {
        None
    } else {
        bytes.read(at)
    }
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
        kind: if is_open {
            Kind::TcpOpen
        } else {
            Kind::Tcp(header_len)
        },
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
            Transport {
                source: id,
                destination: id,
                ..Transport::OPAQUE
            }
        }
        3 | 4 | 5 | 11 | 12 => Transport {
            kind: Kind::IcmpError,
            ..Transport::OPAQUE
        },
        _ => Transport::OPAQUE,
    })
}

/// ICMPv6 has the pseudo header in its checksum (RFC 4443 section 2.3).
#[inline(always)]
fn icmpv6<B: Bytes + ?Sized>(bytes: &B, l4: usize, len: u32) -> Option<Transport> {
    let header: [u8; 8] = sized(bytes, l4, len)?;
    let opaque = Transport {
        checksum: Checksum::Plain(2),
        ..Transport::OPAQUE
    };
    Some(match header[0] {
        128 | 129 => {
            let id = [header[4], header[5]];
            Transport {
                source: id,
                destination: id,
                ..opaque
            }
        }
        0..=127 => Transport {
            kind: Kind::IcmpError,
            ..opaque
        },
        133..=137 => Transport {
            kind: Kind::Discovery,
            ..opaque
        },
        _ => opaque,
    })
}

/// What stands behind the fixed header of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chain {
    protocol: u8,
    l4: usize,
    fragment: Fragment,
    id: [u8; 4],
}

/// Whether a next-header value is an extension header that is followed.
#[inline(always)]
#[must_use]
pub const fn is_ipv6_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Follows extension headers (RFC 8200 section 4) from `at` to the transport header, or to the
/// fragment header of a later fragment. `None` for a chain that is cut short, longer than
/// [`MAX_EXTENSIONS`], or that routes through the destination: its checksum would be about an address
/// that stands elsewhere (RFC 8200 section 8.1), and the VM is no router (RFC 5095).
#[inline(always)]
fn ipv6_chain<B: Bytes + ?Sized>(bytes: &B, l3: usize, first: u8, len: u32) -> Option<Chain> {
    let mut chain = Chain {
        protocol: first,
        l4: l3 + IPV6_LEN,
        fragment: Fragment::Whole,
        id: [0; 4],
    };
    let mut left = len.checked_sub(40)?;
    let mut followed = 0;
    while followed < MAX_EXTENSIONS {
        if !is_ipv6_extension(chain.protocol) || chain.fragment == Fragment::Later {
            return Some(chain);
        }
        let header: [u8; 8] = sized(bytes, chain.l4, left)?;
        let size = match chain.protocol {
            FRAGMENT => {
                chain.fragment = ipv6_fragment(&header);
                chain.id = [header[4], header[5], header[6], header[7]];
                8
            }
            ROUTING if header[3] != 0 => return None,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        left = left.checked_sub(size)?;
        chain.l4 += size as usize;
        chain.protocol = header[0];
        followed += 1;
    }
    None
}

#[inline(always)]
fn ipv6_fragment(header: &[u8; 8]) -> Fragment {
    let field = u16::from_be_bytes([header[2], header[3]]);
    match (field & 0xfff8, field & 1) {
        // An atomic fragment (RFC 6946) is a whole packet with an odd header.
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Reads the IPv6 packet at `l3`; otherwise as [`ipv4`].
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let (header, len) = ipv6_fixed(bytes, l3, available)?;
    let chain = ipv6_chain(bytes, l3, header[6], len).ok_or(ParseError::Malformed)?;
    ipv6_headers(bytes, l3, &header, len, chain)
}

/// As [`ipv6`] for packets without extension headers; those with are malformed to it. Everything
/// stands at constant offsets.
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6_plain<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let (header, len) = ipv6_fixed(bytes, l3, available)?;
    if is_ipv6_extension(header[6]) {
        return Err(ParseError::Malformed);
    }
    let chain = Chain {
        protocol: header[6],
        l4: l3 + IPV6_LEN,
        fragment: Fragment::Whole,
        id: [0; 4],
    };
    ipv6_headers(bytes, l3, &header, len, chain)
}

/// The fixed header and the length of the packet.
#[inline(always)]
fn ipv6_fixed<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<([u8; IPV6_LEN], u32), ParseError> {
    let header: [u8; IPV6_LEN] = bytes.read(l3).ok_or(ParseError::NotIp)?;
    if header[0] >> 4 != 6 {
        return Err(ParseError::NotIp);
    }
    let len = ipv6_len(&header, available);
    if len > available {
        Err(ParseError::Malformed)
    } else {
        Ok((header, len))
    }
}

#[inline(always)]
fn ipv6_headers<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    header: &[u8; IPV6_LEN],
    len: u32,
    chain: Chain,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let transport = match chain.fragment {
        Fragment::Later => Transport::OPAQUE,
        Fragment::Whole | Fragment::First => {
            #[expect(clippy::cast_possible_truncation, reason = "inside the packet")]
            let before = (chain.l4 - l3) as u32;
            let left = len.checked_sub(before).ok_or(ParseError::Malformed)?;
            transport(bytes, chain.l4, chain.protocol, left).ok_or(ParseError::Malformed)?
        }
    };
    Ok(Headers {
        source: ipv6_address(header, 8),
        destination: ipv6_address(header, 24),
        ttl: header[7],
        protocol: chain.protocol,
        id: chain.id,
        fragment: chain.fragment,
        dont_fragment: true,
        l3,
        l4: chain.l4,
        len,
        transport,
    })
}

/// Payload length plus header. A super-packet beyond 64 KiB has zero there (RFC 2675).
#[inline(always)]
fn ipv6_len(header: &[u8; IPV6_LEN], available: u32) -> u32 {
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    if payload == 0 && available > 40 + 0xffff {
        available
    } else {
        payload + 40
    }
}

/// An address inside the fixed header.
#[inline(always)]
#[must_use]
pub fn ipv6_address(header: &[u8; IPV6_LEN], at: usize) -> Ipv6Wire {
    let mut address = [0; 16];
    let mut i = 0;
    while i < 16 {
        address[i] = header[at + i];
        i += 1;
    }
    address
}

/// Reads the IPv6 packet quoted at `l3`; otherwise as [`ipv4_quoted`]. Behind a chain that is cut
/// short or too long nothing is read.
#[inline(always)]
pub fn ipv6_quoted<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Option<Quoted<Ipv6Wire>> {
    let header: [u8; IPV6_LEN] = sized(bytes, l3, available)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut quoted = Quoted {
        source: ipv6_address(&header, 8),
        destination: ipv6_address(&header, 24),
        protocol: header[6],
        l4: l3 + IPV6_LEN,
        source_port: [0; 2],
        destination_port: [0; 2],
        checksum: Checksum::None,
    };
    if let Some(chain) = ipv6_chain(bytes, l3, header[6], available)
        && chain.fragment != Fragment::Later
    {
        #[expect(clippy::cast_possible_truncation, reason = "inside the packet")]
        let before = (chain.l4 - l3) as u32;
        let left = available - before;
        quoted.protocol = chain.protocol;
        quoted.l4 = chain.l4;
        (quoted.source_port, quoted.destination_port, quoted.checksum) =
            quoted_transport(bytes, chain.l4, chain.protocol, left);
    }
    Some(quoted)
}

/// A destination that never leaves the link: this network, link-local, multicast, reserved and
/// broadcast (RFC 6890).
#[inline(always)]
#[must_use]
pub fn ipv4_stays_on_link(address: Ipv4Wire) -> bool {
    address[0] == 0
        || address[0] == 127
        || address[0] >= 224
        || (address[0] == 169 && address[1] == 254)
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
        _ if protocol == protocol::ICMPV6 => ([0; 2], [0; 2], Checksum::None),
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
        protocol::ICMPV6 => {
            let id = if matches!(header[0], 128 | 129) {
                [header[4], header[5]]
            } else {
                [0; 2]
            };
            (id, id, Checksum::Plain(2))
        }
        _ => ([0; 2], [0; 2], Checksum::None),
    }
}

#[cfg(test)]
mod tests;
