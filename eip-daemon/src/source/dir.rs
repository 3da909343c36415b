//! Objects from the files of a directory: `*.yaml`, `*.yml` and `*.json`, not recursive.
//!
//! One task owns the watch and the `Shelf`. It reads when the kernel reports a change (after a short
//! pause, so that a burst is one reading), and every `RESCAN` in case a report was lost or the
//! directory was replaced. Reading happens on the blocking pool. Aborting the task is safe at any
//! point: it only reads.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, watch},
    task::{self, JoinHandle},
    time,
};
use tracing::{debug, warn};

use super::shelf::{GRACE, Shelf, State};
use crate::model::Facts;

#[cfg(test)]
mod tests;

/// Pause between a change and the reading of it.
const SETTLE: Duration = Duration::from_millis(50);
/// Time between two readings when nothing is reported.
const RESCAN: Duration = Duration::from_secs(10);
/// The same while something cannot be read; nobody reports a directory that appears.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a directory and follows it.
#[derive(Debug)]
pub struct DirSource {
    changed: Arc<Notify>,
    watched: Option<Watched>,
    is_watch_failing: bool,
}

/// A watch lasts as long as the directory it was made for.
#[derive(Debug)]
struct Watched {
    device: u64,
    inode: u64,
    _watcher: notify::RecommendedWatcher,
}

impl DirSource {
    /// Starts to follow `path`. The task ends when every receiver is gone; aborting it is safe.
    #[must_use]
    pub fn start(path: PathBuf) -> (watch::Receiver<Facts>, JoinHandle<()>) {
        let (sender, facts) = watch::channel(Facts::default());
        let source = Self {
            changed: Arc::new(Notify::new()),
            watched: None,
            is_watch_failing: false,
        };
        (facts, tokio::spawn(source.follow(Shelf::new(path), sender)))
    }

    async fn follow(mut self, mut files: Shelf, sender: watch::Sender<Facts>) {
        loop {
            self.watch(files.directory());
            let scanned = task::spawn_blocking(move || {
                files.scan(Instant::now());
                let facts = files.facts();
                (files, facts)
            });
            // A panic in there is a defect of the parser; without a shelf there is nothing to follow.
            let Ok((returned, facts)) = scanned.await else {
                return;
            };
            files = returned;
            publish(&sender, facts);
            let pause = match files.state() {
                State::Pending => GRACE,
                State::Troubled => RETRY,
                State::Settled => RESCAN,
            };
            tokio::select! {
                () = sender.closed() => return,
                () = time::sleep(pause) => {}
                () = self.changed.notified() => time::sleep(SETTLE).await,
            }
        }
    }

    /// Watches the directory that has this name now; without a watch, [`RESCAN`] has to do.
    fn watch(&mut self, directory: &Path) {
        let Ok(metadata) = fs::metadata(directory) else {
            self.watched = None;
            return;
        };
        let (device, inode) = (metadata.dev(), metadata.ino());
        if self
            .watched
            .as_ref()
            .is_some_and(|w| (w.device, w.inode) == (device, inode))
        {
            return;
        }
        match new_watcher(directory, Arc::clone(&self.changed)) {
            Ok(watcher) => {
                self.watched = Some(Watched {
                    device,
                    inode,
                    _watcher: watcher,
                });
                self.is_watch_failing = false;
            }
            Err(error) if !self.is_watch_failing => {
                self.is_watch_failing = true;
                warn!(directory = %directory.display(), %error, "watch source directory, reading it by time");
            }
            Err(_) => {}
        }
    }
}

fn new_watcher(
    directory: &Path,
    changed: Arc<Notify>,
) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| is_change(event.kind)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Our own reading is reported too, and must not lead to another one.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn publish(sender: &watch::Sender<Facts>, facts: Facts) {
    sender.send_if_modified(|current| {
        let is_new = *current != facts;
        if is_new {
            debug!(
                bindings = facts.bindings.len(),
                vms = facts.vms.len(),
                refused = facts.refused.len(),
                "facts changed"
            );
            *current = facts;
        }
        is_new
    });
}
