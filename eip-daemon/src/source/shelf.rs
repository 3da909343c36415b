//! The files of a directory and what of them is in force.
//!
//! One rule keeps a file that is just being written from cutting anybody off: **what adds is taken at
//! once, what takes away must still be so a moment later** ([`GRACE`]). So a truncated file, or one
//! that is deleted and written again, changes nothing; a file that is really deleted is gone after the
//! grace. Beyond that:
//! - an object whose document became unreadable (a typing error in an edit) stays in force as it last
//!   was, until the document is corrected or removed; the refusal says so;
//! - a file that cannot be read (permission, I/O error, too large) keeps its last content in force;
//! - a directory that cannot be read keeps everything in force.
//!
//! None of this is remembered over a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    documents::{self, Object, ObjectKey, Reading},
    files::{self, Stamp, Unread},
};
use crate::model::{Facts, Origin, RefusedDocument};

#[cfg(test)]
mod tests;

/// How long a change that takes something away must last before it is taken.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// Most files in the directory.
const MAX_FILES: usize = 65_536;

/// A version that takes something away and has to prove itself.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// `None`: the file is gone.
    stamp: Option<Stamp>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
}

#[derive(Debug, Default)]
struct Entry {
    reading: Reading,
    /// Objects of an earlier version whose documents cannot be read any more.
    carried: Vec<Object>,
    /// `None`: look into the file again next time.
    stamp: Option<Stamp>,
    /// Why the file as it is now cannot be taken.
    trouble: Option<String>,
    pending: Option<Pending>,
    /// Its content has been seen at least once.
    is_known: bool,
}

/// How soon to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A change waits for its grace.
    Pending,
    /// Something could not be read.
    Troubled,
    /// Everything is in force as it stands there.
    Settled,
}

/// A directory and what is known of it.
#[derive(Debug)]
pub(super) struct Shelf {
    directory: PathBuf,
    files: BTreeMap<OsString, Entry>,
    trouble: Option<String>,
    is_complete: bool,
}

impl Shelf {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            files: BTreeMap::new(),
            trouble: None,
            is_complete: false,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn state(&self) -> State {
        if self.files.values().any(|entry| entry.pending.is_some()) {
            return State::Pending;
        }
        let is_troubled = self.files.values().any(|entry| entry.trouble.is_some());
        if is_troubled || self.trouble.is_some() {
            State::Troubled
        } else {
            State::Settled
        }
    }

    /// Looks at every file whose stamp changed.
    pub(super) fn scan(&mut self, now: Instant) {
        let names = match files::list(&self.directory) {
            Ok(names) => names,
            Err(error) => {
                self.trouble = Some(format!("the directory cannot be read: {error}"));
                return;
            }
        };
        if names.len() > MAX_FILES {
            self.trouble = Some(format!("the directory has more than {MAX_FILES} files"));
            return;
        }
        self.trouble = None;
        let mut there = BTreeSet::new();
        for name in names {
            let path = self.directory.join(&name);
            let entry = self.files.entry(name.clone()).or_default();
            if entry.look(&path, now) == Presence::There {
                there.insert(name);
            }
        }
        self.files
            .retain(|name, entry| there.contains(name) || !entry.accepts_loss(None, now));
        self.is_complete |= self.files.values().all(|entry| entry.is_known);
    }

    /// What is in force. The first of two documents of one object wins, in order of file names.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts {
            complete: self.is_complete,
            ..Facts::default()
        };
        facts.refused.extend(
            self.trouble
                .as_ref()
                .map(|problem| whole_file(&self.directory, problem)),
        );
        let mut seen: BTreeMap<ObjectKey, Option<Origin>> = BTreeMap::new();
        for (name, entry) in &self.files {
            let path = self.directory.join(name);
            facts
                .refused
                .extend(entry.trouble.as_ref().map(|text| whole_file(&path, text)));
            facts.refused.extend(entry.refusals());
            for object in &entry.reading.objects {
                if let Some(first) = seen.get(&object.key()) {
                    facts.refused.extend(duplicate(object, first.as_ref()));
                } else {
                    seen.insert(object.key(), object.origin().cloned());
                    add(&mut facts, object);
                }
            }
        }
        for object in self.files.values().flat_map(|entry| &entry.carried) {
            if seen.insert(object.key(), None).is_none() {
                add(&mut facts, object);
            }
        }
        facts.bindings.sort_by(|a, b| a.name.cmp(&b.name));
        facts.vms.sort_by(|a, b| a.name.cmp(&b.name));
        facts.peers.sort_by(|a, b| a.name.cmp(&b.name));
        facts
    }
}

