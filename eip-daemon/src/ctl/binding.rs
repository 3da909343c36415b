//! `bind` and `unbind`: judge first, write the object, wait for what becomes of it.
//!
//! An object that would be refused is not written. One that is written stays, also when its VM
//! cannot be served yet: it takes the way of every other object from here on, and survives a
//! restart with them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{sync::watch, time::timeout};

use super::{
    api::{BindAnswer, BindBody, BindingPhase, UnbindAnswer},
    error::{ApiError, chain},
    lookup,
    state::AgentState,
    view,
};
use crate::{
    config::SourceSpec,
    desired,
    model::{BindingFact, Facts, ObjectName, Outcome},
    report::{BindingReport, Report},
    source::local::{self, BindRequest, LocalError, Target},
};

/// Longest wait for an outcome.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Wait for a removed object to leave the kernel.
const UNBIND_WAIT: Duration = Duration::from_secs(5);

/// Writes a binding and waits for what becomes of it.
pub(super) async fn bind(state: &AgentState, body: BindBody) -> Result<BindAnswer, ApiError> {
    let wait = Duration::from_millis(body.wait_ms).min(WAIT_MAX);
    write(state, request(body), wait).await
}

/// As [`bind`], for a request that is made already.
pub(super) async fn write(
    state: &AgentState,
    request: BindRequest,
    wait: Duration,
) -> Result<BindAnswer, ApiError> {
    refuse_other_meaning(&state.report(), &request)?;
    judge(state, &request)?;
    let directory = directory(&state.source)?.to_owned();
    let written = request.clone();
    let file = blocking(move || local::bind(&directory, &written)).await?;
    let binding = settled(state.reports.clone(), &request, wait).await;
    Ok(BindAnswer {
        file: file.display().to_string(),
        binding,
    })
}

fn request(body: BindBody) -> BindRequest {
    let namespace = body.namespace.unwrap_or_else(|| "default".to_owned());
    let name = body.name.unwrap_or_else(|| local::object_name(body.eip));
    BindRequest {
        name: ObjectName { namespace, name },
        eip: body.eip,
        target: Target::Vm(body.vm),
        primary: body.primary,
        delivery: body.delivery,
        announce: body.announce,
    }
}

/// `bind` may repeat or refine an object, but never silently moves an EIP to another VM.
fn refuse_other_meaning(report: &Report, request: &BindRequest) -> Result<(), ApiError> {
    let Some(existing) = by_name(report, &request.name) else {
        return Ok(());
    };
    let fact = &existing.fact;
    if fact.eip == request.eip && request.target.is_of(fact) {
        return Ok(());
    }
    let text = format!(
        "{} already binds {} to {}",
        request.name, fact.eip, fact.vm.name
    );
    let hint = format!(
        "`eipctl unbind {}` first, or choose another --name",
        request.name
    );
    Err(ApiError::new(StatusCode::CONFLICT, text).hint(hint))
}

fn by_name<'a>(report: &'a Report, name: &ObjectName) -> Option<&'a BindingReport> {
    report.bindings.iter().find(|item| item.fact.name == *name)
}

/// Asks the same function that will decide about the object whether it would be refused.
fn judge(state: &AgentState, request: &BindRequest) -> Result<(), ApiError> {
    let report = state.report();
    let facts = with_request(&state.facts.borrow(), request);
    let desired = desired::compute(&facts, &state.settings, &report.view);
    let Some(Outcome::Refused { message, .. }) = desired.outcomes.get(&request.name) else {
        return Ok(());
    };
    let text = format!(
        "{} cannot be bound to {}",
        request.eip,
        request.target.name()
    );
    let hint = "nothing was written; `eipctl nets` and `eipctl list` show what is possible here";
    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        .cause(message)
        .hint(hint))
}

