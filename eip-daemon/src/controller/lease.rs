//! The election at the API server: reads and replaces a `Lease`.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{
    ControllerOptions,
    election::{Candidate, Record, Step, Timing},
};

/// Name of the Lease.
const LEASE: &str = "kube-eip-controller";

/// Takes part in the election for as long as the process runs.
pub(super) struct Elector {
    api: Api<Lease>,
    candidate: Candidate,
    timing: Timing,
    is_leading: bool,
}

impl Elector {
    pub(super) fn new(client: Client, options: &ControllerOptions) -> Self {
        Self {
            api: Api::namespaced(client, &options.namespace),
            candidate: Candidate::new(options.identity.clone(), options.timing),
            timing: options.timing,
            is_leading: false,
        }
    }

    pub(super) async fn run(
        mut self,
        leads: watch::Sender<Option<Instant>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), std::convert::Infallible> {
        loop {
            // An attempt that hangs must not outlive what it would prove.
            let attempt = tokio::time::timeout(self.timing.duration / 3, self.attempt());
            tokio::select! {
                done = attempt => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "election"),
                    Err(_) => debug!("election: the API server does not answer in time"),
                },
                _ = stop.wait_for(|stop| *stop) => break,
            }
            leads.send_replace(self.candidate.leads_until());
            self.tell();
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        leads.send_replace(None);
        self.release().await;
        Ok(())
    }

    fn tell(&mut self) {
        let leads = self.candidate.leads(Instant::now());
        if leads != self.is_leading {
            self.is_leading = leads;
            if leads {
                info!("leading");
            } else {
                warn!("not leading any more");
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), kube::Error> {
        let began = Instant::now();
        let found = self.api.get_opt(LEASE).await?;
        let seen = found.as_ref().map(read);
        let step = self.candidate.look(seen.as_ref(), Instant::now());
        if step == Step::Wait {
            return Ok(());
        }
        let now = jiff::Timestamp::now();
        let record = self.candidate.record(step, &now.to_string());
        let written = match found {
            None => {
                self.api
                    .create(&PostParams::default(), &write(None, &record, now))
                    .await?
            }
            Some(before) => {
                self.api
                    .replace(
                        LEASE,
                        &PostParams::default(),
                        &write(Some(before), &record, now),
                    )
                    .await?
            }
        };
        self.candidate.won(read(&written), began);
        Ok(())
    }

    /// Lets the next one in at once.
    async fn release(&mut self) {
        if !self.candidate.leads(Instant::now()) {
            return;
        }
        let give_up = async {
            let Some(mut lease) = self.api.get_opt(LEASE).await? else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = None;
            }
            self.api
                .replace(LEASE, &PostParams::default(), &lease)
                .await?;
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(2), give_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "give up the lease"),
            Err(_) => debug!("give up the lease: no answer"),
        }
    }
}

fn read(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        seconds: spec.lease_duration_seconds.unwrap_or(0),
        renewed: spec
            .renew_time
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn write(before: Option<Lease>, record: &Record, now: jiff::Timestamp) -> Lease {
    let mut lease = before.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let known = lease.spec.take().unwrap_or_default();
    let is_same_holder = known.holder_identity.as_deref() == Some(&*record.holder);
    let acquired = known.acquire_time.filter(|_| is_same_holder);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: Some(record.seconds),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(record.transitions),
        ..known
    });
    lease
}
