use std::{net::IpAddr, time::Duration};

use clap::Parser as _;

use super::{AgentOptions, ConfigError, Discovered, NodeConfig, SourceSpec, resolve_agent};
use crate::{
    cli::{Cli, Command},
    model::{DefaultRoute, Link, NetworkView, NodeAddress},
};

fn link(ifindex: u32, name: &str) -> (u32, Link) {
    let link = Link {
        ifindex,
        name: name.into(),
        kind: "veth".into(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        master: None,
        vlan: None,
        is_up: true,
    };
    (ifindex, link)
}

fn route(ifindex: u32, gateway: &str, metric: u32) -> DefaultRoute {
    DefaultRoute {
        ifindex,
        gateway: Some(gateway.parse().unwrap()),
        metric,
    }
}

fn node() -> Discovered {
    let view = NetworkView {
        links: [link(1, "lo"), link(2, "eth0"), link(3, "eth1")].into(),
        addresses: vec![NodeAddress {
            ifindex: 2,
            address: "192.0.2.9/24".parse().unwrap(),
        }],
        default_routes: vec![route(3, "192.0.2.129", 200), route(2, "192.0.2.1", 100)],
        ..NetworkView::default()
    };
    Discovered {
        host_name: "Node-A".into(),
        view,
        ..Discovered::default()
    }
}

fn resolve(found: &Discovered, flags: &[&str]) -> Result<(NodeConfig, AgentOptions), ConfigError> {
    let mut line = vec!["eip-daemon", "agent"];
    line.extend(flags);
    let Command::Agent(args) = Cli::parse_from(line).command else {
        panic!("not the agent")
    };
    resolve_agent(&args, found)
}

const GOOD: [&str; 3] = [
    "--source=dir:/etc/kube-eip",
    "--eip-cidr=203.0.113.0/24",
    "--internal-net=10.0.0.0/8",
];

fn good(more: &[&str]) -> (NodeConfig, AgentOptions) {
    let flags: Vec<&str> = GOOD.iter().chain(more).copied().collect();
    resolve(&node(), &flags).unwrap()
}

/// The problems of the good flags with `more` added, one line each.
fn problems(more: &[&str]) -> String {
    let flags: Vec<&str> = GOOD.iter().chain(more).copied().collect();
    resolve(&node(), &flags).unwrap_err().to_string()
}

fn notices(more: &[&str]) -> String {
    let lines: Vec<String> = good(more)
        .0
        .notices
        .iter()
        .map(ToString::to_string)
        .collect();
    lines.join("\n")
}

#[test]
fn what_can_be_found_out_need_not_be_said() {
    let (config, options) = good(&[]);
    assert_eq!(
        config.settings.node_name, "node-a",
        "in lower case, as kubelet registers it"
    );
    assert_eq!(
        config.settings.uplinks,
        ["eth0"],
        "the default route of the lowest metric"
    );
    assert_eq!(config.settings.gateway4, None);
    assert_eq!(options.source, SourceSpec::Dir("/etc/kube-eip".into()));
    assert_eq!(options.http, Some("127.0.0.1:9469".parse().unwrap()));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn flags_override_what_was_found_out() {
    let flags = [
        "--node-name=n1",
        "--uplink=eth1",
        "--gateway-ip=192.0.2.129",
    ];
    let (config, _) = good(&flags);
    assert_eq!(config.settings.node_name, "n1");
    assert_eq!(config.settings.uplinks, ["eth1"]);
    assert_eq!(
        config.settings.gateway4.map(IpAddr::from),
        Some("192.0.2.129".parse().unwrap())
    );
}

#[test]
fn both_devices_of_an_ecmp_default_route_are_uplinks() {
    let mut found = node();
    found.view.default_routes[0].metric = 100;
    let (config, _) = resolve(&found, &GOOD).unwrap();
    assert_eq!(config.settings.uplinks, ["eth1", "eth0"]);
}

#[test]
fn the_default_route_of_the_other_family_adds_its_device() {
    let mut found = node();
    found.view.default_routes[0] = route(3, "2001:db8::1", 1024);
    let (config, _) = resolve(&found, &GOOD).unwrap();
    assert_eq!(config.settings.uplinks, ["eth0", "eth1"]);
}

#[test]
fn without_any_uplink_the_flag_is_asked_for() {
    let mut found = node();
    found.view.default_routes.clear();
    let error = resolve(&found, &GOOD).unwrap_err().to_string();
    assert!(error.starts_with("--uplink: no uplink is named"), "{error}");
}

#[test]
fn an_uplink_that_does_not_exist_yet_is_only_noticed() {
    assert_eq!(good(&["--uplink=bond0"]).0.settings.uplinks, ["bond0"]);
    assert!(notices(&["--uplink=bond0"]).contains("no interface bond0 yet"));
}

#[test]
fn all_problems_are_reported_together() {
    let error = resolve(
        &node(),
        &[
            "--uplink=lo",
            "--gateway-ip=nonsense",
            "--eip-cidr=203.0.113.9/24",
            "--http=9469",
        ],
    )
    .unwrap_err();
    let flags: Vec<&str> = error.problems.iter().map(|problem| problem.flag).collect();
    assert_eq!(
        flags,
        [
            "--uplink",
            "--gateway-ip",
            "--eip-cidr",
            "--source",
            "--http"
        ]
    );
}

#[test]
fn every_refusal_names_the_flag_and_what_would_be_right() {
    let cases: [(&str, &[&str], &str); 11] = [
        (
            "own address",
            &["--gateway-ip=192.0.2.9"],
            "--gateway-ip: 192.0.2.9 is an address of",
        ),
        (
            "two gateways",
            &["--gateway-ip=192.0.2.1,192.0.2.2"],
            "one gateway per family",
        ),
        (
            "family",
            &["--gateway-ip=2001:db8::1"],
            "is IPv6 and every --eip-cidr is IPv4",
        ),
        (
            "inside",
            &["--eip-cidr=10.1.0.0/16"],
            "10.1.0.0/16 lies inside --internal-net 10.0.0",
        ),
        (
            "delivery",
            &["--delivery=xdp", "--xdp-mode=off"],
            "--delivery: xdp needs an XDP program",
        ),
        (
            "table",
            &["--route-table=254"],
            "--route-table: 254 is a table of the kernel's own",
        ),
        ("bpffs", &["--bpffs=bpf"], "--bpffs: bpf is a relative path"),
        ("socket", &["--socket=s"], "--socket: s is a relative path"),
        (
            "refresh on layer 2",
            &["--l2-refresh=0s"],
            "--l2-refresh: \"0s\" does not work: write a duration",
        ),
        (
            "resync",
            &["--resync=10"],
            "--resync: \"10\" does not work: write a duration",
        ),
        (
            "log level",
            &["--log-level=eip=loud"],
            "--log-level: \"eip=loud\"",
        ),
    ];
    for (name, flags, expected) in cases {
        let problems = problems(flags);
        assert!(problems.contains(expected), "{name}: {problems}");
    }
}

#[test]
fn what_is_allowed_but_odd_is_noticed() {
    let cases: [(&str, &[&str], &str); 5] = [
        (
            "family",
            &["--eip-cidr=2001:db8:113::/64"],
            "--internal-net: none is IPv6, but an --eip-cidr is",
        ),
        (
            "twice",
            &["--uplink=eth0,eth0"],
            "--uplink: eth0 is given twice",
        ),
        (
            "net twice",
            &["--internal-net=10.0.0.0/8"],
            "--internal-net: 10.0.0.0/8 is given twice",
        ),
        (
            "inside",
            &["--internal-net=203.0.113.0/28"],
            "are refused as elastic IPs",
        ),
        (
            "open",
            &["--http=0.0.0.0:9469"],
            "--http: 0.0.0.0:9469 is reachable from the network",
        ),
    ];
    for (name, flags, expected) in cases {
        let notices = notices(flags);
        assert!(notices.contains(expected), "{name}: {notices}");
    }
}

#[test]
fn missing_networks_are_noticed() {
    let (config, _) = resolve(&node(), &["--source=dir:/d"]).unwrap();
    let flags: Vec<&str> = config.notices.iter().map(|notice| notice.flag).collect();
    assert_eq!(flags, ["--eip-cidr", "--internal-net"]);
}

#[test]
fn empty_variables_of_a_manifest_mean_not_set() {
    let flags = [
        "--uplink=",
        "--gateway-ip=",
        "--node-name=",
        "--internal-net=",
    ];
    let (config, _) = good(&flags);
    assert_eq!(config.settings.node_name, "node-a");
    assert_eq!(config.settings.uplinks, ["eth0"]);
}

#[test]
fn bgp_is_asked_for_by_few_flags() {
    let bgp = good(&[]).1.bgp;
    assert_eq!((bgp.local_as, bgp.node_name.as_str()), (None, "node-a"));
    assert_eq!(
        bgp.router_id,
        Some([192, 0, 2, 9].into()),
        "an uplink's own address"
    );
    assert_eq!(bgp.restart_time.as_secs(), 120);
    assert!(bgp.listen.is_empty());
    let bgp = good(&[
        "--bgp-local-as=4200000000",
        "--bgp-router-id=10.0.0.1",
        "--bgp-listen=192.0.2.9,[2001:db8::9]:1790",
        "--bgp-restart-time=30s",
    ])
    .1
    .bgp;
    assert_eq!(
        (bgp.local_as, bgp.router_id),
        (Some(4_200_000_000), Some([10, 0, 0, 1].into()))
    );
    let listen: Vec<String> = bgp.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["192.0.2.9:179", "[2001:db8::9]:1790"]);
}

#[test]
fn every_bad_bgp_flag_is_named() {
    let text = problems(&[
        "--bgp-local-as=23456",
        "--bgp-router-id=0.0.0.0",
        "--bgp-listen=tor,also",
        "--bgp-restart-time=4096s",
        "--state-dir=relative",
    ]);
    for flag in [
        "--bgp-local-as: 23456 is a reserved AS",
        "--bgp-router-id: \"0.0.0.0\" is no router id",
        "--bgp-listen: \"tor\" is no address",
        "--bgp-listen: \"also\" is no address",
        "--bgp-restart-time: \"4096s\" does not work",
        "--state-dir: relative is a relative path",
    ] {
        assert!(text.contains(flag), "{flag} in\n{text}");
    }
}

const CERTIFICATES: [&str; 3] = [
    "--grpc-cert=/etc/kube-eip/tls.crt",
    "--grpc-key=/etc/kube-eip/tls.key",
    "--grpc-client-ca=/etc/kube-eip/ca.crt",
];

#[test]
fn callers_of_the_older_api_are_known_or_of_this_node() {
    assert_eq!(good(&[]).1.grpc, None, "nothing listens unless asked");
    let known: Vec<&str> = ["--grpc-listen=192.0.2.9:6127"]
        .into_iter()
        .chain(CERTIFICATES)
        .collect();
    let grpc = good(&known).1.grpc.unwrap();
    assert_eq!(grpc.address.to_string(), "192.0.2.9:6127");
    assert!(grpc.tls.is_some());
    for address in ["127.0.0.1:6127", "[::1]:6127"] {
        let listen = format!("--grpc-listen={address}");
        let grpc = good(&[&listen, "--grpc-plain-text"]).1.grpc.unwrap();
        assert_eq!(grpc.tls, None);
    }
}

#[test]
fn strangers_cannot_be_let_in_by_mistake() {
    for address in ["0.0.0.0:6127", "[::]:6127", "192.0.2.9:6127"] {
        let listen = format!("--grpc-listen={address}");
        let said = problems(&[&listen, "--grpc-plain-text"]);
        assert!(said.contains("reachable from the network"), "{said}");
        assert!(said.contains("127.0.0.1"), "{said}");
        let said = problems(&[&listen]);
        for flag in ["--grpc-cert:", "--grpc-key:", "--grpc-client-ca:"] {
            assert!(said.contains(flag), "{said}");
        }
        let said = problems(&[&listen, CERTIFICATES[0], CERTIFICATES[1]]);
        assert!(said.starts_with("--grpc-client-ca:"), "{said}");
    }
}

#[test]
fn half_a_listener_is_none() {
    let said = problems(&["--grpc-plain-text"]);
    assert!(said.contains("--grpc-listen"), "{said}");
    let said = problems(&CERTIFICATES);
    assert_eq!(said.lines().count(), 3, "{said}");
    let said = problems(&["--grpc-listen=:6127", "--grpc-plain-text"]);
    assert!(said.contains("no address and port"), "{said}");
    let both = [
        "--grpc-listen=[::1]:6127",
        "--grpc-plain-text",
        CERTIFICATES[0],
    ];
    assert!(problems(&both).contains("choose one"));
    let flags = [
        "--source=kube",
        GOOD[1],
        GOOD[2],
        "--grpc-listen=[::1]:6127",
        "--grpc-plain-text",
    ];
    let said = resolve(&node(), &flags).unwrap_err().to_string();
    assert!(said.starts_with("--grpc-listen: bindings are"), "{said}");
}

#[test]
fn a_node_falls_silent_after_five_minutes_in_a_cluster_and_never_with_a_directory() {
    let with = |source: &str, more: &[&str]| {
        let source = format!("--source={source}");
        let flags: Vec<&str> = [source.as_str()]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        resolve(&node(), &flags).map(|(_, options)| options.fence)
    };
    let after = |source, more: &[&str]| with(source, more).unwrap().after;
    assert_eq!(after("kube", &[]), Some(Duration::from_mins(5)));
    assert_eq!(after("dir:/d", &[]), None);
    assert_eq!(after("kube", &["--fence-after=never"]), None);
    assert_eq!(
        after("kube", &["--fence-after=30s", "--fence-on=isolation"]),
        Some(Duration::from_secs(30))
    );
    for (source, more, expected) in [
        (
            "dir:/d",
            &["--fence-after=30s"][..],
            "--fence-after: with a directory nobody else",
        ),
        (
            "kube",
            &["--fence-after=soon"],
            "--fence-after: \"soon\" does not work",
        ),
        (
            "kube",
            &["--fence-after=3s", "--resync=2s"],
            "is less than three times --resync",
        ),
        (
            "kube",
            &["--fence-after=never", "--fence-on=isolation"],
            "--fence-on: `isolation` needs",
        ),
    ] {
        let error = with(source, more).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// The node, with variables of kube-eip's agent.
fn node_of_the_older_agent(variables: &[(&str, &str)]) -> Discovered {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Discovered {
        older_variables: variables.collect(),
        ..node()
    }
}

/// As in the `ConfigMap` that kube-eip ships.
const OLDER: [(&str, &str); 6] = [
    ("AGENT_SVC_NET", "10.96.0.0/12"),
    ("AGENT_POD_NET", "10.244.0.0/16"),
    ("AGENT_EIP_NET", "198.51.100.0/24"),
    ("AGENT_EIP_GW_IP", "192.0.2.1"),
    ("AGENT_EIP_GW_DEV", "eth1"),
    ("AGENT_LOG_LEVEL", "debug"),
];

#[test]
fn an_agent_starts_with_the_variables_of_kube_eips_agent_alone() {
    let found = node_of_the_older_agent(&OLDER);
    let (config, options) = resolve(&found, &["--source=kube"]).unwrap();
    let settings = &config.settings;
    let texts =
        |nets: &[ipnet::IpNet]| -> Vec<String> { nets.iter().map(ToString::to_string).collect() };
    assert_eq!(texts(&settings.eip_cidrs), ["198.51.100.0/24"]);
    assert_eq!(
        texts(&settings.internal_nets),
        ["10.244.0.0/16", "10.96.0.0/12"]
    );
    assert_eq!(settings.gateway4, Some([192, 0, 2, 1].into()));
    assert_eq!(settings.uplinks, ["eth1"]);
    assert_eq!(options.log_level, "debug");
    for (name, _) in OLDER {
        let is_named = |notice: &super::Notice| notice.flag == name;
        assert!(config.notices.iter().any(is_named), "{name}");
    }
}

#[test]
fn what_is_given_under_our_names_wins_over_kube_eips_variables() {
    let found = node_of_the_older_agent(&OLDER);
    let mut flags = GOOD.to_vec();
    flags.extend([
        "--uplink=eth0",
        "--gateway-ip=192.0.2.129",
        "--log-level=warn",
    ]);
    let (config, options) = resolve(&found, &flags).unwrap();
    assert_eq!(config.settings.uplinks, ["eth0"]);
    assert_eq!(config.settings.eip_cidrs[0].to_string(), "203.0.113.0/24");
    assert_eq!(config.settings.internal_nets.len(), 1);
    assert_eq!(options.log_level, "warn");
    has_no_notice_of_the_older_agent(&config);
}

fn has_no_notice_of_the_older_agent(config: &NodeConfig) {
    let mut notices = config.notices.iter();
    assert!(notices.all(|one| !one.flag.starts_with("AGENT_")));
}

#[test]
fn empty_variables_of_kube_eip_mean_not_given() {
    let empty = OLDER.map(|(name, _)| (name, " "));
    let (config, options) = resolve(&node_of_the_older_agent(&empty), &GOOD).unwrap();
    assert_eq!(options.log_level, "info");
    has_no_notice_of_the_older_agent(&config);
}

#[test]
fn flags_of_kube_eip_that_mean_nothing_here_name_what_takes_their_place() {
    let cases: [(&[&str], &str, &str); 7] = [
        (
            &["--port", "6127"],
            "--port",
            "--grpc-listen 127.0.0.1:6127",
        ),
        (&["--webport=80"], "--webport", "eipctl list"),
        (&["--bgp-type", "none"], "--bgp-type", "--announce l2"),
        (&["--bgp-type=gobgp"], "--bgp-type", "BgpPeer"),
        (&["--bgp-enable"], "--bgp-enable", "--announce bgp"),
        (&["--arp-poisoning"], "--arp-poisoning", "--announce l2"),
        (
            &["--arp-poisoning=false"],
            "--arp-poisoning",
            "leave it out",
        ),
    ];
    for (older, flag, cure) in cases {
        let mut flags = GOOD.to_vec();
        flags.extend(older);
        let problems = resolve(&node(), &flags).unwrap_err().problems;
        assert_eq!(problems.len(), 1, "{older:?}: {problems:?}");
        assert_eq!(problems[0].flag, flag);
        assert!(
            problems[0].text.contains(cure),
            "{older:?}: {}",
            problems[0]
        );
    }
}
