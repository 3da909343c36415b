//! Two connections to one peer: which one stays (RFC 4271 §6.8, RFC 6286 §2.3).

use std::time::Instant;

use super::{Agreement, Origin, Output, Session, connection::Phase};
use crate::announce::bgp::wire::{Notification, Reason};

impl Session {
    /// Decides when an acceptable OPEN has arrived on a connection; `false` when it has lost and
    /// is closed.
    pub(super) fn survives_collision(
        &mut self,
        origin: Origin,
        agreement: &Agreement,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) -> bool {
        let Some(other) = self.connections.get(origin.other()) else {
            return true;
        };
        let wins = self.winner(agreement) == origin;
        let loser = match (&other.phase, wins) {
            // An existing session wins, whatever the identifiers say.
            (Phase::Established(_), _) | (Phase::OpenConfirm(_), false) => origin,
            (Phase::OpenConfirm(_) | Phase::OpenSent, true) => origin.other(),
            // The other connection would win but its OPEN is not there yet; it is decided then.
            (Phase::OpenSent, false) => return true,
        };
        self.drop_loser(loser, outputs);
        if loser == origin && self.connections.established().is_some() {
            self.probe_established(now, outputs);
        }
        loser != origin
    }

    /// Which connection the rule keeps: the one opened by the side with the higher identifier, or
    /// with the higher AS where they are equal.
    fn winner(&self, agreement: &Agreement) -> Origin {
        let ours = (self.identity.router_id.to_bits(), agreement.local_as);
        let theirs = (agreement.peer_id.to_bits(), agreement.peer_as);
        if ours > theirs {
            Origin::Dialled
        } else {
            Origin::Accepted
        }
    }

    /// Closes the connection that has lost, without holding anything against the peer.
    pub(super) fn drop_loser(&mut self, origin: Origin, outputs: &mut Vec<Output>) {
        *self.connections.slot(origin) = None;
        let mut message = Vec::new();
        Notification::new(Reason::ConnectionCollision).encode(&mut message);
        self.counters.notifications_sent += 1;
        outputs.push(Output::Send(origin, message));
        outputs.push(Output::Close(origin));
    }
}
