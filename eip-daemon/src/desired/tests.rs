//! What becomes of bindings, and what the kernel shall hold for them.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::model::{
    Announce, DefaultRoute, DeliveryChoice, GatewayState, Link, NetState, NodeAddress, PolicyRule,
    RefuseReason, RouteTo, RuleAction, RuleMatch, TableDefault, TargetKind, TcMode, VmFact,
    VmInterface, VmPhase, WaitReason, XdpMode,
};

const UPLINK: u32 = 2;
const MANAGEMENT: u32 = 3;
const BRIDGE: u32 = 30;
const VETH: u32 = 11;
const PORT: u32 = 31;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn object(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn settings() -> NodeSettings {
    NodeSettings {
        node_name: "here".to_owned(),
        uplinks: vec!["up0".to_owned()],
        gateway4: None,
        gateway6: None,
        eip_cidrs: vec![net("203.0.113.0/24"), net("2001:db8:1::/64")],
        internal_nets: vec![net("10.0.0.0/8"), net("fd00::/8")],
        delivery: DeliveryChoice::Auto,
        announce: Announce::Bgp,
        xdp_mode: XdpMode::Auto,
        tc_mode: TcMode::Auto,
        route_table: 1180,
    }
}

fn link(ifindex: u32, name: &str, kind: &str) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        kind: kind.to_owned(),
        mac: Some([2, 0, 0, 0, 0, u8::try_from(ifindex).unwrap()]),
        mtu: 1500,
        master: None,
        vlan: None,
        is_up: true,
    }
}

/// One VM behind a veth (10.244.0.1, `fd00:10::1`), one behind a bridge (10.244.9.3).
fn node() -> NetworkView {
    let mut view = NetworkView::default();
    let port = Link {
        master: Some(BRIDGE),
        mtu: 1400,
        ..link(PORT, "veth31", "veth")
    };
    for link in [
        link(UPLINK, "up0", ""),
        link(MANAGEMENT, "mg0", ""),
        link(BRIDGE, "cni0", "bridge"),
        link(VETH, "cali11", "veth"),
        port,
    ] {
        view.links.insert(link.ifindex, link);
    }
    for (ifindex, address) in [
        (1, "127.0.0.1/8"),
        (UPLINK, "203.0.113.2/25"),
        (UPLINK, "2001:db8:1::2/64"),
        (UPLINK, "fe80::2/64"),
        (MANAGEMENT, "172.16.0.10/24"),
        (BRIDGE, "10.244.9.1/24"),
    ] {
        view.addresses.push(NodeAddress {
            ifindex,
            address: net(address),
        });
    }
    for (address, l3, mac) in [
        ("10.244.0.1", VETH, 0xa),
        ("fd00:10::1", VETH, 0xa),
        ("10.244.9.3", BRIDGE, 0xc),
    ] {
        let route = RouteTo {
            ifindex: l3,
            gateway: None,
            is_unicast: true,
        };
        view.routes.insert(ip(address), route);
        view.neighbours
            .insert((l3, ip(address)), [6, 0, 0, 0, 0, mac]);
    }
    view.bridge_ports
        .insert((BRIDGE, [6, 0, 0, 0, 0, 0xc]), PORT);
    view
}

fn vm(name: &str, addresses: &[&str]) -> VmFact {
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    VmFact {
        name: object(name),
        uid: None,
        created: None,
        phase: VmPhase::Running,
        node: Some("here".to_owned()),
        arrived: None,
        interfaces: vec![VmInterface {
            name: "default".to_owned(),
            addresses,
        }],
        origin: None,
    }
}

fn binding(name: &str, eip: &str, vm: &str) -> BindingFact {
    BindingFact {
        moving: crate::model::Moving::default(),
        name: object(name),
        eip: ip(eip),
        vm: object(vm),
        kind: TargetKind::Vm,
        interface: None,
        created: None,
        generation: 7,
        primary: false,
        delivery: None,
        announce: None,
        origin: None,
    }
}

fn vms() -> Vec<VmFact> {
    vec![
        vm("a", &["10.244.0.1", "fd00:10::1"]),
        vm("c", &["10.244.9.3"]),
    ]
}

fn facts(bindings: Vec<BindingFact>) -> Facts {
    Facts {
        nets: Vec::new(),
        nodes: Vec::new(),
        peers: Vec::new(),
        bindings,
        vms: vms(),
        refused: Vec::new(),
        complete: true,
        read_at: None,
    }
}

/// The outcome of one binding in a world that a closure may change.
fn outcome_of(
    binding: BindingFact,
    change: impl FnOnce(&mut Facts, &mut NodeSettings, &mut NetworkView),
) -> Outcome {
    let name = binding.name.clone();
    let (mut facts, mut settings, mut view) = (facts(vec![binding]), settings(), node());
    change(&mut facts, &mut settings, &mut view);
    compute(&facts, &settings, &view)
        .outcomes
        .remove(&name)
        .unwrap()
}

