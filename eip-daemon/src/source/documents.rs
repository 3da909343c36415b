//! From the text of a file to objects. A file is split into documents before anything is parsed, so a
//! syntax error in one document does not hurt the others of the file.

use std::path::Path;

use serde_yaml_ng::Value;

use super::objects::{
    BINDING_API, BINDING_KIND, BINDING_SPEC, BgpPeer, EipBinding, Metadata, NODE_API, NODE_KIND,
    Node, PEER_API, PEER_KIND, PEER_SPEC, POD_API, POD_KIND, Pod, SERVICE_CIDR_APIS,
    SERVICE_CIDR_KIND, ServiceCidr, VM_APIS, VM_KIND, VirtualMachineInstance,
};
use crate::model::{
    BindingFact, NetFact, NodeFact, ObjectName, Origin, PeerFact, RefusedDocument, VmFact,
};

mod hint;
mod text;

use hint::did_you_mean;
use text::{Problem, Source, split};

#[cfg(test)]
mod tests;

/// An object somebody wrote down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    /// An `EipBinding`.
    Binding(BindingFact),
    /// A `VirtualMachineInstance`, or a plain `Pod`.
    Vm(VmFact),
    /// A `Node`, for its pod networks and its peers.
    Node(NetFact, NodeFact),
    /// A `ServiceCIDR`.
    ServiceCidr(NetFact),
    /// A `BgpPeer`.
    Peer(Box<PeerFact>),
}

/// What makes two documents the same object.
pub(super) type ObjectKey = (&'static str, ObjectName);

impl Object {
    pub(super) fn key(&self) -> ObjectKey {
        match self {
            Self::Binding(fact) => (BINDING_KIND, fact.name.clone()),
            Self::Vm(fact) => (VM_KIND, fact.name.clone()),
            Self::Node(fact, _) => (NODE_KIND, fact.name.clone()),
            Self::ServiceCidr(fact) => (SERVICE_CIDR_KIND, fact.name.clone()),
            Self::Peer(fact) => (PEER_KIND, fact.name.clone()),
        }
    }

    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Binding(fact) => fact.origin.as_ref(),
            Self::Vm(fact) => fact.origin.as_ref(),
            Self::Node(fact, _) | Self::ServiceCidr(fact) => fact.origin.as_ref(),
            Self::Peer(fact) => fact.origin.as_ref(),
        }
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reading {
    pub(super) objects: Vec<Object>,
    pub(super) refused: Vec<RefusedDocument>,
}

/// A kind this agent reads. A new kind is a new row of [`KINDS`].
struct Kind {
    name: &'static str,
    apis: &'static [&'static str],
    /// Every field of `spec`, where an unknown one is a mistake.
    spec: Option<&'static [&'static str]>,
    read: fn(&Source<'_>, Value, Origin) -> Result<Object, Problem>,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: BINDING_KIND,
        apis: &[BINDING_API],
        spec: Some(&BINDING_SPEC),
        read: |source, value, origin| {
            let binding: EipBinding = source.typed(value)?;
            Ok(Object::Binding(binding.into_fact(Some(origin))?))
        },
    },
    Kind {
        name: VM_KIND,
        apis: &VM_APIS,
        spec: None,
        read: |source, value, origin| {
            let vm: VirtualMachineInstance = source.typed(value)?;
            Ok(Object::Vm(vm.into_fact(Some(origin))?))
        },
    },
    Kind {
        name: POD_KIND,
        apis: &[POD_API],
        spec: None,
        read: |source, value, origin| {
            let pod: Pod = source.typed(value)?;
            Ok(Object::Vm(pod.into_fact(Some(origin))?))
        },
    },
    Kind {
        name: NODE_KIND,
        apis: &[NODE_API],
        spec: None,
        read: |source, value, origin| {
            let node: Node = source.typed(value)?;
            let fact = node.node_fact();
            Ok(Object::Node(node.into_fact(Some(origin))?, fact))
        },
    },
    Kind {
        name: PEER_KIND,
        apis: &[PEER_API],
        spec: Some(&PEER_SPEC),
        read: |source, value, origin| {
            let peer: BgpPeer = source.typed(value)?;
            Ok(Object::Peer(Box::new(peer.into_fact(Some(origin))?)))
        },
    },
    Kind {
        name: SERVICE_CIDR_KIND,
        apis: &SERVICE_CIDR_APIS,
        spec: None,
        read: |source, value, origin| {
            let range: ServiceCidr = source.typed(value)?;
            Ok(Object::ServiceCidr(range.into_fact(Some(origin))?))
        },
    },
];

