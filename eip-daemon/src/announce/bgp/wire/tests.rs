use ipnet::Ipv4Net;
use netgauze_bgp_pkt::{
    BgpMessage,
    wire::deserializer::{BgpParsingContext, BgpParsingIgnoredErrors},
};
use netgauze_parse_utils::{
    WritablePdu as _, reader::SliceReader, traits::ParseFromWithOneInput as _,
};
use proptest::prelude::*;

use super::*;

/// A message from its type and body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

fn decode(bytes: &[u8]) -> Result<Message<'_>, WireError> {
    let (message_type, len) = decode_header(bytes, SizeLimit::Standard)?.expect("a whole header");
    decode_body(message_type, &bytes[HEADER_LEN..len])
}

fn decode_open(body: &str) -> Result<Open, WireError> {
    match decode(&message(1, &hex(body)))? {
        Message::Open(open) => Ok(open),
        other => panic!("{other:?}"),
    }
}

fn refusal(result: Result<Open, WireError>) -> (u8, u8, Vec<u8>) {
    let error = result.unwrap_err();
    let (code, subcode) = error.reason.to_wire();
    (code, subcode, error.data.into_owned())
}

fn all_capabilities() -> Capabilities {
    Capabilities {
        multiprotocol: true,
        ipv4: true,
        ipv6: true,
        four_octet_as: Some(4_200_000_010),
        route_refresh: true,
        enhanced_route_refresh: true,
        extended_message: true,
        extended_next_hop: true,
        graceful_restart: Some(GracefulRestart {
            has_restarted: true,
            covers_notification: true,
            restart_time_s: 120,
            keeps_ipv4: Some(true),
            keeps_ipv6: Some(true),
        }),
        unknown: 0,
    }
}

/// The OPEN this speaker sends, byte for byte.
const OPEN: &str = "04 5ba0 005a 0a630002 37
    02 35
    01 04 0001 00 01
    01 04 0002 00 01
    02 00
    05 06 0001 0001 0002
    06 00
    40 0a c078 0001 01 80 0002 01 80
    41 04 fa56ea0a
    46 00
    49 07 05 6e6f646531 00";

#[test]
fn open_has_all_capabilities_in_one_parameter() {
    let open = Open {
        asn: 4_200_000_010,
        hold_time_s: 90,
        router_id: [10, 99, 0, 2].into(),
        capabilities: all_capabilities(),
    };
    let mut bytes = Vec::new();
    open.encode("node1", &mut bytes);
    assert_eq!(bytes, message(1, &hex(OPEN)));
    assert_eq!(decode(&bytes), Ok(Message::Open(open)));
}

/// OPENs as peers send them: name, body, AS, IPv4, IPv6, unknown capabilities.
const PEER_OPENS: &[(&str, &str, u32, bool, bool, u16)] = &[
    (
        "no parameters at all",
        "04 fde9 00b4 0a630001 00",
        65001,
        false,
        false,
        0,
    ),
    (
        "BIRD 2: one parameter with all",
        "04 fde9 0009 0a630001 22 02 20 01040001 0001 01040002 0001 0200 0600
         40020078 4104 0000fde9 4600 4700 4900",
        65001,
        true,
        true,
        1,
    ),
    (
        "FRR 8: one parameter for each",
        "04 fde9 0009 0a630001 20 02 06 01 04 0001 0001 02 02 80 00 02 02 02 00 02 02 46 00
         02 06 41 04 0000fde9 02 02 06 00",
        65001,
        true,
        false,
        1,
    ),
    (
        "GoBGP 3: FQDN first, AS beyond two octets",
        "04 5ba0 005a 0a630001 12 02 10 49 06 04 746f7231 00 41 04 fa56ea00 0200",
        4_200_000_000,
        false,
        false,
        0,
    ),
    (
        "dynamic capability, ADD-PATH and a vendor's own",
        "04 fde9 005a 0a630001 15 02 13 43 01 40 45 04 0001 0103 80 00 c8 00 01 04 0001 0001",
        65001,
        true,
        false,
        4,
    ),
    (
        "one capability with an odd length among good ones",
        "04 fde9 005a 0a630001 0f 02 0d 41 03 000000 01 04 0001 0001 02 00",
        65001,
        true,
        false,
        1,
    ),
    (
        "another family only",
        "04 fde9 005a 0a630001 08 02 06 01 04 0019 0046",
        65001,
        false,
        false,
        1,
    ),
    (
        "RFC 9072 form, short",
        "04 fde9 005a 0a630001 ff ff 0009 02 0006 01 04 0002 0001",
        65001,
        false,
        true,
        0,
    ),
    (
        "RFC 9072 form with the length octet other than 255",
        "04 fde9 005a 0a630001 01 ff 0009 02 0006 01 04 0002 0001",
        65001,
        false,
        true,
        0,
    ),
];

