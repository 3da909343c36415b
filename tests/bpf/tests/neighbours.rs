//! Who has an EIP: ARP and neighbour discovery on an uplink, one frame at a time.
#![expect(
    clippy::expect_used,
    reason = "a test panics at the line that is wrong"
)]

use eip_bpf_tests::{
    Action, World,
    packet::ip,
    world::{PORT, UPLINK_MAC, binding},
};
use eip_common::{
    abi::{BINDING_ANSWER_L2, BINDING_PRIMARY, Binding, Delivery},
    neighbour::{ALL_NODES, BROADCAST, multicast_mac, solicited_node},
    reason::{Hook, Reason},
};
use etherparse::Icmpv6Type;

const EIP: &str = "203.0.113.10";
const SILENT: &str = "203.0.113.11";
const FOREIGN: &str = "203.0.113.12";
const CLIENT: &str = "203.0.113.200";
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const SLOT: u32 = 5;
const SILENT_SLOT: u32 = 6;

fn ip6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>()
        .expect("an IPv6 address")
        .octets()
}

fn eip6() -> [u8; 16] {
    ip6("2001:db8:1::10")
}

fn client6() -> [u8; 16] {
    ip6("2001:db8:1::200")
}

/// One EIP of each family that is answered for, one of each that is bound and not announced here.
fn world() -> World {
    let mut world = World::node();
    world.uplink(PORT, 1500);
    let value = |slot, flags| {
        let flags = BINDING_PRIMARY | flags;
        binding(ip("10.244.1.10"), Delivery::Peer, PORT, slot, flags)
    };
    world.put_binding(EIP, value(SLOT, BINDING_ANSWER_L2));
    world.put_binding(SILENT, value(SILENT_SLOT, 0));
    let six = |slot, flags| {
        let Binding {
            port_ifindex,
            l3_ifindex,
            generation,
            mtu,
            vm_mac,
            node_mac,
            delivery,
            flags,
            reserved,
            ..
        } = value(slot, flags);
        Binding {
            vm: ip6("fd00::10"),
            port_ifindex,
            l3_ifindex,
            slot,
            generation,
            mtu,
            vm_mac,
            node_mac,
            delivery,
            flags,
            reserved,
        }
    };
    world.put_binding6(eip6(), six(SLOT, BINDING_ANSWER_L2));
    world.put_binding6(ip6("2001:db8:1::11"), six(SILENT_SLOT, 0));
    world
}

/// An ARP frame with all its fields.
#[derive(Clone, Copy)]
struct Arp {
    to: [u8; 6],
    operation: u8,
    sender_mac: [u8; 6],
    sender: &'static str,
    target_mac: [u8; 6],
    target: &'static str,
}

const QUESTION: Arp = Arp {
    to: BROADCAST,
    operation: 1,
    sender_mac: CLIENT_MAC,
    sender: CLIENT,
    target_mac: [0; 6],
    target: EIP,
};

impl Arp {
    /// Padded to the shortest Ethernet frame, as hardware delivers it.
    fn frame(self) -> Vec<u8> {
        let mut frame = self.bytes();
        frame.resize(60, 0);
        frame
    }

    fn bytes(self) -> Vec<u8> {
        let mut frame = self.to.to_vec();
        frame.extend(self.sender_mac);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, self.operation]);
        frame.extend(self.sender_mac);
        frame.extend(ip(self.sender));
        frame.extend(self.target_mac);
        frame.extend(ip(self.target));
        frame
    }
}

/// What the uplink answers to a client with this address.
fn reply(to: &'static str) -> Arp {
    Arp {
        to: CLIENT_MAC,
        operation: 2,
        sender_mac: UPLINK_MAC,
        sender: EIP,
        target_mac: CLIENT_MAC,
        target: to,
    }
}

#[test]
fn an_arp_request_for_an_eip_is_answered_with_the_uplinks_mac() {
    let mut world = world();
    for frame in [QUESTION.frame(), QUESTION.bytes()] {
        let mut expected = reply(CLIENT).frame();
        expected.truncate(frame.len());
        let run = world.send(Hook::UplinkTc, &frame);
        run.ended(Reason::NeighbourAnswered)
            .with(Action::Redirect)
            .carried(&[])
            .leaving(&expected);
        let counted = [((SLOT, Hook::UplinkTc, Reason::NeighbourAnswered), 1)];
        assert_eq!(run.moved_for, counted.into());
    }
}

#[test]
fn a_request_to_the_uplinks_own_mac_is_answered_and_one_to_another_station_is_not() {
    let mut world = world();
    let unicast = Arp {
        to: UPLINK_MAC,
        ..QUESTION
    };
    world
        .send(Hook::UplinkTc, &unicast.frame())
        .ended(Reason::NeighbourAnswered)
        .leaving(&reply(CLIENT).frame());
    let overheard = Arp {
        to: [2, 0, 0, 0, 0, 0x99],
        ..QUESTION
    };
    world
        .send(Hook::UplinkTc, &overheard.frame())
        .ended(Reason::NotEip)
        .with(Action::Pass)
        .leaving(&overheard.frame());
}

