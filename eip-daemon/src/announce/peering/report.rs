//! What can be seen of announcing by BGP.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

use super::{
    BgpSettings, State,
    resolve::Peer,
    tables::{self, Verdict},
};
use crate::{
    announce::bgp::{
        Family, FamilySnapshot, ListenerStatus, PeerStatus, Silence, Speaker, SpeakerStatus,
        State as SessionState,
    },
    model::{Announcement, ObjectName, PeerAsn},
};

/// Announcing by BGP at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BgpReport {
    /// The node's AS, when it has one.
    pub local_as: Option<u32>,
    /// BGP identifier.
    pub router_id: Option<Ipv4Addr>,
    /// Listening sockets.
    pub listeners: Vec<ListenerStatus>,
    /// Set while the node is drained.
    pub drain: Option<DrainReport>,
    /// Why BGP does not run although there are peers.
    pub problem: Option<String>,
    /// Peers in force, by name.
    pub peers: Vec<PeerReport>,
    /// Peers that are not, or not as they are written.
    pub refused: Vec<Refusal>,
    /// Names of peers in force with whom nobody has had to do yet.
    pub waiting: Vec<String>,
    /// How many peers are configured and not refused, whether anybody has been met there or not.
    pub configured: usize,
    /// Every EIP that is programmed and what became of it, by address.
    pub routes: Vec<RouteReport>,
}

/// The node is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Since when.
    pub since: SystemTime,
    /// Routes are marked until then, and withdrawn after.
    pub withdraw_at: SystemTime,
}

/// A peer that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub peer: String,
    /// Where it was read.
    pub origin: Option<String>,
    /// What is wrong, with the field.
    pub problem: String,
}

/// A peer in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// Where it was read; `None` for annotations.
    pub origin: Option<String>,
    /// The AS that is asked of it.
    pub asked_as: PeerAsn,
    /// Our AS toward it.
    pub local_as: Option<u32>,
    /// The session.
    pub status: PeerStatus,
}

/// An EIP toward every peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteReport {
    /// The EIP.
    pub eip: IpAddr,
    /// Its binding.
    pub binding: ObjectName,
    /// By peer, in their order.
    pub peers: Vec<(String, RouteState)>,
}

/// How far a route has come toward one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// The peer has it.
    Advertised,
    /// It has, marked as about to leave (RFC 8326).
    Leaving,
    /// It has to be sent still.
    Pending,
    /// The binding is not announced by BGP.
    NotByBgp,
    /// A rule of the peer withholds it; counted from 0.
    Withheld(usize),
    /// The node is drained.
    Drained,
    /// There is no session.
    NoSession(SessionState),
    /// The family is not spoken.
    NotNegotiated,
    /// There is no next hop of the family.
    NoNextHop,
}

impl RouteState {
    /// The peer has the route.
    #[must_use]
    pub const fn is_told(self) -> bool {
        matches!(self, Self::Advertised | Self::Leaving)
    }

    /// Somebody wants it that way.
    #[must_use]
    pub const fn is_meant(self) -> bool {
        matches!(self, Self::Advertised | Self::NotByBgp | Self::Withheld(_))
    }

    /// For people: why not, or what is special; nothing when all is as usual.
    #[must_use]
    pub fn remark(self) -> Option<String> {
        let text = match self {
            Self::Advertised => return None,
            Self::Leaving => "marked GRACEFUL_SHUTDOWN: the node is drained".to_owned(),
            Self::Pending => "on its way".to_owned(),
            Self::NotByBgp => "the binding is not announced by BGP".to_owned(),
            Self::Withheld(rule) => format!("withheld by spec.rules[{rule}] of the peer"),
            Self::Drained => "the node is drained".to_owned(),
            Self::NoSession(state) => format!("no session: {}", state.name()),
            Self::NotNegotiated => "the peer does not speak its address family".to_owned(),
            Self::NoNextHop => "no next hop of its address family: give the session's interface \
                                an address, or the peer spec.nextHop"
                .to_owned(),
        };
        Some(text)
    }
}