#[test]
fn opens_of_all_kinds_of_peers_are_understood() {
    for (name, body, asn, ipv4, ipv6, unknown) in PEER_OPENS {
        let open = decode_open(body).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(open.asn, *asn, "{name}");
        assert_eq!(open.capabilities.ipv4, *ipv4, "{name}");
        assert_eq!(open.capabilities.ipv6, *ipv6, "{name}");
        assert_eq!(open.capabilities.unknown, *unknown, "{name}");
    }
}

#[test]
fn bad_opens_are_refused_with_the_subcode_of_the_rfc() {
    let rows: &[(&str, &str, (u8, u8), &str)] = &[
        ("version 3", "03 fde9 005a 0a630001 00", (2, 1), "0004"),
        ("version 5", "05 fde9 005a 0a630001 00", (2, 1), "0004"),
        ("hold time 1", "04 fde9 0001 0a630001 00", (2, 6), ""),
        ("hold time 2", "04 fde9 0002 0a630001 00", (2, 6), ""),
        (
            "authentication parameter",
            "04 fde9 005a 0a630001 03 01 01 00",
            (2, 4),
            "",
        ),
        (
            "parameters shorter than said",
            "04 fde9 005a 0a630001 05 02 00",
            (2, 0),
            "",
        ),
        (
            "parameters longer than said",
            "04 fde9 005a 0a630001 00 02 00",
            (2, 0),
            "",
        ),
        (
            "capability overruns",
            "04 fde9 005a 0a630001 04 02 02 01 04",
            (2, 0),
            "",
        ),
        (
            "parameter overruns",
            "04 fde9 005a 0a630001 02 02 09",
            (2, 0),
            "",
        ),
        (
            "RFC 9072 length overruns",
            "04 fde9 005a 0a630001 ff ff 0010 02 0000",
            (2, 0),
            "",
        ),
    ];
    for (name, body, (code, subcode), data) in rows {
        assert_eq!(
            refusal(decode_open(body)),
            (*code, *subcode, hex(data)),
            "{name}"
        );
    }
}

/// Name, bytes, code and subcode, data.
type BadHeader = (&'static str, Vec<u8>, (u8, u8), &'static [u8]);

#[test]
fn bad_headers_are_refused_in_the_order_of_the_rfc() {
    let good = message(4, &[]);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let rows: &[BadHeader] = &[
        ("marker", with(7, &[0xfe]), (1, 1), &[]),
        (
            "marker and type",
            [&with(7, &[0])[..18], &[9]].concat(),
            (1, 1),
            &[],
        ),
        ("length 18", with(16, &[0, 18]), (1, 2), &[0, 18]),
        ("length 0", with(16, &[0, 0]), (1, 2), &[0, 0]),
        ("length 4097", with(16, &[0x10, 1]), (1, 2), &[0x10, 1]),
        ("KEEPALIVE of 20", with(16, &[0, 20]), (1, 2), &[0, 20]),
        (
            "OPEN of 28",
            [&with(16, &[0, 28])[..18], &[1]].concat(),
            (1, 2),
            &[0, 28],
        ),
        (
            "UPDATE of 22",
            [&with(16, &[0, 22])[..18], &[2]].concat(),
            (1, 2),
            &[0, 22],
        ),
        (
            "NOTIFICATION of 20",
            [&with(16, &[0, 20])[..18], &[3]].concat(),
            (1, 2),
            &[0, 20],
        ),
        (
            "ROUTE-REFRESH of 22",
            [&with(16, &[0, 22])[..18], &[5]].concat(),
            (1, 2),
            &[0, 22],
        ),
        ("type 0", with(18, &[0]), (1, 3), &[0]),
        ("type 6", with(18, &[6]), (1, 3), &[6]),
    ];
    for (name, bytes, code, data) in rows {
        let error = decode_header(bytes, SizeLimit::Standard).unwrap_err();
        assert_eq!(
            (error.reason.to_wire(), error.data.as_ref()),
            (*code, *data),
            "{name}"
        );
    }
}

