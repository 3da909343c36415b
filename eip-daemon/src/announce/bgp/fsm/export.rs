//! From Adj-RIB-Out to messages: what one established session says about its routes.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    Agreement, Endpoints,
    next_hop::{Via, next_hop_ipv4, next_hop_ipv6},
};
use crate::announce::bgp::{
    config::ExportPolicy,
    rib::{AdjRibOut, Due, EndMarker, RefreshMarkers},
    route::{AttributeSet, FamilyRoutes, GRACEFUL_SHUTDOWN, RouteTable},
    wire::{
        Family, PathAttributes, RefreshKind, RouteRefresh, UpdateWriter, WirePrefix,
        encode_end_of_rib,
    },
};

/// `LOCAL_PREF` where nobody says otherwise, as routers have it.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// How routes leave while the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serving {
    /// As usual.
    #[default]
    Normally,
    /// Marked `GRACEFUL_SHUTDOWN` and least preferred (RFC 8326 §4).
    Reluctantly,
    /// Not at all: everything is withdrawn, the session stays.
    Nothing,
}

/// Why a family is not announced on an established session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Silence {
    /// One of the two sides does not speak it.
    NotNegotiated,
    /// There is no address to send traffic to.
    NoNextHop,
}

/// Routes of one family, or why there are none.
#[derive(Debug)]
struct FamilyExport<P> {
    rib: AdjRibOut<P>,
    via: Via,
    /// The next hop was taken away: nothing is announced, and `via` is no longer true.
    is_muted: bool,
    /// The peer has asked for everything again. However often it does, it costs one look at the
    /// table, when the socket has room.
    is_refresh_asked: bool,
}

/// Everything an established session sends beside KEEPALIVE and NOTIFICATION.
#[derive(Debug)]
pub(super) struct Export {
    agreement: Agreement,
    policy: ExportPolicy,
    serving: Serving,
    ipv4: Result<FamilyExport<Ipv4Net>, Silence>,
    ipv6: Result<FamilyExport<Ipv6Net>, Silence>,
    generation: u64,
}

/// What was written, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Written {
    pub(super) updates: u64,
    pub(super) refreshes: u64,
}

impl Export {
    pub(super) fn new(
        agreement: Agreement,
        endpoints: Endpoints,
        policy: ExportPolicy,
        serving: Serving,
        table: &RouteTable,
    ) -> Self {
        let via4 = next_hop_ipv4(&policy, endpoints, &agreement);
        let via6 = next_hop_ipv6(&policy, endpoints);
        let table = shown(table, serving);
        Self {
            ipv4: family(&agreement, via4, &table.ipv4, table.is_complete),
            ipv6: family(&agreement, via6, &table.ipv6, table.is_complete),
            generation: table.generation,
            agreement,
            policy,
            serving,
        }
    }

    pub(super) fn set_table(&mut self, table: &RouteTable) {
        let table = shown(table, self.serving);
        self.generation = table.generation;
        if let Ok(export) = &mut self.ipv4 {
            export.set_desired(&table.ipv4, table.is_complete);
        }
        if let Ok(export) = &mut self.ipv6 {
            export.set_desired(&table.ipv6, table.is_complete);
        }
    }

    /// A policy that differs in attributes only. A change of next hop goes the same way.
    pub(super) fn set_policy(
        &mut self,
        policy: ExportPolicy,
        endpoints: Endpoints,
        table: &RouteTable,
    ) {
        let via4 = next_hop_ipv4(&policy, endpoints, &self.agreement);
        let via6 = next_hop_ipv6(&policy, endpoints);
        self.policy = policy;
        let table = shown(table, self.serving);
        revise(
            &mut self.ipv4,
            &self.agreement,
            via4,
            &table.ipv4,
            table.is_complete,
        );
        revise(
            &mut self.ipv6,
            &self.agreement,
            via6,
            &table.ipv6,
            table.is_complete,
        );
    }

    pub(super) fn set_serving(&mut self, serving: Serving, table: &RouteTable) {
        if self.serving == serving {
            return;
        }
        self.serving = serving;
        self.set_table(table);
        self.repeat_all();
    }

