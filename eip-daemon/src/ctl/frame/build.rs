//! The frame somebody wishes to be followed, byte for byte as a sender would make it. Pure.

use std::net::IpAddr;

use eip_common::parse::{ETHERNET_LEN, ETHERTYPE_QINQ, ETHERTYPE_VLAN};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

use super::{ICMP, ICMP6, SCTP, TAG_AT, TAG_LEN, TCP, UDP, sum};
use crate::ctl::api::{FragmentPart, IcmpErrorKind};

const HEADER_OF_OTHERS: usize = 20;
const IPV6_FRAGMENT: u8 = 44;
/// What an error says a link takes.
const SMALL_MTU: u16 = 1300;

/// A packet that somebody wants to see on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ctl) struct Wish {
    pub(in crate::ctl) from: IpAddr,
    pub(in crate::ctl) to: IpAddr,
    pub(in crate::ctl) protocol: u8,
    pub(in crate::ctl) source_port: u16,
    pub(in crate::ctl) destination_port: u16,
    /// Length of the IP packet; the shortest when it is less than the headers.
    pub(in crate::ctl) size: usize,
    pub(in crate::ctl) dont_fragment: bool,
    pub(in crate::ctl) ttl: u8,
    /// Opens a connection.
    pub(in crate::ctl) syn: bool,
    /// Answers one, or an echo.
    pub(in crate::ctl) is_answer: bool,
    /// VLAN tags it comes with, from the outside in.
    pub(in crate::ctl) tags: Vec<Tag>,
    /// It is this part of a larger datagram.
    pub(in crate::ctl) fragment: Option<FragmentPart>,
    /// It is no such packet, but the ICMP error about the answer to it.
    pub(in crate::ctl) icmp_error: Option<IcmpErrorKind>,
    /// Destination and source MAC.
    pub(in crate::ctl) macs: ([u8; 6], [u8; 6]),
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ctl) struct Tag {
    pub(in crate::ctl) id: u16,
    /// Of 802.1ad, not of 802.1Q.
    pub(in crate::ctl) is_service: bool,
}

impl Tag {
    fn bytes(self) -> [u8; TAG_LEN] {
        let [a, b] = if self.is_service {
            ETHERTYPE_QINQ
        } else {
            ETHERTYPE_VLAN
        };
        let [high, low] = self.id.to_be_bytes();
        [a, b, high, low]
    }
}

/// Why there is no such packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::ctl) enum Impossible {
    #[error("both addresses have to be of one family")]
    MixedFamilies,
    #[error("a packet of that size cannot be built")]
    Size,
}

/// The frame, with every checksum right.
pub(in crate::ctl) fn build(wish: &Wish) -> Result<Vec<u8>, Impossible> {
    let mut frame = match wish.icmp_error {
        Some(kind) => icmp_error(wish, kind)?,
        None => whole(wish)?,
    };
    if let Some(part) = wish.fragment {
        frame = cut(&frame, part, wish.from.is_ipv4()).ok_or(Impossible::Size)?;
    }
    let tags: Vec<u8> = wish.tags.iter().flat_map(|tag| tag.bytes()).collect();
    frame.splice(TAG_AT..TAG_AT, tags);
    Ok(frame)
}

fn whole(wish: &Wish) -> Result<Vec<u8>, Impossible> {
    let (destination, source) = wish.macs;
    let ip = PacketBuilder::ethernet2(source, destination).ip(ip_header(wish)?);
    let (sport, dport) = (wish.source_port, wish.destination_port);
    let mut frame = Vec::new();
    let written = match wish.protocol {
        TCP => {
            let tcp = ip.tcp(sport, dport, 1, 64_240);
            let tcp = if wish.syn { tcp.syn() } else { tcp };
            let tcp = if wish.is_answer || !wish.syn {
                tcp.ack(2)
            } else {
                tcp
            };
            let payload = payload(wish, tcp.size(0));
            tcp.write(&mut frame, &payload)
        }
        UDP => {
            let udp = ip.udp(sport, dport);
            let payload = payload(wish, udp.size(0));
            udp.write(&mut frame, &payload)
        }
        ICMP if wish.from.is_ipv4() => return icmp(wish, ip, frame),
        ICMP6 if wish.from.is_ipv6() => return icmp(wish, ip, frame),
        other => {
            let mut payload = payload(wish, ip.size(0));
            if wish.size == 0 {
                // Room for the header of whatever it is.
                payload.resize(HEADER_OF_OTHERS, 0);
            }
            if other == SCTP {
                let ports = [sport, dport].map(u16::to_be_bytes).concat();
                payload
                    .iter_mut()
                    .zip(ports)
                    .for_each(|(place, byte)| *place = byte);
            }
            ip.write(&mut frame, IpNumber(other), &payload)
        }
    };
    written.map_err(|_too_large| Impossible::Size)?;
    Ok(frame)
}

