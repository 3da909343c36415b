//! "Why does it not work?": every link broken in turn, and the right one named.

use std::fs;

use eip_lab::{
    daemon::{CtlOutput, DaemonOptions},
    plan::{CLIENT, Family, VM1, VM2, eip},
    traffic::{self, PATIENCE, SILENCE},
    wait,
    world::WorldOptions,
};
use serde_json::Value;

use crate::support::{Stage, at};

/// An agent that repairs what somebody breaks only when it is told of it: so it stays broken for a while.
fn stage(delivery: &'static str) -> Stage {
    let options = DaemonOptions {
        resync: "1h",
        delivery,
        ..DaemonOptions::default()
    };
    Stage::new(WorldOptions::default(), options)
}

fn explain(stage: &Stage, what: &str) -> CtlOutput {
    stage
        .daemon
        .eipctl(&["-o", "json", "explain", what])
        .unwrap()
}

fn broken(output: &CtlOutput) -> Option<String> {
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    let broken = &answer["explanations"][0]["broken"];
    assert_eq!(
        output.status.success(),
        broken.is_null(),
        "the exit code says the same: {output:?}"
    );
    broken.as_str().map(str::to_owned)
}

/// Waits until the first broken link of `vm1`'s EIP is this one, and gives what was said about it.
fn expect(stage: &Stage, link: Option<&str>) -> Value {
    expect_after(stage, link, || {})
}

/// As [`expect`], doing the damage again before each look: any event of the network has it repaired.
fn expect_after(stage: &Stage, link: Option<&str>, damage: impl Fn()) -> Value {
    let eip = eip::VM1.v4.to_string();
    let mut last = None;
    wait::wait_until(
        PATIENCE,
        &format!("the first broken link is {link:?}"),
        || {
            damage();
            let output = explain(stage, &eip);
            let found = broken(&output);
            last = Some(output);
            found.as_deref() == link
        },
    )
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    serde_json::from_str(&last.unwrap().stdout).unwrap()
}

#[test]
fn explain_names_the_first_broken_link_and_its_cure() {
    let mut stage = stage("auto");
    let answer = expect(&stage, None);
    let chain = answer["explanations"][0]["chain"].as_array().unwrap();
    assert!(chain.len() > 8, "{answer:#}");
    assert_eq!(broken(&explain(&stage, "vm1")), None);
    assert_eq!(broken(&explain(&stage, "default/vm1")), None);

    // No object, and one that asks for what another has.
    let output = explain(&stage, "203.0.113.77");
    assert_eq!(broken(&output).as_deref(), Some("binding"));
    assert!(
        output.stderr.contains("eipctl bind 203.0.113.77"),
        "{output:?}"
    );

    // A map entry.
    let path = stage.daemon.map("EIP4_V1").display().to_string();
    expect_after(&stage, Some("maps"), || {
        // Gone already is as good.
        let line = format!("map delete pinned {path} key 203 0 113 11");
        let _ = stage.daemon.bpftool(&line);
    });
    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    expect(&stage, None);

    // A program of the door.
    let port = stage
        .world
        .node
        .run(|| nix::net::if_::if_nametoindex(VM1.port))
        .unwrap();
    let pin = stage
        .daemon
        .bpffs()
        .join(format!("eip/links/{port}-door-out"));
    let answer = expect_after(&stage, Some("programs"), || {
        let _ = fs::remove_file(&pin);
    });
    assert!(
        answer
            .to_string()
            .contains("door-out does not run on cali1"),
        "{answer:#}"
    );
    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    expect(&stage, None);

    // A VM that does not answer any more.
    stage.ns(VM1).ip("link set eth0 arp off").unwrap();
    expect_after(&stage, Some("neighbour"), || {
        stage.world.node.ip("neigh flush dev cali1").unwrap();
    });
    stage.ns(VM1).ip("link set eth0 arp on").unwrap();
    expect(&stage, None);

    // The VM itself.
    stage.daemon.documents().remove_vm(VM1.name).unwrap();
    expect(&stage, Some("vm"));
    stage.daemon.documents().put_vm(&VM1).unwrap();
    expect(&stage, None);

    // The uplink.
    stage.world.node.ip("link set up0 down").unwrap();
    expect(&stage, Some("uplinks"));
}

