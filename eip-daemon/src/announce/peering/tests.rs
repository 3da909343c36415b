//! Who is spoken to, and what is said.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use super::{
    BgpSettings, OnExit,
    resolve::resolve,
    secrets::Secrets,
    tables::{Tables, tables},
};
use crate::{
    announce::bgp::{PeerAs, Reach},
    model::{
        Announce, Announcement, Announcements, Community, ExportRule, ExportSettings, Facts,
        NodeFact, ObjectName, PasswordSource, PeerAsn, PeerFact, PeerFamilies, PeerPlace,
        PeerReach, PeerSettings, Preference, RouteMarks, Secret,
    },
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn settings() -> BgpSettings {
    BgpSettings {
        node_name: "hv1".to_owned(),
        local_as: Some(64512),
        router_id: Some([192, 0, 2, 10].into()),
        listen: Vec::new(),
        restart_time: Duration::from_mins(2),
        annotation_prefix: "virteip.github.com".to_owned(),
        state_directory: PathBuf::from("/nonexistent"),
        on_exit: OnExit::Withdraw,
    }
}

fn fact(name: &str, address: &str) -> PeerFact {
    PeerFact {
        name: ObjectName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        },
        generation: 1,
        node_selector: BTreeMap::new(),
        settings: PeerSettings {
            place: PeerPlace::Address(ip(address)),
            peer_as: PeerAsn::Number(64500),
            local_as: None,
            port: None,
            interface: None,
            source: None,
            passive: false,
            reach: PeerReach::Direct,
            password: None,
            hold_time: None,
            send_hold_time: None,
            connect_timeout: None,
            families: PeerFamilies::default(),
            graceful_restart: true,
            bfd: None,
        },
        export: ExportSettings::default(),
        origin: None,
    }
}

fn facts(peers: Vec<PeerFact>) -> Facts {
    Facts {
        peers,
        complete: true,
        ..Facts::default()
    }
}

/// Makes a good peer a bad one.
type Spoil = fn(&mut PeerFact);

/// The problem of the peer `bad`, while `good` is there.
fn problem(spoil: impl FnOnce(&mut PeerFact), settings: &BgpSettings) -> String {
    let mut bad = fact("bad", "192.0.2.1");
    spoil(&mut bad);
    let facts = facts(vec![bad, fact("good", "192.0.2.2")]);
    let resolved = resolve(&facts, settings, &Secrets::default());
    assert!(resolved.peers.contains_key("good"));
    assert_eq!(resolved.refused.len(), 1, "{resolved:?}");
    resolved.refused[0].problem.clone()
}

