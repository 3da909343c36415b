//! Since when each route is announced, and which withdrawals have left the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::announce::bgp::{PeerStatus, State};

/// Longer nobody asks for a withdrawal.
const MEMORY: Duration = Duration::from_secs(10);

/// What is announced, and what was and has been withdrawn.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// With the first table that has it as it is.
    announced: BTreeMap<IpAddr, u64>,
    withdrawn: BTreeMap<IpAddr, Withdrawal>,
    /// Programmed when this process began: an earlier one may have announced it, and peers may have
    /// kept it.
    inherited: Option<BTreeSet<IpAddr>>,
}

#[derive(Debug)]
struct Withdrawal {
    /// The first table without it.
    generation: u64,
    at: Instant,
    /// Peers may have it from an earlier process.
    is_inherited: bool,
}

impl Withdrawal {
    /// A peer that is not there gets nothing and is sent nothing; one that has not been there yet
    /// learns with the end of its first table that the EIP is gone.
    fn is_due_at(&self, peer: &PeerStatus) -> bool {
        let session = &peer.session;
        if session.state == State::Established {
            return session
                .settled_generation
                .is_none_or(|settled| settled < self.generation);
        }
        self.is_inherited && session.counters.established == 0
    }
}

impl Ledger {
    /// The first call counts.
    pub(super) fn inherit(&mut self, programmed: &BTreeSet<IpAddr>) {
        self.inherited.get_or_insert_with(|| programmed.clone());
    }

    /// What is announced from now on. Nothing is withdrawn for not being in a set that is not
    /// complete.
    pub(super) fn announced(
        &mut self,
        now: BTreeSet<IpAddr>,
        generation: u64,
        is_complete: bool,
        at: Instant,
    ) {
        let withdrawal = |is_inherited| Withdrawal {
            generation,
            at,
            is_inherited,
        };
        for eip in self.announced.keys().filter(|eip| !now.contains(*eip)) {
            self.withdrawn.insert(*eip, withdrawal(false));
        }
        let inherited = self.inherited.get_or_insert_default();
        for eip in &now {
            self.withdrawn.remove(eip);
            inherited.remove(eip);
        }
        if is_complete {
            for eip in std::mem::take(inherited) {
                self.withdrawn.insert(eip, withdrawal(true));
            }
        }
        let since = |eip: &IpAddr| self.announced.get(eip).copied().unwrap_or(generation);
        let now = now.into_iter().map(|eip| {
            let since = since(&eip).min(generation);
            (eip, since)
        });
        self.announced = now.collect();
    }

    /// What is said about these EIPs, or to whom, is another thing with the next table.
    pub(super) fn changes(&mut self, is_other: impl Fn(&IpAddr) -> bool) {
        for (eip, since) in &mut self.announced {
            if is_other(eip) {
                *since = u64::MAX;
            }
        }
    }

    /// The table a peer has to have got to have this route: a change of others does not make it
    /// one that is on its way.
    pub(super) fn since(&self, eip: IpAddr) -> Option<u64> {
        self.announced.get(&eip).copied()
    }

    /// Of these, what some peer has not been told about.
    pub(super) fn lingering(
        &self,
        leaving: &BTreeSet<IpAddr>,
        peers: &[PeerStatus],
    ) -> BTreeSet<IpAddr> {
        let inherited = self.inherited.as_ref();
        let is_lingering = |eip: &&IpAddr| {
            if let Some(withdrawal) = self.withdrawn.get(*eip) {
                return peers.iter().any(|peer| withdrawal.is_due_at(peer));
            }
            let is_held = self.announced.contains_key(*eip)
                || inherited.is_some_and(|inherited| inherited.contains(*eip));
            is_held && !peers.is_empty()
        };
        leaving.iter().filter(is_lingering).copied().collect()
    }

    /// Forgets what has left, and what nobody asks for any more; true when there was any.
    pub(super) fn settle(&mut self, peers: &[PeerStatus], now: Instant) -> bool {
        let before = self.withdrawn.len();
        self.withdrawn.retain(|_, withdrawal| {
            let is_old = now.saturating_duration_since(withdrawal.at) >= MEMORY;
            !is_old && peers.iter().any(|peer| withdrawal.is_due_at(peer))
        });
        self.withdrawn.len() < before
    }

