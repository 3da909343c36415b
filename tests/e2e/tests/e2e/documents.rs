//! Documents come, change, break and go while the agent runs.

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    documents,
    plan::{self, EIP_CIDR, Family, GuestPlan, NODE_UPLINK, ROUTER_UPLINK, VM1, VM2, eip},
    traffic::{self, PATIENCE, SILENCE},
    wait::wait_until,
    world::WorldOptions,
};

use crate::support::{Stage, at};

fn key(eip: plan::Dual) -> String {
    eip.v4.to_string()
}

fn keys(eip: plan::Dual) -> [String; 2] {
    Family::BOTH.map(|family| eip.of(family).to_string())
}

#[test]
fn an_edit_moves_an_eip_to_another_vm() {
    let mut stage = Stage::plain();
    let client = &stage.world.client;
    let reached = || {
        traffic::udp(client, at(eip::VM1.v4), 10, PATIENCE)
            .unwrap()
            .server_was
    };
    assert_eq!(reached(), at(VM1.address.v4));
    stage
        .daemon
        .documents()
        .put_binding(VM1.name, eip::VM1.v4, VM2.name)
        .unwrap();
    stage
        .daemon
        .settle("the edit is in the kernel", |daemon| {
            daemon.binding(&key(eip::VM1)).is_some_and(|binding| {
                binding["vmAddress"] == VM2.address.v4.to_string()
                    && binding["state"] == "programmed"
            })
        })
        .unwrap();
    assert_eq!(reached(), at(VM2.address.v4));
}

#[test]
fn a_removed_binding_falls_silent_and_the_others_go_on() {
    let mut stage = Stage::plain();
    stage.daemon.documents().remove_binding(VM1.name).unwrap();
    stage
        .daemon
        .settle("the binding is gone", |daemon| {
            daemon.binding(&key(eip::VM1)).is_none()
        })
        .unwrap();
    let client = &stage.world.client;
    wait_until(PATIENCE, "its EIP falls silent", || {
        traffic::ping(client, eip::VM1.v4.into(), 56, SILENCE).is_err()
    })
    .unwrap();
    traffic::udp(client, at(eip::VM2.v4), 100, PATIENCE).unwrap();
}

