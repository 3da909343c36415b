//! What the objects say, and what was decided from them.

use super::{Case, bad, ok, skipped};
use crate::{
    ctl::api::ChainLink,
    model::{Outcome, RefuseReason, WaitReason},
};

pub(super) const BINDING: &str = "binding";
const VM: &str = "vm";
const DECISION: &str = "decision";

pub(super) fn links(case: &Case<'_>) -> Vec<ChainLink> {
    let (binding, vm) = (binding(case), vm(case));
    let decision = decision(case);
    vec![binding, vm, decision]
}

fn binding(case: &Case<'_>) -> ChainLink {
    let fact = &case.item.fact;
    let origin = fact.origin.as_ref().map(ToString::to_string);
    let origin = origin.unwrap_or_else(|| "its source".to_owned());
    let found = format!(
        "{} wants {} for VM {} ({origin})",
        fact.name, fact.eip, fact.vm
    );
    let mut link = match &case.item.outcome {
        Outcome::Refused { reason, message } => bad(
            BINDING,
            format!("{found}; refused: {message}"),
            cure_of_refusal(*reason),
        ),
        _ => ok(BINDING, found),
    };
    let others = case
        .report
        .bindings
        .iter()
        .filter(|other| other.fact.eip == fact.eip && other.fact.name != fact.name);
    link.notes
        .extend(others.map(|other| format!("{} wants {} too", other.fact.name, fact.eip)));
    if !case.report.facts_complete {
        link.notes
            .push("the source has not been read completely yet".to_owned());
    }
    link
}

const fn cure_of_refusal(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::OutsideEipCidrs => {
            "use an EIP of a range that `eipctl nets` shows, or start the agent with its range in --eip-cidr"
        }
        RefuseReason::InsideBypass => {
            "use another EIP, or take the prefix out of --internal-net: pods and services live in it"
        }
        RefuseReason::IsGateway
        | RefuseReason::IsNetworkAddress
        | RefuseReason::IsBroadcastAddress
        | RefuseReason::IsNodeAddress
        | RefuseReason::NotUnicast => "use another EIP",
        RefuseReason::VmOutsideInternalNets => {
            "start the agent with the VM's network in --internal-net"
        }
        RefuseReason::Conflict => "delete one of the two bindings, or give this one another EIP",
        RefuseReason::VmAddressConflict => {
            "find out which of the two VMs has the address: their status comes from KubeVirt or from the guest agent"
        }
    }
}

fn vm(case: &Case<'_>) -> ChainLink {
    let vm = &case.item.fact.vm;
    match &case.item.outcome {
        Outcome::Served { vm: address, .. } => ok(VM, format!("{vm} runs here with {address}")),
        Outcome::Elsewhere { node } => {
            let mut link = skipped(VM, format!("{vm} runs on {node}, whose agent serves it"));
            link.notes.push(format!(
                "ask there: `eipctl explain {}` on {node}",
                case.eip()
            ));
            link
        }
        Outcome::Waiting { reason, message } => match reason {
            WaitReason::VmNotFound => bad(
                VM,
                message.clone(),
                "create the VM, or correct spec.vmi; it has to be in the binding's namespace",
            ),
            WaitReason::VmNotRunning => bad(
                VM,
                message.clone(),
                "start the VM, or look why it does not run",
            ),
            WaitReason::VmHasNoAddress => bad(
                VM,
                message.clone(),
                "give the VM's pod network an address of that family, or bind an EIP of the other one",
            ),
            WaitReason::InterfaceNotFound => bad(
                VM,
                message.clone(),
                "name one of the VM's networks in spec.interface, or leave it out for the pod network",
            ),
            _ => ok(VM, format!("{vm} runs here")),
        },
        Outcome::Refused { .. } => skipped(VM, "the binding is refused"),
    }
}

fn decision(case: &Case<'_>) -> ChainLink {
    match &case.item.outcome {
        Outcome::Served { note, .. } => served(case, note.as_ref()),
        Outcome::Elsewhere { .. } => skipped(DECISION, "not this node's"),
        Outcome::Refused { .. } => skipped(DECISION, "the binding is refused"),
        Outcome::Waiting { reason, message } => match cure_of_wait(*reason) {
            Some(cure) => bad(DECISION, message.clone(), cure),
            None => skipped(DECISION, "its VM cannot be served yet"),
        },
    }
}

fn served(case: &Case<'_>, note: Option<&String>) -> ChainLink {
    let Some(wanted) = case.wanted() else {
        return bad(
            DECISION,
            "served, but not in the newest plan",
            "wait for the next round: `eipctl status`",
        );
    };
    let lane = eip_common::abi::Delivery::from(wanted.delivery).name();
    let port = case.name_of(wanted.port);
    let mut link = ok(
        DECISION,
        format!("to be served: {} behind {port}, lane {lane}", wanted.vm),
    );
    link.notes.extend(note.cloned());
    if let Some(error) = &case.item.error {
        link = bad(
            DECISION,
            format!("{}, but the kernel refuses it: {error}", link.found),
            "see FAILING in `eipctl status`; the agent tries again by itself",
        );
    }
    link
}

/// For what the node lacks; `None` for what the VM lacks, which stands at its link.
const fn cure_of_wait(reason: WaitReason) -> Option<&'static str> {
    match reason {
        WaitReason::VmNotFound
        | WaitReason::VmNotRunning
        | WaitReason::VmHasNoAddress
        | WaitReason::InterfaceNotFound => None,
        WaitReason::NoRoute => Some(
            "the CNI has no route to the VM's address here: `ip route get` it, look at the VM's pod and the CNI's log",
        ),
        WaitReason::NotLocal => Some(
            "the VM's address is not on this node: its status may be old, or two VMs have the address",
        ),
        WaitReason::PortUnknown => Some(
            "the VM does not answer ARP or neighbour discovery behind its bridge: look inside the VM, then at the bridge's ports",
        ),
        WaitReason::PortUnsupported => Some("use a CNI whose ports are Ethernet interfaces"),
    }
}
