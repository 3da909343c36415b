//! Killed, restarted, damaged, removed: forwarding never pauses, and the kernel ends up as desired.

use std::{collections::BTreeMap, path::Path, time::Duration};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    plan::{CLIENT, Family, VM1, VM2, eip},
    traffic::{self, PATIENCE, Pace, SILENCE, Session, StreamReport},
    wait::{pause, wait_until},
    world::{World, WorldOptions},
};

use crate::support::{Stage, at, raise};

/// Streams of 1 kHz in both directions on both VMs, the one by IPv4 and the other by IPv6, while something
/// happens to the agent.
fn under_traffic(stage: &mut Stage, seconds: u32, happening: impl FnOnce(&mut Daemon)) {
    let pace = Pace::kilohertz(seconds);
    let Stage { daemon, world, .. } = stage;
    let reports: Vec<(&str, StreamReport)> = std::thread::scope(|scope| {
        let mut streams = Vec::new();
        for (what, ns, to) in [
            ("client to vm1", &world.client, at(eip::VM1.v4)),
            ("client to vm2", &world.client, at(eip::VM2.v6)),
            ("vm1 to client", &world.guest(VM1).ns, at(CLIENT.v4)),
            ("vm2 to client", &world.guest(VM2).ns, at(CLIENT.v6)),
        ] {
            streams.push((
                what,
                scope.spawn(move || traffic::stream(ns, to, pace).unwrap()),
            ));
        }
        pause(Duration::from_millis(300));
        happening(daemon);
        streams
            .into_iter()
            .map(|(what, stream)| (what, stream.join().unwrap()))
            .collect()
    });
    for (what, report) in reports {
        assert_eq!(report.sent, u64::from(pace.count), "{what}");
        assert_eq!(
            (report.lost(), report.duplicates, report.strangers),
            (0, 0, 0),
            "{what}: {report:?}"
        );
    }
}

fn killed_and_restarted(options: DaemonOptions) {
    let mut stage = Stage::dual(WorldOptions::default(), options);
    let mut session = Session::open(&stage.world.client, at(eip::VM1.v4)).unwrap();
    under_traffic(&mut stage, 5, |daemon| {
        daemon.kill9().unwrap();
        pause(Duration::from_millis(500));
        daemon.restart().unwrap();
        daemon.kill9().unwrap();
        daemon.restart().unwrap();
    });
    session.exchange().unwrap();
}

#[test]
fn kill_and_restart_lose_no_packet() {
    killed_and_restarted(DaemonOptions::default());
}

#[test]
fn kill_and_restart_lose_no_packet_on_clsact_with_generic_xdp() {
    killed_and_restarted(DaemonOptions {
        xdp_mode: "generic",
        tc_mode: "clsact",
        ..DaemonOptions::default()
    });
}

#[test]
fn stop_and_start_lose_no_packet() {
    let mut stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    under_traffic(&mut stage, 4, |daemon| {
        assert!(daemon.stop().unwrap().success());
        pause(Duration::from_millis(300));
        daemon.restart().unwrap();
    });
}

#[test]
fn forwarding_goes_on_while_no_agent_runs() {
    let mut stage = Stage::plain();
    stage.daemon.kill9().unwrap();
    traffic::tcp(&stage.world.client, at(eip::VM1.v4), PATIENCE).unwrap();
    let answer = traffic::tcp(stage.ns(VM2), at(CLIENT.v4), PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), eip::VM2.v4);
}

