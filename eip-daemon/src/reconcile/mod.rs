//! Keeps the kernel as the facts want it.
//!
//! One task, one loop: look at the node, compute what is desired, read back what is there, do the
//! difference in the order of [`plan`], report. It wakes up when facts change, when the kernel reports
//! a change, when a retry is due, and after the resync interval in any case: so whatever somebody else does to
//! our maps, programs and routes is put right within seconds.
//!
//! Invariants:
//! - nothing is removed before the facts are complete;
//! - what the network is told is in the kernel, and stays there until the network has been told
//!   otherwise (or a few seconds have passed);
//! - a failing action stays dirty, is retried with growing pauses, holds back only what relies on it;
//! - stopping, at any point, leaves everything in the kernel in place.

use std::{collections::BTreeSet, fmt, iter, net::IpAddr, sync::Arc, time::Duration};

use eip_common::abi::LEASE_NOT_BEGUN;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tracing::{Instrument as _, debug_span, info, warn};

use crate::{
    announce::{self, Announcer},
    dataplane::{DataPlane, DataPlaneError},
    desired,
    model::{Action, Desired, Facts, NetworkView, NodeSettings, Observed},
    report::Report,
};

mod depend;
mod fence;
mod hold;
mod memory;
mod narrate;
mod plan;
mod retry;
mod summary;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use fence::{FenceOn, FencePolicy};
pub use plan::{Removal, plan};

use depend::Broken;
use fence::{Moment, Renewal, renewal};
use hold::{Farewells, keep};
use memory::Memory;
use narrate::{Cause, Line};
use retry::Failures;

/// Time between two rounds when nothing happens, unless configured otherwise.
pub const DEFAULT_RESYNC: Duration = Duration::from_secs(2);
/// Pause after an event of the kernel, so that a burst of them is one round.
const SETTLE: Duration = Duration::from_millis(20);

/// The loop: look, compute, compare, change, report.
pub struct Reconciler<D> {
    data_plane: D,
    announcers: Vec<Box<dyn Announcer>>,
    /// Some announcer has got further with what lingers.
    announced: Arc<Notify>,
    facts: watch::Receiver<Facts>,
    settings: Arc<NodeSettings>,
    kernel_events: Arc<Notify>,
    resync: Duration,
    report: watch::Sender<Arc<Report>>,
    /// A copy of the facts: the channel must not be locked while a round runs.
    current: Facts,
    memory: Memory,
    failures: Failures,
    farewells: Farewells,
    /// A round with complete facts has done what it could: what it wanted is all there is to announce.
    has_settled: bool,
    /// What was desired when the kernel was last found, or made, to be just that.
    last_clean: Option<Arc<Desired>>,
    /// When all that is ours in the kernel was last read back.
    whole_look: Option<Instant>,
    fence: Fence,
}

/// What the renewal of leases goes by.
#[derive(Debug, Default)]
pub struct Fence {
    /// How long, and on what.
    pub policy: FencePolicy,
    /// When the API server last took this node's Lease, in nanoseconds of `CLOCK_BOOTTIME`.
    pub contact: Option<watch::Receiver<Option<u64>>>,
    /// Asks the source to read everything again.
    pub reread: Arc<Notify>,
    /// When leases were last looked at.
    looked: u64,
    /// See [`Moment::stalled`].
    stalled: u64,
}

impl Fence {
    /// Renews by this policy; `reread` asks the source to read everything again.
    #[must_use]
    pub fn new(
        policy: FencePolicy,
        contact: Option<watch::Receiver<Option<u64>>>,
        reread: Arc<Notify>,
    ) -> Self {
        Self {
            policy,
            contact,
            reread,
            ..Self::default()
        }
    }

    fn moment(&mut self, now: u64, read_at: Option<u64>) -> Moment {
        let patience = self.policy.after.map_or(u64::MAX, fence::nanos);
        if self.looked != 0 && now.saturating_sub(self.looked) > patience {
            self.stalled = now;
        }
        self.looked = now;
        Moment {
            now,
            read_at,
            contact: self.contact.as_ref().and_then(|contact| *contact.borrow()),
            stalled: self.stalled,
        }
    }
}

