//! Neighbour messages against an independent implementation, and against every way to get them wrong.

use etherparse::{Icmpv6Type, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::{vec, vec::Vec};

use super::*;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const ASKER: Mac = [2, 0, 0, 0, 0, 2];
const EIP: Ipv6Wire = [
    0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
];
const HOST: Ipv6Wire = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const NOBODY: Ipv6Wire = [0; 16];
const SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

/// A neighbour discovery message, by the RFC and with etherparse's checksum.
#[derive(Clone)]
struct Message {
    kind: u8,
    code: u8,
    flags: u8,
    hop_limit: u8,
    source: Ipv6Wire,
    destination: Ipv6Wire,
    target: Ipv6Wire,
    options: Vec<u8>,
}

fn solicitation() -> Message {
    Message {
        kind: 135,
        code: 0,
        flags: 0,
        hop_limit: 255,
        source: HOST,
        destination: solicited_node(EIP),
        target: EIP,
        options: SOURCE.to_vec(),
    }
}

fn probe() -> Message {
    Message {
        source: NOBODY,
        options: NONCE.to_vec(),
        ..solicitation()
    }
}

fn claim() -> Message {
    Message {
        kind: 136,
        flags: 0x20,
        destination: ALL_NODES,
        options: vec![2, 1, 2, 0, 0, 0, 0, 9],
        ..solicitation()
    }
}

impl Message {
    fn frame(&self) -> Vec<u8> {
        let mut body = self.target.to_vec();
        body.extend(&self.options);
        let head = Icmpv6Type::Unknown {
            type_u8: self.kind,
            code_u8: self.code,
            bytes5to8: [self.flags, 0, 0, 0],
        };
        let sum = head
            .calc_checksum(self.source, self.destination, &body)
            .unwrap();
        let mut frame = multicast_mac(self.destination).to_vec();
        frame.extend(ASKER);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(body.len() + 8).unwrap().to_be_bytes());
        frame.extend([58, self.hop_limit]);
        frame.extend(self.source);
        frame.extend(self.destination);
        frame.extend([self.kind, self.code]);
        frame.extend(sum.to_be_bytes());
        frame.extend([self.flags, 0, 0, 0]);
        frame.extend(body);
        frame
    }

    fn read(&self) -> Result<Option<Mac>, Invalid> {
        read(&self.frame())
    }
}

fn read(frame: &[u8]) -> Result<Option<Mac>, Invalid> {
    let subject = subject(frame).expect("neighbour discovery");
    stated_mac(frame, frame, frame.len(), &subject)
}

#[test]
fn a_solicitation_states_who_asks() {
    let message = solicitation();
    let found = subject(message.frame().as_slice()).unwrap();
    assert_eq!(
        (found.kind, found.source, found.target),
        (Kind::Solicitation, HOST, EIP)
    );
    assert_eq!(message.read(), Ok(Some(ASKER)));
    let silent = Message {
        options: Vec::new(),
        ..message
    };
    assert_eq!(silent.read(), Ok(None));
}

#[test]
fn padding_behind_the_message_does_not_matter() {
    let mut frame = solicitation().frame();
    frame.extend([0x55; 30]);
    assert_eq!(read(&frame), Ok(Some(ASKER)));
}

#[test]
fn a_probe_for_duplicates_states_nothing() {
    assert_eq!(probe().read(), Ok(None));
}

#[test]
fn a_claim_states_who_claims() {
    assert_eq!(claim().read(), Ok(Some([2, 0, 0, 0, 0, 9])));
}

#[test]
fn unknown_options_are_walked_over() {
    let mut options = vec![200, 3];
    options.resize(24, 7);
    options.extend(SOURCE);
    options.extend(NONCE);
    let message = Message {
        options,
        ..solicitation()
    };
    assert_eq!(message.read(), Ok(Some(ASKER)));
}

