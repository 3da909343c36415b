//! The routes of the control socket. Access is decided by the socket's file mode: who may open it
//! may do everything.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{Method, StatusCode, Uri},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{net::UnixListener, sync::watch};

use super::{
    api::{
        BgpRoutes, BgpStatus, BindAnswer, BindBody, Binding, BindingList, ExplainAnswer, NetList,
        ReasonCounter, ReasonList, Status, TraceAnswer, TraceBody, UnbindAnswer,
    },
    bgp, binding,
    dump::{Dump, dump},
    error::ApiError,
    explain,
    follow::{self, FollowQuery},
    grpc, lookup,
    state::AgentState,
    status::status,
    trace, view,
};
use crate::{
    conditions::Network,
    dataplane::{Counters, DataPlaneError},
    report::BindingReport,
};

type Shared = State<Arc<AgentState>>;
type Answer<T> = Result<Json<T>, ApiError>;

/// Serves until `stop` is true. Requests in flight are answered.
///
/// # Errors
/// The listener does not work any more.
pub async fn serve(
    listener: UnixListener,
    state: Arc<AgentState>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let followers = Arc::clone(&state.followers);
    let stopped = async move {
        let _sender_gone = stop.wait_for(|stop| *stop).await.is_err();
        followers.close();
    };
    axum::serve(listener, router(state))
        .with_graceful_shutdown(stopped)
        .await
}

/// All routes.
pub fn router(state: Arc<AgentState>) -> Router {
    Router::new()
        .route("/v1/status", get(get_status))
        .route("/v1/bindings", get(list_bindings).post(bind))
        .route("/v1/bindings/{key}", get(get_binding).delete(unbind))
        .route("/v1/drops", get(get_reasons))
        .route("/v1/drops/follow", get(get_samples))
        .route("/v1/explain/{key}", get(get_explanation))
        .route("/v1/trace", post(post_trace))
        .route("/v1/nets", get(get_nets))
        .route("/v1/bgp", get(get_bgp))
        .route("/v1/bgp/routes", get(get_bgp_routes))
        .route("/v1/drain", post(drain).delete(undrain))
        .route("/v1/dump", get(get_dump))
        .merge(grpc::router())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(state)
}

async fn get_status(State(state): Shared) -> Json<Status> {
    Json(status(&state))
}

async fn list_bindings(State(state): Shared) -> Json<BindingList> {
    let report = state.report();
    let mut bindings = view::bindings(&report);
    let network = Network::look(&state.bgp, &state.l2);
    view::add_conditions(&mut bindings, &report, &network);
    view::add_conflicts(&mut bindings, &state.l2.conflicts());
    Json(BindingList { bindings })
}

async fn get_binding(State(state): Shared, Path(key): Path<String>) -> Answer<Binding> {
    let report = state.report();
    let item = lookup::find(&report, &key)?;
    let mut binding = view::binding(&report, item);
    let mut routes = state.bgp.report().routes.into_iter();
    let route = routes.find(|route| route.eip == item.fact.eip && route.binding == item.fact.name);
    binding.bgp = route.as_ref().map(bgp::route);
    let network = Network::look(&state.bgp, &state.l2);
    view::add_conditions(std::slice::from_mut(&mut binding), &report, &network);
    view::add_conflicts(std::slice::from_mut(&mut binding), &state.l2.conflicts());
    if let Some(slot) = item.slot {
        let traffic = read(&state, move |counters| counters.traffic(slot)).await?;
        binding.traffic = Some(view::traffic(traffic));
        binding.reasons = Some(reasons_of(&state, item, slot).await?);
    }
    Ok(Json(binding))
}

async fn bind(
    State(state): Shared,
    body: Bytes,
) -> Result<(StatusCode, Json<BindAnswer>), ApiError> {
    let body: BindBody = serde_json::from_slice(&body).map_err(|cause| {
        ApiError::new(StatusCode::BAD_REQUEST, "the body is no binding").cause(cause.to_string())
    })?;
    Ok((
        StatusCode::CREATED,
        Json(binding::bind(&state, body).await?),
    ))
}

async fn unbind(State(state): Shared, Path(key): Path<String>) -> Answer<UnbindAnswer> {
    binding::unbind(&state, &key).await.map(Json)
}

#[derive(Debug, Deserialize)]
struct ReasonQuery {
    eip: Option<String>,
}

