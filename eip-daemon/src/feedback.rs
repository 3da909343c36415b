//! What the node has made of its bindings, told to the API server.
//!
//! One task follows the reports and writes `status.serving` and the conditions `Programmed` and
//! `Announced` of the bindings that are granted to this node, by server-side apply under the node's
//! own name. It decides nothing and nobody waits for it. A binding that leaves the node is not
//! written any more: the node that gets it takes these fields over.
//!
//! Writes are few: one per change of one binding, a few at a time, with a pause between two of the
//! same binding, with growing pauses while the API server does not take them.

mod node;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, warn};

pub use node::NodeFeedback;

use crate::{
    announce::{l2::L2Announcer, peering::BgpAnnouncer},
    conditions::{Aspect, Network, conditions},
    model::{ObjectName, Outcome},
    report::{BindingReport, Report},
    source::{
        kube::client::resource,
        objects::{BINDING_API, BINDING_KIND, Condition, ConditionType, EipBindingStatus, Serving},
    },
};

/// Writes under way at once.
const WRITERS: usize = 8;
/// Time between two writes about one binding.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause after news about sessions, so that many of them are one look.
const SETTLE: Duration = Duration::from_millis(100);
/// Pause after the first failure; doubled by each further one.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest pause after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What there is to say about a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    serving: Serving,
    programmed: Aspect,
    announced: Aspect,
    generation: i64,
}

/// What is known of the telling about one binding.
#[derive(Debug)]
struct Record {
    /// As the API server took it last.
    told: Option<Said>,
    wanted: Said,
    is_busy: bool,
    failures: u32,
    not_before: Instant,
}

/// Tells the API server.
pub struct Feedback {
    client: Client,
    resource: ApiResource,
    node: String,
    announcers: Announcers,
    records: BTreeMap<ObjectName, Record>,
}

/// Who knows what the network is told.
#[derive(Debug)]
pub struct Announcers {
    /// By BGP.
    pub bgp: BgpAnnouncer,
    /// On the segments of the uplinks.
    pub l2: L2Announcer,
}

type Told = (ObjectName, Said, Result<(), kube::Error>);

impl Feedback {
    /// Nothing is told yet.
    #[must_use]
    pub fn new(client: Client, node: String, announcers: Announcers) -> Self {
        Self {
            client,
            resource: resource(BINDING_API, BINDING_KIND, "eipbindings"),
            node,
            announcers,
            records: BTreeMap::new(),
        }
    }

    /// Follows the reports until it is to stop.
    ///
    /// # Errors
    /// None.
    pub async fn run(
        mut self,
        mut reports: watch::Receiver<Arc<Report>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Infallible> {
        let mut writes: JoinSet<Told> = JoinSet::new();
        let mut news = self.announcers.bgp.news();
        loop {
            let wake = self.next_time();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                changed = reports.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let report = Arc::clone(&reports.borrow_and_update());
                    self.want(&report);
                }
                Ok(()) = settled(&mut news) => {
                    let report = Arc::clone(&reports.borrow());
                    self.want(&report);
                }
                Some(done) = writes.join_next() => {
                    if let Ok(told) = done {
                        self.told(told);
                    }
                }
                () = tokio::time::sleep_until(wake.into()), if writes.len() < WRITERS => {}
            }
            self.write_what_is_due(&mut writes);
        }
    }

    fn want(&mut self, report: &Report) {
        let mut wanted: BTreeMap<ObjectName, Said> = BTreeMap::new();
        let network = Network::look(&self.announcers.bgp, &self.announcers.l2);
        for binding in &report.bindings {
            if let Some(said) = said(binding, report, &network, &self.node) {
                wanted.insert(binding.fact.name.clone(), said);
            }
        }
        // Before the first complete list something may only not be known yet.
        if report.facts_complete {
            self.records.retain(|name, _| wanted.contains_key(name));
        }
        let now = Instant::now();
        for (name, said) in wanted {
            let record = self.records.entry(name).or_insert_with(|| Record {
                told: None,
                wanted: said.clone(),
                is_busy: false,
                failures: 0,
                not_before: now,
            });
            record.wanted = said;
        }
    }

    fn due(&self) -> impl Iterator<Item = (&ObjectName, &Record)> {
        self.records
            .iter()
            .filter(|(_, record)| !record.is_busy && record.told.as_ref() != Some(&record.wanted))
    }

    fn next_time(&self) -> Instant {
        let far = Instant::now() + Duration::from_mins(1);
        let next = self.due().map(|(_, record)| record.not_before).min();
        next.map_or(far, |time| time.min(far))
    }

    fn write_what_is_due(&mut self, writes: &mut JoinSet<Told>) {
        let now = Instant::now();
        let free = WRITERS.saturating_sub(writes.len());
        let due = self.due().filter(|(_, record)| record.not_before <= now);
        let names: Vec<ObjectName> = due.map(|(name, _)| name.clone()).take(free).collect();
        for name in names {
            let Some(record) = self.records.get_mut(&name) else {
                continue;
            };
            record.is_busy = true;
            let said = record.wanted.clone();
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &name.namespace, &self.resource);
            let manager = manager(&self.node);
            writes.spawn(async move {
                let done = write(&api, &manager, &name, &said).await;
                (name, said, done)
            });
        }
    }

    fn told(&mut self, (name, said, done): Told) {
        let Some(record) = self.records.get_mut(&name) else {
            return;
        };
        record.is_busy = false;
        let now = Instant::now();
        match done {
            Ok(()) => {
                record.told = Some(said);
                record.failures = 0;
                record.not_before = now + PAUSE;
            }
            // It is gone, and so will the fact be.
            Err(kube::Error::Api(status)) if status.code == 404 => record.told = Some(said),
            Err(error) => {
                let pause = FIRST_RETRY.saturating_mul(1 << record.failures.min(16));
                if record.failures == 2 {
                    warn!(binding = %name, %error, "report to the API server");
                } else {
                    debug!(binding = %name, %error, "report to the API server");
                }
                record.failures = record.failures.saturating_add(1);
                record.not_before = now + pause.min(LONGEST_RETRY);
            }
        }
    }
}