/// What one look at the world gave.
struct Round {
    view: NetworkView,
    desired: Desired,
    observed: Observed,
    removal: Removal,
}

impl<D: DataPlane> Reconciler<D> {
    /// A reconciler and the reports it will publish.
    #[must_use]
    pub fn new(
        data_plane: D,
        facts: watch::Receiver<Facts>,
        settings: Arc<NodeSettings>,
        kernel_events: Arc<Notify>,
    ) -> (Self, watch::Receiver<Arc<Report>>) {
        let (report, reports) = watch::channel(Arc::new(Report::default()));
        let current = facts.borrow().clone();
        let reconciler = Self {
            current,
            data_plane,
            announcers: Vec::new(),
            announced: Arc::new(Notify::new()),
            facts,
            settings,
            kernel_events,
            resync: DEFAULT_RESYNC,
            report,
            memory: Memory::default(),
            failures: Failures::default(),
            farewells: Farewells::default(),
            has_settled: false,
            last_clean: None,
            whole_look: None,
            fence: Fence::default(),
        };
        (reconciler, reports)
    }

    /// Tells the network by these means. They say through `announced` that something that lingered
    /// may be gone.
    #[must_use]
    pub fn with_announcers(
        mut self,
        announcers: Vec<Box<dyn Announcer>>,
        announced: Arc<Notify>,
    ) -> Self {
        (self.announcers, self.announced) = (announcers, announced);
        self
    }

