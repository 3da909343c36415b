//! An address family, whole: its maps, its headers, its translation. Everything behind this trait is
//! written once for IPv4 and IPv6.

use eip_common::{
    addr::{Ipv4Wire, Ipv6Wire},
    parse::{
        self, Bytes, ETHERNET_LEN, Headers, IPV4_LEN, IPV6_FRAGMENT_LEN, IPV6_LEN, ParseError,
        protocol,
    },
    too_large::{ROOM4, ROOM6, fragmentation_needed, packet_too_big},
};

use crate::{
    maps::Address,
    packet::{Skb, View},
    rewrite::Translate,
};

/// See the module.
pub(crate) trait Family: Address + Translate {
    /// Source and destination, before anything else is looked at.
    fn addresses<B: Bytes>(bytes: &B) -> Option<(Self, Self)>;
    /// Where the transport header stands without options or extensions: a constant the express lane
    /// relies on.
    const PLAIN_L4: usize;
    /// The address at `offset`.
    fn read<B: Bytes>(bytes: &B, offset: usize) -> Option<Self>;
    /// A packet in tc.
    fn headers(skb: &Skb<'_>) -> Result<Headers<Self>, ParseError>;
    /// A packet without options or extensions, of which `len` bytes are there from the IP header on; others
    /// are malformed to it.
    fn plain_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError>;
    /// A packet whose sender can be told that it is too large: one without options or extensions, or an IPv6
    /// fragment without others; the rest is malformed to it.
    fn answered_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError>;
    /// Where the transport header of such a packet stands.
    fn answered_l4(view: View<'_>) -> Option<usize>;
    /// Whether the protocol is part of what tells datagrams of one identification apart.
    const PROTOCOL_TELLS_DATAGRAMS: bool;
    /// Whether later fragments are answered, too.
    const ANSWERS_LATER: bool;
    /// Room that the answer takes before the packet.
    const ANSWER_ROOM: usize;
    /// Writes that answer into this room.
    fn write_answer(view: View<'_>, mtu: u32) -> Option<()>;
}

impl Family for Ipv4Wire {
    #[inline(always)]
    fn addresses<B: Bytes>(bytes: &B) -> Option<(Self, Self)> {
        let header: [u8; IPV4_LEN] = bytes.read(ETHERNET_LEN)?;
        if header[0] >> 4 != 4 {
            return None;
        }
        Some((
            [header[12], header[13], header[14], header[15]],
            [header[16], header[17], header[18], header[19]],
        ))
    }

    #[inline(always)]
    fn read<B: Bytes>(bytes: &B, offset: usize) -> Option<Self> {
        bytes.read(offset)
    }

    const PLAIN_L4: usize = ETHERNET_LEN + IPV4_LEN;

    #[inline(always)]
    fn headers(skb: &Skb<'_>) -> Result<Headers<Self>, ParseError> {
        let mut headers = Headers::empty([0; 4]);
        ipv4(skb, &mut headers)?;
        Ok(headers)
    }

    #[inline(always)]
    fn plain_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError> {
        let headers = parse::ipv4(&view, ETHERNET_LEN, len)?;
        if headers.l4 == Self::PLAIN_L4 {
            Ok(headers)
        } else {
            Err(ParseError::Malformed)
        }
    }

    #[inline(always)]
    fn answered_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError> {
        Self::plain_headers(view, len)
    }

    #[inline(always)]
    fn answered_l4(_: View<'_>) -> Option<usize> {
        Some(Self::PLAIN_L4)
    }

    /// RFC 791 section 3.2.
    const PROTOCOL_TELLS_DATAGRAMS: bool = true;
    /// RFC 1812 section 4.3.2.7.
    const ANSWERS_LATER: bool = false;
    const ANSWER_ROOM: usize = ROOM4;

    #[inline(always)]
    fn write_answer(mut view: View<'_>, mtu: u32) -> Option<()> {
        fragmentation_needed(&mut view, mtu)
    }
}

impl Family for Ipv6Wire {
    #[inline(always)]
    fn addresses<B: Bytes>(bytes: &B) -> Option<(Self, Self)> {
        let version: [u8; 1] = bytes.read(ETHERNET_LEN)?;
        if version[0] >> 4 != 6 {
            return None;
        }
        Some((
            bytes.read(ETHERNET_LEN + 8)?,
            bytes.read(ETHERNET_LEN + 24)?,
        ))
    }

    #[inline(always)]
    fn read<B: Bytes>(bytes: &B, offset: usize) -> Option<Self> {
        bytes.read(offset)
    }

    const PLAIN_L4: usize = ETHERNET_LEN + IPV6_LEN;

    /// Extension headers may reach beyond the directly readable part: with them, bytes are read
    /// through the helper.
    #[inline(always)]
    fn headers(skb: &Skb<'_>) -> Result<Headers<Self>, ParseError> {
        let mut headers = parse::ipv6_fixed(&skb.view(), ETHERNET_LEN, skb.l3_len())?;
        if parse::is_ipv6_extension(headers.protocol) {
            parse::ipv6_extensions(skb, &mut headers)?;
            ipv6_transport(skb, &mut headers)?;
        } else {
            ipv6_plain_transport(skb, &mut headers)?;
        }
        Ok(headers)
    }

    #[inline(always)]
    fn plain_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError> {
        parse::ipv6_plain(&view, ETHERNET_LEN, len)
    }

    #[inline(always)]
    fn answered_headers(view: View<'_>, len: u32) -> Result<Headers<Self>, ParseError> {
        parse::ipv6_plain_or_fragment(&view, ETHERNET_LEN, len)
    }

    #[inline(always)]
    fn answered_l4(view: View<'_>) -> Option<usize> {
        let [next] = view.read(ETHERNET_LEN + 6)?;
        Some(if next == protocol::FRAGMENT {
            Self::PLAIN_L4 + IPV6_FRAGMENT_LEN
        } else {
            Self::PLAIN_L4
        })
    }

    /// RFC 8200 section 4.5; and where extension headers were cut with the datagram, its later fragments name the
    /// first of those, not what the first fragment carries in the end.
    const PROTOCOL_TELLS_DATAGRAMS: bool = false;
    /// RFC 4443 section 2.4 has no exception for them.
    const ANSWERS_LATER: bool = true;
    const ANSWER_ROOM: usize = ROOM6;

    #[inline(always)]
    fn write_answer(mut view: View<'_>, mtu: u32) -> Option<()> {
        packet_too_big(&mut view, mtu)
    }
}

// What is not inlined below writes where its caller keeps the headers: a result with headers in it would
// be a type BTF has no words for, and take the stack twice.

#[inline(always)]
fn ipv4(skb: &Skb<'_>, headers: &mut Headers<Ipv4Wire>) -> Result<(), ParseError> {
    *headers = parse::ipv4(&skb.view(), ETHERNET_LEN, skb.l3_len())?;
    Ok(())
}

#[inline(never)]
fn ipv6_plain_transport(skb: &Skb<'_>, headers: &mut Headers<Ipv6Wire>) -> Result<(), ParseError> {
    headers.l4 = Ipv6Wire::PLAIN_L4;
    parse::ipv6_transport(&skb.view(), headers)
}

#[inline(never)]
fn ipv6_transport(skb: &Skb<'_>, headers: &mut Headers<Ipv6Wire>) -> Result<(), ParseError> {
    parse::ipv6_transport(skb, headers)
}