#[test]
fn a_probe_for_an_eip_is_answered_so_that_the_prober_keeps_away() {
    let probe = Arp {
        sender: "0.0.0.0",
        ..QUESTION
    };
    world()
        .send(Hook::UplinkTc, &probe.frame())
        .ended(Reason::NeighbourAnswered)
        .with(Action::Redirect)
        .leaving(&reply("0.0.0.0").frame());
}

#[test]
fn arp_about_others_passes_untouched() {
    let foreign = Arp {
        target: FOREIGN,
        ..QUESTION
    };
    let probe = Arp {
        sender: "0.0.0.0",
        ..foreign
    };
    let announcement = Arp {
        sender: FOREIGN,
        ..foreign
    };
    let reply_to_us = Arp {
        to: UPLINK_MAC,
        operation: 2,
        target_mac: UPLINK_MAC,
        target: "192.0.2.10",
        ..QUESTION
    };
    let no_station = Arp {
        sender_mac: [1, 0, 0x5e, 0, 0, 1],
        ..QUESTION
    };
    for frame in [foreign, probe, announcement, reply_to_us, no_station].map(Arp::frame) {
        world()
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NotEip)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&frame);
    }
}

#[test]
fn an_eip_that_is_not_announced_on_layer_2_is_left_to_the_kernel() {
    let mut world = world();
    let question = Arp {
        target: SILENT,
        ..QUESTION
    };
    let asked6 = Discovery {
        target: ip6("2001:db8:1::11"),
        ..solicitation()
    };
    for frame in [question.frame(), asked6.frame()] {
        let run = world.send(Hook::UplinkTc, &frame);
        run.ended(Reason::NotAnnounced)
            .with(Action::Pass)
            .leaving(&frame);
        let counted = [((SILENT_SLOT, Hook::UplinkTc, Reason::NotAnnounced), 1)];
        assert_eq!(run.moved_for, counted.into());
    }
}

#[test]
fn arp_of_a_wrong_form_passes_and_is_counted() {
    let mut world = world();
    for (name, at, byte) in [
        ("hardware type", 15, 6),
        ("protocol type", 16, 0x86),
        ("hardware length", 18, 8),
        ("protocol length", 19, 16),
        ("operation", 21, 9),
    ] {
        println!("{name}");
        let mut frame = QUESTION.frame();
        frame[at] = byte;
        world
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NeighbourInvalid)
            .with(Action::Pass)
            .leaving(&frame);
    }
    for len in 14..42 {
        let cut = &QUESTION.frame()[..len];
        world
            .send(Hook::UplinkTc, cut)
            .ended(Reason::NeighbourInvalid)
            .with(Action::Pass)
            .leaving(cut);
    }
}

#[test]
fn a_claim_to_an_eip_is_counted_for_it_and_passes() {
    let mut world = world();
    let announcement = Arp {
        sender: EIP,
        ..QUESTION
    };
    let claiming_reply = Arp {
        operation: 2,
        sender: EIP,
        target: CLIENT,
        ..QUESTION
    };
    let asking_as_the_eip = Arp {
        sender: EIP,
        target: CLIENT,
        ..QUESTION
    };
    let advertisement = Discovery {
        kind: 136,
        flags: 0x20,
        destination: ALL_NODES,
        options: vec![2, 1, 2, 0, 0, 0, 0, 0x77],
        ..solicitation()
    };
    let silent_about_its_mac = Discovery {
        options: Vec::new(),
        ..advertisement.clone()
    };
    let soliciting_as_the_eip = Discovery {
        source: eip6(),
        target: client6(),
        ..solicitation()
    };
    for frame in [
        announcement.frame(),
        claiming_reply.frame(),
        asking_as_the_eip.frame(),
        advertisement.frame(),
        silent_about_its_mac.frame(),
        soliciting_as_the_eip.frame(),
    ] {
        let run = world.send(Hook::UplinkTc, &frame);
        run.ended(Reason::AddressClaimed)
            .with(Action::Pass)
            .carried(&[])
            .leaving(&frame);
        let counted = [((SLOT, Hook::UplinkTc, Reason::AddressClaimed), 1)];
        assert_eq!(run.moved_for, counted.into());
    }
}

#[test]
fn the_uplinks_own_announcements_are_no_claim() {
    let mut world = world();
    let own = Arp {
        sender_mac: UPLINK_MAC,
        sender: EIP,
        ..QUESTION
    };
    let own6 = Discovery {
        kind: 136,
        flags: 0x20,
        destination: ALL_NODES,
        options: [[2, 1].as_slice(), &UPLINK_MAC].concat(),
        ..solicitation()
    };
    for frame in [own.frame(), own6.frame()] {
        world
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NotEip)
            .with(Action::Pass)
            .leaving(&frame);
    }
}

