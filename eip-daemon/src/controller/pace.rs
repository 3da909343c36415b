//! Which binding is looked at when: soon, but no object can keep the controller busy. Pure.
//!
//! Each object has a small budget of writes that refills with time, and waits longer after each
//! failure. Many changes of one object before its turn are one turn.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    due: BTreeSet<(Instant, ObjectName)>,
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
            self.due.remove(&(*known, name.clone()));
        }
        self.when.insert(name.clone(), time);
        self.due.insert((time, name.clone()));
    }

    /// The next object whose turn has come. It counts as busy only after [`Pace::begin`].
    pub(super) fn next(&mut self, now: Instant) -> Option<ObjectName> {
        let (time, _) = self.due.first()?;
        if *time > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        self.when.remove(&name);
        Some(name)
    }

    /// When the next turn comes.
    #[must_use]
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.due.first().map(|(time, _)| *time)
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
        self.due.len() + self.busy.len()
    }

    /// An object that is gone needs no record.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        if let Some(time) = self.when.remove(name) {
            self.due.remove(&(time, name.clone()));
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
