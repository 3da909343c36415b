//! When to say it again. Pure: time comes in, frames to send come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use eip_common::addr::Mac;

use super::L2Settings;

/// Pause after the first announcement; each one that follows doubles it. RFC 4861 section 7.2.6 wants at
/// least this much between unsolicited advertisements.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// Pause after an announcement that could not be sent.
const RETRY: Duration = Duration::from_secs(1);

/// One announcement that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// The uplink.
    pub(super) ifindex: u32,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// What it has.
    pub(super) eip: IpAddr,
}

/// Every announced EIP on every uplink, and when it is told next.
#[derive(Debug)]
pub(super) struct Schedule {
    settings: L2Settings,
    eips: BTreeSet<IpAddr>,
    stations: BTreeMap<u32, Mac>,
    entries: BTreeMap<(u32, IpAddr), Entry>,
    queue: BTreeSet<(Instant, u32, IpAddr)>,
}

#[derive(Debug)]
struct Entry {
    sent: u32,
    due: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(settings: L2Settings) -> Self {
        Self {
            settings,
            eips: BTreeSet::new(),
            stations: BTreeMap::new(),
            entries: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }

    /// Replaces the set of EIPs. New ones are due at once, those that left never again.
    pub(super) fn set(&mut self, eips: &BTreeSet<IpAddr>, now: Instant) {
        let added: Vec<IpAddr> = eips.difference(&self.eips).copied().collect();
        self.eips.clone_from(eips);
        self.forget(|_, eip| !eips.contains(&eip));
        let stations: Vec<u32> = self.stations.keys().copied().collect();
        for ifindex in stations {
            for eip in &added {
                self.put(ifindex, *eip, 0, Some(now));
            }
        }
    }

    /// Replaces the uplinks that can send. On one that is new, came back or has another address everything
    /// is told from the beginning: whoever listens there knows nothing, or something wrong.
    pub(super) fn set_stations(&mut self, stations: &BTreeMap<u32, Mac>, now: Instant) {
        let fresh: Vec<u32> = stations
            .iter()
            .filter(|(ifindex, mac)| self.stations.get(ifindex) != Some(mac))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        self.stations.clone_from(stations);
        self.forget(|ifindex, _| !stations.contains_key(&ifindex));
        let eips: Vec<IpAddr> = self.eips.iter().copied().collect();
        for ifindex in fresh {
            for eip in &eips {
                self.put(ifindex, *eip, 0, Some(now));
            }
        }
    }

    /// At most `limit` announcements that are due now, the longest waiting first.
    pub(super) fn take_due(&mut self, now: Instant, limit: usize) -> Vec<Due> {
        let ready: Vec<_> = self
            .queue
            .iter()
            .take_while(|(due, ..)| *due <= now)
            .take(limit)
            .copied()
            .collect();
        let mut taken = Vec::new();
        for (_, ifindex, eip) in ready {
            let Some(mac) = self.stations.get(&ifindex).copied() else {
                continue;
            };
            let sent = self.entries.get(&(ifindex, eip)).map_or(0, |one| one.sent) + 1;
            let next = self.gap(sent).map(|gap| now + gap);
            self.put(ifindex, eip, sent, next);
            taken.push(Due { ifindex, mac, eip });
        }
        taken
    }

    /// An announcement that was taken could not be sent: it is due again soon, and does not count.
    pub(super) fn failed(&mut self, due: Due, now: Instant) {
        if let Some(entry) = self.entries.get(&(due.ifindex, due.eip)) {
            let sent = entry.sent.saturating_sub(1);
            self.put(due.ifindex, due.eip, sent, Some(now + RETRY));
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, ..)| *due)
    }

    /// The EIPs that are announced.
    pub(super) fn eips(&self) -> &BTreeSet<IpAddr> {
        &self.eips
    }

    /// Uplinks on which each EIP has been told, by interface index.
    pub(super) fn told(&self) -> BTreeMap<IpAddr, Vec<u32>> {
        let mut told: BTreeMap<IpAddr, Vec<u32>> = BTreeMap::new();
        for ((ifindex, eip), entry) in &self.entries {
            if entry.sent > 0 {
                told.entry(*eip).or_default().push(*ifindex);
            }
        }
        told
    }

    /// The uplinks' own addresses.
    pub(super) fn is_own(&self, mac: Mac) -> bool {
        self.stations.values().any(|own| *own == mac)
    }

    /// Pause after the announcement with this number, from 1.
    fn gap(&self, sent: u32) -> Option<Duration> {
        if sent < self.settings.repeat {
            Some(FIRST_GAP * (1 << (sent - 1).min(10)))
        } else {
            self.settings.refresh
        }
    }

    fn put(&mut self, ifindex: u32, eip: IpAddr, sent: u32, due: Option<Instant>) {
        let entry = Entry { sent, due };
        let old = self.entries.insert((ifindex, eip), entry);
        if let Some(due) = old.and_then(|old| old.due) {
            self.queue.remove(&(due, ifindex, eip));
        }
        self.queue.extend(due.map(|due| (due, ifindex, eip)));
    }

