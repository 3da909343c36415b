//! The lab itself, without the daemon: a test that passes because the lab lies would be worthless.

use std::net::{IpAddr, SocketAddr};

use eip_lab::{
    echo::Echo,
    firewall::Firewall,
    plan::{self, CLIENT, NODE_BRIDGE, POD1, POD2, VM1, VM2, eip},
    traffic::{self, Bulk, PATIENCE, Pace, SILENCE},
    wait::wait_until,
    world::{DefaultRoute, World, WorldOptions},
};

use crate::support::raise;

#[test]
fn guests_reach_each_other_with_their_own_addresses() {
    let world = raise(WorldOptions::default());
    for server in [VM1, VM2, POD1, POD2] {
        let echo = Echo::start(&world.guest(server).ns, server.address.v4, 7000).unwrap();
        for asker in [VM1, VM2, POD1, POD2] {
            let ns = &world.guest(asker).ns;
            let answer = traffic::udp(ns, echo.address(), 100, PATIENCE).unwrap();
            assert_eq!(
                answer.server_saw.ip(),
                asker.address.v4,
                "{} {}",
                asker.name,
                server.name
            );
            assert_eq!(answer.came_from, echo.address());
            let answer = traffic::tcp(ns, echo.address(), PATIENCE).unwrap();
            assert_eq!(
                answer.server_saw.ip(),
                asker.address.v4,
                "{} {}",
                asker.name,
                server.name
            );
            traffic::ping(ns, server.address.v4.into(), 4000, PATIENCE).unwrap();
        }
    }
}

fn is_noticed(world: &World, what: &str) {
    wait_until(PATIENCE, "the detector notices", || {
        world.leaks().leaks().iter().any(|leak| leak.contains(what))
    })
    .unwrap();
    world.forgive_leaks();
}

#[test]
fn guests_reach_the_outside_masqueraded_and_the_detector_says_so() {
    let world = raise(WorldOptions::default());
    let echo = Echo::start(&world.client, CLIENT.v4, 7000).unwrap();
    let answer = traffic::udp(&world.guest(VM1).ns, echo.address(), 100, PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), plan::NODE_MANAGEMENT.v4);
    is_noticed(&world, "node's own address");
}

#[test]
fn an_inside_address_that_gets_out_is_noticed() {
    let world = raise(WorldOptions::default());
    world.node.nft("flush chain ip node postrouting\n").unwrap();
    let echo = Echo::start(&world.client, CLIENT.v4, 7000).unwrap();
    traffic::udp(&world.guest(VM2).ns, echo.address(), 100, SILENCE).unwrap_err();
    is_noticed(&world, "10.244.2.12");
}

#[test]
fn the_hostile_firewall_stops_what_is_no_pod_traffic() {
    for firewall in [Firewall::KubeLike, Firewall::Strict] {
        let world = raise(WorldOptions {
            firewall,
            ..WorldOptions::default()
        });
        // The base lane without its ACCEPT: a route alone does not get past FORWARD DROP.
        world
            .node
            .ip(&format!(
                "route add {}/32 via {} dev cali1 onlink\n",
                eip::VM1.v4,
                VM1.address.v4
            ))
            .unwrap();
        traffic::ping(&world.client, eip::VM1.v4.into(), 56, SILENCE).unwrap_err();
        // And pods are served as always.
        world.leaks().allow_node_traffic();
        traffic::ping(&world.guest(POD1).ns, CLIENT.v4.into(), 56, PATIENCE).unwrap();
    }
}

#[test]
fn bulk_and_streams_are_whole_in_both_directions() {
    let options = WorldOptions {
        default_route: DefaultRoute::Uplink,
        ..WorldOptions::default()
    };
    let world = raise(options);
    let echo = Echo::start(&world.guest(VM2).ns, VM2.address.v4, 7000).unwrap();
    let pod = &world.guest(POD1).ns;
    for way in [Bulk::Upload, Bulk::Download] {
        traffic::bulk(pod, echo.address(), way, 3_000_000).unwrap();
    }
    let report = traffic::stream(
        pod,
        echo.address(),
        Pace {
            per_second: 1000,
            count: 300,
        },
    )
    .unwrap();
    assert_eq!(
        (
            report.sent,
            report.lost(),
            report.duplicates,
            report.strangers
        ),
        (300, 0, 0, 0)
    );
}

#[test]
fn both_families_are_routed() {
    let world = raise(WorldOptions::default());
    let bridge = IpAddr::from(NODE_BRIDGE.v6);
    for guest in world.guests() {
        traffic::ping(&guest.ns, bridge, 56, PATIENCE).unwrap();
        let echo = Echo::start(&guest.ns, guest.plan.address.v6, 7000).unwrap();
        let to = SocketAddr::new(guest.plan.address.v6.into(), 7000);
        assert_eq!(echo.address(), to);
        traffic::udp(&world.node, to, 2000, PATIENCE).unwrap();
    }
    traffic::ping(&world.client, plan::NODE_UPLINK.v6.into(), 56, PATIENCE).unwrap_err();
    world.forgive_leaks();
    world.leaks().allow_node_traffic();
}

#[test]
fn a_guest_is_unplugged_and_plugged_in_again() {
    let world = raise(WorldOptions::default());
    for plan in [VM1, VM2] {
        let guest = world.guest(plan);
        world.detach(guest).unwrap();
        traffic::ping(&world.node, plan.address.v4.into(), 56, SILENCE).unwrap_err();
        // Its address now follows the default route: that is what a plain node does.
        world.forgive_leaks();
        world.attach(guest).unwrap();
        wait_until(PATIENCE, "the guest answers again", || {
            traffic::ping(&world.node, plan.address.v4.into(), 56, SILENCE).is_ok()
        })
        .unwrap();
    }
}
