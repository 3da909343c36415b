//! The promise, on every lane and every way to attach: all traffic, both VMs, both directions.

use std::net::{IpAddr, UdpSocket};

use eip_lab::{
    command,
    daemon::DaemonOptions,
    echo::Echo,
    firewall::{Firewall, ForwardAccept},
    plan::{CLIENT, Dual, Family, GuestPlan, POD1, POD2, VM1, VM2, eip},
    traffic::{self, Bulk, PATIENCE},
    uplink::Uplink,
    world::{DefaultRoute, GuestGro, WireFrames, WorldOptions},
};

use crate::support::{PORT, Stage, at};

const SERVED: [(GuestPlan, Dual); 2] = [(VM1, eip::VM1), (VM2, eip::VM2)];

/// Everything a family of addresses is asked for, on a stage that has both.
struct Show<'a> {
    stage: &'a Stage,
    family: Family,
}

fn everything_works(stage: &Stage) {
    for family in Family::BOTH {
        let show = Show { stage, family };
        show.network_to_vms();
        show.vms_to_network();
        show.inside();
        show.node_and_pods();
        show.hairpins();
        show.an_eip_on_another_node();
    }
    no_checksum_was_wrong(stage);
}

impl Show<'_> {
    fn of(&self, address: Dual) -> IpAddr {
        address.of(self.family)
    }

    fn own(&self, guest: GuestPlan) -> IpAddr {
        self.of(guest.address)
    }

    /// The VMs with their EIPs of the family.
    fn served(&self) -> [(GuestPlan, IpAddr); 2] {
        SERVED.map(|(vm, eip)| (vm, self.of(eip)))
    }

    fn network_to_vms(&self) {
        let client = &self.stage.world.client;
        for (vm, eip) in self.served() {
            for size in [1, 1200, 8000] {
                let answer = traffic::udp(client, at(eip), size, PATIENCE).unwrap();
                assert_eq!(answer.server_saw.ip(), self.of(CLIENT), "{}", vm.name);
                assert_eq!(answer.server_was, at(self.own(vm)));
                assert_eq!(answer.came_from, at(eip));
            }
            let answer = traffic::tcp(client, at(eip), PATIENCE).unwrap();
            assert_eq!(answer.server_saw.ip(), self.of(CLIENT), "{}", vm.name);
            assert_eq!(answer.server_was, at(self.own(vm)));
            for size in [0, 56, 1350, 4000] {
                let from = traffic::ping(client, eip, size, PATIENCE).unwrap();
                assert_eq!(from, eip);
            }
            for way in [Bulk::Upload, Bulk::Download] {
                traffic::bulk(client, at(eip), way, 5_000_000).unwrap();
            }
        }
    }

    fn vms_to_network(&self) {
        let client = self.of(CLIENT);
        for (vm, eip) in self.served() {
            let ns = self.stage.ns(vm);
            for size in [1, 1200, 8000] {
                let answer = traffic::udp(ns, at(client), size, PATIENCE).unwrap();
                assert_eq!(answer.server_saw.ip(), eip, "{}", vm.name);
                assert_eq!(answer.came_from, at(client));
            }
            let answer = traffic::tcp(ns, at(client), PATIENCE).unwrap();
            assert_eq!(answer.server_saw.ip(), eip, "{}", vm.name);
            for size in [0, 1350, 4000] {
                traffic::ping(ns, client, size, PATIENCE).unwrap();
            }
            for way in [Bulk::Upload, Bulk::Download] {
                let answer = traffic::bulk(ns, at(client), way, 5_000_000).unwrap();
                assert_eq!(answer.server_saw.ip(), eip, "{}", vm.name);
            }
        }
    }

    fn inside(&self) {
        for (from, to) in [
            (VM1, POD2),
            (VM2, POD2),
            (VM2, POD1),
            (POD1, VM1),
            (POD2, VM2),
            (VM1, VM2),
        ] {
            let ns = self.stage.ns(from);
            let to = at(self.own(to));
            let what = format!("{} to {to}", from.name);
            let answer = traffic::tcp(ns, to, PATIENCE).unwrap();
            assert_eq!(answer.server_saw.ip(), self.own(from), "{what}");
            let answer = traffic::udp(ns, to, 8000, PATIENCE).unwrap();
            assert_eq!(answer.server_saw.ip(), self.own(from), "{what}");
        }
        for (vm, _) in SERVED {
            traffic::tcp(&self.stage.world.node, at(self.own(vm)), PATIENCE).unwrap();
        }
    }

    fn node_and_pods(&self) {
        for (vm, eip) in self.served() {
            for (name, ns) in [
                ("node", &self.stage.world.node),
                ("pod1", self.stage.ns(POD1)),
                ("pod2", self.stage.ns(POD2)),
            ] {
                let answer = traffic::udp(ns, at(eip), 100, PATIENCE)
                    .unwrap_or_else(|error| panic!("{name} to {eip}: {error:#}"));
                assert_eq!(answer.server_was, at(self.own(vm)), "{name}");
                assert_eq!(answer.came_from, at(eip), "{name}");
                traffic::udp(ns, at(eip), 8000, PATIENCE)
                    .unwrap_or_else(|error| panic!("{name} to {eip}, fragments: {error:#}"));
                traffic::tcp(ns, at(eip), PATIENCE)
                    .unwrap_or_else(|error| panic!("{name} to {eip}: {error:#}"));
                traffic::ping(ns, eip, 56, PATIENCE)
                    .unwrap_or_else(|error| panic!("{name} to {eip}: {error:#}"));
            }
        }
    }

    fn hairpins(&self) {
        for (from, from_eip) in self.served() {
            for (to, to_eip) in self.served() {
                let what = format!("{} to {to_eip}", from.name);
                let ns = self.stage.ns(from);
                let answer = traffic::udp(ns, at(to_eip), 100, PATIENCE)
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(answer.server_saw.ip(), from_eip, "{what}");
                assert_eq!(answer.server_was, at(self.own(to)), "{what}");
                assert_eq!(answer.came_from, at(to_eip), "{what}");
                let answer = traffic::tcp(ns, at(to_eip), PATIENCE)
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(answer.server_saw.ip(), from_eip, "{what}");
                traffic::ping(ns, to_eip, 4000, PATIENCE)
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            }
        }
    }

    /// The other node is the client's namespace: on the wire it is a host that has an EIP and is reached
    /// through the router.
    fn an_eip_on_another_node(&self) {
        let world = &self.stage.world;
        let there = &world.client;
        let elsewhere = self.of(eip::ELSEWHERE);
        let host = format!("{elsewhere}/{}", self.family.host_length());
        there
            .ip(&format!("address add {host} dev lo nodad"))
            .unwrap();
        there.wait_local(elsewhere).unwrap();
        let route = format!("route add {host} via {}", self.of(CLIENT));
        world.router.ip(&route).unwrap();
        let _server = Echo::start(there, elsewhere, PORT).unwrap();
        for (vm, eip) in self.served() {
            let ns = self.stage.ns(vm);
            let what = format!("{} to {elsewhere}", vm.name);
            for size in [100, 8000] {
                let answer = traffic::udp(ns, at(elsewhere), size, PATIENCE)
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(answer.server_saw.ip(), eip, "{what}");
                assert_eq!(answer.came_from, at(elsewhere), "{what}");
            }
            let answer = traffic::tcp(ns, at(elsewhere), PATIENCE)
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!(answer.server_saw.ip(), eip, "{what}");
            traffic::ping(ns, elsewhere, 4000, PATIENCE)
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));

            let what = format!("{elsewhere} to {}", vm.name);
            let answer = there
                .run(|| {
                    let socket = UdpSocket::bind((elsewhere, 0))?;
                    traffic::udp_on(&socket, at(eip), 8000, PATIENCE)
                })
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!(answer.server_saw.ip(), elsewhere, "{what}");
            assert_eq!(answer.server_was, at(self.own(vm)), "{what}");
            assert_eq!(answer.came_from, at(eip), "{what}");
        }
    }
}