    fn forget(&mut self, is_gone: impl Fn(u32, IpAddr) -> bool) {
        self.entries
            .retain(|(ifindex, eip), _| !is_gone(*ifindex, *eip));
        self.queue
            .retain(|(_, ifindex, eip)| !is_gone(*ifindex, *eip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: u32 = 2;
    const OTHER: u32 = 3;
    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(eips: &[&str]) -> BTreeSet<IpAddr> {
        eips.iter().map(|eip| ip(eip)).collect()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn schedule(repeat: u32, refresh: Option<u64>) -> (Schedule, Instant) {
        let settings = L2Settings {
            repeat,
            refresh: refresh.map(seconds),
        };
        let (mut schedule, start) = (Schedule::new(settings), Instant::now());
        schedule.set_stations(&[(UPLINK, MAC)].into(), start);
        (schedule, start)
    }

    /// Seconds after the start at which something is sent, up to a limit.
    fn times(schedule: &mut Schedule, start: Instant, until: u64) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(due) = schedule.next_due() {
            let at = due.duration_since(start);
            if at > seconds(until) {
                break;
            }
            let sent = schedule.take_due(due, usize::MAX);
            times.extend(sent.iter().map(|_| at.as_secs()));
        }
        times
    }

    #[test]
    fn an_eip_is_told_at_once_at_growing_gaps_and_then_now_and_again() {
        let (mut schedule, start) = schedule(4, Some(120));
        schedule.set(&set(&["203.0.113.10"]), start);
        assert_eq!(times(&mut schedule, start, 300), [0, 1, 3, 7, 127, 247]);
    }

    #[test]
    fn without_a_refresh_the_burst_is_all() {
        let (mut schedule, start) = schedule(3, None);
        schedule.set(&set(&["203.0.113.10"]), start);
        assert_eq!(times(&mut schedule, start, 10_000), [0, 1, 3]);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn the_same_set_again_changes_nothing() {
        let (mut schedule, start) = schedule(2, Some(120));
        schedule.set(&set(&["203.0.113.10"]), start);
        assert_eq!(schedule.take_due(start, 10).len(), 1);
        schedule.set(&set(&["203.0.113.10"]), start + seconds(9));
        schedule.set_stations(&[(UPLINK, MAC)].into(), start + seconds(9));
        assert_eq!(schedule.next_due(), Some(start + seconds(1)));
    }

    #[test]
    fn what_left_is_never_told_again() {
        let (mut schedule, start) = schedule(3, Some(120));
        schedule.set(&set(&["203.0.113.10", "2001:db8::10"]), start);
        schedule.set(&set(&["2001:db8::10"]), start);
        let told = schedule.take_due(start + seconds(500), 10);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].eip, ip("2001:db8::10"));
        schedule.set(&BTreeSet::new(), start);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn an_uplink_that_is_new_or_has_another_address_hears_everything_anew() {
        let (mut schedule, start) = schedule(1, None);
        schedule.set(&set(&["203.0.113.10"]), start);
        assert_eq!(schedule.take_due(start, 10).len(), 1);
        schedule.set_stations(&[(UPLINK, MAC), (OTHER, MAC)].into(), start);
        let told = schedule.take_due(start, 10);
        assert_eq!(
            told.iter().map(|due| due.ifindex).collect::<Vec<_>>(),
            [OTHER]
        );

        let other = [2, 0, 0, 0, 0, 9];
        schedule.set_stations(&[(UPLINK, other)].into(), start);
        let told = schedule.take_due(start, 10);
        assert_eq!(
            (told.len(), told[0].ifindex, told[0].mac),
            (1, UPLINK, other)
        );

        // Down and up again.
        schedule.set_stations(&BTreeMap::new(), start);
        assert_eq!(schedule.next_due(), None);
        schedule.set_stations(&[(UPLINK, other)].into(), start);
        assert_eq!(schedule.take_due(start, 10).len(), 1);
    }

    #[test]
    fn many_are_told_in_portions_the_longest_waiting_first() {
        let (mut schedule, start) = schedule(1, None);
        schedule.set(&set(&["203.0.113.10", "203.0.113.11"]), start);
        schedule.set(
            &set(&["203.0.113.10", "203.0.113.11", "203.0.113.1"]),
            start + seconds(1),
        );
        let later = start + seconds(2);
        let first = schedule.take_due(later, 2);
        assert_eq!(first[0].eip, ip("203.0.113.10"));
        assert_eq!(first[1].eip, ip("203.0.113.11"));
        assert_eq!(schedule.take_due(later, 2)[0].eip, ip("203.0.113.1"));
        assert_eq!(schedule.take_due(later, 2), []);
    }

    #[test]
    fn one_that_could_not_be_sent_is_tried_again_and_does_not_count() {
        let (mut schedule, start) = schedule(2, None);
        schedule.set(&set(&["203.0.113.10"]), start);
        let due = schedule.take_due(start, 10)[0];
        schedule.failed(due, start);
        assert_eq!(times(&mut schedule, start, 100), [1, 2]);
        // Withdrawn in between: nothing comes back.
        schedule.set(&BTreeSet::new(), start);
        schedule.failed(due, start);
        assert_eq!(schedule.next_due(), None);
    }
}
