//! Replies that addresses alone cannot place: peers inside bypass, VMs with several EIPs.

use eip_bpf_tests::{
    Action, World,
    packet::{ends, fragment, ip, translated},
    world::OTHER_PORT,
};
use eip_common::{
    abi::{Delivery, FlowKey},
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const SECOND: &str = "203.0.113.20";
const VM: &str = "10.244.1.10";
const POD: &str = "10.244.9.9";

fn key(peer: &str, vm_port: u16, peer_port: u16, protocol: u8) -> FlowKey<[u8; 4]> {
    FlowKey {
        vm: ip(VM),
        peer: ip(peer),
        vm_port: vm_port.to_be_bytes(),
        peer_port: peer_port.to_be_bytes(),
        protocol,
        reserved: [0; 3],
    }
}

/// Question to the EIP through `hook`, answer of the VM through its door; the answer carries the EIP
/// exactly when the question was remembered.
#[track_caller]
fn answer(world: &mut World, question: &[u8], reply: &[u8], hook: Hook) -> Reason {
    let asked = world.send(hook, question);
    assert!(
        asked.moved.contains_key(&(hook, Reason::Translated))
            || asked.moved.contains_key(&(hook, Reason::DeliveredPeer))
    );
    let answered = world.send(Hook::DoorOut, reply);
    let reasons: Vec<_> = answered.moved.keys().map(|(_, reason)| *reason).collect();
    let [reason] = reasons[..] else {
        unreachable!("one packet ends for one reason, not for {reasons:?}");
    };
    let source = if reason == Reason::Bypass {
        ip(VM)
    } else {
        ip(EIP)
    };
    assert_eq!(&answered.packet[26..30], &source);
    reason
}

#[test]
fn a_pod_that_asks_the_eip_is_answered_by_the_eip() {
    for hook in [Hook::DoorIn, Hook::UplinkTc] {
        let conversations = [
            (
                ends(POD, EIP).tcp(4000, 80, "S", b""),
                ends(VM, POD).tcp(80, 4000, "SA", b""),
                key(POD, 80, 4000, 6),
            ),
            (
                ends(POD, EIP).udp(4000, 53, b"q"),
                ends(VM, POD).udp(53, 4000, b"a"),
                key(POD, 53, 4000, 17),
            ),
            (
                ends(POD, EIP).echo_request(77, b""),
                ends(VM, POD).echo_reply(77, b""),
                key(POD, 77, 77, 1),
            ),
            (
                ends(POD, EIP).raw(50, &[1; 16]),
                ends(VM, POD).raw(50, &[2; 16]),
                key(POD, 0, 0, 50),
            ),
        ];
        for (question, reply, key) in conversations {
            let mut world = World::node();
            world.bind(EIP, VM, Delivery::Peer);
            assert_eq!(
                answer(&mut world, &question, &reply, hook),
                Reason::SentAsFlow
            );
            assert_eq!(world.flow(&key), Some(ip(EIP)));
        }
    }
}

#[test]
fn such_a_reply_goes_to_the_kernel_with_right_checksums_and_is_counted() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    world.send(Hook::DoorIn, &ends(POD, EIP).udp(4000, 53, b"q"));
    let reply = ends(VM, POD).udp(53, 4000, b"a");
    world
        .send(Hook::DoorOut, &reply)
        .ended(Reason::SentAsFlow)
        .with(Action::Pass)
        .carried(&[(slot, 0, 1)])
        .leaving(&translated(&reply, ip(EIP), ip(POD), 0));
}

#[test]
fn a_client_outside_leaves_no_state() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world
        .send(Hook::UplinkTc, &ends(CLIENT, EIP).udp(4000, 53, b"q"))
        .ended(Reason::DeliveredPeer);
    assert_eq!(world.flow(&key(CLIENT, 53, 4000, 17)), None);
}

#[test]
fn a_direct_connection_with_the_same_ports_ends_the_conversation() {
    let cases = [
        (
            ends(POD, EIP).tcp(4000, 80, "S", b""),
            ends(POD, VM).tcp(4000, 80, "S", b""),
            ends(VM, POD).tcp(80, 4000, "SA", b""),
        ),
        (
            ends(POD, EIP).udp(4000, 53, b"q"),
            ends(POD, VM).udp(4000, 53, b"q"),
            ends(VM, POD).udp(53, 4000, b"a"),
        ),
        (
            ends(POD, EIP).echo_request(7, b""),
            ends(POD, VM).echo_request(7, b""),
            ends(VM, POD).echo_reply(7, b""),
        ),
    ];
    for (question, direct, reply) in cases {
        let mut world = World::node();
        world.bind(EIP, VM, Delivery::Peer);
        assert_eq!(
            answer(&mut world, &question, &reply, Hook::DoorIn),
            Reason::SentAsFlow
        );
        world
            .send(Hook::DoorIn, &direct)
            .ended(Reason::Direct)
            .leaving(&direct);
        world
            .send(Hook::DoorOut, &reply)
            .ended(Reason::Bypass)
            .leaving(&reply);
    }
}

#[test]
fn direct_segments_of_an_established_connection_do_not_end_another_conversation() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.send(Hook::DoorIn, &ends(POD, EIP).tcp(4000, 80, "S", b""));
    world
        .send(Hook::DoorIn, &ends(POD, VM).tcp(4000, 80, "A", b""))
        .ended(Reason::Direct);
    assert_eq!(world.flow(&key(POD, 80, 4000, 6)), Some(ip(EIP)));
}

