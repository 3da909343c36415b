//! Frames as people see them: built from what somebody typed, described in one line. Pure.

use std::net::IpAddr;

use eip_common::parse::{
    self, Checksum, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN,
    Fragment, Headers, Kind, ParseError,
};

use super::{api::PacketView, view::mac};

mod build;
pub(super) use build::{Tag, Wish, build};

/// Where the first VLAN tag stands, behind both hardware addresses, and its length.
const TAG_AT: usize = 12;
const TAG_LEN: usize = 4;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// A frame, or the beginning of one that was `len` bytes long.
pub(super) fn view(frame: &[u8], len: usize) -> PacketView {
    if let Some((id, rest)) = untagged(frame) {
        let inside = view(&rest, len.saturating_sub(TAG_LEN));
        return PacketView {
            summary: format!("vlan {id} {}", inside.summary),
            length: len,
            ..inside
        };
    }
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

/// The id of the outermost VLAN tag, and the frame without that tag; `None` where there is none.
pub(super) fn untagged(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let (addresses, rest) = frame.split_at_checked(TAG_AT)?;
    let (tag, rest) = rest.split_first_chunk::<TAG_LEN>()?;
    let [a, b, high, low] = *tag;
    let is_tag = matches!([a, b], ETHERTYPE_VLAN | ETHERTYPE_QINQ);
    let id = u16::from_be_bytes([high, low]) & 0xfff;
    is_tag.then(|| (id, [addresses, rest].concat()))
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
    if headers.transport.kind == Kind::IcmpError {
        view.quotes = quoted(headers, frame);
    }
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

/// What an ICMP error is about, behind its own eight bytes.
fn quoted<A: AsRef<[u8]>>(headers: &Headers<A>, frame: &[u8]) -> Option<String> {
    const ICMP_HEADER: usize = 8;
    let end = usize::from(headers.l3) + usize::try_from(headers.len).ok()?;
    let quote = frame.get(headers.l4 + ICMP_HEADER..end.min(frame.len()))?;
    let ethertype = match headers.source.as_ref().len() {
        4 => ETHERTYPE_IPV4,
        _ => ETHERTYPE_IPV6,
    };
    let as_frame = [&[0; TAG_AT], &ethertype[..], quote].concat();
    let quote = view(&as_frame, as_frame.len());
    let checksums = quote.checksums.map(|word| format!(", checksums {word}"));
    Some(quote.summary + &checksums.unwrap_or_default())
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
    use super::{Tag, Wish, build, build::Impossible, untagged, view};
    use crate::ctl::api::{FragmentPart, IcmpErrorKind};

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
            tags: Vec::new(),
            fragment: None,
            icmp_error: None,
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

    const PAIRS: [(&str, &str); 2] = [("192.0.2.1", "203.0.113.9"), ("2001:db8::1", "2001:db8::2")];

    #[test]
    fn tags_are_put_on_from_the_outside_in_and_come_off_one_by_one() {
        let tag = |id, is_service| Tag { id, is_service };
        let frame = build(&Wish {
            tags: vec![tag(200, true), tag(100, false)],
            ..wish("192.0.2.1", "203.0.113.9", 17)
        })
        .unwrap();
        assert_eq!(frame[12..20], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
        let summary = view(&frame, frame.len()).summary;
        assert!(
            summary.starts_with("vlan 200 vlan 100 192.0.2.1:4000 > "),
            "{summary}"
        );
        let (outer, rest) = untagged(&frame).unwrap();
        let (inner, rest) = untagged(&rest).unwrap();
        assert_eq!((outer, inner), (200, 100));
        assert_eq!(rest, build(&wish("192.0.2.1", "203.0.113.9", 17)).unwrap());
        assert_eq!(untagged(&rest), None);
    }

    #[test]
    fn a_part_of_a_datagram_is_one_to_whoever_reads_it() {
        for (from, to) in PAIRS {
            for (part, said) in [
                (FragmentPart::First, "first fragment"),
                (FragmentPart::Later, "later fragment"),
            ] {
                let frame = build(&Wish {
                    fragment: Some(part),
                    ..wish(from, to, 17)
                })
                .unwrap();
                let seen = view(&frame, frame.len());
                assert!(seen.summary.contains(said), "{}", seen.summary);
                assert_eq!(seen.checksums.as_deref(), Some("right"), "{}", seen.summary);
                assert_eq!(seen.source_port.is_some(), part == FragmentPart::First);
            }
        }
    }

    #[test]
    fn an_icmp_error_is_about_the_answer_to_what_was_wished() {
        for ((from, to), kinds) in PAIRS.into_iter().zip([
            ["type 3 code 3", "type 3 code 4", "type 11 code 0"],
            ["type 1 code 4", "type 2 code 0", "type 3 code 0"],
        ]) {
            for (kind, said) in [
                IcmpErrorKind::Unreachable,
                IcmpErrorKind::TooLarge,
                IcmpErrorKind::TimeExceeded,
            ]
            .into_iter()
            .zip(kinds)
            {
                let frame = build(&Wish {
                    icmp_error: Some(kind),
                    ..wish(from, to, 6)
                })
                .unwrap();
                let seen = view(&frame, frame.len());
                assert!(seen.summary.contains(said), "{}", seen.summary);
                assert_eq!(seen.checksums.as_deref(), Some("right"), "{}", seen.summary);
                assert_eq!(seen.source, Some(from.parse().unwrap()));
                let quotes = seen.quotes.unwrap();
                assert!(
                    quotes.starts_with(to) || quotes.starts_with(&format!("[{to}]")),
                    "{quotes}"
                );
                assert!(
                    quotes.contains("tcp SYN|ACK") && quotes.ends_with("checksums right"),
                    "{quotes}"
                );
            }
        }
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
