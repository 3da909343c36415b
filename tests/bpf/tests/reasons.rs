//! Every reason is the end of some packet.

use eip_bpf_tests::{
    Action, World,
    netns::{forward, ifindex, in_own_netns, ip as ip_command},
    packet::{ends, ip, translated},
    world::{OTHER_PORT, PORT},
};
use eip_common::{
    abi::Delivery,
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const VM: &str = "10.244.1.10";
const POD: &str = "10.244.9.9";

/// A packet that ends for `reason`, the hook it does so at, and the lane it takes; `None` for what no
/// packet alone brings about.
///
/// A new reason does not compile until it has a line here.
fn example(reason: Reason) -> Option<(Hook, Delivery, Vec<u8>)> {
    use Delivery::{Forward, Neigh, Peer, Stack, Xdp};
    use Hook::{DoorIn, DoorOut, UplinkTc, UplinkXdp};
    let inbound = || ends(CLIENT, EIP).udp(1, 2, b"x");
    let outbound = || ends(VM, CLIENT).udp(1, 2, b"x");
    Some(match reason {
        Reason::NotIp => (UplinkTc, Peer, vec![0; 14]),
        Reason::NotEip => (UplinkTc, Peer, ends(CLIENT, "203.0.113.9").udp(1, 2, b"x")),
        Reason::LeftToTc => (UplinkXdp, Peer, inbound()),
        Reason::Tagged => (UplinkXdp, Peer, {
            let mut packet = inbound();
            packet[12..14].copy_from_slice(&[0x81, 0]);
            packet
        }),
        Reason::Bypass => (DoorOut, Peer, ends(VM, POD).udp(1, 2, b"x")),
        Reason::LinkScope => (DoorOut, Peer, ends(VM, "224.0.0.1").udp(1, 2, b"x")),
        Reason::NotBound => (DoorOut, Peer, ends("10.244.1.99", CLIENT).udp(1, 2, b"x")),
        Reason::Direct => (DoorIn, Peer, ends(POD, VM).udp(1, 2, b"x")),
        Reason::TtlExceeded => (DoorOut, Peer, ends(VM, CLIENT).ttl(1).udp(1, 2, b"x")),
        Reason::TooLarge => (DoorOut, Peer, ends(VM, CLIENT).udp(1, 2, &[0; 1500])),
        Reason::TooLargeAnswered => (UplinkTc, Peer, ends(CLIENT, EIP).udp(1, 2, &[0; 1400])),
        Reason::SentToStack => (DoorOut, Stack, outbound()),
        Reason::DeliveredPeer => (UplinkTc, Peer, inbound()),
        Reason::DeliveredNeigh => (UplinkTc, Neigh, inbound()),
        Reason::DeliveredXdp => (UplinkXdp, Xdp, inbound()),
        Reason::DeliveredStack => (UplinkTc, Stack, inbound()),
        Reason::Forwarded => (UplinkTc, Forward, inbound()),
        Reason::Translated => (DoorIn, Neigh, inbound()),
        Reason::SentToUplink => (DoorOut, Peer, outbound()),
        Reason::Malformed => (UplinkTc, Peer, ends(CLIENT, EIP).raw(6, &[0; 4])),
        Reason::SpoofedEip => (DoorOut, Peer, ends(EIP, CLIENT).udp(1, 2, b"x")),
        Reason::SpoofedFromNetwork => (UplinkTc, Peer, ends(EIP, EIP).udp(1, 2, b"x")),
        Reason::NeighbourInvalid => (UplinkTc, Peer, [[0; 12].as_slice(), &[8, 6]].concat()),
        // With more than one packet or binding: their own tests below and beside. A rewrite fails only
        // in a kernel without memory.
        Reason::SentAsFlow
        | Reason::SpoofedVm
        | Reason::WrongPort
        | Reason::RoutedElsewhere
        | Reason::NoRoute
        | Reason::RewriteFailed
        | Reason::Fenced
        | Reason::TooLargeDropped
        | Reason::NeighbourAnswered
        | Reason::NotAnnounced
        | Reason::AddressClaimed => return None,
    })
}

#[test]
fn no_reason_is_unreachable() {
    for reason in Reason::ALL {
        let Some((hook, lane, packet)) = example(reason) else {
            continue;
        };
        println!("{}", reason.name());
        let mut world = World::node();
        world.bind(EIP, VM, lane);
        world.uplink(PORT, 1500);
        world.send(hook, &packet).ended(reason);
    }
}

#[test]
fn a_reply_to_a_pod_ends_as_sent_as_flow() {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world.send(Hook::DoorIn, &ends(POD, EIP).udp(1, 2, b"q"));
    world
        .send(Hook::DoorOut, &ends(VM, POD).udp(2, 1, b"a"))
        .ended(Reason::SentAsFlow);
}

#[test]
fn the_wrong_port_ends_as_spoofed_or_flooded() {
    let mut world = World::node();
    world.bind_at(EIP, VM, Delivery::Peer, OTHER_PORT);
    world
        .send(Hook::DoorOut, &ends(VM, CLIENT).udp(1, 2, b"x"))
        .ended(Reason::SpoofedVm);
    world
        .send(Hook::DoorIn, &ends(CLIENT, EIP).udp(1, 2, b"x"))
        .ended(Reason::WrongPort);
}

#[test]
fn without_a_gateway_the_kernels_routes_decide() {
    in_own_netns(|| {
        forward();
        ip_command("link add up0 type veth peer name router0");
        ip_command("link add mg0 type veth peer name manager0");
        ip_command("address add 192.0.2.10/24 dev up0");
        ip_command("address add 172.16.0.10/24 dev mg0");
        for name in ["up0", "router0", "mg0", "manager0"] {
            ip_command(&format!("link set {name} up"));
        }
        let mut world = World::node();
        world.without_gateway();
        world.uplink(ifindex("up0"), 1500);
        let slot = world.bind(EIP, VM, Delivery::Peer);
        let packet = ends(VM, CLIENT).udp(1, 2, b"x");
        let untouched_hops = translated(&packet, ip(EIP), ip(CLIENT), 0);

        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::NoRoute)
            .leaving(&untouched_hops);

        ip_command("route add default via 172.16.0.1 dev mg0");
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::RoutedElsewhere)
            .with(Action::Pass)
            .carried(&[(slot, 0, 1)])
            .leaving(&untouched_hops);

        // A rule for the EIP's own way out is honoured: the lookup has the EIP as its source.
        ip_command("route add default via 192.0.2.1 dev up0 table 100");
        ip_command("rule add from 203.0.113.0/24 lookup 100");
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::SentToUplink)
            .with(Action::Redirect)
            .carried(&[(slot, 0, 1)])
            .leaving(&translated(&packet, ip(EIP), ip(CLIENT), 1));

        world.uplink(ifindex("up0"), 28);
        world
            .send(Hook::DoorOut, &packet)
            .ended(Reason::TooLarge)
            .leaving(&untouched_hops);
    });
}
