//! The only module with I/O: one supervisor, one task per peer, one per listening socket.
//!
//! ```text
//!   Speaker ── watch<Intent> ──> Supervisor ── watch<Intent> ─> PeerTask (one per peer)
//!      ▲                           ▲    ▲  └────── mpsc(2) ──────┘  │
//!      │                  mpsc(16) │    │ mpsc(16)                  │ watch<PeerStatus>
//!      │                     Listener  Advertiser                   │
//!      │           (one per address)   (one per unnumbered peer)    │
//!      └───────────────────────── status <──────────────────────────┘
//! ```
//!
//! The supervisor puts addresses to the peers that are configured without one ([`Roster`]).
//! What is wanted travels as state, not as commands: nothing queues up behind a slow peer, and a
//! task that sees only the newest [`Intent`] has missed nothing. A full channel of connections
//! drops the newest one, which the peer dials again.

mod advertise;
mod faults;
mod listener;
mod path;
mod peer;
mod roster;
mod socket;
mod stream;
mod wanted;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::sleep,
};
use tracing::{Instrument as _, debug, info_span};

use self::{
    advertise::{Advertisers, Heard},
    listener::Listeners,
    peer::PeerTask,
    roster::{Peers, Roster},
};
use super::{
    bfd::{BfdStatus, Service},
    config::{Neighbour, PeerConfig, PeerName, SpeakerConfig},
    fsm::{Identity, SessionSnapshot, State},
    route::RouteTable,
};

/// How long a peer that dialled from a range is remembered after its session was lost.
const GUEST_LINGER: Duration = Duration::from_mins(2);
/// How often such peers are looked at.
const TIDY: Duration = Duration::from_secs(10);

/// Connections a peer's task has not looked at yet.
const INCOMING_PER_PEER: usize = 2;

/// Everything that is wanted of the speaker.
#[derive(Debug, Clone, Default)]
pub(super) struct Intent {
    pub(super) table: RouteTable,
    /// Tables of peers that do not get the common one; of the same generation.
    pub(super) tables: Arc<BTreeMap<String, RouteTable>>,
    pub(super) peers: Arc<Peers>,
    pub(super) drain: Option<Drain>,
    pub(super) exit: Option<Exit>,
}

impl Intent {
    /// The table of one peer.
    pub(super) fn table_of(&self, peer: &PeerConfig) -> &RouteTable {
        let name = peer.export.table.as_ref();
        name.and_then(|name| self.tables.get(name))
            .unwrap_or(&self.table)
    }
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
    /// BFD toward it, where it is configured.
    pub bfd: Option<BfdStatus>,
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
    /// Something on the board has changed.
    pub(super) changes: watch::Sender<()>,
}

