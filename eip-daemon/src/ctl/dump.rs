//! The whole state in one JSON object: for bug reports, and to compare with a map dump.
//!
//! `status` and `bindings` are the stable types of [`super::api`]. Everything else shows the
//! agent's own model as it is in this version.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{api, state::AgentState, status::status, view};
use crate::{
    dataplane::{ReasonCount, inspect::Attachment},
    model::{
        BindingState, DefaultRoute, Desired, Facts, GatewayState, HostRoute, Link, NetState,
        NetworkView, NodeAddress, NodeSettings, Observed, PolicyRule, RouteTo, TableDefault,
        UplinkState, VmState,
    },
    report::Report,
};

/// Answer of `GET /v1/dump`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dump {
    status: api::Status,
    settings: NodeSettings,
    bindings: Vec<api::Binding>,
    reasons: Vec<api::ReasonCounter>,
    attachments: Vec<Attached>,
    facts: Facts,
    desired: Kernel,
    observed: Kernel,
    node: Node,
}

/// One program on one interface.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Attached {
    interface: String,
    ifindex: u32,
    hook: &'static str,
    mode: &'static str,
    link_id: Option<u32>,
    program_id: u32,
}

/// Everything of ours in the kernel, wanted or found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    eips: BTreeMap<IpAddr, Slotted<BindingState>>,
    vms: BTreeMap<IpAddr, Slotted<VmState>>,
    nets: BTreeMap<IpNet, NetState>,
    gateway: Option<GatewayState>,
    uplinks: BTreeMap<u32, UplinkState>,
    ports: Vec<u32>,
    leftovers: Vec<u32>,
    routes: Vec<HostRoute>,
    rules: Vec<PolicyRule>,
    table_defaults: Vec<TableDefault>,
}

/// A map value with its counter slot, which only what is in the kernel has.
#[derive(Debug, Serialize)]
struct Slotted<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    #[serde(flatten)]
    state: T,
}

/// The node as it was seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    links: Vec<Link>,
    addresses: Vec<NodeAddress>,
    neighbours: Vec<Neighbour>,
    bridge_ports: Vec<BridgePort>,
    routes: BTreeMap<IpAddr, RouteTo>,
    default_routes: Vec<DefaultRoute>,
    foreign_egress: Vec<u32>,
    xdp_ports: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Neighbour {
    ifindex: u32,
    address: IpAddr,
    mac: String,
}

#[derive(Debug, Serialize)]
struct BridgePort {
    bridge: u32,
    mac: String,
    port: u32,
}

/// Everything, from one report.
pub(super) fn dump(state: &AgentState, reasons: Vec<ReasonCount>) -> Dump {
    let report: &Report = &state.report();
    Dump {
        status: status(state),
        settings: state.settings.as_ref().clone(),
        bindings: view::bindings(report),
        reasons: view::reasons(reasons),
        attachments: state
            .inspector
            .attachments()
            .into_iter()
            .map(attached)
            .collect(),
        facts: state.facts.borrow().clone(),
        desired: desired(&report.desired),
        observed: observed(&report.observed),
        node: node(&report.view),
    }
}

/// Writes what `eipctl dump` prints to a file beside the control socket, for root only, whenever the process
/// gets SIGUSR1: for an agent that answers nobody any more.
///
/// # Errors
/// The signal cannot be received. A file that cannot be written is logged.
pub async fn on_signal(
    state: Arc<AgentState>,
    file: PathBuf,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            Some(()) = asked.recv() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let (state, file) = (Arc::clone(&state), file.clone());
        let written = tokio::task::spawn_blocking(move || write(&state, &file)).await;
        match written {
            Ok(Ok(file)) => tracing::info!(file, "state written"),
            Ok(Err(error)) => tracing::warn!(%error, "the state cannot be written"),
            Err(error) => tracing::warn!(%error, "the state cannot be written"),
        }
    }
}

/// A reader sees the last whole one.
fn write(state: &AgentState, file: &Path) -> io::Result<String> {
    // Counters that cannot be read leave the rest worth reading.
    let reasons = state.counters.reasons().unwrap_or_default();
    let text = serde_json::to_vec_pretty(&dump(state, reasons))?;
    let new = file.with_extension("new");
    let options = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new);
    options?.write_all(&text)?;
    fs::rename(&new, file)?;
    Ok(file.display().to_string())
}

fn attached(at: Attachment) -> Attached {
    Attached {
        interface: at.interface,
        ifindex: at.ifindex,
        hook: at.hook.name(),
        mode: at.mode.name(),
        link_id: at.link_id,
        program_id: at.program_id,
    }
}

fn desired(desired: &Desired) -> Kernel {
    let wanted = |state: &_| Slotted {
        slot: None,
        state: BindingState::clone(state),
    };
    let wanted_vm = |state: &_| Slotted {
        slot: None,
        state: VmState::clone(state),
    };
    Kernel {
        eips: desired
            .bindings
            .iter()
            .map(|(eip, state)| (*eip, wanted(state)))
            .collect(),
        vms: desired
            .vms
            .iter()
            .map(|(vm, state)| (*vm, wanted_vm(state)))
            .collect(),
        nets: desired.nets.clone(),
        gateway: Some(desired.gateway.clone()),
        uplinks: desired.uplinks.clone(),
        ports: desired.ports.iter().copied().collect(),
        leftovers: Vec::new(),
        routes: desired.routes.iter().cloned().collect(),
        rules: desired.rules.iter().cloned().collect(),
        table_defaults: desired.table_defaults.iter().cloned().collect(),
    }
}

fn observed(observed: &Observed) -> Kernel {
    Kernel {
        eips: observed
            .bindings
            .iter()
            .map(|(eip, found)| (*eip, slotted(found)))
            .collect(),
        vms: observed
            .vms
            .iter()
            .map(|(vm, found)| (*vm, slotted(found)))
            .collect(),
        nets: observed.nets.clone(),
        gateway: observed.gateway.clone(),
        uplinks: observed.uplinks.clone(),
        ports: observed.ports.iter().copied().collect(),
        leftovers: observed.leftovers.iter().copied().collect(),
        routes: observed.routes.iter().cloned().collect(),
        rules: observed.rules.iter().cloned().collect(),
        table_defaults: observed.table_defaults.iter().cloned().collect(),
    }
}

fn slotted<T: Clone>((state, slot): &(T, u32)) -> Slotted<T> {
    Slotted {
        slot: Some(*slot),
        state: state.clone(),
    }
}

fn node(view: &NetworkView) -> Node {
    let neighbours = view
        .neighbours
        .iter()
        .map(|(&(ifindex, address), mac)| Neighbour {
            ifindex,
            address,
            mac: view::mac(*mac),
        });
    let bridge_ports = view
        .bridge_ports
        .iter()
        .map(|(&(bridge, mac), &port)| BridgePort {
            bridge,
            mac: view::mac(mac),
            port,
        });
    Node {
        links: view.links.values().cloned().collect(),
        addresses: view.addresses.clone(),
        neighbours: neighbours.collect(),
        bridge_ports: bridge_ports.collect(),
        routes: view.routes.clone(),
        default_routes: view.default_routes.clone(),
        foreign_egress: view.foreign_egress.iter().copied().collect(),
        xdp_ports: view.xdp_ports.iter().copied().collect(),
    }
}
