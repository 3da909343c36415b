//! What a binding is to be told, and the writes that tell it. Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{
    object::{Binding, NetworkKind, OLD_FINALIZER, Vm},
    place::{self, Grant, Place, Reason, Sought},
    registry::{Claim, Registry},
};
use crate::{
    model::{ObjectName, TargetKind, target_text},
    source::{
        kube::{NODE_LABEL, OTHER_NODE_LABEL},
        objects::{
            BINDING_API, BINDING_KIND, Condition, ConditionStatus, ConditionType, EipBindingStatus,
        },
    },
};

/// What the controller makes of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The elastic IP it holds, whether its VM runs or not.
    pub(super) held: Option<IpAddr>,
    /// Where it is to be served.
    pub(super) grant: Option<Grant>,
    /// Another node that is concerned.
    pub(super) other_node: Option<String>,
    /// Whether it works.
    pub(super) is_ready: bool,
    /// Why.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
}

/// One write to the API server. Several of them are needed for one verdict; each leaves a state
/// from which the next one, by whomever, goes on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    /// Server-side apply of the status.
    Status(Value),
    /// Merge of labels and finalizers.
    Metadata(Value),
}

/// Decides. `None` when there is no such binding.
#[must_use]
pub(super) fn decide(registry: &Registry, name: &ObjectName) -> Option<Verdict> {
    let binding = registry.binding(name)?;
    Some(judge(registry, name, binding).unwrap_or_else(|refusal| *refusal))
}

fn judge(
    registry: &Registry,
    name: &ObjectName,
    binding: &Binding,
) -> Result<Verdict, Box<Verdict>> {
    if binding.is_deleting {
        return Err(refused(Reason::Deleting, "the object is being deleted"));
    }
    let invalid = |message: String| refused(Reason::Invalid, &message);
    let spec = binding.spec.as_ref().map_err(|e| invalid(e.clone()))?;
    let eip = spec.eip().map_err(|error| invalid(error.to_string()))?;
    let (kind, vm_name) = spec
        .target(&name.namespace)
        .map_err(|error| invalid(error.to_string()))?;
    if let TargetKind::Address(_) = kind {
        // Nothing in a cluster says whose an address is: it could be another tenant's.
        let message = "spec.target.kind: Address is for documents of a node";
        return Err(invalid(message.to_owned()));
    }
    let interface = spec
        .interface(kind)
        .map_err(|error| invalid(error.to_string()))?;
    match registry.claim(name, eip) {
        Claim::Own => {}
        Claim::HeldBy(other) => {
            let message = format!("{eip} is held by {}", named(&other, name));
            return Err(refused(
                Reason::Conflict,
                &format!("{message}: choose another address or delete that binding"),
            ));
        }
        Claim::BeingReleasedBy(other) => {
            let message = format!("{eip} is being released by {}", named(&other, name));
            return Err(refused(Reason::Conflict, &message));
        }
    }
    let waiting = |reason: Reason, message: String| {
        let mut verdict = refused(reason, &message);
        verdict.held = Some(eip);
        verdict
    };
    let told = |reason: Reason, message: String| {
        let (reason, message) = match kind {
            TargetKind::Pod => of_pod(reason, message, &vm_name, eip),
            TargetKind::Vm | TargetKind::Address(_) => (reason, message),
        };
        waiting(reason, message)
    };
    let vm = registry.vm(&vm_name).ok_or_else(|| {
        let message = format!("there is no {}", target_text(&vm_name));
        told(Reason::VmNotFound, message)
    })?;
    if vm.is_host_network {
        let message = "it uses the network of its node and has no address of its own";
        let message = format!("{}: {message}", target_text(&vm_name));
        return Err(waiting(Reason::PodHasNoAddress, message));
    }
    let pods = registry.pods_of(&vm_name, &vm.uid);
    let before = granted(&binding.status);
    let network = network(vm, interface.as_deref(), registry.trusts_network_status())
        .map_err(|(reason, message)| waiting(reason, message))?;
    let sought = Sought {
        is_ipv4: eip.is_ipv4(),
        network,
    };
    match place::place(vm, &pods, sought, before.as_ref()) {
        Place::Nowhere { reason, message } => Err(told(reason, message)),
        Place::At { grant, note } => {
            let other_node = place::other_node(Some(&grant), &pods);
            Ok(served(binding, eip, grant, other_node, note))
        }
    }
}

