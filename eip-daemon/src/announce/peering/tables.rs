//! What is announced to whom, and what is said about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use ipnet::IpNet;

use super::resolve::Peer;
use crate::{
    announce::bgp::{AttributeSet, Communities, Route, RouteAttributes},
    model::{Announcement, Announcements, Community, ExportRule, ExportSettings, RouteMarks},
};

/// The routes of all peers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// For peers without rules of their own.
    pub(super) common: Vec<Route>,
    /// For the others, by name.
    pub(super) named: BTreeMap<String, Vec<Route>>,
    /// EIPs that somebody is told about.
    pub(super) eips: BTreeSet<IpAddr>,
    /// What is said changes then.
    pub(super) next_change: Option<SystemTime>,
}

/// What a peer is told about one EIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// These attributes.
    Told {
        attributes: RouteAttributes,
        /// The preference of a VM that has just come ends then.
        until: Option<SystemTime>,
    },
    /// Nothing: this rule of the peer says so, counted from 0.
    Withheld { rule: usize },
}

pub(super) fn tables(
    wanted: &Announcements,
    peers: &BTreeMap<String, Peer>,
    now: SystemTime,
) -> Tables {
    let mut tables = Tables::default();
    let announced = wanted
        .wanted
        .iter()
        .filter(|(_, one)| one.by.includes_bgp());
    let announced: Vec<(IpAddr, &Announcement)> = announced.map(|(eip, one)| (*eip, one)).collect();
    let has_common = peers.values().any(|peer| !has_own_table(&peer.export));
    if has_common {
        let plain = AttributeSet::default();
        tables.eips.extend(announced.iter().map(|(eip, _)| *eip));
        let routes = announced.iter().map(|(eip, _)| Route {
            prefix: IpNet::from(*eip),
            attributes: plain.clone(),
        });
        tables.common = routes.collect();
    }
    for (name, peer) in peers.iter().filter(|(_, peer)| has_own_table(&peer.export)) {
        let routes = own_table(&announced, &peer.export, now, &mut tables);
        tables.named.insert(name.clone(), routes);
    }
    tables
}

/// Not all routes are said alike to this peer.
pub(super) fn has_own_table(export: &ExportSettings) -> bool {
    !export.rules.is_empty() || !export.aggregates.is_empty() || export.preferred.is_some()
}

fn own_table(
    announced: &[(IpAddr, &Announcement)],
    export: &ExportSettings,
    now: SystemTime,
    tables: &mut Tables,
) -> Vec<Route> {
    // Routes with the same attributes share them: they are packed by that.
    let mut known: BTreeMap<RouteAttributes, AttributeSet> = BTreeMap::new();
    let mut share = |attributes: RouteAttributes| {
        if let Some(set) = known.get(&attributes) {
            return Some(set.clone());
        }
        // Checked for every combination when the peer was resolved.
        let set = AttributeSet::new(attributes.clone()).ok()?;
        known.insert(attributes, set.clone());
        Some(set)
    };
    let mut routes = Vec::with_capacity(announced.len());
    let mut covered: BTreeSet<IpNet> = BTreeSet::new();
    for (eip, announcement) in announced {
        let Verdict::Told { attributes, until } = verdict(*eip, announcement, export, now) else {
            continue;
        };
        tables.next_change = [tables.next_change, until].into_iter().flatten().min();
        tables.eips.insert(*eip);
        covered.extend(export.aggregates.iter().filter(|net| net.contains(eip)));
        routes.extend(share(attributes).map(|attributes| Route {
            prefix: IpNet::from(*eip),
            attributes,
        }));
    }
    let plain = attributes(&[&export.attributes]);
    let aggregates = covered.into_iter().filter_map(|prefix| {
        let attributes = share(plain.clone())?;
        Some(Route { prefix, attributes })
    });
    routes.extend(aggregates);
    routes
}

/// What a peer is told about an EIP.
pub(super) fn verdict(
    eip: IpAddr,
    announcement: &Announcement,
    export: &ExportSettings,
    now: SystemTime,
) -> Verdict {
    let rules = export.rules.iter().enumerate();
    let rule = rules
        .clone()
        .find(|(_, rule)| matches(rule, eip, announcement));
    if let Some((at, _)) = rule.filter(|(_, rule)| !rule.announce) {
        return Verdict::Withheld { rule: at };
    }
    let preferred = export.preferred.as_ref();
    let preferred = preferred
        .zip(announcement.arrived)
        .and_then(|(preferred, arrived)| {
            let until = arrived + preferred.duration;
            // Times of other machines may be a little ahead; by more than that, somebody has set a clock.
            let is_ahead = now + preferred.duration < arrived;
            (now < until && !is_ahead).then_some((&preferred.marks, until))
        });
    let levels = [
        preferred.map(|(marks, _)| marks),
        rule.map(|(_, rule)| &rule.attributes),
        Some(&export.attributes),
    ];
    let levels: Vec<&RouteMarks> = levels.into_iter().flatten().collect();
    Verdict::Told {
        attributes: attributes(&levels),
        until: preferred.map(|(_, until)| until),
    }
}

fn matches(rule: &ExportRule, eip: IpAddr, announcement: &Announcement) -> bool {
    let ExportRule {
        prefixes,
        namespaces,
        bindings,
        announce: _,
        attributes: _,
    } = rule;
    let binding = &announcement.binding;
    (prefixes.is_empty() || prefixes.iter().any(|net| net.contains(&eip)))
        && (namespaces.is_empty() || namespaces.contains(&binding.namespace))
        && (bindings.is_empty() || bindings.contains(&binding.name))
}

/// The marks of several levels, the strongest first. Communities add up.
pub(super) fn attributes(levels: &[&RouteMarks]) -> RouteAttributes {
    let mut communities = Communities::default();
    for community in levels.iter().flat_map(|level| &level.communities) {
        match *community {
            Community::Standard(value) => _ = communities.standard.insert(value),
            Community::Extended(value) => _ = communities.extended.insert(value),
            Community::Large(value) => _ = communities.large.insert(value),
        }
    }
    RouteAttributes {
        communities,
        med: levels.iter().find_map(|level| level.med),
        local_pref: levels.iter().find_map(|level| level.local_pref),
        prepend: levels.iter().find_map(|level| level.prepend).unwrap_or(0),
    }
}
