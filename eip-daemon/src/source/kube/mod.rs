//! Objects from the API server: the bindings this node is concerned with, and the networks of the
//! cluster.
//!
//! The agent watches by label what the controller has granted to this node. A grant says which elastic
//! IP, which VM and at which address (the address of its virt-launcher pod, which the controller has
//! verified), so the agent reads no VMs and no pods: the facts are those a directory would give.
//!
//! What was known when the process ended is kept in a file. It is published first, as facts that are
//! not complete: a node that restarts without the API server serves what it served, and nothing is
//! removed before every list has been read once.

mod arrivals;
pub mod client;
pub(crate) mod collect;
mod heartbeat;
mod snapshot;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{
    StreamExt as _,
    stream::{BoxStream, ReadyChunks, SelectAll, select_all},
};
use kube::{Client, core::DynamicObject, runtime::watcher::Event};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{debug, info, warn};

pub use heartbeat::start as start_heartbeat;

use self::{
    arrivals::Arrivals,
    client::{Changes, follow, resource},
    collect::{Collection, Stream},
};
use super::objects::{
    BINDING_API, BINDING_KIND, NODE_API, NODE_KIND, PEER_API, PEER_KIND, SERVICE_CIDR_APIS,
    SERVICE_CIDR_KIND,
};
use crate::{clock::boot_time, model::Facts};

/// Label with the node that is to serve a binding.
pub const NODE_LABEL: &str = "virteip.github.com/node";
/// Label with another node that is concerned: where the VM migrates to, or came from.
pub const OTHER_NODE_LABEL: &str = "virteip.github.com/other-node";

/// Changes that come together are one publication.
const BATCH: usize = 1024;
/// Longest time the file may lag behind.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// What the source needs to know.
#[derive(Debug, Clone)]
pub struct KubeOptions {
    /// Name of this node in the cluster.
    pub node: String,
    /// Where the last facts are kept.
    pub snapshot: PathBuf,
    /// How long peers are told of this node too, after another one has taken over a binding.
    pub hand_over: Option<Duration>,
    /// Asks for everything to be read again: what is known may have been slept through.
    pub reread: Arc<Notify>,
}

/// Starts to follow the API server. The task ends when every receiver is gone; aborting it is safe.
#[must_use]
pub fn start(client: Client, options: KubeOptions) -> (watch::Receiver<Facts>, JoinHandle<()>) {
    let known = match snapshot::load(&options.snapshot, &options.node) {
        Ok(facts) => facts,
        Err(error) => {
            warn!(file = %options.snapshot.display(), %error, "read what was known before");
            Facts::default()
        }
    };
    let (sender, facts) = watch::channel(known);
    (facts, tokio::spawn(run(client, options, sender)))
}

async fn run(client: Client, options: KubeOptions, sender: watch::Sender<Facts>) {
    let mut collection = Collection::new(options.node.clone(), options.hand_over);
    let mut began = boot_time();
    collection.resume(&sender.borrow(), Instant::now().into_std(), began);
    let mut changes = all_changes(&client, &options.node);
    let mut arrivals = Arrivals::default();
    let mut save_at: Option<Instant> = None;
    loop {
        let settle_at = collection.next_time().map(Instant::from_std);
        let wake = save_at.into_iter().chain(settle_at).min();
        let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_mins(1));
        tokio::select! {
            () = sender.closed() => break,
            Some(batch) = changes.next() => {
                let now = Instant::now().into_std();
                let mut is_other = false;
                for (stream, change) in batch {
                    is_other |= collection.take(stream, change, now);
                }
                // A cluster of a thousand nodes writes several of them a second.
                if !is_other {
                    continue;
                }
            }
            () = tokio::time::sleep_until(wake) => collection.settle(Instant::now().into_std()),
            // A reading that is under way already is new enough, or will be asked for again.
            () = options.reread.notified(), if collection.is_complete() => {
                info!("reading everything again");
                began = boot_time();
                changes = all_changes(&client, &options.node);
                collection.read_again();
            }
        }
        if !collection.is_complete() {
            continue;
        }
        let mut facts = Facts {
            read_at: Some(began),
            ..collection.facts()
        };
        let now = jiff::Timestamp::now().as_second();
        arrivals.mark(&mut facts, &collection.coming(), now);
        if publish(&sender, facts) {
            save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
        }
        if save_at.is_some_and(|time| time <= Instant::now()) {
            save_at = None;
            save(&options, &sender.borrow().clone());
        }
    }
}

type Batches = ReadyChunks<SelectAll<BoxStream<'static, (Stream, Event<DynamicObject>)>>>;

fn all_changes(client: &Client, node: &str) -> Batches {
    let all = Stream::ALL.map(|stream| {
        let changes = changes(client, stream, node);
        changes.map(move |change| (stream, change)).boxed()
    });
    select_all(all).ready_chunks(BATCH)
}

fn changes(client: &Client, stream: Stream, node: &str) -> Changes {
    let labelled = |label: &str| {
        let bindings = resource(BINDING_API, BINDING_KIND, "eipbindings");
        follow(client, &bindings, Some(&format!("{label}={node}")))
    };
    match stream {
        Stream::Bindings => labelled(NODE_LABEL),
        Stream::OtherBindings => labelled(OTHER_NODE_LABEL),
        Stream::Nodes => follow(client, &resource(NODE_API, NODE_KIND, "nodes"), None),
        Stream::Peers => follow(client, &resource(PEER_API, PEER_KIND, "bgppeers"), None),
        Stream::ServiceCidrs => {
            let ranges = resource(SERVICE_CIDR_APIS[0], SERVICE_CIDR_KIND, "servicecidrs");
            follow(client, &ranges, None)
        }
    }
}

/// `true` when these are other facts than before.
fn publish(sender: &watch::Sender<Facts>, facts: Facts) -> bool {
    sender.send_if_modified(|current| {
        let is_new = *current != facts;
        if is_new {
            debug!(
                bindings = facts.bindings.len(),
                nets = facts.nets.len(),
                refused = facts.refused.len(),
                "facts changed"
            );
            *current = facts;
        }
        is_new
    })
}

fn save(options: &KubeOptions, facts: &Facts) {
    if let Err(error) = snapshot::save(&options.snapshot, &options.node, facts) {
        warn!(file = %options.snapshot.display(), %error, "keep what is known for the next start");
    }
}
