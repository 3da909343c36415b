//! What the agent does not renew is served in no way: bindings whose lease has run out.

use eip_bpf_tests::{
    Action, World,
    packet::{ends, ip, translated},
    world::{PORT, binding},
};
use eip_common::{
    abi::{BINDING_ANSWER_L2, BINDING_PRIMARY, Delivery, LEASE_NOT_BEGUN},
    neighbour::BROADCAST,
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";
const POD: &str = "10.244.9.9";
/// A time of `CLOCK_BOOTTIME` that no machine reaches.
const FAR: u64 = u64::MAX;

#[test]
fn a_lease_that_ran_out_ends_both_directions_in_every_lane() {
    for lane in Delivery::ALL {
        let mut world = World::node();
        let slot = world.bind(EIP, VM, lane);
        world.lease(slot, LEASE_NOT_BEGUN);
        for (hook, packet) in [
            (Hook::UplinkTc, ends(CLIENT, EIP).udp(1, 2, b"x")),
            (Hook::DoorIn, ends(CLIENT, EIP).udp(1, 2, b"x")),
            (Hook::DoorOut, ends(VM, CLIENT).udp(1, 2, b"x")),
        ] {
            println!("{} at {}", lane.name(), hook.name());
            world
                .send(hook, &packet)
                .ended(Reason::Fenced)
                .with(Action::Drop)
                .carried(&[])
                .leaving(&packet);
        }
    }
}

#[test]
fn a_lease_that_ran_out_ends_ipv6_too() {
    const EIP: &str = "2001:db8:e::10";
    const VM: &str = "fd00:10:244:1::10";
    const CLIENT: &str = "2001:db8:c::7";
    use eip_bpf_tests::packet6::ends6;
    let mut world = World::dual_stack_node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    world.lease(slot, LEASE_NOT_BEGUN);
    for (hook, packet) in [
        (Hook::UplinkTc, ends6(CLIENT, EIP).udp(1, 2, b"x")),
        (Hook::DoorIn, ends6(CLIENT, EIP).udp(1, 2, b"x")),
        (Hook::DoorOut, ends6(VM, CLIENT).udp(1, 2, b"x")),
    ] {
        world
            .send(hook, &packet)
            .ended(Reason::Fenced)
            .with(Action::Drop);
    }
}

#[test]
fn the_express_lane_leaves_a_fenced_packet_to_tc() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Xdp);
    let packet = ends(CLIENT, EIP).udp(1, 2, b"x");
    world.lease(slot, LEASE_NOT_BEGUN);
    world
        .send(Hook::UplinkXdp, &packet)
        .ended(Reason::LeftToTc)
        .with(Action::Pass)
        .leaving(&packet);
    world.lease(slot, FAR);
    world
        .send(Hook::UplinkXdp, &packet)
        .ended(Reason::DeliveredXdp);
}

#[test]
fn a_lease_that_runs_and_one_without_end_change_nothing() {
    for until in [0, FAR] {
        let mut world = World::node();
        let slot = world.bind(EIP, VM, Delivery::Peer);
        world.lease(slot, until);
        world
            .send(Hook::UplinkTc, &ends(CLIENT, EIP).udp(1, 2, b"x"))
            .ended(Reason::DeliveredPeer);
        world
            .send(Hook::DoorOut, &ends(VM, CLIENT).udp(1, 2, b"x"))
            .ended(Reason::SentToUplink);
    }
}

#[test]
fn a_renewed_lease_serves_again() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    let packet = ends(CLIENT, EIP).udp(1, 2, b"x");
    world.lease(slot, LEASE_NOT_BEGUN);
    world.send(Hook::UplinkTc, &packet).ended(Reason::Fenced);
    world.lease(slot, FAR);
    world
        .send(Hook::UplinkTc, &packet)
        .ended(Reason::DeliveredPeer);
}

#[test]
fn what_the_vm_says_with_its_own_address_is_not_fenced() {
    let mut world = World::node();
    let slot = world.bind(EIP, VM, Delivery::Peer);
    world.lease(slot, FAR);
    // A pod that asked the elastic IP is answered by it; once fenced, by nobody.
    world
        .send(Hook::DoorIn, &ends(POD, EIP).udp(1, 2, b"q"))
        .ended(Reason::Translated);
    world.lease(slot, LEASE_NOT_BEGUN);
    world
        .send(Hook::DoorOut, &ends(VM, POD).udp(2, 1, b"a"))
        .ended(Reason::Fenced)
        .with(Action::Drop);
    world
        .send(Hook::DoorOut, &ends(VM, POD).udp(7, 7, b"own"))
        .ended(Reason::Bypass);
    world
        .send(Hook::DoorIn, &ends(POD, VM).udp(7, 7, b"own"))
        .ended(Reason::Direct);
}

#[test]
fn a_fenced_neighbour_on_the_same_node_is_not_reached() {
    let mut world = World::node();
    let sender = world.bind(EIP, VM, Delivery::Peer);
    let other = world.bind("203.0.113.11", "10.244.1.11", Delivery::Peer);
    let packet = ends(VM, "203.0.113.11").udp(1, 2, b"x");
    world.lease(other, LEASE_NOT_BEGUN);
    let run = world.send(Hook::DoorOut, &packet);
    run.ended(Reason::Fenced).with(Action::Drop).carried(&[]);
    assert_eq!(run.moved_for[&(other, Hook::DoorOut, Reason::Fenced)], 1);
    world.lease(other, FAR);
    world
        .send(Hook::DoorOut, &packet)
        .ended(Reason::DeliveredPeer)
        .carried(&[(sender, 0, 1), (other, 1, 0)])
        .with(Action::Redirect);
    // The sender's own lease counts for what it sends, whoever is asked.
    world.lease(sender, LEASE_NOT_BEGUN);
    let run = world.send(Hook::DoorOut, &packet);
    run.ended(Reason::Fenced);
    assert_eq!(run.moved_for[&(sender, Hook::DoorOut, Reason::Fenced)], 1);
    let expected = translated(&packet, ip(VM), ip("203.0.113.11"), 0);
    run.leaving(&expected);
}

#[test]
fn nobody_is_told_who_has_a_fenced_eip() {
    let mut world = World::node();
    world.uplink(PORT, 1500);
    let flags = BINDING_PRIMARY | BINDING_ANSWER_L2;
    world.put_binding(EIP, binding(ip(VM), Delivery::Peer, PORT, 5, flags));
    let sender = [2, 0, 0, 0, 0, 0x77];
    let question = [
        BROADCAST.as_slice(),
        &sender,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &sender,
        &ip("203.0.113.200"),
        &[0; 6],
        &ip(EIP),
    ]
    .concat();
    world
        .send(Hook::UplinkTc, &question)
        .ended(Reason::NeighbourAnswered);
    world.lease(5, LEASE_NOT_BEGUN);
    world
        .send(Hook::UplinkTc, &question)
        .ended(Reason::Fenced)
        .with(Action::Drop)
        .leaving(&question);
}
