//! A connection to the API server, and the objects that are watched there.

use std::{path::Path, pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tracing::{debug, warn};

/// Why there is no client. Fate: the process ends with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file named by the flag.
    #[error("read the kubeconfig {path}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a service account nor a kubeconfig.
    #[error("find the API server: run in a pod, set KUBECONFIG, or name a file")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// TLS, certificates, tokens.
    #[error("prepare the connection to the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client by the file, or else by what the surroundings say. Connects to nobody yet.
///
/// # Errors
/// No usable configuration.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ConnectError::File {
                path: path.display().to_string(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        None => Config::infer()
            .await
            .map_err(|source| ConnectError::Infer(Box::new(source)))?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(|source| ConnectError::Client(Box::new(source)))
}

/// A kind of object, by its API.
#[must_use]
pub fn resource(api: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// What a watch brings.
pub type Changes = Pin<Box<dyn Stream<Item = Event<DynamicObject>> + Send>>;

/// Lists and then follows the objects of a kind in all namespaces, or those with a label. Never ends:
/// a lost connection, a restarted server and an expired version (410) lead to another list, whose
/// beginning and end are events too. Objects come undecoded, so one that cannot be read stops nobody.
#[must_use]
pub fn follow(client: &Client, resource: &ApiResource, labels: Option<&str>) -> Changes {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut config = watcher::Config::default();
    if let Some(labels) = labels {
        config = config.labels(labels);
    }
    let kind = resource.kind.clone();
    let selector = labels.unwrap_or_default().to_owned();
    let mut is_troubled = false;
    watcher::watcher(api, config)
        .default_backoff()
        .filter_map(move |change| {
            let change = match change {
                Ok(change) => {
                    if is_troubled {
                        is_troubled = false;
                        debug!(kind, selector, "watch goes on");
                    }
                    Some(without_ballast(change))
                }
                Err(error) => {
                    if is_troubled {
                        debug!(kind, selector, error = chain(&error), "watch");
                    } else {
                        is_troubled = true;
                        let error = chain(&error);
                        warn!(
                            kind,
                            selector, error, "watch objects; what is known stays in force"
                        );
                    }
                    None
                }
            };
            std::future::ready(change)
        })
        .boxed()
}

/// Who wrote which field is of no use here, and most of an object's size.
fn without_ballast(mut change: Event<DynamicObject>) -> Event<DynamicObject> {
    if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut change {
        object.metadata.managed_fields = None;
    }
    change
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
