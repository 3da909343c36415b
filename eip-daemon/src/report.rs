//! What the reconciler tells the outside after every round. Read by `eipctl`, metrics and readiness;
//! nothing in here feeds back into a decision.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{
    BindingFact, BindingState, Desired, NetworkView, NodeSettings, Observed, Outcome,
    RefusedDocument,
};

/// One binding object and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingReport {
    /// The object.
    pub fact: BindingFact,
    /// What was decided.
    pub outcome: Outcome,
    /// What the kernel has for its EIP, when that is this binding's.
    pub programmed: Option<BindingState>,
    /// Counter slot, when programmed.
    pub slot: Option<u32>,
    /// The error that keeps the kernel from having it.
    pub error: Option<String>,
    /// The kernel has it and does not serve it: its lease has ended.
    pub is_fenced: bool,
}

/// A change that does not work at the moment. It is retried; the others go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingAction {
    /// What was to be done, for people.
    pub action: String,
    /// The EIP it concerns, if it concerns one.
    pub eip: Option<IpAddr>,
    /// Why it does not work.
    pub error: String,
    /// Tries so far.
    pub attempts: u64,
}

/// Upper bounds of the buckets of [`Durations`], in seconds.
pub const DURATION_BOUNDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// How long rounds took since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durations {
    /// Rounds not longer than the bound of the same place, and longer than the one before. The last
    /// place counts the longest.
    pub counts: [u64; DURATION_BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Durations {
    /// With one more round.
    #[must_use]
    pub fn and(mut self, duration: Duration) -> Self {
        let seconds = duration.as_secs_f64();
        let place = DURATION_BOUNDS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get_mut(place.unwrap_or(DURATION_BOUNDS.len())) {
            *count += 1;
        }
        self.sum += duration;
        self
    }
}

/// State after a round.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The sources have been read completely once.
    pub facts_complete: bool,
    /// The kernel is as desired: nothing to do, nothing failing.
    pub in_sync: bool,
    /// Rounds since start.
    pub rounds: u64,
    /// Changes made because the kernel had drifted from what was desired (not because a wish changed).
    pub repairs: u64,
    /// Duration of the last round.
    pub last_round: Duration,
    /// Durations of all rounds.
    pub durations: Durations,
    /// Every binding object.
    pub bindings: Vec<BindingReport>,
    /// Documents nobody could read.
    pub refused: Vec<RefusedDocument>,
    /// What does not work.
    pub failing: Vec<FailingAction>,
    /// The error that kept a whole round from running (the kernel could not be read).
    pub round_error: Option<String>,
    /// What shall be in the kernel.
    pub desired: Arc<Desired>,
    /// What is in the kernel, after the round.
    pub observed: Arc<Observed>,
    /// The node as it was seen.
    pub view: Arc<NetworkView>,
    /// The settings in force; `None` before the first round.
    pub settings: Option<Arc<NodeSettings>>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Durations;

    #[test]
    fn every_round_is_counted_in_one_bucket() {
        let all = [0, 1, 2, 90, 3_600_000]
            .map(Duration::from_millis)
            .into_iter()
            .fold(Durations::default(), Durations::and);
        assert_eq!(all.counts, [2, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(all.sum, Duration::from_millis(3_600_093));
    }
}
