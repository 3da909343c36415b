//! `status` of each `BgpPeer`: what the agents say of it in their `EipNode`s, added up.
//!
//! Every agent watches the peers, so what is written here wakes them all: numbers, and the first few nodes
//! without a session, at most once in [`PAUSE`] for each peer. What it says is a function of the objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::select};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::tell::{self, MANAGER};
use crate::source::{
    kube::client::{follow, resource},
    objects::{
        BgpPeer, BgpPeerStatus, Condition, ConditionStatus, ConditionType, EIP_NODE_API,
        EIP_NODE_KIND, ESTABLISHED, EipNodeStatus, NodePeer, PEER_API, PEER_KIND, PeerNode,
    },
};

/// Time between two writes about one peer.
const PAUSE: Duration = Duration::from_secs(5);
/// How long many changes are taken in before the next look.
const SETTLE: Duration = Duration::from_millis(200);
/// How often nodes that have fallen silent are looked for.
const LOOK: Duration = Duration::from_mins(1);
/// An agent writes every five minutes. One of which this controller has heard nothing new for so long is
/// not believed.
const SILENCE: Duration = Duration::from_mins(15);
/// Nodes without a session that are named.
const NAMED: usize = 10;
/// Of them in a condition's message.
const IN_MESSAGE: usize = 3;

/// A peer as it is stored.
#[derive(Debug, Clone)]
struct Stored {
    generation: i64,
    /// What is wrong with its spec.
    refused: Option<String>,
    status: BgpPeerStatus,
}

impl Stored {
    fn read(object: &DynamicObject) -> Self {
        let peer = serde_json::to_value(object)
            .and_then(serde_json::from_value::<BgpPeer>)
            .map_err(|error| error.to_string())
            .and_then(|peer| peer.into_fact(None).map_err(|error| error.to_string()));
        Self {
            generation: object.metadata.generation.unwrap_or(0),
            refused: peer.err(),
            status: part(object, "status"),
        }
    }
}

fn part<T: DeserializeOwned + Default>(object: &DynamicObject, name: &str) -> T {
    let part = object.data.get(name).cloned();
    part.and_then(|part| serde_json::from_value(part).ok())
        .unwrap_or_default()
}

/// What an agent has said, and when this controller heard it: clocks of nodes are not compared.
#[derive(Debug, Clone)]
struct Heard {
    said: EipNodeStatus,
    at: Instant,
}

impl Heard {
    fn new(said: EipNodeStatus, before: Option<&Self>, now: Instant) -> Self {
        let same = before.filter(|before| before.said.reported_at == said.reported_at);
        Self {
            at: same.map_or(now, |before| before.at),
            said,
        }
    }
}

/// Objects of a kind, and those a list that has not ended has named.
#[derive(Debug)]
struct Known<T> {
    all: BTreeMap<String, T>,
    listing: BTreeSet<String>,
    is_listed: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            listing: BTreeSet::new(),
            is_listed: false,
        }
    }
}

impl<T> Known<T> {
    /// Takes a change in; `read` gets what was known of the object before.
    fn take(
        &mut self,
        change: Event<DynamicObject>,
        read: impl Fn(&DynamicObject, Option<&T>) -> T,
    ) {
        let name = |object: &DynamicObject| object.metadata.name.clone().unwrap_or_default();
        match change {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                self.listing.insert(name(&object));
                let new = read(&object, self.all.get(&name(&object)));
                self.all.insert(name(&object), new);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                self.all.retain(|name, _| listed.contains(name));
                self.is_listed = true;
            }
            Event::Apply(object) => {
                let new = read(&object, self.all.get(&name(&object)));
                self.all.insert(name(&object), new);
            }
            Event::Delete(object) => {
                self.all.remove(&name(&object));
            }
        }
    }
}

/// Peers whose status cannot be written: one line when that begins, one when it ends.
#[derive(Debug, Default)]
struct Faults(BTreeSet<String>);

impl Faults {
    /// What became of a write; says whether that is worth a line.
    fn note(&mut self, peer: &str, has_failed: bool) -> bool {
        if has_failed {
            self.0.insert(peer.to_owned())
        } else {
            self.0.remove(peer)
        }
    }
}

/// Writes the sums.
pub(super) struct Sums {
    client: Client,
    leadership: watch::Receiver<Option<Instant>>,
    /// No write takes longer: another controller may lead soon after.
    patience: Duration,
    peers: Known<Stored>,
    nodes: Known<Heard>,
    not_before: BTreeMap<String, Instant>,
    faults: Faults,
}

