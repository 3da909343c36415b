//! Whether a binding is programmed, announced, ready, and why not: one answer for whoever asks. Pure but
//! for [`Network::look`].
//!
//! `eipctl` shows it for bindings of every source; [`crate::feedback`] writes it to the API server. There
//! the controller says `Ready`, by the same rule.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    announce::{
        l2::{Conflict, L2Announcer},
        peering::{BgpAnnouncer, RouteReport},
    },
    model::{Announce, Outcome},
    report::{BindingReport, Report},
    source::objects::ConditionStatus,
};

/// One aspect of a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aspect {
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Everything there is to say about one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// The kernel has it.
    pub programmed: Aspect,
    /// The network is told where it is. Unknown where that is not this program's business.
    pub announced: Aspect,
    /// It works, as far as this node can tell.
    pub ready: Aspect,
    /// Who is told.
    pub told: Told,
}

/// Who is told where an EIP is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// BGP peers, by name.
    pub peers: Vec<String>,
    /// Uplinks on whose segments neighbours are told.
    pub uplinks: Vec<String>,
}

/// What announcers know, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// EIPs toward BGP peers.
    routes: BTreeMap<IpAddr, RouteReport>,
    /// BGP peers are asked for, in force or not.
    has_peers: bool,
    /// Why BGP does not run.
    problem: Option<String>,
    /// Uplinks on which each EIP has been told.
    told: BTreeMap<IpAddr, Vec<u32>>,
    conflicts: BTreeMap<IpAddr, Conflict>,
}

impl Network {
    /// What they know now.
    #[must_use]
    pub fn look(bgp: &BgpAnnouncer, l2: &L2Announcer) -> Self {
        let report = bgp.report();
        let routes = report.routes.into_iter();
        Self {
            routes: routes.map(|route| (route.eip, route)).collect(),
            has_peers: report.configured > 0 || !report.refused.is_empty(),
            problem: report.problem,
            told: l2.told(),
            conflicts: l2.conflicts(),
        }
    }
}

/// What can be said about a binding; nothing about one that is another node's.
#[must_use]
pub fn conditions(item: &BindingReport, report: &Report, network: &Network) -> Option<Conditions> {
    let programmed = programmed(item)?;
    let (announced, told) = if programmed.status == ConditionStatus::True {
        announced(item, report, network)
    } else {
        let why = "what the kernel does not have is not announced";
        (no("NotProgrammed", why), Told::default())
    };
    Some(Conditions {
        ready: ready(&programmed, &announced),
        programmed,
        announced,
        told,
    })
}

fn programmed(item: &BindingReport) -> Option<Aspect> {
    let aspect = match (&item.outcome, &item.programmed, &item.error) {
        (Outcome::Elsewhere { .. }, ..) => return None,
        (Outcome::Waiting { reason, message }, ..) => no(&format!("{reason:?}"), message),
        (Outcome::Refused { reason, message }, ..) => no(&format!("{reason:?}"), message),
        (Outcome::Served { .. }, _, Some(error)) => no("NotProgrammed", error),
        (Outcome::Served { .. }, None, None) => {
            no("NotProgrammed", "the kernel does not have it yet")
        }
        (Outcome::Served { .. }, Some(_), None) if item.is_fenced => {
            let why = "the node does not serve what its agent could not renew in time";
            no("Fenced", why)
        }
        (Outcome::Served { note, .. }, Some(_), None) => {
            yes("Programmed", note.as_deref().unwrap_or_default())
        }
    };
    Some(aspect)
}

fn announced(item: &BindingReport, report: &Report, network: &Network) -> (Aspect, Told) {
    let eip = item.fact.eip;
    let mut told = Told::default();
    let Some(wanted) = report.desired.announcements.get(&eip) else {
        return (no("NotAnnounced", "it is not to be announced yet"), told);
    };
    if wanted.by == Announce::None {
        let why = "announce is none: routes of the operator lead here, or do not";
        return (unknown("LeftToOperator", why), told);
    }
    if wanted.by == Announce::Bgp && !network.has_peers {
        let why = "this node has no BGP peers: routes of the operator lead here, or do not";
        return (unknown("NoPeers", why), told);
    }
    let mut problems = Vec::new();
    if wanted.by.includes_bgp() {
        tell_peers(network, eip, &mut told, &mut problems);
    }
    if wanted.by.includes_l2() {
        tell_uplinks(network, report, eip, &mut told, &mut problems);
    }
    let told_to: Vec<&str> = told
        .peers
        .iter()
        .chain(&told.uplinks)
        .map(String::as_str)
        .collect();
    let problems = problems.join("; ");
    if told_to.is_empty() {
        return (no("NobodyTold", &problems), told);
    }
    let mut message = format!("to {}", told_to.join(", "));
    if !problems.is_empty() {
        message = format!("{message}; not everywhere: {problems}");
    }
    (yes("Announced", &message), told)
}

fn tell_peers(network: &Network, eip: IpAddr, told: &mut Told, problems: &mut Vec<String>) {
    problems.extend(network.problem.clone());
    let peers = network.routes.get(&eip).map(|route| &route.peers);
    let peers = peers.into_iter().flatten();
    let before = problems.len();
    for (peer, state) in peers {
        if state.is_told() {
            told.peers.push(peer.clone());
        }
        // One that is withheld by a rule is as somebody wants it.
        let why = state.remark().filter(|_| !state.is_meant());
        problems.extend(why.map(|why| format!("{peer}: {why}")));
    }
    if told.peers.is_empty() && problems.len() == before {
        let why = if network.has_peers {
            "no BGP peer is to be told, or none has called"
        } else {
            "this node has no BGP peers"
        };
        problems.push(why.to_owned());
    }
}

