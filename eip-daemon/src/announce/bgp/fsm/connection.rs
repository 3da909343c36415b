//! One TCP connection to the peer: RFC 4271 §8 from `OpenSent` on.

use std::time::{Duration, Instant};

use super::{Agreement, Endpoints, export::Export};
use crate::announce::bgp::{
    backoff::Jitter,
    wire::{
        Family, Message, Notification, Open, Reason, RefreshKind, RouteRefresh, UpdateSummary,
        encode_keepalive,
    },
};

/// Hold time until the OPENs have been exchanged (RFC 4271 §8.2.2 suggests four minutes).
const OPEN_SENT_HOLD_TIME: Duration = Duration::from_mins(4);

/// Who opened a connection. There is at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// We did.
    Dialled,
    /// The peer did.
    Accepted,
}

impl Origin {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Dialled, Self::Accepted];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Dialled => Self::Accepted,
            Self::Accepted => Self::Dialled,
        }
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Our OPEN is out.
    OpenSent,
    /// OPENs agree; the peer's KEEPALIVE is missing.
    OpenConfirm(Agreement),
    /// Routes may be sent.
    Established(Box<Export>),
}

/// What a message means for the session.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing changes.
    Stay,
    /// The peer's OPEN is there and has to be judged.
    Opened(Open),
    /// The peer's KEEPALIVE confirms what was agreed.
    Confirmed(Agreement),
    /// The peer wants a family again.
    Refresh(Family),
    /// Routes the peer sent, which are counted and dropped.
    Update(UpdateSummary),
    /// We end the connection.
    Refuse(Notification<'static>),
    /// The peer has ended it.
    Notified {
        reason: Reason,
        text: Option<String>,
    },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) endpoints: Endpoints,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    send_hold: Option<Instant>,
    send_hold_time: Option<Duration>,
}

/// A timer of a connection that has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Nothing was heard (RFC 4271 §6.5).
    Hold,
    /// Nothing was taken (RFC 9687 §4).
    SendHold,
    /// A KEEPALIVE is due.
    Keepalive,
}

impl Connection {
    /// A connection on which our OPEN has just been sent.
    pub(super) fn new(endpoints: Endpoints, now: Instant) -> Self {
        Self {
            phase: Phase::OpenSent,
            endpoints,
            hold: Some(now + OPEN_SENT_HOLD_TIME),
            keepalive: None,
            send_hold: None,
            send_hold_time: None,
        }
    }