#[test]
fn long_messages_are_accepted_only_where_they_were_agreed() {
    let mut update = message(2, &[0; 4]);
    update[16..18].copy_from_slice(&5000_u16.to_be_bytes());
    assert!(decode_header(&update, SizeLimit::Standard).is_err());
    let header = decode_header(&update, SizeLimit::Extended);
    assert_eq!(header, Ok(Some((MessageType::Update, 5000))));
    // RFC 8654 §4: an OPEN stays within 4096.
    update[18] = 1;
    assert!(decode_header(&update, SizeLimit::Extended).is_err());
}

/// Name, body, what is counted or the error.
type CountedUpdate = (&'static str, String, Result<UpdateSummary, (u8, u8)>);

#[test]
fn updates_are_counted_and_forgiven() {
    let summary = |body: &str| match decode(&message(2, &hex(body))) {
        Ok(Message::Update(summary)) => Ok(summary),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.reason.to_wire()),
    };
    let counted = |announced, withdrawn| {
        Ok(UpdateSummary {
            announced,
            withdrawn,
            ..UpdateSummary::default()
        })
    };
    let malformed = |announced, withdrawn| {
        Ok(UpdateSummary {
            announced,
            withdrawn,
            is_malformed: true,
            ..UpdateSummary::default()
        })
    };
    let end = |family| {
        Ok(UpdateSummary {
            end_of_rib: Some(family),
            ..UpdateSummary::default()
        })
    };
    let attributes = "40010100 4002 00 4003 04 0a000001";
    let rows: &[CountedUpdate] = &[
        ("End-of-RIB IPv4", "0000 0000".into(), end(Family::Ipv4)),
        (
            "End-of-RIB IPv6",
            "0000 0006 800f03000201".into(),
            end(Family::Ipv6),
        ),
        (
            "withdrawals",
            "0006 18 c00002 08 0a 0000".into(),
            counted(0, 2),
        ),
        (
            "announcements",
            format!("0000 000e {attributes} 20 c0000201 00"),
            counted(2, 0),
        ),
        (
            "MP_REACH of IPv6",
            "0000 0020 800e 1d 0002 01 10 fd990000000000000000000000000001 00 10 fd99 20 20010db8"
                .into(),
            counted(2, 0),
        ),
        (
            "MP_REACH of a family unknown here",
            "0000 0009 800e 06 0019 46 00 00 00".into(),
            counted(0, 0),
        ),
        (
            "attribute overruns the list",
            "0000 0004 400109 00 18 c00002".into(),
            malformed(1, 0),
        ),
        (
            "attribute without length",
            "0000 0002 4001 18 c00002".into(),
            malformed(1, 0),
        ),
        (
            "bad ORIGIN and no NEXT_HOP",
            "0000 0004 400101 09 18 c00002".into(),
            counted(1, 0),
        ),
        (
            "/129 inside MP_UNREACH",
            "0000 0007 800f 04 0002 01 81".into(),
            malformed(0, 0),
        ),
        ("withdrawn routes overrun", "0009 0000".into(), Err((3, 1))),
        ("attributes overrun", "0000 0009 00".into(), Err((3, 1))),
        ("/33", "0000 0000 21 c000020100".into(), Err((3, 10))),
        ("prefix cut short", "0000 0000 18 c000".into(), Err((3, 10))),
    ];
    for (name, body, expected) in rows {
        assert_eq!(summary(body), *expected, "{name}");
    }
}

#[test]
fn route_refresh_is_read_and_written() {
    let request = RouteRefresh {
        family: Family::Ipv6,
        kind: RefreshKind::Request,
    };
    let rows: &[(&str, &str, Option<RouteRefresh>)] = &[
        ("request", "0002 00 01", Some(request)),
        (
            "begin",
            "0001 01 01",
            Some(RouteRefresh {
                family: Family::Ipv4,
                kind: RefreshKind::Begin,
            }),
        ),
        (
            "end",
            "0001 02 01",
            Some(RouteRefresh {
                family: Family::Ipv4,
                kind: RefreshKind::End,
            }),
        ),
        (
            "request with filters",
            "0002 00 01 01 40 0000",
            Some(request),
        ),
        ("unknown subtype", "0001 07 01", None),
        ("unknown family", "0001 00 85", None),
    ];
    for (name, body, expected) in rows {
        let bytes = message(5, &hex(body));
        assert_eq!(
            decode(&bytes),
            Ok(Message::RouteRefresh(*expected)),
            "{name}"
        );
        if let (Some(refresh), 4) = (expected, hex(body).len()) {
            let mut written = Vec::new();
            refresh.encode(&mut written);
            assert_eq!(written, bytes, "{name}");
        }
    }
    // RFC 7313 §5: data is the message.
    let bytes = message(5, &hex("0001 01 01 00"));
    let error = decode(&bytes).unwrap_err();
    assert_eq!(
        (error.reason, error.data.as_ref()),
        (Reason::InvalidRefreshLength, &bytes[..])
    );
}

