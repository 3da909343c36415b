//! `eipctl drops --follow`: samples of packets as they happen, to whoever looks.
//!
//! ```text
//! followers ──filters──> Followers ──the union of them, renewed every second──> WATCH
//!     ^                      │
//!     └──lines, bounded──────┴<── SAMPLES, emptied while somebody looks
//! ```
//!
//! The last follower that leaves switches the samples off; should the agent die, they end by themselves.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use eip_common::{
    abi::{NO_SLOT, Sample},
    reason::{Hook, Reason},
};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    api::{FollowEvent, SampleEvent},
    error::ApiError,
    frame, lookup,
    state::AgentState,
    view::interface_name,
};
use crate::dataplane::samples::{Sampler, Wanted};

/// Samples a second and CPU: what a person can look at, with room for several.
const RATE: u32 = 200;
/// How often the ring buffer is emptied; it holds more than the rate fills in that time.
const PACE: Duration = Duration::from_millis(50);
/// How long the programs go on without being told again.
const LASTING: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_secs(1);
/// Samples a follower may be behind; older ones are lost to it, and counted.
const BACKLOG: usize = 1024;
/// A line at least this often, by which a follower that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FollowQuery {
    eip: Option<String>,
    /// Names, separated by commas.
    reason: Option<String>,
    /// Names, separated by commas.
    hook: Option<String>,
    /// Also packets that were carried or passed on as usual.
    all: bool,
}

/// Everybody who looks.
pub struct Followers {
    sampler: Arc<dyn Sampler>,
    filters: Mutex<BTreeMap<u64, Wanted>>,
    samples: broadcast::Sender<Sample>,
    changed: Notify,
    closing: watch::Sender<bool>,
}

impl Followers {
    /// Nobody yet.
    #[must_use]
    pub fn new(sampler: Arc<dyn Sampler>) -> Self {
        Self {
            sampler,
            filters: Mutex::default(),
            samples: broadcast::channel(BACKLOG).0,
            changed: Notify::new(),
            closing: watch::channel(false).0,
        }
    }

    /// Sends everybody home: the agent stops.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Moves samples from the kernel to the followers, until `stop` is true.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.serve() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.want(None);
    }

    async fn serve(&self) {
        loop {
            self.changed.notified().await;
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut renewed: Option<(Wanted, Instant)> = None;
            while let Some(wanted) = self.wanted() {
                let is_due =
                    renewed.is_none_or(|(last, at)| last != wanted || at.elapsed() >= RENEW);
                if is_due {
                    self.want(Some(wanted));
                    renewed = Some((wanted, Instant::now()));
                }
                pace.tick().await;
                for sample in self.sampler.take() {
                    // Nobody listens any more: the next look at the filters ends this.
                    let _nobody = self.samples.send(sample);
                }
            }
            self.want(None);
        }
    }

    fn want(&self, wanted: Option<Wanted>) {
        if let Err(error) = self.sampler.want(wanted, LASTING) {
            tracing::warn!(%error, "samples cannot be switched");
        }
    }

    /// What all of them together want to see.
    fn wanted(&self) -> Option<Wanted> {
        let filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.values().copied().reduce(|a, b| Wanted {
            reasons: a.reasons | b.reasons,
            hooks: a.hooks | b.hooks,
            only: a.only.filter(|only| b.only == Some(*only)),
            rate: a.rate.max(b.rate),
        })
    }

    fn join(self: &Arc<Self>, wanted: Wanted) -> Follower {
        let samples = self.samples.subscribe();
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        let id = filters.last_key_value().map_or(0, |(last, _)| last + 1);
        filters.insert(id, wanted);
        drop(filters);
        self.changed.notify_one();
        Follower {
            id,
            wanted,
            samples,
            lost: self.sampler.lost().unwrap_or_default(),
            missed: 0,
            closing: self.closing.subscribe(),
            all: Arc::clone(self),
        }
    }
}

/// One who looks, until it is dropped.
struct Follower {
    id: u64,
    wanted: Wanted,
    samples: broadcast::Receiver<Sample>,
    /// Lost in the kernel up to the last line about it.
    lost: u64,
    /// Lost because this follower was slow.
    missed: u64,
    closing: watch::Receiver<bool>,
    all: Arc<Followers>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let filters = &self.all.filters;
        filters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// What comes next for a follower.
enum Next {
    Sample(Sample),
    Nothing,
    End,
}

impl Follower {
    async fn next(&mut self) -> Next {
        let deadline = Instant::now() + HEARTBEAT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let received = tokio::select! {
                received = timeout(left, self.samples.recv()) => received,
                _ = self.closing.wait_for(|closing| *closing) => return Next::End,
            };
            match received {
                Err(_nothing_came) => return Next::Nothing,
                Ok(Ok(sample)) if self.wants(&sample) => return Next::Sample(sample),
                Ok(Ok(_)) => {}
                Ok(Err(broadcast::error::RecvError::Lagged(count))) => self.missed += count,
                Ok(Err(broadcast::error::RecvError::Closed)) => return Next::End,
            }
        }
    }

