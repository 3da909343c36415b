//! Packets as values: what proptest makes, shrinks and prints.

use crate::{Direction, Step, checksum};

/// The addresses of a packet where it is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
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

/// The IP header, apart from addresses and lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// "Don't fragment".
    pub dont_fragment: bool,
    /// TTL.
    pub ttl: u8,
    /// Options, padded to words.
    pub options: Vec<u8>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            tos: 0,
            id: 0x1234,
            dont_fragment: false,
            ttl: 64,
            options: Vec::new(),
        }
    }
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
    /// ICMP that quotes nothing.
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
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::Udp { lite: false, .. } => 17,
            Self::Udp { lite: true, .. } => 136,
            Self::Tcp { .. } => 6,
            Self::Icmp { .. } => 1,
            Self::Sctp { .. } => 132,
            Self::Raw { protocol, .. } => *protocol,
        }
    }

    /// Its bytes between two addresses.
    pub fn bytes(&self, ends: Ends) -> Vec<u8> {
        self.between(&ends.source, &ends.destination)
    }

    /// As [`Body::bytes`], between addresses of any family; ICMP is that of IPv4.
    pub fn between(&self, source: &[u8], destination: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp {
                lite,
                ports,
                sum,
                payload,
            } => udp((source, destination), *lite, *ports, *sum, payload),
            Self::Tcp {
                ports,
                flags,
                options,
                sum,
                payload,
            } => {
                let words = 5 + u8::try_from(options.len() / 4).expect("at most ten words");
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                bytes.extend([0, 0, 3, 0xe8, 0, 0, 0, 7, words << 4, *flags, 0x10, 0]);
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(payload);
                let right = checksum::transport(source, destination, 6, &bytes);
                bytes[16..18].copy_from_slice(&sum.of(right).to_be_bytes());
                bytes
            }
            Self::Icmp {
                kind,
                rest,
                sum,
                payload,
            } => icmp(*kind, *rest, *sum, payload),
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

fn udp(
    (source, destination): (&[u8], &[u8]),
    lite: bool,
    ports: (u16, u16),
    sum: Sum,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("one datagram");
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    // The coverage of UDP-Lite stands where UDP has its length; both are the whole datagram.
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let protocol = if lite { 136 } else { 17 };
    let right = match checksum::transport(source, destination, protocol, &bytes) {
        0 => 0xffff,
        right => right,
    };
    bytes[6..8].copy_from_slice(&sum.of(right).to_be_bytes());
    bytes
}

/// An ICMP message.
pub fn icmp(kind: (u8, u8), rest: [u8; 4], sum: Sum, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest);
    bytes.extend(payload);
    let right = checksum::internet(&bytes);
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

/// An IP packet.
pub fn packet(header: &Header, protocol: u8, ends: Ends, piece: Piece, content: &[u8]) -> Vec<u8> {
    let words = 5 + u8::try_from(header.options.len() / 4).expect("at most ten words");
    let length = usize::from(words) * 4 + content.len();
    let mut bytes = vec![0x40 | words, header.tos];
    bytes.extend(u16::try_from(length).expect("one packet").to_be_bytes());
    bytes.extend(header.id.to_be_bytes());
    let offset = u16::try_from(piece.offset / 8).expect("inside a datagram");
    let flags = u16::from(header.dont_fragment) << 14 | u16::from(piece.more) << 13;
    bytes.extend((offset | flags).to_be_bytes());
    bytes.extend([header.ttl, protocol, 0, 0]);
    bytes.extend(ends.source);
    bytes.extend(ends.destination);
    bytes.extend(&header.options);
    let sum = checksum::internet(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// A whole packet.
pub fn whole(header: &Header, body: &Body, ends: Ends) -> Vec<u8> {
    let piece = Piece {
        offset: 0,
        more: false,
    };
    packet(header, body.protocol(), ends, piece, &body.bytes(ends))
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

/// The fragments of a packet, of `size` bytes of payload each (a multiple of eight).
pub fn fragments(
    header: &Header,
    body: &Body,
    ends: Ends,
    size: usize,
    order: Order,
) -> Vec<Vec<u8>> {
    let content = body.bytes(ends);
    let last = content.len().div_ceil(size).saturating_sub(1);
    let mut pieces: Vec<Vec<u8>> = content
        .chunks(size)
        .enumerate()
        .map(|(index, chunk)| {
            let piece = Piece {
                offset: index * size,
                more: index < last,
            };
            packet(header, body.protocol(), ends, piece, chunk)
        })
        .collect();
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

/// How much of the offending packet an ICMP error quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What the error is about, seen from the other side of the translation: it was sent first.
    pub header: Header,
    /// As `header`.
    pub body: Body,
    /// Bytes of it behind its IP header that are quoted.
    pub quoted: usize,
    /// Pad to 128 bytes and append an extension structure (RFC 4884).
    pub extension: Option<Vec<u8>>,
    /// Whether the packet really passed before.
    pub was_sent: bool,
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A packet on its own.
    Whole(Header, Body),
    /// In pieces.
    Fragmented(Header, Body, usize, Order),
    /// An ICMP error: type, code and the four bytes behind the checksum.
    Error(Header, (u8, u8), [u8; 4], Quote),
    /// A reply: the request before it, then the packet.
    Reply(Body, Header, Body),
}

impl Shape {
    /// Sets the identification of its packets.
    pub fn identify(&mut self, id: u16) {
        match self {
            Self::Whole(header, _)
            | Self::Fragmented(header, ..)
            | Self::Error(header, ..)
            | Self::Reply(_, header, _) => header.id = id,
        }
    }
}

/// What becomes of the last frame before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// Bytes behind the packet, as on Ethernet.
    Padding(usize),
    /// Bytes missing at its end.
    Truncated(usize),
    /// Some bits of one byte turned over, wherever it is but in version, addresses and options; the
    /// header's checksum is made after that.
    Flipped(usize, u8),
}

/// A case: a shape on its way between a guest and a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which way.
    pub direction: Direction,
    /// Index of the VM in [`crate::chain::GUESTS`].
    pub guest: usize,
    /// The other end.
    pub peer: [u8; 4],
    /// What.
    pub shape: Shape,
    /// Damage on the way to us.
    pub damage: Damage,
}

impl Case {
    /// Its frames in the order they are sent.
    pub fn steps(&self) -> Vec<Step> {
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
                fragments(header, body, ends, *size, *order)
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
                let content = error(*kind, *rest, quote, ends.turned());
                let piece = Piece {
                    offset: 0,
                    more: false,
                };
                steps.push(here(packet(header, 1, ends, piece, &content)));
                steps
            }
            Shape::Reply(request, header, body) => vec![
                step(there, whole(&Header::default(), request, self.ends(there))),
                here(whole(header, body, ends)),
            ],
        };
        if let Some(last) = steps.last_mut() {
            self.damage.apply(&mut last.packet);
        }
        steps
    }

    /// The addresses of its packets where they are put in.
    pub fn ends(&self, direction: Direction) -> Ends {
        let (vm, eip) = crate::chain::addresses(self.guest);
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

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn turned(self) -> Self {
        match self {
            Self::Inward => Self::Outward,
            Self::Outward => Self::Inward,
        }
    }
}

impl Damage {
    fn apply(self, packet: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Padding(count) => packet.resize(packet.len() + count, 0xee),
            Self::Truncated(count) => packet.truncate(packet.len().saturating_sub(count).max(1)),
            Self::Flipped(at, bits) => {
                let at = at % packet.len();
                let header = usize::from(packet[0] & 0xf) * 4;
                if at == 0 || (10..header).contains(&at) {
                    return;
                }
                packet[at] ^= bits;
                if at < header {
                    packet[10..12].fill(0);
                    let sum = checksum::internet(&packet[..header]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
        }
    }
}

/// An ICMP error about a packet between `about`.
fn error(kind: (u8, u8), rest: [u8; 4], quote: &Quote, about: Ends) -> Vec<u8> {
    let mut header = quote.header.clone();
    // It was on its way for a while.
    header.ttl = header.ttl.saturating_sub(3).max(1);
    let mut content = whole(&header, &quote.body, about);
    content.truncate(20 + header.options.len() + quote.quoted);
    let mut rest = rest;
    if let Some(extension) = &quote.extension {
        content.resize(128, 0);
        // Length of the padded quote in words (RFC 4884 section 4.1).
        rest[1] = 32;
        let mut structure = vec![0x20, 0, 0, 0];
        let length = u16::try_from(4 + extension.len()).expect("a short extension");
        structure.extend(length.to_be_bytes());
        structure.extend([1, 1]);
        structure.extend(extension);
        let sum = checksum::internet(&structure);
        structure[2..4].copy_from_slice(&sum.to_be_bytes());
        content.extend(structure);
    }
    icmp(kind, rest, Sum::Right, &content)
}
