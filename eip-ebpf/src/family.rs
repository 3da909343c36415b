//! An address family, whole: its maps, its headers, its translation. Everything behind this trait is
//! written once for IPv4 and IPv6.

use eip_common::{
    addr::Ipv4Wire,
    parse::{self, Bytes, ETHERNET_LEN, Headers, IPV4_LEN, ParseError, Quoted},
};

use crate::{maps::Address, packet::Skb, quote, rewrite::Translate};

/// See the module.
pub(crate) trait Family: Address + Translate {
    /// Source and destination, before anything else is looked at.
    fn addresses<B: Bytes>(bytes: &B) -> Option<(Self, Self)>;
    /// The whole packet; `available` bytes from the IP header to the end of the frame.
    fn headers<B: Bytes>(bytes: &B, available: u32) -> Result<Headers<Self>, ParseError>;
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

    #[inline(always)]
    fn headers<B: Bytes>(bytes: &B, available: u32) -> Result<Headers<Self>, ParseError> {
        parse::ipv4(bytes, ETHERNET_LEN, available)
    }

    #[inline(always)]
    fn quoted(skb: &Skb<'_>, headers: &Headers<Self>) -> Option<Quoted<Self>> {
        quote::ipv4(skb, headers)
    }
}
