//! From what the announcer shows to what goes over the socket.

use std::time::SystemTime;

use axum::http::StatusCode;

use super::{
    api::{
        BgpBfd, BgpDrain, BgpError, BgpFamily, BgpListener, BgpPeer, BgpRefusal, BgpRoute,
        BgpRoutePeer, BgpRoutes, BgpStatus, DrainBody,
    },
    error::ApiError,
    state::{AgentState, rfc3339},
    view::word,
};
use crate::{
    announce::{
        bgp::{FamilySnapshot, LastError},
        peering::{BgpReport, DrainError, PeerReport, RouteReport},
    },
    model::PeerAsn,
};

/// Longest time routes are marked before they are withdrawn.
const MAX_GRACE_SECONDS: u64 = 3600;

pub(super) fn status(report: &BgpReport) -> BgpStatus {
    let listeners = report.listeners.iter().map(|listener| BgpListener {
        address: listener.address.to_string(),
        error: listener.error.clone(),
    });
    let refused = report.refused.iter().map(|refusal| BgpRefusal {
        peer: refusal.peer.clone(),
        origin: refusal.origin.clone(),
        problem: refusal.problem.clone(),
    });
    BgpStatus {
        local_as: report.local_as,
        router_id: report.router_id.map(Into::into),
        listeners: listeners.collect(),
        drain: report.drain.map(|drain| BgpDrain {
            since: rfc3339(drain.since),
            withdraw_at: rfc3339(drain.withdraw_at),
            withdrawn: drain.withdraw_at <= SystemTime::now() && is_withdrawn(report),
        }),
        problem: report.problem.clone(),
        peers: report.peers.iter().map(peer).collect(),
        refused: refused.collect(),
    }
}

/// No peer has anything of us.
fn is_withdrawn(report: &BgpReport) -> bool {
    let is_empty = |family: Option<FamilySnapshot>| match family {
        Some(FamilySnapshot::Announced {
            advertised,
            pending,
        }) => advertised == 0 && pending == 0,
        Some(FamilySnapshot::Silent { .. }) | None => true,
    };
    report
        .peers
        .iter()
        .map(|peer| &peer.status.session)
        .all(|session| is_empty(session.ipv4) && is_empty(session.ipv6))
}

fn peer(peer: &PeerReport) -> BgpPeer {
    let PeerReport {
        origin,
        asked_as,
        local_as,
        status,
    } = peer;
    let session = &status.session;
    let counters = serde_json::to_value(session.counters).unwrap_or_default();
    BgpPeer {
        name: status.name.to_string(),
        address: status.address,
        peer_as: match asked_as {
            PeerAsn::Number(asn) => asn.to_string(),
            PeerAsn::External => "external".to_owned(),
            PeerAsn::Internal => "internal".to_owned(),
        },
        local_as: *local_as,
        state: word(&session.state).unwrap_or_default(),
        since: rfc3339(status.since),
        since_seconds: status.since.elapsed().unwrap_or_default().as_secs(),
        agreed_as: session.peer_as,
        router_id: session.peer_id.map(Into::into),
        hold_time_seconds: session.hold_time_s,
        transport_error: status.transport_error.clone(),
        last_loss: session.last_loss.map(|loss| loss.to_string()),
        last_sent: session.last_sent.as_ref().map(error),
        last_received: session.last_received.as_ref().map(error),
        ipv4: session.ipv4.map(family),
        ipv6: session.ipv6.map(family),
        bfd: status.bfd.as_ref().map(|bfd| BgpBfd {
            state: word(&bfd.state).unwrap_or_default(),
            remote_state: word(&bfd.remote_state).unwrap_or_default(),
            lost: bfd.lost,
            error: bfd.error.clone(),
        }),
        counters: serde_json::from_value(counters).unwrap_or_default(),
        origin: origin.clone(),
    }
}

fn error(error: &LastError) -> BgpError {
    let (code, subcode) = error.reason.to_wire();
    BgpError {
        code,
        subcode,
        reason: error.reason.name().to_owned(),
        text: error.text.clone(),
    }
}

fn family(family: FamilySnapshot) -> BgpFamily {
    match family {
        FamilySnapshot::Announced {
            advertised,
            pending,
        } => BgpFamily {
            advertised,
            pending,
            silent: None,
        },
        FamilySnapshot::Silent { reason } => BgpFamily {
            advertised: 0,
            pending: 0,
            silent: word(&reason),
        },
    }
}

pub(super) fn routes(report: &BgpReport) -> BgpRoutes {
    BgpRoutes {
        routes: report.routes.iter().map(route).collect(),
    }
}

pub(super) fn route(route: &RouteReport) -> BgpRoute {
    let peers = route.peers.iter().map(|(peer, state)| BgpRoutePeer {
        peer: peer.clone(),
        advertised: state.is_told(),
        remark: state.remark(),
    });
    BgpRoute {
        eip: route.eip,
        binding: route.binding.to_string(),
        peers: peers.collect(),
    }
}

pub(super) fn drain(state: &AgentState, body: DrainBody) -> Result<BgpStatus, ApiError> {
    let grace = body.grace_seconds;
    if grace > MAX_GRACE_SECONDS {
        let text = format!("graceSeconds: {grace} is more than {MAX_GRACE_SECONDS}");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, text));
    }
    let done = state.bgp.drain(std::time::Duration::from_secs(grace));
    done.map_err(|error| not_kept("drain this node", &error))?;
    Ok(status(&state.bgp.report()))
}

pub(super) fn undrain(state: &AgentState) -> Result<BgpStatus, ApiError> {
    let done = state.bgp.undrain();
    done.map_err(|error| not_kept("undrain this node", &error))?;
    Ok(status(&state.bgp.report()))
}

fn not_kept(doing: &str, error: &DrainError) -> ApiError {
    ApiError::internal(doing, error).hint("see --state-dir: it has to be writable")
}
