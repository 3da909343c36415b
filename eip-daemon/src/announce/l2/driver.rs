//! The task: looks at the uplinks, sends what is due, listens to others. The only I/O.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, sleep_until},
};
use tracing::debug;

use super::{
    L2Announcer, frames,
    groups::{self, Groups},
    uplinks::{self, Ear, Mouth, Uplink},
};

/// How often the uplinks are looked at: one that comes back is told everything again this soon.
const LOOK: Duration = Duration::from_secs(1);
/// Announcements in one go, and the pause after them: switches and routers bound how much they take.
const PORTION: usize = 32;
const PAUSE: Duration = Duration::from_millis(10);
/// Longest frame worth hearing.
const BUFFER: usize = 512;

/// What is open while something is announced.
#[derive(Debug, Default)]
struct Open {
    mouth: Option<Mouth>,
    groups: Groups,
    uplinks: BTreeMap<u32, (String, Uplink)>,
    ears: BTreeMap<u32, Ears>,
}

/// Tasks that listen on one uplink; they end with this value.
#[derive(Debug)]
struct Ears(Vec<JoinHandle<()>>);

impl Drop for Ears {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl L2Announcer {
    /// Runs until `stop` is true. Neighbours keep what they know; the programs go on answering.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut open = Open::default();
        loop {
            self.look(&mut open);
            self.end_old_claims(Instant::now());
            let next_look = Instant::now() + LOOK;
            loop {
                self.send(&mut open);
                let due = self.state().schedule.next_due();
                let until = due
                    .map(|due| due.max(Instant::now() + PAUSE))
                    .filter(|due| *due < next_look);
                tokio::select! {
                    _sender_gone = stop.wait_for(|stop| *stop) => return,
                    () = self.0.changed.notified() => break,
                    () = sleep_until(time::Instant::from_std(until.unwrap_or(next_look))) => {}
                }
                if until.is_none() {
                    break;
                }
            }
        }
    }

    /// Follows the uplinks; closes everything when nothing is announced.
    fn look(&self, open: &mut Open) {
        let eips = self.state().schedule.eips().clone();
        if eips.is_empty() {
            *open = Open::default();
            self.state()
                .schedule
                .set_stations(&BTreeMap::new(), Instant::now());
            return;
        }
        let found = uplinks::look(&self.0.uplinks);
        let problem = found
            .as_ref()
            .err()
            .map(|e| format!("list the interfaces: {e}"));
        self.problem("look".to_owned(), problem);
        let Ok(found) = found else {
            return;
        };
        open.uplinks = found;
        let uplinks = &open.uplinks;
        open.ears.retain(|ifindex, _| uplinks.contains_key(ifindex));
        for (ifindex, (name, uplink)) in &open.uplinks {
            let is_deaf = |ears: &Ears| ears.0.iter().any(JoinHandle::is_finished);
            if open.ears.get(ifindex).is_none_or(is_deaf) {
                let ears = self.listen(name, uplink);
                open.ears.extend(ears.map(|ears| (*ifindex, ears)));
            }
        }
        let needed = groups::needed(&eips, open.uplinks.keys().copied());
        self.problem("groups".to_owned(), open.groups.hold(&needed).err());
        let running = open
            .uplinks
            .iter()
            .filter(|(_, (_, uplink))| uplink.is_running);
        let stations = running.map(|(ifindex, (_, uplink))| (*ifindex, uplink.mac));
        let stations = stations.collect();
        self.state()
            .schedule
            .set_stations(&stations, Instant::now());
    }

    fn send(&self, open: &mut Open) {
        let Open { mouth, uplinks, .. } = open;
        self.send_due(PORTION, Instant::now(), |due| {
            let Some((name, uplink)) = uplinks.get(&due.ifindex) else {
                return Ok(());
            };
            let failed = |error| format!("announce {} on {name}: {error}", due.eip);
            if mouth.is_none() {
                *mouth = Some(Mouth::open().map_err(failed)?);
            }
            for frame in frames::announcement(due.eip, due.mac) {
                let sent = mouth.as_ref().map(|mouth| mouth.send(uplink, &frame));
                sent.transpose().map_err(failed)?;
            }
            debug!(eip = %due.eip, interface = name, "announced on layer 2");
            Ok(())
        });
    }

    fn listen(&self, name: &str, uplink: &Uplink) -> Option<Ears> {
        let open = || Ok::<_, io::Error>([Ear::for_arp(uplink)?, Ear::for_advertisements(uplink)?]);
        let ears = open();
        let problem = ears.as_ref().err();
        let problem = problem.map(|error| format!("listen on {name}: {error}"));
        self.problem(format!("listen {name}"), problem);
        let tasks = ears.ok()?.map(|ear| {
            let (announcer, name) = (self.clone(), name.to_owned());
            tokio::spawn(async move { announcer.hear(ear, &name).await })
        });
        Some(Ears(tasks.into()))
    }

    /// Hears claims.
    async fn hear(&self, ear: Ear, uplink: &str) {
        let mut buffer = [0; BUFFER];
        loop {
            match ear.hear(&mut buffer).await {
                Ok(frame) => {
                    if let Some((claimed, mac)) = frame.and_then(frames::claim) {
                        self.heard(claimed, mac, uplink);
                    }
                }
                Err(error) => {
                    // A link that goes down says so once; one that is gone is not listed any more.
                    debug!(interface = uplink, %error, "hear frames");
                    time::sleep(LOOK).await;
                }
            }
        }
    }
}