    /// When nobody asks for the oldest withdrawal any more.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.withdrawn.values().map(|withdrawal| withdrawal.at);
        Some(oldest.min()? + MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::IpAddr,
        time::{Instant, SystemTime},
    };

    use super::Ledger;
    use crate::announce::bgp::{PeerName, PeerStatus, SessionSnapshot, State};

    fn eips(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter()
            .map(|last| IpAddr::from([203, 0, 113, *last]))
            .collect()
    }

    fn peer(state: State, settled: Option<u64>) -> PeerStatus {
        let mut session = SessionSnapshot {
            state,
            settled_generation: settled,
            ..SessionSnapshot::default()
        };
        session.counters.established = u64::from(state == State::Established);
        PeerStatus {
            name: PeerName("tor".to_owned()),
            address: IpAddr::from([192, 0, 2, 1]),
            since: SystemTime::UNIX_EPOCH,
            transport_error: None,
            bfd: None,
            session,
        }
    }

    /// Something is on its way out.
    fn is_settling(ledger: &Ledger) -> bool {
        ledger.next_expiry().is_some()
    }

    fn up(settled: u64) -> PeerStatus {
        peer(State::Established, Some(settled))
    }

    #[test]
    fn a_withdrawal_lingers_until_every_session_has_carried_it() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.announced(eips(&[1, 2]), 1, true, now);
        ledger.announced(eips(&[1]), 2, true, now);
        let gone = eips(&[2]);
        assert_eq!(ledger.lingering(&gone, &[up(2), up(1)]), gone);
        let unsettled = peer(State::Established, None);
        assert_eq!(ledger.lingering(&gone, &[unsettled]), gone);
        assert_eq!(ledger.lingering(&gone, &[up(2), up(3)]), eips(&[]));
        assert!(!ledger.settle(&[up(1)], now) && is_settling(&ledger));
        assert!(ledger.settle(&[up(2)], now) && !is_settling(&ledger));
    }

    #[test]
    fn a_route_is_on_its_way_once_and_again_only_when_it_changes_itself() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let since = |ledger: &Ledger| {
            let of = |last: u8| ledger.since(IpAddr::from([203, 0, 113, last]));
            (of(1), of(2))
        };
        ledger.announced(eips(&[1]), 1, true, now);
        ledger.announced(eips(&[1, 2]), 2, true, now);
        assert_eq!(since(&ledger), (Some(1), Some(2)));
        let second = eips(&[2]);
        ledger.changes(|eip| second.contains(eip));
        ledger.announced(eips(&[1, 2]), 3, true, now);
        assert_eq!(since(&ledger), (Some(1), Some(3)));
        ledger.announced(eips(&[2]), 4, true, now);
        ledger.announced(eips(&[1, 2]), 5, true, now);
        assert_eq!(since(&ledger), (Some(5), Some(3)));
    }

    #[test]
    fn a_peer_that_is_down_holds_nothing_back() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.announced(eips(&[1]), 1, true, now);
        ledger.announced(eips(&[]), 2, true, now);
        let down = peer(State::Active, None);
        assert_eq!(ledger.lingering(&eips(&[1]), &[down]), eips(&[]));
    }

    #[test]
    fn what_an_earlier_process_announced_lingers_until_each_peer_was_up_once() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.inherit(&eips(&[1, 2]));
        ledger.inherit(&eips(&[3]));
        let gone = eips(&[2, 3]);
        let down = peer(State::Connect, None);
        assert_eq!(ledger.lingering(&gone, &[]), eips(&[]), "no peers");
        assert_eq!(
            ledger.lingering(&gone, std::slice::from_ref(&down)),
            eips(&[2])
        );
        ledger.announced(eips(&[1]), 1, false, now);
        ledger.announced(eips(&[1]), 2, true, now);
        assert_eq!(ledger.lingering(&gone, &[down]), eips(&[2]));
        assert_eq!(ledger.lingering(&gone, &[up(2)]), eips(&[]));
    }

    #[test]
    fn what_comes_back_was_never_gone_and_nothing_is_remembered_for_ever() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.announced(eips(&[1]), 1, true, now);
        ledger.announced(eips(&[]), 2, true, now);
        ledger.announced(eips(&[1]), 3, true, now);
        assert!(!is_settling(&ledger));
        ledger.announced(eips(&[]), 4, true, now);
        let later = ledger.next_expiry().unwrap();
        assert!(ledger.settle(&[up(3)], later) && !is_settling(&ledger));
    }
}
