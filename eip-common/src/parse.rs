//! From bytes to headers.
//!
//! The same code runs in the kernel programs and on the host, where it is property-tested: it reads
//! through [`Bytes`] and knows no packet memory, no maps and no verdicts. Everything it accepts has
//! lengths that do not contradict each other; everything it refuses says whether the bytes are no
//! IP packet at all or a packet that lies.

use crate::{
    addr::{Ipv4Wire, Ipv6Wire, Port},
    csum::Delta,
};

/// Length of an untagged Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Length of the fragment header of IPv6.
pub const IPV6_FRAGMENT_LEN: usize = 8;
/// Where the source address stands in an IPv4 header; the destination follows it.
pub const IPV4_ADDRESSES: usize = 12;
/// Where the source address stands in an IPv6 header; the destination follows it.
pub const IPV6_ADDRESSES: usize = 8;
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
    /// The fragment header of IPv6.
    pub const FRAGMENT: u8 = 44;
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

    /// See [`Chain::follow`]. The kernel programs have a function of their own for it.
    #[inline(always)]
    fn chain(&self, l3: u32, first: u8, len: u32) -> Option<Chain> {
        Chain::follow(self, l3, first, len)
    }
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
///
/// One byte and no enum with fields: what an enum leaves unset the compiler may fill with any register,
/// a packet pointer included, which the verifier refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u8);

impl Checksum {
    /// No checksum covers the addresses.
    pub const NONE: Self = Self(0);
    const OPTIONAL: u8 = 0x80;

    /// At this offset.
    #[inline(always)]
    #[must_use]
    pub const fn plain(offset: u8) -> Self {
        Self(offset)
    }

    /// At this offset; zero means that the sender computed none (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn optional(offset: u8) -> Self {
        Self(offset | Self::OPTIONAL)
    }

    /// Where it is.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> Option<usize> {
        match self.0 & !Self::OPTIONAL {
            0 => None,
            offset => Some(offset as usize),
        }
    }

    /// Whether zero means that there is none.
    #[inline(always)]
    #[must_use]
    pub const fn is_optional(self) -> bool {
        self.0 & Self::OPTIONAL != 0
    }

    /// The checksum `old` after a change of what it covers.
    #[inline(always)]
    #[must_use]
    pub fn changed(self, old: [u8; 2], delta: Delta) -> [u8; 2] {
        if self.is_optional() {
            delta.applied_to_udp(old)
        } else {
            delta.applied_to(old)
        }
    }
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
    /// Length of a TCP header with its options; 8 for everything else.
    pub header_len: u8,
}

/// Transport kinds that the packet path treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment that opens a connection (SYN without ACK).
    TcpOpen,
    /// Any other TCP segment.
    Tcp,
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
        checksum: Checksum::NONE,
        kind: Kind::Other,
        header_len: 8,
    };
}

/// A parsed packet. Addresses first and aligned, so that the programs read them as words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
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
    /// Where the transport header starts.
    pub l4: usize,
    /// Bytes from the IP header to the end of the packet.
    pub len: u32,
    /// Where the IP header starts.
    pub l3: u16,
    /// What follows the IP header.
    pub transport: Transport,
}

impl<A: Copy> Headers<A> {
    /// Nothing read yet; `unspecified` stands for both addresses.
    #[inline(always)]
    #[must_use]
    pub const fn empty(unspecified: A) -> Self {
        Self {
            source: unspecified,
            destination: unspecified,
            ttl: 0,
            protocol: 0,
            id: [0; 4],
            fragment: Fragment::Whole,
            dont_fragment: true,
            l4: 0,
            len: 0,
            l3: 0,
            transport: Transport::OPAQUE,
        }
    }
}

impl<A> Headers<A> {
    /// Length of the IP header with options or extension headers, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn before_transport(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "inside the packet")]
        let l4 = self.l4 as u32;
        l4 - self.l3 as u32
    }
}

