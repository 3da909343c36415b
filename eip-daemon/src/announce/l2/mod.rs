//! Announcing on the network segments of the uplinks: gratuitous ARP and unsolicited neighbour
//! advertisements.
//!
//! The kernel programs *answer* who has an EIP (`eip-ebpf`, `neighbour`); this *tells* it, so that
//! neighbours that remember another owner learn of the new one at once:
//! - when an EIP comes, when an uplink comes (back) or changes its address: a burst at growing gaps;
//! - every now and then, for neighbours that heard none of it;
//! - together with a probe for another owner, who answers it: what is heard from others about our EIPs is a
//!   [`Conflict`], reported until it is heard no more.
//!
//! For IPv4 both forms of gratuitous ARP are sent, the request of RFC 5227 and the reply of RFC 5944: some
//! equipment listens to one of them only. For each IPv6 EIP the uplinks join the group its solicitations
//! are sent to; without that, a network card or a switch would keep them from the node.
//!
//! One task, owned by the supervisor: [`L2Announcer::run`]. [`Announcer::announce`] takes effect before it
//! returns, so what is withdrawn before it is unprogrammed is not told a last time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use eip_common::addr::Mac;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Announcer;
use crate::model::Announcements;

mod claims;
mod driver;
mod frames;
mod groups;
mod schedule;
mod uplinks;

use claims::Claims;
use schedule::{Due, Schedule};

pub use claims::Conflict;

/// Announcements in a burst unless configured otherwise: what RFC 4861 section 10 allows.
pub const DEFAULT_REPEAT: u32 = 3;
/// Time between announcements afterwards, unless configured otherwise.
pub const DEFAULT_REFRESH: Duration = Duration::from_mins(2);

/// How often to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Settings {
    /// Announcements in a burst, at least one.
    pub repeat: u32,
    /// Time between announcements afterwards; `None` tells no more.
    pub refresh: Option<Duration>,
}

impl Default for L2Settings {
    fn default() -> Self {
        Self {
            repeat: DEFAULT_REPEAT,
            refresh: Some(DEFAULT_REFRESH),
        }
    }
}

impl L2Settings {
    /// A conflict that is not heard for this long is over: two rounds of probes went unanswered.
    fn memory(self) -> Duration {
        self.refresh.unwrap_or(DEFAULT_REFRESH) * 2
    }
}

/// Announces EIPs on the uplinks' segments. Clones are one.
#[derive(Debug, Clone)]
pub struct L2Announcer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    uplinks: Vec<String>,
    memory: Duration,
    state: Mutex<State>,
    /// The set has changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    claims: Claims,
    /// What keeps it from working, by what it concerns.
    problems: BTreeMap<String, String>,
}

impl L2Announcer {
    /// One that announces nothing yet, on these uplinks.
    #[must_use]
    pub fn new(settings: L2Settings, uplinks: &[String]) -> Self {
        Self(Arc::new(Shared {
            uplinks: uplinks.to_vec(),
            memory: settings.memory(),
            state: Mutex::new(State {
                schedule: Schedule::new(settings),
                claims: Claims::default(),
                problems: BTreeMap::new(),
            }),
            changed: Notify::new(),
        }))
    }

    /// EIPs that somebody else claims.
    #[must_use]
    pub fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        self.state().claims.open()
    }

    /// Uplinks on whose segments each EIP has been told, by interface index.
    #[must_use]
    pub fn told(&self) -> BTreeMap<IpAddr, Vec<u32>> {
        self.state().schedule.told()
    }

    /// What does not work, for people.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.state().problems.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a portion of what is due. The lock is held meanwhile: once an EIP is withdrawn nothing is sent
    /// for it any more. `send` does not block.
    fn send_due(
        &self,
        limit: usize,
        now: Instant,
        mut send: impl FnMut(Due) -> Result<(), String>,
    ) {
        let mut state = self.state();
        for due in state.schedule.take_due(now, limit) {
            let outcome = send(due);
            if outcome.is_err() {
                state.schedule.failed(due, now);
            }
            state.problem(format!("send {}", due.ifindex), outcome.err());
        }
    }

    /// Somebody says that an address is theirs.
    fn heard(&self, claimed: IpAddr, mac: Mac, uplink: &str) {
        let mut state = self.state();
        if !state.schedule.eips().contains(&claimed) || state.schedule.is_own(mac) {
            return;
        }
        let now = (Instant::now(), SystemTime::now());
        if state.claims.hear(claimed, mac, uplink, now) {
            let mac = text(mac);
            warn!(eip = %claimed, interface = uplink, %mac, "somebody else claims this elastic IP");
        }
    }

    fn end_old_claims(&self, now: Instant) {
        let ended = self.state().claims.expire(now, self.0.memory);
        for (eip, conflict) in ended {
            let mac = text(conflict.mac);
            info!(%eip, interface = conflict.uplink, %mac, "nobody else claims this elastic IP any more");
        }
    }

    fn problem(&self, about: String, problem: Option<String>) {
        self.state().problem(about, problem);
    }
}

