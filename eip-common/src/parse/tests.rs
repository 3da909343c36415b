use super::{
    Bytes, Checksum, Fragment, Kind, MAX_EXTENSIONS, ParseError, ipv4, ipv4_quoted,
    ipv4_stays_on_link, ipv6, ipv6_plain, ipv6_plain_or_fragment, ipv6_quoted, ipv6_stays_on_link,
};
use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use proptest::prelude::*;
use std::{vec, vec::Vec};

const SOURCE: [u8; 4] = [198, 51, 100, 7];
const DESTINATION: [u8; 4] = [203, 0, 113, 10];

/// A frame around an IPv4 packet of any shape, and what it was made from.
#[derive(Debug, Clone)]
struct Sample {
    frame: Vec<u8>,
    header: Ipv4Header,
    payload: Vec<u8>,
}

fn sample() -> impl Strategy<Value = Sample> {
    (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<u8>(),
        prop_oneof![
            Just(1_u8),
            Just(6),
            Just(17),
            Just(33),
            Just(47),
            Just(50),
            Just(132),
            Just(136),
            any::<u8>()
        ],
        0_usize..=10,
        0_u16..=0x1fff,
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..64),
        0_usize..20,
    )
        .prop_map(
            |(source, destination, ttl, protocol, words, offset, more, payload, padding)| {
                let mut header =
                    Ipv4Header::new(0, ttl, IpNumber(protocol), source, destination).unwrap();
                header.options = vec![1; words * 4].as_slice().try_into().unwrap();
                header.fragment_offset = offset.try_into().unwrap();
                header.more_fragments = more;
                header.dont_fragment = ttl & 1 == 0;
                header.set_payload_len(payload.len()).unwrap();
                header.header_checksum = header.calc_header_checksum();
                let mut frame = vec![0; 14];
                header.write(&mut frame).unwrap();
                frame.extend_from_slice(&payload);
                frame.resize(frame.len() + padding, 0);
                Sample {
                    frame,
                    header,
                    payload,
                }
            },
        )
}

fn available(frame: &[u8]) -> u32 {
    u32::try_from(frame.len() - 14).unwrap()
}

/// Shortest transport header the parser can work with.
fn needed(protocol: u8) -> usize {
    match protocol {
        6 => 20,
        33 => 12,
        1 | 17 | 132 | 136 => 8,
        _ => 0,
    }
}

proptest! {
    #[test]
    fn what_an_independent_library_wrote_is_read_the_same(sample in sample()) {
        let Sample { frame, header, payload } = sample;
        let offset = header.fragment_offset.value();
        let is_later = offset != 0;
        let protocol = header.protocol.0;
        let parsed = ipv4(frame.as_slice(), 14, available(&frame));
        let data_offset_is_right = protocol != 6 || payload.len() < 20 || payload[12] >> 4 >= 5;
        if !is_later && (payload.len() < needed(protocol) || !data_offset_is_right) {
            prop_assert_eq!(parsed, Err(ParseError::Malformed));
            return Ok(());
        }
        let parsed = parsed.unwrap();
        prop_assert_eq!(parsed.source, header.source);
        prop_assert_eq!(parsed.destination, header.destination);
        prop_assert_eq!(parsed.ttl, header.time_to_live);
        prop_assert_eq!(parsed.protocol, protocol);
        prop_assert_eq!(parsed.l4, 14 + header.header_len());
        prop_assert_eq!(parsed.len, u32::from(header.total_len));
        prop_assert_eq!(&parsed.id[2..], &header.identification.to_be_bytes());
        let fragment = match (is_later, header.more_fragments) {
            (true, _) => Fragment::Later,
            (false, true) => Fragment::First,
            (false, false) => Fragment::Whole,
        };
        prop_assert_eq!(parsed.fragment, fragment);
        prop_assert_eq!(parsed.dont_fragment, header.dont_fragment);
        if is_later {
            prop_assert_eq!(parsed.transport.source, [0, 0]);
            prop_assert_eq!(parsed.transport.checksum, Checksum::NONE);
        } else if matches!(protocol, 6 | 17 | 33 | 132 | 136) {
            prop_assert_eq!(&parsed.transport.source, &payload[0..2]);
            prop_assert_eq!(&parsed.transport.destination, &payload[2..4]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_past_their_end(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        claimed in 0_u32..200,
    ) {
        struct Strict<'a>(&'a [u8], core::cell::Cell<usize>);
        impl Bytes for Strict<'_> {
            fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
                let bytes = self.0.read(offset)?;
                self.1.set(self.1.get().max(offset + N));
                Some(bytes)
            }
        }
        let strict = Strict(&bytes, core::cell::Cell::new(0));
        let length = u32::try_from(bytes.len().saturating_sub(14)).unwrap();
        if let Ok(headers) = ipv4(&strict, 14, length) {
            prop_assert!(headers.l4 <= bytes.len());
            prop_assert!(headers.len <= length);
        }
        let _ = ipv4_quoted(&strict, 14, claimed.min(length));
        prop_assert!(strict.1.get() <= bytes.len());
    }

    #[test]
    fn every_cut_of_a_packet_is_refused(sample in sample(), cut in 1_usize..200) {
        let packet = 14 + usize::from(sample.header.total_len);
        let frame = &sample.frame[..packet.saturating_sub(cut).max(14)];
        prop_assert!(ipv4(frame, 14, available(frame)).is_err());
    }
}

