//! Announcing by BGP: `BgpPeer` objects, node annotations and settings on one side, the speaker on
//! the other.
//!
//! ```text
//! Facts ──> resolve (+ annotations, secrets) ──> peers ────────────┐
//! Announcements ──> tables (rules, aggregates, preference) ──> routes ─> bgp::Speaker
//! lingering <── ledger <──────────────────────────── status ────────┘
//! ```
//!
//! [`BgpAnnouncer`] is the handle: the reconciler announces through it, the control socket looks
//! and drains through it. One task follows the facts, reads password files and keeps the time; it
//! owns the speaker's end. `resolve`, `tables` and `ledger` are pure.
//!
//! The speaker starts with the first usable peer: a node without peers opens no socket.

mod annotations;
mod drain;
mod ledger;
mod report;
mod resolve;
mod secrets;
mod tables;
mod task;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

pub use drain::DrainError;
pub use report::{BgpReport, DrainReport, PeerReport, Refusal, RouteReport, RouteState, object_of};

use self::{drain::DrainFile, ledger::Ledger, resolve::Peer, tables::tables};
use super::{
    Announcer,
    bgp::{Exit, Speaker, SpeakerConfig},
};
use crate::model::{Announcements, Facts};

/// What flags say about BGP. Fixed for the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpSettings {
    /// Name of the node: whose annotations and labels count.
    pub node_name: String,
    /// Our AS where a peer names none.
    pub local_as: Option<u32>,
    /// BGP identifier; `None` when the node has no IPv4 address and none was given.
    pub router_id: Option<Ipv4Addr>,
    /// Where to accept connections; nowhere without any.
    pub listen: Vec<SocketAddr>,
    /// How long peers keep routes while the agent is away.
    pub restart_time: Duration,
    /// Prefix of node annotations that name peers.
    pub annotation_prefix: String,
    /// Where the drained state is kept.
    pub state_directory: PathBuf,
    /// Peers are told when the agent stops.
    pub on_exit: OnExit,
}

/// What becomes of announced routes when the agent is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnExit {
    /// Withdrawn: traffic goes elsewhere at once.
    #[default]
    Withdraw,
    /// Left standing for the restart time: another agent is about to start.
    Keep,
}

impl From<OnExit> for Exit {
    fn from(choice: OnExit) -> Self {
        match choice {
            OnExit::Withdraw => Self::Withdraw {
                text: "kube-eip stops on this node",
            },
            OnExit::Keep => Self::Keep,
        }
    }
}

/// Announces by BGP. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct BgpAnnouncer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: BgpSettings,
    state: Mutex<State>,
    /// The task has something new to look at.
    changed: Notify,
    /// What [`BgpAnnouncer::report`] shows has changed.
    news: watch::Sender<()>,
    /// Something that lingered may be gone.
    announced: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    speaker: Option<Speaker>,
    /// Peers in force, by name.
    peers: BTreeMap<String, Peer>,
    refused: Vec<Refusal>,
    wanted: Announcements,
    ledger: Ledger,
    drain: DrainFile,
    /// What is said changes then by itself.
    next_change: Option<SystemTime>,
    /// Why there is no speaker although there are peers.
    problem: Option<String>,
}

impl BgpAnnouncer {
    /// An announcer without peers. `announced` is told when something no longer lingers.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn new(settings: BgpSettings, announced: Arc<Notify>) -> Result<Self, DrainError> {
        let drain = DrainFile::open(&settings.state_directory)?;
        Ok(Self(Arc::new(Shared {
            settings,
            state: Mutex::new(State {
                speaker: None,
                peers: BTreeMap::new(),
                refused: Vec::new(),
                wanted: Announcements::default(),
                ledger: Ledger::default(),
                drain,
                next_change: None,
                problem: None,
            }),
            changed: Notify::new(),
            news: watch::Sender::new(()),
            announced,
        })))
    }

    /// Marks all routes as leaving, and withdraws them after `grace`; this holds over restarts.
    ///
    /// # Errors
    /// It cannot be remembered; nothing has changed then.
    pub fn drain(&self, grace: Duration) -> Result<(), DrainError> {
        let mut state = self.state();
        state.drain.set(grace)?;
        if let Some(speaker) = &state.speaker {
            speaker.drain(grace);
        }
        info!(grace_s = grace.as_secs(), "drained: routes leave");
        Ok(())
    }

    /// Takes [`BgpAnnouncer::drain`] back.
    ///
    /// # Errors
    /// It would come back with the next start.
    pub fn undrain(&self) -> Result<(), DrainError> {
        let mut state = self.state();
        state.drain.clear()?;
        if let Some(speaker) = &state.speaker {
            speaker.undrain();
        }
        info!("no longer drained: routes are announced");
        Ok(())
    }

    /// What can be seen now.
    #[must_use]
    pub fn report(&self) -> BgpReport {
        report::report(&self.0.settings, &self.state(), SystemTime::now())
    }

    /// Changes with what [`BgpAnnouncer::report`] shows.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything in it can panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New peers. One that is refused keeps what it had; one that is gone ends.
    fn set_peers(&self, facts: &Facts, secrets: &secrets::Secrets) {
        let mut state = self.state();
        let resolved = resolve::resolve(facts, &self.0.settings, secrets);
        let mut peers = resolved.peers;
        for refusal in &resolved.refused {
            if let Some(last_good) = state.peers.get(&refusal.peer) {
                peers
                    .entry(refusal.peer.clone())
                    .or_insert_with(|| last_good.clone());
            }
        }
        tell_refusals(&state.refused, &resolved.refused);
        state.refused = resolved.refused;
        if state.peers != peers {
            state.peers = peers;
            state.start_speaker(&self.0.settings);
            state.ledger.changes(|_| true);
            state.hand_over(SystemTime::now());
        }
        drop(state);
        self.0.news.send_replace(());
    }

    /// What the speaker's peers do, when there is one.
    fn speaker_changes(&self) -> Option<watch::Receiver<()>> {
        self.state().speaker.as_ref().map(Speaker::changes)
    }

    /// Takes the speaker out, for its end.
    fn take_speaker(&self) -> Option<Speaker> {
        self.state().speaker.take()
    }

    /// Looks at what time has changed. Returns when to look again.
    fn tick(&self, now: SystemTime) -> Option<Duration> {
        let mut state = self.state();
        if state.next_change.is_some_and(|change| change <= now) {
            state.publish(now);
        }
        let status = state.speaker.as_ref().map(Speaker::status);
        if let Some(status) = status
            && state.ledger.settle(&status.peers, Instant::now())
        {
            self.0.announced.notify_one();
        }
        let change = state.next_change.map(|change| {
            let wait = change.duration_since(now);
            wait.unwrap_or_default()
        });
        let expiry = state.ledger.next_expiry();
        let expiry = expiry.map(|at| at.saturating_duration_since(Instant::now()));
        [change, expiry].into_iter().flatten().min()
    }
}

