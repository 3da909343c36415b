//! Writes to the API server: status, labels, and events for people.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tracing::debug;

use super::{
    ControllerOptions,
    verdict::{Verdict, Write},
};
use crate::{
    model::ObjectName,
    source::{
        kube::client::resource,
        objects::{BINDING_API, BINDING_KIND},
    },
};

/// Who owns what the controller applies.
pub(super) const MANAGER: &str = "kube-eip-controller";
/// Events that wait to be written; more are dropped, the status says the same.
const WAITING_EVENTS: usize = 256;
/// Pause between two events: 20 a second for all objects together.
const EVENT_PAUSE: Duration = Duration::from_millis(50);

/// A write that ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: ObjectName,
    uid: String,
    verdict: Verdict,
    is_status: bool,
    pub(super) result: Result<DynamicObject, WriteError>,
}

/// Why a write did not work. Fate: the object is decided about again, later.
#[derive(Debug)]
pub(super) enum WriteError {
    /// What the server or the way to it said.
    Api(kube::Error),
    /// Nothing was heard for as long as a Lease may be relied on.
    TimedOut,
}

impl WriteError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// The object is not there any more.
    pub(super) fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object is not as it was when this was decided.
    pub(super) fn is_stale(&self) -> bool {
        self.code() == Some(409)
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => write!(f, "{error}"),
            Self::TimedOut => f.write_str("the API server does not answer in time"),
        }
    }
}

/// The writer.
pub(super) struct Teller {
    client: Client,
    resource: ApiResource,
    events: mpsc::Sender<(Event, ObjectReference)>,
    /// A write that is not answered within this is over: another controller may lead soon after.
    patience: Duration,
    /// The reason each binding was last told, so that the same is not an event twice.
    told: std::collections::BTreeMap<ObjectName, String>,
}

impl Teller {
    pub(super) fn new(client: Client, options: &ControllerOptions) -> Self {
        let reporter = Reporter {
            controller: "virteip.github.com/controller".to_owned(),
            instance: Some(options.identity.clone()),
        };
        let recorder = Recorder::new(client.clone(), reporter);
        let (events, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(WAITING_EVENTS);
        tokio::spawn(async move {
            while let Some((event, about)) = waiting.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    debug!(%error, "write an event");
                }
                tokio::time::sleep(EVENT_PAUSE).await;
            }
        });
        Self {
            client,
            resource: resource(BINDING_API, BINDING_KIND, "eipbindings"),
            events,
            patience: options.timing.grace(),
            told: std::collections::BTreeMap::new(),
        }
    }

    /// Makes one write.
    pub(super) fn write(
        &self,
        name: ObjectName,
        uid: String,
        write: Write,
        verdict: Verdict,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &name.namespace, &self.resource);
        let patience = self.patience;
        async move {
            let is_status = matches!(write, Write::Status(_));
            let written = async {
                match write {
                    Write::Status(object) => {
                        let how = PatchParams::apply(MANAGER).force();
                        api.patch_status(&name.name, &how, &Patch::Apply(object))
                            .await
                    }
                    Write::Metadata(change) => {
                        let how = PatchParams::default();
                        api.patch(&name.name, &how, &Patch::Merge(change)).await
                    }
                }
            };
            let result = match tokio::time::timeout(patience, written).await {
                Ok(done) => done.map_err(WriteError::Api),
                Err(_) => Err(WriteError::TimedOut),
            };
            Outcome {
                name,
                uid,
                verdict,
                is_status,
                result,
            }
        }
    }

    /// An event for people when the reason is another one than before.
    pub(super) fn announce(&mut self, outcome: &Outcome) {
        let verdict = &outcome.verdict;
        let before = self
            .told
            .insert(outcome.name.clone(), verdict.reason.clone());
        if !outcome.is_status || before.as_deref() == Some(&*verdict.reason) {
            return;
        }
        let event = Event {
            type_: if verdict.is_ready || verdict.reason == "Pending" {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: verdict.reason.clone(),
            note: Some(verdict.message.chars().take(1000).collect()),
            action: "Bind".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some(BINDING_API.to_owned()),
            kind: Some(BINDING_KIND.to_owned()),
            namespace: Some(outcome.name.namespace.clone()),
            name: Some(outcome.name.name.clone()),
            uid: Some(outcome.uid.clone()),
            ..ObjectReference::default()
        };
        if self.events.try_send((event, about)).is_err() {
            debug!(binding = %outcome.name, "too many events, one is left out");
        }
    }

    pub(super) fn forget(&mut self, name: &ObjectName) {
        self.told.remove(name);
    }
}

/// This moment in RFC 3339, to the second.
pub(super) fn now() -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now)
        .unwrap_or_default()
        .to_string()
}