impl State {
    /// A problem is logged when it begins and when it is another one.
    fn problem(&mut self, about: String, problem: Option<String>) {
        let Some(problem) = problem else {
            self.problems.remove(&about);
            return;
        };
        if self.problems.get(&about) != Some(&problem) {
            warn!(error = problem, "announcing on layer 2 does not work");
            self.problems.insert(about, problem);
        }
    }
}

impl Announcer for L2Announcer {
    fn announce(&mut self, wanted: &Announcements) {
        let eips = wanted.wanted.iter();
        let eips: BTreeSet<IpAddr> = eips
            .filter(|(_, announcement)| announcement.by.includes_l2())
            .map(|(eip, _)| *eip)
            .collect();
        let mut state = self.state();
        if *state.schedule.eips() == eips {
            return;
        }
        state.schedule.set(&eips, Instant::now());
        state.claims.keep(&eips);
        self.0.changed.notify_one();
    }

    /// Nothing lingers: a neighbour that is told nothing more keeps what it knows until it asks again, and
    /// the programs stop answering when the EIP leaves the map.
    fn lingering(&self, _leaving: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }
}

/// As people write a hardware address.
fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Announce, Announcement, ObjectName};

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const THIEF: Mac = [2, 0, 0, 0, 0, 0x66];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn wanted(by: &[(&str, Announce)]) -> Announcements {
        let announcement = |by: Announce| Announcement {
            binding: ObjectName {
                namespace: "default".to_owned(),
                name: "b".to_owned(),
            },
            by,
            arrived: None,
        };
        Announcements {
            wanted: by
                .iter()
                .map(|(eip, by)| (ip(eip), announcement(*by)))
                .collect(),
            ..Announcements::default()
        }
    }

    fn announcer(by: &[(&str, Announce)]) -> L2Announcer {
        let mut announcer = L2Announcer::new(L2Settings::default(), &["up0".to_owned()]);
        let stations = [(2, OWN)].into();
        announcer.announce(&wanted(by));
        announcer
            .state()
            .schedule
            .set_stations(&stations, Instant::now());
        announcer
    }

    fn told(announcer: &L2Announcer) -> Vec<IpAddr> {
        let mut told = Vec::new();
        announcer.send_due(100, Instant::now(), |due| {
            told.push(due.eip);
            Ok(())
        });
        told
    }

    #[test]
    fn only_what_is_announced_on_layer_2_is_told() {
        let announcer = announcer(&[
            ("203.0.113.10", Announce::L2),
            ("203.0.113.11", Announce::Both),
            ("203.0.113.12", Announce::Bgp),
            ("203.0.113.13", Announce::None),
        ]);
        assert_eq!(told(&announcer), [ip("203.0.113.10"), ip("203.0.113.11")]);
    }

    #[test]
    fn what_was_withdrawn_is_not_told_although_it_was_due() {
        let mut announcer = announcer(&[("203.0.113.10", Announce::L2)]);
        announcer.announce(&wanted(&[]));
        assert!(told(&announcer).is_empty());
    }

    #[test]
    fn a_failure_to_send_is_reported_until_it_works_again() {
        let announcer = announcer(&[("203.0.113.10", Announce::L2)]);
        let now = Instant::now();
        announcer.send_due(1, now, |_| Err("no buffer".to_owned()));
        assert_eq!(announcer.notices(), ["no buffer"]);
        announcer.send_due(1, now + Duration::from_secs(1), |_| Ok(()));
        assert!(announcer.notices().is_empty());
    }

    #[test]
    fn a_claim_to_our_eip_is_a_conflict_and_others_are_not() {
        let mut announcer = announcer(&[("203.0.113.10", Announce::L2)]);
        announcer.heard(ip("203.0.113.99"), THIEF, "up0");
        announcer.heard(ip("203.0.113.10"), OWN, "up0");
        assert!(announcer.conflicts().is_empty());
        announcer.heard(ip("203.0.113.10"), THIEF, "up0");
        assert_eq!(announcer.conflicts()[&ip("203.0.113.10")].mac, THIEF);

        let memory = announcer.0.memory;
        announcer.end_old_claims(Instant::now() + memory);
        assert!(announcer.conflicts().is_empty());

        announcer.heard(ip("203.0.113.10"), THIEF, "up0");
        announcer.announce(&wanted(&[]));
        assert!(announcer.conflicts().is_empty());
    }
}
