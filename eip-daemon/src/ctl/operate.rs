//! What the older agent's `EipOperate` means here: an elastic IP and an address become a binding
//! like any other, and what did not work leaves nothing behind.

use std::{fmt, net::IpAddr, time::Duration};

use axum::http::StatusCode;
use tonic::Code;

use super::{api::BindingPhase, binding, error::ApiError, state::AgentState, view::phase};
use crate::{
    desired::pod_addresses,
    model::{BindingFact, Facts, ObjectName, TargetKind, VmPhase},
    report::Report,
    source::local::{self, BindRequest, Target},
};

/// How long a binding may take to be in the kernel. The older `eipctl` waits ten seconds.
const WAIT: Duration = Duration::from_secs(8);

/// Where something failed, in the older agent's numbers as far as they still mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The request: nothing was done.
    Request,
    /// The translation: the binding did not get into the kernel and was taken back.
    Translation,
    /// The record: the object could not be removed.
    Record,
}

impl Phase {
    pub(super) const fn number(self) -> i32 {
        match self {
            Self::Request => 0,
            Self::Translation => 2,
            Self::Record => 6,
        }
    }
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) phase: Phase,
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    fn new(phase: Phase, code: Code, message: impl Into<String>) -> Self {
        Self {
            phase,
            code,
            message: message.into(),
        }
    }

    fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::new(Phase::Request, code, message)
    }

    fn of(phase: Phase, error: &ApiError) -> Self {
        let code = match error.status() {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::CONFLICT => Code::FailedPrecondition,
            _ => Code::Internal,
        };
        Self::new(phase, code, error.sentence())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Bind,
    Unbind,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    action: Action,
    eip: IpAddr,
    vm: IpAddr,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, eip, vm } = self;
        match action {
            Action::Bind => write!(f, "bind {eip} to {vm}"),
            Action::Unbind => write!(f, "unbind {eip} from {vm}"),
        }
    }
}

impl Operation {
    /// From the words of a request.
    pub(super) fn read(action: &str, eip: &str, vm: &str) -> Result<Self, Failure> {
        let invalid = |text: String| Failure::refused(Code::InvalidArgument, text);
        let action = match action {
            "bind" => Action::Bind,
            "unbind" => Action::Unbind,
            other => {
                let text = format!("action {other:?} is neither \"bind\" nor \"unbind\"");
                return Err(invalid(text));
            }
        };
        let address = |field: &str, text: &str| {
            let parsed: Result<IpAddr, _> = text.parse();
            parsed.map_err(|_| invalid(format!("{field} {text:?} is no IP address")))
        };
        let (eip, vm) = (address("eipAddr", eip)?, address("vmiAddr", vm)?);
        if eip.is_ipv4() != vm.is_ipv4() {
            let text = format!("{eip} and {vm} are of different families");
            return Err(invalid(text));
        }
        Ok(Self { action, eip, vm })
    }
}

/// Does it, and returns when it is done.
pub(super) async fn operate(state: &AgentState, operation: Operation) -> Result<(), Failure> {
    let _turn = state.turn.lock().await;
    if !state.report().facts_complete {
        let text = "the agent has just started and has not read its source yet: try again";
        return Err(Failure::refused(Code::Unavailable, text));
    }
    let Operation { action, eip, vm } = operation;
    match action {
        Action::Bind => bind(state, eip, vm).await,
        Action::Unbind => unbind(state, eip, vm).await,
    }
}

