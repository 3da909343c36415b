//! Metrics, health, readiness and the log level over HTTP; on loopback unless told otherwise.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    ctl::state::{AgentState, readiness},
    logging::LogLevel,
    metrics,
    report::Report,
};

/// When the reconciler last ended a round.
#[derive(Debug)]
pub struct Pulse {
    last: Mutex<Instant>,
    patience: Duration,
}

impl Pulse {
    /// A pulse that counts as lost after `patience` without a round.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            patience,
        }
    }

    /// Follows the reports until `stop` is true or there are no more.
    pub async fn follow(
        &self,
        mut reports: watch::Receiver<Arc<Report>>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = reports.changed() => if changed.is_err() { return },
            }
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// Time since the last round, when that is too long.
    fn silence(&self) -> Option<Duration> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Some(last.elapsed()).filter(|silence| *silence > self.patience)
    }
}

/// What the routes work with.
#[derive(Debug, Clone)]
pub struct HttpState {
    /// The agent.
    pub agent: Arc<AgentState>,
    /// Its pulse.
    pub pulse: Arc<Pulse>,
    /// Its log filter.
    pub log_level: LogLevel,
}

/// Serves until `stop` is true.
///
/// # Errors
/// The listener does not work any more.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let stopped = async move {
        let _sender_gone = stop.wait_for(|stop| *stop).await.is_err();
    };
    axum::serve(listener, router(state))
        .with_graceful_shutdown(stopped)
        .await
}

fn router(state: HttpState) -> Router {
    Router::new()
        .route("/metrics", get(get_metrics))
        .route("/healthz", get(get_health))
        .route("/readyz", get(get_readiness))
        .route("/log-level", get(get_log_level).put(put_log_level))
        .with_state(state)
}

async fn get_metrics(State(state): State<HttpState>) -> Response {
    match tokio::task::spawn_blocking(move || metrics::scrape(state.agent)).await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Ok(Err(_)) | Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n").into_response(),
    }
}

/// Alive: the reconciler goes round. A kernel that cannot be read is no reason for a restart.
async fn get_health(State(state): State<HttpState>) -> (StatusCode, String) {
    match state.pulse.silence() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(silence) => {
            let text = format!("no round has ended for {} s\n", silence.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn get_readiness(State(state): State<HttpState>) -> (StatusCode, String) {
    match readiness(&state.agent.report()) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        ),
    }
}

async fn get_log_level(State(state): State<HttpState>) -> String {
    format!("{}\n", state.log_level.get())
}

async fn put_log_level(State(state): State<HttpState>, text: String) -> (StatusCode, String) {
    let before = state.log_level.get();
    match state.log_level.set(text.trim()) {
        Ok(()) => {
            let filter = state.log_level.get();
            tracing::warn!(before, filter, "log filter changed");
            (StatusCode::OK, format!("{filter}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc, time::Duration};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::{HttpState, Pulse, serve};
    use crate::{ctl::fixture, logging, report::Report};

    /// A server of its own, and everything that must live as long.
    struct Server {
        address: SocketAddr,
        reports: watch::Sender<Arc<Report>>,
        _layer: Box<dyn std::any::Any>,
        _stop: watch::Sender<bool>,
    }

    async fn server(patience: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (agent, reports) = fixture::agent();
        let (layer, log_level) = logging::tests::detached("info");
        let state = HttpState {
            agent,
            pulse: Arc::new(Pulse::new(patience)),
            log_level,
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, state, stopped));
        Server {
            address,
            reports,
            _layer: Box::new(layer),
            _stop: stop,
        }
    }

    /// Status code and body of one request, written out by hand.
    async fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Takes something away from a report of a node that is ready.
    type Spoil = fn(&mut Report);

    const PATIENT: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn metrics_are_served_in_their_own_media_type() {
        let server = server(PATIENT).await;
        let (code, body) = ask(&server, "GET", "/metrics", "").await;
        assert_eq!(code, 200);
        assert!(body.contains("eip_in_sync 0"), "{body}");
    }

    #[tokio::test]
    async fn a_silent_reconciler_is_not_healthy() {
        let (code, _) = ask(&server(PATIENT).await, "GET", "/healthz", "").await;
        assert_eq!(code, 200);
        let (code, body) = ask(&server(Duration::ZERO).await, "GET", "/healthz", "").await;
        assert_eq!(code, 503);
        assert!(body.contains("no round has ended"), "{body}");
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing() {
        let server = server(PATIENT).await;
        assert_eq!(
            ask(&server, "GET", "/readyz", "").await.0,
            200,
            "a failing binding is tried"
        );
        let cases: [(&str, Spoil, &str); 4] = [
            (
                "no round",
                |report| report.rounds = 0,
                "no round has ended yet",
            ),
            (
                "facts",
                |report| report.facts_complete = false,
                "not been read completely",
            ),
            (
                "round",
                |report| report.round_error = Some("netlink".into()),
                "read: netlink",
            ),
            (
                "pending",
                |report| report.bindings[0].programmed = None,
                "1 bindings are not",
            ),
        ];
        for (name, spoil, expected) in cases {
            let mut report = fixture::report();
            spoil(&mut report);
            server.reports.send_replace(Arc::new(report));
            let (code, body) = ask(&server, "GET", "/readyz", "").await;
            assert_eq!(code, 503, "{name}");
            assert!(body.contains(expected), "{name}: {body}");
        }
    }

    #[tokio::test]
    async fn the_log_level_can_be_read_and_changed() {
        let server = server(PATIENT).await;
        assert_eq!(
            ask(&server, "GET", "/log-level", "").await,
            (200, "info\n".into())
        );
        assert_eq!(
            ask(&server, "PUT", "/log-level", "debug\n").await,
            (200, "debug\n".into())
        );
        let (code, body) = ask(&server, "PUT", "/log-level", "eip=loud").await;
        assert_eq!(code, 400);
        assert!(body.contains("is no log filter"), "{body}");
        assert_eq!(
            ask(&server, "GET", "/log-level", "").await,
            (200, "debug\n".into())
        );
        assert_eq!(ask(&server, "POST", "/log-level", "").await.0, 405);
    }

    #[tokio::test]
    async fn the_pulse_follows_the_reports() {
        let pulse = Arc::new(Pulse::new(Duration::from_millis(200)));
        let (sender, reports) = watch::channel(Arc::new(Report::default()));
        let (_stop, stopped) = watch::channel(false);
        let followed = Arc::clone(&pulse);
        let task = tokio::spawn(async move { followed.follow(reports, stopped).await });
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(pulse.silence().is_some());
        sender.send_replace(Arc::new(Report::default()));
        tokio::time::timeout(Duration::from_secs(5), async {
            while pulse.silence().is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        drop(sender);
        task.await.unwrap();
    }
}