fn with_request(facts: &Facts, request: &BindRequest) -> Facts {
    let mut facts = facts.clone();
    let vm = ObjectName {
        namespace: request.name.namespace.clone(),
        name: request.target.name(),
    };
    let same = facts
        .bindings
        .iter_mut()
        .find(|fact| fact.name == request.name);
    if let Some(fact) = same {
        fact.primary = request.primary;
        fact.delivery = request.delivery;
        fact.announce = request.announce;
        return facts;
    }
    facts.bindings.push(BindingFact {
        moving: crate::model::Moving::default(),
        name: request.name.clone(),
        eip: request.eip,
        vm,
        kind: request.target.kind(),
        interface: None,
        // `local::bind` stamps the object with the present, which makes it the youngest.
        created: Some(i64::MAX),
        generation: 1,
        primary: request.primary,
        delivery: request.delivery,
        announce: request.announce,
        origin: None,
    });
    facts
}

fn directory(source: &SourceSpec) -> Result<&Path, ApiError> {
    match source {
        SourceSpec::Dir(path) => Ok(path),
        SourceSpec::Kube(_) => {
            let text = "this node's bindings are objects of the cluster";
            let hint = "use kubectl: `kubectl get eipbindings --all-namespaces`";
            Err(ApiError::new(StatusCode::CONFLICT, text).hint(hint))
        }
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<PathBuf, LocalError> + Send + 'static,
) -> Result<PathBuf, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| local_error(&error)),
        Err(panicked) => Err(ApiError::internal("write the object", &panicked)),
    }
}

fn local_error(error: &LocalError) -> ApiError {
    let status = match error {
        LocalError::InvalidName { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        LocalError::Foreign { .. } => StatusCode::CONFLICT,
        LocalError::NotFound { .. } => StatusCode::NOT_FOUND,
        LocalError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, chain(error))
}

/// What becomes of a binding that is written already.
pub(super) async fn awaited(
    state: &AgentState,
    request: &BindRequest,
    wait: Duration,
) -> Option<super::api::Binding> {
    settled(state.reports.clone(), request, wait).await
}

/// What became of the request, or how far it is when the time is over.
async fn settled(
    mut reports: watch::Receiver<Arc<Report>>,
    request: &BindRequest,
    wait: Duration,
) -> Option<super::api::Binding> {
    let show = |report: &Report| seen(report, request).map(|item| view::binding(report, item));
    let is_settled = |report: &Arc<Report>| {
        seen(report, request).is_some_and(|item| is_final(view::phase(report, item)))
    };
    match timeout(wait, reports.wait_for(is_settled)).await {
        Ok(Ok(report)) => return show(&report),
        Ok(Err(_stopped)) => {}
        Err(_elapsed) => {}
    }
    let report = Arc::clone(&reports.borrow());
    show(&report)
}

/// The object in a report, as it is asked for now and not as it was before.
fn seen<'a>(report: &'a Report, request: &BindRequest) -> Option<&'a BindingReport> {
    by_name(report, &request.name).filter(|item| {
        let fact = &item.fact;
        fact.eip == request.eip
            && request.target.is_of(fact)
            && fact.primary == request.primary
            && fact.delivery == request.delivery
            && fact.announce == request.announce
    })
}

/// Waiting and failing may still turn into programmed while somebody watches.
const fn is_final(phase: BindingPhase) -> bool {
    matches!(
        phase,
        BindingPhase::Programmed | BindingPhase::Refused | BindingPhase::Elsewhere
    )
}

/// Removes the object of a binding and waits until the kernel has let go of it.
pub(super) async fn unbind(state: &AgentState, key: &str) -> Result<UnbindAnswer, ApiError> {
    let report = state.report();
    let fact = lookup::find_only(&report, key)?.fact.clone();
    let unprogrammed = remove(state, &fact.name).await?;
    let ObjectName { namespace, name } = fact.name;
    Ok(UnbindAnswer {
        namespace,
        name,
        eip: fact.eip,
        unprogrammed,
    })
}

/// Removes an object; true when the kernel has let go of it too.
pub(super) async fn remove(state: &AgentState, name: &ObjectName) -> Result<bool, ApiError> {
    let directory = directory(&state.source)?.to_owned();
    let written = name.clone();
    blocking(move || local::unbind(&directory, &written)).await?;
    let mut reports = state.reports.clone();
    let is_gone = |report: &Arc<Report>| by_name(report, name).is_none();
    let gone = timeout(UNBIND_WAIT, reports.wait_for(is_gone)).await;
    Ok(matches!(gone, Ok(Ok(_))))
}