    /// Renews leases by these rules; without them bindings are served for ever.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = fence;
        self
    }

    /// Looks at the kernel at least this often.
    #[must_use]
    pub fn with_resync(mut self, resync: Duration) -> Self {
        self.resync = resync;
        self
    }

    /// Runs until `shutdown` is true (or its sender is gone). Leaves everything in the kernel in place.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut has_source = true;
        while !is_stopping(&shutdown) {
            let span = debug_span!("reconcile", round = self.report.borrow().rounds + 1);
            self.round(&shutdown).instrument(span).await;
            let now = Instant::now();
            let due = [self.failures.next_try(), self.farewells.next_deadline()];
            // Even where a round takes longer than the interval there is a pause between two.
            let whole_look = self.whole_look.unwrap_or(now) + self.resync;
            let whole_look = whole_look.max(now + self.resync / 4);
            let deadline = due.into_iter().flatten().fold(whole_look, Instant::min);
            tokio::select! {
                () = stopped(&mut shutdown) => return,
                changed = self.facts.changed(), if has_source => {
                    has_source = changed.is_ok();
                    self.take_facts();
                }
                () = kernel_change(&self.kernel_events) => {}
                () = self.announced.notified() => {}
                () = time::sleep_until(deadline) => {}
            }
        }
    }

    fn take_facts(&mut self) {
        self.current = self.facts.borrow_and_update().clone();
    }

    /// One round, with its report.
    async fn round(&mut self, shutdown: &watch::Receiver<bool>) {
        let started = Instant::now();
        let before = Arc::clone(&self.report.borrow());
        let mut report = Report {
            rounds: before.rounds + 1,
            repairs: before.repairs,
            facts_complete: self.current.complete,
            refused: self.current.refused.clone(),
            settings: Some(Arc::clone(&self.settings)),
            ..Report::default()
        };
        match self.work(&mut report, shutdown).await {
            Ok(()) => {}
            Err(error) => {
                report.round_error = Some(narrate::chain(&error));
                keep_what_was_known(&mut report, &before);
                // What cannot be read now is still this process's to answer for.
                let mut known = Observed::clone(&report.observed);
                self.renew(&mut known);
                report.observed = Arc::new(known);
            }
        }
        report.failing = summary::failing(&self.failures, &report.view);
        report.bindings = summary::bindings(
            &self.current,
            &report,
            &self.failures,
            self.data_plane.boot_time(),
        );
        report.last_round = started.elapsed();
        report.durations = before.durations.and(report.last_round);
        tell_round(&before, &report);
        self.report.send_replace(Arc::new(report));
    }

    /// Look, compute, change, look again.
    async fn work(
        &mut self,
        report: &mut Report,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), DataPlaneError> {
        let Round {
            view,
            desired,
            mut observed,
            removal,
        } = self.look().await?;
        let desired = Arc::new(desired);
        report.view = Arc::new(view);
        report.desired = Arc::clone(&desired);
        let is_drift = removal == Removal::Allowed && self.last_clean.as_ref() == Some(&desired);
        let cause = if is_drift { Cause::Drift } else { Cause::Wish };

        // What leaves is withdrawn first; it goes when nothing of it lingers.
        self.announce(&desired, &observed);
        let held = self.held(&desired, &observed, removal);
        let kept = keep(&desired, &observed, &held);
        let actions = plan(&kept, &observed, removal);
        self.failures.retain(&actions);
        self.begin_leases(&actions);
        let done = self
            .perform(&actions, &observed, &report.view, cause, shutdown)
            .await;
        if cause == Cause::Drift {
            report.repairs += done;
        }
        if !actions.is_empty() {
            observed = self.data_plane.observe_own_changes().await?;
        }
        let is_clean = removal == Removal::Allowed
            && (actions.is_empty() || plan(&kept, &observed, Removal::Allowed).is_empty())
            && held.is_empty();
        self.has_settled |= removal == Removal::Allowed;
        self.renew(&mut observed);
        self.announce(&desired, &observed);
        report.observed = Arc::new(observed);
        report.in_sync = is_clean;
        if is_clean {
            self.last_clean = Some(desired);
        } else if cause == Cause::Wish {
            self.last_clean = None;
        }
        Ok(())
    }

    /// Reads back everything once in a resync interval, and in between what may have changed. A look that
    /// failed is repeated in full.
    async fn observe(&mut self) -> Result<Observed, DataPlaneError> {
        let now = Instant::now();
        let is_due = self
            .whole_look
            .is_none_or(|last| now.duration_since(last) >= self.resync);
        if !is_due {
            return self.data_plane.observe_own_changes().await;
        }
        self.whole_look = None;
        let observed = self.data_plane.observe().await?;
        self.whole_look = Some(now);
        Ok(observed)
    }

    async fn look(&mut self) -> Result<Round, DataPlaneError> {
        let observed = self.observe().await?;
        let facts = self
            .memory
            .complete(&self.current, &self.settings.node_name);
        let addresses = desired::vm_addresses(&facts, &self.settings);
        let view = self.data_plane.view(&addresses).await?;
        let desired = desired::compute(&facts, &self.settings, &view);
        let removal = if facts.complete {
            Removal::Allowed
        } else {
            Removal::Deferred
        };
        Ok(Round {
            view,
            desired,
            observed,
            removal,
        })
    }

    /// Writes the leases of what is about to be programmed, before anything of it: whoever sends or
    /// receives with it at that moment must not meet a slot nobody has begun. A slot had another owner, or
    /// an earlier life; what was written for that does not count.
    fn begin_leases(&mut self, actions: &[Action]) {
        let mut slots = actions.iter().filter_map(|action| match action {
            Action::PutBinding {
                slot,
                is_new_slot: true,
                ..
            } => Some(*slot),
            _ => None,
        });
        let Some(first) = slots.next() else { return };
        let now = self.data_plane.boot_time();
        let moment = self.fence.moment(now, self.current.read_at);
        let until = match renewal(self.fence.policy, &moment, LEASE_NOT_BEGUN) {
            Renewal::Until(end) => end,
            Renewal::Keep | Renewal::NeedsFacts => LEASE_NOT_BEGUN,
        };
        for slot in iter::once(first).chain(slots) {
            if let Err(error) = self.data_plane.renew(slot, until) {
                warn!(slot, error = narrate::chain(&error), "begin a lease");
            }
        }
    }

    /// Renews the leases that are due. A lease that ended needs facts from after its end.
    fn renew(&mut self, observed: &mut Observed) {
        let now = self.data_plane.boot_time();
        let moment = self.fence.moment(now, self.current.read_at);
        let mut needs_facts = false;
        for (slot, until) in &mut observed.leases {
            match renewal(self.fence.policy, &moment, *until) {
                Renewal::Keep => {}
                Renewal::NeedsFacts => needs_facts = true,
                Renewal::Until(end) => match self.data_plane.renew(*slot, end) {
                    Ok(()) => *until = end,
                    Err(error) => warn!(slot, error = narrate::chain(&error), "renew a binding"),
                },
            }
        }
        if needs_facts {
            self.fence.reread.notify_one();
        }
    }

    fn announce(&mut self, desired: &Desired, observed: &Observed) {
        if self.announcers.is_empty() {
            return;
        }
        let now = self.data_plane.boot_time();
        let wanted = announce::wanted(desired, observed, self.has_settled, now);
        for announcer in &mut self.announcers {
            announcer.announce(&wanted);
        }
    }

    /// EIPs that the network may still send here, although they shall go.
    fn held(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        removal: Removal,
    ) -> BTreeSet<IpAddr> {
        if self.announcers.is_empty() || removal == Removal::Deferred {
            return BTreeSet::new();
        }
        self.farewells
            .held(desired, observed, &self.announcers, Instant::now())
    }

    /// Does what can be done and returns how many changes were made.
    async fn perform(
        &mut self,
        actions: &[Action],
        observed: &Observed,
        view: &NetworkView,
        cause: Cause,
        shutdown: &watch::Receiver<bool>,
    ) -> u64 {
        let mut broken = Broken::new(observed);
        let mut done = 0;
        for action in actions {
            if is_stopping(shutdown) {
                break;
            }
            let is_due = broken.allows(action) && self.failures.may_try(action, Instant::now());
            if is_due && self.try_one(action, view, cause).await {
                done += 1;
            } else {
                broken.add(action);
            }
        }
        done
    }

    /// Makes one change; the same failure is told once, however often it is tried.
    async fn try_one(&mut self, action: &Action, view: &NetworkView, cause: Cause) -> bool {
        let line = Line::new(action, view);
        match self.data_plane.apply(action).await {
            Ok(()) => {
                if self.failures.clear(action) {
                    line.tell_recovered();
                }
                line.tell_done(cause);
                true
            }
            Err(error) => {
                let error = narrate::chain(&error);
                if self.failures.add(action, error.clone(), Instant::now()) == 1 {
                    line.tell_failing(&error);
                }
                false
            }
        }
    }
}

