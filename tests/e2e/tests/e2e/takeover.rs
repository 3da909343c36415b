//! From kube-eip to this agent on a running node: rules, sets, routes and addresses as kube-eip makes
//! them with the real programs, traffic all the while.

use std::{fs, net::IpAddr, path::Path, thread};

use eip_lab::{
    command,
    daemon::{Daemon, DaemonOptions},
    netns::Ns,
    plan::{self, CLIENT, GuestPlan, ROUTER_UPLINK, VM1, VM2, eip},
    traffic::{self, PATIENCE, Pace},
    world::WorldOptions,
};

use crate::support::{Stage, at};

/// What kube-eip does when it starts.
fn set_up(node: &Ns) {
    for line in [
        // Its nodes answer for elastic IPs on an uplink that is not the way back.
        "sysctl -qw net.ipv4.conf.all.rp_filter=2",
        "sysctl -qw net.ipv4.conf.up0.rp_filter=2",
        // The CNI's masquerading, where kube-eip can get in before it.
        "nft delete chain ip node postrouting",
        "iptables-nft -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
        "ipset create k8s_internal_net hash:net",
        "ipset create kube-eip-eip hash:ip",
        "ipset create kube-eip-vmi hash:ip",
        "iptables-nft -t nat -N KUBE-EIP-PREROUTING",
        "iptables-nft -t nat -N KUBE-EIP-POSTROUTING",
        "iptables-nft -t nat -I PREROUTING 1 -m set --match-set kube-eip-eip dst -j KUBE-EIP-PREROUTING",
        "iptables-nft -t nat -I POSTROUTING 1 -m set --match-set kube-eip-vmi src -j KUBE-EIP-POSTROUTING",
        "iptables-nft -t filter -I FORWARD 1 -m set --match-set kube-eip-vmi src -j ACCEPT",
    ] {
        node.sh(line).unwrap();
    }
    for net in [plan::POD_CIDR, plan::SERVICE_CIDR, plan::MANAGEMENT_CIDR] {
        node.sh(&format!("ipset add k8s_internal_net {net}"))
            .unwrap();
    }
    let router = ROUTER_UPLINK.v4;
    for route in [
        format!("default via {router} dev up0"),
        format!("{} dev cni0", plan::POD_CIDR),
        format!("{} dev up0", plan::EIP_CIDR),
    ] {
        node.sh(&format!("ip route add {route} table 1001"))
            .unwrap();
    }
}

/// What kube-eip does to bind.
fn bind(node: &Ns, records: &Path, eip: IpAddr, guest: &GuestPlan) {
    let vm = guest.address.v4;
    for line in [
        format!("ipset add kube-eip-eip {eip}"),
        format!("ipset add kube-eip-vmi {vm}"),
        format!(
            "iptables-nft -t nat -A KUBE-EIP-PREROUTING -d {eip} -j DNAT --to-destination {vm}"
        ),
        format!(
            "iptables-nft -t nat -A KUBE-EIP-POSTROUTING -s {vm} -m set ! --match-set \
             k8s_internal_net dst -j SNAT --to {eip}"
        ),
        format!("ip rule add from {vm} pref 1001 lookup 1001"),
        format!("ip address add {eip}/24 dev up0"),
    ] {
        node.sh(&line).unwrap();
    }
    let text = format!(
        "{{\n\"status\": \"Finished\",\n\"exip\": \"{eip}\",\n\"inip\": \"{vm}\",\n\"phase\": 5\n}}"
    );
    fs::write(records.join(format!("eip-{eip}-{vm}.metadata")), text).unwrap();
}

/// Runs `eip-daemon import kube-eip` on the node.
fn import(daemon: &Daemon, records: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut line = vec!["import", "kube-eip", "--metadata-dir"];
    line.push(records.to_str().unwrap());
    line.extend(more);
    let said = daemon.run_verb(&line).unwrap();
    (said.status.code(), said.stdout, said.stderr)
}

/// The commands of one part of the removal: those behind its title, which begins with its number.
fn part(commands: &str, number: u32) -> Vec<&str> {
    let title = |line: &&str, number: u32| line.starts_with(&format!("# {number}. "));
    let of_part = commands
        .lines()
        .skip_while(|line| !title(line, number))
        .take_while(|line| !title(line, number + 1));
    of_part.filter(|line| !line.starts_with('#')).collect()
}