#[test]
fn another_uplink_on_the_same_segment_is_neither_a_claimant_nor_answered() {
    const OTHER_UPLINK: [u8; 6] = [0x0a, 0, 0, 0, 0, 0xdd];
    let mut world = world();
    world.station(OTHER_UPLINK);
    let arp = |sender, operation| Arp {
        sender_mac: OTHER_UPLINK,
        sender,
        operation,
        ..QUESTION
    };
    let mut probe6 = duplicate_probe().frame();
    probe6[6..12].copy_from_slice(&OTHER_UPLINK);
    let announcement6 = Discovery {
        kind: 136,
        flags: 0x20,
        destination: ALL_NODES,
        options: [[2, 1].as_slice(), &OTHER_UPLINK].concat(),
        ..solicitation()
    };
    for frame in [
        arp("0.0.0.0", 1).frame(),
        arp(EIP, 1).frame(),
        arp(EIP, 2).frame(),
        probe6,
        announcement6.frame(),
    ] {
        world
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NotEip)
            .with(Action::Pass)
            .leaving(&frame);
    }
}

/// A neighbour solicitation or advertisement, with etherparse's checksum.
#[derive(Clone)]
struct Discovery {
    to: Option<[u8; 6]>,
    kind: u8,
    code: u8,
    flags: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
    target: [u8; 16],
    options: Vec<u8>,
}

fn solicitation() -> Discovery {
    Discovery {
        to: None,
        kind: 135,
        code: 0,
        flags: 0,
        hop_limit: 255,
        source: client6(),
        destination: solicited_node(eip6()),
        target: eip6(),
        options: [[1, 1].as_slice(), &CLIENT_MAC].concat(),
    }
}

fn duplicate_probe() -> Discovery {
    Discovery {
        source: [0; 16],
        // The nonce of RFC 7527.
        options: vec![14, 1, 1, 2, 3, 4, 5, 6],
        ..solicitation()
    }
}

impl Discovery {
    fn frame(&self) -> Vec<u8> {
        let body = [self.target.as_slice(), &self.options].concat();
        let head = Icmpv6Type::Unknown {
            type_u8: self.kind,
            code_u8: self.code,
            bytes5to8: [self.flags, 0, 0, 0],
        };
        let sum = head
            .calc_checksum(self.source, self.destination, &body)
            .expect("a length that fits");
        let to = self.to.unwrap_or(multicast_mac(self.destination));
        let mut frame = to.to_vec();
        frame.extend(
            if self.kind == 136 && self.options.get(2..) == Some(&UPLINK_MAC) {
                UPLINK_MAC
            } else {
                CLIENT_MAC
            },
        );
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        let payload = u16::try_from(body.len() + 8).expect("a length that fits");
        frame.extend(payload.to_be_bytes());
        frame.extend([58, self.hop_limit]);
        frame.extend(self.source);
        frame.extend(self.destination);
        frame.extend([self.kind, self.code]);
        frame.extend(sum.to_be_bytes());
        frame.extend([self.flags, 0, 0, 0]);
        frame.extend(body);
        frame
    }
}

/// What the uplink advertises to a neighbour, from the drawing of RFC 4861 section 4.4.
fn advertisement(to: [u8; 6], destination: [u8; 16], flags: u8) -> Vec<u8> {
    let mut frame = Discovery {
        to: Some(to),
        kind: 136,
        flags,
        source: eip6(),
        destination,
        options: [[2, 1].as_slice(), &UPLINK_MAC].concat(),
        ..solicitation()
    }
    .frame();
    frame[6..12].copy_from_slice(&UPLINK_MAC);
    frame
}

#[test]
fn a_solicitation_for_an_eip_is_answered_with_the_uplinks_mac() {
    let mut world = world();
    let unicast = Discovery {
        to: Some(UPLINK_MAC),
        destination: eip6(),
        ..solicitation()
    };
    let without_source_address = Discovery {
        options: Vec::new(),
        ..solicitation()
    };
    let with_more_options = Discovery {
        options: [
            solicitation().options,
            vec![14, 1, 1, 2, 3, 4, 5, 6],
            [[200, 6].as_slice(), &[0; 46]].concat(),
        ]
        .concat(),
        ..solicitation()
    };
    for question in [
        solicitation(),
        unicast,
        without_source_address,
        with_more_options,
    ] {
        let run = world.send(Hook::UplinkTc, &question.frame());
        run.ended(Reason::NeighbourAnswered)
            .with(Action::Redirect)
            .carried(&[])
            .leaving(&advertisement(CLIENT_MAC, client6(), 0x60));
        let counted = [((SLOT, Hook::UplinkTc, Reason::NeighbourAnswered), 1)];
        assert_eq!(run.moved_for, counted.into());
    }
}