#[test]
fn only_a_syn_without_ack_opens_a_connection() {
    for (syn, ack, is_open) in [
        (true, false, true),
        (true, true, false),
        (false, true, false),
        (false, false, false),
    ] {
        let mut step = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4(SOURCE, DESTINATION, 64)
            .tcp(1, 2, 3, 4);
        if syn {
            step = step.syn();
        }
        if ack {
            step = step.ack(1);
        }
        let mut frame = Vec::new();
        step.write(&mut frame, &[]).unwrap();
        let kind = ipv4(frame.as_slice(), 14, available(&frame))
            .unwrap()
            .transport
            .kind;
        assert_eq!(kind == Kind::TcpOpen, is_open, "syn {syn} ack {ack}");
    }
}

#[test]
fn icmpv6_inside_ipv4_has_no_checksum_and_no_quote() {
    // What would be "packet too big" and "echo request" of IPv6.
    for kind in [2, 128] {
        let mut header = Ipv4Header::new(8, 64, IpNumber(58), SOURCE, DESTINATION).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut frame = vec![0; 14];
        header.write(&mut frame).unwrap();
        frame.extend([kind, 0, 1, 2, 3, 4, 5, 6]);
        let headers = ipv4(frame.as_slice(), 14, available(&frame)).unwrap();
        assert_eq!(headers.transport.kind, Kind::Other);
        assert_eq!(headers.transport.checksum, Checksum::NONE);
        let quoted = ipv4_quoted(frame.as_slice(), 14, available(&frame)).unwrap();
        assert_eq!(quoted.checksum, Checksum::NONE);
    }
}

#[test]
fn a_super_packet_beyond_64_kib_has_its_length_in_the_frame() {
    let mut frame = vec![0; 14 + 70_000];
    frame[14] = 0x45;
    frame[14 + 9] = 6;
    frame[14 + 20 + 12] = 0x50;
    assert_eq!(ipv4(frame.as_slice(), 14, 70_000).unwrap().len, 70_000);
    assert_eq!(ipv4(&frame[..1014], 14, 1000), Err(ParseError::Malformed));
}

#[test]
fn quotes_give_ports_and_checksum_as_far_as_they_go() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0; 6], [0; 6])
        .ipv4(SOURCE, DESTINATION, 64)
        .tcp(443, 50000, 3, 4)
        .write(&mut frame, &[1; 10])
        .unwrap();
    for (length, ports, checksum) in [
        (20, [[0; 2]; 2], Checksum::NONE),
        (27, [[0; 2]; 2], Checksum::NONE),
        (
            28,
            [443_u16.to_be_bytes(), 50000_u16.to_be_bytes()],
            Checksum::NONE,
        ),
        (
            39,
            [443_u16.to_be_bytes(), 50000_u16.to_be_bytes()],
            Checksum::NONE,
        ),
        (
            40,
            [443_u16.to_be_bytes(), 50000_u16.to_be_bytes()],
            Checksum::plain(16),
        ),
    ] {
        let quoted = ipv4_quoted(frame.as_slice(), 14, length).unwrap();
        assert_eq!(
            [quoted.source_port, quoted.destination_port],
            ports,
            "{length}"
        );
        assert_eq!(quoted.checksum, checksum, "{length}");
        assert_eq!(quoted.l4, 34, "{length}");
    }
    assert_eq!(ipv4_quoted(frame.as_slice(), 14, 19), None);
}