#[test]
fn every_broken_rule_of_rfc_4861_makes_a_message_invalid() {
    type Case = (&'static str, fn() -> Message, fn(&mut Message));
    let broken: [Case; 13] = [
        ("hop limit", solicitation, |m| m.hop_limit = 254),
        ("code", solicitation, |m| m.code = 1),
        ("multicast target", solicitation, |m| m.target = ALL_NODES),
        ("multicast source", solicitation, |m| m.source = ALL_NODES),
        ("option of no length", solicitation, |m| m.options[1] = 0),
        ("option past the end", solicitation, |m| m.options[1] = 2),
        ("half an option", solicitation, |m| {
            m.options.truncate(4);
        }),
        ("long link-layer address", solicitation, |m| {
            m.options = vec![1, 2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        }),
        ("more than is looked at", solicitation, |m| {
            m.options = [[200, 9, 0, 0, 0, 0, 0, 0]].concat();
            m.options.resize(9 * 8, 0);
        }),
        ("probe with an address", probe, |m| {
            m.options = SOURCE.to_vec();
        }),
        ("probe to one host", probe, |m| m.destination = EIP),
        ("solicited claim to all", claim, |m| m.flags = 0x60),
        ("claim beyond the link", claim, |m| m.hop_limit = 64),
    ];
    for (name, message, change) in broken {
        let mut message = message();
        assert!(message.read().is_ok(), "{name}: without the fault");
        change(&mut message);
        assert_eq!(message.read(), Err(Invalid), "{name}");
    }
}

#[test]
fn any_wrong_bit_of_the_message_breaks_the_checksum() {
    let right = solicitation().frame();
    for byte in ICMPV6..right.len() {
        for bit in 0..8 {
            let mut wrong = right.clone();
            wrong[byte] ^= 1 << bit;
            let answer = subject(wrong.as_slice()).map(|_| read(&wrong));
            assert_ne!(answer, Some(Ok(Some(ASKER))), "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn a_message_cut_anywhere_is_none() {
    let whole = solicitation().frame();
    for len in 0..whole.len() {
        let cut = &whole[..len];
        let answer = subject(cut).map(|subject| stated_mac(cut, cut, len, &subject));
        assert!(matches!(answer, None | Some(Err(Invalid))), "{len} bytes");
    }
}

#[test]
fn other_ipv6_packets_are_about_no_neighbour() {
    for (at, byte) in [(20, 17), (20, 0), (20, 44), (54, 133), (54, 137), (54, 128)] {
        let mut frame = solicitation().frame();
        frame[at] = byte;
        assert_eq!(subject(frame.as_slice()), None, "{at}: {byte}");
    }
}

/// Reads an advertisement with etherparse and by the drawing of RFC 4861 section 4.4.
fn advertised(frame: &[u8]) -> (Vec<u8>, Vec<u8>, u8) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = packet.net else {
        panic!("no IPv6")
    };
    let header = ip.header();
    assert_eq!(header.hop_limit(), 255);
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else {
        panic!("no ICMPv6")
    };
    assert!(icmp.is_checksum_valid(header.source(), header.destination()));
    let bytes = icmp.slice();
    assert_eq!((bytes[0], bytes[1]), (136, 0));
    assert_eq!(bytes[8..24], header.source());
    assert_eq!(bytes[24..], [[2, 1].as_slice(), &OWN].concat());
    (frame[..6].to_vec(), header.destination().to_vec(), bytes[4])
}

fn answer(question: &Subject, to: Mac, mac: Mac) -> [u8; ADVERTISEMENT_FRAME] {
    // Whatever stood there before.
    let mut frame = [0x55; ADVERTISEMENT_FRAME];
    write_answer(&mut frame[..], question, to, mac).unwrap();
    frame
}

#[test]
fn an_answer_goes_to_the_asker_solicited_and_overriding() {
    let question = subject(solicitation().frame().as_slice()).unwrap();
    let answer = answer(&question, ASKER, OWN);
    let expected = (ASKER.to_vec(), HOST.to_vec(), 0x60);
    assert_eq!(advertised(&answer), expected);
    assert_eq!(read(&answer), Ok(Some(OWN)));
}

#[test]
fn an_answer_to_a_probe_goes_to_all_nodes_unsolicited() {
    let question = subject(probe().frame().as_slice()).unwrap();
    let answer = answer(&question, ASKER, OWN);
    let all = multicast_mac(ALL_NODES).to_vec();
    assert_eq!(advertised(&answer), (all, ALL_NODES.to_vec(), 0x20));
    assert_eq!(answer, unsolicited_advertisement(EIP, OWN));
}

const CLIENT4: Ipv4Wire = [192, 0, 2, 5];
const EIP4: Ipv4Wire = [203, 0, 113, 10];

fn arp_question() -> Vec<u8> {
    let mut frame = BROADCAST.to_vec();
    frame.extend(ASKER);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(ASKER);
    frame.extend(CLIENT4);
    frame.extend([0; 6]);
    frame.extend(EIP4);
    frame
}

#[test]
fn an_arp_request_asks_and_is_answered() {
    let question = arp(arp_question().as_slice()).unwrap();
    assert!(question.asks());
    let mut expected = ASKER.to_vec();
    expected.extend(OWN);
    expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    expected.extend(OWN);
    expected.extend(EIP4);
    expected.extend(ASKER);
    expected.extend(CLIENT4);
    let mut answer = [0x55; ARP_FRAME];
    write_arp_reply(&mut answer[..], &question, OWN).unwrap();
    assert_eq!(answer.as_slice(), expected);
}

#[test]
fn a_probe_asks_and_an_announcement_does_not() {
    let mut probe = arp_question();
    probe[28..32].fill(0);
    assert!(arp(probe.as_slice()).unwrap().asks());
    for own in [arp_announcement(EIP4, OWN), arp_gratuitous_reply(EIP4, OWN)] {
        let message = arp(own.as_slice()).unwrap();
        assert!(!message.asks());
        assert_eq!((message.sender, message.target), (EIP4, EIP4));
        assert_eq!(message.sender_mac, OWN);
    }
}

#[test]
fn a_request_nobody_can_be_answered_on_asks_nothing() {
    for mac in [[0; 6], BROADCAST, [1, 0, 0x5e, 0, 0, 1]] {
        let mut frame = arp_question();
        frame[22..28].copy_from_slice(&mac);
        assert!(!arp(frame.as_slice()).unwrap().asks(), "{mac:?}");
    }
}

#[test]
fn arp_of_another_form_is_invalid() {
    for (name, at, byte) in [
        ("hardware type", 15, 6),
        ("protocol type", 16, 0x86),
        ("hardware length", 18, 8),
        ("protocol length", 19, 16),
        ("operation", 21, 3),
    ] {
        let mut frame = arp_question();
        frame[at] = byte;
        assert_eq!(arp(frame.as_slice()), Err(Invalid), "{name}");
    }
    let whole = arp_question();
    for len in 0..whole.len() {
        assert_eq!(arp(&whole[..len]), Err(Invalid), "{len} bytes");
    }
}

#[test]
fn probes_ask_for_an_address_in_nobodys_name() {
    let asked = arp(arp_probe(EIP4, OWN).as_slice()).unwrap();
    assert!(asked.asks());
    assert_eq!((asked.sender, asked.target), ([0; 4], EIP4));
    let frame = duplicate_probe(EIP, OWN);
    let asked = subject(frame.as_slice()).unwrap();
    assert_eq!(
        (asked.kind, asked.source, asked.target),
        (Kind::Solicitation, NOBODY, EIP)
    );
    assert_eq!(read(&frame), Ok(None));
    let expected = Message {
        options: Vec::new(),
        ..probe()
    }
    .frame();
    assert_eq!(frame[12..], expected[12..]);
}

#[test]
fn a_frame_is_for_a_station_or_a_group() {
    assert!(is_for(OWN, OWN));
    assert!(is_for(BROADCAST, OWN));
    assert!(is_for(multicast_mac(solicited_node(EIP)), OWN));
    assert!(!is_for(ASKER, OWN));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 133_u8..138,
        options in 0_u16..50,
    ) {
        let _ = arp(bytes.as_slice());
        if bytes.len() >= 56 {
            bytes[14] = 0x60;
            bytes[18..20].copy_from_slice(&(24 + options * 8).to_be_bytes());
            bytes[20..22].copy_from_slice(&[58, 255]);
            bytes[54..56].copy_from_slice(&[kind, 0]);
        }
        if let Some(subject) = subject(bytes.as_slice()) {
            let _ = stated_mac(bytes.as_slice(), bytes.as_slice(), bytes.len(), &subject);
        }
    }

    #[test]
    fn any_valid_options_are_accepted(
        options in proptest::collection::vec((3_u8.., 1_u8..3, any::<u8>()), 0..4),
    ) {
        let mut bytes = SOURCE.to_vec();
        for (kind, units, fill) in options {
            let mut option = vec![fill; usize::from(units) * 8];
            option[0] = kind;
            option[1] = units;
            bytes.extend(option);
        }
        let message = Message { options: bytes, ..solicitation() };
        prop_assert_eq!(message.read(), Ok(Some(ASKER)));
    }

    #[test]
    fn every_advertisement_is_valid_for_its_reader(eip: [u8; 16], asker: [u8; 16], mac: [u8; 6]) {
        prop_assume!(eip[0] != 0xff && asker[0] != 0xff);
        let subject = Subject { kind: Kind::Solicitation, source: asker, target: eip };
        for frame in [
            answer(&subject, ASKER, mac),
            unsolicited_advertisement(eip, mac),
        ] {
            prop_assert_eq!(read(&frame), Ok(Some(mac)));
        }
    }
}

#[test]
fn a_frame_without_room_is_not_written_past_its_end() {
    let question = arp(arp_question().as_slice()).unwrap();
    assert_eq!(write_arp_reply(&mut [0; 41][..], &question, OWN), None);
    let question = subject(solicitation().frame().as_slice()).unwrap();
    let mut short = [0; ADVERTISEMENT_FRAME - 1];
    assert_eq!(write_answer(&mut short[..], &question, ASKER, OWN), None);
}
