//! One thing to try: what is sent, which way, and what became of it before.

use std::net::IpAddr;

use eip_lab::plan::Family;

use crate::{
    Path, Place, Step, chain, checksum, layout,
    packet::{Body, Ends, Header, Order, Sum, fragments, icmp, packet, whole},
};

/// How much of the offending packet an ICMP error quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What the error is about, seen from the other side of the translation: it was sent first.
    pub header: Header,
    /// As `header`.
    pub body: Body,
    /// Bytes of it behind its IP header (in IPv6 the fixed one) that are quoted.
    pub quoted: usize,
    /// Pad to 128 bytes and append an extension structure (RFC 4884).
    pub extension: Option<Vec<u8>>,
    /// Whether the packet really passed before.
    pub was_sent: bool,
}

/// What is sent.
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
    pub const fn identify(&mut self, id: u32) {
        match self {
            Self::Whole(header, _)
            | Self::Fragmented(header, ..)
            | Self::Error(header, ..)
            | Self::Reply(_, header, _) => header.id = id,
        }
    }

    /// Whose packets they are.
    pub const fn family(&self) -> Family {
        match self {
            Self::Whole(header, _)
            | Self::Fragmented(header, ..)
            | Self::Error(header, ..)
            | Self::Reply(_, header, _) => header.family(),
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
    /// A VLAN tag before it, which nobody expects.
    Tagged(u16),
    /// IPv4: some bits of one byte turned over, wherever it is but in version, addresses and options; the
    /// header's checksum is made after that.
    Flipped(usize, u8),
}

/// A shape on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which way.
    pub path: Path,
    /// The end that is no VM of this node, if there is one; of the family of the shape.
    pub peer: IpAddr,
    /// What.
    pub shape: Shape,
    /// Damage on the way to us.
    pub damage: Damage,
}

impl Case {
    /// Its frames in the order they are sent.
    pub fn steps(&self) -> Vec<Step> {
        let (path, back) = (self.path, self.path.turned());
        let (ends, there) = (self.ends(path), self.ends(back));
        let here = |packet| Step::new(path, packet);
        let before = |packet| Step::new(back, packet);
        let mut steps = match &self.shape {
            Shape::Whole(header, body) => vec![here(whole(header, body, ends))],
            Shape::Fragmented(header, body, size, order) => {
                let pieces = fragments(header, body, ends, *size, *order);
                pieces.into_iter().map(here).collect()
            }
            Shape::Error(header, kind, rest, quote) => {
                let sent = whole(&quote.header, &quote.body, there);
                let sent = quote.was_sent.then(|| before(sent));
                let error = here(error(header, *kind, *rest, quote, ends));
                sent.into_iter().chain([error]).collect()
            }
            Shape::Reply(request, header, body) => {
                let plain = Header::plain(header.family());
                vec![
                    before(whole(&plain, request, there)),
                    here(whole(header, body, ends)),
                ]
            }
        };
        if let Some(last) = steps.last_mut() {
            self.damage.apply(last);
        }
        steps
    }

    /// The addresses of its packets where they are put in.
    pub fn ends(&self, path: Path) -> Ends {
        ends(self.shape.family(), path, self.peer)
    }
}

/// The addresses of a packet where it is put in: a VM knows its own address and another one's EIP.
pub fn ends(family: Family, path: Path, peer: IpAddr) -> Ends {
    let known = |place, is_here: bool| match place {
        Place::Outside => peer,
        Place::Vm(guest, _) if is_here => chain::vm(guest).of(family),
        Place::Vm(guest, eip) => chain::eip(guest, eip).of(family),
    };
    Ends {
        source: known(path.from, true),
        destination: known(path.to, false),
    }
}

impl Damage {
    fn apply(self, step: &mut Step) {
        let packet = &mut step.packet;
        match self {
            Self::Tagged(tag) => step.tag = Some(tag),
            Self::Padding(count) => packet.resize(packet.len() + count, 0xee),
            Self::Truncated(count) => packet.truncate(packet.len().saturating_sub(count).max(1)),
            Self::Flipped(at, bits) if layout::family(packet) == Some(Family::V4) => {
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
            Self::None | Self::Flipped(..) => {}
        }
    }
}

/// An ICMP error between `ends`, about a packet that went the other way.
fn error(header: &Header, kind: (u8, u8), rest: [u8; 4], quote: &Quote, ends: Ends) -> Vec<u8> {
    let mut quoted = quote.header.clone();
    // It was on its way for a while.
    quoted.ttl = quoted.ttl.saturating_sub(3).max(1);
    let mut content = whole(&quoted, &quote.body, ends.turned());
    content.truncate(quoted.len_without_extensions() + quote.quoted);
    let family = header.family();
    let mut rest = rest;
    if let Some(extension) = &quote.extension {
        content.resize(128, 0);
        // Length of the padded quote, in words of four bytes and of eight (RFC 4884 sections 4.1 and 4.4).
        match family {
            Family::V4 => rest[1] = 32,
            Family::V6 => rest[0] = 16,
        }
        let mut structure = vec![0x20, 0, 0, 0];
        let length = u16::try_from(4 + extension.len()).expect("a short extension");
        structure.extend(length.to_be_bytes());
        structure.extend([1, 1]);
        structure.extend(extension);
        let sum = checksum::internet(&structure);
        structure[2..4].copy_from_slice(&sum.to_be_bytes());
        content.extend(structure);
    }
    let message = icmp(kind, rest, Sum::Right, &content, ends);
    packet(header, layout::icmp(family), ends, None, &message)
}
