//! Who leads: the record of a `Lease`, and what to do about it. Pure; the algorithm is that of
//! Kubernetes' own controllers.
//!
//! Clocks of different machines are never compared. A record counts as alive for its duration after
//! *we* saw it change, by our monotonic clock; the leader stops [`Timing::grace`] before others may
//! take over. Every write names the version it replaces, so one of two candidates loses.

use std::time::{Duration, Instant};

/// Times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a record is valid after it was last renewed.
    pub duration: Duration,
    /// How often the leader renews it, and others look.
    pub retry: Duration,
}

impl Timing {
    /// How long before the end of its record a leader stops to write.
    #[must_use]
    pub(super) fn grace(self) -> Duration {
        self.duration / 3
    }

    fn usable(self) -> Duration {
        self.duration.saturating_sub(self.grace())
    }
}

/// The record, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// Who holds it; nobody when empty.
    pub(super) holder: String,
    /// Seconds it is valid for.
    pub(super) seconds: i32,
    /// When it was renewed, as written; only compared for being the same.
    pub(super) renewed: String,
    /// How often it changed hands.
    pub(super) transitions: i32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no record: make one.
    Create,
    /// Ours: renew it.
    Renew,
    /// Nobody's, or its holder is silent for too long: take it.
    Take,
    /// Somebody else's.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    timing: Timing,
    seen: Option<(Record, Instant)>,
    leads_until: Option<Instant>,
}

impl Candidate {
    /// A candidate that has seen nothing.
    #[must_use]
    pub(super) fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            seen: None,
            leads_until: None,
        }
    }

    /// The record as it was just read; `None` when there is none.
    pub(super) fn look(&mut self, record: Option<&Record>, now: Instant) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen == record => *since,
            _ => now,
        };
        self.seen = Some((record.clone(), since));
        if record.holder == self.identity {
            return Step::Renew;
        }
        self.leads_until = None;
        let seconds = u64::try_from(record.seconds).unwrap_or(0);
        let is_silent = now.duration_since(since) >= Duration::from_secs(seconds.max(1));
        if record.holder.is_empty() || is_silent {
            Step::Take
        } else {
            Step::Wait
        }
    }

    /// A record of ours was written; the attempt began at `began`.
    pub(super) fn won(&mut self, record: Record, began: Instant) {
        self.leads_until = Some(began + self.timing.usable());
        self.seen = Some((record, began));
    }

    /// Whether this candidate may act now.
    #[must_use]
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// Until when it may act.
    #[must_use]
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// The record to write for a step.
    #[must_use]
    pub(super) fn record(&self, step: Step, now: &str) -> Record {
        let before = self.seen.as_ref().map(|(record, _)| record);
        let transitions = before.map_or(0, |record| record.transitions);
        Record {
            holder: self.identity.clone(),
            seconds: i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            renewed: now.to_owned(),
            transitions: transitions + i32::from(step == Step::Take),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMING: Timing = Timing {
        duration: Duration::from_secs(15),
        retry: Duration::from_secs(2),
    };

    fn record(holder: &str, renewed: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            seconds: 15,
            renewed: renewed.to_owned(),
            transitions: 0,
        }
    }

    /// What is written, against which version, when it began and when it ends.
    type Attempt = (Step, Option<u64>, Instant, u64);

    #[test]
    fn a_record_that_changes_is_alive_whatever_time_it_names() {
        let (mut candidate, start) = (Candidate::new("b".to_owned(), TIMING), Instant::now());
        for second in 0..100 {
            let renewed = format!("1970-01-01T00:00:{:02}Z", second % 60);
            let step = candidate.look(
                Some(&record("a", &renewed)),
                start + Duration::from_secs(second),
            );
            assert_eq!(step, Step::Wait);
        }
    }

    #[test]
    fn a_silent_holder_is_followed_after_the_duration_and_not_before() {
        let (mut candidate, start) = (Candidate::new("b".to_owned(), TIMING), Instant::now());
        let old = record("a", "x");
        assert_eq!(candidate.look(Some(&old), start), Step::Wait);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(candidate.look(Some(&old), later(14)), Step::Wait);
        assert_eq!(candidate.look(Some(&old), later(15)), Step::Take);
    }

    proptest! {
        /// Two candidates, one record, attempts at any time that take any time: they never lead both.
        #[test]
        fn two_candidates_never_lead_at_once(
            attempts in prop::collection::vec((any::<bool>(), 0_u64..9_000, 0_u64..9_000), 1..200),
        ) {
            let start = Instant::now();
            let mut both = [
                Candidate::new("a".to_owned(), TIMING),
                Candidate::new("b".to_owned(), TIMING),
            ];
            let mut stored: Option<(Record, u64)> = None;
            let mut version = 0;
            let mut millis = 0;
            // A write that takes long ends after what happens meanwhile.
            let mut open: [Option<Attempt>; 2] = [None, None];
            for (which, pause, takes) in attempts {
                millis += pause;
                let now = start + Duration::from_millis(millis);
                for (index, candidate) in both.iter_mut().enumerate() {
                    if let Some((step, against, began, ends)) = open[index]
                        && ends <= millis
                    {
                        open[index] = None;
                        if stored.as_ref().map(|(_, version)| *version) == against {
                            version += 1;
                            let record = candidate.record(step, &version.to_string());
                            stored = Some((record.clone(), version));
                            candidate.won(record, began);
                        }
                    }
                }
                let index = usize::from(which);
                if open[index].is_none() {
                    let seen = stored.as_ref().map(|(record, _)| record.clone());
                    let step = both[index].look(seen.as_ref(), now);
                    if step != Step::Wait {
                        let against = stored.as_ref().map(|(_, version)| *version);
                        open[index] = Some((step, against, now, millis + takes));
                    }
                }
                prop_assert!(!(both[0].leads(now) && both[1].leads(now)));
            }
        }
    }
}
