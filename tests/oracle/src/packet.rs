//! Packets of both families as values: what proptest makes, shrinks and prints.

use std::net::IpAddr;

use eip_lab::plan::Family;

use crate::{checksum, layout};

/// The addresses of a packet where it is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source.
    pub source: IpAddr,
    /// Destination, of the same family.
    pub destination: IpAddr,
}

impl Ends {
    /// Those of the answer.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }

    fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        (octets(self.source), octets(self.destination))
    }
}

/// An address as it stands in a packet.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// What a sender put into a checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// The right one.
    Right,
    /// Nothing: UDP's way to say "none".
    Zero,
    /// The right one with these bits turned over.
    Wrong(u16),
}

impl Sum {
    /// What stands in the field.
    pub fn of(self, right: u16) -> u16 {
        match self {
            Self::Right => right,
            Self::Zero => 0,
            Self::Wrong(bits) => right ^ bits,
        }
    }
}

/// Everything before what is carried, apart from addresses and lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Type of service or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Identification: of every packet of IPv4, the last sixteen bits, and of fragments of IPv6.
    pub id: u32,
    /// What the families do not share.
    pub net: Net,
}

/// The part of a header that only one family has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// IPv4.
    V4 {
        /// "Don't fragment".
        dont_fragment: bool,
        /// Options, padded to words.
        options: Vec<u8>,
    },
    /// IPv6.
    V6 {
        /// Flow label, twenty bits of it.
        flow: u32,
        /// Extension headers, in their order.
        extensions: Vec<Extension>,
    },
}

impl Header {
    /// Nothing out of the ordinary.
    pub const fn plain(family: Family) -> Self {
        Self {
            tos: 0,
            ttl: 64,
            id: 0x1234,
            net: match family {
                Family::V4 => Net::V4 {
                    dont_fragment: false,
                    options: Vec::new(),
                },
                Family::V6 => Net::V6 {
                    flow: 0,
                    extensions: Vec::new(),
                },
            },
        }
    }

    /// With options of IPv4.
    pub fn with_options(options: Vec<u8>) -> Self {
        Self {
            net: Net::V4 {
                dont_fragment: false,
                options,
            },
            ..Self::plain(Family::V4)
        }
    }

    /// With extension headers of IPv6.
    pub fn with_extensions(extensions: Vec<Extension>) -> Self {
        Self {
            net: Net::V6 {
                flow: 0,
                extensions,
            },
            ..Self::plain(Family::V6)
        }
    }

    /// Whose header it is.
    pub const fn family(&self) -> Family {
        match self.net {
            Net::V4 { .. } => Family::V4,
            Net::V6 { .. } => Family::V6,
        }
    }

    /// That of a packet which routers may cut into fragments; in IPv6 the sender is asked.
    pub fn allow_fragments(&mut self) {
        if let Net::V4 { dont_fragment, .. } = &mut self.net {
            *dont_fragment = false;
        }
    }

    /// Bytes before extension headers.
    pub fn len_without_extensions(&self) -> usize {
        match &self.net {
            Net::V4 { options, .. } => layout::fixed(Family::V4) + options.len(),
            Net::V6 { .. } => layout::fixed(Family::V6),
        }
    }
}

/// An extension header (RFC 8200 section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options: six bytes of them, or more by multiples of eight.
    HopByHop(Vec<u8>),
    /// Destination options, alike.
    Destination(Vec<u8>),
    /// A routing header with so many segments left.
    Routing(u8),
    /// An authentication header.
    Authentication,
    /// A fragment header of a packet that is none (RFC 6946).
    Atomic(u32),
}

impl Extension {
    const fn number(&self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Atomic(_) => 44,
            Self::Authentication => 51,
            Self::Destination(_) => 60,
        }
    }

    fn bytes(&self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(options) | Self::Destination(options) => {
                let length = u8::try_from((options.len() + 2) / 8 - 1).expect("some options");
                [&[next, length], &options[..]].concat()
            }
            // An experimental type (RFC 4727), of one address.
            Self::Routing(left) => [&[next, 2, 253, *left], &[0; 20][..]].concat(),
            Self::Authentication => vec![
                next, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
            ],
            Self::Atomic(id) => [&[next, 0, 0, 0], &id.to_be_bytes()[..]].concat(),
        }
    }
}