impl<D> fmt::Debug for Reconciler<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The kernel could not be read: the report shows what was last seen.
fn keep_what_was_known(report: &mut Report, before: &Report) {
    report.desired = Arc::clone(&before.desired);
    report.observed = Arc::clone(&before.observed);
    report.view = Arc::clone(&before.view);
}

/// An event of the kernel and what comes right behind it. When facts come in between, the event is
/// forgotten: the round that follows sees what it told.
async fn kernel_change(events: &Notify) {
    events.notified().await;
    time::sleep(SETTLE).await;
}

/// Ready when the round to come shall not begin. Holds no lock on the channel afterwards.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _sender_gone = shutdown.wait_for(|stop| *stop).await.is_err();
}

fn is_stopping(shutdown: &watch::Receiver<bool>) -> bool {
    *shutdown.borrow() || shutdown.has_changed().is_err()
}

/// A round that cannot run is told when that begins and when it ends.
fn tell_round(before: &Report, after: &Report) {
    match (&before.round_error, &after.round_error) {
        (None, Some(error)) => warn!(error, "the kernel cannot be read, retrying"),
        (Some(_), None) => info!("the kernel can be read again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    if after.round_error.is_none() {
        narrate::tell_outcomes(&before.desired.outcomes, &after.desired.outcomes);
    }
    narrate::tell_refused(&before.refused, &after.refused);
}