/// Identities of links by the pins that hold them.
fn link_ids(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon
        .pins()
        .into_iter()
        .filter(|pin| pin.contains("/links/"))
        .map(|pin| {
            let path = daemon.bpffs().join(&pin);
            let text = daemon
                .bpftool(&format!("-j link show pinned {}", path.display()))
                .unwrap();
            let link: serde_json::Value = serde_json::from_str(&text).unwrap();
            (pin, link["id"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn a_restart_adopts_links_and_keeps_counters() {
    let mut stage = Stage::plain();
    let before = link_ids(&stage.daemon);
    assert!(
        before.len() >= 5,
        "XDP and tc on the uplink, two on each port: {before:?}"
    );
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    let packets = |stage: &Stage| {
        let binding = stage.daemon.binding(&eip::VM1.v4.to_string()).unwrap();
        binding["traffic"]["inPackets"].as_u64().unwrap()
    };
    let counted = packets(&stage);
    assert!(counted > 0);
    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    assert_eq!(link_ids(&stage.daemon), before);
    assert!(packets(&stage) >= counted);
}

#[test]
fn what_changed_while_the_agent_was_down_is_caught_up() {
    let mut stage = Stage::plain();
    stage.daemon.kill9().unwrap();
    let documents = stage.daemon.documents().clone();
    documents.remove_binding(VM2.name).unwrap();
    documents
        .put_binding("new", eip::SECOND.v4, VM1.name)
        .unwrap();
    stage.daemon.restart().unwrap();
    stage.daemon.wait_state("new", "programmed").unwrap();
    traffic::udp(&stage.world.client, at(eip::SECOND.v4), 100, PATIENCE).unwrap();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    traffic::ping(&stage.world.client, eip::VM2.v4.into(), 56, SILENCE).unwrap_err();
    assert_eq!(map_keys(&stage.daemon, "EIP4_V1").len(), 2);
}

/// IPv4 addresses that are keys of a map, by `bpftool`.
fn map_keys(daemon: &Daemon, map: &str) -> Vec<String> {
    let path = daemon.map(map);
    let text = daemon
        .bpftool(&format!("-j map dump pinned {}", path.display()))
        .unwrap();
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut keys: Vec<String> = dump
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            entry["key"]
                .as_array()
                .unwrap()
                .iter()
                .map(|byte| {
                    let text = byte.as_str().unwrap().trim_start_matches("0x");
                    u8::from_str_radix(text, 16).unwrap().to_string()
                })
                .collect::<Vec<_>>()
                .join(".")
        })
        .collect();
    keys.sort();
    keys
}

fn is_served(world: &World) -> bool {
    [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)]
        .into_iter()
        .all(|(vm, eip)| {
            traffic::udp(&world.client, at(eip), 100, SILENCE).is_ok()
                && traffic::udp(&world.guest(vm).ns, at(CLIENT.v4), 100, SILENCE)
                    .is_ok_and(|answer| answer.server_saw.ip() == eip)
        })
}

/// Damages something, and expects everything to be as it was within seconds.
fn is_repaired(stage: &mut Stage, damage: &str, look: impl Fn(&Stage) -> String) {
    let before = look(stage);
    stage.world.node.sh(damage).unwrap();
    wait_until(
        Duration::from_secs(10),
        &format!("`{damage}` is repaired"),
        || look(stage) == before && is_served(&stage.world),
    )
    .unwrap_or_else(|error| panic!("{error:#}\nbefore: {before}\nafter: {}", look(stage)));
    // A packet sent meanwhile may have left as a pod's: that is the damage, not the agent.
    stage.world.forgive_leaks();
}

#[test]
fn damaged_maps_are_repaired() {
    let mut stage = Stage::plain();
    let [eips, vms, nets] = ["EIP4_V1", "VM4_V1", "NETS4_V1"].map(|map| stage.daemon.map(map));
    let keys = |stage: &Stage| format!("{:?}", map_keys(&stage.daemon, "EIP4_V1"));
    let damage = format!(
        "bpftool map delete pinned {} key 203 0 113 11",
        eips.display()
    );
    is_repaired(&mut stage, &damage, keys);
    let keys = |stage: &Stage| format!("{:?}", map_keys(&stage.daemon, "VM4_V1"));
    let damage = format!(
        "bpftool map delete pinned {} key 10 244 1 11",
        vms.display()
    );
    is_repaired(&mut stage, &damage, keys);
    let dump = |stage: &Stage| {
        let path = stage.daemon.map("NETS4_V1");
        stage
            .daemon
            .bpftool(&format!("map dump pinned {}", path.display()))
            .unwrap()
    };
    let damage = format!(
        "bpftool map delete pinned {} key 16 0 0 0 10 244 0 0",
        nets.display()
    );
    is_repaired(&mut stage, &damage, dump);
    // An entry nobody asked for goes away.
    let value = value_of_vm1(&stage.daemon);
    let damage = format!(
        "bpftool map update pinned {} key 203 0 113 200 value {value}",
        eips.display()
    );
    let keys = |stage: &Stage| format!("{:?}", map_keys(&stage.daemon, "EIP4_V1"));
    is_repaired(&mut stage, &damage, keys);
}

/// The bytes of the entry of `vm1`, as `bpftool` takes them.
fn value_of_vm1(daemon: &Daemon) -> String {
    let path = daemon.map("EIP4_V1");
    let line = format!("-j map lookup pinned {} key 203 0 113 11", path.display());
    let entry: serde_json::Value = serde_json::from_str(&daemon.bpftool(&line).unwrap()).unwrap();
    let bytes: Vec<_> = entry["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|byte| byte.as_str().unwrap())
        .collect();
    bytes.join(" ")
}

#[test]
fn deleted_routes_and_rules_are_repaired() {
    let mut stage = Stage::plain();
    let routes = |stage: &Stage| stage.world.node.sh("ip route show table all").unwrap();
    is_repaired(&mut stage, "ip route del 203.0.113.11", routes);
    let rules = |stage: &Stage| stage.world.node.sh("ip rule").unwrap();
    let text = rules(&stage);
    let priorities: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(':').next())
        .filter(|priority| !["0", "32766", "32767"].contains(priority))
        .map(str::to_owned)
        .collect();
    assert!(!priorities.is_empty(), "two gateways need rules:\n{text}");
    for priority in priorities {
        is_repaired(
            &mut stage,
            &format!("ip rule del priority {priority}"),
            rules,
        );
    }
}

#[test]
fn detached_programs_are_attached_again() {
    let mut stage = Stage::plain();
    let healthy = stage.daemon.ask(&["status"]).unwrap()["uplinks"].clone();
    let pins = stage.daemon.pins();
    for pin in link_ids(&stage.daemon).into_keys() {
        let status = stage.daemon.ask(&["status"]).unwrap();
        let repairs = status["repairs"].as_u64();
        let path = stage.daemon.bpffs().join(&pin);
        stage
            .daemon
            .bpftool(&format!("link detach pinned {}", path.display()))
            .unwrap();
        stage
            .daemon
            .settle(&format!("{pin} is repaired"), |daemon| {
                let Ok(status) = daemon.ask(&["status"]) else {
                    return false;
                };
                status["repairs"].as_u64() > repairs
                    && status["inSync"] == true
                    && status["uplinks"] == healthy
                    && daemon.pins() == pins
            })
            .unwrap();
        assert!(is_served(&stage.world), "after {pin}");
    }
    // While a door was open packets left as a pod's: that is the damage, not the agent.
    stage.world.forgive_leaks();
}

#[test]
fn a_kill_at_any_point_of_a_change_leaves_nothing_half_done() {
    let mut stage = Stage::plain();
    let documents = stage.daemon.documents().clone();
    for round in 0_u64..10 {
        let is_bound = round % 2 == 1;
        if is_bound {
            documents
                .put_binding(VM1.name, eip::VM1.v4, VM1.name)
                .unwrap();
        } else {
            documents.remove_binding(VM1.name).unwrap();
        }
        // The agent needs a few milliseconds for the change: somewhere in there it dies.
        pause(Duration::from_micros(round * round * 700));
        stage.daemon.kill9().unwrap();
        // Whatever was done: vm2 was not touched, and nobody's packets escape.
        traffic::udp(&stage.world.client, at(eip::VM2.v4), 100, PATIENCE).unwrap();
        stage.daemon.restart().unwrap();
        let mut expected = vec![eip::VM2.v4.to_string()];
        if is_bound {
            expected.insert(0, eip::VM1.v4.to_string());
        }
        assert_eq!(
            map_keys(&stage.daemon, "EIP4_V1"),
            expected,
            "round {round}"
        );
        assert_eq!(
            map_keys(&stage.daemon, "VM4_V1").len(),
            expected.len(),
            "round {round}"
        );
        let route = stage.world.node.sh("ip route show 203.0.113.11").unwrap();
        assert_eq!(!route.is_empty(), is_bound, "round {round}: {route}");
        let answer = traffic::ping(&stage.world.client, eip::VM1.v4.into(), 56, SILENCE);
        assert_eq!(answer.is_ok(), is_bound, "round {round}");
    }
}

/// Everything the agent may touch in the node, as text.
fn footprint(world: &World) -> String {
    let mut text = String::new();
    for line in [
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -o addr",
        "nft list ruleset",
    ] {
        text += &world.node.sh(line).unwrap();
    }
    for device in ["up0", "mg0", "cali1", "veth2"] {
        let link = world
            .node
            .sh(&format!("ip -d -o link show {device}"))
            .unwrap();
        text += if link.contains("xdp") {
            "with xdp\n"
        } else {
            "without xdp\n"
        };
        text += &world
            .node
            .sh(&format!("tc qdisc show dev {device}"))
            .unwrap();
    }
    // Packet counters of the firewall are not the agent's.
    text.lines()
        .filter(|line| !line.contains("counter packets"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn cleaned(options: DaemonOptions) {
    let world = raise(WorldOptions::default());
    let before = footprint(&world);
    let mut daemon = Daemon::start(&world, options).unwrap();
    for family in Family::BOTH {
        daemon.serve(&VM1, eip::VM1.of(family)).unwrap();
        daemon.serve(&VM2, eip::VM2.of(family)).unwrap();
    }
    assert_ne!(footprint(&world), before);
    let bpffs = daemon.bpffs().display().to_string();
    let socket = daemon.socket().display().to_string();
    let arguments = ["cleanup", "--bpffs", &bpffs, "--socket", &socket];
    // A running agent would put everything back.
    let refused = daemon.run_verb(&arguments).unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    daemon.kill9().unwrap();
    let output = daemon.run_verb(&arguments).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(footprint(&world), before, "{output:?}");
    assert_eq!(daemon.pins(), Vec::<String>::new());
    // Once more is no error.
    assert!(daemon.run_verb(&arguments).unwrap().status.success());
    for family in Family::BOTH {
        traffic::ping(&world.client, eip::VM1.of(family), 56, SILENCE).unwrap_err();
    }
    world.forgive_leaks();
}

#[test]
fn cleanup_leaves_nothing() {
    cleaned(DaemonOptions::default());
}

#[test]
fn cleanup_leaves_nothing_of_clsact_and_generic_xdp() {
    cleaned(DaemonOptions {
        xdp_mode: "generic",
        tc_mode: "clsact",
        ..DaemonOptions::default()
    });
}

#[test]
fn the_modes_of_a_restart_may_differ() {
    let mut stage = Stage::plain();
    for (xdp_mode, tc_mode, delivery) in [
        ("generic", "clsact", "neigh"),
        ("off", "tcx", "peer"),
        ("native", "tcx", "auto"),
    ] {
        stage.daemon.kill9().unwrap();
        stage.daemon.reconfigure(|options| {
            options.xdp_mode = xdp_mode;
            options.tc_mode = tc_mode;
            options.delivery = delivery;
        });
        stage.daemon.restart().unwrap();
        for (vm, eip) in [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)] {
            traffic::tcp(&stage.world.client, at(eip), PATIENCE).unwrap();
            let answer = traffic::tcp(stage.ns(vm), at(CLIENT.v4), PATIENCE).unwrap();
            assert_eq!(
                answer.server_saw.ip(),
                eip,
                "{xdp_mode} {tc_mode} {delivery}"
            );
        }
    }
    assert!(Path::new(stage.daemon.bpffs()).exists());
}

#[test]
fn internal_networks_follow_their_objects_without_losing_a_packet() {
    let mut stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    let range = |cidr: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\n\
             metadata: {name}\nspec: {spec}\n",
            name = "{name: kubernetes}",
            spec = format_args!("{{cidrs: [{cidr}]}}"),
        )
    };
    under_traffic(&mut stage, 4, |daemon| {
        for (present, absent) in [
            ("10.99.0.0/16", "10.98.0.0/16"),
            ("10.98.0.0/16", "10.99.0.0/16"),
        ] {
            let documents = daemon.documents();
            documents.write("services.yaml", &range(present)).unwrap();
            daemon
                .settle("the prefixes are those of the object", |daemon| {
                    daemon.ask(&["nets"]).is_ok_and(|nets| {
                        let nets = nets.to_string();
                        nets.contains(present) && !nets.contains(absent)
                    })
                })
                .unwrap();
        }
        daemon.documents().remove("services.yaml").unwrap();
        daemon
            .settle("the prefix goes with its object", |daemon| {
                daemon
                    .ask(&["nets"])
                    .is_ok_and(|nets| !nets.to_string().contains("10.98.0.0"))
            })
            .unwrap();
    });
}
