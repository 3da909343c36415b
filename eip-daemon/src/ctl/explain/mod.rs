//! "Why does this EIP (not) work?" Walks the chain from the object to the packets that arrive, on what
//! the reconciler decided and on what the kernel says at this moment, and names the first broken link.
//!
//! ```text
//! binding -> vm -> decision -> maps -> route -> neighbour -> device -> programs
//!                                    -> uplinks -> way out -> announcement -> forwarding
//! ```
//!
//! [`chain`] is pure. Each link is judged for itself; what cannot be judged because something before it
//! is broken is skipped.

mod kernel;
mod network;
mod objects;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    api::{BgpRoute, ChainLink, Conflict, ExplainAnswer, Explanation, LinkState},
    error::ApiError,
    lookup,
    state::AgentState,
    view::{self, interface_name},
};
use crate::{
    dataplane::{
        ReasonCount,
        examine::{Question, Sighting, Way},
    },
    model::{BindingState, Desired, NodeSettings},
    report::{BindingReport, Report},
};

/// Somewhere outside: the networks for benchmarks (RFC 2544, RFC 5180), to which nobody has a route of
/// their own.
const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1));

/// Everything one explanation is made of.
pub(super) struct Case<'a> {
    pub(super) report: &'a Report,
    pub(super) settings: &'a NodeSettings,
    pub(super) item: &'a BindingReport,
    pub(super) now: &'a Sighting,
    pub(super) counted: Counted,
    /// What BGP peers know of it.
    pub(super) bgp: Option<BgpRoute>,
    /// What was heard of it on the segments of the uplinks.
    pub(super) l2: Heard,
}

/// What the layer 2 announcer knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// Somebody else claims the EIP.
    pub(super) conflict: Option<Conflict>,
    /// What keeps the announcer from telling.
    pub(super) problems: Vec<String>,
}

/// What was counted for the EIP.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) to_vm: u64,
    pub(super) reasons: Vec<ReasonCount>,
}

impl Case<'_> {
    pub(super) fn eip(&self) -> IpAddr {
        self.item.fact.eip
    }

    /// As it shall be in the kernel; `None` while it shall not.
    pub(super) fn wanted(&self) -> Option<&BindingState> {
        let is_holder = matches!(self.item.outcome, crate::model::Outcome::Served { .. });
        let desired: &Desired = &self.report.desired;
        desired.bindings.get(&self.eip()).filter(|_| is_holder)
    }

    pub(super) fn name_of(&self, ifindex: u32) -> String {
        interface_name(&self.now.view, ifindex)
    }
}

pub(super) fn ok(name: &str, found: impl Into<String>) -> ChainLink {
    ChainLink {
        name: name.to_owned(),
        state: LinkState::Ok,
        found: found.into(),
        cure: None,
        notes: Vec::new(),
    }
}

pub(super) fn bad(name: &str, found: impl Into<String>, cure: impl Into<String>) -> ChainLink {
    ChainLink {
        state: LinkState::Bad,
        cure: Some(cure.into()),
        ..ok(name, found)
    }
}

pub(super) fn skipped(name: &str, why: impl Into<String>) -> ChainLink {
    ChainLink {
        state: LinkState::Skipped,
        ..ok(name, why)
    }
}

/// Explains every EIP that `key` means: an EIP, a binding or a VM.
pub(super) async fn explain(state: &AgentState, key: &str) -> Result<ExplainAnswer, ApiError> {
    let report = state.report();
    let facts = state.facts.borrow().clone();
    let items = lookup::meant(&report, &facts, key)?;
    let looked = state.examiner.look(question(&report, &items)).await;
    let now = looked.map_err(|error| ApiError::internal("look at the kernel", &error))?;
    let mut explanations = Vec::new();
    for item in &items {
        let case = Case {
            report: &report,
            settings: &state.settings,
            item,
            now: &now,
            counted: counted(state, item).await?,
            bgp: bgp_route(state, item),
            l2: heard(state, item),
        };
        explanations.push(explanation(&case));
    }
    if let (true, Ok(eip)) = (items.is_empty(), key.parse()) {
        explanations.push(nobody(eip, &report, &state.settings));
    }
    Ok(ExplainAnswer {
        node: state.settings.node_name.clone(),
        explanations,
    })
}