#[test]
fn a_connection_the_vm_opens_is_its_own() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.send(Hook::DoorIn, &ends(POD, EIP).tcp(4000, 80, "S", b""));
    let open = ends(VM, POD).tcp(80, 4000, "S", b"");
    world
        .send(Hook::DoorOut, &open)
        .ended(Reason::Bypass)
        .leaving(&open);
    assert_eq!(world.flow(&key(POD, 80, 4000, 6)), None);
}

#[test]
fn later_fragments_of_a_reply_follow_the_first() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.send(Hook::DoorIn, &ends(POD, EIP).udp(4000, 53, b"q"));
    let reply = ends(VM, POD).udp(53, 4000, &[3; 3000]);
    for piece in fragment(&reply, 1000) {
        let run = world.send(Hook::DoorOut, &piece);
        run.ended(Reason::SentAsFlow);
        assert_eq!(&run.packet[26..30], &ip(EIP));
    }
}

#[test]
fn later_fragments_of_direct_traffic_stay_direct() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    for piece in fragment(&ends(VM, POD).udp(53, 4001, &[3; 3000]), 1000) {
        world
            .send(Hook::DoorOut, &piece)
            .ended(Reason::Bypass)
            .leaving(&piece);
    }
}

#[test]
fn an_icmp_error_of_the_vm_belongs_to_the_conversation_it_quotes() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    let question = ends(POD, EIP).udp(4000, 9, b"closed port");
    world.send(Hook::DoorIn, &question);
    let seen_by_vm = translated(&question, ip(POD), ip(VM), 0);
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Port,
    );
    let error = ends(VM, POD).icmp_error(kind.clone(), &seen_by_vm[14..]);
    world
        .send(Hook::DoorOut, &error)
        .ended(Reason::SentAsFlow)
        .leaving(&ends(EIP, POD).icmp_error(kind, &question[14..]));
}

#[test]
fn a_vm_with_two_eips_answers_with_the_one_that_was_asked() {
    for hook in [Hook::UplinkTc, Hook::DoorIn] {
        let mut world = World::node();
        let first = world.bind(EIP, VM, Delivery::Peer);
        let second = world.bind_second(EIP, SECOND, VM, Delivery::Peer);
        world.send(hook, &ends(CLIENT, SECOND).tcp(4000, 80, "S", b""));
        world.send(hook, &ends(CLIENT, EIP).tcp(4001, 80, "S", b""));

        let reply = ends(VM, CLIENT).tcp(80, 4000, "SA", b"");
        world
            .send(Hook::DoorOut, &reply)
            .ended(Reason::SentToUplink)
            .carried(&[(second, 0, 1)])
            .leaving(&translated(&reply, ip(SECOND), ip(CLIENT), 1));
        let reply = ends(VM, CLIENT).tcp(80, 4001, "SA", b"");
        world
            .send(Hook::DoorOut, &reply)
            .ended(Reason::SentToUplink)
            .carried(&[(first, 0, 1)])
            .leaving(&translated(&reply, ip(EIP), ip(CLIENT), 1));
        // What it starts itself has the primary one.
        let open = ends(VM, CLIENT).tcp(50000, 443, "S", b"");
        world
            .send(Hook::DoorOut, &open)
            .ended(Reason::SentToUplink)
            .leaving(&translated(&open, ip(EIP), ip(CLIENT), 1));
    }
}

#[test]
fn turning_from_one_eip_to_the_other_with_the_same_ports_turns_the_replies() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_second(EIP, SECOND, VM, Delivery::Peer);
    let reply = ends(VM, CLIENT).udp(53, 4000, b"a");
    for eip in [SECOND, EIP, SECOND] {
        world.send(Hook::UplinkTc, &ends(CLIENT, eip).udp(4000, 53, b"q"));
        world
            .send(Hook::DoorOut, &reply)
            .ended(Reason::SentToUplink)
            .leaving(&translated(&reply, ip(eip), ip(CLIENT), 1));
    }
}

#[test]
fn fragmented_replies_of_a_vm_with_two_eips_stay_together() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_second(EIP, SECOND, VM, Delivery::Peer);
    world.send(Hook::UplinkTc, &ends(CLIENT, SECOND).udp(4000, 53, b"q"));
    for piece in fragment(&ends(VM, CLIENT).udp(53, 4000, &[3; 3000]), 1000) {
        let run = world.send(Hook::DoorOut, &piece);
        run.ended(Reason::SentToUplink);
        assert_eq!(&run.packet[26..30], &ip(SECOND));
    }
}

#[test]
fn an_error_that_quotes_another_vms_conversation_does_not_carry_its_eip() {
    use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
    let other_vm = "10.244.2.20";
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.bind_at(SECOND, other_vm, Delivery::Peer, OTHER_PORT);
    world.send(Hook::UplinkTc, &ends(POD, SECOND).udp(4000, 53, b"q"));
    let quote = &ends(POD, other_vm).udp(4000, 53, b"q")[14..];
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let error = ends(VM, POD).icmp_error(kind, quote);
    world
        .send(Hook::DoorOut, &error)
        .ended(Reason::Bypass)
        .with(Action::Pass)
        .carried(&[])
        .leaving(&error);
}
