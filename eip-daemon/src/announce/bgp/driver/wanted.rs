//! Bringing one peer's session in line with what is wanted, up to its end.

use std::time::{Duration, Instant};

use super::{
    Exit,
    peer::{PeerTask, ready, wait_until},
};
use crate::announce::bgp::{
    config::{ExportPolicy, Neighbour, PeerConfig, PeerName, Transport},
    fsm::{Farewell, Input, Origin, RouteFate, Serving, Session},
    wire::Reason,
};

/// How long withdrawals may take to leave before the session is closed anyway.
const WITHDRAW_TIME: Duration = Duration::from_secs(5);

/// What ends the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The peer was taken out of the configuration.
    Removed,
    /// The speaker leaves.
    Exit(Exit),
}

impl PeerTask {
    /// Brings the session in line with what is wanted; says when nothing is wanted any more.
    pub(super) fn take_intent(&mut self) -> Option<Ending> {
        let intent = self.intent.borrow_and_update().clone();
        if let Some(exit) = intent.exit {
            return Some(Ending::Exit(exit));
        }
        let Some(config) = intent.peers.get(&self.config.name) else {
            return Some(Ending::Removed);
        };
        let serving = match intent.drain {
            None => Serving::Normally,
            Some(drain) if Instant::now() < drain.withdraw_at => Serving::Reluctantly,
            Some(_) => Serving::Nothing,
        };
        let is_complete = intent.table.is_complete;
        self.reconfigure(config);
        self.session.set_table(intent.table_of(config).clone());
        self.session.set_serving(serving);
        if !self.is_started && (is_complete || Instant::now() >= self.start_by) {
            self.is_started = true;
        }
        self.keep_path();
        None
    }

    /// A changed policy is announced; anything else that changes needs a new session.
    pub(super) fn reconfigure(&mut self, config: &PeerConfig) {
        if *config == self.config {
            return;
        }
        let is_policy_only =
            config.transport == self.config.transport && config.session == self.config.session;
        // Which table it is shows in the table.
        let said = |policy: &ExportPolicy| ExportPolicy {
            table: None,
            ..policy.clone()
        };
        let is_policy_changed = said(&config.export) != said(&self.config.export);
        let is_same_router = is_same_router(&self.config.transport, &config.transport);
        self.config = config.clone();
        if is_policy_only {
            if is_policy_changed {
                self.session.set_export(config.export.clone());
            }
            return;
        }
        let farewell = if is_same_router {
            cease(Reason::OtherConfigurationChange, "", RouteFate::Kept)
        } else {
            // Nobody will come back to it.
            cease(Reason::PeerDeconfigured, "", RouteFate::Dropped)
        };
        self.step(Input::Stop(farewell));
        let table = self.intent.borrow().table_of(config).clone();
        let seed = seed(&config.name);
        let session = Session::new(self.identity.clone(), config.clone(), table, seed);
        self.session = if self.is_started {
            session.without_restart()
        } else {
            session
        };
        self.transport_error = None;
        self.restart_if_open();
    }

    pub(super) async fn end(&mut self, ending: Ending) {
        let farewell = match ending {
            Ending::Removed => cease(Reason::PeerDeconfigured, "", RouteFate::Dropped),
            Ending::Exit(Exit::Keep) => Farewell::Silent,
            Ending::Exit(Exit::Withdraw { text }) => {
                self.withdraw_all().await;
                cease(Reason::AdministrativeShutdown, text, RouteFate::Dropped)
            }
        };
        self.step(Input::Stop(farewell));
        self.publish();
    }

    /// Explicit withdrawals first: a peer that keeps routes over the end of a session has none to
    /// keep then.
    pub(super) async fn withdraw_all(&mut self) {
        self.session.set_serving(Serving::Nothing);
        let until = Instant::now() + WITHDRAW_TIME;
        loop {
            self.flush();
            self.publish();
            let is_done = self.session.is_settled() && self.is_flushed();
            if is_done || Instant::now() >= until {
                return;
            }
            let deadline = self
                .next_deadline()
                .map_or(until, |deadline| deadline.min(until));
            tokio::select! {
                () = ready(self.dialled.as_ref()) => self.read(Origin::Dialled),
                () = ready(self.accepted.as_ref()) => self.read(Origin::Accepted),
                () = wait_until(Some(deadline)) => self.run_timers(),
            }
        }
    }
}

/// Whether both lead to one router, as far as its configuration says. On an interface it is one
/// router whatever its address.
fn is_same_router(before: &Transport, after: &Transport) -> bool {
    let place = |transport: &Transport| match transport.neighbour {
        Neighbour::Address | Neighbour::Range(_) => Some(transport.address),
        Neighbour::Advertised => None,
    };
    before.neighbour == after.neighbour
        && before.interface == after.interface
        && place(before) == place(after)
}

pub(super) fn cease(reason: Reason, text: &str, routes: RouteFate) -> Farewell {
    Farewell::Cease {
        reason,
        text: text.to_owned(),
        routes,
    }
}

/// Different for each peer and each process, which is all that jitter needs.
pub(super) fn seed(name: &PeerName) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(name)
}
