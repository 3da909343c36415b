//! Frames as people see them: built from what somebody typed, described in one line. Pure.

use std::net::IpAddr;

use eip_common::parse::{self, Checksum, ETHERNET_LEN, Fragment, Headers, Kind, ParseError};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

use super::{api::PacketView, view::mac};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;
const HEADER_OF_OTHERS: usize = 20;

/// A packet that somebody wants to see on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: u8,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// Length of the IP packet; the shortest when it is less than the headers.
    pub(super) size: usize,
    pub(super) dont_fragment: bool,
    pub(super) ttl: u8,
    /// Opens a connection.
    pub(super) syn: bool,
    /// Answers one, or an echo.
    pub(super) is_answer: bool,
    /// Destination and source MAC.
    pub(super) macs: ([u8; 6], [u8; 6]),
}

/// Why there is no such packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Impossible {
    #[error("both addresses have to be of one family")]
    MixedFamilies,
    #[error("a packet of that size cannot be built")]
    Size,
}

/// The frame, with every checksum right.
pub(super) fn build(wish: &Wish) -> Result<Vec<u8>, Impossible> {
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

/// A frame, or the beginning of one that was `len` bytes long.
pub(super) fn view(frame: &[u8], len: usize) -> PacketView {
    let available = u32::try_from(len.saturating_sub(ETHERNET_LEN)).unwrap_or(u32::MAX);
    let is_whole = frame.len() == len;
    let mut view = PacketView {
        length: len,
        source_mac: frame
            .get(6..)
            .and_then(<[u8]>::first_chunk)
            .map(|bytes| mac(*bytes)),
        destination_mac: frame.first_chunk().map(|bytes| mac(*bytes)),
        ..PacketView::default()
    };
    match frame.get(12..14) {
        Some([0x08, 0x00]) => match parse::ipv4(frame, ETHERNET_LEN, available) {
            Ok(headers) => fill(&mut view, &headers, frame, is_whole),
            Err(error) => view.summary = unreadable("IPv4", error),
        },
        Some([0x86, 0xdd]) => match parse::ipv6(frame, ETHERNET_LEN, available) {
            Ok(headers) => fill(&mut view, &headers, frame, is_whole),
            Err(error) => view.summary = unreadable("IPv6", error),
        },
        Some([a, b]) => view.summary = format!("ethertype {a:02x}{b:02x}"),
        _ => "shorter than an Ethernet header".clone_into(&mut view.summary),
    }
    view
}

fn unreadable(what: &str, error: ParseError) -> String {
    match error {
        ParseError::Malformed => format!("{what}, cut short or contradicting itself"),
        ParseError::NotIp => format!("{what} by its ethertype, but not by its header"),
    }
}

fn fill<A: Copy + Into<IpAddr> + AsRef<[u8]>>(
    view: &mut PacketView,
    headers: &Headers<A>,
    frame: &[u8],
    is_whole: bool,
) {
    let (source, destination): (IpAddr, IpAddr) =
        (headers.source.into(), headers.destination.into());
    view.source = Some(source);
    view.destination = Some(destination);
    view.protocol = Some(headers.protocol);
    view.ttl = Some(headers.ttl);
    let ports = [headers.transport.source, headers.transport.destination].map(u16::from_be_bytes);
    let has_ports =
        headers.transport.checksum != Checksum::NONE && headers.fragment != Fragment::Later;
    if has_ports {
        view.source_port = Some(ports[0]);
        view.destination_port = Some(ports[1]);
    }
    let wrong = if is_whole {
        wrong_checksums(headers, frame)
    } else {
        Vec::new()
    };
    view.checksums = is_whole.then(|| {
        if wrong.is_empty() {
            "right".to_owned()
        } else {
            format!("WRONG: {}", wrong.join(", "))
        }
    });
    let end = |address: IpAddr, port: u16| match (has_ports, address) {
        (true, IpAddr::V4(_)) => format!("{address}:{port}"),
        (true, IpAddr::V6(_)) => format!("[{address}]:{port}"),
        (false, _) => address.to_string(),
    };
    view.summary = format!(
        "{} > {} {} ttl {} len {}{}{}",
        end(source, ports[0]),
        end(destination, ports[1]),
        what(headers, frame),
        headers.ttl,
        headers.len,
        match headers.fragment {
            Fragment::Whole => "",
            Fragment::First => " first fragment",
            Fragment::Later => " later fragment",
        },
        if headers.dont_fragment && source.is_ipv4() {
            " DF"
        } else {
            ""
        },
    );
}

fn what<A>(headers: &Headers<A>, frame: &[u8]) -> String {
    let byte = |offset: usize| frame.get(headers.l4 + offset).copied().unwrap_or_default();
    match (headers.protocol, headers.transport.kind) {
        (_, _) if headers.fragment == Fragment::Later => name(headers.protocol),
        (TCP, _) => format!("tcp {}", flags(byte(13))),
        (ICMP | ICMP6, Kind::IcmpError) => {
            format!(
                "{} error type {} code {}",
                name(headers.protocol),
                byte(0),
                byte(1)
            )
        }
        (ICMP | ICMP6, _) => format!("{} type {}", name(headers.protocol), byte(0)),
        _ => name(headers.protocol),
    }
}

fn name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMP6 => "icmp6".to_owned(),
        SCTP => "sctp".to_owned(),
        other => format!("protocol {other}"),
    }
}

