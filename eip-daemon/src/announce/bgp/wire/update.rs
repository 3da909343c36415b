//! Writing UPDATEs (RFC 4271 §4.3, RFC 4760) that are as full as the session allows.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Family, MessageType, SAFI_UNICAST, SizeLimit, begin_message, finish_message,
    path::EXTENDED_LENGTH, put_length,
};

const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;
const OPTIONAL: u8 = 0x80;

/// Next hop of an `MP_REACH_NLRI`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Global address (RFC 2545 §2), or the link-local one where there is no other.
    pub global: Ipv6Addr,
    /// Link-local address, when the peer shares a link with us (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
}

/// A prefix as the wire has it: a length in bits and as many octets as that takes.
pub trait WirePrefix: Copy + Ord {
    /// Its family.
    const FAMILY: Family;

    /// Appends it.
    fn encode(self, out: &mut Vec<u8>);

    /// Octets it takes.
    fn wire_len(self) -> usize;

    /// As a prefix of either family.
    fn to_net(self) -> IpNet;
}

impl WirePrefix for Ipv4Net {
    const FAMILY: Family = Family::Ipv4;

    fn encode(self, out: &mut Vec<u8>) {
        put_prefix(out, self.prefix_len(), &self.network().octets());
    }

    fn wire_len(self) -> usize {
        1 + usize::from(self.prefix_len().div_ceil(8))
    }

    fn to_net(self) -> IpNet {
        IpNet::V4(self)
    }
}

impl WirePrefix for Ipv6Net {
    const FAMILY: Family = Family::Ipv6;

    fn encode(self, out: &mut Vec<u8>) {
        put_prefix(out, self.prefix_len(), &self.network().octets());
    }

    fn wire_len(self) -> usize {
        1 + usize::from(self.prefix_len().div_ceil(8))
    }

    fn to_net(self) -> IpNet {
        IpNet::V6(self)
    }
}

fn put_prefix(out: &mut Vec<u8>, len: u8, octets: &[u8]) {
    out.push(len);
    out.extend_from_slice(octets.get(..usize::from(len.div_ceil(8))).unwrap_or(octets));
}

/// Where the routes of one UPDATE go.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Withdrawn routes field, whose length stands at this offset.
    Withdrawn { length_at: usize },
    /// After the attributes.
    Nlri,
    /// In the attribute that starts at this offset and comes before all others (RFC 7606 §5.1).
    Attribute {
        starts_at: usize,
        attributes_length_at: usize,
    },
}

/// One UPDATE under construction at the end of a buffer: made for a group of routes, filled until
/// [`UpdateWriter::push`] refuses, then finished.
#[derive(Debug)]
pub struct UpdateWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Attributes that follow the one that carries the routes.
    trailer: &'a [u8],
    start: usize,
    limit: usize,
    place: Place,
}

impl<'a> UpdateWriter<'a> {
    /// Withdraws routes of family `P`.
    pub fn withdraw<P: WirePrefix>(out: &'a mut Vec<u8>, limit: SizeLimit) -> Self {
        let start = begin_message(out, MessageType::Update);
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        let place = match P::FAMILY {
            Family::Ipv4 => Place::Withdrawn { length_at },
            Family::Ipv6 => begin_attribute(out, MP_UNREACH_NLRI, P::FAMILY),
        };
        Self {
            out,
            trailer: &[],
            start,
            limit: limit.bytes(),
            place,
        }
    }

    /// Announces IPv4 routes whose next hop is among `attributes` (RFC 4271 §4.3).
    pub fn announce_ipv4(out: &'a mut Vec<u8>, limit: SizeLimit, attributes: &'a [u8]) -> Self {
        let start = begin_message(out, MessageType::Update);
        out.extend_from_slice(&[0, 0]);
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(attributes);
        put_length(out, length_at, attributes.len());
        Self {
            out,
            trailer: &[],
            start,
            limit: limit.bytes(),
            place: Place::Nlri,
        }
    }

    /// Announces routes of either family with an IPv6 next hop (RFC 4760 §3, RFC 8950 §3).
    pub fn announce_mp<P: WirePrefix>(
        out: &'a mut Vec<u8>,
        limit: SizeLimit,
        attributes: &'a [u8],
        next_hop: NextHop,
    ) -> Self {
        let start = begin_message(out, MessageType::Update);
        out.extend_from_slice(&[0, 0]);
        let place = begin_attribute(out, MP_REACH_NLRI, P::FAMILY);
        out.push(if next_hop.link_local.is_some() {
            32
        } else {
            16
        });
        out.extend_from_slice(&next_hop.global.octets());
        if let Some(link_local) = next_hop.link_local {
            out.extend_from_slice(&link_local.octets());
        }
        out.push(0); // reserved
        Self {
            out,
            trailer: attributes,
            start,
            limit: limit.bytes(),
            place,
        }
    }

    /// Adds a route; `false`, and nothing added, when the message is full.
    pub fn push<P: WirePrefix>(&mut self, prefix: P) -> bool {
        let after = match self.place {
            Place::Withdrawn { .. } => 2, // length of no attributes
            Place::Nlri | Place::Attribute { .. } => self.trailer.len(),
        };
        if self.out.len() - self.start + prefix.wire_len() + after > self.limit {
            return false;
        }
        prefix.encode(self.out);
        true
    }

    /// Fills in the lengths.
    pub fn finish(self) {
        let Self {
            out,
            trailer,
            start,
            limit: _,
            place,
        } = self;
        match place {
            Place::Withdrawn { length_at } => {
                let len = out.len() - length_at - 2;
                put_length(out, length_at, len);
                out.extend_from_slice(&[0, 0]);
            }
            Place::Nlri => {}
            Place::Attribute {
                starts_at,
                attributes_length_at,
            } => {
                finish_attribute(out, starts_at);
                out.extend_from_slice(trailer);
                let len = out.len() - attributes_length_at - 2;
                put_length(out, attributes_length_at, len);
            }
        }
        finish_message(out, start);
    }
}

/// Length of all attributes, then the head of an attribute with routes, both lengths still open.
fn begin_attribute(out: &mut Vec<u8>, kind: u8, family: Family) -> Place {
    let attributes_length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    let starts_at = out.len();
    out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, kind, 0, 0]);
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(SAFI_UNICAST);
    Place::Attribute {
        starts_at,
        attributes_length_at,
    }
}

/// Writes the attribute's length, in one octet when that is enough.
fn finish_attribute(out: &mut Vec<u8>, starts_at: usize) {
    let len = out.len() - starts_at - 4;
    let Ok(short) = u8::try_from(len) else {
        return put_length(out, starts_at + 2, len);
    };
    out.remove(starts_at + 3);
    if let Some([flags, _, length]) = out.get_mut(starts_at..starts_at + 3) {
        *flags &= !EXTENDED_LENGTH;
        *length = short;
    }
}

/// Appends the End-of-RIB of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = begin_message(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    match family {
        Family::Ipv4 => out.extend_from_slice(&[0, 0]),
        Family::Ipv6 => {
            if let Place::Attribute {
                starts_at,
                attributes_length_at,
            } = begin_attribute(out, MP_UNREACH_NLRI, family)
            {
                finish_attribute(out, starts_at);
                let len = out.len() - attributes_length_at - 2;
                put_length(out, attributes_length_at, len);
            }
        }
    }
    finish_message(out, start);
}

/// The family of an address.
impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}