#[test]
fn one_bad_peer_is_refused_with_its_field_and_the_others_go_on() {
    let problem = |spoil: Spoil| problem(spoil, &settings());
    let cases: [(Spoil, &str); 5] = [
        (
            |peer| peer.settings.source = Some(ip("2001:db8::1")),
            "spec.source",
        ),
        (
            |peer| peer.settings.password = Some(PasswordSource::File("/no/such".into())),
            "spec.passwordFile: /no/such: ",
        ),
        (
            |peer| peer.settings.passive = true,
            "spec.passive: nobody listens",
        ),
        (
            |peer| peer.settings.place = PeerPlace::Address(ip("fe80::1")),
            "spec.interface",
        ),
        (
            |peer| {
                let many = (0..65).map(Community::Standard);
                peer.export.attributes.communities = many.collect();
            },
            "spec.communities: more than 64",
        ),
    ];
    for (spoil, expected) in cases {
        let text = problem(spoil);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_peer_needs_an_as_of_ours() {
    let mut settings = settings();
    settings.local_as = None;
    let mut with_own = fact("own", "192.0.2.2");
    with_own.settings.local_as = Some(65001);
    let facts = facts(vec![fact("bad", "192.0.2.1"), with_own]);
    let resolved = resolve(&facts, &settings, &Secrets::default());
    assert!(resolved.refused[0].problem.contains("--bgp-local-as"));
    assert_eq!(resolved.peers["own"].config.session.local_as, Some(65001));
}

#[test]
fn only_selected_nodes_speak_to_a_peer() {
    let mut selective = fact("rack-a", "192.0.2.1");
    selective
        .node_selector
        .insert("rack".to_owned(), "a".to_owned());
    let mut facts = facts(vec![selective]);
    let count = |facts: &Facts| resolve(facts, &settings(), &Secrets::default()).peers.len();
    assert_eq!(count(&facts), 0, "a node nobody knows has no labels");
    for (name, rack, expected) in [("hv1", "a", 1), ("hv1", "b", 0), ("hv2", "a", 0)] {
        facts.nodes = vec![NodeFact {
            name: name.to_owned(),
            labels: [("rack".to_owned(), rack.to_owned())].into(),
            ..NodeFact::default()
        }];
        assert_eq!(count(&facts), expected, "{name} in {rack}");
    }
}

#[test]
fn objects_and_annotations_are_peers_alike() {
    let mut facts = facts(vec![fact("tor", "192.0.2.1")]);
    let annotation = |field: &str, value: &str| {
        let key = format!("virteip.github.com/bgp-peers-0-{field}");
        (key, Secret(value.to_owned()))
    };
    facts.nodes = vec![NodeFact {
        name: "hv1".to_owned(),
        annotations: [
            annotation("peer-ip", "192.0.2.2"),
            annotation("peer-asn", "64500"),
        ]
        .into(),
        ..NodeFact::default()
    }];
    let resolved = resolve(&facts, &settings(), &Secrets::default());
    let names: Vec<_> = resolved.peers.keys().collect();
    assert_eq!(names, ["annotation-0", "tor"]);
    assert_eq!(resolved.refused, []);
}

#[test]
fn settings_of_an_object_arrive_at_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, "secret\n").unwrap();
    let mut peer = fact("tor", "192.0.2.1");
    peer.settings.peer_as = PeerAsn::External;
    peer.settings.reach = PeerReach::TtlSecurity(1);
    peer.settings.port = Some(1790);
    peer.settings.hold_time = Some(Duration::from_secs(9));
    peer.settings.families.ipv6 = false;
    peer.settings.password = Some(PasswordSource::File(key.clone()));
    peer.export.attributes.med = Some(7);
    let resolved = resolve(&facts(vec![peer]), &settings(), &Secrets::read([key]));
    assert_eq!(resolved.refused, []);
    let config = &resolved.peers["tor"].config;
    assert_eq!(config.session.peer_as, PeerAs::External);
    assert_eq!(config.transport.reach, Reach::TtlSecurity(1));
    assert_eq!(
        (config.transport.port, config.session.families.len()),
        (1790, 1)
    );
    assert_eq!(config.session.hold_time, Duration::from_secs(9));
    assert_eq!(config.export.med, Some(7));
    assert!(config.transport.password.is_some());
    assert!(!format!("{resolved:?}").contains("secret"));
}

fn announcement(binding: &str) -> Announcement {
    let (namespace, name) = binding.split_once('/').unwrap();
    Announcement {
        binding: ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        by: Announce::Bgp,
        arrived: None,
    }
}

fn wanted() -> Announcements {
    let list = [
        ("203.0.113.10", "a/web"),
        ("203.0.113.11", "b/web"),
        ("198.51.100.5", "b/db"),
        ("2001:db8::5", "b/six"),
    ];
    let entry = |(eip, binding): (&str, &str)| (ip(eip), announcement(binding));
    Announcements {
        wanted: list.map(entry).into(),
        is_complete: true,
        ..Announcements::default()
    }
}

fn told(export: ExportSettings, wanted: &Announcements, now: SystemTime) -> Tables {
    let mut fact = fact("tor", "192.0.2.1");
    fact.export = export;
    let resolved = resolve(&facts(vec![fact]), &settings(), &Secrets::default());
    assert_eq!(resolved.refused, []);
    tables(wanted, &resolved.peers, now)
}

fn prefixes(tables: &Tables, name: &str) -> Vec<String> {
    tables.named[name]
        .iter()
        .map(|route| route.prefix.to_string())
        .collect()
}

