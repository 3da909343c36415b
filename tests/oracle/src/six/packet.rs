//! IPv6 packets as values; what they carry is [`Body`], as in IPv4.

use crate::{
    Direction, Step, chain, checksum,
    packet::{Body, Damage, Order, Piece, Sum},
};

/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// The addresses of a packet where it is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source.
    pub source: [u8; 16],
    /// Destination.
    pub destination: [u8; 16],
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

/// Everything before what is carried, apart from addresses and lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Traffic class.
    pub class: u8,
    /// Flow label, twenty bits of it.
    pub flow: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers, in their order.
    pub extensions: Vec<Extension>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            class: 0,
            flow: 0,
            hop_limit: 64,
            extensions: Vec::new(),
        }
    }
}

/// The number of what is carried: [`Body::Icmp`] means the ICMP of the family.
pub const fn protocol(body: &Body) -> u8 {
    match body {
        Body::Icmp { .. } => ICMPV6,
        other => other.protocol(),
    }
}

/// What is carried, between two addresses.
pub fn content(body: &Body, ends: Ends) -> Vec<u8> {
    match body {
        Body::Icmp {
            kind,
            rest,
            sum,
            payload,
        } => icmp(*kind, *rest, *sum, payload, ends),
        other => other.between(&ends.source, &ends.destination),
    }
}

/// An ICMPv6 message.
pub fn icmp(kind: (u8, u8), rest: [u8; 4], sum: Sum, payload: &[u8], ends: Ends) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest);
    bytes.extend(payload);
    let right = checksum::transport(&ends.source, &ends.destination, ICMPV6, &bytes);
    bytes[2..4].copy_from_slice(&sum.of(right).to_be_bytes());
    bytes
}

/// An IPv6 packet of these bytes.
pub fn packet(header: &Header, protocol: u8, ends: Ends, content: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = header.extensions.iter().map(Extension::number).collect();
    let mut behind = Vec::new();
    for (index, extension) in header.extensions.iter().enumerate() {
        let next = numbers.get(index + 1).copied().unwrap_or(protocol);
        behind.extend(extension.bytes(next));
    }
    behind.extend(content);
    let first = 6 << 28 | u32::from(header.class) << 20 | (header.flow & 0xf_ffff);
    let mut bytes = first.to_be_bytes().to_vec();
    bytes.extend(
        u16::try_from(behind.len())
            .expect("one packet")
            .to_be_bytes(),
    );
    bytes.push(numbers.first().copied().unwrap_or(protocol));
    bytes.push(header.hop_limit);
    bytes.extend(ends.source);
    bytes.extend(ends.destination);
    bytes.extend(behind);
    bytes
}

/// A whole packet.
pub fn whole(header: &Header, body: &Body, ends: Ends) -> Vec<u8> {
    packet(header, protocol(body), ends, &content(body, ends))
}

/// The fragments of a packet, of `size` bytes each (a multiple of eight), behind all extension headers.
pub fn fragments(
    header: &Header,
    body: &Body,
    ends: Ends,
    id: u32,
    (size, order): (usize, Order),
) -> Vec<Vec<u8>> {
    let content = content(body, ends);
    let last = content.len().div_ceil(size).saturating_sub(1);
    let pieces = content.chunks(size).enumerate().map(|(index, chunk)| {
        let piece = Piece {
            offset: index * size,
            more: index < last,
        };
        let field = u16::try_from(piece.offset).expect("inside a datagram") | u16::from(piece.more);
        let mut bytes = vec![protocol(body), 0];
        bytes.extend(field.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(chunk);
        packet(header, 44, ends, &bytes)
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

/// What an ICMPv6 error is about, and how much of it is quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Seen from the other side of the translation: it was sent first.
    pub header: Header,
    /// As `header`.
    pub body: Body,
    /// Bytes of it behind its fixed header that are quoted.
    pub quoted: usize,
    /// Whether the packet really passed before.
    pub was_sent: bool,
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A packet on its own.
    Whole(Header, Body),
    /// In pieces of so many bytes.
    Fragmented(Header, Body, usize, Order),
    /// An ICMPv6 error: type, code and the four bytes behind the checksum.
    Error(Header, (u8, u8), [u8; 4], Quote),
    /// A reply: the request before it, then the packet.
    Reply(Body, Header, Body),
}

/// A shape on its way between a guest and a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which way.
    pub direction: Direction,
    /// Index of the VM in [`chain::GUESTS`].
    pub guest: usize,
    /// The other end.
    pub peer: [u8; 16],
    /// What.
    pub shape: Shape,
    /// Damage on the way to us; not [`Damage::Flipped`], which is about IPv4.
    pub damage: Damage,
}

impl Case {
    /// Its frames in the order they are sent; fragments have this identification.
    pub fn steps(&self, id: u32) -> Vec<Step> {
        let ends = self.ends(self.direction);
        let step = |direction, packet| Step {
            direction,
            guest: self.guest,
            packet,
        };
        let here = |packet| step(self.direction, packet);
        let there = self.direction.turned();
        let mut steps = match &self.shape {
            Shape::Whole(header, body) => vec![here(whole(header, body, ends))],
            Shape::Fragmented(header, body, size, order) => {
                fragments(header, body, ends, id, (*size, *order))
                    .into_iter()
                    .map(here)
                    .collect()
            }
            Shape::Error(header, kind, rest, quote) => {
                let mut steps = Vec::new();
                if quote.was_sent {
                    let sent = whole(&quote.header, &quote.body, self.ends(there));
                    steps.push(step(there, sent));
                }
                steps.push(here(error(header, *kind, *rest, quote, ends)));
                steps
            }
            Shape::Reply(request, header, body) => vec![
                step(there, whole(&Header::default(), request, self.ends(there))),
                here(whole(header, body, ends)),
            ],
        };
        if let Some(last) = steps.last_mut() {
            match self.damage {
                Damage::Padding(count) => last.packet.resize(last.packet.len() + count, 0xee),
                Damage::Truncated(count) => last
                    .packet
                    .truncate(last.packet.len().saturating_sub(count).max(1)),
                Damage::None | Damage::Flipped(..) => {}
            }
        }
        steps
    }

    /// The addresses of its packets where they are put in.
    pub fn ends(&self, direction: Direction) -> Ends {
        let (vm, eip) = chain::addresses6(self.guest);
        match direction {
            Direction::Inward => Ends {
                source: self.peer,
                destination: eip,
            },
            Direction::Outward => Ends {
                source: vm,
                destination: self.peer,
            },
        }
    }
}

/// An ICMPv6 error between `ends`, about a packet that went the other way.
fn error(header: &Header, kind: (u8, u8), rest: [u8; 4], quote: &Quote, ends: Ends) -> Vec<u8> {
    let mut quoted = quote.header.clone();
    // It was on its way for a while.
    quoted.hop_limit = quoted.hop_limit.saturating_sub(3).max(1);
    let mut content = whole(&quoted, &quote.body, ends.turned());
    content.truncate(super::FIXED + quote.quoted);
    packet(
        header,
        ICMPV6,
        ends,
        &icmp(kind, rest, Sum::Right, &content, ends),
    )
}
