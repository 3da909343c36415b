//! What the node has made of its BGP peers and bindings as a whole: an `EipNode` of its own, for the
//! controller to add up and for people to read.
//!
//! It is written when it changes, at most once in [`PAUSE`], and every [`REFRESH`] though nothing has
//! changed, so that a node that has fallen silent can be told from one that has nothing to say. States a
//! session goes through while it is not up are one state here: a router that is away would be a write at
//! every attempt.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::manager;
use crate::{
    announce::{
        bgp::{FamilySnapshot, LastError, State, backoff::Jitter, bfd::Verdict},
        peering::{BgpAnnouncer, BgpReport, PeerReport, object_of},
    },
    model::Outcome,
    report::Report,
    source::{
        kube::client::resource,
        objects::{
            DOWN, EIP_NODE_API, EIP_NODE_KIND, ESTABLISHED, EipNodeStatus, NodePeer, REFUSED,
            WAITING,
        },
    },
};

/// Time between two writes.
const PAUSE: Duration = Duration::from_secs(5);
/// Time between two looks: sessions bring news with every message.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time without a write.
const REFRESH: Duration = Duration::from_mins(5);
/// Longest time one write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause after failures.
const LONGEST_RETRY: Duration = Duration::from_mins(2);
/// Sessions that are named; the rest are counted.
const MOST: usize = 64;
/// Characters of a text.
const LONGEST_TEXT: usize = 512;

/// Tells the API server about the node.
pub struct NodeFeedback {
    client: Client,
    node: String,
    bgp: BgpAnnouncer,
}

impl NodeFeedback {
    /// Nothing is told yet.
    #[must_use]
    pub fn new(client: Client, node: String, bgp: BgpAnnouncer) -> Self {
        Self { client, node, bgp }
    }

