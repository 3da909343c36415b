//! The session with one peer (RFC 4271 §8) without I/O and without a clock.
//!
//! [`Session::process`] takes what happened and the time, and returns what to do. A session owns
//! up to two connections, one opened by each side; the collision rule decides between them.
//!
//! ```text
//!            Start                 dialled                 OPEN                  KEEPALIVE
//!   Idle ───────────> Connect ──────────────> OpenSent ──────────> OpenConfirm ───────────> Established
//!    ▲ ▲                │ ▲ retry time   ▲        │                     │                        │
//!    │ │        refused ▼ │              │        │ connection lost     │ connection lost        │
//!    │ │              Active ────────────┘        └──────────> Active <─┴────────────────────────┤
//!    │ │                     accepted                                                            │
//!    │ └─────────────────────────── NOTIFICATION sent or received: waits, refuses <──────────────┘
//!    └───────────────────────────── Stop
//! ```
//!
//! Invariants
//! - At most one connection of each [`Origin`] exists, at most one of them is established, and
//!   none exists in `Idle`.
//! - In every state but a stopped `Idle` and a passive `Active` some timer runs: nothing waits
//!   for ever.

use std::time::Instant;

use super::{
    backoff::{Backoff, Jitter},
    config::{ExportPolicy, PeerConfig},
    route::RouteTable,
    wire::{Notification, SizeLimit},
};

mod agreement;
mod collision;
mod connection;
mod event;
mod exchange;
mod export;
mod link;
mod next_hop;
mod snapshot;

#[cfg(test)]
mod tests;

pub use agreement::Agreement;
use agreement::Restarting;
pub use connection::Origin;
use connection::{Connection, Connections, Phase};
pub use event::{Endpoints, Farewell, Identity, Input, Output, RouteFate, State};
use export::Export;
pub use export::{Serving, Silence};
pub use snapshot::{Counters, FamilySnapshot, LastError, Loss, SessionSnapshot};

/// Whether and when we dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialling {
    Off,
    At(Instant),
    Until(Instant),
}

/// Whether the session is wanted and may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Stopped,
    /// `IdleHoldTimer` runs (RFC 4271 §8.1.1, `DampPeerOscillations`).
    HeldBack(Instant),
    Ready,
}

/// The session with one peer.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    config: PeerConfig,
    table: RouteTable,
    serving: Serving,
    readiness: Readiness,
    dialling: Dialling,
    connections: Connections,
    established_at: Option<Instant>,
    restarting: Restarting,
    capabilities: OwnCapabilities,
    backoff: Backoff,
    jitter: Jitter,
    counters: Counters,
    last_loss: Option<Loss>,
    last_sent: Option<LastError>,
    last_received: Option<LastError>,
}

/// Whether our OPEN has capabilities in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnCapabilities {
    Sent,
    /// The peer refused them and we are configured to give in (RFC 5492 §3).
    LeftOut,
}

impl Session {
    /// A stopped session. `seed` feeds the jitter.
    #[must_use]
    pub fn new(identity: Identity, config: PeerConfig, table: RouteTable, seed: u64) -> Self {
        Self {
            identity,
            config,
            table,
            serving: Serving::default(),
            readiness: Readiness::Stopped,
            dialling: Dialling::Off,
            connections: Connections::default(),
            established_at: None,
            restarting: Restarting::Yes,
            capabilities: OwnCapabilities::Sent,
            backoff: Backoff::default(),
            jitter: Jitter::new(seed),
            counters: Counters::default(),
            last_loss: None,
            last_sent: None,
            last_received: None,
        }
    }

    /// The process was started long ago: OPENs no longer say that it has restarted.
    #[must_use]
    pub fn without_restart(mut self) -> Self {
        self.restarting = Restarting::No;
        self
    }