    /// What a message means in this phase (RFC 4271 §8.2.2, RFC 6608 §3).
    pub(super) fn judge(&mut self, message: Message<'_>, now: Instant) -> Step {
        let refuse = |reason| Step::Refuse(Notification::new(reason));
        match (&self.phase, message) {
            (_, Message::Notification(notification)) => Step::Notified {
                reason: notification.true_reason(),
                text: notification.text(),
            },
            (Phase::OpenSent, Message::Open(open)) => Step::Opened(open),
            (
                Phase::OpenSent,
                Message::Update(_) | Message::Keepalive | Message::RouteRefresh(_),
            ) => refuse(Reason::UnexpectedInOpenSent),
            (Phase::OpenConfirm(agreement), Message::Keepalive) => Step::Confirmed(*agreement),
            (
                Phase::OpenConfirm(_),
                Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_),
            ) => refuse(Reason::UnexpectedInOpenConfirm),
            (Phase::Established(export), Message::Keepalive) => {
                self.hold = deadline(now, export.agreement().hold_time);
                Step::Stay
            }
            (Phase::Established(export), Message::Update(summary)) => {
                self.hold = deadline(now, export.agreement().hold_time);
                Step::Update(summary)
            }
            (Phase::Established(_), Message::RouteRefresh(refresh)) => requested(refresh),
            (Phase::Established(_), Message::Open(_)) => refuse(Reason::UnexpectedInEstablished),
        }
    }

    /// The peer's OPEN was accepted: our KEEPALIVE answers it.
    pub(super) fn confirm(&mut self, agreement: Agreement, jitter: &mut Jitter, now: Instant) {
        self.hold = deadline(now, agreement.hold_time);
        self.restart_keepalive(&agreement, jitter, now);
        self.phase = Phase::OpenConfirm(agreement);
    }

    /// The peer's KEEPALIVE is there: routes can go.
    pub(super) fn establish(
        &mut self,
        export: Export,
        send_hold_time: Option<Duration>,
        now: Instant,
    ) {
        self.hold = deadline(now, export.agreement().hold_time);
        self.send_hold_time = send_hold_time;
        self.send_hold = send_hold_time.map(|time| now + time);
        self.phase = Phase::Established(Box::new(export));
    }

    /// The peer's TCP has taken bytes of ours.
    pub(super) fn note_progress(&mut self, now: Instant) {
        self.send_hold = self.send_hold_time.map(|time| now + time);
    }

    /// Appends the KEEPALIVE that is due and starts its timer again.
    pub(super) fn keep_alive(&mut self, jitter: &mut Jitter, now: Instant) -> Vec<u8> {
        if let Some(agreement) = self.agreement().copied() {
            self.restart_keepalive(&agreement, jitter, now);
        }
        let mut message = Vec::with_capacity(19);
        encode_keepalive(&mut message);
        message
    }

    /// RFC 4271 §10: jittered, so that many sessions do not beat as one.
    fn restart_keepalive(&mut self, agreement: &Agreement, jitter: &mut Jitter, now: Instant) {
        let interval = agreement.keepalive_interval();
        self.keepalive = interval.map(|interval| now + jitter.apply(interval));
    }

    /// The timer that has run out, the gravest first.
    pub(super) fn expired(&self, now: Instant) -> Option<Expired> {
        let is_over = |timer: Option<Instant>| timer.is_some_and(|deadline| deadline <= now);
        if is_over(self.hold) {
            Some(Expired::Hold)
        } else if is_over(self.send_hold) {
            Some(Expired::SendHold)
        } else {
            is_over(self.keepalive).then_some(Expired::Keepalive)
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.hold, self.keepalive, self.send_hold]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn agreement(&self) -> Option<&Agreement> {
        match &self.phase {
            Phase::OpenSent => None,
            Phase::OpenConfirm(agreement) => Some(agreement),
            Phase::Established(export) => Some(export.agreement()),
        }
    }

    pub(super) fn export(&self) -> Option<&Export> {
        match &self.phase {
            Phase::OpenSent | Phase::OpenConfirm(_) => None,
            Phase::Established(export) => Some(export),
        }
    }

    pub(super) fn export_mut(&mut self) -> Option<&mut Export> {
        match &mut self.phase {
            Phase::OpenSent | Phase::OpenConfirm(_) => None,
            Phase::Established(export) => Some(export),
        }
    }
}

/// Nothing is imported, so the peer's own markers mean nothing here.
fn requested(refresh: Option<RouteRefresh>) -> Step {
    match refresh {
        Some(RouteRefresh {
            family,
            kind: RefreshKind::Request,
        }) => Step::Refresh(family),
        Some(RouteRefresh {
            kind: RefreshKind::Begin | RefreshKind::End,
            ..
        })
        | None => Step::Stay,
    }
}

/// RFC 4271 §4.2: a hold time of zero means that the timer does not run.
fn deadline(now: Instant, hold_time: Duration) -> Option<Instant> {
    (!hold_time.is_zero()).then(|| now + hold_time)
}

/// The connections of a session: one of each origin at most.
#[derive(Debug, Default)]
pub(super) struct Connections {
    dialled: Option<Connection>,
    accepted: Option<Connection>,
}

impl Connections {
    pub(super) fn slot(&mut self, origin: Origin) -> &mut Option<Connection> {
        match origin {
            Origin::Dialled => &mut self.dialled,
            Origin::Accepted => &mut self.accepted,
        }
    }

    pub(super) fn get(&self, origin: Origin) -> Option<&Connection> {
        match origin {
            Origin::Dialled => self.dialled.as_ref(),
            Origin::Accepted => self.accepted.as_ref(),
        }
    }

    pub(super) fn get_mut(&mut self, origin: Origin) -> Option<&mut Connection> {
        self.slot(origin).as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        [&self.dialled, &self.accepted].into_iter().flatten()
    }

    pub(super) fn is_established(&self, origin: Origin) -> bool {
        self.get(origin).and_then(Connection::export).is_some()
    }

    /// The one that carries routes.
    pub(super) fn established(&self) -> Option<&Connection> {
        self.iter().find(|connection| connection.export().is_some())
    }

    /// What it says about them.
    pub(super) fn established_export(&mut self) -> Option<&mut Export> {
        let mut connections = [&mut self.dialled, &mut self.accepted]
            .into_iter()
            .flatten();
        connections.find_map(Connection::export_mut)
    }
}
