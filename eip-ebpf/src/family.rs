//! An address family, whole: its maps, its headers, its translation. Everything behind this trait is
//! written once for IPv4 and IPv6.

use eip_common::{
    addr::Ipv4Wire,
    parse::{self, Bytes, ETHERNET_LEN, Headers, IPV4_LEN, ParseError, Quoted},
};

use crate::{
    maps::Address,
    packet::{Skb, View},
    quote,
    rewrite::Translate,
};

/// See the module.
pub(crate) trait Family: Address + Translate {
    /// Source and destination, before anything else is looked at.
    fn addresses<B: Bytes>(bytes: &B) -> Option<(Self, Self)>;
    /// Where the transport header stands without options or extensions: a constant the express lane
    /// relies on.
    const PLAIN_L4: usize;
    /// A packet in tc.
    fn headers(skb: &Skb<'_>) -> Result<Headers<Self>, ParseError>;
    /// A frame in XDP without options or extensions; others are malformed to it.
    fn plain_headers(view: View<'_>) -> Result<Headers<Self>, ParseError>;
    /// The packet an ICMP error quotes.
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted<Self>>;
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

    const PLAIN_L4: usize = ETHERNET_LEN + IPV4_LEN;

    #[inline(always)]
    fn headers(skb: &Skb<'_>) -> Result<Headers<Self>, ParseError> {
        parse::ipv4(&skb.view(), ETHERNET_LEN, skb.l3_len())
    }

    #[inline(always)]
    fn plain_headers(view: View<'_>) -> Result<Headers<Self>, ParseError> {
        let headers = parse::ipv4(&view, ETHERNET_LEN, view.l3_len())?;
        if headers.l4 == Self::PLAIN_L4 {
            Ok(headers)
        } else {
            Err(ParseError::Malformed)
        }
    }

    #[inline(always)]
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted<Self>> {
        quote::ipv4(skb, headers)
    }
}
