//! The task behind the announcer.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep_until},
};

use super::{
    BgpAnnouncer,
    secrets::{self, Secrets},
};
use crate::model::Facts;

/// How often password files are read again: nobody reports that a mounted secret has changed.
const REREAD: Duration = Duration::from_secs(5);

impl BgpAnnouncer {
    /// Follows the facts until `stop` is true or its sender is gone, then leaves in the way the
    /// settings say. Whoever announces must have stopped before.
    pub async fn run(self, mut facts: watch::Receiver<Facts>, mut stop: watch::Receiver<bool>) {
        let mut has_source = true;
        let mut reread = Instant::now();
        let mut speaker = None;
        loop {
            if reread <= Instant::now() {
                let current = facts.borrow_and_update().clone();
                self.follow(current).await;
                reread = Instant::now() + REREAD;
            }
            if speaker.is_none() {
                speaker = self.speaker_changes();
            }
            let soon = self.tick(SystemTime::now());
            let next = soon.map_or(reread, |soon| reread.min(Instant::now() + soon));
            tokio::select! {
                () = stopped(&mut stop) => break,
                changed = facts.changed(), if has_source => {
                    has_source = changed.is_ok();
                    reread = Instant::now();
                }
                () = self.0.changed.notified() => {}
                () = changed(&mut speaker) => {
                    self.0.news.send_replace(());
                }
                () = sleep_until(next) => {}
            }
        }
        if let Some(speaker) = self.take_speaker() {
            speaker.shutdown(self.0.settings.on_exit.into()).await;
        }
    }

    /// Before the facts are complete nobody is taken for gone, and no session could start anyway.
    async fn follow(&self, facts: Facts) {
        if !facts.complete {
            return;
        }
        let paths = secrets::paths(&facts);
        let read = task::spawn_blocking(move || Secrets::read(paths)).await;
        self.set_peers(&facts, &read.unwrap_or_default());
    }
}

/// Ready when a session has got somewhere; never without a speaker.
async fn changed(speaker: &mut Option<watch::Receiver<()>>) {
    let Some(changes) = speaker else {
        return std::future::pending().await;
    };
    if changes.changed().await.is_err() {
        *speaker = None;
    }
}

/// Holds no lock on the channel afterwards.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _sender_gone = stop.wait_for(|stop| *stop).await.is_err();
}
