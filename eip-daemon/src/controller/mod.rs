//! `eip-daemon controller`: says where each binding is to be served, and why one is not.
//!
//! ```text
//! EipBindings, VMIs, virt-launcher pods ──watch──> Registry ─┐
//!                                                            ├─> decide ─> Verdict ─> next Write ─> API
//! Lease ──election──> may act ───────────────> Pace ─────────┘      (pure)
//! ```
//!
//! It has no rights on nodes. Everything it decides is a function of the objects, so it keeps nothing
//! between two runs, and one that is killed between two writes is followed by one that makes the
//! second. Standbys keep their picture of the objects current and write nothing.

mod election;
mod lease;
mod object;
mod pace;
mod peers;
mod place;
mod registry;
mod server;
mod tell;
mod verdict;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::select_all};
use kube::{Client, core::DynamicObject, runtime::watcher::Event};
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, info, warn};

pub use election::Timing;
use object::{Binding, Pod, Vm, name_of, pod_as_target};
use pace::Pace;
use registry::{Registry, Touched};
use tell::{Outcome, Teller};

use crate::{
    model::{ObjectName, POD},
    source::{
        kube::client::{Changes, ConnectError, connect, follow, resource},
        objects::{BINDING_API, BINDING_KIND, VM_APIS, VM_KIND},
    },
    supervisor::{Supervisor, TaskEnded, termination},
};

/// Writes under way at once.
const WRITERS: usize = 32;
/// Changes that are taken in before the next look at what is due.
const BATCH: usize = 1024;

/// How the controller runs.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The kubeconfig; the surroundings decide without one.
    pub kubeconfig: Option<PathBuf>,
    /// What is logged.
    pub log_level: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Who this is among several controllers.
    pub identity: String,
    /// Times of the election.
    pub timing: Timing,
    /// Address of the HTTP server; `None` serves none.
    pub http: Option<SocketAddr>,
    /// Addresses on networks of Multus count as the pods' annotations name them.
    pub trusts_network_status: bool,
}

/// Why the controller does not run (any more). Fate of each: exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The HTTP server.
    #[error("listen on {address}: choose another --http, or off")]
    Http {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("listen to signals")]
    Signals(#[source] std::io::Error),
    /// A task ended by itself.
    #[error("run the controller")]
    Task(#[from] TaskEnded),
}

/// Runs the controller until it is asked to stop.
///
/// # Errors
/// It cannot start, or one of its tasks ended.
pub async fn run(options: ControllerOptions) -> Result<(), ControllerError> {
    let stop = termination().map_err(ControllerError::Signals)?;
    let client = connect(options.kubeconfig.as_deref()).await?;
    let health = Arc::new(server::Health::default());
    let mut supervisor = Supervisor::default();
    if let Some(address) = options.http {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| ControllerError::Http { address, source })?;
        let health = Arc::clone(&health);
        supervisor.start("http", |stop| server::serve(listener, health, stop));
    }
    let (leads, leadership) = watch::channel(None);
    let elector = lease::Elector::new(client.clone(), &options);
    supervisor.start("election", |stop| elector.run(leads, stop));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = options.identity,
        "controller started"
    );
    let sums = peers::Sums::new(client.clone(), leadership.clone(), options.timing.grace());
    supervisor.start("peers", |stop| sums.run(stop));
    let controller = Controller::new(client, leadership, health, &options);
    supervisor.start("controller", |stop| controller.run(stop));
    supervisor.run(stop).await?;
    info!("stopped; agents keep what was granted");
    Ok(())
}

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Binding,
    Vm,
    Pod,
}

const KINDS: [Kind; 3] = [Kind::Binding, Kind::Vm, Kind::Pod];

struct Controller {
    client: Client,
    registry: Registry,
    pace: Pace,
    /// Names seen by a list that has not ended, per kind.
    listing: [BTreeSet<ObjectName>; 3],
    synced: BTreeSet<Kind>,
    leadership: watch::Receiver<Option<Instant>>,
    was_leading: bool,
    health: Arc<server::Health>,
    teller: Teller,
    writes: JoinSet<Outcome>,
}

impl Controller {
    fn new(
        client: Client,
        leadership: watch::Receiver<Option<Instant>>,
        health: Arc<server::Health>,
        options: &ControllerOptions,
    ) -> Self {
        Self {
            teller: Teller::new(client.clone(), options),
            client,
            registry: Registry::new(options.trusts_network_status),
            pace: Pace::default(),
            listing: Default::default(),
            synced: BTreeSet::new(),
            leadership,
            was_leading: false,
            health,
            writes: JoinSet::new(),
        }
    }

    fn changes(&self, kind: Kind) -> Changes {
        let resource = match kind {
            Kind::Binding => resource(BINDING_API, BINDING_KIND, "eipbindings"),
            Kind::Vm => resource(VM_APIS[0], VM_KIND, "virtualmachineinstances"),
            // All of them: any can be a target, and no label says which are.
            Kind::Pod => resource("v1", "Pod", "pods"),
        };
        follow(&self.client, &resource, None)
    }