#[test]
fn explain_finds_a_forward_chain_that_drops_the_stack_lane_and_prints_the_rule() {
    let stage = stage("stack");
    expect(&stage, None);
    // The lab's node drops what nobody accepted, and nobody accepts elastic IPs.
    for _ in 0..6 {
        traffic::udp(&stage.world.client, at(eip::VM1.v4), 10, SILENCE).unwrap_err();
    }
    let answer = expect(&stage, Some("forwarding"));
    let text = answer.to_string();
    assert!(
        text.contains("iptables -I FORWARD -d 203.0.113.0/24 -o cali1 -j ACCEPT"),
        "{text}"
    );
    // The rule, as nft has it here, cures it.
    for rule in [
        "insert rule ip node forward ip daddr 203.0.113.0/24 oifname cali1 accept",
        "insert rule ip node forward ip saddr 203.0.113.0/24 iifname cali1 accept",
    ] {
        stage.world.node.nft(rule).unwrap();
    }
    for _ in 0..12 {
        traffic::udp(&stage.world.client, at(eip::VM1.v4), 10, PATIENCE).unwrap();
    }
    expect(&stage, None);
}

/// Policy that a CNI like Calico puts on the VM's device: it refuses one port to the VM, and one to the world.
const POLICY: &str = "
table ip netpol {
  chain forward {
    type filter hook forward priority filter - 1; policy accept;
    oifname cali1 udp dport 7001 counter drop
    iifname cali1 udp dport 7001 counter drop
  }
}";

#[test]
fn policy_on_the_vms_device_holds_in_the_stack_lane_and_not_in_the_others() {
    for (delivery, holds) in [("stack", true), ("peer", false)] {
        let world = WorldOptions {
            forward_accept: eip_lab::firewall::ForwardAccept::Present,
            ..WorldOptions::default()
        };
        let options = DaemonOptions {
            delivery,
            ..DaemonOptions::default()
        };
        let mut stage = Stage::new(world, options);
        let refused = |address: std::net::Ipv4Addr| std::net::SocketAddr::new(address.into(), 7001);
        let client = eip_lab::echo::Echo::start(&stage.world.client, CLIENT.v4, 7001).unwrap();
        let vm = eip_lab::echo::Echo::start(stage.ns(VM1), VM1.address.v4, 7001).unwrap();
        stage.world.node.nft(POLICY).unwrap();
        let limit = if holds { SILENCE } else { PATIENCE };
        let inward = traffic::udp(&stage.world.client, refused(eip::VM1.v4), 10, limit);
        let outward = traffic::udp(stage.ns(VM1), refused(CLIENT.v4), 10, limit);
        assert_eq!(
            (inward.is_err(), outward.is_err()),
            (holds, holds),
            "{delivery}"
        );
        // What the policy does not name passes in every lane.
        traffic::udp(&stage.world.client, at(eip::VM1.v4), 10, PATIENCE).unwrap();
        traffic::udp(stage.ns(VM1), at(CLIENT.v4), 10, PATIENCE).unwrap();

        let seen = stage.world.node.report("cat /proc/net/nf_conntrack");
        let is_tracked = seen
            .lines()
            .any(|line| line.contains(&format!("src={} dst={}", CLIENT.v4, eip::VM1.v4)));
        let known = !seen.contains("No such file");
        assert!(!known || is_tracked == holds, "{delivery}: {seen}");
        let said = stage
            .daemon
            .eipctl(&["get", &eip::VM1.v4.to_string()])
            .unwrap();
        assert_eq!(
            said.stdout.contains("not seen in this lane"),
            !holds,
            "{said:?}"
        );
        drop((client, vm));
        stage.daemon.stop().unwrap();
    }
}

