//! Which binding is looked at when: soon, but no object can keep the controller busy. Pure.
//!
//! Each object has a small budget of writes that refills with time, and waits longer after each
//! failure. Many changes of one object before its turn are one turn. Namespaces take turns: one with ten
//! thousand bindings of one VM holds up nobody but itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use crate::model::ObjectName;

/// Writes an object may have at once.
const BURST: u32 = 6;
/// Time for one more.
const REFILL: Duration = Duration::from_millis(500);
/// First pause after a failure; doubled by each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The turns of all objects.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// By namespace; none of them is empty.
    due: BTreeMap<String, BTreeSet<(Instant, ObjectName)>>,
    /// The namespace that had the last turn.
    last: String,
    when: BTreeMap<ObjectName, Instant>,
    busy: BTreeSet<ObjectName>,
    /// Touched while busy: looked at again afterwards.
    again: BTreeSet<ObjectName>,
    records: BTreeMap<ObjectName, Record>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    budget: u32,
    counted_at: Instant,
    failures: u32,
    not_before: Instant,
}

impl Pace {
    /// An object may need a write.
    pub(super) fn touch(&mut self, name: &ObjectName, now: Instant) {
        if self.busy.contains(name) {
            self.again.insert(name.clone());
            return;
        }
        let not_before = self.records.get(name).map(|record| record.not_before);
        self.schedule(name, not_before.map_or(now, |time| time.max(now)));
    }

    fn schedule(&mut self, name: &ObjectName, time: Instant) {
        if let Some(known) = self.when.get(name) {
            if *known <= time {
                return;
            }
            let known = *known;
            self.unschedule(name, known);
        }
        self.when.insert(name.clone(), time);
        let of_namespace = self.due.entry(name.namespace.clone()).or_default();
        of_namespace.insert((time, name.clone()));
    }

    fn unschedule(&mut self, name: &ObjectName, time: Instant) {
        if let Some(of_namespace) = self.due.get_mut(&name.namespace) {
            of_namespace.remove(&(time, name.clone()));
            if of_namespace.is_empty() {
                self.due.remove(&name.namespace);
            }
        }
    }

    /// The next object whose turn has come. It counts as busy only after [`Pace::begin`].
    pub(super) fn next(&mut self, now: Instant) -> Option<ObjectName> {
        let after = (Bound::Excluded(&self.last), Bound::Unbounded);
        let others = self.due.range::<String, _>(after);
        let up_to = (Bound::Unbounded, Bound::Included(&self.last));
        let turns = others.chain(self.due.range::<String, _>(up_to));
        let mut firsts = turns.filter_map(|(_, of_namespace)| of_namespace.first());
        let (time, name) = firsts.find(|(time, _)| *time <= now)?.clone();
        self.unschedule(&name, time);
        self.when.remove(&name);
        self.last.clone_from(&name.namespace);
        Some(name)
    }

    /// When the next turn comes.
    #[must_use]
    pub(super) fn next_time(&self) -> Option<Instant> {
        let firsts = self.due.values().filter_map(BTreeSet::first);
        firsts.map(|(time, _)| *time).min()
    }

    /// Takes a write from the budget of an object. `false`: it has none left, and gets its turn later.
    pub(super) fn begin(&mut self, name: &ObjectName, now: Instant) -> bool {
        let record = self.records.entry(name.clone()).or_insert(Record {
            budget: BURST,
            counted_at: now,
            failures: 0,
            not_before: now,
        });
        let refills = now.duration_since(record.counted_at).as_millis() / REFILL.as_millis();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        if refills > 0 {
            record.budget = record.budget.saturating_add(refills).min(BURST);
            record.counted_at = now;
        }
        if record.budget == 0 {
            let time = record.counted_at + REFILL;
            self.schedule(name, time);
            return false;
        }
        record.budget -= 1;
        self.busy.insert(name.clone());
        true
    }

    /// A write has ended.
    pub(super) fn end(&mut self, name: &ObjectName, is_good: bool, now: Instant) {
        self.busy.remove(name);
        let touched = self.again.remove(name);
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        if is_good {
            record.failures = 0;
            record.not_before = now;
        } else {
            let pause = FIRST_PAUSE.saturating_mul(1 << record.failures.min(16));
            record.failures = record.failures.saturating_add(1);
            record.not_before = now + pause.min(LONGEST_PAUSE);
        }
        let time = record.not_before;
        if touched || !is_good {
            self.schedule(name, time);
        }
    }

    /// Objects that wait or are being written.
    #[must_use]
    pub(super) fn depth(&self) -> usize {
        self.when.len() + self.busy.len()
    }

    /// An object that is gone needs no record.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        if let Some(time) = self.when.remove(name) {
            self.unschedule(name, time);
        }
        self.again.remove(name);
        self.records.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName {
            namespace: "ns".to_owned(),
            name: text.to_owned(),
        }
    }

    #[test]
    fn an_object_that_changes_all_the_time_gets_two_writes_a_second_and_delays_nobody() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (noisy, quiet) = (name("noisy"), name("quiet"));
        let mut writes = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            pace.touch(&noisy, now);
            while let Some(next) = pace.next(now) {
                if pace.begin(&next, now) {
                    writes += 1;
                    pace.end(&next, true, now);
                }
            }
        }
        assert!((20..=30).contains(&writes), "{writes}");
        let now = start + Duration::from_secs(10);
        pace.touch(&quiet, now);
        let due: Vec<ObjectName> = std::iter::from_fn(|| pace.next(now)).collect();
        assert!(due.contains(&quiet), "{due:?}");
    }

    #[test]
    fn ten_thousand_objects_of_one_namespace_hold_up_no_other_one() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for number in 0..10_000 {
            pace.touch(&name(&format!("crowd-{number}")), start);
        }
        for namespace in ["a", "z"] {
            let own = ObjectName {
                namespace: namespace.to_owned(),
                name: "one".to_owned(),
            };
            pace.touch(&own, start + Duration::from_secs(1));
        }
        let now = start + Duration::from_secs(2);
        let first: Vec<String> = (0..3).map(|_| pace.next(now).unwrap().namespace).collect();
        assert_eq!(first, ["a", "ns", "z"]);
        assert_eq!(std::iter::from_fn(|| pace.next(now)).count(), 9_999);
        assert_eq!((pace.next_time(), pace.depth()), (None, 0));
    }

    #[test]
    fn failures_are_repeated_with_growing_pauses_and_success_ends_them() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let object = name("a");
        pace.touch(&object, now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(pace.next(now).as_ref(), Some(&object));
            assert!(pace.begin(&object, now));
            pace.end(&object, false, now);
            let next = pace.next_time().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses[11], LONGEST_PAUSE);
        assert!(pace.next(now).is_some() && pace.begin(&object, now));
        pace.end(&object, true, now);
        assert_eq!((pace.next_time(), pace.depth()), (None, 0));
    }

    #[test]
    fn what_changes_during_its_write_gets_another_turn() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let object = name("a");
        pace.touch(&object, now);
        assert!(pace.next(now).is_some() && pace.begin(&object, now));
        pace.touch(&object, now);
        assert_eq!(pace.next(now), None, "one write at a time");
        pace.end(&object, true, now);
        assert_eq!(pace.next(now), Some(object));
    }
}
