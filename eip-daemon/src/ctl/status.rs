//! The answer to "how is this node?".

use eip_common::{abi, reason::Hook};

use super::{api, state::AgentState, state::readiness, view};
use crate::{
    announce::bgp::{SessionSnapshot, State},
    dataplane::inspect::Attachment,
    model::NetworkView,
    report::Report,
};

pub(super) fn status(state: &AgentState) -> api::Status {
    let report = state.report();
    let not_ready = readiness(&report).err();
    let settings = &state.settings;
    let (maps, map_notice) = map_fill(state);
    let notices = state
        .notices
        .iter()
        .cloned()
        .chain(state.inspector.notices())
        .chain(state.l2.notices())
        .chain(map_notice);
    api::Status {
        node: settings.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi_version: abi::ABI_VERSION,
        source: state.source.to_string(),
        since: state.started.rfc3339(),
        uptime_seconds: state.started.age().as_secs(),
        ready: not_ready.is_none(),
        not_ready,
        in_sync: report.in_sync,
        rounds: report.rounds,
        repairs: report.repairs,
        last_round_us: u64::try_from(report.last_round.as_micros()).unwrap_or(u64::MAX),
        round_error: report.round_error.clone(),
        announce: settings.announce,
        uplinks: uplinks(state, &report),
        gateway4: settings.gateway4.map(Into::into),
        gateway6: settings.gateway6.map(Into::into),
        bindings: counts(&report),
        policy: view::node_policy(&report),
        failing: report.failing.iter().map(failing).collect(),
        refused_documents: report.refused.iter().map(refused).collect(),
        notices: notices.collect(),
        maps,
        bgp: bgp(state),
    }
}

fn bgp(state: &AgentState) -> api::BgpSummary {
    let report = state.bgp.report();
    let sessions = report.peers.iter().map(|peer| &peer.status.session);
    let is_up = |session: &&SessionSnapshot| session.state == State::Established;
    api::BgpSummary {
        peers: report.peers.len(),
        established: sessions.filter(is_up).count(),
        refused: report.refused.len(),
        drained: report.drain.is_some(),
        problem: report.problem,
    }
}

fn counts(report: &Report) -> std::collections::BTreeMap<String, usize> {
    view::phases(report)
        .into_iter()
        .map(|(phase, count)| (phase.name().to_owned(), count))
        .collect()
}

fn map_fill(state: &AgentState) -> (Vec<api::MapFill>, Option<String>) {
    match state.inspector.map_fill() {
        Ok(maps) => (maps.into_iter().map(fill).collect(), None),
        Err(error) => {
            let cause = super::error::chain(&error);
            (
                Vec::new(),
                Some(format!("the maps could not be read: {cause}")),
            )
        }
    }
}

fn fill(fill: crate::dataplane::inspect::MapFill) -> api::MapFill {
    api::MapFill {
        map: fill.map.to_owned(),
        entries: fill.entries,
        capacity: fill.capacity,
    }
}

fn uplinks(state: &AgentState, report: &Report) -> Vec<api::UplinkStatus> {
    let attachments = state.inspector.attachments();
    let names = state.settings.uplinks.iter();
    names
        .map(|name| uplink(name, &report.view, &attachments))
        .collect()
}

fn uplink(name: &str, view: &NetworkView, attachments: &[Attachment]) -> api::UplinkStatus {
    let link = view.links.values().find(|link| link.name == name);
    let mode = |hook: Hook| {
        let is_it = |at: &&Attachment| at.hook == hook && at.interface == name;
        attachments
            .iter()
            .find(is_it)
            .map(|at| at.mode.name().to_owned())
    };
    api::UplinkStatus {
        name: name.to_owned(),
        present: link.is_some(),
        up: link.is_some_and(|link| link.is_up),
        mtu: link.map(|link| link.mtu),
        mac: link.and_then(|link| link.mac).map(view::mac),
        xdp: mode(Hook::UplinkXdp),
        tc: mode(Hook::UplinkTc),
    }
}

fn failing(change: &crate::report::FailingAction) -> api::FailingChange {
    api::FailingChange {
        action: change.action.clone(),
        eip: change.eip,
        error: change.error.clone(),
        attempts: change.attempts,
    }
}

fn refused(document: &crate::model::RefusedDocument) -> api::RefusedDocument {
    api::RefusedDocument {
        origin: document.origin.to_string(),
        object: document.name.as_ref().map(ToString::to_string),
        problem: document.problem.clone(),
    }
}