/// Receivers drop a segment with a wrong checksum silently; TCP would merely be slow.
fn no_checksum_was_wrong(stage: &Stage) {
    let guests = stage.world.guests().iter().map(|guest| &guest.ns);
    for ns in guests.chain([&stage.world.client, &stage.world.node]) {
        let text6 = ns.read_proc("net/snmp6").unwrap();
        for counter in ["Udp6InCsumErrors", "Icmp6InCsumErrors"] {
            let line = text6.lines().find(|line| line.starts_with(counter));
            let errors = line.and_then(|line| line.split_whitespace().nth(1));
            assert_eq!(errors, Some("0"), "{counter} in {}", ns.name());
        }
        // TCP counts both families here.
        let text = ns.read_proc("net/snmp").unwrap();
        for protocol in ["Tcp:", "Udp:"] {
            let mut lines = text.lines().filter(|line| line.starts_with(protocol));
            let names = lines.next().unwrap().split_whitespace();
            let values = lines.next().unwrap().split_whitespace();
            let errors = names
                .zip(values)
                .find(|(name, _)| *name == "InCsumErrors")
                .map(|(_, value)| value);
            assert_eq!(errors, Some("0"), "{protocol} in {}", ns.name());
        }
    }
}

fn lane(world: WorldOptions, daemon: DaemonOptions) {
    let delivery = daemon.delivery;
    let stage = Stage::dual(world, daemon);
    everything_works(&stage);
    if delivery != "auto" {
        is_delivered_by(&stage, delivery);
    }
}

fn is_delivered_by(stage: &Stage, delivery: &str) {
    for family in Family::BOTH {
        let key = eip::VM1.of(family).to_string();
        let binding = stage.daemon.binding(&key).unwrap();
        assert_eq!(binding["delivery"], delivery, "{binding:#}");
    }
}

fn delivery(delivery: &'static str) -> DaemonOptions {
    DaemonOptions {
        delivery,
        ..DaemonOptions::default()
    }
}

fn attached(xdp_mode: &'static str, tc_mode: &'static str) -> DaemonOptions {
    DaemonOptions {
        xdp_mode,
        tc_mode,
        ..delivery("peer")
    }
}

