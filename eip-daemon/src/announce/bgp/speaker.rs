//! The handle on a running speaker.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    config::{ConfigError, PeerConfig, PeerName, SpeakerConfig},
    driver::{Board, Drain, Exit, Intent, ListenerStatus, PeerStatus, Supervisor, lock},
    route::{Route, RouteTable},
};

/// A running speaker. Dropping it closes all connections as a crash would; peers keep the routes
/// for the restart time. [`Speaker::shutdown`] is the orderly way.
///
/// Every setter replaces the whole of what it sets, returns at once, and is carried out by the
/// tasks in their own time.
#[derive(Debug)]
pub struct Speaker {
    intent: watch::Sender<Intent>,
    board: Arc<Board>,
    supervisor: JoinHandle<()>,
}

/// The speaker at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStatus {
    /// Peers by name.
    pub peers: Vec<PeerStatus>,
    /// Listening sockets.
    pub listeners: Vec<ListenerStatus>,
    /// Number of the newest table, as [`Speaker::set_routes`] returned it.
    pub generation: u64,
    /// Routes in it.
    pub routes: usize,
    /// It was complete.
    pub is_complete: bool,
}

/// A peer that was refused; the others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer {name}: {error}")]
pub struct RefusedPeer {
    /// Its name.
    pub name: PeerName,
    /// The field and what is wrong with it.
    pub error: ConfigError,
}

impl Speaker {
    /// Starts a speaker without peers and without routes, on the current tokio runtime.
    ///
    /// Sessions wait for the first complete table, or for the restart time, whichever comes first:
    /// a peer that kept our routes must not be told that there are none (RFC 4724 §4.1).
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn start(config: &SpeakerConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let (intent, receiver) = watch::channel(Intent::default());
        let board = Arc::<Board>::default();
        let supervisor = Supervisor::new(config, receiver, Arc::clone(&board));
        Ok(Self {
            intent,
            board,
            supervisor: tokio::spawn(supervisor.run()),
        })
    }

    /// Replaces the desired set. A set that is not complete is announced, but nothing is claimed
    /// to be missing from it. Returns the number under which [`PeerStatus`] reports it settled.
    pub fn set_routes(&self, routes: impl IntoIterator<Item = Route>, is_complete: bool) -> u64 {
        self.set_tables(routes, BTreeMap::new(), is_complete)
    }

    /// As [`Speaker::set_routes`], with tables of their own for some peers: those whose
    /// [`ExportPolicy::table`] names one.
    ///
    /// [`ExportPolicy::table`]: super::ExportPolicy::table
    pub fn set_tables(
        &self,
        common: impl IntoIterator<Item = Route>,
        named: BTreeMap<String, Vec<Route>>,
        is_complete: bool,
    ) -> u64 {
        let tables = Tables::new(common, named, is_complete);
        let mut generation = 0;
        self.intent
            .send_modify(|intent| generation = tables.put(intent));
        generation
    }