#[test]
fn notification_carries_a_text_and_survives_a_hard_reset() {
    let plain = Notification::with_communication(Reason::AdministrativeShutdown, "kernel update");
    let mut bytes = Vec::new();
    plain.encode(&mut bytes);
    assert_eq!(
        bytes,
        message(3, &[&[6, 2, 13][..], b"kernel update"].concat())
    );
    let hard = plain.clone().into_hard_reset();
    assert_eq!(hard.reason.to_wire(), (6, 9));
    for notification in [plain, hard] {
        let mut bytes = Vec::new();
        notification.encode(&mut bytes);
        let Ok(Message::Notification(read)) = decode(&bytes) else {
            panic!("not read back")
        };
        assert_eq!(read, notification);
        assert_eq!(read.true_reason(), Reason::AdministrativeShutdown);
        assert_eq!(read.text().as_deref(), Some("kernel update"));
    }
}

#[test]
fn a_received_text_cannot_break_a_log_line() {
    let data = b"\x0a\x1b[2J\nab\xff\0cde";
    let read = Notification::with_data(Reason::AdministrativeReset, data);
    assert_eq!(read.text().as_deref(), Some("\\u{1b}[2J\\nab\u{fffd}\\0c"));
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let notification =
        Notification::with_communication(Reason::AdministrativeShutdown, &"ä".repeat(200));
    assert_eq!(notification.data[0], 254);
    assert_eq!(notification.data.len(), 255);
}

#[test]
fn reasons_survive_the_wire_and_have_distinct_names() {
    let mut names = std::collections::BTreeSet::new();
    for reason in Reason::ALL {
        let (code, subcode) = reason.to_wire();
        assert_eq!(Reason::from_wire(code, subcode), *reason);
        assert!(names.insert(reason.name()), "{}", reason.name());
    }
    assert_eq!(Reason::from_wire(9, 9).to_wire(), (9, 9));
}

fn rich_path(as_path: Vec<u32>) -> PathAttributes {
    PathAttributes {
        as_path,
        next_hop: Some([10, 99, 0, 2].into()),
        med: Some(50),
        local_pref: Some(200),
        communities: vec![0xfde9_0001, 0xffff_0000],
        extended_communities: vec![[0, 2, 0xfd, 0xe9, 0, 0, 0, 100]],
        large_communities: vec![[4_200_000_000, 1, 2]],
    }
}

#[test]
fn attributes_ascend_and_carry_the_flags_of_their_rfcs() {
    let mut bytes = Vec::new();
    rich_path(vec![4_200_000_010; 2]).encode(AsNumberWidth::Four, &mut bytes);
    let expected = "400101 00
        40020a 0202 fa56ea0a fa56ea0a
        400304 0a630002
        800404 00000032
        400504 000000c8
        c00808 fde90001 ffff0000
        c01008 0002fde900000064
        c0200c fa56ea00 00000001 00000002";
    assert_eq!(bytes, hex(expected));
}

#[test]
fn a_peer_without_four_octet_numbers_gets_as_trans_and_as4_path() {
    let path = |asn| PathAttributes {
        as_path: vec![asn],
        next_hop: None,
        med: None,
        local_pref: None,
        communities: Vec::new(),
        extended_communities: Vec::new(),
        large_communities: Vec::new(),
    };
    let mut bytes = Vec::new();
    path(4_200_000_010).encode(AsNumberWidth::Two, &mut bytes);
    assert_eq!(bytes, hex("40010100 400204 0201 5ba0 c01106 0201 fa56ea0a"));
    bytes.clear();
    path(65010).encode(AsNumberWidth::Two, &mut bytes);
    assert_eq!(bytes, hex("40010100 400204 0201 fdf2"));
}

