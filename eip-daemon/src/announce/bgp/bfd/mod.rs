//! BFD for neighbours on the link (RFC 5880, RFC 5881): whether packets get through, in a fraction
//! of a second, while BGP itself would take its hold time to notice.
//!
//! ```text
//!   PeerTask ── Watcher ── commands ──> worker: one OS thread, all sockets, ppoll
//!      ▲                                  │
//!      └───────── watch<BfdStatus> ───────┘
//! ```
//!
//! The thread is the worker's own: it waits for no work on routes, only for a CPU, ahead of most. It
//! starts with the first session and ends with the last.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::watch, time::timeout};

mod session;
mod socket;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

pub use session::{Change, Reaction, Session};
pub use wire::{Control, Diagnostic, PACKET_LEN, State};

use self::worker::{Command, Wake, Worker};

/// Who speaks first (RFC 5880 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// We do, whether or not anybody answers.
    #[default]
    Active,
    /// The other side does.
    Passive,
}

/// Whether a BGP session needs BFD to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// BGP comes up without; BFD that was up and goes down takes BGP down.
    #[default]
    Lenient,
    /// BGP is not even tried before BFD is up. The router has to start BFD by itself.
    Strict,
}

/// Settings of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdSettings {
    /// How often to send, once up.
    pub min_tx: Duration,
    /// How often packets can be taken.
    pub min_rx: Duration,
    /// Packets that may be lost in a row, as the other side counts them. Not zero.
    pub detect_multiplier: u8,
    /// Who speaks first.
    pub role: Role,
    /// Lowest TTL believed: 255 on a link (RFC 5881 §5).
    pub min_ttl: u8,
    /// Whether BGP waits for it.
    pub strictness: Strictness,
}

impl Default for BfdSettings {
    /// 300 ms, three lost.
    fn default() -> Self {
        Self {
            min_tx: Duration::from_millis(300),
            min_rx: Duration::from_millis(300),
            detect_multiplier: 3,
            role: Role::default(),
            min_ttl: 255,
            strictness: Strictness::default(),
        }
    }
}

/// Whom to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// Our address; the kernel chooses when there is none.
    pub(super) source: Option<IpAddr>,
    pub(super) interface: Option<String>,
}

/// What the path has come to, for whoever relies on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing is known: it was never up, or the other side has switched BFD off.
    #[default]
    Unknown,
    /// It carries packets both ways.
    Alive,
    /// It did, and does not any more.
    Dead {
        /// The other side's BFD outlives its control plane, so that it is the path that is dead
        /// and nothing can be kept over it (RFC 5882 §4.3).
        is_certain: bool,
    },
}

/// A session at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// State.
    pub state: State,
    /// The other side's, as it last said.
    pub remote_state: State,
    /// Why the session was last down.
    pub diagnostic: Diagnostic,
    /// What follows.
    pub verdict: Verdict,
    /// Milliseconds of silence that count as failure; 0 while nothing is heard.
    pub detection_time_ms: u64,
    /// Times the path was lost.
    pub lost: u64,
    /// Why no packets are sent or taken, if that is so.
    pub error: Option<String>,
}

/// Where sessions are started. All clones mean the same worker, which runs while there is any
/// session.
#[derive(Debug, Clone, Default)]
pub(super) struct Service(Arc<Mutex<Weak<Wake>>>);

impl Service {
    /// Starts a session. It ends, and the other side is told so, when the watcher is dropped.
    ///
    /// # Errors
    /// When there is no thread or no descriptor to be had for the worker.
    pub(super) fn watch(&self, target: Target, settings: BfdSettings) -> io::Result<Watcher> {
        let wake = self.wake()?;
        let (sender, status) = watch::channel(BfdStatus::default());
        let id = wake.tell(|id| Command::Add {
            id,
            target,
            settings,
            status: sender,
        });
        Ok(Watcher { wake, id, status })
    }

    fn wake(&self) -> io::Result<Arc<Wake>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = running.upgrade() {
            return Ok(wake);
        }
        let wake = Arc::new(Worker::spawn()?);
        *running = Arc::downgrade(&wake);
        Ok(wake)
    }
}

/// A session that runs.
#[derive(Debug)]
pub(super) struct Watcher {
    wake: Arc<Wake>,
    id: u64,
    pub(super) status: watch::Receiver<BfdStatus>,
}

impl Watcher {
    /// Ends the session and returns when the other side has been told. Bounded.
    pub(super) async fn close(self) {
        let mut status = self.status.clone();
        drop(self);
        // The worker drops the other end of the status when it is done.
        let gone = async { while status.changed().await.is_ok() {} };
        let _ = timeout(Duration::from_millis(500), gone).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let id = self.id;
        self.wake.tell(|_| Command::Remove { id });
    }
}