    /// Replaces the set of peers. Only sessions whose settings differ are touched; of those, a
    /// changed export policy is announced and everything else needs a new session. A peer that
    /// is refused keeps the settings it had, if any.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = PeerConfig>) -> Vec<RefusedPeer> {
        let (accepted, refused) = self.judge(peers);
        self.intent.send_if_modified(|intent| {
            let is_changed = *intent.peers != accepted;
            if is_changed {
                intent.peers = Arc::new(accepted);
            }
            is_changed
        });
        refused
    }

    /// [`Speaker::set_peers`] and [`Speaker::set_tables`] in one: nobody is told what comes of new
    /// settings and the tables that belong to the old ones.
    pub fn set_peers_and_tables(
        &self,
        peers: impl IntoIterator<Item = PeerConfig>,
        common: impl IntoIterator<Item = Route>,
        named: BTreeMap<String, Vec<Route>>,
        is_complete: bool,
    ) -> (Vec<RefusedPeer>, u64) {
        let (accepted, refused) = self.judge(peers);
        let tables = Tables::new(common, named, is_complete);
        let mut generation = 0;
        self.intent.send_modify(|intent| {
            if *intent.peers != accepted {
                intent.peers = Arc::new(accepted);
            }
            generation = tables.put(intent);
        });
        (refused, generation)
    }

    /// The peers that are in force from now on, and those that are refused.
    fn judge(
        &self,
        peers: impl IntoIterator<Item = PeerConfig>,
    ) -> (BTreeMap<PeerName, PeerConfig>, Vec<RefusedPeer>) {
        let before = Arc::clone(&self.intent.borrow().peers);
        let mut accepted: BTreeMap<PeerName, PeerConfig> = BTreeMap::new();
        let mut refused = Vec::new();
        for peer in peers {
            let checked = peer.check().and_then(|()| unique(&peer, &accepted));
            match (checked, before.get(&peer.name)) {
                (Ok(()), _) => {
                    accepted.insert(peer.name.clone(), peer);
                }
                (Err(error), last_good) => {
                    if let Some(last_good) = last_good {
                        accepted
                            .entry(peer.name.clone())
                            .or_insert_with(|| last_good.clone());
                    }
                    refused.push(RefusedPeer {
                        name: peer.name,
                        error,
                    });
                }
            }
        }
        (accepted, refused)
    }

    /// Marks all routes `GRACEFUL_SHUTDOWN` (RFC 8326) and withdraws them after `wait`. Sessions
    /// stay.
    pub fn drain(&self, wait: Duration) {
        let drain = Drain {
            withdraw_at: Instant::now() + wait,
        };
        self.intent.send_modify(|intent| intent.drain = Some(drain));
    }

    /// Announces all routes as before [`Speaker::drain`].
    pub fn undrain(&self) {
        self.intent.send_modify(|intent| intent.drain = None);
    }

    /// What can be seen now.
    #[must_use]
    pub fn status(&self) -> SpeakerStatus {
        let peers = lock(&self.board.peers);
        let intent = self.intent.borrow();
        SpeakerStatus {
            peers: peers
                .values()
                .map(|status| status.borrow().clone())
                .collect(),
            listeners: lock(&self.board.listeners).clone(),
            generation: intent.table.generation,
            routes: intent.table.ipv4.len() + intent.table.ipv6.len(),
            is_complete: intent.table.is_complete,
        }
    }

    /// Changes with everything that [`Speaker::status`] shows of peers.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.board.changes.subscribe()
    }

    /// Ends all sessions and returns when all connections are closed. Bounded: a peer that takes
    /// nothing is given up after some seconds.
    pub async fn shutdown(self, exit: Exit) {
        self.intent.send_modify(|intent| intent.exit = Some(exit));
        // An error means that the supervisor has died; there is nothing left to wait for.
        let _ = self.supervisor.await;
    }
}

/// Tables on their way into an [`Intent`].
struct Tables {
    common: RouteTable,
    named: BTreeMap<String, RouteTable>,
}

impl Tables {
    fn new(
        common: impl IntoIterator<Item = Route>,
        named: BTreeMap<String, Vec<Route>>,
        is_complete: bool,
    ) -> Self {
        let named = named.into_iter();
        Self {
            common: RouteTable::new(common, is_complete),
            named: named
                .map(|(name, routes)| (name, RouteTable::new(routes, is_complete)))
                .collect(),
        }
    }

    /// Returns their number.
    fn put(mut self, intent: &mut Intent) -> u64 {
        let generation = intent.table.generation + 1;
        // Once complete, always complete: later sets only differ.
        let was_complete = intent.table.is_complete;
        for table in self.named.values_mut().chain([&mut self.common]) {
            table.generation = generation;
            table.is_complete |= was_complete;
        }
        intent.table = self.common;
        intent.tables = Arc::new(self.named);
        generation
    }
}

/// Connections are told apart by address, so two peers cannot share one.
fn unique(peer: &PeerConfig, others: &BTreeMap<PeerName, PeerConfig>) -> Result<(), ConfigError> {
    let duplicate = |field, other: &PeerConfig| ConfigError::Duplicate {
        field,
        other: other.name.clone(),
    };
    if let Some(other) = others.get(&peer.name) {
        return Err(duplicate("name", other));
    }
    let place = |peer: &PeerConfig| {
        let transport = &peer.transport;
        (
            transport.neighbour,
            transport.address,
            transport.interface.clone(),
        )
    };
    match others.values().find(|other| place(other) == place(peer)) {
        Some(other) => Err(duplicate("address", other)),
        None => Ok(()),
    }
}
