//! One BFD session (RFC 5880 §6.8) without I/O and without a clock: asynchronous mode, no echo, no
//! authentication.
//!
//! ```text
//!              Down heard             Init or Up heard
//!     Down ─────────────────> Init ─────────────────> Up
//!      │ ▲                      │                     │ │
//!      │ └── AdminDown heard,   │                     │ │
//!      │     detection time ────┴── also Down heard ──┘ │
//!      └───────────────── Init heard ───────────────────┘
//! ```
//!
//! Invariants
//! - Up is reached only when the other side has said that it hears us.
//! - In Init and Up the detection timer runs.
//! - Slower than one packet a second is never asked for, and faster is not sent before Up.

use std::time::{Duration, Instant};

use super::{
    BfdSettings, Role,
    wire::{Control, Diagnostic, State},
};
use crate::announce::bgp::backoff::Jitter;

/// RFC 5880 §6.8.3: no faster than this while the session is not up.
const SLOW: Duration = Duration::from_secs(1);

/// What has become of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It carries packets both ways.
    Up,
    /// It does not, or the other side says so.
    Down(Diagnostic),
    /// The other side has switched BFD off; nothing is known about the path (RFC 5882 §3.2).
    SwitchedOff,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reaction {
    /// Send this.
    pub send: Option<Control>,
    /// Tell whoever relies on the path.
    pub change: Option<Change>,
}

/// A poll sequence (RFC 5880 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    None,
    Running,
}

/// What is known of the other side.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: u32,
    state: State,
    min_rx: Duration,
    desired_min_tx: Duration,
    detect_multiplier: u8,
    demand: bool,
    is_control_plane_independent: bool,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            discriminator: 0,
            state: State::Down,
            // RFC 5880 §6.8.1: one microsecond until the other side has said.
            min_rx: Duration::from_micros(1),
            desired_min_tx: Duration::ZERO,
            detect_multiplier: 0,
            demand: false,
            is_control_plane_independent: false,
        }
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    settings: BfdSettings,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    jitter: Jitter,
    last_sent: Option<Instant>,
    next_send: Option<Instant>,
    detect_at: Option<Instant>,
}

