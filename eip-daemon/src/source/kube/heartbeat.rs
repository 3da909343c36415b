//! The node's Lease: proof that the API server hears this agent and that it may write.
//!
//! Only where a policy wants it: every node writes one object every few seconds, as the kubelet does.

use std::{convert::Infallible, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::clock::boot_time;

/// Where the Leases are.
const NAMESPACE: &str = "kube-eip";
/// Longest time between two writes.
const LONGEST: Duration = Duration::from_secs(10);

/// The Lease of a node. A node's name may be as long as a Lease's less than this.
fn name(node: &str) -> String {
    format!("agent.{node}")
}

/// Renews the node's Lease until it is to stop. `contact` gets the time, in nanoseconds of
/// `CLOCK_BOOTTIME`, at which the last write that was taken had begun.
///
/// # Errors
/// None.
pub async fn start(
    client: Client,
    node: String,
    duration: Duration,
    contact: watch::Sender<Option<u64>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Infallible> {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let pause = (duration / 4).min(LONGEST);
    let mut is_troubled = false;
    loop {
        let began = boot_time();
        let write = tokio::time::timeout(pause, renew(&api, &node, duration));
        let done = tokio::select! {
            done = write => done,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let error = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        match error {
            None => {
                if is_troubled {
                    info!("the API server takes this node's Lease again");
                }
                is_troubled = false;
                contact.send_replace(Some(began));
            }
            Some(error) if is_troubled => debug!(error, "renew this node's Lease"),
            Some(error) => {
                warn!(
                    error,
                    "renew this node's Lease; elastic IPs are fenced when it runs out"
                );
                is_troubled = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

async fn renew(api: &Api<Lease>, node: &str, duration: Duration) -> Result<(), kube::Error> {
    let name = name(node);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": duration.as_secs(),
            "renewTime": format!("{:.6}", jiff::Timestamp::now()),
        },
    });
    let how = PatchParams::apply("kube-eip-agent").force();
    api.patch(&name, &how, &Patch::Apply(lease)).await?;
    Ok(())
}