fn flags(byte: u8) -> String {
    let names = [
        (2, "SYN"),
        (16, "ACK"),
        (1, "FIN"),
        (4, "RST"),
        (8, "PSH"),
        (32, "URG"),
    ];
    let set: Vec<_> = names
        .into_iter()
        .filter(|(bit, _)| byte & bit != 0)
        .map(|(_, name)| name)
        .collect();
    set.join("|")
}

/// Which checksums of a whole frame do not hold, by adding everything up again (RFC 1071).
fn wrong_checksums<A: AsRef<[u8]>>(headers: &Headers<A>, frame: &[u8]) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let is_v4 = headers.source.as_ref().len() == 4;
    let ip_header = frame
        .get(usize::from(headers.l3)..headers.l4)
        .unwrap_or_default();
    if is_v4 && sum(&[ip_header]) != 0xffff {
        wrong.push("IP header");
    }
    let end = usize::from(headers.l3) + usize::try_from(headers.len).unwrap_or(0);
    let transport = frame.get(headers.l4..end).unwrap_or_default();
    let (name, covers_addresses, at) = match headers.protocol {
        TCP => ("TCP", true, 16),
        UDP => ("UDP", true, 6),
        ICMP => ("ICMP", false, 2),
        ICMP6 => ("ICMPv6", true, 2),
        _ => return wrong,
    };
    let is_absent = headers.protocol == UDP && transport.get(at..at + 2) == Some(&[0, 0]);
    if headers.fragment != Fragment::Whole || (is_absent && is_v4) {
        return wrong;
    }
    let len = u32::try_from(transport.len()).unwrap_or(0).to_be_bytes();
    let protocol = [0, headers.protocol];
    let pseudo = [
        headers.source.as_ref(),
        headers.destination.as_ref(),
        &len,
        &protocol,
    ];
    let mut parts = vec![transport];
    if covers_addresses {
        parts.extend(pseudo);
    }
    if sum(&parts) != 0xffff {
        wrong.push(name);
    }
    wrong
}

/// The ones' complement sum of 16-bit words; each part is filled up with a zero byte.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2)).map(|pair| {
        let high = pair.first().copied().unwrap_or_default();
        let low = pair.get(1).copied().unwrap_or_default();
        u64::from(u16::from_be_bytes([high, low]))
    });
    let mut total: u64 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Impossible, Wish, build, view};

    fn wish(from: &str, to: &str, protocol: u8) -> Wish {
        Wish {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            source_port: 4000,
            destination_port: 22,
            size: 0,
            dont_fragment: true,
            ttl: 64,
            syn: true,
            is_answer: false,
            macs: ([2; 6], [4; 6]),
        }
    }

    #[test]
    fn what_is_built_is_what_was_wished_and_all_its_checksums_hold() {
        for (from, to, icmp) in [
            ("192.0.2.1", "203.0.113.9", 1),
            ("2001:db8::1", "2001:db8::2", 58),
        ] {
            for protocol in [6, 17, icmp, 132, 47] {
                let frame = build(&Wish {
                    size: 301,
                    ..wish(from, to, protocol)
                })
                .unwrap();
                let seen = view(&frame, frame.len());
                assert_eq!(frame.len(), 301 + 14);
                assert_eq!(seen.checksums.as_deref(), Some("right"), "{}", seen.summary);
                assert_eq!(
                    (seen.source, seen.protocol),
                    (Some(from.parse().unwrap()), Some(protocol))
                );
            }
        }
        let frame = build(&wish("192.0.2.1", "203.0.113.9", 6)).unwrap();
        let seen = view(&frame, frame.len());
        assert_eq!(
            seen.summary,
            "192.0.2.1:4000 > 203.0.113.9:22 tcp SYN ttl 64 len 40 DF"
        );
    }

    #[test]
    fn a_wrong_checksum_is_named() {
        let mut frame = build(&wish("192.0.2.1", "203.0.113.9", 17)).unwrap();
        frame[14 + 8] = 9;
        frame[14 + 20] ^= 1;
        let seen = view(&frame, frame.len());
        assert_eq!(seen.checksums.as_deref(), Some("WRONG: IP header, UDP"));
    }

    #[test]
    fn what_is_no_packet_or_only_its_beginning_is_described_as_such() {
        assert_eq!(view(&[], 0).summary, "shorter than an Ethernet header");
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(view(&arp, 42).summary, "ethertype 0806");
        let frame = build(&Wish {
            size: 1000,
            ..wish("192.0.2.1", "203.0.113.9", 17)
        })
        .unwrap();
        let seen = view(&frame[..60], frame.len());
        assert!(
            seen.summary.ends_with("udp ttl 64 len 1000 DF"),
            "{}",
            seen.summary
        );
        assert_eq!(seen.checksums, None);
        assert!(view(&frame[..60], 60).summary.contains("contradicting"));
        assert_eq!(
            build(&wish("192.0.2.1", "2001:db8::2", 6)),
            Err(Impossible::MixedFamilies)
        );
    }
}