#[test]
fn everything_works_by_default() {
    lane(WorldOptions::default(), DaemonOptions::default());
}

#[test]
fn everything_works_on_the_peer_lane_behind_a_strict_firewall() {
    let world = WorldOptions {
        firewall: Firewall::Strict,
        ..WorldOptions::default()
    };
    lane(world, delivery("peer"));
}

#[test]
fn everything_works_on_the_neigh_lane() {
    lane(WorldOptions::default(), delivery("neigh"));
}

#[test]
fn everything_works_on_the_stack_lane_with_the_advised_accept() {
    let world = WorldOptions {
        forward_accept: ForwardAccept::Present,
        ..WorldOptions::default()
    };
    lane(world, delivery("stack"));
}

#[test]
fn everything_works_on_the_stack_lane_without_a_firewall() {
    let world = WorldOptions {
        firewall: Firewall::Open,
        ..WorldOptions::default()
    };
    lane(world, delivery("stack"));
}

#[test]
fn everything_works_on_the_xdp_lane_when_ports_take_xdp_frames() {
    let world = WorldOptions {
        guest_gro: GuestGro::On,
        ..WorldOptions::default()
    };
    lane(world, delivery("xdp"));
}

#[test]
fn the_xdp_lane_is_not_used_for_ports_that_would_lose_its_frames() {
    let stage = Stage::dual(WorldOptions::default(), delivery("xdp"));
    everything_works(&stage);
    is_delivered_by(&stage, "peer");
}

#[test]
fn a_port_with_somebody_elses_egress_program_is_not_skipped() {
    let mut stage = Stage::plain();
    // A CNI's policy at the port: the peer lane would go around it.
    let node = &stage.world.node;
    node.sh("tc qdisc add dev cali1 clsact").unwrap();
    let filter = [
        "filter", "add", "dev", "cali1", "egress", "bpf", "da", "bytecode",
    ];
    // One instruction: return -1, go on.
    command::output(node.command("tc").args(filter).arg("1,6 0 0 4294967295")).unwrap();
    stage
        .daemon
        .settle("the lane is neigh", |daemon| {
            daemon
                .binding(&eip::VM1.v4.to_string())
                .is_some_and(|binding| binding["delivery"] == "neigh")
        })
        .unwrap();
    let binding = stage.daemon.binding(&eip::VM2.v4.to_string()).unwrap();
    assert_eq!(binding["delivery"], "peer", "{binding:#}");
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
}

#[test]
fn everything_works_with_one_default_route_through_the_uplink() {
    let world = WorldOptions {
        default_route: DefaultRoute::Uplink,
        ..WorldOptions::default()
    };
    lane(world, DaemonOptions::default());
}

#[test]
fn everything_works_when_gateway_and_routes_are_left_to_the_kernel() {
    let world = WorldOptions {
        default_route: DefaultRoute::Uplink,
        ..WorldOptions::default()
    };
    lane(
        world,
        DaemonOptions {
            gateway: None,
            ..DaemonOptions::default()
        },
    );
}

#[test]
fn everything_works_with_unfinished_checksums_and_super_packets_on_the_uplink() {
    let world = WorldOptions {
        wire: WireFrames::Partial,
        ..WorldOptions::default()
    };
    lane(world, DaemonOptions::default());
}

/// The card below is named as well: what it hears of the VLAN it leaves to the VLAN, in XDP and in tc.
#[test]
fn everything_works_on_a_vlan_above_another_uplink() {
    let world = WorldOptions {
        uplink: Uplink::Vlan,
        ..WorldOptions::default()
    };
    let daemon = DaemonOptions {
        more: ["--uplink", "nic0"].map(str::to_owned).into(),
        ..DaemonOptions::default()
    };
    let stage = Stage::dual(world, daemon);
    everything_works(&stage);
    for hook in ["uplink-xdp", "uplink-tc"] {
        let tagged = stage.daemon.count(hook, "tagged").unwrap();
        assert!(tagged > 0, "{hook} saw no tag");
    }
}

#[test]
fn everything_works_on_a_vlan_in_a_vlan_on_the_xdp_lane() {
    let world = WorldOptions {
        uplink: Uplink::QinQ,
        guest_gro: GuestGro::On,
        ..WorldOptions::default()
    };
    lane(world, delivery("xdp"));
}

#[test]
fn everything_works_with_native_xdp_and_tcx() {
    lane(WorldOptions::default(), attached("native", "tcx"));
}

#[test]
fn everything_works_with_native_xdp_and_clsact() {
    lane(WorldOptions::default(), attached("native", "clsact"));
}

#[test]
fn everything_works_with_generic_xdp_and_tcx() {
    lane(WorldOptions::default(), attached("generic", "tcx"));
}

#[test]
fn everything_works_without_xdp_on_tcx() {
    lane(WorldOptions::default(), attached("off", "tcx"));
}

#[test]
fn everything_works_without_xdp_on_clsact() {
    lane(WorldOptions::default(), attached("off", "clsact"));
}
