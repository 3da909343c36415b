//! Uplinks that go and come back, and frames on them that belong to somebody else.

use std::time::Duration;

use eip_lab::{
    plan::{CLIENT, EIP_CIDR, EIP_CIDR6, NODE_UPLINK, ROUTER_UPLINK, VM1, VM2, eip},
    sniff::{Injector, Sniffer, Way},
    traffic::{self, PATIENCE, SILENCE},
    wait::wait_until,
    world::{World, WorldOptions},
};
use etherparse::PacketBuilder;

use crate::support::{Stage, at};

/// Long enough for any machine.
const LONG: Duration = Duration::from_mins(1);

fn stage() -> Stage {
    Stage::dual(
        WorldOptions::default(),
        eip_lab::daemon::DaemonOptions::default(),
    )
}

/// Both VMs in both families, and what they start themselves.
fn works(stage: &Stage) {
    let answers = |address| traffic::udp(&stage.world.client, address, 100, SILENCE).is_ok();
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        for address in [at(eip.v4), at(eip.v6)] {
            let what = format!("{address} answers");
            wait_until(LONG, &what, || answers(address)).unwrap();
        }
        let answer = traffic::tcp(stage.ns(vm), at(CLIENT.v4), PATIENCE).unwrap();
        assert_eq!(answer.server_saw.ip(), eip.v4, "{}", vm.name);
    }
}

/// The wire between router and node, as it was in the beginning.
fn plug_in(world: &World) {
    let router = world.router.name();
    world
        .node
        .ip(&format!(
            "link add up0 type veth peer name ru0 netns {router}
            addr add {}/24 dev up0
            addr add {}/64 dev up0 nodad
            link set up0 up
            ",
            NODE_UPLINK.v4, NODE_UPLINK.v6
        ))
        .unwrap();
    world
        .router
        .ip(&format!(
            "addr add {}/24 dev ru0
            addr add {}/64 dev ru0 nodad
            link set ru0 up
            route replace {EIP_CIDR} via {}
            route replace {EIP_CIDR6} via {}
            ",
            ROUTER_UPLINK.v4, ROUTER_UPLINK.v6, NODE_UPLINK.v4, NODE_UPLINK.v6
        ))
        .unwrap();
    world.node.sh("ethtool -K up0 gro on").unwrap();
    world.router.sh("ethtool -K ru0 tx off").unwrap();
}

#[test]
fn an_uplink_that_is_deleted_and_made_again_is_served_again() {
    let stage = stage();
    works(&stage);
    stage.world.node.ip("link del up0\n").unwrap();
    plug_in(&stage.world);
    works(&stage);
    // Until the new uplink had its programs, the node was a node without them.
    stage.world.forgive_leaks();
}

#[test]
fn an_uplink_that_loses_its_carrier_is_served_when_it_has_it_again() {
    let stage = stage();
    works(&stage);
    for (ns, name) in [(&stage.world.router, "ru0"), (&stage.world.node, "up0")] {
        ns.ip(&format!("link set {name} down\n")).unwrap();
        traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, SILENCE).unwrap_err();
        ns.ip(&format!("link set {name} up\n")).unwrap();
        // What the kernel takes off an interface that goes down.
        let (v4, v6) = (NODE_UPLINK.v4, NODE_UPLINK.v6);
        let _still_there = stage
            .world
            .node
            .ip(&format!("addr add {v6}/64 dev up0 nodad\n"));
        let gateway = ROUTER_UPLINK.v6;
        let _still_there = stage
            .world
            .router
            .ip(&format!("addr add {gateway}/64 dev ru0 nodad\n"));
        stage
            .world
            .router
            .ip(&format!(
                "route replace {EIP_CIDR} via {v4}\nroute replace {EIP_CIDR6} via {v6}\n"
            ))
            .unwrap();
        works(&stage);
    }
    stage.world.forgive_leaks();
}

#[test]
fn an_uplink_may_change_its_hardware_address() {
    let stage = stage();
    works(&stage);
    stage
        .world
        .node
        .ip("link set up0 address 02:00:00:00:55:01\n")
        .unwrap();
    works(&stage);
}

/// Sent by the redirect of the door it left with its tag: into whichever VLAN of the uplink the VM had chosen.
#[test]
fn a_vm_does_not_choose_among_the_vlans_of_the_uplink() {
    let mut stage = stage();
    let vm = Injector::open(stage.ns(VM1), "eth0").unwrap();
    let door = stage.gateway_mac(VM1);
    // Before the kernel of the router has taken any tag off.
    let count = "table netdev tags {\n  chain seen {\n    \
        type filter hook ingress device \"ru0\" priority 0;\n    \
        ether type vlan counter\n  }\n}\n";
    stage.world.router.nft(count).unwrap();
    let send = |tag: u16, mark: &[u8]| {
        let packet = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header::new(
                0,
                64,
                etherparse::IpNumber::UDP,
                VM1.address.v4.octets(),
                CLIENT.v4.octets(),
            )
            .unwrap(),
            etherparse::Ipv4Extensions::default(),
        ))
        .udp(5555, 9);
        let mut frame = [door, vm.mac].concat();
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
        frame.extend([8, 0]);
        packet.write(&mut frame, mark).unwrap();
        vm.send(&frame).unwrap();
    };
    let heard = |mark: &[u8], limit| {
        let client = stage.world.client_frames();
        client.wait_for(limit, "the frame", |frame, packet| {
            frame.way == Way::In && packet.payload.windows(mark.len()).any(|part| part == mark)
        })
    };
    send(100, b"into another network");
    // Number zero is no VLAN, the rest of the tag a priority.
    send(3 << 13, b"with a priority");
    heard(b"with a priority", LONG).unwrap();
    // Sent before it, on the same wire.
    heard(b"into another network", SILENCE).unwrap_err();
    let seen = stage.world.router.sh("nft list table netdev tags").unwrap();
    assert!(seen.contains("packets 0"), "no tag leaves: {seen}");
    stage
        .daemon
        .settle("it is counted", |daemon| {
            daemon
                .count("door-out", "tagged")
                .is_ok_and(|count| count == 1)
        })
        .unwrap();
}

#[test]
fn a_frame_of_a_vlan_is_not_the_uplinks_and_one_of_vlan_0_is() {
    let mut stage = stage();
    let inside = Sniffer::start(stage.ns(VM1)).unwrap();
    let node = Injector::open(&stage.world.node, "up0").unwrap().mac;
    let wire = Injector::open(&stage.world.router, "ru0").unwrap();
    let send = |vlan: u16, mark: &[u8]| {
        let vlan = vlan.try_into().unwrap();
        let packet = PacketBuilder::ethernet2(wire.mac, node)
            .single_vlan(vlan)
            .ipv4(CLIENT.v4.octets(), eip::VM1.v4.octets(), 9)
            .udp(5555, 9);
        let mut frame = Vec::new();
        packet.write(&mut frame, mark).unwrap();
        wire.send(&frame).unwrap();
    };
    let heard = |mark: &[u8], limit| {
        inside.wait_for(limit, "the frame", |frame, packet| {
            frame.way == Way::In && packet.payload.windows(mark.len()).any(|part| part == mark)
        })
    };
    send(100, b"of another network");
    send(0, b"with a priority");
    heard(b"with a priority", LONG).unwrap();
    // Sent before it, on the same wire.
    heard(b"of another network", SILENCE).unwrap_err();
    stage
        .daemon
        .settle("the other one is counted", |daemon| {
            daemon
                .count("uplink-tc", "tagged")
                .is_ok_and(|count| count == 1)
        })
        .unwrap();
}
