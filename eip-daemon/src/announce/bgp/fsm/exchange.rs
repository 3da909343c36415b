//! What messages and timers of a connection do to the session: `OpenSent`, `OpenConfirm` and
//! `Established` of RFC 4271 §8.2.2.

use std::time::Instant;

use super::{
    Agreement, Dialling, Export, LastError, Loss, Origin, Output, OwnCapabilities, Readiness,
    Restarting, RouteFate, Session,
    connection::{Expired, Step},
    with_fate,
};
use crate::announce::bgp::{
    backoff::Failure,
    config::RefusedCapabilities,
    wire::{Message, Notification, Open, Reason},
};

impl Session {
    pub(super) fn received(
        &mut self,
        origin: Origin,
        message: Message<'_>,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.counters.count_received(&message);
        let Some(connection) = self.connections.get_mut(origin) else {
            return;
        };
        match connection.judge(message, now) {
            Step::Stay => {}
            Step::Opened(open) => self.opened(origin, &open, now, outputs),
            Step::Confirmed(agreement) => self.establish(origin, agreement, now, outputs),
            Step::Refresh(family) => {
                if let Some(export) = connection.export_mut() {
                    export.refresh(family);
                }
            }
            Step::Update(summary) => self.counters.count_update(summary),
            Step::Refuse(notification) => self.refuse(origin, &notification, now, outputs),
            Step::Notified { reason, text } => self.notified(origin, reason, text, now, outputs),
        }
    }

    pub(super) fn opened(
        &mut self,
        origin: Origin,
        open: &Open,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        match Agreement::new(&self.local_open(), open, self.config.session.peer_as) {
            Err(notification) => self.refuse(origin, &notification, now, outputs),
            Ok(agreement) => {
                if self.survives_collision(origin, &agreement, now, outputs)
                    && let Some(connection) = self.connections.get_mut(origin)
                {
                    connection.confirm(agreement, &mut self.jitter, now);
                    self.keep_alive(origin, now, outputs);
                }
            }
        }
    }

    pub(super) fn establish(
        &mut self,
        origin: Origin,
        agreement: Agreement,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.cancel_dial(outputs);
        // The other one has not got as far and has lost (RFC 4271 §6.8).
        if self.connections.get(origin.other()).is_some() {
            self.drop_loser(origin.other(), outputs);
        }
        let policy = self.config.export.clone();
        let send_hold_time = agreement.send_hold_time(self.config.session.send_hold_time);
        let (table, serving) = (&self.table, self.serving);
        if let Some(connection) = self.connections.get_mut(origin) {
            let export = Export::new(agreement, connection.endpoints, policy, serving, table);
            connection.establish(export, send_hold_time, now);
        }
        self.restarting = Restarting::No;
        self.established_at = Some(now);
        self.counters.established += 1;
        outputs.push(Output::Up(agreement));
    }

    pub(super) fn keep_alive(&mut self, origin: Origin, now: Instant, outputs: &mut Vec<Output>) {
        if let Some(connection) = self.connections.get_mut(origin) {
            let message = connection.keep_alive(&mut self.jitter, now);
            self.counters.keepalives_sent += 1;
            outputs.push(Output::Send(origin, message));
        }
    }

    /// We end a connection with a NOTIFICATION.
    pub(super) fn refuse(
        &mut self,
        origin: Origin,
        notification: &Notification<'_>,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        if self.connections.get(origin).is_none() {
            return;
        }
        self.send_notification(origin, notification, outputs);
        outputs.push(Output::Close(origin));
        let was_up = self.connections.is_established(origin);
        let reason = notification.true_reason();
        let failure = match reason {
            // The path failed, not the peer.
            Reason::HoldTimerExpired | Reason::SendHoldTimerExpired | Reason::BfdDown if was_up => {
                Failure::Lost
            }
            _ => Failure::Refused,
        };
        self.lose(origin, Loss::Sent(reason), failure, now, outputs);
    }

    /// RFC 9384 §3: the established session ends at once. Connections that are coming up may know
    /// better.
    pub(super) fn path_dead(&mut self, routes: RouteFate, now: Instant, outputs: &mut Vec<Output>) {
        for origin in Origin::ALL {
            let connection = self.connections.get(origin);
            if let Some(connection) = connection.filter(|c| c.export().is_some()) {
                let notification = Notification::new(Reason::BfdDown);
                let notification = with_fate(notification, routes, connection);
                self.refuse(origin, &notification, now, outputs);
            }
        }
    }

    pub(super) fn notified(
        &mut self,
        origin: Origin,
        reason: Reason,
        text: Option<String>,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        outputs.push(Output::Close(origin));
        let other_lives = self.connections.get(origin.other()).is_some();
        if reason != Reason::ConnectionCollision || !other_lives {
            self.last_received = Some(LastError { reason, text });
        }
        let gives_in = self.config.session.on_refused_capabilities;
        let is_about_capabilities = matches!(
            reason,
            Reason::UnsupportedOptionalParameter | Reason::UnsupportedCapability
        );
        if is_about_capabilities && gives_in == RefusedCapabilities::DoWithout {
            self.capabilities = OwnCapabilities::LeftOut;
        }
        let failure = match reason {
            // Both sides closed one connection each; the next attempt will do.
            Reason::ConnectionCollision => Failure::Lost,
            // The peer rests. Resting, and refusing, as well would let two such speakers miss
            // each other for ever: wait, but be there when it calls.
            Reason::ConnectionRejected => Failure::Unreachable,
            _ => Failure::Refused,
        };
        self.lose(origin, Loss::Received(reason), failure, now, outputs);
    }

    pub(super) fn closed(&mut self, origin: Origin, now: Instant, outputs: &mut Vec<Output>) {
        if self.connections.get(origin).is_none() {
            return;
        }
        outputs.push(Output::Close(origin));
        let failure = if self.connections.is_established(origin) {
            Failure::Lost
        } else {
            Failure::Unreachable
        };
        self.lose(origin, Loss::Closed, failure, now, outputs);
    }

    pub(super) fn timer(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if let Readiness::HeldBack(until) = self.readiness
            && until <= now
        {
            self.readiness = Readiness::Ready;
            self.dial(now, outputs);
        }
        match self.dialling {
            Dialling::At(at) if at <= now => self.dial(now, outputs),
            Dialling::Until(until) if until <= now => {
                self.cancel_dial(outputs);
                if self.connections.get(Origin::Accepted).is_none() {
                    self.retry_after(Failure::Unreachable, now);
                }
            }
            Dialling::Off | Dialling::At(_) | Dialling::Until(_) => {}
        }
        for origin in Origin::ALL {
            self.connection_timer(origin, now, outputs);
        }
    }

    pub(super) fn connection_timer(
        &mut self,
        origin: Origin,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let expired = self
            .connections
            .get(origin)
            .and_then(|connection| connection.expired(now));
        let reason = match expired {
            None => return,
            Some(Expired::Keepalive) => return self.keep_alive(origin, now, outputs),
            Some(Expired::Hold) => Reason::HoldTimerExpired,
            Some(Expired::SendHold) => Reason::SendHoldTimerExpired,
        };
        self.refuse(origin, &Notification::new(reason), now, outputs);
    }

    pub(super) fn send_notification(
        &mut self,
        origin: Origin,
        notification: &Notification<'_>,
        outputs: &mut Vec<Output>,
    ) {
        let mut message = Vec::new();
        notification.encode(&mut message);
        self.counters.notifications_sent += 1;
        self.last_sent = Some(LastError {
            reason: notification.true_reason(),
            text: notification.text(),
        });
        outputs.push(Output::Send(origin, message));
    }
}