/// Sessions have got somewhere, and what came right behind that. Cancel safe: news stay new until they
/// are returned.
async fn settled(news: &mut watch::Receiver<()>) -> Result<(), watch::error::RecvError> {
    news.changed().await?;
    news.mark_changed();
    tokio::time::sleep(SETTLE).await;
    news.mark_unchanged();
    Ok(())
}

/// Who owns what this node applies. At most 128 bytes are taken.
fn manager(node: &str) -> String {
    let name = format!("kube-eip-agent-{node}");
    name.chars().take(128).collect()
}

async fn write(
    api: &Api<DynamicObject>,
    manager: &str,
    name: &ObjectName,
    said: &Said,
) -> Result<(), kube::Error> {
    let object = api.get(&name.name).await?;
    let before: EipBindingStatus = object
        .data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default();
    // The grant may have moved on while this node's report was on its way.
    if before.node.as_ref() != Some(&said.serving.node) {
        return Ok(());
    }
    let conditions = [
        (ConditionType::Programmed, &said.programmed),
        (ConditionType::Announced, &said.announced),
    ]
    .map(|(type_, aspect)| condition(type_, aspect, said.generation, &before));
    let is_known = before.serving.as_ref() == Some(&said.serving)
        && conditions
            .iter()
            .all(|condition| before.condition(&condition.type_) == Some(condition));
    if is_known {
        return Ok(());
    }
    let status = EipBindingStatus {
        serving: Some(said.serving.clone()),
        conditions: Some(conditions.into()),
        ..EipBindingStatus::default()
    };
    let applied = json!({
        "apiVersion": BINDING_API,
        "kind": BINDING_KIND,
        "metadata": {
            "name": name.name,
            "namespace": name.namespace,
            "resourceVersion": object.metadata.resource_version,
        },
        "status": status,
    });
    let how = PatchParams::apply(manager).force();
    api.patch_status(&name.name, &how, &Patch::Apply(applied))
        .await?;
    Ok(())
}

fn condition(
    type_: ConditionType,
    aspect: &Aspect,
    generation: i64,
    before: &EipBindingStatus,
) -> Condition {
    let now = jiff::Timestamp::now().as_second();
    let now = jiff::Timestamp::from_second(now).unwrap_or_default();
    let condition = Condition {
        status: aspect.status,
        reason: aspect.reason.clone(),
        message: aspect.message.clone(),
        last_transition_time: now.to_string(),
        observed_generation: Some(generation),
        type_,
    };
    let before = before.condition(&condition.type_);
    condition.after(before)
}

/// The node's address toward its neighbours, of the family of an EIP.
fn segment_address(report: &Report, eip: IpAddr) -> Option<IpAddr> {
    let settings = report.settings.as_ref()?;
    let uplinks = settings.uplinks.iter().filter_map(|name| {
        let mut links = report.view.links.values();
        links.find(|link| link.name == *name)
    });
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    uplinks
        .flat_map(|link| {
            let own = report.view.addresses.iter();
            own.filter(|own| own.ifindex == link.ifindex)
        })
        .map(|own| own.address.addr())
        .find(|address| address.is_ipv4() == eip.is_ipv4() && !is_link_local(address))
}

/// What a report says about one binding; nothing about one that is another node's.
fn said(binding: &BindingReport, report: &Report, network: &Network, node: &str) -> Option<Said> {
    let fact = &binding.fact;
    let conditions = conditions(binding, report, network)?;
    let mut serving = Serving {
        node: node.to_owned(),
        ..Serving::default()
    };
    if let (Outcome::Served { .. }, Some(state)) = (&binding.outcome, &binding.programmed) {
        serving.node_address = segment_address(report, fact.eip).map(|found| found.to_string());
        serving.eip = Some(fact.eip.to_string());
        serving.vm_address = Some(state.vm.to_string());
        serving.interface = report
            .view
            .links
            .get(&state.port)
            .map(|link| link.name.clone());
        let delivery = eip_common::abi::Delivery::from(state.delivery);
        serving.delivery = Some(delivery.name().to_owned());
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        serving.peers = some(&conditions.told.peers);
        serving.uplinks = some(&conditions.told.uplinks);
    }
    Some(Said {
        serving,
        programmed: conditions.programmed,
        announced: conditions.announced,
        generation: i64::try_from(fact.generation).unwrap_or(i64::MAX),
    })
}
