use std::collections::BTreeMap;

use super::{Checkup, Evidence, Verdict, forward::DroppingChain, judge};
use crate::{
    cli::CheckOutput,
    config::NodeConfig,
    ctl::fixture,
    dataplane::features::{Device, Features, Support, Sysctl, UplinkFeatures},
    model::{DeliveryChoice, Link, RouteTo, TcMode, Vlan, XdpMode},
};

/// Takes something away from a node that has everything.
type Spoil = fn(&mut NodeConfig, &mut Evidence);

fn node() -> NodeConfig {
    let mut settings = fixture::settings();
    settings.uplinks = vec!["eth0".into()];
    NodeConfig {
        settings,
        bpffs: "/sys/fs/bpf".into(),
        notices: Vec::new(),
    }
}

fn evidence() -> Evidence {
    let mut view = fixture::view();
    let direct = RouteTo {
        ifindex: 2,
        gateway: None,
        is_unicast: true,
    };
    view.routes.insert("192.0.2.1".parse().unwrap(), direct);
    let uplink = UplinkFeatures {
        interface: "eth0".into(),
        exists: true,
        native_xdp: Support::Yes,
        strips_vlan_tags: Support::Yes,
    };
    let features = Features {
        kernel_release: "6.18.0".into(),
        is_kernel_supported: true,
        is_privileged: true,
        has_btf: true,
        has_bpffs: true,
        tcx: Support::Yes,
        devices: Vec::new(),
        uplinks: vec![uplink],
        sysctls: vec![Sysctl {
            name: "net.ipv4.ip_forward".into(),
            value: Some("1".into()),
            wanted: "1",
            why: "the node does not forward IPv4",
        }],
    };
    Evidence {
        features,
        programs: Ok(()),
        view,
        forward: None,
        before_the_door: BTreeMap::new(),
    }
}

fn device(rp_filter: Option<u8>, proxy_arp: bool) -> Device {
    Device {
        name: "eth0".into(),
        rp_filter,
        proxy_arp: Some(proxy_arp),
        is_without_ipv6: false,
        is_deaf_when_forwarding: false,
    }
}

/// A FORWARD chain that nobody told of elastic IPs.
fn dropping() -> DroppingChain {
    DroppingChain {
        name: "iptables FORWARD".into(),
        is_ipv4: Some(true),
        accepts: Vec::new(),
    }
}

#[test]
fn a_forward_chain_that_drops_matters_in_the_stack_lane_alone() {
    let (mut node, mut evidence) = (node(), evidence());
    evidence.forward = Some(vec![dropping()]);
    evidence.features.devices = vec![device(Some(1), false)];
    let checkup = judge(&node, &evidence);
    assert_eq!(complaints(&checkup), Vec::<String>::new());
    node.settings.delivery = DeliveryChoice::Stack;
    evidence.forward = Some(Vec::new());
    let checkup = judge(&node, &evidence);
    assert_eq!(complaints(&checkup), Vec::<String>::new());
}

/// The findings that are not good, as `verdict subject: found -> cure`.
fn complaints(checkup: &Checkup) -> Vec<String> {
    let bad = checkup
        .findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Good);
    bad.map(|bad| {
        let cure = bad.cure.as_deref().unwrap_or_default();
        format!(
            "{} {}: {} -> {cure}",
            bad.verdict.label(),
            bad.subject,
            bad.found
        )
    })
    .collect()
}

#[test]
fn a_node_with_everything_is_good() {
    let checkup = judge(&node(), &evidence());
    assert_eq!(complaints(&checkup), Vec::<String>::new());
    assert!(checkup.is_good());
    assert!(
        checkup
            .render(CheckOutput::Text)
            .ends_with("\nthis node can carry elastic IPs\n")
    );
}