/// The offset of an IP header: behind an Ethernet header and tags.
#[inline(always)]
const fn short(l3: usize) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "link-layer headers are short"
    )]
    let short = l3 as u16;
    short
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
        l3: short(l3),
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
    let shortest = match number {
        protocol::TCP => 20,
        protocol::DCCP => 12,
        protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::ICMP | protocol::ICMPV6 => {
            8
        }
        _ => return Some(Transport::OPAQUE),
    };
    if len < shortest {
        return None;
    }
    let header: [u8; 8] = bytes.read(l4)?;
    match number {
        protocol::TCP => tcp(&header, bytes.read(l4 + 12)?),
        protocol::UDP | protocol::UDP_LITE => Some(ports(&header, Checksum::optional(6))),
        protocol::DCCP => Some(ports(&header, Checksum::plain(6))),
        protocol::ICMP => Some(icmp(&header)),
        protocol::ICMPV6 => Some(icmpv6(&header)),
        // SCTP's CRC32c does not cover addresses (RFC 9260 section 6.8).
        _ => Some(ports(&header, Checksum::NONE)),
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
fn ports(header: &[u8; 8], checksum: Checksum) -> Transport {
    Transport {
        source: [header[0], header[1]],
        destination: [header[2], header[3]],
        checksum,
        ..Transport::OPAQUE
    }
}

/// `flags` are the two bytes of header length and flags.
#[inline(always)]
fn tcp(header: &[u8; 8], flags: [u8; 2]) -> Option<Transport> {
    let header_len = (flags[0] >> 4) * 4;
    if header_len < 20 {
        return None;
    }
    let is_open = flags[1] & 0x12 == 0x02;
    Some(Transport {
        kind: if is_open { Kind::TcpOpen } else { Kind::Tcp },
        header_len,
        ..ports(header, Checksum::plain(16))
    })
}

/// ICMPv4 has no pseudo header (RFC 792): nothing to keep right unless it quotes a packet.
#[inline(always)]
fn icmp(header: &[u8; 8]) -> Transport {
    match header[0] {
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
    }
}

/// ICMPv6 has the pseudo header in its checksum (RFC 4443 section 2.3).
#[inline(always)]
fn icmpv6(header: &[u8; 8]) -> Transport {
    let opaque = Transport {
        checksum: Checksum::plain(2),
        ..Transport::OPAQUE
    };
    match header[0] {
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
    }
}

/// Whether a next-header value is an extension header that is followed.
#[inline(always)]
#[must_use]
pub const fn is_ipv6_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | protocol::FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Where the extension headers of an IPv6 packet lead to (RFC 8200 section 4): its transport header, or the
/// rest of a datagram behind a fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Where that stands.
    l4: u32,
    /// What it is.
    protocol: u8,
    fragment: Fragment,
    /// Of the datagram, when this is a fragment.
    id: [u8; 4],
}

impl Chain {
    /// Follows the headers of the packet at `l3`, of which `first` is the first and `len` bytes are there. `None`
    /// for a chain that is cut short, longer than [`MAX_EXTENSIONS`], or that routes through the destination: its
    /// checksum would be about an address that stands elsewhere (RFC 8200 section 8.1), and the VM is no router
    /// (RFC 5095).
    #[inline(always)]
    #[must_use]
    pub fn follow<B: Bytes + ?Sized>(bytes: &B, l3: u32, first: u8, len: u32) -> Option<Self> {
        let mut left = len.checked_sub(40)?;
        let mut chain = Self {
            l4: l3 + 40,
            protocol: first,
            fragment: Fragment::Whole,
            id: [0; 4],
        };
        if !chain.goes_on() {
            return Some(chain);
        }
        // Asked at the end of each turn, so that a jump with a condition leads back: verifiers before 6.3 take a
        // loop that begins where its end falls through for one without end.
        let mut followed = 0;
        loop {
            let header: [u8; 8] = sized(bytes, chain.l4 as usize, left)?;
            let size = match chain.protocol {
                protocol::FRAGMENT => {
                    chain.fragment = ipv6_fragment(&header);
                    chain.id = [header[4], header[5], header[6], header[7]];
                    8
                }
                ROUTING if header[3] != 0 => return None,
                AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
                _ => (u32::from(header[1]) + 1) * 8,
            };
            left = left.checked_sub(size)?;
            chain.l4 += size;
            chain.protocol = header[0];
            followed += 1;
            if !chain.goes_on() {
                return Some(chain);
            }
            if followed == MAX_EXTENSIONS {
                return None;
            }
        }
    }

    /// Whether another extension header stands where it has got to.
    #[inline(always)]
    fn goes_on(&self) -> bool {
        is_ipv6_extension(self.protocol) && self.fragment != Fragment::Later
    }

    /// As one number, which is never 0. A function of a kernel program that is verified on its own can give no more
    /// than that, and hides behind it which way through the headers led to it.
    #[inline(always)]
    #[must_use]
    pub fn pack(self) -> u64 {
        let fragment = match self.fragment {
            Fragment::Whole => 0,
            Fragment::First => 1,
            Fragment::Later => 2,
        };
        // At most 54 and seven headers of 2048 bytes: 14 bits.
        u64::from(self.l4) << 48
            | fragment << 40
            | u64::from(self.protocol) << 32
            | u64::from(u32::from_be_bytes(self.id))
    }