#[test]
fn addresses_that_stay_on_the_link_are_known() {
    for (address, stays) in [
        ([0, 0, 0, 0], true),
        ([127, 0, 0, 1], true),
        ([169, 254, 1, 1], true),
        ([169, 253, 1, 1], false),
        ([223, 255, 255, 255], false),
        ([224, 0, 0, 1], true),
        ([255, 255, 255, 255], true),
        ([203, 0, 113, 10], false),
    ] {
        assert_eq!(ipv4_stays_on_link(address), stays, "{address:?}");
    }
    for (address, stays) in [
        ("::", true),
        ("::1", true),
        ("::2", false),
        ("fe80::1", true),
        ("febf::1", true),
        ("fec0::1", false),
        ("ff02::1", true),
        ("fd00::1", false),
        ("2001:db8::1", false),
    ] {
        let octets = address.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(ipv6_stays_on_link(octets), stays, "{address}");
    }
}

/// An Ethernet frame with an IPv6 packet whose payload starts with header `next`.
fn ipv6_frame(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    etherparse::Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: IpNumber(next),
        hop_limit: 61,
        source: [0x20; 16],
        destination: [0x30; 16],
        ..Default::default()
    }
    .write(&mut frame)
    .unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// An extension header of 8 bytes.
fn extension(next: u8) -> [u8; 8] {
    [next, 0, 0, 0, 0, 0, 0, 0]
}

const UDP: [u8; 8] = [0x12, 0x34, 0x00, 0x35, 0x00, 0x08, 0xab, 0xcd];

#[test]
fn an_ipv6_packet_without_extensions_is_read_alike_by_both_readers() {
    let frame = ipv6_frame(17, &UDP);
    let headers = ipv6(frame.as_slice(), 14, available(&frame)).unwrap();
    assert_eq!(
        ipv6_plain(frame.as_slice(), 14, available(&frame)),
        Ok(headers)
    );
    assert_eq!(
        (headers.source, headers.destination),
        ([0x20; 16], [0x30; 16])
    );
    assert_eq!(
        (headers.ttl, headers.protocol, headers.l4, headers.len),
        (61, 17, 54, 48)
    );
    assert_eq!(headers.fragment, Fragment::Whole);
    assert_eq!(headers.transport.source, [0x12, 0x34]);
    assert_eq!(headers.transport.checksum, Checksum::optional(6));
}

#[test]
fn extension_headers_are_followed_to_the_transport_header() {
    for kind in [0, 43, 60] {
        let mut payload = extension(17).to_vec();
        payload.extend_from_slice(&UDP);
        let frame = ipv6_frame(kind, &payload);
        let headers = ipv6(frame.as_slice(), 14, available(&frame)).unwrap();
        assert_eq!((headers.protocol, headers.l4), (17, 62), "extension {kind}");
        assert_eq!(headers.transport.destination, [0, 0x35]);
        let plain = ipv6_plain(frame.as_slice(), 14, available(&frame));
        assert_eq!(plain, Err(ParseError::Malformed));
    }
}

#[test]
fn a_fragment_without_other_extensions_is_read_alike_by_both_readers() {
    for offset in [0, 1, 8, 9, 1448, 1449] {
        for (next, is_read) in [
            (17, true),
            (6, offset >= 8),
            (99, true),
            (44, false),
            (60, false),
        ] {
            let [high, low] = u16::to_be_bytes(offset);
            let mut payload = vec![next, 0, high, low, 1, 2, 3, 4];
            payload.extend_from_slice(&UDP);
            let frame = ipv6_frame(44, &payload);
            let read = ipv6_plain_or_fragment(frame.as_slice(), 14, available(&frame));
            assert_eq!(read.is_ok(), is_read, "{next} at {offset}: {read:?}");
            if is_read {
                assert_eq!(read, ipv6(frame.as_slice(), 14, available(&frame)));
            }
        }
    }
    let whole = ipv6_frame(17, &UDP);
    assert_eq!(
        ipv6_plain_or_fragment(whole.as_slice(), 14, available(&whole)),
        ipv6_plain(whole.as_slice(), 14, available(&whole))
    );
    let cut = ipv6_frame(44, &[17, 0, 0, 0]);
    assert_eq!(
        ipv6_plain_or_fragment(cut.as_slice(), 14, available(&cut)),
        Err(ParseError::Malformed)
    );
}