/// A chain of extension headers before `protocol`: the first number, and their bytes.
pub fn chained(extensions: &[Extension], protocol: u8) -> (u8, Vec<u8>) {
    let mut next = protocol;
    let mut chain = Vec::new();
    for extension in extensions.iter().rev() {
        chain = [extension.bytes(next), chain].concat();
        next = extension.number();
    }
    (next, chain)
}

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// UDP, or UDP-Lite covering all of it.
    Udp {
        /// UDP-Lite instead.
        lite: bool,
        /// Source and destination port.
        ports: (u16, u16),
        /// Checksum.
        sum: Sum,
        /// Payload.
        payload: Vec<u8>,
    },
    /// TCP.
    Tcp {
        /// Source and destination port.
        ports: (u16, u16),
        /// Flags byte.
        flags: u8,
        /// Options, padded to words.
        options: Vec<u8>,
        /// Checksum.
        sum: Sum,
        /// Payload.
        payload: Vec<u8>,
    },
    /// The family's ICMP, quoting nothing.
    Icmp {
        /// Type and code.
        kind: (u8, u8),
        /// The four bytes behind the checksum: identifier and sequence number.
        rest: [u8; 4],
        /// Checksum.
        sum: Sum,
        /// Payload.
        payload: Vec<u8>,
    },
    /// SCTP with one chunk.
    Sctp {
        /// Source and destination port.
        ports: (u16, u16),
        /// Type of the chunk.
        chunk: u8,
        /// Content of the chunk, a multiple of four bytes.
        content: Vec<u8>,
    },
    /// Any other protocol.
    Raw {
        /// Its number.
        protocol: u8,
        /// All of it.
        bytes: Vec<u8>,
    },
}

impl Body {
    /// Protocol number.
    pub const fn protocol(&self, family: Family) -> u8 {
        match self {
            Self::Udp { lite: false, .. } => 17,
            Self::Udp { lite: true, .. } => 136,
            Self::Tcp { .. } => 6,
            Self::Icmp { .. } => layout::icmp(family),
            Self::Sctp { .. } => 132,
            Self::Raw { protocol, .. } => *protocol,
        }
    }

    /// Its bytes between two addresses.
    pub fn bytes(&self, ends: Ends) -> Vec<u8> {
        match self {
            Self::Udp {
                lite,
                ports,
                sum,
                payload,
            } => udp(ends, *lite, *ports, *sum, payload),
            Self::Tcp {
                ports,
                flags,
                options,
                sum,
                payload,
            } => {
                let (source, destination) = ends.bytes();
                let words = 5 + u8::try_from(options.len() / 4).expect("at most ten words");
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                bytes.extend([0, 0, 3, 0xe8, 0, 0, 0, 7, words << 4, *flags, 0x10, 0]);
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(payload);
                let right = checksum::transport(&source, &destination, 6, &bytes);
                bytes[16..18].copy_from_slice(&sum.of(right).to_be_bytes());
                bytes
            }
            Self::Icmp {
                kind,
                rest,
                sum,
                payload,
            } => icmp(*kind, *rest, *sum, payload, ends),
            Self::Sctp {
                ports,
                chunk,
                content,
            } => {
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                // An INIT has to have verification tag zero.
                let tag = if *chunk == 1 { [0; 4] } else { [0, 0, 0, 9] };
                bytes.extend(tag);
                bytes.extend([0, 0, 0, 0, *chunk, 0]);
                let length = u16::try_from(4 + content.len()).expect("one chunk");
                bytes.extend(length.to_be_bytes());
                bytes.extend(content);
                let sum = checksum::sctp(&bytes);
                bytes[8..12].copy_from_slice(&sum);
                bytes
            }
            Self::Raw { bytes, .. } => bytes.clone(),
        }
    }
}

fn udp(ends: Ends, lite: bool, ports: (u16, u16), sum: Sum, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = ends.bytes();
    let length = u16::try_from(8 + payload.len()).expect("one datagram");
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    // The coverage of UDP-Lite stands where UDP has its length; both are the whole datagram.
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let protocol = if lite { 136 } else { 17 };
    let right = match checksum::transport(&source, &destination, protocol, &bytes) {
        0 => 0xffff,
        right => right,
    };
    bytes[6..8].copy_from_slice(&sum.of(right).to_be_bytes());
    bytes
}