    /// What [`Chain::pack`] made a number of; `None` of 0.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "cut out of the number")]
    pub fn unpack(packed: u64) -> Option<Self> {
        if packed == 0 {
            return None;
        }
        Some(Self {
            l4: (packed >> 48) as u32,
            protocol: (packed >> 32) as u8,
            fragment: match (packed >> 40) as u8 {
                0 => Fragment::Whole,
                1 => Fragment::First,
                _ => Fragment::Later,
            },
            id: (packed as u32).to_be_bytes(),
        })
    }
}

#[inline(always)]
fn ipv6_fragment(header: &[u8; IPV6_FRAGMENT_LEN]) -> Fragment {
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
pub fn ipv6<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let mut headers = ipv6_fixed(bytes, l3, available)?;
    ipv6_extensions(bytes, &mut headers)?;
    ipv6_transport(bytes, &mut headers)?;
    Ok(headers)
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
    let mut headers = ipv6_fixed(bytes, l3, available)?;
    if is_ipv6_extension(headers.protocol) {
        return Err(ParseError::Malformed);
    }
    headers.l4 = l3 + IPV6_LEN;
    ipv6_transport(bytes, &mut headers)?;
    Ok(headers)
}

/// As [`ipv6_plain`], also for a fragment whose fragment header is the only extension header.
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6_plain_or_fragment<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let mut headers = ipv6_fixed(bytes, l3, available)?;
    if headers.protocol == protocol::FRAGMENT {
        let left = headers.len - 40;
        let header: [u8; IPV6_FRAGMENT_LEN] =
            sized(bytes, l3 + IPV6_LEN, left).ok_or(ParseError::Malformed)?;
        headers.fragment = ipv6_fragment(&header);
        headers.id = [header[4], header[5], header[6], header[7]];
        headers.protocol = header[0];
        headers.l4 += IPV6_FRAGMENT_LEN;
    }
    if is_ipv6_extension(headers.protocol) {
        return Err(ParseError::Malformed);
    }
    ipv6_transport(bytes, &mut headers)?;
    Ok(headers)
}

/// First of three steps of [`ipv6`]: the fixed header, as if nothing followed it that matters.
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6_fixed<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
    available: u32,
) -> Result<Headers<Ipv6Wire>, ParseError> {
    let header: [u8; 8] = bytes.read(l3).ok_or(ParseError::NotIp)?;
    if header[0] >> 4 != 6 || available < 40 {
        return Err(ParseError::NotIp);
    }
    let len = ipv6_len([header[4], header[5]], available);
    if len > available {
        return Err(ParseError::Malformed);
    }
    Ok(Headers {
        source: bytes.read(l3 + IPV6_ADDRESSES).ok_or(ParseError::NotIp)?,
        destination: bytes
            .read(l3 + IPV6_ADDRESSES + 16)
            .ok_or(ParseError::NotIp)?,
        ttl: header[7],
        protocol: header[6],
        id: [0; 4],
        fragment: Fragment::Whole,
        dont_fragment: true,
        l3: short(l3),
        l4: l3 + IPV6_LEN,
        len,
        transport: Transport::OPAQUE,
    })
}

/// Second step: follows extension headers, whose chain has to end within [`MAX_EXTENSIONS`].
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6_extensions<B: Bytes + ?Sized>(
    bytes: &B,
    headers: &mut Headers<Ipv6Wire>,
) -> Result<(), ParseError> {
    let chain = bytes
        .chain(headers.l3.into(), headers.protocol, headers.len)
        .ok_or(ParseError::Malformed)?;
    headers.protocol = chain.protocol;
    headers.l4 = chain.l4 as usize;
    headers.fragment = chain.fragment;
    headers.id = chain.id;
    Ok(())
}

/// Third step: reads the transport header.
///
/// # Errors
/// See [`ParseError`].
#[inline(always)]
pub fn ipv6_transport<B: Bytes + ?Sized>(
    bytes: &B,
    headers: &mut Headers<Ipv6Wire>,
) -> Result<(), ParseError> {
    // ICMP means nothing inside IPv6: carried by address, like any protocol nobody knows.
    if headers.fragment == Fragment::Later || headers.protocol == protocol::ICMP {
        return Ok(());
    }
    let left = headers
        .len
        .checked_sub(headers.before_transport())
        .ok_or(ParseError::Malformed)?;
    headers.transport =
        transport(bytes, headers.l4, headers.protocol, left).ok_or(ParseError::Malformed)?;
    Ok(())
}