#[test]
fn a_chain_without_end_is_refused() {
    for count in [MAX_EXTENSIONS, MAX_EXTENSIONS + 1, 100] {
        let mut payload = Vec::new();
        for _ in 1..count {
            payload.extend_from_slice(&extension(60));
        }
        payload.extend_from_slice(&extension(17));
        payload.extend_from_slice(&UDP);
        let frame = ipv6_frame(60, &payload);
        let parsed = ipv6(frame.as_slice(), 14, available(&frame));
        assert_eq!(parsed.is_ok(), count <= MAX_EXTENSIONS, "{count} headers");
    }
}

#[test]
fn a_routing_header_with_segments_left_is_refused() {
    let mut payload = extension(17).to_vec();
    payload[3] = 1;
    payload.extend_from_slice(&UDP);
    let frame = ipv6_frame(43, &payload);
    assert_eq!(
        ipv6(frame.as_slice(), 14, available(&frame)),
        Err(ParseError::Malformed)
    );
}

#[test]
fn ipv6_fragments_have_their_identification_and_ports_only_in_the_first() {
    for (offset_and_more, fragment) in [
        (0x0000_u16, Fragment::Whole),
        (0x0001, Fragment::First),
        (0x0008, Fragment::Later),
        (0x0009, Fragment::Later),
    ] {
        let mut payload = vec![17, 0];
        payload.extend_from_slice(&offset_and_more.to_be_bytes());
        payload.extend_from_slice(&[1, 2, 3, 4]);
        payload.extend_from_slice(&UDP);
        let frame = ipv6_frame(44, &payload);
        let headers = ipv6(frame.as_slice(), 14, available(&frame)).unwrap();
        assert_eq!((headers.fragment, headers.id), (fragment, [1, 2, 3, 4]));
        let has_ports = fragment != Fragment::Later;
        assert_eq!(
            headers.transport.source == [0x12, 0x34],
            has_ports,
            "{fragment:?}"
        );
    }
}

#[test]
fn icmpv6_kinds_are_told_apart() {
    for (kind, expected, id) in [
        (128, Kind::Other, [7, 8]),
        (129, Kind::Other, [7, 8]),
        (1, Kind::IcmpError, [0, 0]),
        (2, Kind::IcmpError, [0, 0]),
        (133, Kind::Discovery, [0, 0]),
        (135, Kind::Discovery, [0, 0]),
        (137, Kind::Discovery, [0, 0]),
        (143, Kind::Other, [0, 0]),
    ] {
        let frame = ipv6_frame(58, &[kind, 0, 0, 0, 7, 8, 0, 1]);
        let transport = ipv6(frame.as_slice(), 14, available(&frame))
            .unwrap()
            .transport;
        assert_eq!(
            (transport.kind, transport.source),
            (expected, id),
            "type {kind}"
        );
        assert_eq!(transport.checksum, Checksum::plain(2), "type {kind}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_as_ipv6(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        next in prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
        quoted in 0_u32..200,
    ) {
        if bytes.len() > 20 {
            bytes[14] = 0x60;
            bytes[20] = next;
        }
        let length = u32::try_from(bytes.len().saturating_sub(14)).unwrap();
        if let Ok(headers) = ipv6(bytes.as_slice(), 14, length) {
            prop_assert!(headers.l4 <= bytes.len());
            prop_assert!(headers.len <= length);
        }
        if let Some(found) = ipv6_quoted(bytes.as_slice(), 14, quoted.min(length)) {
            prop_assert!(found.l4 <= bytes.len());
        }
    }
}
