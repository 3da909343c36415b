//! What the kernel says about the node, and the routes and rules we put there.

use std::{net::IpAddr, time::Duration};

use eip_daemon::{
    dataplane::{DataPlane as _, features},
    model::{
        Action, BindingState, HostRoute, Lane, PolicyRule, RULE_PRIORITIES, RuleAction, RuleMatch,
        TableDefault,
    },
};

use crate::world::{
    Guest, apply, eventually_sees, foreign_filter, ifindex, observe, on_a_node, refused, run, veth,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_vm_behind_a_routed_veth_is_found_by_asking() {
    on_a_node(async |world| {
        let guest = Guest::new();
        guest.plug("cali1", "10.244.1.7/24");
        run("ip address add 169.254.1.1/32 dev cali1");
        run("ip route add 10.244.1.7/32 dev cali1");
        guest.run("ip route add 169.254.1.1/32 dev eth0");
        let mut plane = world.open();
        let vm = ip("10.244.1.7");
        let port = ifindex("cali1");
        let key = (port, vm);
        let view = eventually_sees(&mut plane, &[vm], "neighbour", |view| {
            view.neighbours.contains_key(&key)
        })
        .await;
        let route = &view.routes[&vm];
        assert_eq!(
            (route.ifindex, route.gateway, route.is_unicast),
            (port, None, true)
        );
        let link = &view.links[&port];
        assert_eq!(
            (link.name.as_str(), link.kind.as_str(), link.mtu),
            ("cali1", "veth", 1500)
        );
        assert!(link.is_up && link.mac.is_some() && link.master.is_none());
        let mac = view.neighbours[&key]
            .map(|byte| format!("{byte:02x}"))
            .join(":");
        assert!(guest.run("ip link show eth0").contains(&mac), "{mac}");
        let own = view
            .addresses
            .iter()
            .find(|address| address.ifindex == port);
        assert!(own.is_some(), "{:?}", view.addresses);
    });
}

#[test]
#[ignore = "needs root"]
fn a_vm_that_falls_silent_is_not_lost_and_not_even_by_the_next_process() {
    on_a_node(async |world| {
        let guest = Guest::new();
        guest.plug("cali1", "10.244.1.7/24");
        run("ip address add 10.244.1.1/24 dev cali1");
        let vm = ip("10.244.1.7");
        let port = ifindex("cali1");
        let mut plane = world.open();
        let view = eventually_sees(&mut plane, &[vm], "neighbour", |view| {
            view.neighbours.contains_key(&(port, vm))
        })
        .await;
        let mac = view.neighbours[&(port, vm)];
        let state = BindingState {
            vm,
            port,
            l3: port,
            mtu: 1500,
            vm_mac: mac,
            node_mac: view.links[&port].mac.unwrap(),
            delivery: Lane::Peer,
            is_primary: true,
            shares_vm: false,
            answers_l2: false,
            generation: 1,
        };
        let eip = ip("203.0.113.9");
        apply(
            &mut plane,
            Action::PutBinding {
                eip,
                state,
                slot: 0,
                is_new_slot: true,
            },
        )
        .await;

        guest.run("ip address flush dev eth0");
        for _ in 0..2 {
            run("ip neigh flush dev cali1");
            let view = plane.view(&[vm].into()).await.unwrap();
            assert_eq!(view.neighbours.get(&(port, vm)), Some(&mac));
            drop(plane);
            plane = world.open();
        }
        run("ip link del cali1");
        let view = plane.view(&[vm].into()).await.unwrap();
        assert!(view.neighbours.is_empty(), "{:?}", view.neighbours);
    });
}

#[test]
#[ignore = "needs root"]
fn an_ipv6_vm_is_found_by_asking() {
    on_a_node(async |world| {
        let guest = Guest::new();
        guest.plug("cali1", "10.244.1.7/24");
        guest.run("ip address add fd00::7/64 dev eth0 nodad");
        run("ip address add fd00::1/64 dev cali1 nodad");
        let mut plane = world.open();
        let key = (ifindex("cali1"), ip("fd00::7"));
        eventually_sees(&mut plane, &[key.1], "neighbour", |view| {
            view.neighbours.contains_key(&key)
        })
        .await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_vm_behind_a_bridge_is_found_and_not_lost_when_the_bridge_forgets_it() {
    on_a_node(async |world| {
        run("ip link add cni0 type bridge");
        run("ip link set cni0 up");
        run("ip address add 10.244.2.1/24 dev cni0");
        let guest = Guest::new();
        guest.plug("vp1", "10.244.2.7/24");
        run("ip link set vp1 master cni0");
        let mut plane = world.open();
        let vm = ip("10.244.2.7");
        let (bridge, port) = (ifindex("cni0"), ifindex("vp1"));
        let knows = |view: &eip_daemon::model::NetworkView| {
            let mac = view.neighbours.get(&(bridge, vm))?;
            view.bridge_ports.get(&(bridge, *mac)).copied()
        };
        let view =
            eventually_sees(&mut plane, &[vm], "port", |view| knows(view) == Some(port)).await;
        assert_eq!(view.links[&port].master, Some(bridge));
        assert_eq!(view.links[&bridge].kind, "bridge");

        run("ip link set vp1 type bridge_slave fdb_flush");
        let view = plane.view(&[vm].into()).await.unwrap();
        assert_eq!(knows(&view), Some(port), "known from memory");

        // Another process has no memory: it has the VM probed, and the bridge learns it again. A port
        // flush while the neighbour is reachable is the hard case.
        drop(plane);
        run("ip link set vp1 type bridge_slave fdb_flush");
        let mut plane = world.open();
        eventually_sees(&mut plane, &[vm], "port again", |view| {
            knows(view) == Some(port)
        })
        .await;

        run("ip link set vp1 nomaster");
        eventually_sees(&mut plane, &[vm], "port left", |view| {
            knows(view) != Some(port)
        })
        .await;
    });
}

#[test]
#[ignore = "needs root"]
fn addresses_without_a_route_or_behind_a_gateway_are_told_apart() {
    on_a_node(async |world| {
        veth("up0");
        run("ip address add 192.0.2.2/24 dev up0");
        run("ip route add default via 192.0.2.1 metric 50");
        run("ip -6 route add default via fe80::1 dev up0 metric 70");
        run("ip route add unreachable 10.9.0.0/16");
        let mut plane = world.open();
        let vms = ["10.8.0.1", "10.9.0.1", "192.0.2.2"].map(ip);
        let view = plane.view(&vms.into()).await.unwrap();
        assert_eq!(view.routes[&vms[0]].gateway, Some(ip("192.0.2.1")));
        assert!(!view.routes.contains_key(&vms[1]));
        assert!(
            !view.routes[&vms[2]].is_unicast,
            "an address of the node itself"
        );
        let up0 = ifindex("up0");
        let defaults: Vec<_> = view
            .default_routes
            .iter()
            .map(|route| (route.ifindex, route.gateway.unwrap(), route.metric))
            .collect();
        assert_eq!(
            defaults,
            [(up0, ip("192.0.2.1"), 50), (up0, ip("fe80::1"), 70)]
        );
    });
}

#[test]
#[ignore = "needs root"]
fn host_routes_are_written_replaced_and_read_back() {
    on_a_node(async |world| {
        let (first, second) = (veth("port0"), veth("port1"));
        let mut plane = world.open();
        for (eip, vm) in [("203.0.113.9", "10.244.1.7"), ("2001:db8::9", "fd00::7")] {
            let route = |l3| HostRoute {
                eip: ip(eip),
                vm: ip(vm),
                l3,
            };
            for l3 in [first, second, second] {
                apply(&mut plane, Action::PutRoute(route(l3))).await;
                assert_eq!(
                    observe(&mut plane).await.routes,
                    [route(l3)].into(),
                    "{eip}"
                );
            }
            apply(&mut plane, Action::RemoveRoute(route(second))).await;
            apply(&mut plane, Action::RemoveRoute(route(second))).await;
            assert!(observe(&mut plane).await.routes.is_empty());
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_foreign_route_to_an_eip_is_left_alone_and_reported() {
    on_a_node(async |world| {
        let port = veth("port0");
        run("ip route add 203.0.113.9/32 dev port0");
        let mut plane = world.open();
        let route = HostRoute {
            eip: ip("203.0.113.9"),
            vm: ip("10.244.1.7"),
            l3: port,
        };
        let error = refused(&mut plane, Action::PutRoute(route.clone())).await;
        assert!(error.contains("203.0.113.9"), "{error}");
        apply(&mut plane, Action::RemoveRoute(route)).await;
        assert!(run("ip route").contains("203.0.113.9 dev port0"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_route_somebody_deleted_is_missed() {
    on_a_node(async |world| {
        let port = veth("port0");
        let mut plane = world.open();
        let route = HostRoute {
            eip: ip("203.0.113.9"),
            vm: ip("10.244.1.7"),
            l3: port,
        };
        apply(&mut plane, Action::PutRoute(route.clone())).await;
        let shown = run("ip route show proto 201");
        assert!(
            shown.contains("via 10.244.1.7 dev port0") && shown.contains("onlink"),
            "{shown}"
        );
        run("ip route del 203.0.113.9/32");
        assert!(observe(&mut plane).await.routes.is_empty());
        run("ip route add 203.0.113.9/32 dev port0 proto 201");
        let observed = observe(&mut plane).await.routes;
        assert_eq!(observed.len(), 1, "one of ours in another form is seen");
        for route in observed {
            apply(&mut plane, Action::RemoveRoute(route)).await;
        }
        assert!(run("ip route show proto 201").is_empty());
    });
}

#[test]
#[ignore = "needs root"]
fn rules_are_written_and_read_back() {
    on_a_node(async |world| {
        veth("up0");
        let mut plane = world.open();
        let mut rules = std::collections::BTreeSet::new();
        for (index, net) in (0..).zip(["203.0.113.0/24", "2001:db8::/64"]) {
            let to = net.parse().unwrap();
            let mut add = |offset: u32, matches: RuleMatch, action: RuleAction| {
                let priority = RULE_PRIORITIES.start() + index * 10 + offset;
                rules.insert(PolicyRule {
                    priority,
                    matches,
                    action,
                });
            };
            let arriving = RuleMatch::ArrivingFor {
                iif: "up0".to_owned(),
                to,
            };
            add(0, arriving.clone(), RuleAction::MainWithoutDefault);
            add(1, arriving, RuleAction::Unreachable);
            add(2, RuleMatch::From(to), RuleAction::MainWithoutDefault);
            add(3, RuleMatch::To(to), RuleAction::Table(201));
            add(4, RuleMatch::From(to), RuleAction::Table(70_000));
        }
        for rule in &rules {
            apply(&mut plane, Action::AddRule(rule.clone())).await;
        }
        run("ip rule add from 198.51.100.0/24 lookup 201 priority 1181");
        assert_eq!(observe(&mut plane).await.rules, rules);
        let shown = run("ip rule");
        assert!(
            shown.contains("1181:\tfrom all to 203.0.113.0/24 iif up0 unreachable"),
            "{shown}"
        );
        for rule in &rules {
            apply(&mut plane, Action::RemoveRule(rule.clone())).await;
            apply(&mut plane, Action::RemoveRule(rule.clone())).await;
        }
        assert!(observe(&mut plane).await.rules.is_empty());
        assert!(
            run("ip rule").contains("198.51.100.0/24"),
            "a foreign rule went"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn defaults_of_our_table_are_written_replaced_and_read_back() {
    on_a_node(async |world| {
        let up0 = veth("up0");
        run("ip address add 192.0.2.2/24 dev up0");
        let mut plane = world.open();
        for (first, second) in [("192.0.2.1", "198.51.100.1"), ("fe80::1", "2001:db8::1")] {
            for table in [201, 70_000] {
                let default = |gateway| TableDefault {
                    table,
                    gateway: ip(gateway),
                    ifindex: up0,
                };
                for gateway in [first, second] {
                    apply(&mut plane, Action::PutTableDefault(default(gateway))).await;
                    let observed = observe(&mut plane).await.table_defaults;
                    assert_eq!(observed, [default(gateway)].into());
                }
                apply(&mut plane, Action::RemoveTableDefault(default(second))).await;
                assert!(observe(&mut plane).await.table_defaults.is_empty());
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_foreign_egress_program_on_a_port_is_seen_and_ours_is_not_one() {
    on_a_node(async |world| {
        let port = veth("port0");
        run("ip route add 10.244.1.7/32 dev port0");
        let mut plane = world.open();
        let vms = [ip("10.244.1.7")].into();
        apply(&mut plane, Action::AttachPort(port)).await;
        assert!(plane.view(&vms).await.unwrap().foreign_egress.is_empty());
        run("tc qdisc add dev port0 clsact");
        foreign_filter("port0", "ingress");
        assert!(
            plane.view(&vms).await.unwrap().foreign_egress.is_empty(),
            "that is ingress"
        );
        foreign_filter("port0", "egress");
        assert_eq!(
            plane.view(&vms).await.unwrap().foreign_egress,
            [port].into()
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_veth_takes_xdp_frames_while_its_peer_has_gro() {
    on_a_node(async |world| {
        let port = veth("port0");
        let mut plane = world.open();
        let none = std::collections::BTreeSet::new();
        run("ethtool -K port0p gro off");
        assert!(!plane.view(&none).await.unwrap().xdp_ports.contains(&port));
        run("ethtool -K port0p gro on");
        assert!(plane.view(&none).await.unwrap().xdp_ports.contains(&port));
    });
}

#[test]
#[ignore = "needs root"]
fn every_kind_of_change_wakes_the_reconciler_and_silence_does_not() {
    on_a_node(async |world| {
        veth("port0");
        let plane = world.open();
        let events = plane.events();
        let wakes = async || {
            let woken = tokio::time::timeout(Duration::from_secs(1), events.notified());
            woken.await.is_ok()
        };
        // What the set-up itself caused comes first.
        while wakes().await {}
        for command in [
            "ip link set port0 mtu 1400",
            "ip address add 10.9.9.1/24 dev port0",
            "ip -6 address add fd00:9::1/64 dev port0 nodad",
            "ip route add 203.0.113.9/32 dev port0",
            "ip -6 route add 2001:db8::9/128 dev port0",
            "ip rule add from 203.0.113.0/24 lookup 201 priority 1180",
            "ip -6 rule add from 2001:db8::/64 lookup 201 priority 1180",
            "ip neigh add 10.9.9.7 lladdr 02:00:00:00:00:07 dev port0",
            "ip neigh del 10.9.9.7 dev port0",
            "tc qdisc add dev port0 clsact",
            "ip link del port0",
        ] {
            run(command);
            assert!(wakes().await, "{command}");
            while wakes().await {}
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_features_of_this_kernel_are_told() {
    on_a_node(async |world| {
        veth("up0");
        let uplinks = ["up0".to_owned(), "nope".to_owned()];
        let features = features::probe(&world.bpffs, &uplinks).await;
        assert!(features.is_kernel_supported && features.is_privileged && features.has_bpffs);
        assert_eq!(features.kernel_release, run("uname -r").trim());
        assert!(features.uplinks[0].exists && !features.uplinks[1].exists);
        assert!(
            features
                .sysctls
                .iter()
                .any(|sysctl| sysctl.name == "net.ipv4.ip_forward")
        );
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(!features::probe(elsewhere.path(), &[]).await.has_bpffs);
    });
}