/// Owns all tasks.
pub(super) struct Supervisor {
    identity: Identity,
    /// As the speaker wants it.
    intent: watch::Receiver<Intent>,
    /// The same for the tasks: with an address for every peer.
    resolved: watch::Sender<Intent>,
    roster: Roster,
    advertisers: Advertisers,
    bfd: Service,
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
            resolved: watch::channel(Intent::default()).0,
            roster: Roster::default(),
            advertisers: Advertisers::new(),
            bfd: Service::default(),
            listeners: Listeners::new(&config.listen),
            board,
            start_by: Instant::now() + config.restart_time,
            tasks: JoinSet::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Runs until the speaker shuts down or its handle is gone, and all peers have ended.
    pub(super) async fn run(mut self) {
        let mut is_new = true;
        loop {
            let intent = self.intent.borrow_and_update().clone();
            let peers = self.publish(&intent, is_new);
            if intent.exit.is_some() {
                break;
            }
            self.spawn_missing(&peers);
            self.show_unknown(&intent.peers);
            self.listeners.set_peers(&intent.peers, &peers);
            *lock(&self.board.listeners) = self.listeners.status();
            self.advertisers
                .set_interfaces(intent.peers.values().filter_map(unnumbered));
            let has_guests = self.roster.has_guests();
            is_new = false;
            tokio::select! {
                changed = self.intent.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    is_new = true;
                }
                // Not a pattern: nothing to hand over is a reason to go round as well.
                accepted = self.listeners.accept() => {
                    if let Some((stream, source)) = accepted {
                        self.hand_over(&intent.peers, stream, source);
                    }
                }
                Some(heard) = self.advertisers.heard() => self.note_router(&peers, &heard),
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.reap(id);
                }
                () = sleep(TIDY), if has_guests => self.tidy(&intent.peers),
            }
        }
        self.listeners.close();
        let Self {
            resolved,
            mut tasks,
            ..
        } = self;
        // Tasks that were not told to leave learn by this that nobody wants them any more.
        drop(resolved);
        while tasks.join_next().await.is_some() {}
    }

    /// Tells the tasks what is wanted, when it is new or somebody has got another address.
    fn publish(&mut self, intent: &Intent, is_new: bool) -> Arc<Peers> {
        let peers = self.roster.resolve(&intent.peers);
        self.resolved.send_if_modified(|resolved| {
            let is_changed = is_new || resolved.peers != peers;
            if is_changed {
                *resolved = Intent {
                    peers: Arc::clone(&peers),
                    ..intent.clone()
                };
            }
            is_changed
        });
        peers
    }

    fn spawn_missing(&mut self, peers: &Peers) {
        for (name, config) in peers {
            if !self.peers.contains_key(name) {
                self.spawn(config);
            }
        }
    }

    fn spawn(&mut self, config: &PeerConfig) {
        let (sender, incoming) = mpsc::channel(INCOMING_PER_PEER);
        let (status, board) = watch::channel(PeerStatus::unborn(config));
        let task = PeerTask::new(
            self.identity.clone(),
            config.clone(),
            self.resolved.subscribe(),
            incoming,
            status,
            Arc::clone(&self.board),
            self.start_by,
            self.bfd.clone(),
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
            self.board.changes.send_replace(());
        }
    }

    /// Peers that are configured and have no address yet can be seen all the same.
    fn show_unknown(&self, configured: &Peers) {
        let mut board = lock(&self.board.peers);
        board.retain(|name, _| configured.contains_key(name) || self.peers.contains_key(name));
        for peer in configured.values() {
            if let Some(interface) = unnumbered(peer)
                && !self.roster.is_known(peer)
                && !board.contains_key(&peer.name)
            {
                let mut status = PeerStatus::unborn(peer);
                status.transport_error = Some(format!("no router is heard on {interface}"));
                board.insert(peer.name.clone(), watch::channel(status).1);
            }
        }
    }

    /// A connection goes to the peer with its source address, or in whose range that is. Anybody
    /// else's is closed before a byte is sent.
    fn hand_over(&mut self, configured: &Arc<Peers>, stream: TcpStream, source: SocketAddr) {
        let from = socket::source(source);
        let is_from = |peer: &PeerConfig| {
            let transport = &peer.transport;
            transport.address == from.address
                && (!transport.is_link_local() || transport.interface == from.interface)
        };
        let find = |peers: &Peers| {
            let peer = peers.values().find(|peer| is_from(peer));
            peer.map(|peer| peer.name.clone())
        };
        let mut name = find(&self.roster.resolve(configured));
        if name.is_none() && self.roster.admit(configured, from.clone()) {
            let peers = self.roster.resolve(configured);
            name = find(&peers);
            self.resolved
                .send_modify(|resolved| resolved.peers = Arc::clone(&peers));
            self.spawn_missing(&peers);
        }
        let Some(running) = name.and_then(|name| self.peers.get(&name)) else {
            debug!(%source, "connection of no configured peer");
            return;
        };
        if running.incoming.try_send(stream).is_err() {
            debug!(%source, "connection dropped, others are waiting");
        }
    }

    fn note_router(&mut self, peers: &Peers, heard: &Heard) {
        let Heard { interface, router } = heard;
        let of_interface = peers
            .values()
            .find(|peer| unnumbered(peer) == Some(interface.as_str()));
        let is_up = of_interface
            .and_then(|peer| self.status_of(&peer.name))
            .is_some_and(|status| status.session.state == State::Established);
        self.roster.hear(interface, *router, is_up, Instant::now());
    }

    fn tidy(&mut self, configured: &Peers) {
        let over: Vec<PeerName> = lock(&self.board.peers)
            .iter()
            .filter(|(_, status)| {
                let status = status.borrow();
                let age = status.since.elapsed().unwrap_or_default();
                status.session.state <= State::Active && age >= GUEST_LINGER
            })
            .map(|(name, _)| name.clone())
            .collect();
        self.roster.tidy(configured, |name| over.contains(name));
    }

    fn status_of(&self, name: &PeerName) -> Option<PeerStatus> {
        let board = lock(&self.board.peers);
        board.get(name).map(|status| status.borrow().clone())
    }
}

impl PeerStatus {
    /// A peer about which nothing is known yet.
    fn unborn(config: &PeerConfig) -> Self {
        Self {
            name: config.name.clone(),
            address: config.transport.address,
            since: SystemTime::now(),
            transport_error: None,
            bfd: None,
            session: SessionSnapshot::default(),
        }
    }
}

/// The interface of a peer that has to be heard there.
fn unnumbered(peer: &PeerConfig) -> Option<&str> {
    match peer.transport.neighbour {
        Neighbour::Advertised => peer.transport.interface.as_deref(),
        Neighbour::Address | Neighbour::Range(_) => None,
    }
}

/// A poisoned lock still guards whole values: every writer replaces or inserts one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