#[test]
fn multiprotocol_routes_come_first_and_long_lengths_only_where_needed() {
    let next_hop = NextHop {
        global: "fd99::2".parse().unwrap(),
        link_local: Some("fe80::2".parse().unwrap()),
    };
    let mut bytes = Vec::new();
    let mut update = UpdateWriter::announce_mp::<Ipv4Net>(
        &mut bytes,
        SizeLimit::Standard,
        &[0x40, 1, 1, 0],
        next_hop,
    );
    assert!(update.push("192.0.2.7/32".parse::<Ipv4Net>().unwrap()));
    update.finish();
    let body = "0000 0031
        800e2a 0001 01 20 fd990000000000000000000000000002 fe800000000000000000000000000002 00
        20 c0000207
        40010100";
    assert_eq!(bytes, message(2, &hex(body)));
}

#[test]
fn a_frame_is_cut_out_wherever_the_stream_is_split() {
    let mut bytes = message(1, &hex(OPEN));
    bytes.extend_from_slice(&message(4, &[]));
    bytes.extend_from_slice(&message(2, &[0; 4]));
    for size in 1..bytes.len() {
        let mut framer = Framer::default();
        let mut kinds = Vec::new();
        for chunk in bytes.chunks(size) {
            framer.space()[..chunk.len()].copy_from_slice(chunk);
            framer.advance(chunk.len());
            while let Some(message) = framer.next_message().unwrap() {
                kinds.push(match message {
                    Message::Open(_) => 1,
                    Message::Update(_) => 2,
                    Message::Keepalive => 4,
                    Message::Notification(_) | Message::RouteRefresh(_) => 0,
                });
            }
        }
        assert_eq!(kinds, [1, 4, 2], "in pieces of {size}");
    }
}

#[test]
fn a_full_table_leaves_the_buffer_as_large_as_it_was() {
    let mut framer = Framer::default();
    let before = framer.space().len();
    let body = [
        hex("0000 000e 40010100 400200 400304 0a000001"),
        hex("18c00002").repeat(1000),
    ];
    let update = message(2, &body.concat());
    let mut announced = 0;
    for _ in 0..1000 {
        framer.space()[..update.len()].copy_from_slice(&update);
        framer.advance(update.len());
        while let Some(message) = framer.next_message().unwrap() {
            let Message::Update(summary) = message else {
                panic!("{message:?}")
            };
            announced += summary.announced;
        }
    }
    assert_eq!(announced, 1_000_000);
    assert_eq!(framer.space().len(), before);
}

#[test]
fn a_long_message_fits_once_it_is_allowed() {
    let mut framer = Framer::default();
    let mut update = message(2, &[0; 4]);
    framer.space()[..5].copy_from_slice(&update[..5]);
    framer.advance(5);
    framer.allow_extended();
    update.resize(60_000, 0);
    update[16..18].copy_from_slice(&60_000_u16.to_be_bytes());
    framer.space()[..update.len() - 5].copy_from_slice(&update[5..]);
    framer.advance(update.len() - 5);
    assert!(matches!(
        framer.next_message(),
        Ok(Some(Message::Update(_)))
    ));
    assert!(matches!(framer.next_message(), Ok(None)));
}

/// What an independent decoder makes of a message, written back by it.
fn through_oracle(bytes: &[u8], is_four_octet: bool) -> Vec<u8> {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(is_four_octet);
    let mut reader = SliceReader::new(bytes);
    let message = BgpMessage::parse(&mut reader, &mut context).expect("the oracle reads it");
    let ignored = context.reset_parsing_errors();
    assert_eq!(ignored, BgpParsingIgnoredErrors::default());
    let mut written = Vec::new();
    message.write(&mut written).expect("the oracle writes it");
    written
}

#[test]
fn an_independent_codec_reads_and_repeats_everything_we_send() {
    let mut messages: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut write = |name: &'static str, encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        messages.push((name, bytes));
    };
    let open = Open {
        asn: 65010,
        hold_time_s: 90,
        router_id: [10, 99, 0, 2].into(),
        capabilities: all_capabilities(),
    };
    write("OPEN", &|out| open.encode("node1", out));
    write("KEEPALIVE", &encode_keepalive);
    write("End-of-RIB IPv4", &|out| {
        encode_end_of_rib(Family::Ipv4, out);
    });
    write("End-of-RIB IPv6", &|out| {
        encode_end_of_rib(Family::Ipv6, out);
    });
    let refresh = |kind| RouteRefresh {
        family: Family::Ipv6,
        kind,
    };
    write("BoRR", &|out| refresh(RefreshKind::Begin).encode(out));
    write("EoRR", &|out| refresh(RefreshKind::End).encode(out));
    let cease = Notification::with_communication(Reason::AdministrativeShutdown, "bye");
    write("Cease", &|out| cease.encode(out));
    write("Hard Reset", &|out| {
        cease.clone().into_hard_reset().encode(out);
    });
    for (name, bytes) in messages {
        assert_eq!(through_oracle(&bytes, true), bytes, "{name}");
    }
}