    async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), std::convert::Infallible> {
        let all = KINDS.map(|kind| self.changes(kind).map(move |change| (kind, change)).boxed());
        // One turn of the loop takes what is there: a burst is one look at what is due.
        let mut changes = select_all(all).ready_chunks(BATCH);
        loop {
            self.health
                .beat(self.is_synced(), self.leads(), self.pace.depth());
            let wake = self.pace.next_time().map_or_else(
                || Instant::now() + Duration::from_secs(5),
                |time| time.min(Instant::now() + Duration::from_secs(5)),
            );
            let is_full = self.writes.len() >= WRITERS;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(batch) = changes.next() => {
                    for (kind, change) in batch {
                        self.take(kind, change);
                    }
                }
                Some(done) = self.writes.join_next() => self.written(done.ok()),
                turn = self.leadership.changed() => {
                    if turn.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(wake.into()), if !is_full => {}
            }
            self.note_leadership();
            self.write_what_is_due();
        }
        // Nothing of ours may arrive after the Lease was given up.
        while self.writes.join_next().await.is_some() {}
        Ok(())
    }

    fn is_synced(&self) -> bool {
        self.synced.len() == KINDS.len()
    }

    fn leads(&self) -> bool {
        self.leadership
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    fn note_leadership(&mut self) {
        let leads = self.leads();
        if leads && !self.was_leading {
            let names: Vec<ObjectName> = self.registry.bindings().map(|(n, _)| n.clone()).collect();
            self.touch(names);
        }
        self.was_leading = leads;
    }

    fn touch(&mut self, names: impl IntoIterator<Item = ObjectName>) {
        let now = Instant::now();
        for name in names {
            self.pace.touch(&name, now);
        }
    }

    fn take(&mut self, kind: Kind, change: Event<DynamicObject>) {
        let touched = match change {
            Event::Init => {
                self.listing[kind as usize].clear();
                Touched::new()
            }
            Event::InitApply(object) => {
                self.listing[kind as usize].insert(name_of(&object.metadata));
                self.put(kind, &object)
            }
            Event::InitDone => self.listed(kind),
            Event::Apply(object) => self.put(kind, &object),
            Event::Delete(object) => self.remove(kind, &name_of(&object.metadata)),
        };
        self.touch(touched);
    }

    fn put(&mut self, kind: Kind, object: &DynamicObject) -> Touched {
        let name = name_of(&object.metadata);
        match kind {
            Kind::Binding => self.registry.put_binding(&name, Binding::read(object)),
            Kind::Vm => self.registry.put_vm(&name, Vm::read(object)),
            Kind::Pod => {
                let target = pod_as_target(&name);
                let launcher = Pod::read(object);
                let mut touched = if launcher.is_some() {
                    self.registry.remove_vm(&target)
                } else {
                    self.registry.put_vm(&target, Vm::of_pod(object))
                };
                let pod = launcher.unwrap_or_else(|| Pod::plain(object));
                touched.extend(self.registry.put_pod(pod));
                touched
            }
        }
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName) -> Touched {
        match kind {
            Kind::Binding => {
                let mut touched = self.registry.remove_binding(name);
                touched.remove(name);
                self.pace.forget(name);
                self.teller.forget(name);
                touched
            }
            Kind::Vm => self.registry.remove_vm(name),
            Kind::Pod => {
                let mut touched = self.registry.remove_vm(&pod_as_target(name));
                touched.extend(self.registry.remove_pod(name));
                touched
            }
        }
    }

    /// A list has ended: what it did not name is gone.
    fn listed(&mut self, kind: Kind) -> Touched {
        let seen = std::mem::take(&mut self.listing[kind as usize]);
        let known: Vec<ObjectName> = match kind {
            Kind::Binding => self.registry.bindings().map(|(n, _)| n.clone()).collect(),
            Kind::Vm => {
                let vms = self.registry.vms();
                vms.filter(|name| !name.name.starts_with(POD))
                    .cloned()
                    .collect()
            }
            Kind::Pod => self.registry.pods().cloned().collect(),
        };
        let mut touched = Touched::new();
        for gone in known.iter().filter(|name| !seen.contains(name)) {
            touched.extend(self.remove(kind, gone));
        }
        if self.synced.insert(kind) && self.is_synced() {
            debug!("all objects are known");
        }
        touched
    }

    fn write_what_is_due(&mut self) {
        // Before every list has ended, a VM that is not known may exist all the same.
        if !self.is_synced() || !self.leads() {
            return;
        }
        let now = Instant::now();
        while self.writes.len() < WRITERS
            && let Some(name) = self.pace.next(now)
        {
            let Some(binding) = self.registry.binding(&name) else {
                continue;
            };
            let Some(verdict) = verdict::decide(&self.registry, &name) else {
                continue;
            };
            let time = tell::now();
            let Some(write) = verdict.next_write(&name, binding, &time) else {
                continue;
            };
            let uid = binding.uid.clone();
            if self.pace.begin(&name, now) {
                if matches!(write, verdict::Write::Status(_)) {
                    self.registry.reserve(&name, verdict.held);
                }
                let told = self.teller.write(name, uid, write, verdict);
                self.writes.spawn(told);
            }
        }
    }

    fn written(&mut self, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else {
            // A panic in there is a defect; the object is looked at again with the next change.
            warn!("a write ended without a result");
            return;
        };
        let now = Instant::now();
        match &outcome.result {
            Ok(object) => {
                self.pace.end(&outcome.name, true, now);
                let touched = self.put(Kind::Binding, object);
                self.touch(touched);
                self.teller.announce(&outcome);
                // There may be another write to make.
                self.touch([outcome.name]);
            }
            Err(error) if error.is_gone() => self.pace.end(&outcome.name, true, now),
            Err(error) => {
                if error.is_stale() {
                    debug!(binding = %outcome.name, "object changed meanwhile, deciding again");
                } else {
                    warn!(binding = %outcome.name, %error, "write what was decided");
                }
                self.pace.end(&outcome.name, false, now);
            }
        }
        self.health.wrote(outcome.result.is_ok());
    }
}