#[test]
fn a_bad_document_hurts_nobody_but_itself() {
    let mut stage = Stage::plain();
    let documents = stage.daemon.documents().clone();
    documents
        .write(
            "broken.yaml",
            "apiVersion: virteip.github.com/v1\nkind: [EipBinding\n",
        )
        .unwrap();
    documents
        .write("binary.yaml", "\u{0}\u{1}\u{fffd}")
        .unwrap();
    documents
        .write(
            "unknown.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
        )
        .unwrap();
    documents.write("empty.yaml", "").unwrap();
    let good = documents::binding("good", eip::SECOND.v4, VM2.name, "");
    documents
        .write(
            "mixed.yaml",
            &format!("{good}---\nkind: EipBinding\nspec: 5\n---\n"),
        )
        .unwrap();
    stage
        .daemon
        .wait_state(&key(eip::SECOND), "programmed")
        .unwrap();
    let status = stage.daemon.ask(&["status"]).unwrap();
    let refused = status["refusedDocuments"].to_string();
    for file in ["broken.yaml", "mixed.yaml"] {
        assert!(refused.contains(file), "{file}: {refused}");
    }
    for eip in [eip::VM1, eip::VM2, eip::SECOND] {
        traffic::udp(&stage.world.client, at(eip.v4), 100, PATIENCE).unwrap();
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let mut stage = Stage::plain();
    let documents = stage.daemon.documents().clone();
    let network = plan::net(EIP_CIDR);
    let elsewhere = GuestPlan {
        name: "far",
        address: plan::CLIENT,
        ..VM1
    };
    documents.put_vm(&elsewhere).unwrap();
    for (name, eip, vm, reason) in [
        (
            "outside",
            "192.0.2.77".to_owned(),
            VM1.name,
            "OutsideEipCidrs",
        ),
        (
            "gateway",
            ROUTER_UPLINK.v4.to_string(),
            VM1.name,
            "OutsideEipCidrs",
        ),
        (
            "node",
            NODE_UPLINK.v4.to_string(),
            VM1.name,
            "OutsideEipCidrs",
        ),
        (
            "network",
            network.network().to_string(),
            VM1.name,
            "IsNetworkAddress",
        ),
        (
            "broadcast",
            network.broadcast().to_string(),
            VM1.name,
            "IsBroadcastAddress",
        ),
        (
            "far",
            "203.0.113.50".to_owned(),
            "far",
            "VmOutsideInternalNets",
        ),
        (
            "outside6",
            "2001:db8:114::77".to_owned(),
            VM1.name,
            "OutsideEipCidrs",
        ),
        (
            "routers6",
            "2001:db8:113::".to_owned(),
            VM1.name,
            "IsNetworkAddress",
        ),
        ("group6", "ff02::77".to_owned(), VM1.name, "NotUnicast"),
        ("link6", "fe80::77".to_owned(), VM1.name, "NotUnicast"),
        (
            "mapped6",
            "::ffff:203.0.113.50".to_owned(),
            VM1.name,
            "NotUnicast",
        ),
        (
            "far6",
            "2001:db8:113::50".to_owned(),
            "far",
            "VmOutsideInternalNets",
        ),
    ] {
        let text = documents::binding(name, eip.parse::<std::net::IpAddr>().unwrap(), vm, "");
        documents.write(&format!("{name}.yaml"), &text).unwrap();
        stage.daemon.wait_state(name, "refused").unwrap();
        let binding = stage.daemon.binding(name).unwrap();
        let found = binding["reason"].as_str().unwrap();
        let is_allowed = found == reason
            || (name == "gateway" && found == "IsGateway")
            || (name == "node" && found == "IsNodeAddress");
        assert!(is_allowed, "{name}: {binding:#}");
        assert!(
            binding["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty())
        );
    }
    // Two bindings for one EIP: the one that was there first keeps it.
    let text = documents::binding("younger", eip::VM1.v4, VM2.name, "").replace("2025", "2026");
    documents.write("younger.yaml", &text).unwrap();
    stage.daemon.wait_state("younger", "refused").unwrap();
    assert_eq!(
        stage.daemon.binding("younger").unwrap()["reason"],
        "Conflict"
    );
    let answer = traffic::udp(&stage.world.client, at(eip::VM1.v4), 10, PATIENCE).unwrap();
    assert_eq!(answer.server_was, at(VM1.address.v4));
}

#[test]
fn a_vm_that_never_had_an_address_of_the_family_is_waited_for() {
    let mut stage = Stage::empty(WorldOptions::default(), DaemonOptions::default());
    let documents = stage.daemon.documents().clone();
    let old = GuestPlan {
        name: "old",
        ..plan::VM3
    };
    let old = documents::vm(&old, plan::NODE_NAME, "Running");
    let old = old.replace(&format!("    - {}\n", plan::VM3.address.v6), "");
    documents.write("vmi-old.yaml", &old).unwrap();
    documents.put_binding("family", eip::VM2.v6, "old").unwrap();
    let is_told = |daemon: &Daemon| {
        let binding = daemon.binding("family");
        binding.is_some_and(|binding| binding["reason"] == "VmHasNoAddress")
    };
    let what = "it waits for an address of the family";
    stage.daemon.settle(what, is_told).unwrap();
    // It gets one: nothing but its own status has to change.
    let address = VM2.address;
    let new = GuestPlan {
        name: "old",
        address,
        ..VM2
    };
    documents.put_vm(&new).unwrap();
    let key = eip::VM2.v6.to_string();
    stage.daemon.wait_state(&key, "programmed").unwrap();
    traffic::ping(&stage.world.client, eip::VM2.v6.into(), 56, PATIENCE).unwrap();
}

#[test]
fn a_binding_waits_for_its_vm_and_says_for_what() {
    let world = WorldOptions {
        guests: vec![VM1, plan::POD1],
        ..WorldOptions::default()
    };
    let mut stage = Stage::empty(world, DaemonOptions::default());
    let documents = stage.daemon.documents().clone();
    let reason = |stage: &Stage| stage.daemon.binding("vm1").unwrap()["reason"].clone();
    documents.put_binding("vm1", eip::VM1.v4, "vm1").unwrap();
    stage.daemon.wait_state("vm1", "waiting").unwrap();
    assert_eq!(reason(&stage), "VmNotFound");
    documents
        .write(
            "vmi-vm1.yaml",
            &documents::vm(&VM1, plan::NODE_NAME, "Scheduling"),
        )
        .unwrap();
    stage
        .daemon
        .settle("it knows the phase", |daemon| {
            daemon
                .binding("vm1")
                .is_some_and(|binding| binding["reason"] == "VmNotRunning")
        })
        .unwrap();
    documents
        .write(
            "vmi-vm1.yaml",
            &documents::vm(&VM1, "another-node", "Running"),
        )
        .unwrap();
    stage.daemon.wait_state("vm1", "elsewhere").unwrap();
    documents.put_vm(&VM1).unwrap();
    stage.daemon.wait_state("vm1", "programmed").unwrap();
    stage.start_servers();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    // A VM that ended is not served any more, although its status still has its address.
    documents
        .write(
            "vmi-vm1.yaml",
            &documents::vm(&VM1, plan::NODE_NAME, "Succeeded"),
        )
        .unwrap();
    stage.daemon.wait_state("vm1", "waiting").unwrap();
}

#[test]
fn the_agent_follows_a_port_that_appears_vanishes_and_returns() {
    let mut stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        let before = stage.daemon.binding(&key(eip)).unwrap();
        stage.world.detach(stage.world.guest(vm)).unwrap();
        for key in keys(eip) {
            stage.daemon.wait_state(&key, "waiting").unwrap();
        }
        stage.world.attach(stage.world.guest(vm)).unwrap();
        for family in Family::BOTH {
            let eip = eip.of(family);
            let key = eip.to_string();
            stage.daemon.wait_state(&key, "programmed").unwrap();
            let after = stage.daemon.binding(&key).unwrap();
            assert_eq!(before["port"], after["port"]);
            let what = format!("{} is served again at {eip}", vm.name);
            wait_until(PATIENCE, &what, || {
                traffic::ping(&stage.world.client, eip, 56, SILENCE).is_ok()
            })
            .unwrap();
        }
    }
    // While a VM was away its address followed the default route, as on any node.
    stage.world.forgive_leaks();
}

#[test]
fn the_agent_follows_a_changed_mac_and_mtu() {
    let mut stage = Stage::dual(WorldOptions::default(), DaemonOptions::default());
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        let mac = "02:00:00:00:77:77";
        stage
            .ns(vm)
            .ip(&format!(
                "link set eth0 address {mac}\nlink set eth0 mtu 1300\n"
            ))
            .unwrap();
        stage
            .world
            .node
            .ip(&format!("link set {} mtu 1300\n", vm.port))
            .unwrap();
        // The VM says so as every guest does: by its own traffic.
        for family in Family::BOTH {
            let node = plan::NODE_MANAGEMENT.of(family);
            traffic::ping(stage.ns(vm), node, 56, PATIENCE).ok();
        }
        for family in Family::BOTH {
            let eip = eip.of(family);
            stage
                .daemon
                .settle("MAC and MTU are in the kernel", |daemon| {
                    daemon
                        .binding(&eip.to_string())
                        .is_some_and(|binding| binding["vmMac"] == mac && binding["mtu"] == 1300)
                })
                .unwrap();
            traffic::udp(&stage.world.client, at(eip), 100, PATIENCE).unwrap();
        }
    }
}

#[test]
fn a_vm_that_moves_to_another_port_is_followed() {
    let mut stage = Stage::plain();
    // As after a live migration within the node: the address now lives behind another interface.
    let moved = GuestPlan {
        address: VM1.address,
        ..plan::POD1
    };
    let pod = stage.ns(plan::POD1);
    stage.world.node.ip("link del cali1\n").unwrap();
    pod.ip(&format!(
        "addr add {0}/32 dev eth0\naddr del {1}/32 dev eth0\n",
        moved.address.v4,
        plan::POD1.address.v4
    ))
    .unwrap();
    stage
        .world
        .node
        .ip(&format!(
            "route replace {}/32 dev cali2 scope link\n",
            moved.address.v4
        ))
        .unwrap();
    stage
        .daemon
        .settle("the new port is in the kernel", |daemon| {
            daemon.binding(&key(eip::VM1)).is_some_and(|binding| {
                binding["port"] == "cali2" && binding["state"] == "programmed"
            })
        })
        .unwrap();
    traffic::ping(&stage.world.client, eip::VM1.v4.into(), 56, PATIENCE).unwrap();
    let answer = traffic::udp(stage.ns(plan::POD1), at(plan::CLIENT.v4), 100, PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), eip::VM1.v4);
}