fn refusal(outcome: &Outcome) -> RefuseReason {
    match outcome {
        Outcome::Refused { reason, message } => {
            assert!(!message.is_empty());
            *reason
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn wait(outcome: &Outcome) -> WaitReason {
    match outcome {
        Outcome::Waiting { reason, message } => {
            assert!(!message.is_empty());
            *reason
        }
        other => panic!("not waiting: {other:?}"),
    }
}

#[test]
fn a_bad_eip_is_refused_with_its_reason() {
    use RefuseReason as R;
    for (eip, reason) in [
        ("198.51.100.7", R::OutsideEipCidrs),
        ("2001:db8:2::7", R::OutsideEipCidrs),
        ("203.0.113.0", R::IsNetworkAddress),
        ("2001:db8:1::", R::IsNetworkAddress),
        ("203.0.113.255", R::IsBroadcastAddress),
        // Of the uplink's own /25.
        ("203.0.113.127", R::IsBroadcastAddress),
        ("203.0.113.2", R::IsNodeAddress),
        ("2001:db8:1::2", R::IsNodeAddress),
        ("203.0.113.1", R::IsGateway),
        ("203.0.113.129", R::IsGateway),
        ("2001:db8:1::1", R::IsGateway),
        // Subnet-router anycast of a network the node is connected to, inside a larger range.
        ("2001:db8:7:8::", R::IsNetworkAddress),
        ("2001:db8:7::", R::IsNetworkAddress),
        ("203.0.113.66", R::InsideBypass),
        ("2001:db8:1::6:6", R::InsideBypass),
        ("224.0.0.5", R::NotUnicast),
        ("ff02::1", R::NotUnicast),
        ("127.0.0.2", R::NotUnicast),
        ("169.254.1.1", R::NotUnicast),
        ("fe80::5", R::NotUnicast),
        ("0.0.0.0", R::NotUnicast),
        ("255.255.255.255", R::NotUnicast),
        ("::", R::NotUnicast),
        ("::1", R::NotUnicast),
        ("::ffff:203.0.113.10", R::NotUnicast),
    ] {
        let outcome = outcome_of(binding("b", eip, "a"), |_, settings, view| {
            settings.gateway4 = Some("203.0.113.1".parse().unwrap());
            settings.gateway6 = Some("2001:db8:1::1".parse().unwrap());
            settings
                .internal_nets
                .extend([net("203.0.113.64/29"), net("2001:db8:1::6:0/112")]);
            settings.eip_cidrs.push(net("2001:db8:7::/48"));
            view.addresses.push(NodeAddress {
                ifindex: UPLINK,
                address: net("2001:db8:7:8::2/64"),
            });
            view.default_routes.push(DefaultRoute {
                ifindex: UPLINK,
                gateway: Some(ip("203.0.113.129")),
                metric: 100,
            });
        });
        assert_eq!(refusal(&outcome), reason, "{eip}: {outcome:?}");
    }
}

#[test]
fn small_ranges_have_no_network_and_broadcast_address() {
    for (cidr, eip) in [
        ("198.51.100.4/31", "198.51.100.4"),
        ("198.51.100.4/31", "198.51.100.5"),
        ("198.51.100.9/32", "198.51.100.9"),
        ("2001:db8:9::/127", "2001:db8:9::"),
        ("2001:db8:9::1/128", "2001:db8:9::1"),
    ] {
        let outcome = outcome_of(binding("b", eip, "a"), |_, settings, _| {
            settings.eip_cidrs = vec![net(cidr)];
        });
        assert!(
            matches!(outcome, Outcome::Served { .. }),
            "{cidr} {eip}: {outcome:?}"
        );
    }
}

#[test]
fn an_eip_range_inside_a_bypass_network_is_an_eip_range() {
    let outcome = outcome_of(binding("b", "10.99.0.7", "a"), |_, settings, _| {
        settings.eip_cidrs.push(net("10.99.0.0/24"));
    });
    assert!(matches!(outcome, Outcome::Served { .. }), "{outcome:?}");
    let outcome = outcome_of(binding("b", "10.1.2.3", "a"), |_, settings, _| {
        settings.eip_cidrs.push(net("10.0.0.0/8"));
    });
    assert_eq!(refusal(&outcome), RefuseReason::InsideBypass);
}

#[test]
fn a_vm_outside_the_internal_networks_is_refused() {
    let outcome = outcome_of(binding("b", "203.0.113.10", "a"), |facts, _, _| {
        facts.vms[0].interfaces[0].addresses = vec![ip("192.0.2.1")];
    });
    assert_eq!(refusal(&outcome), RefuseReason::VmOutsideInternalNets);
    // Internal networks of the other family do not help.
    let outcome = outcome_of(binding("b", "2001:db8:1::10", "a"), |_, settings, _| {
        settings.internal_nets = vec![net("10.0.0.0/8")];
    });
    assert_eq!(refusal(&outcome), RefuseReason::VmOutsideInternalNets);
}

fn on(interface: &str, eip: &str) -> BindingFact {
    BindingFact {
        interface: Some(interface.to_owned()),
        ..binding("b", eip, "a")
    }
}

fn with_second_interface(facts: &mut Facts, vm: usize, address: &str) {
    facts.vms[vm].interfaces.push(VmInterface {
        name: "blue".to_owned(),
        addresses: vec![ip(address)],
    });
}

#[test]
fn an_eip_leads_to_the_network_its_binding_names() {
    let change = |facts: &mut Facts, _: &mut NodeSettings, view: &mut NetworkView| {
        with_second_interface(facts, 0, "10.244.0.8");
        let route = view.routes[&ip("10.244.0.1")].clone();
        view.routes.insert(ip("10.244.0.8"), route);
    };
    for (interface, address) in [("blue", "10.244.0.8"), ("default", "10.244.0.1")] {
        let outcome = outcome_of(on(interface, "203.0.113.10"), change);
        assert!(
            matches!(outcome, Outcome::Served { vm, .. } if vm == ip(address)),
            "{interface}: {outcome:?}"
        );
    }
    let outcome = outcome_of(on("red", "203.0.113.10"), change);
    assert_eq!(wait(&outcome), WaitReason::InterfaceNotFound);
    let Outcome::Waiting { message, .. } = outcome else {
        unreachable!()
    };
    assert!(message.contains("default, blue"), "{message}");
}

#[test]
fn what_is_claimed_on_another_network_takes_no_pods_address() {
    // The older VM claims the younger one's pod address on a network of its own.
    let claim = |facts: &mut Facts, _: &mut NodeSettings, _: &mut NetworkView| {
        facts.vms[1].created = Some(5);
        with_second_interface(facts, 0, "10.244.9.3");
    };
    let outcome = outcome_of(on("blue", "203.0.113.10"), claim);
    assert_eq!(refusal(&outcome), RefuseReason::VmAddressConflict);
    let outcome = outcome_of(binding("b", "203.0.113.10", "c"), claim);
    assert!(matches!(outcome, Outcome::Served { .. }), "{outcome:?}");
}

#[test]
fn a_vm_without_the_family_of_its_eip_waits_and_says_which() {
    for (eip, vm, family) in [
        ("2001:db8:1::10", "c", "IPv6"),
        ("203.0.113.10", "six", "IPv4"),
    ] {
        let outcome = outcome_of(binding("b", eip, vm), |facts, _, _| {
            facts
                .vms
                .push(self::vm("six", &["fd00:10::9", "fe80::9", "ff02::9"]));
        });
        assert_eq!(wait(&outcome), WaitReason::VmHasNoAddress);
        let Outcome::Waiting { message, .. } = outcome else {
            unreachable!()
        };
        assert!(
            message.contains(&format!("no {family} address")),
            "{message}"
        );
    }
}

#[test]
fn a_binding_is_announced_as_it_says_else_as_the_node_says() {
    let all = [Announce::Bgp, Announce::L2, Announce::Both, Announce::None];
    for default in all {
        for own in all.map(Some).into_iter().chain([None]) {
            let mut settings = settings();
            settings.announce = default;
            let asked = BindingFact {
                announce: own,
                ..binding("b", "203.0.113.10", "a")
            };
            let desired = compute(&facts(vec![asked]), &settings, &node());
            let eip = ip("203.0.113.10");
            let chosen = own.unwrap_or(default);
            assert_eq!(desired.announcements.len(), 1);
            assert_eq!(desired.announcements[&eip].by, chosen);
            assert_eq!(desired.bindings[&eip].answers_l2, chosen.includes_l2());
        }
    }
}

#[test]
fn only_what_is_served_here_is_announced() {
    let mut settings = settings();
    settings.announce = Announce::Both;
    let nobody = facts(vec![binding("b", "203.0.113.10", "nobody")]);
    let desired = compute(&nobody, &settings, &node());
    assert!(desired.announcements.is_empty());
}

#[test]
fn a_binding_waits_for_its_vm_with_a_reason() {
    use WaitReason as W;
    type Change = fn(&mut Facts, &mut NodeSettings, &mut NetworkView);
    let bound_to_a: [(&str, W, Change); 12] = [
        ("no object", W::VmNotFound, |facts, _, _| facts.vms.clear()),
        ("other namespace", W::VmNotFound, |facts, _, _| {
            facts.vms[0].name.namespace = "other".to_owned();
        }),
        ("pending", W::VmNotRunning, |facts, _, _| {
            facts.vms[0].phase = VmPhase::Pending;
        }),
        ("final", W::VmNotRunning, |facts, _, _| {
            facts.vms[0].phase = VmPhase::Final;
        }),
        ("unknown phase", W::VmNotRunning, |facts, _, _| {
            facts.vms[0].phase = VmPhase::Unknown;
        }),
        ("no node", W::VmNotRunning, |facts, _, _| {
            facts.vms[0].node = None;
        }),
        ("no interface", W::VmHasNoAddress, |facts, _, _| {
            facts.vms[0].interfaces.clear();
        }),
        ("other family only", W::VmHasNoAddress, |facts, _, _| {
            facts.vms[0].interfaces[0].addresses.remove(0);
        }),
        ("no route", W::NoRoute, |_, _, view| view.routes.clear()),
        ("interface gone", W::NoRoute, |_, _, view| {
            drop(view.links.remove(&VETH));
        }),
        ("gateway", W::NotLocal, |_, _, view| {
            view.routes.get_mut(&ip("10.244.0.1")).unwrap().gateway = Some(ip("10.1.1.1"));
        }),
        ("no Ethernet", W::PortUnsupported, |_, _, view| {
            view.links.get_mut(&VETH).unwrap().mac = None;
        }),
    ];
    for (name, reason, change) in bound_to_a {
        let outcome = outcome_of(binding("b", "203.0.113.10", "a"), change);
        assert_eq!(wait(&outcome), reason, "{name}: {outcome:?}");
    }
    let placed: [(&str, W, Change); 8] = [
        ("no neighbour", W::PortUnknown, |_, _, view| {
            view.neighbours.clear();
        }),
        ("no forwarding entry", W::PortUnknown, |_, _, view| {
            view.bridge_ports.clear();
        }),
        ("port left the bridge", W::PortUnknown, |_, _, view| {
            view.links.get_mut(&PORT).unwrap().master = None;
        }),
        ("port gone", W::PortUnknown, |_, _, view| {
            drop(view.links.remove(&PORT));
        }),
        ("local route", W::NotLocal, |_, _, view| {
            view.routes.get_mut(&ip("10.244.9.3")).unwrap().is_unicast = false;
        }),
        ("behind an uplink", W::NotLocal, |_, _, view| {
            view.links.get_mut(&PORT).unwrap().name = "up0".to_owned();
        }),
        ("bridge is an uplink", W::NotLocal, |_, settings, _| {
            settings.uplinks.push("cni0".to_owned());
        }),
        ("behind a tunnel", W::NotLocal, |_, _, view| {
            view.links.get_mut(&PORT).unwrap().kind = "vxlan".to_owned();
        }),
    ];
    for (name, reason, change) in placed {
        let outcome = outcome_of(binding("b", "203.0.113.10", "c"), change);
        assert_eq!(wait(&outcome), reason, "{name}: {outcome:?}");
    }
}

#[test]
fn a_vm_on_another_node_is_not_ours() {
    let outcome = outcome_of(binding("b", "203.0.113.10", "a"), |facts, _, _| {
        facts.vms[0].node = Some("there".to_owned());
    });
    assert_eq!(
        outcome,
        Outcome::Elsewhere {
            node: "there".to_owned()
        }
    );
}

#[test]
fn the_oldest_binding_holds_the_eip_and_the_loser_learns_by_whom() {
    let with = |name, created| BindingFact {
        created,
        ..binding(name, "203.0.113.10", "a")
    };
    for (name, first, second, winner) in [
        ("older wins", with("x", Some(5)), with("a", Some(6)), "x"),
        (
            "by hand beats stamped",
            with("x", None),
            with("a", Some(5)),
            "x",
        ),
        (
            "tie goes by name",
            with("x", Some(5)),
            with("a", Some(5)),
            "a",
        ),
        ("none goes by name", with("x", None), with("a", None), "a"),
    ] {
        let desired = compute(&facts(vec![first, second]), &settings(), &node());
        for (object, outcome) in &desired.outcomes {
            if object.name == winner {
                assert!(
                    matches!(outcome, Outcome::Served { .. }),
                    "{name}: {outcome:?}"
                );
            } else {
                assert_eq!(refusal(outcome), RefuseReason::Conflict, "{name}");
                let Outcome::Refused { message, .. } = outcome else {
                    unreachable!()
                };
                assert!(message.contains(&format!("default/{winner}")), "{message}");
            }
        }
        assert_eq!(desired.bindings.len(), 1);
    }
}

#[test]
fn a_waiting_or_distant_holder_keeps_its_eip_and_a_refused_one_does_not() {
    let older = |vm| BindingFact {
        created: Some(1),
        ..binding("older", "203.0.113.10", vm)
    };
    let younger = || BindingFact {
        created: Some(2),
        ..binding("younger", "203.0.113.10", "c")
    };
    for (name, vms, is_held) in [
        ("waiting", vec![vm("c", &["10.244.9.3"])], true),
        (
            "elsewhere",
            {
                let there = VmFact {
                    node: Some("there".to_owned()),
                    ..vm("a", &["10.244.7.7"])
                };
                vec![there, vm("c", &["10.244.9.3"])]
            },
            true,
        ),
        (
            "refused",
            vec![vm("a", &["192.0.2.1"]), vm("c", &["10.244.9.3"])],
            false,
        ),
    ] {
        let facts = Facts {
            vms,
            ..facts(vec![older("a"), younger()])
        };
        let desired = compute(&facts, &settings(), &node());
        let outcome = &desired.outcomes[&object("younger")];
        if is_held {
            assert_eq!(refusal(outcome), RefuseReason::Conflict, "{name}");
        } else {
            assert!(
                matches!(outcome, Outcome::Served { .. }),
                "{name}: {outcome:?}"
            );
        }
    }
}

#[test]
fn a_vm_cannot_claim_the_address_of_an_older_one() {
    let thief = VmFact {
        created: Some(9),
        ..vm("thief", &["10.244.0.1"])
    };
    let owner = VmFact {
        created: Some(1),
        ..vm("a", &["10.244.0.1"])
    };
    let bindings = vec![
        binding("x", "203.0.113.10", "thief"),
        binding("y", "203.0.113.11", "a"),
    ];
    let facts = Facts {
        vms: vec![thief, owner],
        ..facts(bindings)
    };
    let desired = compute(&facts, &settings(), &node());
    assert_eq!(
        refusal(&desired.outcomes[&object("x")]),
        RefuseReason::VmAddressConflict
    );
    assert!(matches!(
        desired.outcomes[&object("y")],
        Outcome::Served { .. }
    ));
}

#[test]
fn an_address_is_served_where_it_is_whoever_has_it() {
    let to = |address: &str| BindingFact {
        kind: TargetKind::Address(ip(address)),
        ..binding("a", "203.0.113.10", address)
    };
    // With and without a VM that reports it.
    for vms in [vms(), Vec::new()] {
        let facts = Facts {
            vms,
            ..facts(vec![to("10.244.0.1")])
        };
        let desired = compute(&facts, &settings(), &node());
        assert_eq!(desired.bindings[&ip("203.0.113.10")].vm, ip("10.244.0.1"));
        assert_eq!(
            vm_addresses(&facts, &settings()),
            BTreeSet::from([ip("10.244.0.1")])
        );
    }
    for (address, expected) in [
        ("198.51.100.9", RefuseReason::VmOutsideInternalNets),
        ("127.0.0.1", RefuseReason::VmOutsideInternalNets),
        ("169.254.0.9", RefuseReason::VmOutsideInternalNets),
    ] {
        let outcome = outcome_of(to(address), |_, _, _| {});
        assert_eq!(refusal(&outcome), expected, "{address}");
    }
    let outcome = outcome_of(to("fd00:10::1"), |_, _, _| {});
    assert_eq!(wait(&outcome), WaitReason::VmHasNoAddress);
}

#[test]
fn only_the_pod_network_and_the_right_family_count() {
    let mut vm = vm("a", &["fe80::1", "fd00:10::1", "10.244.0.1", "10.244.0.99"]);
    vm.interfaces.push(VmInterface {
        name: "storage".to_owned(),
        addresses: vec![ip("10.1.1.1")],
    });
    let facts = Facts {
        vms: vec![vm],
        ..facts(vec![
            binding("four", "203.0.113.10", "a"),
            binding("six", "2001:db8:1::10", "a"),
        ])
    };
    let desired = compute(&facts, &settings(), &node());
    assert_eq!(desired.bindings[&ip("203.0.113.10")].vm, ip("10.244.0.1"));
    assert_eq!(desired.bindings[&ip("2001:db8:1::10")].vm, ip("fd00:10::1"));
    assert_eq!(
        vm_addresses(&facts, &settings()),
        BTreeSet::from([ip("10.244.0.1"), ip("fd00:10::1")])
    );
}

#[test]
fn a_bridge_vm_is_bound_at_its_port_with_the_smaller_mtu() {
    let desired = compute(
        &facts(vec![binding("b", "203.0.113.10", "c")]),
        &settings(),
        &node(),
    );
    let state = &desired.bindings[&ip("203.0.113.10")];
    assert_eq!((state.port, state.l3, state.mtu), (PORT, BRIDGE, 1400));
    assert_eq!(state.vm_mac, [6, 0, 0, 0, 0, 0xc]);
    assert_eq!(state.node_mac, [2, 0, 0, 0, 0, 30]);
    assert_eq!(state.generation, 7);
    assert_eq!(desired.ports, BTreeSet::from([PORT]));
    let route = HostRoute {
        eip: ip("203.0.113.10"),
        vm: ip("10.244.9.3"),
        l3: BRIDGE,
    };
    assert_eq!(desired.routes, BTreeSet::from([route]));
}

#[test]
fn the_lane_is_what_was_asked_for_where_the_port_can_do_it() {
    use DeliveryChoice as C;
    type Change = fn(&mut NetworkView);
    let nothing: Change = |_| {};
    let no_mac: Change = |view| view.neighbours.clear();
    let tap: Change = |view| view.links.get_mut(&VETH).unwrap().kind = "tun".to_owned();
    let foreign: Change = |view| _ = view.foreign_egress.insert(VETH);
    let xdp: Change = |view| _ = view.xdp_ports.insert(VETH);
    let xdp_no_mac: Change = |view| {
        view.xdp_ports.insert(VETH);
        view.neighbours.clear();
    };
    for (name, asked, change, lane, has_note) in [
        ("auto on veth", C::Auto, nothing, Lane::Peer, false),
        ("auto without MAC", C::Auto, no_mac, Lane::Neigh, false),
        ("auto on tap", C::Auto, tap, Lane::Neigh, false),
        (
            "auto with foreign egress",
            C::Auto,
            foreign,
            Lane::Neigh,
            true,
        ),
        ("peer", C::Peer, nothing, Lane::Peer, false),
        (
            "peer in spite of foreign egress",
            C::Peer,
            foreign,
            Lane::Peer,
            false,
        ),
        ("peer without MAC", C::Peer, no_mac, Lane::Neigh, true),
        ("peer on tap", C::Peer, tap, Lane::Neigh, true),
        ("neigh", C::Neigh, nothing, Lane::Neigh, false),
        ("stack", C::Stack, nothing, Lane::Stack, false),
        ("xdp", C::Xdp, xdp, Lane::Xdp, false),
        ("xdp on a deaf port", C::Xdp, nothing, Lane::Peer, true),
        ("xdp without MAC", C::Xdp, xdp_no_mac, Lane::Neigh, true),
    ] {
        let mut view = node();
        change(&mut view);
        for (eip, vm) in [
            ("203.0.113.10", "10.244.0.1"),
            ("2001:db8:1::10", "fd00:10::1"),
        ] {
            let binding = BindingFact {
                delivery: Some(asked),
                ..binding("b", eip, "a")
            };
            let desired = compute(&facts(vec![binding]), &settings(), &view);
            assert_eq!(desired.bindings[&ip(eip)].delivery, lane, "{name} {eip}");
            let state = &desired.vms[&ip(vm)];
            assert_eq!(state.uses_stack, lane == Lane::Stack, "{name} {eip}");
            let Outcome::Served { note, .. } = &desired.outcomes[&object("b")] else {
                panic!("{name} {eip}: not served")
            };
            assert_eq!(note.is_some(), has_note, "{name} {eip}: {note:?}");
        }
    }
}

#[test]
fn the_node_decides_the_lane_of_bindings_that_name_none() {
    let settings = NodeSettings {
        delivery: DeliveryChoice::Stack,
        ..settings()
    };
    let named = BindingFact {
        delivery: Some(DeliveryChoice::Neigh),
        ..binding("b", "203.0.113.11", "c")
    };
    let desired = compute(
        &facts(vec![binding("a", "203.0.113.10", "a"), named]),
        &settings,
        &node(),
    );
    assert_eq!(desired.bindings[&ip("203.0.113.10")].delivery, Lane::Stack);
    assert_eq!(desired.bindings[&ip("203.0.113.11")].delivery, Lane::Neigh);
}

#[test]
fn the_express_lane_is_for_vms_with_one_eip_and_nodes_with_xdp() {
    let express = |name, eip| BindingFact {
        delivery: Some(DeliveryChoice::Xdp),
        ..binding(name, eip, "a")
    };
    let mut view = node();
    view.xdp_ports.insert(VETH);
    let both = facts(vec![
        express("x", "203.0.113.10"),
        express("y", "203.0.113.11"),
    ]);
    let desired = compute(&both, &settings(), &view);
    assert!(
        desired
            .bindings
            .values()
            .all(|state| state.delivery == Lane::Peer)
    );
    let one = facts(vec![express("x", "203.0.113.10")]);
    let off = NodeSettings {
        xdp_mode: XdpMode::Off,
        ..settings()
    };
    let desired = compute(&one, &off, &view);
    assert!(
        desired
            .bindings
            .values()
            .all(|state| state.delivery == Lane::Peer)
    );
}

#[test]
fn the_primary_is_the_one_that_says_so_else_the_oldest() {
    let with = |name, eip, created, primary| BindingFact {
        created,
        primary,
        ..binding(name, eip, "a")
    };
    for (name, bindings, primary) in [
        (
            "oldest",
            vec![
                with("x", "203.0.113.12", Some(1), false),
                with("y", "203.0.113.11", Some(2), false),
            ],
            "203.0.113.12",
        ),
        (
            "a bind added to a document written by hand",
            vec![
                with("x", "203.0.113.12", None, false),
                with("b", "203.0.113.11", Some(2), false),
            ],
            "203.0.113.12",
        ),
        (
            "spec",
            vec![
                with("x", "203.0.113.12", Some(1), false),
                with("y", "203.0.113.11", Some(2), true),
            ],
            "203.0.113.11",
        ),
        (
            "oldest of several",
            vec![
                with("x", "203.0.113.12", Some(1), false),
                with("y", "203.0.113.11", Some(2), true),
                with("z", "203.0.113.13", Some(3), true),
            ],
            "203.0.113.11",
        ),
    ] {
        let desired = compute(&facts(bindings), &settings(), &node());
        let state = &desired.vms[&ip("10.244.0.1")];
        assert_eq!((state.eip, state.has_many), (ip(primary), true), "{name}");
        for (eip, binding) in &desired.bindings {
            assert_eq!(binding.is_primary, *eip == ip(primary), "{name}");
            assert!(binding.shares_vm, "{name}");
        }
    }
}

#[test]
fn each_family_has_its_own_primary() {
    let bindings = vec![
        binding("four", "203.0.113.10", "a"),
        binding("six", "2001:db8:1::10", "a"),
    ];
    let desired = compute(&facts(bindings), &settings(), &node());
    assert!(
        desired
            .bindings
            .values()
            .all(|state| state.is_primary && !state.shares_vm)
    );
    assert!(desired.vms.values().all(|state| !state.has_many));
    assert_eq!(desired.vms.len(), 2);
}

#[test]
fn the_nets_are_internal_nets_eip_ranges_and_the_nodes_own_addresses() {
    let desired = compute(&facts(Vec::new()), &settings(), &node());
    let bypass = NetState {
        is_bypass: true,
        is_eip_range: false,
    };
    let range = NetState {
        is_bypass: false,
        is_eip_range: true,
    };
    // 10.244.9.1 is covered by 10.0.0.0/8; loopback and link-local addresses mean nothing elsewhere.
    let expected = [
        ("10.0.0.0/8", bypass),
        ("172.16.0.10/32", bypass),
        ("203.0.113.0/24", range),
        ("203.0.113.2/32", bypass),
        ("2001:db8:1::/64", range),
        ("2001:db8:1::2/128", bypass),
        ("fd00::/8", bypass),
    ];
    assert_eq!(
        desired.nets,
        expected
            .into_iter()
            .map(|(text, state)| (net(text), state))
            .collect()
    );
}

#[test]
fn host_bits_in_prefixes_do_no_harm() {
    let sloppy = NodeSettings {
        eip_cidrs: vec![net("203.0.113.77/24")],
        internal_nets: vec![net("10.244.3.3/8")],
        ..settings()
    };
    let desired = compute(
        &facts(vec![binding("b", "203.0.113.10", "a")]),
        &sloppy,
        &node(),
    );
    assert!(desired.nets.contains_key(&net("203.0.113.0/24")));
    assert!(desired.nets.contains_key(&net("10.0.0.0/8")));
    assert_eq!(desired.bindings.len(), 1);
}

#[test]
fn the_gateway_is_on_the_uplink_whose_network_holds_it() {
    let mut view = node();
    view.links.insert(4, link(4, "up1", ""));
    let address = net("198.51.100.2/24");
    view.addresses.push(NodeAddress {
        ifindex: 4,
        address,
    });
    let two = NodeSettings {
        uplinks: vec!["up0".to_owned(), "up1".to_owned(), "absent".to_owned()],
        gateway4: Some("198.51.100.1".parse().unwrap()),
        ..settings()
    };
    let desired = compute(&facts(Vec::new()), &two, &view);
    assert_eq!(
        desired.uplinks.keys().copied().collect::<Vec<_>>(),
        [UPLINK, 4]
    );
    assert_eq!(
        desired.gateway,
        GatewayState {
            gateway4: two.gateway4,
            gateway6: None,
            ifindex: 4,
            mtu: 1500,
        }
    );

    let split = NodeSettings {
        gateway6: Some("2001:db8:1::1".parse().unwrap()),
        ..two.clone()
    };
    let desired = compute(&facts(Vec::new()), &split, &view);
    assert_eq!(
        desired.gateway.gateway6, None,
        "it is on another uplink: left to the routes"
    );

    let unknown = NodeSettings {
        gateway4: Some("192.0.2.1".parse().unwrap()),
        ..two
    };
    assert_eq!(
        compute(&facts(Vec::new()), &unknown, &view).gateway.ifindex,
        UPLINK
    );
    let desired = compute(&facts(Vec::new()), &settings(), &view);
    assert_eq!(desired.gateway, GatewayState::default());
}

/// `priority match action`, as `ip rule` would print it.
fn text_of(rule: &PolicyRule) -> String {
    let matches = match &rule.matches {
        RuleMatch::ArrivingFor { iif, to } => format!("iif {iif} to {to}"),
        RuleMatch::From(net) => format!("from {net}"),
        RuleMatch::To(net) => format!("to {net}"),
    };
    let action = match rule.action {
        RuleAction::MainWithoutDefault => "main".to_owned(),
        RuleAction::Table(table) => table.to_string(),
        RuleAction::Unreachable => "unreachable".to_owned(),
    };
    format!("{} {matches} {action}", rule.priority)
}

fn default_by(ifindex: u32, gateway: &str, metric: u32) -> DefaultRoute {
    DefaultRoute {
        ifindex,
        gateway: Some(ip(gateway)),
        metric,
    }
}

#[test]
fn a_second_network_gets_the_whole_set_of_rules() {
    let v4 = NodeSettings {
        eip_cidrs: vec![net("203.0.113.0/24")],
        ..settings()
    };
    let v4 = NodeSettings {
        gateway4: Some("203.0.113.1".parse().unwrap()),
        ..v4
    };
    let mut view = node();
    view.default_routes
        .push(default_by(MANAGEMENT, "172.16.0.1", 0));
    let desired = compute(&facts(Vec::new()), &v4, &view);
    let rules: Vec<String> = desired.rules.iter().map(text_of).collect();
    assert_eq!(
        rules,
        [
            "1180 iif up0 to 203.0.113.0/24 main",
            "1181 iif up0 to 203.0.113.0/24 unreachable",
            "1190 from 203.0.113.0/24 main",
            "1191 from 203.0.113.2/32 main",
            "1195 to 203.0.113.0/24 main",
            "1196 to 203.0.113.0/24 1180",
            "1200 from 203.0.113.0/24 1180",
            "1201 from 203.0.113.2/32 1180",
        ]
    );
    let default = TableDefault {
        table: 1180,
        gateway: ip("203.0.113.1"),
        ifindex: UPLINK,
    };
    assert_eq!(desired.table_defaults, BTreeSet::from([default]));
}

#[test]
fn ipv6_gets_its_rules_alike_and_no_link_local_ones() {
    let v6 = NodeSettings {
        eip_cidrs: vec![net("2001:db8:1::/64")],
        gateway6: Some("fe80::1".parse().unwrap()),
        ..settings()
    };
    let desired = compute(&facts(Vec::new()), &v6, &node());
    let rules: Vec<String> = desired.rules.iter().map(text_of).collect();
    assert_eq!(rules.len(), 8);
    assert!(rules.contains(&"1191 from 2001:db8:1::2/128 main".to_owned()));
    let default = TableDefault {
        table: 1180,
        gateway: ip("fe80::1"),
        ifindex: UPLINK,
    };
    assert_eq!(desired.table_defaults, BTreeSet::from([default]));
}

#[test]
fn only_what_the_routing_table_makes_necessary_is_installed() {
    let gateway = Some("203.0.113.1".parse().unwrap());
    let elsewhere = default_by(MANAGEMENT, "172.16.0.1", 100);
    let up = |gateway, metric| default_by(UPLINK, gateway, metric);
    for (name, gateway4, routes, detour) in [
        ("default leads out", None, vec![up("203.0.113.1", 0)], None),
        (
            "and the gateway is the same",
            gateway,
            vec![up("203.0.113.1", 0)],
            None,
        ),
        (
            "another gateway was set",
            gateway,
            vec![up("203.0.113.3", 0)],
            Some("203.0.113.1"),
        ),
        (
            "default leads elsewhere",
            gateway,
            vec![elsewhere.clone()],
            Some("203.0.113.1"),
        ),
        ("no default", gateway, vec![], Some("203.0.113.1")),
        ("no gateway known", None, vec![elsewhere.clone()], None),
        (
            "outranked default by the uplink",
            None,
            vec![elsewhere, up("203.0.113.4", 200)],
            Some("203.0.113.4"),
        ),
    ] {
        let settings = NodeSettings {
            gateway4,
            eip_cidrs: vec![net("203.0.113.0/24")],
            ..settings()
        };
        let view = NetworkView {
            default_routes: routes,
            ..node()
        };
        let desired = compute(&facts(Vec::new()), &settings, &view);
        let gateways: Vec<IpAddr> = desired
            .table_defaults
            .iter()
            .map(|default| default.gateway)
            .collect();
        assert_eq!(
            gateways,
            detour.map(ip).into_iter().collect::<Vec<_>>(),
            "{name}"
        );
        assert_eq!(
            desired.rules.len(),
            if detour.is_some() { 8 } else { 2 },
            "{name}"
        );
    }
}

#[test]
fn without_ranges_or_uplinks_there_are_no_rules() {
    let no_ranges = NodeSettings {
        eip_cidrs: Vec::new(),
        ..settings()
    };
    assert!(
        compute(&facts(Vec::new()), &no_ranges, &node())
            .rules
            .is_empty()
    );
    let no_uplinks = NodeSettings {
        uplinks: vec!["absent".to_owned()],
        gateway4: Some("203.0.113.1".parse().unwrap()),
        ..settings()
    };
    let desired = compute(&facts(Vec::new()), &no_uplinks, &node());
    assert!(desired.rules.is_empty() && desired.table_defaults.is_empty());
    assert_eq!(desired.gateway, GatewayState::default());
}

#[test]
fn networks_that_objects_name_count_like_those_of_the_settings() {
    let inside = "172.30.0.0/16".parse().unwrap();
    let facts = Facts {
        nets: vec![crate::model::NetFact {
            kind: "ServiceCIDR".to_owned(),
            name: object("kubernetes"),
            nets: vec![inside, settings().internal_nets[0]],
            origin: None,
        }],
        ..facts(Vec::new())
    };
    let with = compute(&facts, &settings(), &node()).nets;
    let without = compute(&Facts::default(), &settings(), &node()).nets;
    assert!(with[&inside].is_bypass);
    assert_eq!(with.len(), without.len() + 1, "{with:?}");
}

#[test]
fn pod_networks_of_thousands_of_nodes_fit_into_the_map_of_prefixes() {
    let own = |index: u16| {
        let [high, low] = index.to_be_bytes();
        net(&format!("172.{}.{low}.0/24", 16 + high))
    };
    let nets = (0..4096)
        .map(|index| crate::model::NetFact {
            kind: "Node".to_owned(),
            name: object(&format!("node-{index}")),
            // The second one of each lies inside an EIP range, where the longest match decides.
            nets: vec![own(index), net("203.0.113.128/26")],
            origin: None,
        })
        .collect();
    let facts = Facts {
        nets,
        ..Facts::default()
    };
    let joined = with_internal_nets(&settings(), &facts).internal_nets;
    let expected = [
        "10.0.0.0/8",
        "fd00::/8",
        "203.0.113.128/26",
        "172.16.0.0/12",
    ];
    assert_eq!(joined, expected.map(net));
}