pub(super) fn report(settings: &BgpSettings, state: &State, now: SystemTime) -> BgpReport {
    let status = state.speaker.as_ref().map(Speaker::status);
    let drain = state.drain.since().zip(state.drain.withdraw_at());
    let drain = drain.map(|(since, withdraw_at)| DrainReport { since, withdraw_at });
    let peers = status
        .as_ref()
        .map(|status| peers(state, status))
        .unwrap_or_default();
    let generation = status.as_ref().map_or(0, |status| status.generation);
    let routes = state
        .wanted
        .wanted
        .iter()
        .map(|(eip, announcement)| RouteReport {
            eip: *eip,
            binding: announcement.binding.clone(),
            peers: peers
                .iter()
                .filter_map(|peer| {
                    let name = &peer.status.name.0;
                    let configured = configured(state, name)?;
                    let look = Look {
                        eip: *eip,
                        announcement,
                        since: state.ledger.since(*eip).unwrap_or(generation),
                        now,
                    };
                    Some((
                        name.clone(),
                        route_state(look, configured, &peer.status, drain),
                    ))
                })
                .collect(),
        });
    BgpReport {
        local_as: settings.local_as,
        router_id: settings.router_id,
        listeners: status
            .as_ref()
            .map(|status| status.listeners.clone())
            .unwrap_or_default(),
        drain,
        problem: state.problem.clone(),
        waiting: waiting(state, &peers),
        configured: state.peers.len(),
        refused: state.refused.clone(),
        routes: routes.collect(),
        peers,
    }
}

fn configured<'a>(state: &'a State, name: &str) -> Option<&'a Peer> {
    state.peers.get(object_of(name))
}

/// The object behind a session: one that dialled from a range is called after it, `RANGE[ADDRESS]`.
#[must_use]
pub fn object_of(name: &str) -> &str {
    name.split('[').next().unwrap_or(name)
}

fn waiting(state: &State, peers: &[PeerReport]) -> Vec<String> {
    let is_met = |object: &str| {
        let mut sessions = peers.iter().map(|peer| object_of(&peer.status.name.0));
        sessions.any(|met| met == object)
    };
    let names = state.peers.keys().filter(|name| !is_met(name));
    names.cloned().collect()
}

fn peers(state: &State, status: &SpeakerStatus) -> Vec<PeerReport> {
    use crate::announce::bgp::PeerAs;
    let peers = status.peers.iter().filter_map(|status| {
        let Peer { config, origin, .. } = configured(state, &status.name.0)?;
        Some(PeerReport {
            origin: origin.clone(),
            asked_as: match config.session.peer_as {
                PeerAs::Number(asn) => PeerAsn::Number(asn),
                PeerAs::External => PeerAsn::External,
                PeerAs::Internal => PeerAsn::Internal,
            },
            local_as: config.session.local_as,
            status: status.clone(),
        })
    });
    peers.collect()
}

/// What is looked for.
#[derive(Clone, Copy)]
struct Look<'a> {
    eip: IpAddr,
    announcement: &'a Announcement,
    /// The first table that has it as it is.
    since: u64,
    now: SystemTime,
}

fn route_state(
    look: Look<'_>,
    peer: &Peer,
    status: &PeerStatus,
    drain: Option<DrainReport>,
) -> RouteState {
    if !look.announcement.by.includes_bgp() {
        return RouteState::NotByBgp;
    }
    let verdict = tables::verdict(look.eip, look.announcement, &peer.export, look.now);
    if let Verdict::Withheld { rule } = verdict {
        return RouteState::Withheld(rule);
    }
    if drain.is_some_and(|drain| drain.withdraw_at <= look.now) {
        return RouteState::Drained;
    }
    let session = &status.session;
    if session.state != SessionState::Established {
        return RouteState::NoSession(session.state);
    }
    let family = if look.eip.is_ipv4() {
        Family::Ipv4
    } else {
        Family::Ipv6
    };
    let family = match family {
        Family::Ipv4 => session.ipv4,
        Family::Ipv6 => session.ipv6,
    };
    match family {
        None
        | Some(FamilySnapshot::Silent {
            reason: Silence::NotNegotiated,
        }) => RouteState::NotNegotiated,
        Some(FamilySnapshot::Silent {
            reason: Silence::NoNextHop,
        }) => RouteState::NoNextHop,
        Some(FamilySnapshot::Announced { .. }) => {
            if session
                .settled_generation
                .is_none_or(|settled| settled < look.since)
            {
                RouteState::Pending
            } else if drain.is_some() {
                RouteState::Leaving
            } else {
                RouteState::Advertised
            }
        }
    }
}