    fn repeat_all(&mut self) {
        if let Ok(export) = &mut self.ipv4 {
            export.rib.repeat_all();
        }
        if let Ok(export) = &mut self.ipv6 {
            export.rib.repeat_all();
        }
    }

    /// RFC 2918 §4: all of the family again; framed when both sides can (RFC 7313 §4).
    pub(super) fn refresh(&mut self, family: Family) {
        match (family, &mut self.ipv4, &mut self.ipv6) {
            (Family::Ipv4, Ok(export), _) => export.is_refresh_asked = true,
            (Family::Ipv6, _, Ok(export)) => export.is_refresh_asked = true,
            (Family::Ipv4 | Family::Ipv6, _, _) => {}
        }
    }

    /// Appends messages until `out` holds `room` bytes or nothing is left to say.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, room: usize) -> Written {
        let mut written = Written::default();
        let speech = Speech {
            agreement: &self.agreement,
            policy: &self.policy,
            serving: self.serving,
        };
        if let Ok(export) = &mut self.ipv4 {
            while out.len() < room && export.write_one(speech, out, &mut written) {}
        }
        if let Ok(export) = &mut self.ipv6 {
            while out.len() < room && export.write_one(speech, out, &mut written) {}
        }
        written
    }

    pub(super) fn is_settled(&self) -> bool {
        self.ipv4.as_ref().map_or(true, FamilyExport::is_settled)
            && self.ipv6.as_ref().map_or(true, FamilyExport::is_settled)
    }

    pub(super) fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Routes the peer has and routes it has still to be told about.
    pub(super) fn progress(&self, family: Family) -> Result<(usize, usize), Silence> {
        match family {
            Family::Ipv4 => self.ipv4.as_ref().map(FamilyExport::progress),
            Family::Ipv6 => self.ipv6.as_ref().map(FamilyExport::progress),
        }
        .map_err(|silence| *silence)
    }
}

/// Everything that shapes attributes beside the route itself.
#[derive(Debug, Clone, Copy)]
struct Speech<'a> {
    agreement: &'a Agreement,
    policy: &'a ExportPolicy,
    serving: Serving,
}

impl Speech<'_> {
    /// The attributes of a group of routes (RFC 4271 §5.1).
    fn attributes(&self, route: &AttributeSet, next_hop: Option<Ipv4Addr>) -> PathAttributes {
        let Self {
            agreement,
            policy,
            serving,
        } = self;
        let is_leaving = *serving == Serving::Reluctantly;
        let mut communities = route.communities.clone();
        communities.standard.extend(&policy.communities.standard);
        communities.extended.extend(&policy.communities.extended);
        communities.large.extend(&policy.communities.large);
        if is_leaving {
            communities.standard.insert(GRACEFUL_SHUTDOWN);
        }
        let local_pref = match (agreement.is_internal(), is_leaving) {
            (false, _) => None, // RFC 4271 §5.1.5
            (true, true) => Some(0),
            (true, false) => route
                .local_pref
                .or(policy.local_pref)
                .or(Some(DEFAULT_LOCAL_PREF)),
        };
        PathAttributes {
            as_path: self.as_path(route),
            next_hop,
            med: route.med.or(policy.med),
            local_pref,
            communities: communities.standard.into_iter().collect(),
            extended_communities: communities.extended.into_iter().collect(),
            large_communities: communities.large.into_iter().collect(),
        }
    }

    /// RFC 4271 §5.1.2: our AS toward other ASes, nothing inside our own.
    fn as_path(&self, route: &AttributeSet) -> Vec<u32> {
        if self.agreement.is_internal() {
            return Vec::new();
        }
        let times = 1 + usize::from(self.policy.prepend) + usize::from(route.prepend);
        vec![self.agreement.local_as; times]
    }
}

impl<P: WirePrefix> FamilyExport<P> {
    fn set_desired(&mut self, routes: &FamilyRoutes<P>, is_complete: bool) {
        let routes = if self.is_muted {
            FamilyRoutes::from([])
        } else {
            FamilyRoutes::clone(routes)
        };
        self.rib.set_desired(routes, is_complete);
    }

    fn progress(&self) -> (usize, usize) {
        (self.rib.advertised(), self.rib.pending())
    }

    fn is_settled(&self) -> bool {
        !self.is_refresh_asked && self.rib.is_settled()
    }

