//! Getting connections and losing them: `Idle`, `Connect` and `Active` of RFC 4271 §8.2.2.

use std::time::{Duration, Instant};

use super::{
    Connection, Dialling, Endpoints, Loss, Origin, Output, OwnCapabilities, Readiness, Session,
    agreement::local_open,
};
use crate::announce::bgp::{
    backoff::Failure,
    config::Initiative,
    wire::{Capabilities, Notification, Open, Reason},
};

/// A session that has lasted this long has proved itself even when its hold time is shorter.
const PROVEN_AFTER: Duration = Duration::from_secs(30);

impl Session {
    pub(super) fn dial(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        match self.config.transport.initiative {
            Initiative::Active => {
                self.dialling = Dialling::Until(now + self.config.session.connect_timeout);
                outputs.push(Output::Dial);
            }
            Initiative::Passive => self.dialling = Dialling::Off,
        }
    }

    pub(super) fn cancel_dial(&mut self, outputs: &mut Vec<Output>) {
        if let Dialling::Until(_) = self.dialling {
            outputs.push(Output::CancelDial);
        }
        self.dialling = Dialling::Off;
    }

    pub(super) fn dialled(
        &mut self,
        endpoints: Endpoints,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        match self.dialling {
            Dialling::Until(_) => {
                self.dialling = Dialling::Off;
                self.open(Origin::Dialled, endpoints, now, outputs);
            }
            // Cancelled while it came up: nobody waits for it.
            Dialling::Off | Dialling::At(_) => {
                outputs.push(Output::Reject(Origin::Dialled, Vec::new()));
            }
        }
    }

    pub(super) fn dial_failed(&mut self, now: Instant) {
        if let Dialling::Until(_) = self.dialling {
            self.dialling = Dialling::Off;
            if self.connections.get(Origin::Accepted).is_none() {
                self.retry_after(Failure::Unreachable, now);
            }
        }
    }

    pub(super) fn accepted(
        &mut self,
        endpoints: Endpoints,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        match self.readiness {
            Readiness::Stopped | Readiness::HeldBack(_) => {
                self.reject(Reason::ConnectionRejected, outputs);
            }
            Readiness::Ready if self.connections.established().is_some() => {
                self.reject(Reason::ConnectionCollision, outputs);
                self.probe_established(now, outputs);
            }
            Readiness::Ready => {
                if self.connections.slot(Origin::Accepted).take().is_some() {
                    // The peer dials once more only after it gave up the connection before.
                    outputs.push(Output::Close(Origin::Accepted));
                }
                if let Dialling::At(_) = self.dialling {
                    self.dialling = Dialling::Off;
                }
                self.open(Origin::Accepted, endpoints, now, outputs);
            }
        }
    }

    pub(super) fn reject(&mut self, reason: Reason, outputs: &mut Vec<Output>) {
        let mut message = Vec::new();
        Notification::new(reason).encode(&mut message);
        self.counters.notifications_sent += 1;
        outputs.push(Output::Reject(Origin::Accepted, message));
    }

    /// A peer that dials again may have lost its memory. A KEEPALIVE on the session that we
    /// believe in makes a host that does not know it answer with a reset at once.
    pub(super) fn probe_established(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        for origin in Origin::ALL {
            if self
                .connections
                .get(origin)
                .and_then(Connection::export)
                .is_some()
            {
                self.keep_alive(origin, now, outputs);
            }
        }
    }

    pub(super) fn open(
        &mut self,
        origin: Origin,
        endpoints: Endpoints,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let mut message = Vec::with_capacity(128);
        let hostname = match self.capabilities {
            OwnCapabilities::Sent => self.identity.hostname.as_str(),
            OwnCapabilities::LeftOut => "",
        };
        self.local_open().encode(hostname, &mut message);
        self.counters.opens_sent += 1;
        *self.connections.slot(origin) = Some(Connection::new(endpoints, now));
        outputs.push(Output::Send(origin, message));
    }

    pub(super) fn local_open(&self) -> Open {
        let open = local_open(&self.identity, &self.config.session, self.restarting);
        match self.capabilities {
            OwnCapabilities::Sent => open,
            OwnCapabilities::LeftOut => Open {
                capabilities: Capabilities::default(),
                ..open
            },
        }
    }

    /// A connection is gone. What follows depends on whether another one is left.
    pub(super) fn lose(
        &mut self,
        origin: Origin,
        loss: Loss,
        failure: Failure,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let Some(connection) = self.connections.slot(origin).take() else {
            return;
        };
        let proven = connection.agreement().map(|agreement| agreement.hold_time);
        if let (Some(since), Some(proven)) = (self.established_at, proven)
            && connection.export().is_some()
            && now.duration_since(since) >= proven.max(PROVEN_AFTER)
        {
            self.backoff.reset();
        }
        self.drop_connection(&connection, loss, outputs);
        if self.connections.get(origin.other()).is_none() && self.readiness == Readiness::Ready {
            self.retry_after(failure, now);
            if self.readiness != Readiness::Ready {
                self.cancel_dial(outputs);
            }
        }
    }

    /// Counts the end of an established connection.
    pub(super) fn drop_connection(
        &mut self,
        connection: &Connection,
        loss: Loss,
        outputs: &mut Vec<Output>,
    ) {
        if connection.export().is_some() {
            self.last_loss = Some(loss);
            self.established_at = None;
            self.counters.lost += 1;
            outputs.push(Output::Down);
        }
    }

    /// After a NOTIFICATION the session rests and refuses (`DampPeerOscillations`); after a mere
    /// loss of the connection the peer may come back at any time.
    pub(super) fn retry_after(&mut self, failure: Failure, now: Instant) {
        if let (Dialling::Until(_), Failure::Unreachable | Failure::Lost) = (self.dialling, failure)
        {
            return;
        }
        let at = now + self.jitter.apply(self.backoff.next(failure));
        match (failure, self.config.transport.initiative) {
            (Failure::Refused, _) => self.readiness = Readiness::HeldBack(at),
            (Failure::Unreachable | Failure::Lost, Initiative::Active) => {
                self.dialling = Dialling::At(at);
            }
            (Failure::Unreachable | Failure::Lost, Initiative::Passive) => {}
        }
    }
}