/// A message of a family's ICMP; the addresses count in IPv6.
pub fn icmp(kind: (u8, u8), rest: [u8; 4], sum: Sum, payload: &[u8], ends: Ends) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest);
    bytes.extend(payload);
    let right = if ends.source.is_ipv4() {
        checksum::internet(&bytes)
    } else {
        let (source, destination) = ends.bytes();
        checksum::transport(&source, &destination, layout::icmp(Family::V6), &bytes)
    };
    bytes[2..4].copy_from_slice(&sum.of(right).to_be_bytes());
    bytes
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts, in bytes.
    pub offset: usize,
    /// Others follow.
    pub more: bool,
}

/// An IP packet of these bytes, or a fragment with them.
pub fn packet(
    header: &Header,
    protocol: u8,
    ends: Ends,
    piece: Option<Piece>,
    content: &[u8],
) -> Vec<u8> {
    let (source, destination) = ends.bytes();
    match &header.net {
        Net::V4 {
            dont_fragment,
            options,
        } => {
            let words = 5 + u8::try_from(options.len() / 4).expect("at most ten words");
            let length = usize::from(words) * 4 + content.len();
            let mut bytes = vec![0x40 | words, header.tos];
            bytes.extend(u16::try_from(length).expect("one packet").to_be_bytes());
            bytes.extend(&header.id.to_be_bytes()[2..]);
            let (offset, more) = piece.map_or((0, false), |piece| (piece.offset, piece.more));
            let offset = u16::try_from(offset / 8).expect("inside a datagram");
            let flags = u16::from(*dont_fragment) << 14 | u16::from(more) << 13;
            bytes.extend((offset | flags).to_be_bytes());
            bytes.extend([header.ttl, protocol, 0, 0]);
            bytes.extend(source);
            bytes.extend(destination);
            bytes.extend(options);
            let sum = checksum::internet(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(content);
            bytes
        }
        Net::V6 { flow, extensions } => {
            let (next, behind) = match piece {
                None => chained(extensions, protocol),
                Some(piece) => {
                    let (next, mut behind) = chained(extensions, 44);
                    let offset = u16::try_from(piece.offset).expect("inside a datagram");
                    behind.extend([protocol, 0]);
                    behind.extend((offset | u16::from(piece.more)).to_be_bytes());
                    behind.extend(header.id.to_be_bytes());
                    (next, behind)
                }
            };
            let first = 6 << 28 | u32::from(header.tos) << 20 | (flow & 0xf_ffff);
            let mut bytes = first.to_be_bytes().to_vec();
            let length = u16::try_from(behind.len() + content.len()).expect("one packet");
            bytes.extend(length.to_be_bytes());
            bytes.extend([next, header.ttl]);
            bytes.extend(source);
            bytes.extend(destination);
            bytes.extend(behind);
            bytes.extend(content);
            bytes
        }
    }
}

/// A whole packet.
pub fn whole(header: &Header, body: &Body, ends: Ends) -> Vec<u8> {
    let protocol = body.protocol(header.family());
    packet(header, protocol, ends, None, &body.bytes(ends))
}

/// In which order the fragments of a datagram are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// First to last.
    Forward,
    /// Last to first.
    Backward,
    /// The second one twice.
    Repeated,
}

/// The fragments of a packet, of `size` bytes of payload each (a multiple of eight), behind all extension
/// headers.
pub fn fragments(
    header: &Header,
    body: &Body,
    ends: Ends,
    size: usize,
    order: Order,
) -> Vec<Vec<u8>> {
    let protocol = body.protocol(header.family());
    cut(header, protocol, &body.bytes(ends), ends, size, order)
}

/// As [`fragments`], of any bytes.
pub fn cut(
    header: &Header,
    protocol: u8,
    content: &[u8],
    ends: Ends,
    size: usize,
    order: Order,
) -> Vec<Vec<u8>> {
    let last = content.len().div_ceil(size).saturating_sub(1);
    let pieces = content.chunks(size).enumerate().map(|(index, chunk)| {
        let piece = Piece {
            offset: index * size,
            more: index < last,
        };
        packet(header, protocol, ends, Some(piece), chunk)
    });
    let mut pieces: Vec<_> = pieces.collect();
    match order {
        Order::Forward => {}
        Order::Backward => pieces.reverse(),
        Order::Repeated => {
            if let Some(second) = pieces.get(1).cloned() {
                pieces.insert(1, second);
            }
        }
    }
    pieces
}