/// Payload length plus header. A super-packet beyond 64 KiB has zero there (RFC 2675).
#[inline(always)]
fn ipv6_len(payload: [u8; 2], available: u32) -> u32 {
    let payload = u32::from(u16::from_be_bytes(payload));
    if payload == 0 && available > 40 + 0xffff {
        available
    } else {
        payload + 40
    }
}

/// Reads the IPv6 packet quoted at `l3`; otherwise as [`ipv4_quoted`]. Behind a chain that is cut
/// short or too long nothing is read.
#[inline(always)]
pub fn ipv6_quoted<B: Bytes + ?Sized>(bytes: &B, l3: usize, available: u32) -> Option<Quoted> {
    let header: [u8; 8] = bytes.read(l3)?;
    if header[0] >> 4 != 6 || available < 40 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "inside the packet")]
    let start = l3 as u32;
    let opaque = Quoted::opaque(header[6], l3 + IPV6_LEN);
    let Some(chain) = bytes.chain(start, header[6], available) else {
        return Some(opaque);
    };
    // ICMP means nothing inside IPv6.
    if chain.fragment == Fragment::Later || chain.protocol == protocol::ICMP {
        return Some(opaque);
    }
    let left = available.checked_sub(chain.l4 - start)?;
    let l4 = chain.l4 as usize;
    Some(quoted_transport(bytes, l4, chain.protocol, left))
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

/// What an ICMP error quotes behind the IP header. The addresses in that header stand where they always
/// do: [`IPV4_ADDRESSES`], [`IPV6_ADDRESSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Where its transport header starts.
    pub l4: usize,
    /// Ports or identifier, as in [`Transport`]; zero when not quoted.
    pub source_port: Port,
    /// As `source_port`.
    pub destination_port: Port,
    /// Transport protocol.
    pub protocol: u8,
    /// Its transport checksum, if that much was quoted.
    pub checksum: Checksum,
}

impl Quoted {
    /// No transport header that can be read.
    const fn opaque(protocol: u8, l4: usize) -> Self {
        Self {
            protocol,
            l4,
            source_port: [0; 2],
            destination_port: [0; 2],
            checksum: Checksum::NONE,
        }
    }
}

/// Reads the IPv4 packet quoted at `l3`, of which `available` bytes are there. Quotes are cut short
/// by nature (RFC 792: header and 8 bytes); `None` when not even the header is whole.
#[inline(always)]
pub fn ipv4_quoted<B: Bytes + ?Sized>(bytes: &B, l3: usize, available: u32) -> Option<Quoted> {
    let header: [u8; IPV4_LEN] = sized(bytes, l3, available)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || header_len > available {
        return None;
    }
    let l4 = l3 + header_len as usize;
    let protocol = header[9];
    Some(match ipv4_fragment(&header) {
        Fragment::Later => Quoted::opaque(protocol, l4),
        _ if protocol == protocol::ICMPV6 => Quoted::opaque(protocol, l4),
        Fragment::Whole | Fragment::First => {
            quoted_transport(bytes, l4, protocol, available - header_len)
        }
    })
}

/// Ports and checksum as far as the quote has them.
#[inline(always)]
fn quoted_transport<B: Bytes + ?Sized>(bytes: &B, l4: usize, number: u8, len: u32) -> Quoted {
    let opaque = Quoted::opaque(number, l4);
    let Some(header) = sized::<B, 8>(bytes, l4, len) else {
        return opaque;
    };
    let ports = Quoted {
        source_port: [header[0], header[1]],
        destination_port: [header[2], header[3]],
        ..opaque
    };
    let identified = Quoted {
        source_port: [header[4], header[5]],
        destination_port: [header[4], header[5]],
        ..opaque
    };
    match number {
        protocol::TCP if len >= 20 => Quoted {
            checksum: Checksum::plain(16),
            ..ports
        },
        protocol::UDP | protocol::UDP_LITE => Quoted {
            checksum: Checksum::optional(6),
            ..ports
        },
        protocol::DCCP => Quoted {
            checksum: Checksum::plain(6),
            ..ports
        },
        protocol::TCP | protocol::SCTP => ports,
        protocol::ICMP => identified,
        protocol::ICMPV6 if matches!(header[0], 128 | 129) => Quoted {
            checksum: Checksum::plain(2),
            ..identified
        },
        protocol::ICMPV6 => Quoted {
            checksum: Checksum::plain(2),
            ..opaque
        },
        _ => opaque,
    }
}

#[cfg(test)]
mod tests;