fn tell_uplinks(
    network: &Network,
    report: &Report,
    eip: IpAddr,
    told: &mut Told,
    problems: &mut Vec<String>,
) {
    let links = &report.view.links;
    let name = |ifindex: &u32| links.get(ifindex).map(|link| link.name.clone());
    let uplinks = network.told.get(&eip).into_iter().flatten();
    told.uplinks.extend(uplinks.filter_map(name));
    if told.uplinks.is_empty() {
        problems.push("no uplink is up that neighbours could be told on".to_owned());
    }
    if let Some(conflict) = network.conflicts.get(&eip) {
        problems.push(format!("somebody else claims it on {}", conflict.uplink));
    }
}

fn ready(programmed: &Aspect, announced: &Aspect) -> Aspect {
    match (programmed.status, announced.status) {
        (ConditionStatus::True, ConditionStatus::True) => yes("Serving", ""),
        (ConditionStatus::True, ConditionStatus::Unknown) => yes("Serving", &announced.message),
        (ConditionStatus::True, ConditionStatus::False) => announced.clone(),
        (ConditionStatus::False | ConditionStatus::Unknown, _) => programmed.clone(),
    }
}

fn aspect(status: ConditionStatus, reason: &str, message: &str) -> Aspect {
    Aspect {
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn yes(reason: &str, message: &str) -> Aspect {
    aspect(ConditionStatus::True, reason, message)
}

fn no(reason: &str, message: &str) -> Aspect {
    aspect(ConditionStatus::False, reason, message)
}

fn unknown(reason: &str, message: &str) -> Aspect {
    aspect(ConditionStatus::Unknown, reason, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Conditions, Network, conditions};
    use crate::{
        announce::{
            bgp::State,
            peering::{RouteReport, RouteState},
        },
        ctl::fixture,
        model::{Announce, Announcement},
        report::Report,
        source::objects::ConditionStatus::{False, True, Unknown},
    };

    /// The fixture's first binding is programmed; here it is announced by these means.
    fn report(by: Announce) -> Report {
        let mut report = fixture::report();
        let fact = &report.bindings[0].fact;
        let announcement = Announcement {
            binding: fact.name.clone(),
            by,
            arrived: None,
        };
        let announcements = [(fact.eip, announcement)].into();
        Arc::make_mut(&mut report.desired).announcements = announcements;
        report
    }

    fn network(report: &Report, peers: &[(&str, RouteState)]) -> Network {
        let fact = &report.bindings[0].fact;
        let peers = peers
            .iter()
            .map(|(name, state)| ((*name).to_owned(), *state));
        let route = RouteReport {
            eip: fact.eip,
            binding: fact.name.clone(),
            peers: peers.collect(),
        };
        Network {
            routes: [(fact.eip, route)].into(),
            has_peers: true,
            ..Network::default()
        }
    }

    fn first(report: &Report, network: &Network) -> Conditions {
        conditions(&report.bindings[0], report, network).unwrap()
    }

    #[test]
    fn one_peer_that_has_it_makes_it_announced_and_the_others_are_named() {
        let report = report(Announce::Bgp);
        let peers = [
            ("a", RouteState::Advertised),
            ("b", RouteState::NoSession(State::Active)),
            ("c", RouteState::Withheld(0)),
        ];
        let all = first(&report, &network(&report, &peers));
        assert_eq!((all.announced.status, all.ready.status), (True, True));
        assert_eq!(all.told.peers, ["a"]);
        assert_eq!(
            all.announced.message,
            "to a; not everywhere: b: no session: Active"
        );
    }

    #[test]
    fn what_nobody_is_told_about_is_not_ready() {
        let report = report(Announce::Bgp);
        let peers = [("b", RouteState::NoSession(State::Idle))];
        let all = first(&report, &network(&report, &peers));
        assert_eq!(all.programmed.status, True);
        assert_eq!((all.announced.status, all.ready.status), (False, False));
        assert_eq!(all.ready.reason, "NobodyTold");
        assert_eq!(all.ready.message, "b: no session: Idle");
    }

    #[test]
    fn what_is_not_ours_to_announce_is_ready_with_a_remark() {
        for (by, reason) in [
            (Announce::None, "LeftToOperator"),
            (Announce::Bgp, "NoPeers"),
        ] {
            let report = report(by);
            let all = first(&report, &Network::default());
            assert_eq!((all.announced.status, all.ready.status), (Unknown, True));
            assert_eq!(all.announced.reason, reason);
            assert_eq!(all.ready.message, all.announced.message);
        }
    }

    #[test]
    fn on_layer_2_the_uplinks_are_named() {
        let report = report(Announce::Both);
        let eip = report.bindings[0].fact.eip;
        let mut network = network(&report, &[("a", RouteState::Pending)]);
        let none = first(&report, &network);
        assert_eq!(none.announced.status, False);
        network.told = [(eip, vec![2, 99])].into();
        let all = first(&report, &network);
        assert_eq!(all.announced.status, True);
        assert_eq!(all.told.uplinks, ["eth0"]);
        assert_eq!(
            all.announced.message,
            "to eth0; not everywhere: a: on its way"
        );
    }

    #[test]
    fn what_is_not_programmed_says_so_and_what_is_elsewhere_says_nothing() {
        let report = report(Announce::Bgp);
        let network = network(&report, &[("a", RouteState::Advertised)]);
        let reasons: Vec<Option<String>> = report
            .bindings
            .iter()
            .map(|item| conditions(item, &report, &network))
            .map(|all| all.map(|all| all.ready.reason))
            .collect();
        assert_eq!(
            reasons,
            [
                Some("Serving".to_owned()),
                Some("Conflict".to_owned()),
                None,
                Some("VmNotFound".to_owned()),
                Some("NotProgrammed".to_owned()),
            ]
        );
    }
}
