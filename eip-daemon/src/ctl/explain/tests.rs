//! Each link broken in turn, on a kernel in which everything else is in place.

use eip_common::reason::{Hook, Reason};

use super::{Case, Counted, Heard, chain, way_out};
use crate::{
    ctl::{
        api::{ChainLink, Conflict, LinkState},
        fixture,
    },
    dataplane::{
        ReasonCount,
        examine::{Sighting, TcProgram, Toward},
    },
    model::{Announce, Lane, NodeSettings, PolicyRule, RouteTo, RuleAction, RuleMatch},
    report::Report,
};

const EIP: &str = "203.0.113.10";

struct World {
    report: Report,
    settings: NodeSettings,
    now: Sighting,
    counted: Counted,
    l2: Heard,
}

impl World {
    fn whole() -> Self {
        Self {
            report: fixture::report(),
            settings: fixture::settings(),
            now: fixture::sighting(),
            counted: Counted::default(),
            l2: Heard::default(),
        }
    }

    fn chain_of(&self, name: &str) -> Vec<ChainLink> {
        let item = self
            .report
            .bindings
            .iter()
            .find(|item| item.fact.name.name == name)
            .unwrap();
        chain(&Case {
            report: &self.report,
            settings: &self.settings,
            item,
            now: &self.now,
            counted: self.counted.clone(),
            bgp: None,
            l2: self.l2.clone(),
        })
    }

    /// Name, finding and cure of the first broken link.
    fn broken(&self, name: &str) -> Option<(String, String, String)> {
        let chain = self.chain_of(name);
        let link = chain
            .into_iter()
            .find(|link| link.state == LinkState::Bad)?;
        Some((link.name, link.found, link.cure.unwrap()))
    }
}

fn desired(report: &mut Report) -> &mut crate::model::Desired {
    std::sync::Arc::get_mut(&mut report.desired).unwrap()
}

#[test]
fn a_chain_without_a_broken_link_is_ok_from_end_to_end() {
    let chain = World::whole().chain_of("web");
    let states: Vec<_> = chain
        .iter()
        .map(|link| (link.name.as_str(), link.state))
        .collect();
    let names = [
        "binding",
        "vm",
        "decision",
        "maps",
        "route",
        "neighbour",
        "device",
        "programs",
        "uplinks",
        "way out",
        "announcement",
        "forwarding",
    ];
    assert_eq!(
        states,
        names.map(|name| (name, LinkState::Ok)),
        "{chain:#?}"
    );
}

#[test]
fn what_objects_lack_is_named_first_and_the_rest_is_not_looked_at() {
    let world = World::whole();
    for (name, link, found) in [
        ("thief", "binding", "default/web is older and holds it"),
        ("waiting", "vm", "no VirtualMachineInstance default/vm-d"),
        ("failing", "decision", "map EIP4_V1 is full"),
    ] {
        let (broken, said, _) = world.broken(name).unwrap();
        assert_eq!(broken, link, "{name}");
        assert!(said.contains(found), "{said}");
    }
    let chain = world.chain_of("away");
    assert!(
        chain.iter().all(|link| link.state != LinkState::Bad),
        "{chain:#?}"
    );
    assert!(chain[1].found.contains("runs on node-b"), "{chain:#?}");
}

/// Link, what is said about it, and how to break it.
type Break = (&'static str, &'static str, fn(&mut World));

fn are_named(cases: &[Break]) {
    for (link, found, break_it) in cases {
        let mut world = World::whole();
        break_it(&mut world);
        let (broken, said, cure) = world.broken("web").expect(found);
        assert_eq!(broken, *link, "{said}");
        assert!(said.contains(found), "{said}");
        assert!(!cure.is_empty(), "{said}");
    }
}

#[test]
fn every_link_of_the_kernel_is_named_when_it_breaks() {
    are_named(&[
        ("maps", "the EIP map has no 203.0.113.10", |w| {
            w.now.kernel.bindings.clear();
        }),
        ("maps", "with MTU 9000, wanted is 1450", |w| {
            w.now
                .kernel
                .bindings
                .get_mut(&EIP.parse().unwrap())
                .unwrap()
                .0
                .mtu = 9000;
        }),
        ("maps", "the VM map has no 10.0.0.10", |w| {
            w.now.kernel.vms.clear();
        }),
        ("maps", "prefix 10.0.0.0/8", |w| {
            w.now.kernel.nets.clear();
        }),
        ("maps", "another gateway", |w| {
            w.now.kernel.gateway = None;
        }),
        (
            "route",
            "203.0.113.10 via 10.0.0.10 dev vm0 is missing",
            |w| {
                w.now.kernel.routes.clear();
            },
        ),
        ("route", "sends 203.0.113.10 out of eth0, not vm0", |w| {
            w.now
                .view
                .routes
                .get_mut(&EIP.parse().unwrap())
                .unwrap()
                .ifindex = 2;
        }),
        ("route", "no route for the VM", |w| {
            w.now.view.routes.remove(&"10.0.0.10".parse().unwrap());
        }),
        ("neighbour", "does not answer on vm0", |w| {
            w.now.view.neighbours.clear();
        }),
        ("neighbour", "answers from 02:00:00:00:00:63", |w| {
            w.now
                .view
                .neighbours
                .values_mut()
                .for_each(|mac| *mac = [2, 0, 0, 0, 0, 99]);
        }),
        ("device", "vm0 is down", |w| {
            w.now.view.links.get_mut(&7).unwrap().is_up = false;
        }),
        ("device", "vm0 has no carrier", |w| {
            w.now.running.remove(&7);
        }),
        ("device", "takes 1400 bytes, programmed are 1450", |w| {
            w.now.view.links.get_mut(&7).unwrap().mtu = 1400;
        }),
        ("programs", "door-out does not run on vm0", |w| {
            w.now.attachments.retain(|at| at.hook != Hook::DoorOut);
        }),
        (
            "programs",
            "door-in on vm0 is that of another process",
            |w| {
                w.now.programs.insert(Hook::DoorIn, 12);
            },
        ),
    ]);
}

