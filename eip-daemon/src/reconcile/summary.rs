//! The reports of a round, from what the round found.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    depend::Family,
    narrate::Line,
    retry::{Failures, Item},
};
use crate::{
    model::{BindingFact, BindingState, Desired, Facts, NetworkView, Outcome, WaitReason},
    report::{BindingReport, FailingAction, Report},
};

/// Everything that does not work.
pub(super) fn failing(failures: &Failures, view: &NetworkView) -> Vec<FailingAction> {
    failures
        .iter()
        .map(|(_, failure)| {
            let line = Line::new(&failure.action, view);
            FailingAction {
                action: line.to_text(),
                eip: line.eip,
                error: failure.error.clone(),
                attempts: failure.attempts,
            }
        })
        .collect()
}

/// Every binding with what became of it.
pub(super) fn bindings(
    facts: &Facts,
    report: &Report,
    failures: &Failures,
    now: u64,
) -> Vec<BindingReport> {
    let errors = errors(failures, &report.desired);
    facts
        .bindings
        .iter()
        .map(|fact| binding(fact, report, &errors, now))
        .collect()
}

fn binding(
    fact: &BindingFact,
    report: &Report,
    errors: &BTreeMap<IpAddr, String>,
    now: u64,
) -> BindingReport {
    let outcome = report
        .desired
        .outcomes
        .get(&fact.name)
        .cloned()
        .unwrap_or_else(unjudged);
    let vm = match &outcome {
        Outcome::Served { vm, .. } => Some(*vm),
        Outcome::Elsewhere { .. } | Outcome::Waiting { .. } | Outcome::Refused { .. } => None,
    };
    let programmed = report
        .observed
        .bindings
        .get(&fact.eip)
        .filter(|(state, _)| Some(state.vm) == vm);
    BindingReport {
        error: vm.and_then(|_| errors.get(&fact.eip).cloned()),
        programmed: programmed.map(|(state, _)| state.clone()),
        slot: programmed.map(|(_, slot)| *slot),
        is_fenced: programmed.is_some() && report.observed.is_fenced(&fact.eip, now),
        fact: fact.clone(),
        outcome,
    }
}

/// A fact nobody has looked at: the kernel could not be read since it came.
fn unjudged() -> Outcome {
    Outcome::Waiting {
        reason: WaitReason::NoRoute,
        message: "the node's network could not be read yet".to_owned(),
    }
}

/// The failure behind each EIP that one keeps from working: its own, its VM's, its door's or the
/// node's.
fn errors(failures: &Failures, desired: &Desired) -> BTreeMap<IpAddr, String> {
    if failures.is_empty() {
        return BTreeMap::new();
    }
    let (mut stuck, mut base) = (BTreeMap::new(), BTreeMap::new());
    for (item, failure) in failures.iter() {
        match item {
            Item::RouteGone(route) => _ = stuck.insert(route.eip, &failure.error),
            Item::Net(net) => _ = base.insert(Family::of_net(net), &failure.error),
            _ => {}
        }
    }
    let error_of = |eip: IpAddr, state: &BindingState| {
        [
            Item::Port(state.port),
            Item::Vm(state.vm),
            Item::Eip(eip),
            Item::EipGone(eip),
            Item::Route(eip),
            Item::Gateway,
        ]
        .iter()
        .find_map(|item| failures.error_of(item))
        .or(stuck.get(&eip).copied())
        .or(base.get(&Family::of(eip)).copied())
        .cloned()
    };
    let bindings = desired.bindings.iter();
    bindings
        .filter_map(|(eip, state)| Some((*eip, error_of(*eip, state)?)))
        .collect()
}