impl Session {
    /// A session in Down. `discriminator` is not zero and unique on this machine; `seed` feeds the
    /// jitter.
    #[must_use]
    pub fn new(settings: BfdSettings, discriminator: u32, seed: u64, now: Instant) -> Self {
        let mut session = Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: Remote::default(),
            poll: Poll::None,
            jitter: Jitter::new(seed),
            last_sent: None,
            next_send: None,
            detect_at: None,
        };
        session.plan_next(now);
        session
    }

    /// Ours.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// Why the session was last taken down.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// State.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The other side's, as it last said.
    #[must_use]
    pub fn remote_state(&self) -> State {
        self.remote.state
    }

    /// Whether the other side's BFD outlives its control plane: only then does its silence mean
    /// that the path is dead (RFC 5882 §4.3).
    #[must_use]
    pub fn is_remote_independent(&self) -> bool {
        self.remote.is_control_plane_independent
    }

    /// How long nothing has to be heard for the path to count as dead (RFC 5880 §6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        let interval = self.settings.min_rx.max(self.remote.desired_min_tx);
        interval * u32::from(self.remote.detect_multiplier)
    }

    /// When to come back with [`Session::timer`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.next_send, self.detect_at].into_iter().flatten().min()
    }

    /// A packet for this session has arrived (RFC 5880 §6.8.6).
    pub fn receive(&mut self, packet: &Control, now: Instant) -> Reaction {
        if self.state == State::AdminDown {
            return Reaction::default();
        }
        let interval_before = self.interval();
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            min_rx: packet.required_min_rx,
            desired_min_tx: packet.desired_min_tx,
            detect_multiplier: packet.detect_multiplier,
            demand: packet.demand,
            is_control_plane_independent: packet.is_control_plane_independent,
        };
        if packet.is_final {
            self.poll = Poll::None;
        }
        let change = self.follow(packet.state);
        self.detect_at = match self.state {
            State::Init | State::Up => Some(now + self.detection_time()),
            State::AdminDown | State::Down => None,
        };
        // A longer or shorter interval holds from now on, not from the packet after next.
        if self.interval() != interval_before || self.next_send.is_none() {
            self.plan_next(now);
        }
        Reaction {
            send: packet.poll.then(|| self.packet(true)),
            change,
        }
    }

    /// The time of [`Session::next_deadline`] has come.
    pub fn timer(&mut self, now: Instant) -> Reaction {
        let mut reaction = Reaction::default();
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            let was_up = self.state == State::Up;
            self.state = State::Down;
            self.diagnostic = Diagnostic::DetectionTimeExpired;
            // RFC 5880 §6.8.1: who is silent that long is forgotten.
            self.remote = Remote {
                is_control_plane_independent: self.remote.is_control_plane_independent,
                ..Remote::default()
            };
            self.poll = Poll::None;
            reaction.change = was_up.then_some(Change::Down(self.diagnostic));
            self.next_send = Some(now);
        }
        if self.next_send.is_some_and(|at| at <= now) {
            self.last_sent = Some(now);
            self.plan_next(now);
            if self.may_send() {
                reaction.send = Some(self.packet(false));
            }
        }
        reaction
    }

    /// Switches the session off; the packet tells the other side that this is on purpose.
    pub fn switch_off(&mut self) -> Control {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::AdministrativelyDown;
        self.detect_at = None;
        self.next_send = None;
        self.poll = Poll::None;
        self.packet(false)
    }

    /// RFC 5880 §6.8.6, the transitions.
    fn follow(&mut self, heard: State) -> Option<Change> {
        let (next, diagnostic) = match (self.state, heard) {
            (State::AdminDown, _)
            | (State::Down, State::Up | State::AdminDown)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up) => (self.state, self.diagnostic),
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                (State::Down, Diagnostic::NeighborSignaledDown)
            }
            (State::Down, State::Down) => (State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                (State::Up, Diagnostic::None)
            }
        };
        let before = std::mem::replace(&mut self.state, next);
        self.diagnostic = diagnostic;
        match (before, next) {
            (State::Down | State::Init, State::Up) => {
                // The interval changes from slow to what was configured (RFC 5880 §6.8.3).
                self.poll = Poll::Running;
                Some(Change::Up)
            }
            (State::Up, State::Down) if heard == State::AdminDown => Some(Change::SwitchedOff),
            (State::Up, State::Down) => Some(Change::Down(diagnostic)),
            (State::AdminDown | State::Down | State::Init | State::Up, _) => None,
        }
    }

    fn desired_min_tx(&self) -> Duration {
        match self.state {
            State::Up => self.settings.min_tx,
            State::AdminDown | State::Down | State::Init => self.settings.min_tx.max(SLOW),
        }
    }

    /// Before jitter; `None` when the other side takes nothing (RFC 5880 §6.8.7).
    fn interval(&self) -> Option<Duration> {
        let takes = !self.remote.min_rx.is_zero();
        takes.then(|| self.desired_min_tx().max(self.remote.min_rx))
    }

    /// RFC 5880 §6.8.7: 75 % to 100 % of the interval, to 90 % when no packet may be lost.
    fn plan_next(&mut self, now: Instant) {
        let (interval, last) = (self.interval(), self.last_sent);
        let most = if self.settings.detect_multiplier == 1 {
            9
        } else {
            10
        };
        self.next_send = match (interval, last) {
            (None, _) => None,
            // The first packet goes at once.
            (Some(_), None) => Some(now),
            (Some(interval), Some(last)) => {
                let wait = self.jitter.apply(interval) * most / 10;
                Some((last + wait).max(now))
            }
        };
    }

    fn may_send(&self) -> bool {
        let waits = self.settings.role == Role::Passive && self.remote.discriminator == 0;
        // RFC 5880 §6.6: only polls while the other side demands silence.
        let is_silent = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && self.poll == Poll::None;
        !waits && !is_silent
    }

    fn packet(&self, is_final: bool) -> Control {
        Control {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.poll == Poll::Running && !is_final,
            is_final,
            // This BFD runs in the process that speaks BGP, and ends with it.
            is_control_plane_independent: false,
            demand: false,
            detect_multiplier: self.settings.detect_multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.settings.min_rx,
        }
    }
}