    /// Follows reports and sessions until it is to stop.
    ///
    /// # Errors
    /// None.
    pub async fn run(
        self,
        mut reports: watch::Receiver<Arc<Report>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Infallible> {
        let seed = self.node.bytes().fold(0, |seed: u64, byte| {
            seed.wrapping_mul(31).wrapping_add(byte.into())
        });
        let mut jitter = Jitter::new(seed);
        let mut news = self.bgp.news();
        let mut told: Option<EipNodeStatus> = None;
        let mut refresh_at = Instant::now();
        let mut not_before = Instant::now();
        let mut failures = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(not_before.into()) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            not_before = Instant::now() + LOOK;
            news.mark_unchanged();
            let report = Arc::clone(&reports.borrow_and_update());
            // What is there from an earlier process says more than nothing.
            let said = report.facts_complete.then(|| {
                status(
                    &report,
                    &self.bgp.report(),
                    told.as_ref(),
                    SystemTime::now(),
                )
            });
            let is_due = refresh_at <= Instant::now() || failures > 0;
            if let Some(said) = said
                && (is_due || !told.as_ref().is_some_and(|told| is_same(told, &said)))
            {
                let written = tokio::select! {
                    done = tokio::time::timeout(PATIENCE, self.write(&said)) => done,
                    _ = stop.wait_for(|stop| *stop) => return Ok(()),
                };
                let error = match written {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("no answer in time".to_owned()),
                };
                let now = Instant::now();
                if let Some(error) = error {
                    note_failure(failures, &error);
                    failures += 1;
                    let pause = PAUSE.saturating_mul(1 << failures.min(8));
                    not_before = now + jitter.apply(pause.min(LONGEST_RETRY));
                } else {
                    if failures > 2 {
                        info!("the API server takes this node's EipNode again");
                    }
                    failures = 0;
                    told = Some(said);
                    not_before = now + jitter.apply(PAUSE);
                    refresh_at = now + jitter.apply(REFRESH);
                }
            }
            let next = if failures > 0 { not_before } else { refresh_at };
            tokio::select! {
                changed = reports.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                Ok(()) = news.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    async fn write(&self, said: &EipNodeStatus) -> Result<(), kube::Error> {
        let eip_nodes = resource(EIP_NODE_API, EIP_NODE_KIND, "eipnodes");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &eip_nodes);
        let how = PatchParams::apply(&manager(&self.node)).force();
        let applied = json!({
            "apiVersion": EIP_NODE_API,
            "kind": EIP_NODE_KIND,
            "metadata": {"name": self.node},
            "status": said,
        });
        let status = Patch::Apply(&applied);
        match api.patch_status(&self.node, &how, &status).await {
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            other => return other.map(drop),
        }
        // The first time, or after the node was another one: it goes with its node.
        let nodes: Api<Node> = Api::all(self.client.clone());
        let uid = nodes.get(&self.node).await?.metadata.uid;
        let owner = json!({
            "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid.unwrap_or_default(),
        });
        let empty = json!({
            "apiVersion": EIP_NODE_API,
            "kind": EIP_NODE_KIND,
            "metadata": {"name": self.node, "ownerReferences": [owner]},
            "spec": {},
        });
        api.patch(&self.node, &how, &Patch::Apply(empty)).await?;
        api.patch_status(&self.node, &how, &status).await.map(drop)
    }
}

/// Told when it has failed for some time, and once.
fn note_failure(failures: u32, error: &str) {
    if failures == 2 {
        warn!(error, "report this node's EipNode to the API server");
    } else {
        debug!(error, "report this node's EipNode to the API server");
    }
}

/// Apart from the time.
fn is_same(told: &EipNodeStatus, said: &EipNodeStatus) -> bool {
    let said = EipNodeStatus {
        reported_at: told.reported_at.clone(),
        ..said.clone()
    };
    *told == said
}

/// What there is to say. `before` is what was said last: what has not changed since keeps its time.
fn status(
    report: &Report,
    bgp: &BgpReport,
    before: Option<&EipNodeStatus>,
    now: SystemTime,
) -> EipNodeStatus {
    let own = report
        .bindings
        .iter()
        .filter(|binding| !matches!(binding.outcome, Outcome::Elsewhere { .. }));
    let (programmed, pending): (Vec<_>, Vec<_>) = own.partition(|one| one.programmed.is_some());
    let mut peers = peers(bgp, before, now);
    let up = peers
        .iter()
        .filter(|peer| peer.state == ESTABLISHED)
        .count();
    let sessions = format!("{up}/{}", peers.len());
    let more = peers.len().saturating_sub(MOST);
    peers.truncate(MOST);
    let settings = report.settings.as_ref();
    EipNodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reported_at: Some(time(now)),
        uplinks: settings
            .map(|settings| settings.uplinks.clone())
            .unwrap_or_default(),
        programmed: number(programmed.len()),
        pending: number(pending.len()),
        drained: bgp.drain.is_some(),
        sessions,
        peers,
        more_peers: (more > 0).then(|| number(more)),
    }
}

fn peers(bgp: &BgpReport, before: Option<&EipNodeStatus>, now: SystemTime) -> Vec<NodePeer> {
    let without = |name: &str, state: &str, problem: String| NodePeer {
        name: name.to_owned(),
        peer: name.to_owned(),
        state: state.to_owned(),
        problem: Some(problem),
        ..NodePeer::default()
    };
    let sessions = bgp.peers.iter().map(session);
    let waiting = bgp.waiting.iter().map(|name| match &bgp.problem {
        Some(problem) => without(name, DOWN, problem.clone()),
        None => without(name, WAITING, "no router has been met".to_owned()),
    });
    let mut all: Vec<NodePeer> = sessions.chain(waiting).collect();
    for refusal in &bgp.refused {
        // One that was good before goes on as it was.
        match all.iter_mut().find(|peer| peer.peer == refusal.peer) {
            Some(peer) => peer.problem = Some(refusal.problem.clone()),
            None => all.push(without(&refusal.peer, REFUSED, refusal.problem.clone())),
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all.dedup_by(|one, other| one.name == other.name);
    for peer in &mut all {
        let known = before.and_then(|before| before.peers.iter().find(|old| old.name == peer.name));
        let known = known.filter(|old| old.state == peer.state);
        let since = known.and_then(|old| old.since.clone());
        if peer.since.is_none() {
            peer.since = since.or_else(|| Some(time(now)));
        }
        // Between two attempts there is no error, and nothing is better.
        if peer.problem.is_none() && peer.state != ESTABLISHED {
            peer.problem = known.and_then(|old| old.problem.clone());
        }
        peer.problem = peer.problem.take().map(|text| cut(&text));
    }
    all
}

fn session(report: &PeerReport) -> NodePeer {
    let status = &report.status;
    let session = &status.session;
    let is_up = session.state == State::Established;
    let routes = |family: Option<FamilySnapshot>| match family {
        Some(FamilySnapshot::Announced { advertised, .. }) => Some(number(advertised)),
        Some(FamilySnapshot::Silent { .. }) | None => None,
    };
    let bfd = status.bfd.as_ref().map(|bfd| match bfd.verdict {
        Verdict::Alive => "Up".to_owned(),
        Verdict::Unknown | Verdict::Dead { .. } => DOWN.to_owned(),
    });
    let last_sent = session.last_sent.as_ref().map(error);
    let last_received = session.last_received.as_ref().map(error);
    let heard = last_received
        .as_ref()
        .map(|text| format!("received {text}"));
    let said = last_sent.as_ref().map(|text| format!("sent {text}"));
    let problem = status.transport_error.clone().or(heard).or(said);
    NodePeer {
        name: status.name.0.clone(),
        peer: object_of(&status.name.0).to_owned(),
        state: if is_up { ESTABLISHED } else { DOWN }.to_owned(),
        since: is_up.then(|| time(status.since)),
        address: (!status.address.is_unspecified()).then(|| status.address.to_string()),
        peer_as: session.peer_as.map(i64::from),
        ipv4_routes: routes(session.ipv4),
        ipv6_routes: routes(session.ipv6),
        bfd,
        problem: problem.filter(|_| !is_up),
        last_sent,
        last_received,
    }
}

fn error(error: &LastError) -> String {
    let (code, subcode) = error.reason.to_wire();
    let text = error.text.as_ref().map(|text| format!(": {text}"));
    let name = error.reason.name();
    cut(&format!(
        "{code}/{subcode} {name}{}",
        text.unwrap_or_default()
    ))
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// RFC 3339, to the second.
fn time(time: SystemTime) -> String {
    let second = jiff::Timestamp::try_from(time)
        .unwrap_or_default()
        .as_second();
    jiff::Timestamp::from_second(second)
        .unwrap_or_default()
        .to_string()
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::{
        bgp::{PeerName, PeerStatus, SessionSnapshot},
        peering::Refusal,
    };

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn peer(state: State, problem: Option<&str>) -> PeerReport {
        PeerReport {
            origin: None,
            asked_as: crate::model::PeerAsn::External,
            local_as: None,
            status: PeerStatus {
                name: PeerName("tor".to_owned()),
                address: "192.0.2.1".parse().unwrap(),
                since: START,
                transport_error: problem.map(str::to_owned),
                bfd: None,
                session: SessionSnapshot {
                    state,
                    ..SessionSnapshot::default()
                },
            },
        }
    }

    fn said(peers: Vec<PeerReport>, before: Option<&EipNodeStatus>, second: u64) -> EipNodeStatus {
        let bgp = BgpReport {
            peers,
            ..BgpReport::default()
        };
        let now = START + Duration::from_secs(second);
        status(&Report::default(), &bgp, before, now)
    }

    #[test]
    fn the_states_of_a_router_that_is_away_are_one_and_keep_time_and_cause() {
        let first = said(
            vec![peer(State::Active, Some("no route to host"))],
            None,
            10,
        );
        let [told] = &first.peers[..] else {
            panic!("{first:?}")
        };
        assert_eq!(
            (&*told.state, told.problem.as_deref()),
            (DOWN, Some("no route to host"))
        );
        assert_eq!(told.since.as_deref(), Some("1970-01-01T00:00:10Z"));
        for state in [State::Connect, State::OpenSent, State::Idle, State::Active] {
            let later = said(vec![peer(state, None)], Some(&first), 20);
            assert!(is_same(&first, &later), "{later:?}");
        }
        let up = said(vec![peer(State::Established, None)], Some(&first), 30);
        assert!(!is_same(&first, &up));
        assert_eq!((&*up.sessions, &up.peers[0].problem), ("1/1", &None));
    }

    #[test]
    fn peers_without_a_session_and_refused_ones_are_there_with_their_reason() {
        let bgp = BgpReport {
            waiting: vec!["range".to_owned()],
            refused: vec![Refusal {
                peer: "secret".to_owned(),
                origin: None,
                problem: "spec.passwordFile: no such file".to_owned(),
            }],
            ..BgpReport::default()
        };
        let status = status(&Report::default(), &bgp, None, START);
        let told = status.peers.iter().map(|peer| (&*peer.peer, &*peer.state));
        let told: Vec<_> = told.collect();
        assert_eq!(told, [("range", WAITING), ("secret", REFUSED)]);
        assert_eq!(status.sessions, "0/2");
    }

    #[test]
    fn many_sessions_are_named_up_to_a_number_and_counted_beyond() {
        let many = (0..MOST + 9).map(|number| {
            let mut peer = peer(State::Established, None);
            peer.status.name = PeerName(format!("range[192.0.2.{number}]"));
            peer
        });
        let status = said(many.collect(), None, 0);
        assert_eq!((status.peers.len(), status.more_peers), (MOST, Some(9)));
        assert_eq!(status.sessions, format!("{0}/{0}", MOST + 9));
        assert!(status.peers.iter().all(|peer| peer.peer == "range"));
    }
}