#[test]
fn whatever_is_missing_is_named_with_its_cure() {
    let cases: [(&str, Spoil, &str); 11] = [
        (
            "root",
            |_, e| e.features.is_privileged = false,
            "MISSING privileges: ",
        ),
        (
            "kernel",
            |_, e| e.features.is_kernel_supported = false,
            "use a kernel from 5.10 on",
        ),
        (
            "btf",
            |_, e| e.features.has_btf = false,
            "CONFIG_DEBUG_INFO_BTF=y",
        ),
        (
            "bpffs",
            |_, e| e.features.has_bpffs = false,
            "-> mount -t bpf bpf /sys/fs/bpf",
        ),
        (
            "programs",
            |_, e| e.programs = Err("too many".into()),
            "MISSING programs: too many",
        ),
        (
            "uplink",
            |n, _| n.settings.uplinks = vec!["eth9".into()],
            "eth9: no such interface",
        ),
        (
            "down",
            |_, e| e.view.links.get_mut(&2).unwrap().is_up = false,
            "hardware, MTU 1500, down -> ip link set eth0 up",
        ),
        (
            "no route",
            |_, e| e.view.routes.clear(),
            "gateway 192.0.2.1: no route to it",
        ),
        (
            "tcx",
            |n, e| {
                n.settings.tc_mode = TcMode::Tcx;
                e.features.tcx = Support::No;
            },
            "MISSING tc: this kernel has no tcx",
        ),
        (
            "native",
            |n, e| {
                n.settings.xdp_mode = XdpMode::Native;
                e.features.uplinks[0].native_xdp = Support::No;
            },
            "MISSING uplink eth0 XDP: the driver has no native XDP",
        ),
        (
            "forward",
            |n, e| {
                n.settings.delivery = DeliveryChoice::Stack;
                e.forward = Some(vec![dropping()]);
            },
            "MISSING delivery stack: iptables FORWARD drops elastic IPs \
             -> iptables -I FORWARD -d 203.0.113.0/24 -o <VM device> -j ACCEPT",
        ),
    ];
    for (name, spoil, expected) in cases {
        let (mut node, mut evidence) = (node(), evidence());
        spoil(&mut node, &mut evidence);
        let checkup = judge(&node, &evidence);
        let complaints = complaints(&checkup).join("\n");
        assert!(complaints.contains(expected), "{name}: {complaints}");
        assert!(!checkup.is_good(), "{name}");
    }
}

const RANGE6: &str = "2001:db8:113::/64";

/// A node that has what IPv4 needs.
#[test]
fn a_family_is_judged_where_it_has_elastic_ips() {
    let forwarding = || Sysctl {
        name: "net.ipv6.conf.all.forwarding".into(),
        value: Some("0".into()),
        wanted: "1",
        why: "the node does not forward IPv6",
    };
    let deaf = || Device {
        is_deaf_when_forwarding: true,
        ..device(None, false)
    };
    let cases: [(&str, Spoil, &str); 3] = [
        (
            "forwarding",
            |_, _| {},
            "advice sysctl net.ipv6.conf.all.forwarding: 0: the node does not forward IPv6",
        ),
        (
            "router advertisements",
            |_, _| {},
            "advice accept_ra eth0: 1, and there is no IPv6 default route",
        ),
        (
            "off",
            |_, e| e.features.devices[0].is_without_ipv6 = true,
            "MISSING IPv6 on eth0: switched off",
        ),
    ];
    for (name, spoil, expected) in cases {
        let (mut node, mut evidence) = (node(), evidence());
        evidence.features.sysctls.push(forwarding());
        evidence.features.devices = vec![deaf()];
        spoil(&mut node, &mut evidence);
        let without = complaints(&judge(&node, &evidence));
        assert_eq!(without, Vec::<String>::new(), "{name}: IPv4 alone");
        node.settings.eip_cidrs.push(RANGE6.parse().unwrap());
        let with = complaints(&judge(&node, &evidence)).join("\n");
        assert!(with.contains(expected), "{name}: {with}");
    }
    let (mut node, mut evidence) = (node(), evidence());
    evidence.features.sysctls[0].value = Some("0".into());
    node.settings.eip_cidrs = vec![RANGE6.parse().unwrap()];
    let alone = complaints(&judge(&node, &evidence));
    assert_eq!(alone, Vec::<String>::new(), "IPv6 alone");
}

#[test]
fn a_router_known_by_its_link_local_address_is_on_the_uplink() {
    let (mut node, evidence) = (node(), evidence());
    node.settings.eip_cidrs.push(RANGE6.parse().unwrap());
    node.settings.gateway6 = Some("fe80::1".parse().unwrap());
    // Every interface has a route to it.
    assert_eq!(complaints(&judge(&node, &evidence)), Vec::<String>::new());
}

