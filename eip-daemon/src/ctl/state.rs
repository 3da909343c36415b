//! What the control socket and the HTTP server know about the running agent.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Mutex, watch};

use crate::{
    announce::{l2::L2Announcer, peering::BgpAnnouncer},
    config::SourceSpec,
    ctl::{api::BindingPhase, follow::Followers, view::phase},
    dataplane::{Counters, examine::Examiner, inspect::Inspector},
    model::{Facts, NodeSettings},
    report::Report,
};

/// Read access to everything worth showing. One per process, shared.
pub struct AgentState {
    /// What the reconciler published last.
    pub reports: watch::Receiver<Arc<Report>>,
    /// What the source published last.
    pub facts: watch::Receiver<Facts>,
    /// The kernel's counters.
    pub counters: Arc<dyn Counters>,
    /// Attachments and maps.
    pub inspector: Arc<dyn Inspector>,
    /// The kernel of this moment.
    pub examiner: Arc<dyn Examiner>,
    /// Who looks at samples of packets.
    pub followers: Arc<Followers>,
    /// Settings in force.
    pub settings: Arc<NodeSettings>,
    /// Where facts come from, and where bindings are written to.
    pub source: SourceSpec,
    /// What was odd about the configuration.
    pub notices: Vec<String>,
    /// What announces on layer 2.
    pub l2: L2Announcer,
    /// Start of the process.
    pub started: Started,
    /// What announces by BGP.
    pub bgp: BgpAnnouncer,
    /// Held by who binds or unbinds by gRPC: of two callers at once the second sees what the first
    /// has done.
    pub turn: Mutex<()>,
}

impl fmt::Debug for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentState")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    wall: SystemTime,
    monotonic: Instant,
}

impl Started {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            monotonic: Instant::now(),
        }
    }

    /// In RFC 3339, to the second.
    #[must_use]
    pub fn rfc3339(&self) -> String {
        rfc3339(self.wall)
    }

    /// How long ago, whatever happened to the wall clock.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.monotonic.elapsed()
    }
}

/// In RFC 3339, to the second.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(seconds.as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

impl AgentState {
    /// The newest report.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }
}

/// Whether the node serves what it should: the sources have been read, the kernel could be read,
/// and every wanted binding has been tried. One that fails is shown, but does not make the node
/// unready: the others work, and a rollout that stops here would make it worse.
///
/// # Errors
/// What is missing, for people.
pub fn readiness(report: &Report) -> Result<(), String> {
    if let Some(error) = &report.round_error {
        return Err(format!("the kernel could not be read: {error}"));
    }
    if report.rounds == 0 {
        return Err("no round has ended yet".to_owned());
    }
    if !report.facts_complete {
        return Err("the source has not been read completely yet".to_owned());
    }
    let pending = report
        .bindings
        .iter()
        .filter(|binding| phase(report, binding) == BindingPhase::Pending);
    match pending.count() {
        0 => Ok(()),
        count => Err(format!("{count} bindings are not programmed yet")),
    }
}
