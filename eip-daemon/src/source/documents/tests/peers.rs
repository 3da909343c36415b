//! `BgpPeer` objects.

use std::time::Duration;

use super::*;
use crate::model::{PasswordSource, PeerAsn, PeerFact, PeerPlace, PeerReach};

fn peer_of(spec: &str) -> PeerFact {
    let reading = read_yaml(&document(spec));
    assert_eq!(reading.refused, []);
    match reading.objects.into_iter().next().unwrap() {
        Object::Peer(fact) => *fact,
        other => panic!("{other:?}"),
    }
}

fn document(spec: &str) -> String {
    format!(
        "apiVersion: virteip.github.com/v1\nkind: BgpPeer\nmetadata: {{name: tor}}\nspec:\n{spec}"
    )
}

#[test]
fn the_shortest_peer_has_an_address_and_an_as() {
    let peer = peer_of("  peerAddress: 192.0.2.1\n  peerAs: 64500\n");
    assert_eq!(peer.name.name, "tor");
    let settings = &peer.settings;
    assert_eq!(
        settings.place,
        PeerPlace::Address("192.0.2.1".parse().unwrap())
    );
    assert_eq!(settings.peer_as, PeerAsn::Number(64500));
    assert!(settings.graceful_restart && settings.families.ipv4 && settings.families.ipv6);
    assert_eq!(
        (settings.reach, settings.bfd.as_ref()),
        (PeerReach::Direct, None)
    );
}

#[test]
fn every_field_of_a_peer_is_read() {
    let peer = peer_of(
        "  peerAddress: 'fe80::1'
  interface: eth1
  peerAs: external
  localAs: 4200000000
  peerPort: 1790
  sourceAddress: 'fe80::2'
  passive: true
  passwordFile: /etc/kube-eip/tor.key
  holdTimeSeconds: 9
  sendHoldTimeSeconds: 500
  connectTimeoutSeconds: 5
  families: [ipv6]
  ttlSecurity: 1
  gracefulRestart: false
  bfd: {transmitIntervalMs: 100, multiplier: 5, strict: true}
  nextHop: {ipv4: 192.0.2.10, ipv6: '2001:db8::10'}
  communities: ['64512:1', no-export, 'rt:64512:9', '64512:1:2']
  med: 5
  localPref: 200
  prepend: 2
  rules:
  - match: {prefixes: [203.0.113.0/25, 203.0.113.200], namespaces: [prod], bindings: [web]}
    set: {communities: ['64512:2'], med: 1}
  - match: {namespaces: [test]}
    announce: false
  aggregates: [203.0.113.0/24]
  preferred: {seconds: 10, set: {localPref: 300}}
  nodeSelector: {rack: a}
  description: the first rack's router
",
    );
    let settings = &peer.settings;
    assert_eq!(settings.interface.as_deref(), Some("eth1"));
    assert_eq!(settings.peer_as, PeerAsn::External);
    assert_eq!(settings.local_as, Some(4_200_000_000));
    assert_eq!((settings.port, settings.passive), (Some(1790), true));
    let file = PasswordSource::File("/etc/kube-eip/tor.key".into());
    assert_eq!(settings.password, Some(file));
    assert_eq!(settings.hold_time, Some(Duration::from_secs(9)));
    assert_eq!(settings.send_hold_time, Some(Duration::from_secs(500)));
    assert_eq!(settings.connect_timeout, Some(Duration::from_secs(5)));
    assert!(!settings.families.ipv4 && !settings.graceful_restart);
    assert_eq!(settings.reach, PeerReach::TtlSecurity(1));
    let bfd = settings.bfd.as_ref().unwrap();
    assert_eq!(
        (bfd.transmit, bfd.receive),
        (Duration::from_millis(100), Duration::from_millis(300))
    );
    assert_eq!(
        (bfd.multiplier, bfd.minimum_ttl, bfd.strict),
        (5, 255, true)
    );
    let export = &peer.export;
    assert_eq!(export.next_hop_ipv4, Some([192, 0, 2, 10].into()));
    assert_eq!(
        (
            export.attributes.communities.len(),
            export.attributes.prepend
        ),
        (4, Some(2))
    );
    assert_eq!((export.rules.len(), export.aggregates.len()), (2, 1));
    assert_eq!(export.rules[0].prefixes[1].to_string(), "203.0.113.200/32");
    assert!(export.rules[0].announce && !export.rules[1].announce);
    let preferred = export.preferred.as_ref().unwrap();
    assert_eq!(
        (preferred.duration.as_secs(), preferred.marks.local_pref),
        (10, Some(300))
    );
    assert_eq!(peer.node_selector["rack"], "a");
}