impl Sums {
    pub(super) fn new(
        client: Client,
        leadership: watch::Receiver<Option<Instant>>,
        patience: Duration,
    ) -> Self {
        Self {
            client,
            leadership,
            patience,
            peers: Known::default(),
            nodes: Known::default(),
            not_before: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Infallible> {
        let peers = resource(PEER_API, PEER_KIND, "bgppeers");
        let nodes = resource(EIP_NODE_API, EIP_NODE_KIND, "eipnodes");
        let peers = follow(&self.client, &peers, None).map(|change| (true, change));
        let nodes = follow(&self.client, &nodes, None).map(|change| (false, change));
        let mut changes = select(peers, nodes).ready_chunks(1024);
        let mut look_at = Instant::now() + LOOK;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                Some(batch) = changes.next() => {
                    for (is_peer, change) in batch {
                        if is_peer {
                            self.peers.take(change, |object, _| Stored::read(object));
                        } else {
                            self.nodes.take(change, |object, before| {
                                Heard::new(part(object, "status"), before, Instant::now())
                            });
                        }
                    }
                    look_at = look_at.min(Instant::now() + SETTLE);
                    continue;
                }
                turn = self.leadership.changed() => {
                    if turn.is_err() {
                        return Ok(());
                    }
                    look_at = look_at.min(Instant::now() + SETTLE);
                    continue;
                }
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
            let next = self.write_what_is_due().await;
            look_at = next.unwrap_or(Instant::now() + LOOK);
        }
    }

    fn leads(&self) -> bool {
        let until = *self.leadership.borrow();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns when to look again before anything changes.
    async fn write_what_is_due(&mut self) -> Option<Instant> {
        // Before both lists have ended, a node that is not known may have a session all the same.
        if !self.peers.is_listed || !self.nodes.is_listed {
            return None;
        }
        self.not_before
            .retain(|name, _| self.peers.all.contains_key(name));
        self.faults
            .0
            .retain(|name| self.peers.all.contains_key(name));
        let mut next: Option<Instant> = None;
        let names: Vec<String> = self.peers.all.keys().cloned().collect();
        for name in names {
            let Some(stored) = self.peers.all.get(&name) else {
                continue;
            };
            let status = sum(&name, stored, &self.nodes.all, Instant::now(), &tell::now());
            if status == stored.status || !self.leads() {
                continue;
            }
            let pause = self
                .not_before
                .get(&name)
                .filter(|at| **at > Instant::now());
            if let Some(at) = pause {
                next = Some(next.map_or(*at, |next| next.min(*at)));
                continue;
            }
            let written = tokio::time::timeout(self.patience, self.write(&name, &status)).await;
            let at = Instant::now() + PAUSE;
            self.not_before.insert(name.clone(), at);
            let error = match written {
                Ok(Ok(object)) => {
                    self.peers.all.insert(name.clone(), Stored::read(&object));
                    None
                }
                // It has been deleted.
                Ok(Err(kube::Error::Api(error))) if error.code == 404 => continue,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            let is_news = self.faults.note(&name, error.is_some());
            match error {
                None if is_news => {
                    info!(peer = name, "the status of the BGP peer is written again");
                }
                None => {}
                Some(error) => {
                    if is_news {
                        warn!(
                            peer = name,
                            error, "cannot write the status of the BGP peer"
                        );
                    } else {
                        debug!(
                            peer = name,
                            error, "still cannot write the status of the BGP peer"
                        );
                    }
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
        }
        next
    }

    async fn write(
        &self,
        name: &str,
        status: &BgpPeerStatus,
    ) -> Result<DynamicObject, kube::Error> {
        let peers = resource(PEER_API, PEER_KIND, "bgppeers");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &peers);
        let applied = json!({
            "apiVersion": PEER_API,
            "kind": PEER_KIND,
            "metadata": {"name": name},
            "status": status,
        });
        let how = PatchParams::apply(MANAGER).force();
        api.patch_status(name, &how, &Patch::Apply(applied)).await
    }
}

/// What the nodes say of one peer. `time` is now as conditions have it.
fn sum(
    name: &str,
    stored: &Stored,
    nodes: &BTreeMap<String, Heard>,
    now: Instant,
    time: &str,
) -> BgpPeerStatus {
    let mut selected = 0;
    let mut missing: Vec<PeerNode> = Vec::new();
    for (node, heard) in nodes {
        let of_peer = heard
            .said
            .peers
            .iter()
            .filter(|session| session.peer == name);
        let sessions: Vec<&NodePeer> = of_peer.collect();
        if sessions.is_empty() {
            continue;
        }
        selected += 1;
        if let Some(problem) = problem(heard, &sessions, now) {
            let node = node.clone();
            missing.push(PeerNode { node, problem });
        }
    }
    let established = selected - count(missing.len());
    let more = missing.len().saturating_sub(NAMED);
    let told = verdicts(stored, selected, &missing);
    missing.truncate(NAMED);
    let conditions = told.map(|(type_, status, reason, message)| {
        let before = stored.status.condition(&type_);
        let condition = Condition {
            type_: type_.clone(),
            status,
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(),
            last_transition_time: time.to_owned(),
            observed_generation: Some(stored.generation),
        };
        condition.after(before)
    });
    BgpPeerStatus {
        observed_generation: Some(stored.generation),
        selected,
        established,
        sessions: format!("{established}/{selected}"),
        not_established: missing,
        more_nodes: (more > 0).then(|| count(more)),
        conditions: Some(conditions.into()),
    }
}

/// Why a node has no session with a peer; nothing when it has.
fn problem(heard: &Heard, sessions: &[&NodePeer], now: Instant) -> Option<String> {
    if now.duration_since(heard.at) > SILENCE {
        let last = heard.said.reported_at.as_deref().unwrap_or_default();
        return Some(format!("its agent has not reported since {last}"));
    }
    if sessions.iter().any(|session| session.state == ESTABLISHED) {
        return None;
    }
    let told = sessions.iter().find_map(|session| session.problem.clone());
    let state = || {
        sessions
            .first()
            .map_or_else(String::new, |one| one.state.clone())
    };
    Some(told.unwrap_or_else(state))
}

type Told = (ConditionType, ConditionStatus, &'static str, String);

fn verdicts(stored: &Stored, selected: i64, missing: &[PeerNode]) -> [Told; 2] {
    let accepted = match &stored.refused {
        None => (ConditionStatus::True, "Accepted", String::new()),
        Some(problem) => (ConditionStatus::False, "Invalid", problem.clone()),
    };
    let nodes = missing.iter().take(IN_MESSAGE);
    let nodes: Vec<String> = nodes
        .map(|one| format!("{}: {}", one.node, one.problem))
        .collect();
    let rest = missing.len().saturating_sub(IN_MESSAGE);
    let more = if rest > 0 {
        format!("; and {rest} more")
    } else {
        String::new()
    };
    let message = format!("{}{more}", nodes.join("; "));
    let established = match (selected, missing.len()) {
        (0, _) => (
            ConditionStatus::False,
            "NoNode",
            "no agent has this peer: does spec.nodeSelector match a node?".to_owned(),
        ),
        (_, 0) => (ConditionStatus::True, "AllEstablished", String::new()),
        (selected, down) if selected == count(down) => {
            (ConditionStatus::False, "NoneEstablished", message)
        }
        _ => (ConditionStatus::False, "SomeNotEstablished", message),
    };
    [
        (ConditionType::Accepted, accepted.0, accepted.1, accepted.2),
        (
            ConditionType::Established,
            established.0,
            established.1,
            established.2,
        ),
    ]
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::objects::DOWN;

    const TIME: &str = "2026-01-01T00:00:00Z";

    fn node(sessions: &[(&str, &str, Option<&str>)]) -> EipNodeStatus {
        let session = |(name, state, problem): &(&str, &str, Option<&str>)| NodePeer {
            name: (*name).to_owned(),
            peer: name.split('[').next().unwrap().to_owned(),
            state: (*state).to_owned(),
            problem: problem.map(str::to_owned),
            ..NodePeer::default()
        };
        EipNodeStatus {
            peers: sessions.iter().map(session).collect(),
            ..EipNodeStatus::default()
        }
    }

    fn stored(status: BgpPeerStatus) -> Stored {
        Stored {
            generation: 3,
            refused: None,
            status,
        }
    }

    fn heard(nodes: &[(&str, EipNodeStatus)], at: Instant) -> BTreeMap<String, Heard> {
        let heard = |said: &EipNodeStatus| Heard::new(said.clone(), None, at);
        let nodes = nodes
            .iter()
            .map(|(name, said)| ((*name).to_owned(), heard(said)));
        nodes.collect()
    }

    fn summed(stored: &Stored, nodes: &[(&str, EipNodeStatus)]) -> BgpPeerStatus {
        let now = Instant::now();
        sum("tor", stored, &heard(nodes, now), now, TIME)
    }

    fn told(status: &BgpPeerStatus, of: &ConditionType) -> (ConditionStatus, String, String) {
        let condition = status.condition(of).unwrap();
        (
            condition.status,
            condition.reason.clone(),
            condition.message.clone(),
        )
    }

    #[test]
    fn nodes_with_the_peer_count_and_the_others_do_not() {
        let up = ("tor", ESTABLISHED, None);
        let down = ("tor", DOWN, Some("connection refused"));
        let other = ("spine", DOWN, Some("no route"));
        let status = summed(
            &stored(BgpPeerStatus::default()),
            &[
                ("n1", node(&[up, other])),
                ("n2", node(&[down])),
                ("n3", node(&[other])),
                ("n4", node(&[up])),
            ],
        );
        assert_eq!((status.established, status.selected), (2, 3));
        assert_eq!(status.sessions, "2/3");
        let missing: Vec<&str> = status
            .not_established
            .iter()
            .map(|n| n.node.as_str())
            .collect();
        assert_eq!(missing, ["n2"]);
        assert_eq!(status.not_established[0].problem, "connection refused");
        let (condition, reason, message) = told(&status, &ConditionType::Established);
        assert_eq!(
            (condition, &*reason),
            (ConditionStatus::False, "SomeNotEstablished")
        );
        assert_eq!(message, "n2: connection refused");
    }

    #[test]
    fn a_status_that_cannot_be_written_is_told_once_and_so_is_its_end() {
        let mut faults = Faults::default();
        let told = [true, true, true, false, false, true].map(|failed| faults.note("tor", failed));
        assert_eq!(told, [true, false, false, true, false, true]);
        assert!(faults.note("other", true), "each peer has its own");
    }

    #[test]
    fn a_range_is_established_with_any_of_those_who_dialled() {
        let sessions = [
            ("tor[192.0.2.1]", DOWN, Some("gone")),
            ("tor[192.0.2.2]", ESTABLISHED, None),
        ];
        let status = summed(
            &stored(BgpPeerStatus::default()),
            &[("n1", node(&sessions))],
        );
        assert_eq!(status.sessions, "1/1");
        let (condition, reason, _) = told(&status, &ConditionType::Established);
        assert_eq!(
            (condition, &*reason),
            (ConditionStatus::True, "AllEstablished")
        );
    }

    #[test]
    fn a_spec_that_is_refused_names_its_field_and_a_peer_of_nobody_asks_for_the_selector() {
        let refused = Stored {
            refused: Some("spec.peerAs: blue".to_owned()),
            ..stored(BgpPeerStatus::default())
        };
        let status = summed(&refused, &[]);
        assert_eq!(
            told(&status, &ConditionType::Accepted),
            (
                ConditionStatus::False,
                "Invalid".to_owned(),
                "spec.peerAs: blue".to_owned()
            )
        );
        let (condition, reason, _) = told(&status, &ConditionType::Established);
        assert_eq!((condition, &*reason), (ConditionStatus::False, "NoNode"));
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn a_thousand_nodes_are_numbers_and_a_few_names() {
        let all: Vec<(String, EipNodeStatus)> = (0..1000)
            .map(|number| {
                (
                    format!("n{number:04}"),
                    node(&[("tor", DOWN, Some("gone"))]),
                )
            })
            .collect();
        let all: Vec<_> = all
            .iter()
            .map(|(name, said)| (name.as_str(), said.clone()))
            .collect();
        let status = summed(&stored(BgpPeerStatus::default()), &all);
        assert_eq!(status.not_established.len(), NAMED);
        assert_eq!(status.more_nodes, Some(990));
        assert!(serde_json::to_string(&status).unwrap().len() < 2000);
        // Said again with nothing new it is the same: nothing to write.
        let later = stored(status.clone());
        let now = Instant::now();
        let again = sum(
            "tor",
            &later,
            &heard(&all, now),
            now,
            "2026-01-01T00:00:01Z",
        );
        assert_eq!(again, status);
    }

    #[test]
    fn a_node_that_says_nothing_new_for_long_is_not_believed() {
        let start = Instant::now();
        let up = node(&[("tor", ESTABLISHED, None)]);
        let mut nodes = heard(&[("n1", up.clone())], start);
        let stored = stored(BgpPeerStatus::default());
        let at =
            |nodes: &BTreeMap<String, Heard>, now| sum("tor", &stored, nodes, now, TIME).sessions;
        // The same again, as after a list: it is no news.
        let before = nodes.remove("n1");
        let late = start + SILENCE + Duration::from_secs(1);
        nodes.insert(
            "n1".to_owned(),
            Heard::new(up.clone(), before.as_ref(), late),
        );
        assert_eq!(at(&nodes, start + SILENCE), "1/1");
        assert_eq!(at(&nodes, late), "0/1");
        let news = EipNodeStatus {
            reported_at: Some(TIME.to_owned()),
            ..up
        };
        nodes.insert("n1".to_owned(), Heard::new(news, nodes.get("n1"), late));
        assert_eq!(at(&nodes, late), "1/1");
    }
}