impl Entry {
    /// Takes what the file says now, if it says something new.
    fn look(&mut self, path: &Path, now: Instant) -> Presence {
        let looked = files::stamp(path).and_then(|stamp| {
            let is_settled = self.pending.is_none() && self.trouble.is_none();
            if self.stamp != Some(stamp) || !is_settled {
                let reading = documents::read(path, &files::read(path)?);
                self.consider(reading, stamp, now);
            }
            Ok(())
        });
        match looked {
            Ok(()) => {}
            Err(Unread::Gone) => return Presence::Gone,
            Err(Unread::Failed(text)) => self.keep(&text),
            Err(Unread::Refused(text)) => {
                self.is_known = true;
                self.keep(&text);
            }
        }
        Presence::There
    }

    /// What was in force stays so.
    fn keep(&mut self, text: &str) {
        self.stamp = None;
        self.pending = None;
        let is_in_force = !self.reading.objects.is_empty() || !self.carried.is_empty();
        let consequence = if is_in_force {
            "; its last content stays in force"
        } else {
            ""
        };
        self.trouble = Some(format!("{text}{consequence}"));
    }

    fn consider(&mut self, new: Reading, stamp: Stamp, now: Instant) {
        self.trouble = None;
        let kept: BTreeSet<ObjectKey> = new.objects.iter().map(Object::key).collect();
        let in_force = self.reading.objects.iter().chain(&self.carried);
        let lost = in_force.filter(|object| !kept.contains(&object.key()));
        let lost: Vec<Object> = lost.cloned().collect();
        if !lost.is_empty() && !self.accepts_loss(Some(stamp), now) {
            return;
        }
        let broken = lost
            .into_iter()
            .filter(|object| self.is_merely_broken(object, &new));
        self.carried = broken.collect();
        self.reading = new;
        self.stamp = (!stamp.is_fresh()).then_some(stamp);
        self.pending = None;
        self.is_known = true;
    }

    /// True when the same loss was seen [`GRACE`] ago and there is something to lose.
    fn accepts_loss(&mut self, stamp: Option<Stamp>, now: Instant) -> bool {
        if self.reading.objects.is_empty() && self.carried.is_empty() {
            return true;
        }
        match self.pending {
            Some(pending) if pending.stamp == stamp => now.duration_since(pending.since) >= GRACE,
            _ => {
                self.pending = Some(Pending { stamp, since: now });
                false
            }
        }
    }

    /// The object's document is still there but cannot be read: either it says so by name, or the new
    /// version has more documents without a readable name than the one before.
    fn is_merely_broken(&self, object: &Object, new: &Reading) -> bool {
        let (_, name) = object.key();
        if new
            .refused
            .iter()
            .any(|refused| refused.name.as_ref() == Some(&name))
        {
            return true;
        }
        let was_carried = self.carried.contains(object);
        let (before, after) = (nameless(&self.reading), nameless(new));
        if was_carried {
            after > 0 && after >= before
        } else {
            after > before
        }
    }

    fn refusals(&self) -> Vec<RefusedDocument> {
        let mut refused = self.reading.refused.clone();
        if let (Some(last), false) = (refused.last_mut(), self.carried.is_empty()) {
            let names = self.carried.iter().map(|object| {
                let (kind, name) = object.key();
                format!("{kind} {name}")
            });
            let names = names.collect::<Vec<_>>().join(", ");
            last.problem += "; in force as they last were: ";
            last.problem += &names;
        }
        refused
    }
}

/// A refusal that concerns no single document.
fn whole_file(path: &Path, problem: &str) -> RefusedDocument {
    let origin = Origin {
        file: path.to_owned(),
        document: 1,
    };
    RefusedDocument {
        origin,
        name: None,
        problem: problem.to_owned(),
    }
}

fn nameless(reading: &Reading) -> usize {
    reading
        .refused
        .iter()
        .filter(|refused| refused.name.is_none())
        .count()
}

fn add(facts: &mut Facts, object: &Object) {
    match object {
        Object::Binding(fact) => facts.bindings.push(fact.clone()),
        Object::Vm(fact) => facts.vms.push(fact.clone()),
        Object::Node(fact, node) => {
            facts.nets.push(fact.clone());
            facts.nodes.push(node.clone());
        }
        Object::ServiceCidr(fact) => facts.nets.push(fact.clone()),
        Object::Peer(fact) => facts.peers.push((**fact).clone()),
    }
}

fn duplicate(object: &Object, first: Option<&Origin>) -> Option<RefusedDocument> {
    let (kind, name) = object.key();
    let first = first?;
    Some(RefusedDocument {
        origin: object.origin()?.clone(),
        problem: format!("{kind} {name} stands already in {first}: remove one of the two"),
        name: Some(name),
    })
}