    /// Appends one message; `false` when there is nothing to say.
    fn write_one(&mut self, speech: Speech<'_>, out: &mut Vec<u8>, written: &mut Written) -> bool {
        if std::mem::take(&mut self.is_refresh_asked) {
            self.rib
                .refresh(if speech.agreement.enhanced_route_refresh {
                    RefreshMarkers::BeginAndEnd
                } else {
                    RefreshMarkers::None
                });
        }
        let Some(due) = self.rib.due() else {
            return false;
        };
        match due {
            Due::Withdrawals => {
                self.write_withdrawals(speech, out);
                written.updates += 1;
            }
            Due::Announcements(attributes) => {
                self.write_announcements(speech, &attributes, out);
                written.updates += 1;
            }
            Due::BeginOfRefresh => {
                RouteRefresh {
                    family: P::FAMILY,
                    kind: RefreshKind::Begin,
                }
                .encode(out);
                self.rib.refresh_begun();
                written.refreshes += 1;
            }
            Due::End(EndMarker::EndOfRib) => {
                encode_end_of_rib(P::FAMILY, out);
                self.rib.ended(EndMarker::EndOfRib);
                written.updates += 1;
            }
            Due::End(EndMarker::EndOfRefresh) => {
                RouteRefresh {
                    family: P::FAMILY,
                    kind: RefreshKind::End,
                }
                .encode(out);
                self.rib.ended(EndMarker::EndOfRefresh);
                written.refreshes += 1;
            }
        }
        true
    }

    fn write_withdrawals(&mut self, speech: Speech<'_>, out: &mut Vec<u8>) {
        let mut update = UpdateWriter::withdraw::<P>(out, speech.agreement.limit);
        self.rib.take_withdrawals(|prefix| update.push(prefix));
        update.finish();
    }

    fn write_announcements(&mut self, speech: Speech<'_>, group: &AttributeSet, out: &mut Vec<u8>) {
        let mut attributes = Vec::with_capacity(256);
        let agreement = speech.agreement;
        let mut update = match self.via {
            Via::Plain(next_hop) => {
                let path = speech.attributes(group, Some(next_hop));
                path.encode(agreement.as_width, &mut attributes);
                UpdateWriter::announce_ipv4(out, agreement.limit, &attributes)
            }
            Via::Multiprotocol(next_hop) => {
                let path = speech.attributes(group, None);
                path.encode(agreement.as_width, &mut attributes);
                UpdateWriter::announce_mp::<P>(out, agreement.limit, &attributes, next_hop)
            }
        };
        self.rib
            .take_announcements(group, |prefix| update.push(prefix));
        update.finish();
    }
}

fn family<P: WirePrefix>(
    agreement: &Agreement,
    via: Option<Via>,
    routes: &FamilyRoutes<P>,
    is_complete: bool,
) -> Result<FamilyExport<P>, Silence> {
    if !agreement.has(P::FAMILY) {
        return Err(Silence::NotNegotiated);
    }
    let via = via.ok_or(Silence::NoNextHop)?;
    let rib = AdjRibOut::new(FamilyRoutes::clone(routes), is_complete);
    Ok(FamilyExport {
        rib,
        via,
        is_muted: false,
        is_refresh_asked: false,
    })
}

/// Everything of a family again, with what is now said about it.
fn revise<P: WirePrefix>(
    export: &mut Result<FamilyExport<P>, Silence>,
    agreement: &Agreement,
    via: Option<Via>,
    routes: &FamilyRoutes<P>,
    is_complete: bool,
) {
    match (export.as_mut(), via) {
        (Ok(export), via) => {
            export.is_muted = via.is_none();
            export.via = via.unwrap_or(export.via);
            export.set_desired(routes, is_complete);
            export.rib.repeat_all();
        }
        (Err(_), via) => *export = family(agreement, via, routes, is_complete),
    }
}

/// What of the table is announced. A node that serves nothing has an empty, complete table.
fn shown(table: &RouteTable, serving: Serving) -> RouteTable {
    match serving {
        Serving::Normally | Serving::Reluctantly => table.clone(),
        Serving::Nothing => RouteTable {
            is_complete: true,
            generation: table.generation,
            ..RouteTable::default()
        },
    }
}
