//! Until when the kernel serves a binding without hearing from this process. Pure.
//!
//! The programs serve a binding until its lease ends; this process renews it as it goes round. So a node
//! whose agent is frozen or gone falls silent by itself, in translation as in ARP and neighbour
//! discovery, whatever moved elsewhere meanwhile.
//!
//! Two rules keep a node that wakes up from answering for what has moved:
//! - a lease that has ended is begun anew only with facts that were read from the API server after its
//!   end; what the process remembers from before does not count, and it asks for a new reading;
//! - the same holds for bindings that are new in the kernel, when this process itself stood still.
//!
//! What does *not* fence by default is an API server that is away while the agent runs: the agent cannot
//! tell that from being cut off, and elastic IPs that did not move would stop for nothing. Kubernetes does
//! not start a VM elsewhere while its pod on an unreachable node exists; who forces that, or wants to be
//! sure, chooses [`FenceOn::Isolation`], which renews only what the API server's answer covers.

use std::time::Duration;

use clap::ValueEnum;
use eip_common::abi::LEASE_NOT_BEGUN;

/// What ends the renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FenceOn {
    /// The agent stands still or is gone.
    #[default]
    Stall,
    /// That, or the API server does not take this node's Lease any more.
    Isolation,
}

/// When a node falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FencePolicy {
    /// How long the kernel serves what nobody renews; `None`: for ever.
    pub after: Option<Duration>,
    /// What ends the renewals.
    pub on: FenceOn,
}

/// What counts when leases are renewed. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Moment {
    /// Now.
    pub(super) now: u64,
    /// When the reading of the facts began; `None` before they are complete.
    pub(super) read_at: Option<u64>,
    /// When the API server last took this node's Lease.
    pub(super) contact: Option<u64>,
    /// When this process last noticed that it had stood still for longer than a lease; 0: never.
    pub(super) stalled: u64,
}

/// What to do about one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Nothing.
    Keep,
    /// Let it end then.
    Until(u64),
    /// Nothing before the facts have been read again.
    NeedsFacts,
}

/// Decides about a lease that ends at `until`.
pub(super) fn renewal(policy: FencePolicy, moment: &Moment, until: u64) -> Renewal {
    let Some(after) = policy.after else {
        return if until == 0 {
            Renewal::Keep
        } else {
            Renewal::Until(0)
        };
    };
    let after = nanos(after);
    let latest = moment.now.saturating_add(after);
    let is_first = until == LEASE_NOT_BEGUN;
    if until != 0 && until <= moment.now && !may_begin(moment, if is_first { 0 } else { until }) {
        return Renewal::NeedsFacts;
    }
    let goal = match (policy.on, moment.contact) {
        (FenceOn::Stall, _) => latest,
        (FenceOn::Isolation, Some(contact)) => contact.saturating_add(after),
        // Since this process runs nobody has answered. What another process was promised runs on.
        (FenceOn::Isolation, None) if until == 0 => latest,
        (FenceOn::Isolation, None) => return Renewal::Keep,
    };
    let is_endless = until == 0 || until > latest;
    let is_due = until <= moment.now || until - moment.now < after / 3 * 2;
    if goal > moment.now && (is_endless || (is_due && goal > until)) {
        Renewal::Until(goal)
    } else {
        Renewal::Keep
    }
}

/// Whether the facts are newer than the end of the lease, and than what this process slept through.
fn may_begin(moment: &Moment, ended: u64) -> bool {
    let needed = ended.max(moment.stalled);
    needed == 0 || moment.read_at.is_some_and(|read_at| read_at > needed)
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const STALL: FencePolicy = FencePolicy {
        after: Some(Duration::from_secs(30)),
        on: FenceOn::Stall,
    };
    const ISOLATION: FencePolicy = FencePolicy {
        after: STALL.after,
        on: FenceOn::Isolation,
    };

    fn at(now: u64) -> Moment {
        Moment {
            now: now * SECOND,
            ..Moment::default()
        }
    }

    #[test]
    fn a_lease_is_renewed_when_a_third_of_it_is_over() {
        let moment = at(100);
        let ends = |seconds: u64| renewal(STALL, &moment, seconds * SECOND);
        assert_eq!(ends(129), Renewal::Keep);
        assert_eq!(ends(120), Renewal::Keep);
        assert_eq!(ends(119), Renewal::Until(130 * SECOND));
        assert_eq!(ends(101), Renewal::Until(130 * SECOND));
    }

    #[test]
    fn a_lease_that_ended_needs_facts_that_are_newer_than_its_end() {
        let ended = 90 * SECOND;
        for (read_at, expected) in [
            (None, Renewal::NeedsFacts),
            (Some(90), Renewal::NeedsFacts),
            (Some(91), Renewal::Until(130 * SECOND)),
        ] {
            let moment = Moment {
                read_at: read_at.map(|at| at * SECOND),
                ..at(100)
            };
            assert_eq!(renewal(STALL, &moment, ended), expected, "{read_at:?}");
        }
    }

    #[test]
    fn a_new_binding_is_served_at_once_unless_the_process_stood_still() {
        let mut moment = at(100);
        assert_eq!(
            renewal(STALL, &moment, LEASE_NOT_BEGUN),
            Renewal::Until(130 * SECOND)
        );
        moment.stalled = 99 * SECOND;
        assert_eq!(
            renewal(STALL, &moment, LEASE_NOT_BEGUN),
            Renewal::NeedsFacts
        );
        moment.read_at = Some(100 * SECOND);
        assert_eq!(
            renewal(STALL, &moment, LEASE_NOT_BEGUN),
            Renewal::Until(130 * SECOND)
        );
    }

    #[test]
    fn the_policy_can_change_between_two_processes() {
        let never = FencePolicy::default();
        assert_eq!(renewal(never, &at(100), 0), Renewal::Keep);
        assert_eq!(renewal(never, &at(100), 50 * SECOND), Renewal::Until(0));
        for policy in [STALL, ISOLATION] {
            assert_eq!(
                renewal(policy, &at(100), 0),
                Renewal::Until(130 * SECOND),
                "what was for ever is not any more"
            );
        }
        assert_eq!(
            renewal(STALL, &at(100), 500 * SECOND),
            Renewal::Until(130 * SECOND),
            "what was longer becomes shorter"
        );
    }

    #[test]
    fn isolation_counts_from_the_last_answer_of_the_api_server() {
        let contact = |now, contact: u64| Moment {
            contact: Some(contact * SECOND),
            ..at(now)
        };
        let ends = 115 * SECOND;
        assert_eq!(
            renewal(ISOLATION, &contact(100, 99), ends),
            Renewal::Until(129 * SECOND)
        );
        assert_eq!(
            renewal(ISOLATION, &contact(100, 85), ends),
            Renewal::Keep,
            "no answer since the last renewal"
        );
        assert_eq!(
            renewal(ISOLATION, &contact(200, 100), 130 * SECOND),
            Renewal::NeedsFacts
        );
        assert_eq!(renewal(ISOLATION, &at(100), ends), Renewal::Keep);
        assert_eq!(
            renewal(ISOLATION, &at(100), LEASE_NOT_BEGUN),
            Renewal::Keep,
            "nothing new is served before the first answer"
        );
    }
}