async fn get_reasons(State(state): Shared, Query(query): Query<ReasonQuery>) -> Answer<ReasonList> {
    let Some(key) = query.eip else {
        let reasons = read(&state, |counters| counters.reasons()).await?;
        return Ok(Json(ReasonList {
            eip: None,
            reasons: view::reasons(reasons),
        }));
    };
    let report = state.report();
    let item = lookup::find(&report, &key)?;
    let eip: IpAddr = item.fact.eip;
    let Some(slot) = item.slot else {
        return Err(not_programmed(&view::binding(&report, item)));
    };
    Ok(Json(ReasonList {
        eip: Some(eip),
        reasons: reasons_of(&state, item, slot).await?,
    }))
}

async fn reasons_of(
    state: &AgentState,
    item: &BindingReport,
    slot: u32,
) -> Result<Vec<ReasonCounter>, ApiError> {
    let reasons = read(state, move |counters| counters.binding_reasons(slot)).await?;
    let port = item.programmed.as_ref().map(|programmed| programmed.port);
    let sent = match port {
        Some(port) => read(state, move |counters| counters.port_reasons(port)).await?,
        None => Vec::new(),
    };
    Ok(view::reasons_of(reasons, sent))
}

async fn get_samples(
    State(state): Shared,
    Query(query): Query<FollowQuery>,
) -> Result<Body, ApiError> {
    follow::follow(&state, &query)
}

fn not_programmed(binding: &Binding) -> ApiError {
    let state = binding.state.name();
    let error = ApiError::new(
        StatusCode::CONFLICT,
        format!(
            "{} is not in the kernel, so nothing is counted for it: {state}",
            binding.eip
        ),
    );
    match &binding.message {
        Some(message) => error.cause(message.clone()),
        None => error,
    }
}

async fn get_explanation(State(state): Shared, Path(key): Path<String>) -> Answer<ExplainAnswer> {
    explain::explain(&state, &key).await.map(Json)
}

async fn post_trace(State(state): Shared, body: Bytes) -> Answer<TraceAnswer> {
    let body: TraceBody = serde_json::from_slice(&body).map_err(|cause| {
        ApiError::new(StatusCode::BAD_REQUEST, "the body is no packet").cause(cause.to_string())
    })?;
    trace::trace(&state, body).await.map(Json)
}

async fn get_bgp(State(state): Shared) -> Json<BgpStatus> {
    Json(bgp::status(&state.bgp.report()))
}

async fn get_bgp_routes(State(state): Shared) -> Json<BgpRoutes> {
    Json(bgp::routes(&state.bgp.report()))
}

async fn drain(State(state): Shared, body: Bytes) -> Answer<BgpStatus> {
    let body = serde_json::from_slice(&body).map_err(|cause| {
        ApiError::new(StatusCode::BAD_REQUEST, "the body is no drain").cause(cause.to_string())
    })?;
    bgp::drain(&state, body).map(Json)
}

async fn undrain(State(state): Shared) -> Answer<BgpStatus> {
    bgp::undrain(&state).map(Json)
}

async fn get_nets(State(state): Shared) -> Json<NetList> {
    Json(NetList {
        nets: view::nets(&state.report()),
    })
}

async fn get_dump(State(state): Shared) -> Answer<Dump> {
    let reasons = read(&state, |counters| counters.reasons()).await?;
    Ok(Json(dump(&state, reasons)))
}

async fn no_such_path(uri: Uri) -> ApiError {
    let hint = "eipctl and eip-daemon may be of different versions";
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("no such path: {}", uri.path()),
    )
    .hint(hint)
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let text = format!("{method} does not work on {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// Reads counters where a blocking system call stalls nobody.
pub(super) async fn read<T: Send + 'static>(
    state: &AgentState,
    look: impl FnOnce(&dyn Counters) -> Result<T, DataPlaneError> + Send + 'static,
) -> Result<T, ApiError> {
    const DOING: &str = "read the kernel's counters";
    let counters = Arc::clone(&state.counters);
    match tokio::task::spawn_blocking(move || look(counters.as_ref())).await {
        Ok(done) => done.map_err(|error| ApiError::internal(DOING, &error)),
        Err(panicked) => Err(ApiError::internal(DOING, &panicked)),
    }
}