/// The VM's network of a name; the pod network without one.
fn network<'a>(
    vm: &'a Vm,
    name: Option<&str>,
    is_trusted: bool,
) -> Result<&'a NetworkKind, (Reason, String)> {
    let Some(name) = name else {
        return Ok(&NetworkKind::Pod);
    };
    let Some(found) = vm.networks.iter().find(|network| network.name == name) else {
        let known: Vec<&str> = vm.networks.iter().map(|one| one.name.as_str()).collect();
        let message = format!(
            "the VM has no network {name:?} (it has {}): correct spec.interface, or leave it out for the \
             pod network",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        );
        return Err((Reason::InterfaceNotFound, message));
    };
    if found.kind != NetworkKind::Pod && !is_trusted {
        let message = format!(
            "only an annotation of its pod says which address the VM has on {name:?}, and whoever may edit \
             the pod can change that: the controller believes it with --trust-network-status alone"
        );
        return Err((Reason::InterfaceUnverified, message));
    }
    Ok(&found.kind)
}

/// What is said of a VM and its pod, said of a pod that is both.
fn of_pod(reason: Reason, message: String, name: &ObjectName, eip: IpAddr) -> (Reason, String) {
    let pod = target_text(name);
    let family = if eip.is_ipv4() { "IPv4" } else { "IPv6" };
    match reason {
        Reason::VmNotFound => (Reason::PodNotFound, message),
        Reason::VmNotRunning => (Reason::PodNotRunning, format!("{pod} is not running")),
        Reason::VmHasNoAddress | Reason::AddressUnverified => {
            let text = format!("{pod} has no {family} address");
            (Reason::PodHasNoAddress, text)
        }
        other => (other, message),
    }
}

/// Objects of other namespaces are nobody's business.
fn named(other: &ObjectName, viewer: &ObjectName) -> String {
    if other.namespace == viewer.namespace {
        format!("EipBinding {}", other.name)
    } else {
        "an EipBinding of another namespace".to_owned()
    }
}

fn refused(reason: Reason, message: &str) -> Box<Verdict> {
    Box::new(Verdict {
        held: None,
        grant: None,
        other_node: None,
        is_ready: false,
        reason: reason.name().to_owned(),
        message: message.to_owned(),
    })
}

/// Ready is what the node that serves it says, if it speaks of this grant.
fn served(
    binding: &Binding,
    eip: IpAddr,
    grant: Grant,
    other_node: Option<String>,
    note: Option<String>,
) -> Verdict {
    let (is_ready, reason, message) = readiness(&binding.status, eip, &grant);
    let message = match note {
        Some(note) => format!("{message}; {note}"),
        None => message,
    };
    Verdict {
        held: Some(eip),
        grant: Some(grant),
        other_node,
        is_ready,
        reason,
        message,
    }
}

fn readiness(status: &EipBindingStatus, eip: IpAddr, grant: &Grant) -> (bool, String, String) {
    let node = &grant.node;
    let pending = || {
        let message = format!("{node} has not reported yet");
        (false, Reason::Pending.name().to_owned(), message)
    };
    let Some(serving) = status.serving.as_ref().filter(|said| said.node == *node) else {
        return pending();
    };
    let Some(programmed) = status.condition(&ConditionType::Programmed) else {
        return pending();
    };
    if programmed.status != ConditionStatus::True {
        return (false, programmed.reason.clone(), programmed.message.clone());
    }
    let same = |text: &Option<String>, address: IpAddr| {
        text.as_deref().and_then(|text| text.parse().ok()) == Some(address)
    };
    if !same(&serving.eip, eip) || !same(&serving.vm_address, grant.address) {
        return pending();
    }
    match status.condition(&ConditionType::Announced) {
        Some(announced) if announced.status == ConditionStatus::False => {
            (false, announced.reason.clone(), announced.message.clone())
        }
        _ => {
            let message = format!("{node} translates {eip} to {}", grant.address);
            (true, Reason::Serving.name().to_owned(), message)
        }
    }
}

