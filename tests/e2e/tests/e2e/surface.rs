//! What people and scripts touch: eipctl, check, the socket, what listens, what runs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use eip_lab::{
    binaries::Binaries,
    daemon::DaemonOptions,
    demo::{self, DemoOptions, Outcome},
    firewall::ForwardAccept,
    needs,
    plan::{self, CLIENT, Family, VM1, VM2, eip},
    traffic::{self, PATIENCE, SILENCE},
    world::WorldOptions,
};

use crate::support::{Stage, at};

/// What the README promises a newcomer: the commands it names exist, and the first of them ends well.
#[test]
fn readme_quickstart_works() {
    needs::root().unwrap();
    let readme = include_str!("../../../../README.md");
    let verbs: Vec<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("cargo xtask "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert_eq!(verbs, ["demo", "test"], "the two commands");
    let options = DemoOptions {
        binaries: Binaries::find().unwrap(),
        keep: false,
    };
    assert_eq!(demo::run(&options).unwrap(), Outcome::Held);
}

#[test]
fn bind_and_unbind_work_and_survive_a_restart() {
    let mut stage = Stage::empty(WorldOptions::default(), DaemonOptions::default());
    let eips = Family::BOTH.map(|family| eip::VM1.of(family));
    stage.daemon.documents().put_vm(&VM1).unwrap();
    for (family, eip) in Family::BOTH.into_iter().zip(eips) {
        stage.start_servers_of(family);
        let output = stage.daemon.eipctl(&["bind", &eip.to_string(), "vm1"]);
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        traffic::udp(&stage.world.client, at(eip), 100, PATIENCE).unwrap();
    }
    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    for eip in eips.map(|eip| eip.to_string()) {
        stage.daemon.wait_state(&eip, "programmed").unwrap();
        let output = stage.daemon.eipctl(&["unbind", &eip]).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    for eip in eips {
        assert_eq!(stage.daemon.binding(&eip.to_string()), None);
        traffic::ping(&stage.world.client, eip, 56, SILENCE).unwrap_err();
    }
}

#[test]
fn what_fails_says_so_and_does_not_exit_with_zero() {
    let mut stage = Stage::plain();
    let taken = eip::VM1.v4.to_string();
    for arguments in [
        &["get", "203.0.113.77"][..],
        &["unbind", "203.0.113.77"],
        &["bind", "192.0.2.55", "vm1"],
        &["bind", "no-address", "vm1"],
        &["bind", "203.0.113.78", "nobody", "--wait", "1"],
        &["bind", &taken, "vm2", "--name", "thief", "--wait", "1"],
        &["frobnicate"],
        &[],
    ] {
        let output = stage.daemon.eipctl(arguments).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        assert!(
            !output.stderr.trim().is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
    // None of it hurt.
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    stage.daemon.kill9().unwrap();
    let output = stage.daemon.eipctl(&["list"]).unwrap();
    assert!(!output.status.success(), "no agent: {output:?}");
}

#[test]
fn list_get_status_nets_and_drops_tell_what_is() {
    let stage = Stage::plain();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    let list = stage.daemon.ask(&["list"]).unwrap();
    let eips: Vec<_> = list["bindings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|binding| binding["eip"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(eips, [eip::VM1.v4.to_string(), eip::VM2.v4.to_string()]);
    let binding = stage.daemon.binding(&eip::VM1.v4.to_string()).unwrap();
    assert_eq!(binding["vmAddress"], VM1.address.v4.to_string());
    assert_eq!(binding["port"], VM1.port);
    assert_eq!(binding["vmMac"], plan::mac_text(VM1.mac));
    assert!(
        binding["traffic"]["inPackets"].as_u64().unwrap() > 0,
        "{binding:#}"
    );
    let status = stage.daemon.ask(&["status"]).unwrap();
    assert_eq!(status["node"], plan::NODE_NAME);
    assert_eq!(status["ready"], true);
    assert_eq!(status["uplinks"][0]["name"], "up0");
    assert!(status["uplinks"][0]["xdp"].is_string(), "{status:#}");
    let nets = stage.daemon.ask(&["nets"]).unwrap().to_string();
    for net in [
        plan::POD_CIDR,
        plan::SERVICE_CIDR,
        plan::MANAGEMENT_CIDR,
        plan::EIP_CIDR,
    ] {
        assert!(nets.contains(net), "{net}: {nets}");
    }
    for verb in ["list", "status", "nets", "drops", "dump"] {
        let output = stage.daemon.eipctl(&[verb]).unwrap();
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{verb}: {output:?}"
        );
    }
}

#[test]
fn check_judges_the_node() {
    let stage = Stage::plain();
    let bpffs = stage.daemon.bpffs().display().to_string();
    let good = [
        "--uplink",
        "up0",
        "--eip-cidr",
        plan::EIP_CIDR,
        "--bpffs",
        &bpffs,
    ];
    let output = stage
        .daemon
        .run_verb(&[&["check"][..], &good].concat())
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let bad = [
        "--uplink",
        "nothing0",
        "--eip-cidr",
        plan::EIP_CIDR,
        "--bpffs",
        &bpffs,
    ];
    let output = stage
        .daemon
        .run_verb(&[&["check"][..], &bad].concat())
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!([output.stdout, output.stderr].concat().contains("nothing0"));
}

#[test]
fn check_reads_whether_the_forward_chain_drops_the_stack_lane() {
    for (forward_accept, is_good) in [
        (ForwardAccept::Missing, false),
        (ForwardAccept::Present, true),
    ] {
        let world = WorldOptions {
            forward_accept,
            ..WorldOptions::default()
        };
        let stage = Stage::empty(world, DaemonOptions::default());
        let bpffs = stage.daemon.bpffs().display().to_string();
        let line = [
            "check",
            "--uplink",
            "up0",
            "--eip-cidr",
            plan::EIP_CIDR,
            "--bpffs",
            &bpffs,
        ];
        let output = stage
            .daemon
            .run_verb(&[&line[..], &["--delivery", "stack"]].concat())
            .unwrap();
        assert_eq!(output.status.success(), is_good, "{output:?}");
        let names = "nft table ip node chain forward drops elastic IPs";
        let rule = format!(
            "iptables -I FORWARD -d {} -o <VM device> -j ACCEPT",
            plan::EIP_CIDR
        );
        for text in [names, rule.as_str()] {
            assert_eq!(
                output.stdout.contains(text),
                !is_good,
                "{text}: {}",
                output.stdout
            );
        }
        // In the other lanes it does not matter.
        let output = stage.daemon.run_verb(&line).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn the_agent_starts_no_other_program() {
    let mut stage = Stage::plain();
    stage.daemon.documents().remove_binding(VM1.name).unwrap();
    stage
        .daemon
        .settle("a binding goes", |daemon| {
            daemon.binding(&eip::VM1.v4.to_string()).is_none()
        })
        .unwrap();
    let pid = stage.daemon.pid().unwrap();
    let mut children = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        children += &fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    assert_eq!(children.trim(), "");
    // Page faults of children that ended already: zero only if there never was one.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        (fields.get(8), fields.get(10)),
        (Some(&"0"), Some(&"0")),
        "{stat}"
    );
}

/// Local addresses that listen, in the notation of `/proc/net`.
fn listeners(stage: &Stage) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = stage.world.node.read_proc(&format!("net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (local, phase) = (words.next().unwrap(), words.nth(1).unwrap());
            // LISTEN for TCP, unconnected for UDP.
            if phase == "0A" || phase == "07" {
                found.insert(format!("{table} {local}"));
            }
        }
    }
    found
}

#[test]
fn nothing_listens_but_loopback_and_a_socket_of_root() {
    let options = DaemonOptions {
        http_port: Some(9469),
        ..DaemonOptions::default()
    };
    let stage = Stage::new(WorldOptions::default(), options);
    // 127.0.0.1:9469
    assert_eq!(
        listeners(&stage),
        BTreeSet::from(["tcp 0100007F:24FD".to_owned()])
    );
    let socket = fs::metadata(stage.daemon.socket()).unwrap();
    assert_eq!(
        (socket.uid(), socket.permissions().mode() & 0o777),
        (0, 0o600)
    );
}

#[test]
fn two_agents_do_not_serve_one_node() {
    let stage = Stage::plain();
    let output = stage.daemon.command().output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    let answer = traffic::udp(stage.ns(VM2), at(CLIENT.v4), 100, PATIENCE).unwrap();
    assert_eq!(answer.server_saw.ip(), eip::VM2.v4);
}

#[test]
fn a_wrong_command_line_is_refused_with_its_cure() {
    let stage = Stage::plain();
    for arguments in [
        &["agent", "--eip-cidr", "not-a-net"][..],
        &["agent", "--xdp-mode", "warp"],
        &["agent", "--gateway-ip", "gateway"],
        &["agent", "--source", "file:/nowhere"],
    ] {
        let output = stage.daemon.run_verb(arguments).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_signal_has_the_agent_write_its_state_where_only_root_reads_it() {
    let mut stage = Stage::plain();
    let file = stage.daemon.socket().with_file_name("dump.json");
    assert!(!file.exists());
    let pid = i32::try_from(stage.daemon.pid().unwrap()).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    stage
        .daemon
        .settle("the state is written", |_| file.exists())
        .unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(&file).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    let asked = stage.daemon.ask(&["dump"]).unwrap();
    for part in ["settings", "bindings", "desired", "observed"] {
        assert_eq!(written[part], asked[part], "{part}");
    }
}