fn icmp(
    wish: &Wish,
    ip: PacketBuilderStep<IpHeaders>,
    mut frame: Vec<u8>,
) -> Result<Vec<u8>, Impossible> {
    let (id, sequence) = (wish.source_port, 1);
    let written = match (wish.from.is_ipv4(), wish.is_answer) {
        (true, answer) => {
            let icmp = if answer {
                ip.icmpv4_echo_reply(id, sequence)
            } else {
                ip.icmpv4_echo_request(id, sequence)
            };
            let payload = payload(wish, icmp.size(0));
            icmp.write(&mut frame, &payload)
        }
        (false, answer) => {
            let icmp = if answer {
                ip.icmpv6_echo_reply(id, sequence)
            } else {
                ip.icmpv6_echo_request(id, sequence)
            };
            let payload = payload(wish, icmp.size(0));
            icmp.write(&mut frame, &payload)
        }
    };
    written.map_err(|_too_large| Impossible::Size)?;
    Ok(frame)
}

fn payload(wish: &Wish, without: usize) -> Vec<u8> {
    vec![0x5a; (wish.size + ETHERNET_LEN).saturating_sub(without)]
}

fn ip_header(wish: &Wish) -> Result<IpHeaders, Impossible> {
    let protocol = IpNumber(wish.protocol);
    match (wish.from, wish.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(0, wish.ttl, protocol, from.octets(), to.octets())
                .map_err(|_too_large| Impossible::Size)?;
            header.dont_fragment = wish.dont_fragment;
            header.fragment_offset = IpFragOffset::ZERO;
            Ok(IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            ))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                next_header: protocol,
                hop_limit: wish.ttl,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            Ok(IpHeaders::Ipv6(
                header,
                etherparse::Ipv6Extensions::default(),
            ))
        }
        _ => Err(Impossible::MixedFamilies),
    }
}

/// The error that the sender of the wished packet sends about an answer to it, quoted from its IP header on.
fn icmp_error(wish: &Wish, kind: IcmpErrorKind) -> Result<Vec<u8>, Impossible> {
    let answer = whole(&Wish {
        from: wish.to,
        to: wish.from,
        source_port: wish.destination_port,
        destination_port: wish.source_port,
        size: 0,
        is_answer: true,
        ..wish.clone()
    })?;
    let quote = answer.get(ETHERNET_LEN..).unwrap_or_default();
    let (destination, source) = wish.macs;
    let ip = PacketBuilder::ethernet2(source, destination).ip(ip_header(wish)?);
    let mut frame = Vec::new();
    let [a, b] = SMALL_MTU.to_be_bytes();
    let written = if wish.from.is_ipv4() {
        let (kind, code, rest) = match kind {
            IcmpErrorKind::Unreachable => (3, 3, [0; 4]),
            IcmpErrorKind::TooLarge => (3, 4, [0, 0, a, b]),
            IcmpErrorKind::TimeExceeded => (11, 0, [0; 4]),
        };
        ip.icmpv4_raw(kind, code, rest).write(&mut frame, quote)
    } else {
        let (kind, code, rest) = match kind {
            IcmpErrorKind::Unreachable => (1, 4, [0; 4]),
            IcmpErrorKind::TooLarge => (2, 0, [0, 0, a, b]),
            IcmpErrorKind::TimeExceeded => (3, 0, [0; 4]),
        };
        ip.icmpv6_raw(kind, code, rest).write(&mut frame, quote)
    };
    written.map_err(|_too_large| Impossible::Size)?;
    Ok(frame)
}

/// Turns a packet into the first or a later part of a datagram; `None` when it would be too long.
fn cut(frame: &[u8], part: FragmentPart, is_ipv4: bool) -> Option<Vec<u8>> {
    /// In units of eight bytes: what fits a packet of 1500 bytes.
    const LATER: u16 = 180;
    const IPV4: usize = 20;
    const IPV6: usize = 40;
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
    let (header, rest) = packet.split_at_checked(if is_ipv4 { IPV4 } else { IPV6 })?;
    let mut rest = rest.to_vec();
    if part == FragmentPart::First {
        // All but the last part have a length that is a multiple of eight.
        rest.resize(rest.len().next_multiple_of(8), 0x5a);
    }
    let mut header = header.to_vec();
    if is_ipv4 {
        let place = match part {
            FragmentPart::First => 0x2000,
            FragmentPart::Later => LATER,
        };
        let len = u16::try_from(IPV4 + rest.len()).ok()?;
        put(&mut header, 2, &len.to_be_bytes());
        put(&mut header, 6, &place.to_be_bytes());
        put(&mut header, 10, &[0, 0]);
        let checksum = !sum(&[&header]);
        put(&mut header, 10, &checksum.to_be_bytes());
        return Some([ethernet, &header, &rest].concat());
    }
    let place = match part {
        FragmentPart::First => 1,
        FragmentPart::Later => LATER << 3,
    };
    let next = *header.get(6)?;
    let [high, low] = place.to_be_bytes();
    let fragment = [next, 0, high, low, 0, 0, 0, 1];
    let len = u16::try_from(fragment.len() + rest.len()).ok()?;
    put(&mut header, 4, &len.to_be_bytes());
    put(&mut header, 6, &[IPV6_FRAGMENT]);
    Some([ethernet, &header, &fragment, &rest].concat())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let places = bytes.iter_mut().skip(at);
    places.zip(value).for_each(|(place, byte)| *place = *byte);
}