    /// Others may have asked for more.
    fn wants(&self, sample: &Sample) -> bool {
        let Wanted {
            reasons,
            hooks,
            only,
            ..
        } = self.wanted;
        reasons & 1_u64.checked_shl(sample.reason.into()).unwrap_or(0) != 0
            && hooks & 1_u32.checked_shl(sample.hook.into()).unwrap_or(0) != 0
            && only.is_none_or(|(slot, port)| sample.slot == slot || sample.ifindex == port)
    }

    /// Lost since this was asked last.
    fn newly_lost(&mut self) -> u64 {
        let lost = self.all.sampler.lost().unwrap_or(self.lost);
        let new = lost.saturating_sub(self.lost) + self.missed;
        self.lost = lost;
        self.missed = 0;
        new
    }
}

/// The body of an answer that goes on for as long as somebody reads it: one JSON object a line, an empty
/// line when nothing happens.
pub(super) fn follow(state: &Arc<AgentState>, query: &FollowQuery) -> Result<Body, ApiError> {
    let follower = state.followers.join(wanted(state, query)?);
    let lines = lines(Arc::clone(state), follower);
    Ok(Body::from_stream(lines))
}

fn lines(
    state: Arc<AgentState>,
    follower: Follower,
) -> impl Stream<Item = Result<Bytes, serde_json::Error>> {
    // The first line says that samples are on.
    stream::unfold(
        (state, follower, true),
        async |(state, mut follower, first)| {
            let event = if first {
                FollowEvent::default()
            } else {
                match follower.next().await {
                    Next::End => return None,
                    Next::Sample(sample) => FollowEvent {
                        sample: Some(event(&state, &sample)),
                        lost: 0,
                    },
                    Next::Nothing => FollowEvent {
                        sample: None,
                        lost: follower.newly_lost(),
                    },
                }
            };
            let line = serde_json::to_vec(&event).map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            });
            Some((line, (state, follower, false)))
        },
    )
}

fn wanted(state: &AgentState, query: &FollowQuery) -> Result<Wanted, ApiError> {
    let reasons = names(
        query.reason.as_deref(),
        &Reason::ALL,
        Reason::name,
        "reason",
    )?;
    let hooks = names(query.hook.as_deref(), &Hook::ALL, Hook::name, "hook")?;
    let usual = |reason: &Reason| query.all || reason.is_exception();
    let reasons = reasons.unwrap_or_else(|| Reason::ALL.into_iter().filter(usual).collect());
    let only = query
        .eip
        .as_deref()
        .map(|key| binding(state, key))
        .transpose()?;
    Ok(Wanted {
        reasons: reasons
            .iter()
            .fold(0, |bits, reason| bits | 1 << *reason as u64),
        hooks: hooks.map_or(u32::MAX, |hooks| {
            hooks.iter().fold(0, |bits, hook| bits | 1 << *hook as u32)
        }),
        only,
        rate: RATE,
    })
}

/// Slot and port of a programmed binding.
fn binding(state: &AgentState, key: &str) -> Result<(u32, u32), ApiError> {
    let report = state.report();
    let item = lookup::find(&report, key)?;
    let port = item.programmed.as_ref().map(|programmed| programmed.port);
    item.slot.zip(port).ok_or_else(|| {
        let text = format!(
            "{} is not in the kernel, so there are no packets of it",
            item.fact.eip
        );
        ApiError::new(StatusCode::CONFLICT, text).hint(format!("eipctl explain {}", item.fact.eip))
    })
}

fn names<T: Copy>(
    asked: Option<&str>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
    what: &str,
) -> Result<Option<Vec<T>>, ApiError> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    let find = |word: &str| {
        let found = all.iter().copied().find(|item| name(*item) == word);
        found.ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|item| name(*item)).collect();
            ApiError::new(StatusCode::BAD_REQUEST, format!("no {what} {word:?}"))
                .hint(format!("known are {}", known.join(", ")))
        })
    };
    asked
        .split(',')
        .map(find)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn event(state: &AgentState, sample: &Sample) -> SampleEvent {
    let report = state.report();
    let eip = (sample.slot != NO_SLOT).then(|| {
        let bindings = report.bindings.iter();
        let owner = bindings.clone().find(|item| item.slot == Some(sample.slot));
        owner.map(|item| item.fact.eip)
    });
    let eip: Option<IpAddr> = eip.flatten();
    let reason = Reason::from_byte(sample.reason);
    let word = |name: Option<&'static str>| name.unwrap_or("unknown").to_owned();
    SampleEvent {
        time: wall_time(state, sample.time),
        hook: word(Hook::from_byte(sample.hook).map(Hook::name)),
        reason: word(reason.map(Reason::name)),
        class: word(reason.map(|reason| reason.class().name())),
        interface: interface_name(&report.view, sample.ifindex),
        eip,
        packet: frame::view(sample.frame(), usize::try_from(sample.len).unwrap_or(0)),
    }
}

/// In RFC 3339, to the microsecond.
fn wall_time(state: &AgentState, time: u64) -> String {
    let ago = state.followers.sampler.clock().saturating_sub(time);
    let when = SystemTime::now() - Duration::from_nanos(ago);
    let since = when
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or_default();
    jiff::Timestamp::from_microsecond(micros)
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests;