    /// The only way in for what happens on the network.
    pub fn process(&mut self, input: Input<'_>, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Start => self.start(now, &mut outputs),
            Input::Stop(farewell) => self.stop(&farewell, &mut outputs),
            Input::Dialled(endpoints) => self.dialled(endpoints, now, &mut outputs),
            Input::DialFailed => self.dial_failed(now),
            Input::Accepted(endpoints) => self.accepted(endpoints, now, &mut outputs),
            Input::Message(origin, message) => self.received(origin, message, now, &mut outputs),
            Input::BadMessage(origin, error) => {
                self.refuse(origin, &error, now, &mut outputs);
            }
            Input::Closed(origin) => self.closed(origin, now, &mut outputs),
            Input::Taken(origin) => {
                if let Some(connection) = self.connections.get_mut(origin) {
                    connection.note_progress(now);
                }
            }
            Input::PathDead(routes) => self.path_dead(routes, now, &mut outputs),
            Input::Timer => self.timer(now, &mut outputs),
        }
        outputs
    }

    /// When to come back with [`Input::Timer`], unless something happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let held_back = match self.readiness {
            Readiness::HeldBack(until) => Some(until),
            Readiness::Stopped | Readiness::Ready => None,
        };
        let dialling = match self.dialling {
            Dialling::Off => None,
            Dialling::At(time) | Dialling::Until(time) => Some(time),
        };
        let connections = self.connections.iter();
        let timers = connections.filter_map(Connection::next_deadline);
        timers.chain(held_back).chain(dialling).min()
    }

    /// State, derived from what there is.
    #[must_use]
    pub fn state(&self) -> State {
        let of = |connection: &Connection| match connection.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established(_) => State::Established,
        };
        let connections = self.connections.iter().map(of);
        connections
            .max()
            .unwrap_or(match (self.readiness, self.dialling) {
                (Readiness::Stopped | Readiness::HeldBack(_), _) => State::Idle,
                (Readiness::Ready, Dialling::Until(_)) => State::Connect,
                (Readiness::Ready, Dialling::Off | Dialling::At(_)) => State::Active,
            })
    }

    /// Replaces the whole desired set.
    pub fn set_table(&mut self, table: RouteTable) {
        self.table = table;
        if let Some(export) = self.connections.established_export() {
            export.set_table(&self.table);
        }
    }

    /// Replaces the export policy; the session stays.
    pub fn set_export(&mut self, policy: ExportPolicy) {
        self.config.export = policy.clone();
        let endpoints = self
            .connections
            .established()
            .map(|connection| connection.endpoints);
        if let (Some(endpoints), Some(export)) = (endpoints, self.connections.established_export())
        {
            export.set_policy(policy, endpoints, &self.table);
        }
    }

    /// How routes are to be announced from now on.
    pub fn set_serving(&mut self, serving: Serving) {
        self.serving = serving;
        if let Some(export) = self.connections.established_export() {
            export.set_serving(serving, &self.table);
        }
    }

    /// Appends what an established session has to say about its routes, until `out` holds `room`
    /// bytes or all is said. Called when the socket takes bytes, so that nothing is decided
    /// before it has to be.
    pub fn write_routes(&mut self, origin: Origin, out: &mut Vec<u8>, room: usize) {
        let export = self
            .connections
            .get_mut(origin)
            .and_then(Connection::export_mut);
        if let Some(export) = export {
            let written = export.write(out, room);
            self.counters.updates_sent += written.updates;
            self.counters.refreshes_sent += written.refreshes;
        }
    }

    /// Everything the peer has to be told has been written, or there is no session.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.connections
            .established()
            .and_then(Connection::export)
            .is_none_or(Export::is_settled)
    }

    /// How long messages on a connection may be, as far as is known.
    #[must_use]
    pub fn limit(&self, origin: Origin) -> SizeLimit {
        let agreement = self.connections.get(origin).and_then(Connection::agreement);
        agreement.map_or(SizeLimit::Standard, |agreement| agreement.limit)
    }

    fn start(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        match self.readiness {
            Readiness::Stopped => {
                self.readiness = Readiness::Ready;
                self.dial(now, outputs);
            }
            // RFC 4271 §8.2.2: start events are ignored in every other state.
            Readiness::HeldBack(_) | Readiness::Ready => {}
        }
    }

    fn stop(&mut self, farewell: &Farewell, outputs: &mut Vec<Output>) {
        self.readiness = Readiness::Stopped;
        self.cancel_dial(outputs);
        for origin in Origin::ALL {
            let Some(connection) = self.connections.slot(origin).take() else {
                continue;
            };
            let notification = last_words(farewell, &connection);
            let mut loss = Loss::Closed;
            if let Some(notification) = notification {
                loss = Loss::Sent(notification.true_reason());
                self.send_notification(origin, &notification, outputs);
            }
            outputs.push(Output::Close(origin));
            self.drop_connection(&connection, loss, outputs);
        }
        self.backoff.reset();
    }
}

/// What a stopped session says on one of its connections.
fn last_words(farewell: &Farewell, connection: &Connection) -> Option<Notification<'static>> {
    let Farewell::Cease {
        reason,
        text,
        routes,
    } = farewell
    else {
        return None;
    };
    let notification = Notification::with_communication(*reason, text);
    Some(with_fate(notification, *routes, connection))
}

/// A peer that keeps routes over a NOTIFICATION needs a hard reset to drop them (RFC 8538 §3).
fn with_fate(
    notification: Notification<'static>,
    routes: RouteFate,
    connection: &Connection,
) -> Notification<'static> {
    let agreement = connection.agreement();
    let keeps = agreement.is_some_and(|agreement| agreement.keeps_over_notification);
    match routes {
        RouteFate::Dropped if keeps => notification.into_hard_reset(),
        RouteFate::Dropped | RouteFate::Kept => notification,
    }
}