#[test]
fn every_link_toward_the_network_is_named_when_it_breaks() {
    are_named(&[
        ("uplinks", "eth0 has no carrier", |w| {
            w.now.running.remove(&2);
        }),
        ("uplinks", "uplink-tc does not run on eth0", |w| {
            w.now.attachments.retain(|at| at.hook != Hook::UplinkTc);
        }),
        ("way out", "no route to the gateway 192.0.2.1", |w| {
            w.now.view.routes.remove(&"192.0.2.1".parse().unwrap());
        }),
        (
            "way out",
            "rules are missing: 1181: to 203.0.113.0/24 iif eth0 unreachable",
            |w| {
                desired(&mut w.report).rules.insert(PolicyRule {
                    priority: 1181,
                    matches: RuleMatch::ArrivingFor {
                        iif: "eth0".into(),
                        to: "203.0.113.0/24".parse().unwrap(),
                    },
                    action: RuleAction::Unreachable,
                });
            },
        ),
    ]);
}

/// A world whose EIP is announced this way, and what is said of its announcement.
fn announced(by: Announce, l2: Heard) -> ChainLink {
    let mut world = World::whole();
    for announcement in desired(&mut world.report).announcements.values_mut() {
        announcement.by = by;
    }
    world.l2 = l2;
    let mut chain = world.chain_of("web").into_iter();
    chain.find(|link| link.name == "announcement").unwrap()
}

#[test]
fn an_eip_that_somebody_else_on_the_segment_answers_for_is_broken() {
    let contested = Heard {
        conflict: Some(Conflict {
            mac: "02:00:00:00:00:66".to_owned(),
            uplink: "eth0".to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            claims: 3,
        }),
        problems: Vec::new(),
    };
    for by in [Announce::L2, Announce::Both] {
        let link = announced(by, contested.clone());
        assert_eq!(link.state, LinkState::Bad, "{link:?}");
        assert!(
            link.found
                .contains("02:00:00:00:00:66 on eth0 says that it has 203.0.113.10 too"),
            "{}",
            link.found
        );
        assert!(link.cure.unwrap().contains("bind another EIP"));
    }
    // By BGP alone nobody asks the segment.
    assert_eq!(announced(Announce::Bgp, contested).state, LinkState::Ok);
}

#[test]
fn what_keeps_the_layer_2_announcer_from_telling_is_noted() {
    let mute = Heard {
        conflict: None,
        problems: vec!["eth0: no buffer".to_owned()],
    };
    let link = announced(Announce::L2, mute);
    assert_eq!(link.state, LinkState::Ok);
    assert!(link.found.contains("answered 0 times"), "{}", link.found);
    assert_eq!(link.notes, ["eth0: no buffer"]);
}

#[test]
fn without_a_gateway_the_routing_table_has_to_lead_out_of_an_uplink() {
    let mut world = World::whole();
    world.settings.gateway4 = None;
    let (link, said, _) = world.broken("web").unwrap();
    assert_eq!(link, "way out");
    assert!(said.contains("does not forward"), "{said}");

    let way = way_out(EIP.parse().unwrap(), 7);
    let mut route = RouteTo {
        ifindex: 7,
        gateway: None,
        is_unicast: true,
    };
    world.now.ways.insert(way, route.clone());
    let (_, said, cure) = world.broken("web").unwrap();
    assert!(said.contains("out of vm0, which is no uplink"), "{said}");
    assert!(cure.contains("--uplink vm0"), "{cure}");

    route.ifindex = 2;
    world.now.ways.insert(way, route);
    assert_eq!(world.broken("web"), None);
}

#[test]
fn packets_that_netfilter_drops_in_the_stack_lane_are_missed_and_the_rule_is_printed() {
    let mut world = World::whole();
    let state = desired(&mut world.report)
        .bindings
        .get_mut(&EIP.parse().unwrap())
        .unwrap();
    state.delivery = Lane::Stack;
    let state = state.clone();
    world
        .now
        .kernel
        .bindings
        .insert(EIP.parse().unwrap(), (state, 0));
    assert_eq!(world.broken("web"), None);

    world.counted.reasons.push(ReasonCount {
        hook: Hook::UplinkTc,
        reason: Reason::DeliveredStack,
        packets: 10,
    });
    world.counted.to_vm = 9;
    assert_eq!(world.broken("web"), None);

    world.counted.to_vm = 0;
    let (link, said, cure) = world.broken("web").unwrap();
    assert_eq!(link, "forwarding");
    assert!(
        said.contains("10 packets were given to the kernel"),
        "{said}"
    );
    assert!(
        cure.contains("iptables -I FORWARD -d 203.0.113.0/24 -o vm0 -j ACCEPT"),
        "{cure}"
    );
}

#[test]
fn a_program_that_may_hide_packets_from_ours_is_noted() {
    let mut world = World::whole();
    let program = |name: &str, id, is_ours| TcProgram {
        name: name.into(),
        id,
        is_ours,
    };
    let chain = vec![
        program("cil_from_contai", 5, false),
        program("eip_door_out", 11, true),
    ];
    world.now.tc.insert((7, Toward::Node), chain);
    let chain = world.chain_of("web");
    let link = chain.iter().find(|link| link.name == "programs").unwrap();
    assert_eq!(link.state, LinkState::Ok);
    assert!(
        link.notes[0].contains("before door-out on vm0 runs cil_from_contai (id 5)"),
        "{link:?}"
    );
}