fn run(node: &Ns, line: &str) {
    let mut shell = node.command("sh");
    command::output(shell.args(["-ec", line])).unwrap();
}

/// What an import must not change: firewall, sets, routes, rules and addresses, but for the agent's own.
fn state(node: &Ns) -> String {
    let shown = [
        "nft -s list ruleset",
        "ipset save",
        "ip -4 route show table all",
        "ip -4 rule",
        "ip -4 address",
    ]
    .map(|line| node.sh(line).unwrap())
    .join("\n");
    let lines = shown.lines().filter(|line| !line.contains("proto 201"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_node_of_kube_eip_is_taken_over_under_traffic() {
    let mut stage = Stage::empty(WorldOptions::default(), DaemonOptions::default());
    stage.start_servers();
    let node = Ns::open(stage.world.node.name()).unwrap();
    let records = stage.daemon.dir().join("eip_agent");
    fs::create_dir(&records).unwrap();
    set_up(&node);
    let eips: [IpAddr; 2] = [eip::VM1.v4.into(), eip::VM2.v4.into()];
    bind(&node, &records, eips[0], &VM1);
    bind(&node, &records, eips[1], &VM2);
    fs::write(records.join("eip-broken.metadata"), "{").unwrap();
    let both_ways = |stage: &Stage| {
        for (eip, guest) in eips.iter().zip([VM1, VM2]) {
            traffic::udp(&stage.world.client, at(*eip), 100, PATIENCE).unwrap();
            let answer = traffic::udp(stage.ns(guest), at(CLIENT.v4), 100, PATIENCE).unwrap();
            assert_eq!(
                answer.server_saw.ip(),
                *eip,
                "{} leaves with its elastic IP",
                guest.name
            );
        }
    };
    both_ways(&stage);

    // Looking changes nothing. What is broken is named, the rest is taken over.
    let before = state(&node);
    let (code, bindings, report) = import(&stage.daemon, &records, &[]);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("eip-broken.metadata"), "{report}");
    assert_eq!(
        bindings.matches("kind: EipBinding").count(),
        2,
        "{bindings}"
    );
    fs::remove_file(records.join("eip-broken.metadata")).unwrap();
    let (code, commands, report) = import(&stage.daemon, &records, &["--print", "removal"]);
    assert_eq!(code, Some(0), "{report}");
    let source = stage.daemon.documents().dir().to_owned();
    let write = ["--write", source.to_str().unwrap()];
    for words in ["wrote", "already"] {
        let (code, _, report) = import(&stage.daemon, &records, &write);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report.matches(words).count(), 2, "{report}");
    }

    // Side by side: kube-eip serves, this agent waits for the addresses.
    for eip in eips {
        stage
            .daemon
            .wait_state(&eip.to_string(), "refused")
            .unwrap();
    }
    assert_eq!(state(&node), before);
    both_ways(&stage);

    // Hand over and remove, with packets of each VM on their way in both directions.
    let pace = Pace {
        per_second: 200,
        count: 1600,
    };
    thread::scope(|scope| {
        let mut streams = Vec::new();
        for (eip, guest) in eips.iter().zip([VM1, VM2]) {
            let open = |ns: &Ns| Ns::open(ns.name()).unwrap();
            let ends = [
                (open(&stage.world.client), at(*eip)),
                (open(stage.ns(guest)), at(CLIENT.v4)),
            ];
            for (ns, to) in ends {
                streams.push(scope.spawn(move || (to, traffic::stream(&ns, to, pace).unwrap())));
            }
        }
        for line in part(&commands, 2) {
            run(&node, line);
        }
        for eip in eips {
            stage
                .daemon
                .wait_state(&eip.to_string(), "programmed")
                .unwrap();
        }
        both_ways(&stage);
        for line in [part(&commands, 3), part(&commands, 4)].concat() {
            run(&node, line);
        }
        for stream in streams {
            let (to, report) = stream.join().unwrap();
            assert_eq!(
                (report.lost(), report.strangers),
                (0, 0),
                "to {to}: {report:?}"
            );
        }
    });
    both_ways(&stage);
    let (code, _, report) = import(&stage.daemon, &records, &[]);
    assert_eq!(
        (code, &*report),
        (Some(0), "there is nothing of kube-eip on this node\n")
    );
    assert!(!state(&node).contains("kube-eip"));
}