#[test]
fn an_answer_goes_where_the_solicitation_says_not_where_its_frame_came_from() {
    let mac = [2, 0, 0, 0, 0, 0x55];
    let behind_a_proxy = Discovery {
        options: [[1, 1].as_slice(), &mac].concat(),
        ..solicitation()
    };
    world()
        .send(Hook::UplinkTc, &behind_a_proxy.frame())
        .ended(Reason::NeighbourAnswered)
        .leaving(&advertisement(mac, client6(), 0x60));
}

#[test]
fn a_probe_for_duplicates_is_answered_to_all_nodes() {
    world()
        .send(Hook::UplinkTc, &duplicate_probe().frame())
        .ended(Reason::NeighbourAnswered)
        .with(Action::Redirect)
        .leaving(&advertisement(multicast_mac(ALL_NODES), ALL_NODES, 0x20));
}

#[test]
fn a_solicitation_that_breaks_rfc_4861_is_counted_and_not_answered() {
    type Case = (&'static str, fn() -> Discovery, fn(&mut Discovery));
    let broken: [Case; 8] = [
        ("hop limit", solicitation, |m| m.hop_limit = 254),
        ("code", solicitation, |m| m.code = 1),
        ("option of no length", solicitation, |m| m.options[1] = 0),
        ("option past the end", solicitation, |m| m.options[1] = 2),
        ("half an option", solicitation, |m| m.options.truncate(4)),
        ("multicast source", solicitation, |m| m.source = ALL_NODES),
        ("probe with an address", duplicate_probe, |m| {
            m.options = solicitation().options;
        }),
        ("probe to one host", duplicate_probe, |m| {
            m.destination = eip6();
        }),
    ];
    let mut world = world();
    for (name, message, change) in broken {
        println!("{name}");
        let mut message = message();
        change(&mut message);
        let frame = message.frame();
        let run = world.send(Hook::UplinkTc, &frame);
        run.ended(Reason::NeighbourInvalid)
            .with(Action::Pass)
            .leaving(&frame);
        let counted = [((SLOT, Hook::UplinkTc, Reason::NeighbourInvalid), 1)];
        assert_eq!(run.moved_for, counted.into());
    }
    let mut wrong_sum = solicitation().frame();
    wrong_sum[56] ^= 1;
    let cut = solicitation().frame()[..80].to_vec();
    for frame in [wrong_sum, cut] {
        world
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NeighbourInvalid)
            .with(Action::Pass)
            .leaving(&frame);
    }
}

#[test]
fn discovery_about_others_passes_untouched() {
    let foreign = Discovery {
        target: ip6("2001:db8:1::12"),
        ..solicitation()
    };
    let multicast_target = Discovery {
        target: ALL_NODES,
        ..solicitation()
    };
    let their_claim = Discovery {
        kind: 136,
        ..foreign.clone()
    };
    let overheard = Discovery {
        to: Some([2, 0, 0, 0, 0, 0x99]),
        ..solicitation()
    };
    for message in [foreign, multicast_target, their_claim, overheard] {
        let frame = message.frame();
        world()
            .send(Hook::UplinkTc, &frame)
            .ended(Reason::NotEip)
            .with(Action::Pass)
            .leaving(&frame);
    }
}

#[test]
fn what_carries_a_tag_or_is_on_no_uplink_is_not_answered() {
    let mut world = world();
    // __sk_buff: vlan_present stands at byte 20. The kernel of the test refuses to set it; a tag in the
    // frame itself is what generic tests can have.
    let mut tagged = QUESTION.frame();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    world
        .send(Hook::UplinkTc, &tagged)
        .ended(Reason::Tagged)
        .with(Action::Pass)
        .leaving(&tagged);

    let mut elsewhere = World::node();
    let value = binding(
        ip("10.244.1.10"),
        Delivery::Peer,
        PORT,
        SLOT,
        BINDING_ANSWER_L2,
    );
    elsewhere.put_binding(EIP, value);
    elsewhere
        .send(Hook::UplinkTc, &QUESTION.frame())
        .ended(Reason::NotEip)
        .with(Action::Pass)
        .leaving(&QUESTION.frame());
}

#[test]
fn xdp_leaves_every_question_to_tc() {
    let mut world = world();
    let frame = QUESTION.frame();
    world
        .send(Hook::UplinkXdp, &frame)
        .ended(Reason::NotIp)
        .with(Action::Pass)
        .leaving(&frame);
    let frame = solicitation().frame();
    let run = world.send(Hook::UplinkXdp, &frame);
    run.with(Action::Pass).leaving(&frame);
}
