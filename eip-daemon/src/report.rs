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