#[test]
fn a_peer_can_be_a_range_or_whoever_is_on_an_interface() {
    let range = peer_of("  peerRange: 192.0.2.9/24\n  peerAs: '64500'\n  passive: true\n");
    assert_eq!(
        range.settings.place,
        PeerPlace::Range("192.0.2.0/24".parse().unwrap())
    );
    assert_eq!(range.settings.peer_as, PeerAsn::Number(64500));
    let unnumbered = peer_of("  interface: eth1\n  peerAs: internal\n");
    assert_eq!(
        unnumbered.settings.place,
        PeerPlace::Interface("eth1".to_owned())
    );
}

#[test]
fn a_bad_field_of_a_peer_is_named_with_its_line() {
    const GOOD: &str = "  peerAddress: 192.0.2.1\n  peerAs: 64500\n";
    for (more, expected) in [
        (
            "  holdTimeSeconds: 2\n",
            "line 7: spec.holdTimeSeconds: \"2\" is not 0 for none",
        ),
        (
            "  sendHoldTimeSeconds: 89\n",
            "line 7: spec.sendHoldTimeSeconds: \"89\" is not at least the hold time",
        ),
        (
            "  holdTimeSeconds: 600\n  sendHoldTimeSeconds: 599\n",
            "line 8: spec.sendHoldTimeSeconds: \"599\" is not at least the hold time",
        ),
        (
            "  connectTimeoutSeconds: 0\n",
            "line 7: spec.connectTimeoutSeconds: \"0\" is not at least 1",
        ),
        (
            "  multihop: 0\n",
            "line 7: spec.multihop: \"0\" is not a number of hops",
        ),
        (
            "  multihop: 2\n  ttlSecurity: 1\n",
            "line 8: spec.ttlSecurity: \"1\" is not allowed",
        ),
        (
            "  passwordFile: key\n",
            "line 7: spec.passwordFile: \"key\" is not an absolute path",
        ),
        (
            "  communities: [blue]\n",
            "line 7: spec.communities: \"blue\" is not a community",
        ),
        (
            "  families: [ipx]\n",
            "line 7: spec.families: \"ipx\" is not ipv4 or ipv6",
        ),
        (
            "  peerRange: 10.0.0.0/8\n",
            "line 7: spec.peerRange: \"10.0.0.0/8\" is not allowed",
        ),
        (
            "  localAs: 23456\n",
            "line 7: spec.localAs: \"23456\" is not an AS number",
        ),
        (
            "  bfd: {multiplier: 0}\n",
            "line 7: spec.bfd.multiplier: \"0\" is not",
        ),
        (
            "  rules:\n  - set: {prepend: 33}\n",
            "line 8: spec.rules[0].set.prepend: \"33\" is not",
        ),
        (
            "  holdTimeSecond: 9\n",
            "line 7: spec.holdTimeSecond: no such field (did you mean",
        ),
        (
            "  bfd: {interval: 9}\n",
            "line 7: spec.bfd: unknown field `interval`",
        ),
    ] {
        let text = problem(&document(&format!("{GOOD}{more}")));
        assert!(text.starts_with(expected), "{more}: {text}");
    }
    let missing = problem(&document("  peerAs: 64500\n"));
    assert!(missing.contains("spec.peerAddress is missing"), "{missing}");
    let missing = problem(&document("  peerAddress: 192.0.2.1\n"));
    assert!(missing.contains("spec.peerAs is missing"), "{missing}");
}

#[test]
fn a_node_brings_its_labels_and_the_annotations_that_name_peers() {
    let reading = read_yaml(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: hv\n  labels: {rack: a}\n  annotations:\n\
         \x20   virteip.github.com/bgp-peers-0-peer-ip: 192.0.2.1\n    other: thing\n",
    );
    assert_eq!(reading.refused, []);
    let Object::Node(_, node) = &reading.objects[0] else {
        panic!("{:?}", reading.objects)
    };
    assert_eq!(
        (node.name.as_str(), node.labels["rack"].as_str()),
        ("hv", "a")
    );
    let names: Vec<&String> = node.annotations.keys().collect();
    assert_eq!(names, ["virteip.github.com/bgp-peers-0-peer-ip"]);
    assert!(!serde_json::to_string(node).unwrap().contains("192.0.2.1"));
}