/// What the status says was granted.
#[must_use]
pub(super) fn granted(status: &EipBindingStatus) -> Option<Grant> {
    Some(Grant {
        node: status.node.clone()?,
        address: status.vm_address.as_deref()?.parse().ok()?,
        uid: status.vm_uid.clone()?,
    })
}

impl Verdict {
    /// The next write that brings the object nearer to the verdict; `None` when it says all that.
    /// The status goes first: an agent that sees its label finds the grant already there.
    #[must_use]
    pub(super) fn next_write(
        &self,
        name: &ObjectName,
        binding: &Binding,
        now: &str,
    ) -> Option<Write> {
        let condition = self.condition(binding, now);
        if self.is_new(binding, &condition) {
            return Some(Write::Status(self.status(name, binding, &condition)));
        }
        self.metadata(binding).map(Write::Metadata)
    }

    fn condition(&self, binding: &Binding, now: &str) -> Condition {
        let condition = Condition {
            type_: ConditionType::Ready,
            status: if self.is_ready {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            },
            reason: self.reason.clone(),
            message: self.message.clone(),
            last_transition_time: now.to_owned(),
            observed_generation: Some(binding.generation),
        };
        condition.after(binding.status.condition(&ConditionType::Ready))
    }

    fn is_new(&self, binding: &Binding, condition: &Condition) -> bool {
        let status = &binding.status;
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string());
        let grant = self.grant.as_ref();
        status.observed_generation != Some(binding.generation)
            || status.eip != text(self.held)
            || status.node.as_ref() != grant.map(|grant| &grant.node)
            || status.vm_address != text(grant.map(|grant| grant.address))
            || status.vm_uid.as_ref() != grant.map(|grant| &grant.uid)
            || status.condition(&ConditionType::Ready) != Some(condition)
    }

    fn status(&self, name: &ObjectName, binding: &Binding, condition: &Condition) -> Value {
        let grant = self.grant.as_ref();
        let status = EipBindingStatus {
            observed_generation: Some(binding.generation),
            eip: self.held.map(|address| address.to_string()),
            node: grant.map(|grant| grant.node.clone()),
            vm_address: grant.map(|grant| grant.address.to_string()),
            vm_uid: grant.map(|grant| grant.uid.clone()),
            conditions: Some(vec![condition.clone()]),
            ..EipBindingStatus::default()
        };
        json!({
            "apiVersion": BINDING_API,
            "kind": BINDING_KIND,
            "metadata": {
                "name": name.name,
                "namespace": name.namespace,
                "resourceVersion": binding.resource_version,
            },
            "status": status,
        })
    }

    /// Labels as they should be, and the older operator's finalizer, which nobody serves any more.
    fn metadata(&self, binding: &Binding) -> Option<Value> {
        let node = self.grant.as_ref().map(|grant| &grant.node);
        let mut labels = serde_json::Map::new();
        for (label, wanted) in [
            (NODE_LABEL, node),
            (OTHER_NODE_LABEL, self.other_node.as_ref()),
        ] {
            if binding.labels.get(label) != wanted {
                labels.insert(label.to_owned(), json!(wanted));
            }
        }
        let mut metadata = serde_json::Map::new();
        if !labels.is_empty() {
            metadata.insert("labels".to_owned(), Value::Object(labels));
        }
        let is_old = |finalizer: &String| finalizer == OLD_FINALIZER;
        if binding.finalizers.iter().any(is_old) {
            let others: Vec<&String> = binding.finalizers.iter().filter(|f| !is_old(f)).collect();
            metadata.insert("finalizers".to_owned(), json!(others));
        }
        if metadata.is_empty() {
            return None;
        }
        metadata.insert(
            "resourceVersion".to_owned(),
            json!(binding.resource_version),
        );
        Some(json!({ "metadata": metadata }))
    }
}
