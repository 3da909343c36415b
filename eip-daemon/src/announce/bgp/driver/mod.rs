//! The only module with I/O: one supervisor, one task per peer, one per listening socket.
//!
//! ```text
//!   Speaker ── watch<Intent> ──> Supervisor ──┬─ spawns ─> PeerTask (one per peer)
//!      ▲                             ▲        │               ▲  │
//!      │                    mpsc(16) │        └── mpsc(2) ────┘  │ watch<PeerStatus>
//!      │                         Listener (one per address)      │
//!      └───────────────────────── status <───────────────────────┘
//! ```
//!
//! What is wanted travels as state, not as commands: nothing queues up behind a slow peer, and a
//! task that sees only the newest [`Intent`] has missed nothing. A full channel of connections
//! drops the newest one, which the peer dials again.

mod listener;
mod peer;
mod socket;
mod stream;
mod wanted;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use serde::Serialize;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{Id, JoinSet},
};
use tracing::{Instrument as _, debug, info_span};

use self::{listener::Listeners, peer::PeerTask};
use super::{
    config::{PeerConfig, PeerName, SpeakerConfig},
    fsm::{Identity, SessionSnapshot},
    route::RouteTable,
};

/// Connections a peer's task has not looked at yet.
const INCOMING_PER_PEER: usize = 2;

/// Everything that is wanted of the speaker.
#[derive(Debug, Clone, Default)]
pub(super) struct Intent {
    pub(super) table: RouteTable,
    pub(super) peers: Arc<BTreeMap<PeerName, PeerConfig>>,
    pub(super) drain: Option<Drain>,
    pub(super) exit: Option<Exit>,
}

/// The node is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drain {
    /// Until then routes are marked, after that they are withdrawn.
    pub(super) withdraw_at: Instant,
}

/// How the speaker leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Routes are withdrawn and sessions ended with a Cease: traffic goes elsewhere at once.
    Withdraw {
        /// For the operator at the other end (RFC 9003).
        text: &'static str,
    },
    /// Connections are closed without a word: peers keep the routes for the restart time.
    Keep,
}

/// A peer at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its name.
    pub name: PeerName,
    /// Its address.
    pub address: IpAddr,
    /// Since when it is in its state.
    pub since: SystemTime,
    /// Why the last attempt to connect failed; `None` when it did not.
    pub transport_error: Option<String>,
    /// The session.
    #[serde(flatten)]
    pub session: SessionSnapshot,
}

/// A listening socket at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Where.
    pub address: SocketAddr,
    /// Why it does not listen, or not for everybody; `None` when all is well.
    pub error: Option<String>,
}

/// Where status is read from.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) peers: Mutex<BTreeMap<PeerName, watch::Receiver<PeerStatus>>>,
    pub(super) listeners: Mutex<Vec<ListenerStatus>>,
}

/// Owns all tasks.
pub(super) struct Supervisor {
    identity: Identity,
    intent: watch::Receiver<Intent>,
    board: Arc<Board>,
    start_by: Instant,
    listeners: Listeners,
    tasks: JoinSet<()>,
    peers: BTreeMap<PeerName, RunningPeer>,
}

struct RunningPeer {
    task: Id,
    incoming: mpsc::Sender<TcpStream>,
}

impl Supervisor {
    pub(super) fn new(
        config: &SpeakerConfig,
        intent: watch::Receiver<Intent>,
        board: Arc<Board>,
    ) -> Self {
        Self {
            identity: Identity::from(config),
            intent,
            listeners: Listeners::new(&config.listen),
            board,
            start_by: Instant::now() + config.restart_time,
            tasks: JoinSet::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Runs until the speaker shuts down or its handle is gone, and all peers have ended.
    pub(super) async fn run(mut self) {
        loop {
            let intent = self.intent.borrow_and_update().clone();
            if intent.exit.is_some() {
                break;
            }
            self.spawn_missing(&intent);
            self.listeners.set_peers(&intent.peers);
            *lock(&self.board.listeners) = self.listeners.status();
            tokio::select! {
                changed = self.intent.changed() => if changed.is_err() { break },
                Some((stream, source)) = self.listeners.accept() => {
                    self.hand_over(&intent, stream, source);
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.reap(id);
                }
            }
        }
        self.listeners.close();
        while self.tasks.join_next().await.is_some() {}
    }

    fn spawn_missing(&mut self, intent: &Intent) {
        for (name, config) in intent.peers.iter() {
            if !self.peers.contains_key(name) {
                self.spawn(config);
            }
        }
    }

    fn spawn(&mut self, config: &PeerConfig) {
        let (sender, incoming) = mpsc::channel(INCOMING_PER_PEER);
        let (status, board) = watch::channel(PeerStatus {
            name: config.name.clone(),
            address: config.transport.address,
            since: SystemTime::now(),
            transport_error: None,
            session: SessionSnapshot::default(),
        });
        let task = PeerTask::new(
            self.identity.clone(),
            config.clone(),
            self.intent.clone(),
            incoming,
            status,
            self.start_by,
        );
        let span = info_span!("bgp", peer = %config.name);
        let handle = self.tasks.spawn(task.run().instrument(span));
        lock(&self.board.peers).insert(config.name.clone(), board);
        let running = RunningPeer {
            task: handle.id(),
            incoming: sender,
        };
        self.peers.insert(config.name.clone(), running);
    }

    /// Forgets a task that has ended. One that died, and one whose peer came back while it was
    /// ending, is replaced in the next round.
    fn reap(&mut self, task: Id) {
        let ended = self.peers.iter().find(|(_, running)| running.task == task);
        if let Some((name, _)) = ended {
            let name = name.clone();
            self.peers.remove(&name);
            lock(&self.board.peers).remove(&name);
        }
    }

    /// A connection goes to the peer with its source address. Anybody else's is closed before a
    /// byte is sent.
    fn hand_over(&self, intent: &Intent, stream: TcpStream, source: SocketAddr) {
        let peer = intent
            .peers
            .values()
            .find(|peer| peer.transport.accepts(source));
        let running = peer.and_then(|peer| self.peers.get(&peer.name));
        let Some(running) = running else {
            debug!(%source, "connection of no configured peer");
            return;
        };
        if running.incoming.try_send(stream).is_err() {
            debug!(%source, "connection dropped, others are waiting");
        }
    }
}

/// A poisoned lock still guards whole values: every writer replaces or inserts one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