#[test]
fn explain_of_a_vm_behind_a_bridge_in_both_families_and_of_nothing() {
    let mut stage = stage("auto");
    let output = explain(&stage, VM2.name);
    assert_eq!(broken(&output), None);
    stage.serve6();
    let output = explain(&stage, &eip::VM2.v6.to_string());
    assert_eq!(broken(&output), None, "{output:?}");
    // The VM has two now.
    let both: Value = serde_json::from_str(&explain(&stage, VM2.name).stdout).unwrap();
    assert_eq!(
        both["explanations"].as_array().unwrap().len(),
        2,
        "{both:#}"
    );
    let output = stage.daemon.eipctl(&["explain", "nobody"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("nobody"), "{output:?}");
}

/// What an answer consists of, whatever stands in it.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(values) => values.iter().map(shape).collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

#[test]
fn an_ipv6_eip_is_shown_and_explained_as_an_ipv4_one_is() {
    let mut stage = stage("auto");
    stage.serve6();
    for (vm, eip) in [(VM1, eip::VM1), (VM2, eip::VM2)] {
        let both = Family::BOTH.map(|family| {
            let (eip, own) = (eip.of(family), vm.address.of(family));
            traffic::udp(&stage.world.client, at(eip), 100, PATIENCE).unwrap();
            let shown = stage.daemon.binding(&eip.to_string()).unwrap();
            assert_eq!(shown["vmAddress"], own.to_string());
            assert_eq!(shown["port"], vm.port);
            assert!(
                shown["traffic"]["inPackets"].as_u64() > Some(0),
                "{shown:#}"
            );
            let explained = explain(&stage, &eip.to_string());
            assert_eq!(broken(&explained), None);
            let answer: Value = serde_json::from_str(&explained.stdout).unwrap();
            let chain = &answer["explanations"][0]["chain"];
            let links = chain.as_array().unwrap().iter();
            let links = links.map(|link| (link["name"].clone(), link["state"].clone()));
            (shape(&shown), links.collect::<Vec<_>>())
        });
        let [(shown4, links4), (shown6, links6)] = both;
        assert_eq!(shown4, shown6, "{}", vm.name);
        assert_eq!(links4, links6, "{}", vm.name);
        assert!(links6.len() > 8, "{links6:?}");
    }
    // A name means all that a VM has.
    let answer = explain(&stage, VM1.name).stdout;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let meant = answer["explanations"].as_array().unwrap().iter();
    let meant: Vec<_> = meant.map(|one| one["eip"].clone()).collect();
    let own = Family::BOTH.map(|family| eip::VM1.of(family).to_string());
    assert_eq!(meant, own);

    let listed = stage.daemon.eipctl(&["list"]).unwrap().stdout;
    let status = stage.daemon.ask(&["status"]).unwrap();
    for eip in [eip::VM1, eip::VM2] {
        for family in Family::BOTH {
            let eip = eip.of(family).to_string();
            let row = listed.lines().find(|row| row.contains(&eip));
            assert!(
                row.is_some_and(|row| row.contains("programmed")),
                "{listed}"
            );
        }
    }
    assert_eq!(status["bindings"]["programmed"], 4, "{status:#}");
    let maps = status["maps"].as_array().unwrap();
    for name in ["EIP4", "EIP6", "VM4", "VM6"] {
        let is_full = |map: &&Value| map["map"].as_str().is_some_and(|map| map.starts_with(name));
        let map = maps.iter().find(is_full);
        assert!(
            map.is_some_and(|map| map["entries"] == 2),
            "{name}: {status:#}"
        );
    }

    let path = stage.daemon.map("EIP6_V1").display().to_string();
    let key = eip::VM1.v6.octets().map(|byte| byte.to_string()).join(" ");
    let mut last = None;
    wait::wait_until(PATIENCE, "the missing entry is named", || {
        let _ = stage
            .daemon
            .bpftool(&format!("map delete pinned {path} key {key}"));
        last = broken(&explain(&stage, &eip::VM1.v6.to_string()));
        last.as_deref() == Some("maps")
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    assert_eq!(broken(&explain(&stage, &eip::VM1.v4.to_string())), None);
}
