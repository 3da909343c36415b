//! `status` of an `EipBinding`: what the controller grants, and what the node's agent has made of it.
//!
//! Two writers share it by server-side apply. The controller owns what it grants (`eip`, `node`,
//! `vmAddress`, `vmUid`) and the condition `Ready`; the agent of the node owns `serving` and the
//! conditions `Programmed` and `Announced`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// `status` of an `EipBinding`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EipBindingStatus {
    /// The generation of the spec that the rest of the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The elastic IP this binding holds. No two bindings hold the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<String>,
    /// The node that is to serve it: where the VM runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The address of the VM's pod on that node, which the elastic IP is translated to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_address: Option<String>,
    /// Identity of the VM: another one of the same name is another VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_uid: Option<String>,
    /// What a node's agent has in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// `Programmed`: the node's kernel has it. `Announced`: the network is told where it is.
    /// `Ready`: it works, or the reason why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Option<Vec<Condition>>,
    /// Kept for the older operator, which never wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "opaque_list")]
    pub active: Option<Vec<serde_json::Value>>,
    /// Kept for the older operator, which never wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_schedule_time: Option<String>,
}

impl EipBindingStatus {
    /// The condition of a type, when it was written.
    #[must_use]
    pub fn condition(&self, of: &ConditionType) -> Option<&Condition> {
        condition_of(self.conditions.as_deref(), of)
    }
}

pub(super) fn condition_of<'a>(
    all: Option<&'a [Condition]>,
    of: &ConditionType,
) -> Option<&'a Condition> {
    let mut all = all.into_iter().flatten();
    all.find(|condition| condition.type_ == *of)
}

/// What a node's agent has in force for a binding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Serving {
    /// The node.
    pub node: String,
    /// The node's address on the segment of its uplink: where the node a VM came from sends on what it
    /// still gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_address: Option<String>,
    /// The elastic IP in its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<String>,
    /// The address it is translated to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_address: Option<String>,
    /// The VM's interface on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How packets reach the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// BGP peers that are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// Interfaces on whose segments neighbours are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplinks: Option<Vec<String>>,
}

/// One aspect of a binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for programs.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// A sentence for people: what is wrong and what would be right.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When `status` last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the spec this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// The same, as somebody writes it who saw `before`: the time moves only with the status.
    #[must_use]
    pub fn after(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before
            && before.status == self.status
        {
            self.last_transition_time
                .clone_from(&before.last_transition_time);
        }
        self
    }
}

/// Aspects of a binding, and of a BGP peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// The node's kernel has it.
    Programmed,
    /// The network is told where it is.
    Announced,
    /// It works.
    Ready,
    /// What is asked of a BGP peer can be done.
    Accepted,
    /// Every node that shall has a session with a BGP peer.
    Established,
    /// Somebody else's.
    #[serde(untagged)]
    Other(String),
}

/// Whether a condition holds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

// By hand: an enum in the schema would refuse what a later version writes.
impl JsonSchema for ConditionType {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("ConditionType")
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 316})
    }

    fn inline_schema() -> bool {
        true
    }
}

fn opaque_list(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    })
}