/// Reads all documents of a file.
pub(super) fn read(file: &Path, text: &str) -> Reading {
    let is_json = file
        .extension()
        .is_some_and(|extension| extension == "json");
    let sources = if is_json {
        vec![Source::json(text)]
    } else {
        split(text)
    };
    let mut reading = Reading::default();
    for (index, source) in sources.iter().enumerate() {
        let origin = Origin {
            file: file.to_owned(),
            document: index + 1,
        };
        match source.parse() {
            Ok(value) => read_value(source, value, &origin, &mut reading),
            Err(problem) => reading.refused.push(source.refusal(problem, origin, None)),
        }
    }
    reading
}

/// One object, or each item of a list.
fn read_value(source: &Source<'_>, value: Value, origin: &Origin, reading: &mut Reading) {
    let is_list = text_of(&value, "kind").is_some_and(|kind| kind.ends_with("List"));
    let items = match value.get("items") {
        Some(Value::Sequence(items)) if is_list => items.clone(),
        _ => vec![value],
    };
    for (index, item) in items.into_iter().enumerate() {
        let name = name_of(&item);
        match read_object(source, item, origin) {
            Ok(object) => reading.objects.push(object),
            Err(mut problem) => {
                if is_list {
                    // The same field names stand in every item: no line can be told.
                    let text = format!("items[{index}]: {}", problem.text);
                    problem = Problem::whole(text);
                }
                reading
                    .refused
                    .push(source.refusal(problem, origin.clone(), name));
            }
        }
    }
}

fn read_object(source: &Source<'_>, value: Value, origin: &Origin) -> Result<Object, Problem> {
    let kind = kind_of(&value)?;
    if let Some(known) = kind.spec {
        only_known_fields(&value, known)?;
    }
    (kind.read)(source, without_nulls(value), origin.clone())
}

fn kind_of(value: &Value) -> Result<&'static Kind, Problem> {
    let Some(name) = text_of(value, "kind") else {
        return Err(Problem::whole(format!(
            "kind is missing: one of {}",
            known_kinds()
        )));
    };
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let hint = did_you_mean(name, KINDS.iter().map(|kind| kind.name));
        let text = format!(
            "kind {name:?} is not known here{hint}: known are {}",
            known_kinds()
        );
        return Err(Problem::field("kind", text));
    };
    let api = text_of(value, "apiVersion").unwrap_or_default();
    if kind.apis.contains(&api) {
        return Ok(kind);
    }
    let expected = kind.apis.join(" or ");
    Err(Problem::field(
        "apiVersion",
        format!("apiVersion of {name} is {expected}, not {api:?}"),
    ))
}

fn known_kinds() -> String {
    let names = KINDS
        .iter()
        .map(|kind| format!("{} ({})", kind.name, kind.apis.join(", ")));
    names.collect::<Vec<_>>().join(", ")
}

/// In a file an unknown field of `spec` is a typing error that would otherwise be found much later.
fn only_known_fields(value: &Value, known: &[&'static str]) -> Result<(), Problem> {
    let Some(Value::Mapping(spec)) = value.get("spec") else {
        return Ok(());
    };
    for key in spec.keys() {
        let name = key.as_str().unwrap_or_default();
        if !known.contains(&name) {
            let hint = did_you_mean(name, known.iter().copied());
            let text = format!(
                "spec.{name}: no such field{hint}; known are {}",
                known.join(", ")
            );
            return Err(Problem::field(&format!("spec.{name}"), text));
        }
    }
    Ok(())
}

fn text_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// The name of an object that may be wrong in every other respect.
fn name_of(value: &Value) -> Option<ObjectName> {
    let metadata: Metadata = serde_yaml_ng::from_value(value.get("metadata")?.clone()).ok()?;
    metadata.object_name().ok()
}

/// Written-out nulls mean "not given", except that `pod: null` names the pod network.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .filter(|(key, value)| !value.is_null() || key.as_str() == Some("pod"))
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
