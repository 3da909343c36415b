//! Health, readiness and a few numbers of the controller over HTTP.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

/// A loop that has not turned for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the loop says about itself.
#[derive(Debug, Default)]
pub(super) struct Health {
    last: Mutex<Option<Beat>>,
    writes: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Instant,
    is_synced: bool,
    leads: bool,
    depth: usize,
}

impl Health {
    pub(super) fn beat(&self, is_synced: bool, leads: bool, depth: usize) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Beat {
            at: Instant::now(),
            is_synced,
            leads,
            depth,
        });
    }

    pub(super) fn wrote(&self, is_good: bool) {
        let counter = if is_good {
            &self.writes
        } else {
            &self.failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn last(&self) -> Option<Beat> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            // A sender that is gone means the same as a request to stop.
            let _gone = stop.wait_for(|stop| *stop).await;
        })
        .await
}

async fn healthz(State(health): State<Arc<Health>>) -> (StatusCode, &'static str) {
    match health.last() {
        Some(beat) if beat.at.elapsed() < PATIENCE => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n"),
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> (StatusCode, &'static str) {
    match health.last() {
        Some(beat) if beat.is_synced => (StatusCode::OK, "ok\n"),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not every kind of object has been read completely yet\n",
        ),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> String {
    let beat = health.last();
    let rows = [
        (
            "eip_controller_leading",
            "gauge",
            "Whether this controller may write.",
            u64::from(beat.is_some_and(|beat| beat.leads)),
        ),
        (
            "eip_controller_queue_depth",
            "gauge",
            "Bindings that wait for a look or a write.",
            beat.map_or(0, |beat| beat.depth as u64),
        ),
        (
            "eip_controller_writes_total",
            "counter",
            "Writes to the API server that worked.",
            health.writes.load(Ordering::Relaxed),
        ),
        (
            "eip_controller_write_failures_total",
            "counter",
            "Writes to the API server that did not work.",
            health.failures.load(Ordering::Relaxed),
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        // Writing to a string cannot fail.
        let _never = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    }
    text
}
