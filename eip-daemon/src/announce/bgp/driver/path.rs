//! BFD toward one peer: keeps the session that is configured, and says what follows for BGP.

use std::future::pending;

use tracing::warn;

use super::{peer::PeerTask, wanted::cease};
use crate::announce::bgp::{
    bfd::{BfdSettings, BfdStatus, Service, Strictness, Target, Verdict, Watcher},
    config::{PeerConfig, Transport},
    fsm::{Input, RouteFate},
    wire::Reason,
};

/// The path to a peer, watched or not.
pub(super) struct Path {
    service: Service,
    watched: Option<Watched>,
    error: Option<String>,
    /// BGP was allowed to start; the other half of `PeerTask::is_started`.
    is_open: bool,
}

struct Watched {
    target: Target,
    settings: BfdSettings,
    watcher: Watcher,
    /// Losses that BGP knows of.
    lost: u64,
}

impl Path {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            watched: None,
            error: None,
            is_open: false,
        }
    }

    /// Watches what is configured. A session that is as it should be stays.
    fn keep(&mut self, config: &PeerConfig) {
        let wanted = config.bfd.map(|bfd| (target(&config.transport), bfd));
        let is_kept = match (&self.watched, &wanted) {
            (None, None) => true,
            (Some(watched), Some((target, settings))) => {
                watched.target == *target && watched.settings == *settings
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_kept {
            return;
        }
        self.watched = None;
        self.error = None;
        let Some((target, settings)) = wanted else {
            return;
        };
        match self.service.watch(target.clone(), settings) {
            Ok(watcher) => {
                self.watched = Some(Watched {
                    target,
                    settings,
                    watcher,
                    lost: 0,
                });
            }
            Err(error) => {
                warn!(%error, "cannot start BFD");
                self.error = Some(error.to_string());
            }
        }
    }

    /// Waits for news.
    pub(super) async fn changed(&mut self) {
        match &mut self.watched {
            // Without a worker there are no news.
            Some(watched) => match watched.watcher.status.changed().await {
                Ok(()) => {}
                Err(_) => pending().await,
            },
            None => pending().await,
        }
    }

    pub(super) fn status(&self) -> Option<BfdStatus> {
        match (&self.watched, &self.error) {
            (Some(watched), _) => Some(watched.watcher.status.borrow().clone()),
            (None, Some(error)) => Some(BfdStatus {
                error: Some(error.clone()),
                ..BfdStatus::default()
            }),
            (None, None) => None,
        }
    }

    /// Whether the path was lost since this was last asked, and what shall become of the routes
    /// (RFC 5882 §4.3).
    fn take_loss(&mut self) -> Option<RouteFate> {
        let watched = self.watched.as_mut()?;
        let status = watched.watcher.status.borrow_and_update();
        if status.lost == watched.lost {
            return None;
        }
        watched.lost = status.lost;
        Some(fate(status.verdict))
    }

    /// Whether BGP may be tried, and what shall become of the routes if not.
    fn allows(&self) -> Result<(), RouteFate> {
        let Some(watched) = &self.watched else {
            return Ok(());
        };
        let status = watched.watcher.status.borrow();
        let is_alive = status.verdict == Verdict::Alive;
        // Switched off over there: that side waits for nothing.
        let is_off = status.remote_state == crate::announce::bgp::bfd::State::AdminDown;
        match watched.settings.strictness {
            Strictness::Strict if !is_alive && !is_off => Err(fate(status.verdict)),
            Strictness::Strict | Strictness::Lenient => Ok(()),
        }
    }

    /// Ends the session and waits until the peer is told.
    pub(super) async fn close(self) {
        if let Some(watched) = self.watched {
            watched.watcher.close().await;
        }
    }
}

impl PeerTask {
    /// Starts and stops BFD as configured, and BGP as BFD allows.
    pub(super) fn keep_path(&mut self) {
        let Self { path, config, .. } = self;
        path.keep(config);
        let may_run = self.path.allows();
        match (self.path.is_open, self.is_started, may_run) {
            (false, true, Ok(())) => {
                self.path.is_open = true;
                self.step(Input::Start);
            }
            (true, _, Err(routes)) => {
                self.path.is_open = false;
                self.step(Input::Stop(cease(Reason::BfdDown, "", routes)));
            }
            (false, false, Ok(())) | (false, _, Err(_)) | (true, _, Ok(())) => {}
        }
    }

    /// A session that was replaced starts where the one before stood.
    pub(super) fn restart_if_open(&mut self) {
        if self.path.is_open {
            self.step(Input::Start);
        }
    }

    /// BFD has news.
    pub(super) fn note_path(&mut self) {
        if let Some(routes) = self.path.take_loss() {
            self.step(Input::PathDead(routes));
        }
        self.keep_path();
    }
}

fn fate(verdict: Verdict) -> RouteFate {
    match verdict {
        Verdict::Dead { is_certain: true } => RouteFate::Dropped,
        Verdict::Dead { is_certain: false } | Verdict::Alive | Verdict::Unknown => RouteFate::Kept,
    }
}

fn target(transport: &Transport) -> Target {
    Target {
        address: transport.address,
        source: transport.source,
        interface: transport.interface.clone(),
    }
}