async fn bind(state: &AgentState, eip: IpAddr, vm: IpAddr) -> Result<(), Failure> {
    let holder = holder(&state.report(), eip);
    if let Some(holder) = &holder
        && leads_to(&state.facts.borrow(), holder, vm) == Some(false)
    {
        let text = format!(
            "{eip} is bound to {} by {}: unbind it first",
            holder.vm.name, holder.name
        );
        return Err(Failure::refused(Code::AlreadyExists, text));
    }
    let request = match &holder {
        Some(fact) => repeated(fact, vm),
        None => request(&state.facts.borrow(), &state.settings.node_name, eip, vm),
    };
    let name = request.name.clone();
    let answer = if holder.is_some() {
        binding::awaited(state, &request, WAIT).await
    } else {
        let written = binding::write(state, request, WAIT).await;
        written
            .map_err(|error| Failure::of(Phase::Request, &error))?
            .binding
    };
    let why = match answer {
        Some(binding) if binding.state == BindingPhase::Programmed => return Ok(()),
        Some(binding) => {
            let message = binding.message.unwrap_or_default();
            format!("{eip} is {}: {message}", binding.state.name())
        }
        None => format!("{eip} has not been looked at within {} s", WAIT.as_secs()),
    };
    // What was there before this call is not this call's to take away.
    if holder.is_none() {
        let removed = binding::remove(state, &name).await;
        removed.map_err(|error| Failure::of(Phase::Record, &error))?;
    }
    Err(Failure::new(
        Phase::Translation,
        Code::FailedPrecondition,
        why,
    ))
}

/// Pairs that are not bound are as the caller wants them: a repeated request succeeds.
async fn unbind(state: &AgentState, eip: IpAddr, vm: IpAddr) -> Result<(), Failure> {
    let report = state.report();
    let named: Vec<ObjectName> = {
        let facts = state.facts.borrow();
        let of_eip = report.bindings.iter().filter(|item| item.fact.eip == eip);
        of_eip
            .filter(|item| leads_to(&facts, &item.fact, vm) != Some(false))
            .map(|item| item.fact.name.clone())
            .collect()
    };
    for name in named {
        let removed = binding::remove(state, &name).await;
        if !removed.map_err(|error| Failure::of(Phase::Record, &error))? {
            let text = format!("{name} is removed, but {eip} has not left the kernel yet");
            return Err(Failure::new(
                Phase::Translation,
                Code::DeadlineExceeded,
                text,
            ));
        }
    }
    Ok(())
}

/// The binding that has the elastic IP, if one has.
fn holder(report: &Report, eip: IpAddr) -> Option<BindingFact> {
    let of_eip = report.bindings.iter().filter(|item| item.fact.eip == eip);
    of_eip
        .filter(|item| phase(report, item) != BindingPhase::Refused)
        .map(|item| item.fact.clone())
        .next()
}

/// Whether a binding is one to this address; `None` when the address of its VM is not known.
fn leads_to(facts: &Facts, fact: &BindingFact, address: IpAddr) -> Option<bool> {
    if let TargetKind::Address(bound) = fact.kind {
        return Some(bound == address);
    }
    let vm = facts.vms.iter().find(|vm| vm.name == fact.vm)?;
    let mut of_family = pod_addresses(vm).filter(|other| other.is_ipv4() == address.is_ipv4());
    of_family.next().map(|other| other == address)
}

/// A binding to the VM that has the address here, if objects say so, else to the address itself.
fn request(facts: &Facts, node: &str, eip: IpAddr, address: IpAddr) -> BindRequest {
    let mut here = facts.vms.iter().filter(|vm| {
        vm.phase == VmPhase::Running
            && vm.node.as_deref() == Some(node)
            && pod_addresses(vm).any(|other| other == address)
    });
    let (namespace, target) = match here.next() {
        Some(vm) => (vm.name.namespace.clone(), Target::from(&vm.name)),
        None => ("default".to_owned(), Target::Address(address)),
    };
    BindRequest {
        name: ObjectName {
            namespace,
            name: local::object_name(eip),
        },
        eip,
        target,
        primary: false,
        delivery: None,
        announce: None,
    }
}

/// What a binding that is there already asks for.
fn repeated(fact: &BindingFact, address: IpAddr) -> BindRequest {
    BindRequest {
        name: fact.name.clone(),
        eip: fact.eip,
        target: match fact.kind {
            TargetKind::Vm | TargetKind::Pod => Target::from(&fact.vm),
            TargetKind::Address(_) => Target::Address(address),
        },
        primary: fact.primary,
        delivery: fact.delivery,
        announce: fact.announce,
    }
}