fn bgp_route(state: &AgentState, item: &BindingReport) -> Option<BgpRoute> {
    let mut routes = state.bgp.report().routes.into_iter();
    let route = routes.find(|route| route.eip == item.fact.eip && route.binding == item.fact.name);
    route.as_ref().map(super::bgp::route)
}

fn heard(state: &AgentState, item: &BindingReport) -> Heard {
    let conflicts = state.l2.conflicts();
    Heard {
        conflict: conflicts.get(&item.fact.eip).map(view::conflict),
        problems: state.l2.notices(),
    }
}

async fn counted(state: &AgentState, item: &BindingReport) -> Result<Counted, ApiError> {
    let Some(slot) = item.slot else {
        return Ok(Counted::default());
    };
    super::server::read(state, move |counters| {
        Ok(Counted {
            to_vm: counters.traffic(slot)?.in_packets,
            reasons: counters.binding_reasons(slot)?,
        })
    })
    .await
}

fn question(report: &Report, items: &[&BindingReport]) -> Question {
    let mut question = Question::default();
    for item in items {
        let eip = item.fact.eip;
        question.eips.insert(eip);
        let Some(wanted) = report.desired.bindings.get(&eip) else {
            continue;
        };
        question.vms.insert(wanted.vm);
        question.ways.insert(way_out(eip, wanted.l3));
    }
    if let Some(settings) = &report.settings {
        let gateways = [
            settings.gateway4.map(IpAddr::from),
            settings.gateway6.map(IpAddr::from),
        ];
        question.eips.extend(gateways.into_iter().flatten());
    }
    question
}

/// What the VM sends to the world, as the kernel routes it.
pub(super) const fn way_out(eip: IpAddr, l3: u32) -> Way {
    Way {
        iif: l3,
        from: eip,
        to: if eip.is_ipv4() { OUTSIDE4 } else { OUTSIDE6 },
    }
}

fn explanation(case: &Case<'_>) -> Explanation {
    let chain = chain(case);
    let broken = chain.iter().find(|link| link.state == LinkState::Bad);
    Explanation {
        eip: case.eip(),
        binding: Some(case.item.fact.name.to_string()),
        broken: broken.map(|link| link.name.clone()),
        chain,
    }
}

/// The whole chain. Pure.
pub(super) fn chain(case: &Case<'_>) -> Vec<ChainLink> {
    let mut chain = objects::links(case);
    if let Some(wanted) = case.wanted() {
        chain.extend(kernel::links(case, wanted));
        chain.extend(network::links(case, wanted));
    } else {
        let rest = kernel::NAMES.into_iter().chain(network::NAMES);
        chain.extend(rest.map(|name| skipped(name, "not served here")));
    }
    chain
}

/// An EIP that no object names.
fn nobody(eip: IpAddr, report: &Report, settings: &NodeSettings) -> Explanation {
    let in_range = settings.eip_cidrs.iter().any(|net| net.contains(&eip));
    let unread: BTreeSet<_> = report
        .refused
        .iter()
        .map(|document| document.origin.to_string())
        .collect();
    let mut link = bad(
        objects::BINDING,
        format!("no EipBinding names {eip}"),
        format!("eipctl bind {eip} NAMESPACE/VM"),
    );
    if !in_range {
        link.notes
            .push("it is outside the EIP ranges of this node: `eipctl nets`".to_owned());
    }
    if !unread.is_empty() {
        let unread: Vec<_> = unread.into_iter().collect();
        link.notes.push(format!(
            "documents that could not be read, of which one may be meant for it: {}",
            unread.join(", ")
        ));
    }
    Explanation {
        eip,
        binding: None,
        broken: Some(link.name.clone()),
        chain: vec![link],
    }
}

#[cfg(test)]
mod tests;
