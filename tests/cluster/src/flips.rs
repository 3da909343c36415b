//! An object whose status changes as fast as the API server takes it, and what that makes others write.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use eip_daemon::source::{
    kube::client::{connect, follow, resource},
    objects::{BINDING_API, BINDING_KIND, VM_APIS, VM_KIND},
};
use eip_lab::netns::Ns;
use futures::{StreamExt as _, stream};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::DynamicObject,
    runtime::watcher::Event,
};
use serde_json::{Value, json};
use tokio::runtime::Builder;

/// Changes under way at once.
const WRITERS: usize = 4;
const SECOND: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Flips {
    /// Changes the API server has stored.
    pub stored: usize,
    /// The most of them within one second.
    pub in_a_second: usize,
    /// Versions of the binding that were stored meanwhile.
    pub writes: usize,
    /// How long it took.
    pub took: Duration,
}

/// Gives a VM one status after the other until `enough` were stored, and counts what becomes of a binding.
///
/// # Errors
/// With what the API server said.
pub fn flip(
    place: &Ns,
    kubeconfig: &Path,
    (vm, binding): (&str, &str),
    states: &[Value],
    enough: usize,
) -> anyhow::Result<Flips> {
    place.run(|| {
        // One thread: its sockets are where the API server is.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = connect(Some(kubeconfig)).await?;
            let vms = resource(VM_APIS[0], VM_KIND, "virtualmachineinstances");
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &vms);
            let bindings = resource(BINDING_API, BINDING_KIND, "eipbindings");
            let mut versions = follow(&client, &bindings, None);
            let changes =
                stream::iter(states.iter().cycle().zip(0_u64..)).map(|(state, number)| {
                    let mut change = state.clone();
                    // Each is another object, or nothing is stored.
                    change["status"]["flip"] = json!(number);
                    let api = api.clone();
                    async move {
                        let how = PatchParams::default();
                        api.patch(vm, &how, &Patch::Merge(change)).await
                    }
                });
            let mut changes = changes.buffer_unordered(WRITERS);
            let (began, mut stored, mut writes) = (Instant::now(), Vec::new(), 0);
            let mut in_a_second = 0;
            while stored.len() < enough {
                tokio::select! {
                    Some(change) = changes.next() => match change {
                        Ok(_) => {
                            stored.push(Instant::now());
                            in_a_second = in_a_second.max(of_last_second(&stored));
                        }
                        // Two at once: one of them was first.
                        Err(kube::Error::Api(said)) if said.code == 409 => {}
                        Err(error) => return Err(error).context("change the VM"),
                    },
                    Some(change) = versions.next() => {
                        let is_it = |object: &DynamicObject| {
                            object.metadata.name.as_deref() == Some(binding)
                        };
                        writes += usize::from(matches!(&change, Event::Apply(one) if is_it(one)));
                    }
                }
            }
            Ok(Flips {
                stored: stored.len(),
                in_a_second,
                writes,
                took: began.elapsed(),
            })
        })
    })
}

fn of_last_second(times: &[Instant]) -> usize {
    let Some(last) = times.last() else { return 0 };
    let recent = |time: &&Instant| last.duration_since(**time) < SECOND;
    times.iter().rev().take_while(recent).count()
}