impl State {
    /// The first peer starts the speaker.
    fn start_speaker(&mut self, settings: &BgpSettings) {
        if self.speaker.is_some() || self.peers.is_empty() {
            return;
        }
        let first = self
            .peers
            .values()
            .find_map(|peer| peer.config.session.local_as);
        let started = match (settings.router_id, settings.local_as.or(first)) {
            (None, _) => Err("no router id: the node has no IPv4 address, name one with \
                              --bgp-router-id"
                .to_owned()),
            (_, None) => Err("no AS: name it with --bgp-local-as".to_owned()),
            (Some(router_id), Some(local_as)) => {
                let mut config = SpeakerConfig::new(local_as, router_id);
                config.hostname.clone_from(&settings.node_name);
                config.listen.clone_from(&settings.listen);
                config.restart_time = settings.restart_time;
                Speaker::start(&config).map_err(|error| error.to_string())
            }
        };
        match started {
            Ok(speaker) => {
                if self.drain.is_drained() {
                    speaker.drain(Duration::ZERO);
                }
                self.problem = None;
                self.speaker = Some(speaker);
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    warn!(error = problem, "BGP does not start");
                }
                self.problem = Some(problem);
            }
        }
    }

    /// Hands new peers to the speaker, with the tables that go with them: apart from each other, a
    /// peer whose last rule is gone would lose everything for a moment.
    fn hand_over(&mut self, now: SystemTime) {
        let tables = tables(&self.wanted, &self.peers, now);
        self.next_change = tables.next_change;
        let Some(speaker) = &self.speaker else { return };
        let is_complete = self.wanted.is_complete;
        let configs = self.peers.values().map(|peer| peer.config.clone());
        let (refused, generation) =
            speaker.set_peers_and_tables(configs, tables.common, tables.named, is_complete);
        self.ledger
            .announced(tables.eips, generation, is_complete, Instant::now());
        let refused = refused.into_iter().map(|refused| Refusal {
            peer: refused.name.to_string(),
            origin: self
                .peers
                .get(&refused.name.0)
                .and_then(|peer| peer.origin.clone()),
            problem: refused.error.to_string(),
        });
        let refused: Vec<Refusal> = refused.collect();
        tell_refusals(&[], &refused);
        self.refused.extend(refused);
    }

    /// Hands the routes to the speaker.
    fn publish(&mut self, now: SystemTime) {
        let tables = tables(&self.wanted, &self.peers, now);
        self.next_change = tables.next_change;
        let Some(speaker) = &self.speaker else { return };
        let is_complete = self.wanted.is_complete;
        let generation = speaker.set_tables(tables.common, tables.named, is_complete);
        self.ledger
            .announced(tables.eips, generation, is_complete, Instant::now());
    }
}

impl Announcer for BgpAnnouncer {
    fn announce(&mut self, wanted: &Announcements) {
        let mut state = self.state();
        state.ledger.inherit(&wanted.programmed);
        let is_same =
            state.wanted.wanted == wanted.wanted && state.wanted.is_complete == wanted.is_complete;
        if is_same {
            return;
        }
        let before = std::mem::replace(&mut state.wanted, wanted.clone());
        let is_other = |eip: &IpAddr| before.wanted.get(eip) != wanted.wanted.get(eip);
        state.ledger.changes(is_other);
        state.publish(SystemTime::now());
        drop(state);
        self.0.changed.notify_one();
        self.0.news.send_replace(());
    }

    fn lingering(&self, leaving: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        if leaving.is_empty() {
            return BTreeSet::new();
        }
        let state = self.state();
        let Some(speaker) = &state.speaker else {
            return BTreeSet::new();
        };
        state.ledger.lingering(leaving, &speaker.status().peers)
    }
}

/// A refusal is told when it begins and when it ends.
fn tell_refusals(before: &[Refusal], after: &[Refusal]) {
    for refusal in after.iter().filter(|refusal| !before.contains(refusal)) {
        warn!(
            peer = refusal.peer,
            error = refusal.problem,
            "BGP peer refused"
        );
    }
    let is_gone = |old: &&Refusal| after.iter().all(|new| new.peer != old.peer);
    for refusal in before.iter().filter(is_gone) {
        info!(peer = refusal.peer, "BGP peer no longer refused");
    }
}
