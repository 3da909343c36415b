//! The API server, asked by many at once.

use std::{collections::BTreeMap, future::Future, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, bail};
use eip_cluster_tests::kubevirt;
use eip_daemon::source::{
    kube::{
        NODE_LABEL,
        client::{connect, resource},
    },
    objects::{BINDING_API, BINDING_KIND, NODE_API, NODE_KIND, VM_APIS, VM_KIND},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::{plan::Vm, probe::Progress};

/// Requests under way at once.
const WRITERS: usize = 32;
/// Bytes of annotations on VMs and pods: real ones are of this size.
const BALLAST: usize = 6000;
/// Label of the bindings for one VM.
const CROWD: &str = "bench-crowd";

/// A connection, with the administrator's rights.
pub(crate) struct Server {
    runtime: Runtime,
    client: Client,
}

impl Server {
    pub(crate) fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        // One thread: its sockets are where the caller's are.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(Some(kubeconfig)))?;
        Ok(Self { runtime, client })
    }

    fn all(&self, kind: Kind) -> Api<DynamicObject> {
        match kind {
            Kind::Node => Api::all_with(self.client.clone(), &kind.resource()),
            Kind::Vm | Kind::Pod | Kind::Binding => {
                Api::namespaced_with(self.client.clone(), "default", &kind.resource())
            }
        }
    }

    /// Runs one request for each item, many at once.
    fn each<T, F>(&self, what: &str, items: &[T], request: impl Fn(T) -> F) -> anyhow::Result<()>
    where
        T: Clone,
        F: Future<Output = anyhow::Result<()>>,
    {
        let mut progress = Progress::new(what, items.len());
        let requests = stream::iter(items.to_vec()).map(request);
        let done = requests.buffer_unordered(WRITERS).try_for_each(|()| {
            progress.step();
            std::future::ready(Ok(()))
        });
        self.runtime.block_on(done).context(what.to_owned())
    }

    /// Writes nodes that are objects only.
    pub(crate) fn write_nodes(&self, nodes: &[(String, String)]) -> anyhow::Result<()> {
        let api = self.all(Kind::Node);
        self.each("nodes", nodes, |(name, pod_cidr)| {
            let api = api.clone();
            async move {
                create(&api, &kubevirt::node(&name, &pod_cidr))
                    .await
                    .map(drop)
            }
        })
    }

    /// Writes running VMs and their pods.
    pub(crate) fn write_vms(&self, vms: &[Vm]) -> anyhow::Result<()> {
        let (of_vms, of_pods) = (self.all(Kind::Vm), self.all(Kind::Pod));
        self.each("VMs and their pods", vms, |vm| {
            let (of_vms, of_pods) = (of_vms.clone(), of_pods.clone());
            async move {
                let object = kubevirt::running(&vm.name, &vm.node, vm.address);
                let stored = create(&of_vms, &heavy(object)).await?;
                let uid = stored.metadata.uid.context("a VM without uid")?;
                let pod = kubevirt::launcher(&vm.name, &vm.name, &uid, &vm.node);
                create(&of_pods, &heavy(pod)).await?;
                let status = json!({"status": {
                    "phase": "Running", "podIP": vm.address, "podIPs": [{"ip": vm.address}]
                }});
                let (how, change) = (PatchParams::default(), Patch::Merge(status));
                of_pods.patch_status(&vm.name, &how, &change).await?;
                Ok(())
            }
        })
    }

    /// Writes bindings.
    pub(crate) fn write_bindings(&self, vms: &[Vm]) -> anyhow::Result<()> {
        let api = self.all(Kind::Binding);
        self.each("bindings", vms, |vm| {
            let (api, object) = (api.clone(), binding(&vm));
            async move { create(&api, &object).await.map(drop) }
        })
    }

    /// Writes bindings to one VM.
    pub(crate) fn write_crowd(&self, eips: &[Ipv4Addr], vm: &Vm) -> anyhow::Result<()> {
        let api = self.all(Kind::Binding);
        self.each("bindings for one VM", eips, |eip| {
            let name = format!("crowd-{}", eip.to_string().replace('.', "-"));
            let mut object = kubevirt::binding(&name, eip, &vm.name);
            object["metadata"]["labels"] = json!({CROWD: "yes"});
            let api = api.clone();
            async move { create(&api, &object).await.map(drop) }
        })
    }

    /// How many of the crowd have which reason; none of those that were not looked at.
    pub(crate) fn reasons_of_crowd(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let api = self.all(Kind::Binding);
        let how = ListParams::default().labels(CROWD);
        let mut reasons = BTreeMap::new();
        for object in self.runtime.block_on(api.list(&how))?.items {
            let ready = ready(&object).and_then(|condition| condition["reason"].as_str());
            let reason = ready.unwrap_or_default().to_owned();
            *reasons.entry(reason).or_default() += 1;
        }
        Ok(reasons)
    }

    /// `kubectl apply --server-side` of a binding, without the time kubectl takes to start.
    pub(crate) fn bind(&self, vm: &Vm) -> anyhow::Result<()> {
        let how = PatchParams::apply("bench").force();
        let api = self.all(Kind::Binding);
        let change = Patch::Apply(binding(vm));
        self.runtime.block_on(api.patch(&vm.name, &how, &change))?;
        Ok(())
    }

    /// Deletes a binding.
    pub(crate) fn unbind(&self, vm: &Vm) -> anyhow::Result<()> {
        let api = self.all(Kind::Binding);
        self.runtime
            .block_on(api.delete(&vm.name, &DeleteParams::default()))?;
        Ok(())
    }

    /// Whether a binding says that it is ready.
    pub(crate) fn is_ready(&self, vm: &Vm) -> anyhow::Result<bool> {
        let api = self.all(Kind::Binding);
        Ok(is_ready(&self.runtime.block_on(api.get(&vm.name))?))
    }

    /// Bindings of a node, and how many of them are ready; of all nodes without a name.
    pub(crate) fn count(&self, node: Option<&str>) -> anyhow::Result<Bindings> {
        let api = self.all(Kind::Binding);
        let mut how = ListParams::default();
        if let Some(node) = node {
            how = how.labels(&format!("{NODE_LABEL}={node}"));
        }
        let list = self.runtime.block_on(api.list(&how))?;
        let is_granted = |object: &&DynamicObject| {
            let labels = object.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key(NODE_LABEL))
        };
        Ok(Bindings {
            granted: list.items.iter().filter(is_granted).count(),
            ready: list.items.iter().filter(|object| is_ready(object)).count(),
        })
    }

    /// Writes the status of each node, as its kubelet does from time to time.
    pub(crate) fn beat(&self, node: &str, number: u32) -> anyhow::Result<()> {
        let api = self.all(Kind::Node);
        let status = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": format!("heartbeat {number}"),
        }]}});
        let how = PatchParams::default();
        self.runtime
            .block_on(api.patch_status(node, &how, &Patch::Strategic(status)))?;
        Ok(())
    }
}