fn ipv4_nets() -> impl Strategy<Value = Vec<Ipv4Net>> {
    // Unicast only: the oracle takes no other.
    let net = (0..0xe000_0000_u32, 0..=32_u8)
        .prop_map(|(address, len)| Ipv4Net::new_assert(address.into(), len).trunc());
    prop::collection::vec(net, 1..300)
}

fn ipv6_nets() -> impl Strategy<Value = Vec<ipnet::Ipv6Net>> {
    let net = (0..0xff_u128 << 120, 0..=128_u8)
        .prop_map(|(address, len)| ipnet::Ipv6Net::new_assert(address.into(), len).trunc());
    prop::collection::vec(net, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_oracle_repeats_any_ipv4_update_of_ours(nets in ipv4_nets(), times in 1..4_usize) {
        let mut attributes = Vec::new();
        rich_path(vec![65010; times]).encode(AsNumberWidth::Four, &mut attributes);
        let mut announce = Vec::new();
        let mut update =
            UpdateWriter::announce_ipv4(&mut announce, SizeLimit::Standard, &attributes);
        let announced = nets.iter().filter(|net| update.push(**net)).count();
        update.finish();
        let mut withdraw = Vec::new();
        let mut update = UpdateWriter::withdraw::<Ipv4Net>(&mut withdraw, SizeLimit::Standard);
        let withdrawn = nets.iter().filter(|net| update.push(**net)).count();
        update.finish();
        prop_assert_eq!(&through_oracle(&announce, true), &announce);
        prop_assert_eq!(&through_oracle(&withdraw, true), &withdraw);
        let summary = |bytes: &[u8]| match decode(bytes) {
            Ok(Message::Update(summary)) => summary,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(summary(&announce).announced as usize, announced);
        prop_assert_eq!(summary(&withdraw).withdrawn as usize, withdrawn);
    }

    #[test]
    fn the_oracle_repeats_any_ipv6_update_of_ours(nets in ipv6_nets()) {
        let next_hop = NextHop { global: "fd99::2".parse().unwrap(), link_local: None };
        let mut attributes = Vec::new();
        let path = PathAttributes { next_hop: None, ..rich_path(vec![65010]) };
        path.encode(AsNumberWidth::Four, &mut attributes);
        let mut announce = Vec::new();
        let mut update = UpdateWriter::announce_mp::<ipnet::Ipv6Net>(
            &mut announce, SizeLimit::Standard, &attributes, next_hop,
        );
        nets.iter().filter(|net| update.push(**net)).count();
        update.finish();
        let mut withdraw = Vec::new();
        let mut update =
            UpdateWriter::withdraw::<ipnet::Ipv6Net>(&mut withdraw, SizeLimit::Standard);
        nets.iter().filter(|net| update.push(**net)).count();
        update.finish();
        prop_assert_eq!(&through_oracle(&announce, true), &announce);
        prop_assert_eq!(&through_oracle(&withdraw, true), &withdraw);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        kind in 0..8_u8,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = message(kind, &body);
        for limit in [SizeLimit::Standard, SizeLimit::Extended] {
            if let Ok(Some((message_type, len))) = decode_header(&bytes, limit)
                && let Ok(Message::Notification(notification)) =
                    decode_body(message_type, &bytes[HEADER_LEN..len])
            {
                let _ = notification.text();
            }
        }
    }

    #[test]
    fn no_damage_to_a_good_message_makes_the_decoder_panic(
        which in 0..PEER_OPENS.len(),
        at in 0..80_usize,
        value in any::<u8>(),
    ) {
        let mut body = hex(PEER_OPENS[which].1);
        if let Some(byte) = body.get_mut(at) {
            *byte = value;
        }
        let _ = decode(&message(1, &body));
        for len in 10..body.len() {
            let _ = decode(&message(1, &body[..len]));
        }
    }
}