#[test]
fn a_peer_without_rules_gets_every_eip_that_is_announced_by_bgp() {
    let mut wanted = wanted();
    wanted.wanted.get_mut(&ip("203.0.113.11")).unwrap().by = Announce::L2;
    wanted.wanted.get_mut(&ip("2001:db8::5")).unwrap().by = Announce::None;
    let tables = told(ExportSettings::default(), &wanted, SystemTime::UNIX_EPOCH);
    let common: Vec<String> = tables.common.iter().map(|r| r.prefix.to_string()).collect();
    assert_eq!(common, ["198.51.100.5/32", "203.0.113.10/32"]);
    assert!(tables.named.is_empty() && tables.eips.len() == 2);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let mark = |value: u32| RouteMarks {
        communities: [Community::Standard(value)].into(),
        med: Some(value),
        ..RouteMarks::default()
    };
    let export = ExportSettings {
        attributes: RouteMarks {
            prepend: Some(3),
            ..mark(1)
        },
        rules: vec![
            ExportRule {
                namespaces: ["b".to_owned()].into(),
                prefixes: vec![net("198.51.100.0/24")],
                announce: false,
                ..ExportRule::default()
            },
            ExportRule {
                bindings: ["web".to_owned()].into(),
                announce: true,
                attributes: RouteMarks {
                    prepend: Some(0),
                    ..mark(2)
                },
                ..ExportRule::default()
            },
            ExportRule {
                namespaces: ["a".to_owned()].into(),
                announce: false,
                ..ExportRule::default()
            },
        ],
        ..ExportSettings::default()
    };
    let tables = told(export, &wanted(), SystemTime::UNIX_EPOCH);
    assert_eq!(
        prefixes(&tables, "tor"),
        ["203.0.113.10/32", "203.0.113.11/32", "2001:db8::5/128"]
    );
    let [web, _, six] = tables.named["tor"].as_slice() else {
        panic!("three routes");
    };
    let communities = |route: &crate::announce::bgp::Route| {
        route
            .attributes
            .communities
            .standard
            .iter()
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!((web.attributes.med, web.attributes.prepend), (Some(2), 0));
    assert_eq!(communities(web), [1, 2], "communities add up");
    assert_eq!((six.attributes.med, six.attributes.prepend), (Some(1), 3));
    assert_eq!(communities(six), [1]);
}

#[test]
fn an_aggregate_is_announced_while_an_eip_inside_is() {
    let export = ExportSettings {
        aggregates: [net("203.0.113.0/24"), net("192.0.2.0/24")].into(),
        ..ExportSettings::default()
    };
    let mut wanted = wanted();
    let tables = told(export.clone(), &wanted, SystemTime::UNIX_EPOCH);
    assert!(prefixes(&tables, "tor").contains(&"203.0.113.0/24".to_owned()));
    assert!(!prefixes(&tables, "tor").contains(&"192.0.2.0/24".to_owned()));
    wanted.wanted.retain(|eip, _| *eip == ip("198.51.100.5"));
    let tables = told(export, &wanted, SystemTime::UNIX_EPOCH);
    assert_eq!(prefixes(&tables, "tor"), ["198.51.100.5/32"]);
}

#[test]
fn a_vm_that_has_just_come_is_preferred_for_a_while() {
    let export = ExportSettings {
        preferred: Some(Preference {
            duration: Duration::from_secs(30),
            marks: RouteMarks {
                local_pref: Some(200),
                ..RouteMarks::default()
            },
        }),
        ..ExportSettings::default()
    };
    let mut wanted = wanted();
    let arrived = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    wanted.wanted.get_mut(&ip("203.0.113.10")).unwrap().arrived = Some(arrived);
    let preference = |now: SystemTime| {
        let tables = told(export.clone(), &wanted, now);
        let preferred = tables.named["tor"]
            .iter()
            .filter(|r| r.attributes.local_pref.is_some());
        let preferred: Vec<String> = preferred.map(|r| r.prefix.to_string()).collect();
        (preferred, tables.next_change)
    };
    let until = arrived + Duration::from_secs(30);
    assert_eq!(
        preference(arrived),
        (vec!["203.0.113.10/32".to_owned()], Some(until))
    );
    assert_eq!(preference(until), (vec![], None));
    // A clock that was set by an hour ends it, and never prolongs it.
    let hour = Duration::from_hours(1);
    assert_eq!(preference(arrived + hour), (vec![], None));
    wanted.wanted.get_mut(&ip("203.0.113.10")).unwrap().arrived = Some(arrived + hour);
    assert_eq!(told(export.clone(), &wanted, arrived).next_change, None);
}