/// What bindings say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bindings {
    /// Granted to a node.
    pub(crate) granted: usize,
    /// Ready.
    pub(crate) ready: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Node,
    Vm,
    Pod,
    Binding,
}

impl Kind {
    fn resource(self) -> ApiResource {
        match self {
            Self::Node => resource(NODE_API, NODE_KIND, "nodes"),
            Self::Pod => resource("v1", "Pod", "pods"),
            Self::Vm => resource(VM_APIS[0], VM_KIND, "virtualmachineinstances"),
            Self::Binding => resource(BINDING_API, BINDING_KIND, "eipbindings"),
        }
    }
}

async fn create(api: &Api<DynamicObject>, object: &Value) -> anyhow::Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    match api.create(&PostParams::default(), &object).await {
        Ok(stored) => Ok(stored),
        Err(error) => bail!("create {:?}: {error}", object.metadata.name),
    }
}

fn binding(vm: &Vm) -> Value {
    kubevirt::binding(&vm.name, vm.eip, &vm.name)
}

fn heavy(mut object: Value) -> Value {
    object["metadata"]["annotations"] = json!({"bench/ballast": "x".repeat(BALLAST)});
    object
}

fn ready(object: &DynamicObject) -> Option<&Value> {
    let conditions = object.data["status"]["conditions"].as_array();
    conditions?.iter().find(|one| one["type"] == "Ready")
}

fn is_ready(object: &DynamicObject) -> bool {
    ready(object).is_some_and(|condition| condition["status"] == "True")
}
