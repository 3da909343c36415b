//! What the log is told of a peer that cannot be had: each fault once, until a session has been up.
//! That session's line is the end of it.

use crate::announce::bgp::{
    fsm::{LastError, SessionSnapshot, State},
    wire::Reason,
};

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct Faults {
    unreachable: Option<String>,
    refused: Option<Errors>,
    /// NOTIFICATIONs of both directions that were looked at.
    seen: u64,
}

/// The last error sent and the last one received.
type Errors = [Option<LastError>; 2];

impl Faults {
    /// Nobody answers, and why. Says whether that is worth a line.
    pub(super) fn note_unreachable(&mut self, text: &str) -> bool {
        let is_new = self.unreachable.as_deref() != Some(text);
        if is_new {
            self.unreachable = Some(text.to_owned());
        }
        is_new
    }

    /// Whether a NOTIFICATION, ours or the peer's, that kept a session from coming up is worth a line.
    pub(super) fn note_errors(&mut self, session: &SessionSnapshot) -> bool {
        let counters = session.counters;
        let count = counters.notifications_sent + counters.notifications_received;
        let is_seen = std::mem::replace(&mut self.seen, count) == count;
        if is_seen || session.state == State::Established {
            return false;
        }
        // Of two connections one has to go: that is no fault.
        let is_collision = |error: &Option<LastError>| {
            let reason = error.as_ref().map(|error| error.reason);
            reason.is_none() || reason == Some(Reason::ConnectionCollision)
        };
        let errors = [session.last_sent.clone(), session.last_received.clone()];
        if errors.iter().all(is_collision) {
            return false;
        }
        let is_new = self.refused.as_ref() != Some(&errors);
        self.refused = Some(errors);
        is_new
    }

    /// A session is up: whatever comes next is news.
    pub(super) fn end(&mut self) {
        self.unreachable = None;
        self.refused = None;
    }

    /// A session that was up was lost, which has a line of its own.
    pub(super) fn note_loss(&mut self, session: &SessionSnapshot) {
        let counters = session.counters;
        self.seen = counters.notifications_sent + counters.notifications_received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(times: u64, reason: Reason) -> SessionSnapshot {
        let mut session = SessionSnapshot::default();
        session.counters.notifications_received = times;
        session.last_received = Some(LastError { reason, text: None });
        session
    }

    #[test]
    fn a_fault_is_told_once_until_a_session_has_been_up() {
        let mut faults = Faults::default();
        assert!(faults.note_unreachable("connection refused"));
        assert!(!faults.note_unreachable("connection refused"));
        assert!(faults.note_unreachable("no route to host"));
        assert!(faults.note_errors(&refused(1, Reason::BadPeerAs)));
        assert!(!faults.note_errors(&refused(2, Reason::BadPeerAs)));
        assert!(faults.note_errors(&refused(3, Reason::BadBgpIdentifier)));
        faults.end();
        assert!(faults.note_unreachable("no route to host"));
        assert!(faults.note_errors(&refused(4, Reason::BadBgpIdentifier)));
    }

    #[test]
    fn neither_a_collision_nor_the_end_of_a_session_is_a_refusal() {
        let mut faults = Faults::default();
        assert!(!faults.note_errors(&refused(1, Reason::ConnectionCollision)));
        let lost = refused(2, Reason::AdministrativeShutdown);
        faults.note_loss(&lost);
        assert!(!faults.note_errors(&lost));
        assert!(faults.note_errors(&refused(3, Reason::AdministrativeShutdown)));
    }
}