#[test]
fn what_could_be_better_does_not_fail_the_check() {
    let cases: [(&str, Spoil, &str); 7] = [
        (
            "sysctl",
            |_, e| e.features.sysctls[0].value = Some("0".into()),
            "advice sysctl net.ipv4.ip_forward: 0: the node does not forward IPv4 \
             -> sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            "generic",
            |_, e| e.features.uplinks[0].native_xdp = Support::No,
            "advice uplink eth0 XDP: generic",
        ),
        (
            "mtu",
            |_, e| e.view.links.get_mut(&7).unwrap().mtu = 9000,
            "advice MTU: eth0 takes 1500, vm0 sends up to 9000 -> ip link set eth0 mtu 9000",
        ),
        (
            "stack",
            |n, _| n.settings.delivery = DeliveryChoice::Stack,
            "-> iptables -I FORWARD -d 203.0.113.0/24 -o <VM device> -j ACCEPT",
        ),
        (
            "strict",
            |n, e| {
                n.settings.uplinks.push("eth0".into());
                e.features.devices = vec![device(Some(1), false)];
            },
            "-> sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        ),
        (
            "proxy",
            |_, e| e.features.devices = vec![device(Some(1), true)],
            "advice proxy_arp eth0: 1: the node answers ARP",
        ),
        (
            "cni",
            |_, e| {
                let programs = vec!["cil_from_contai (id 5)".into()];
                e.before_the_door.insert("vm0".into(), programs);
            },
            "on vm0 a VM's packets meet cil_from_contai (id 5) before the door",
        ),
    ];
    for (name, spoil, expected) in cases {
        let (mut node, mut evidence) = (node(), evidence());
        spoil(&mut node, &mut evidence);
        let checkup = judge(&node, &evidence);
        let complaints = complaints(&checkup).join("\n");
        assert!(complaints.contains(expected), "{name}: {complaints}");
        assert!(checkup.is_good(), "{name}");
    }
}

/// Puts the VLAN interface `eth0.100` above the uplink.
fn add_vlan(evidence: &mut Evidence) {
    let card = evidence.view.links[&2].clone();
    let vlan = Link {
        ifindex: 20,
        name: "eth0.100".into(),
        kind: "vlan".into(),
        vlan: Some(Vlan {
            below: 2,
            id: 100,
            is_service: false,
        }),
        ..card
    };
    evidence.view.links.insert(20, vlan);
}

#[test]
fn tags_that_xdp_cannot_see_are_told_where_there_are_vlans() {
    let (mut node, mut evidence) = (node(), evidence());
    add_vlan(&mut evidence);
    let text = complaints(&judge(&node, &evidence)).join("\n");
    assert!(
        text.starts_with("advice uplink eth0 VLANs: eth0.100; the card takes tags off before XDP")
            && text.ends_with(
                "-> ethtool -K eth0 rx-vlan-hw-parse off rx-vlan-stag-hw-parse off, or --xdp-mode off"
            ),
        "{text}"
    );
    evidence.features.uplinks[0].strips_vlan_tags = Support::No;
    assert_eq!(complaints(&judge(&node, &evidence)), Vec::<String>::new());
    evidence.features.uplinks[0].strips_vlan_tags = Support::Unknown;
    node.settings.xdp_mode = XdpMode::Off;
    assert_eq!(complaints(&judge(&node, &evidence)), Vec::<String>::new());
}

#[test]
fn a_vlan_as_the_uplink_is_described_with_what_is_below() {
    let (mut node, mut evidence) = (node(), evidence());
    add_vlan(&mut evidence);
    node.settings.uplinks = vec!["eth0.100".into()];
    evidence.view.routes.values_mut().next().unwrap().ifindex = 20;
    let uplink = &mut evidence.features.uplinks[0];
    uplink.interface = "eth0.100".into();
    uplink.native_xdp = Support::No;
    let checkup = judge(&node, &evidence);
    // Nobody's XDP is below.
    assert_eq!(complaints(&checkup), Vec::<String>::new());
    let found: Vec<_> = checkup
        .findings
        .iter()
        .map(|finding| finding.found.as_str())
        .collect();
    assert!(
        found.contains(&"VLAN 100 of eth0, MTU 1500, up"),
        "{found:?}"
    );
    assert!(
        found.contains(&"generic: a VLAN interface has no other"),
        "{found:?}"
    );
}

#[test]
fn a_gateway_on_another_interface_is_told_apart_from_one_behind_a_router() {
    let mut spoilt = evidence();
    let route = spoilt.view.routes.values_mut().next().unwrap();
    route.ifindex = 7;
    let text = complaints(&judge(&node(), &spoilt)).join("\n");
    assert!(
        text.contains("on vm0, which is no uplink -> add --uplink vm0"),
        "{text}"
    );
    let route = spoilt.view.routes.values_mut().next().unwrap();
    route.gateway = Some("192.0.2.129".parse().unwrap());
    let text = complaints(&judge(&node(), &spoilt)).join("\n");
    assert!(text.contains("behind another router"), "{text}");
}

#[test]
fn json_names_every_finding() {
    let json = judge(&node(), &evidence()).render(CheckOutput::Json);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["findings"][1]["subject"], "kernel");
    assert_eq!(value["findings"][1]["verdict"], "good");
}
