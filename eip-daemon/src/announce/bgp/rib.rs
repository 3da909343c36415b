//! Adj-RIB-Out (RFC 4271 §3.2): what one peer shall have against what it has.
//!
//! State, not a queue. The peer's view is the desired table except where `behind` says otherwise,
//! so a settled peer costs next to nothing, and however often a prefix changes while the socket
//! is blocked, at most one announcement or withdrawal of it is due. Messages are made when the
//! socket has room, never before.
//!
//! Invariants
//! - `behind` holds a prefix exactly as long as the peer has to be told about it, and every prefix
//!   of `behind` stands in exactly one of `announce` and `withdraw`.
//! - An end marker is handed out only when nothing is behind.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    route::{AttributeSet, FamilyRoutes},
    wire::WirePrefix,
};

#[cfg(test)]
mod tests;

/// What the peer has of a prefix that is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Has {
    Nothing,
    Route(AttributeSet),
    /// Some route, which has to be said again whatever it was.
    Outdated,
}

/// What ends the routes that are on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// End-of-RIB after the first full announcement (RFC 4724 §2).
    EndOfRib,
    /// `EoRR` of a refresh that the peer asked for (RFC 7313 §4).
    EndOfRefresh,
}

/// The next thing to tell the peer. Routes are taken one by one, as many as fit a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Withdraw prefixes from [`AdjRibOut::take_withdrawal`].
    Withdrawals,
    /// Announce prefixes from [`AdjRibOut::take_announcement`] with these attributes.
    Announcements(AttributeSet),
    /// `BoRR` has to precede the refresh.
    BeginOfRefresh,
    /// Nothing more; then the marker, once.
    End(EndMarker),
}

/// How a refresh is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshMarkers {
    /// Plain RFC 2918.
    None,
    /// `BoRR` and `EoRR`; both sides have the capability (RFC 7313 §4).
    BeginAndEnd,
}

/// How far a refresh with markers has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramedRefresh {
    None,
    BeginDue,
    Running,
}

/// Routes of one family toward one peer.
#[derive(Debug)]
pub struct AdjRibOut<P> {
    desired: FamilyRoutes<P>,
    behind: BTreeMap<P, Has>,
    /// How many of those behind the peer has nothing of.
    missing: usize,
    announce: BTreeMap<AttributeSet, BTreeSet<P>>,
    withdraw: BTreeSet<P>,
    is_end_of_rib_due: bool,
    framed_refresh: FramedRefresh,
    /// End-of-RIB may claim that nothing is missing.
    is_complete: bool,
}

impl<P: WirePrefix> AdjRibOut<P> {
    /// For a peer that has nothing yet and shall have `desired`.
    #[must_use]
    pub fn new(desired: FamilyRoutes<P>, is_complete: bool) -> Self {
        let mut rib = Self {
            desired,
            behind: BTreeMap::new(),
            missing: 0,
            announce: BTreeMap::new(),
            withdraw: BTreeSet::new(),
            is_end_of_rib_due: true,
            framed_refresh: FramedRefresh::None,
            is_complete,
        };
        rib.behind = rib
            .desired
            .iter()
            .map(|(prefix, _)| (*prefix, Has::Nothing))
            .collect();
        rib.missing = rib.behind.len();
        for (prefix, attributes) in Arc::clone(&rib.desired).iter() {
            rib.announce_group(attributes).insert(*prefix);
        }
        rib
    }

    /// Replaces the desired set.
    pub fn set_desired(&mut self, desired: FamilyRoutes<P>, is_complete: bool) {
        self.is_complete = is_complete;
        if Arc::ptr_eq(&self.desired, &desired) {
            return;
        }
        let before = std::mem::replace(&mut self.desired, desired);
        let after = Arc::clone(&self.desired);
        for change in Changes::new(&before, &after) {
            self.note_change(change.prefix, change.before, change.after);
        }
    }

    /// The peer asked for everything again (RFC 2918 §4). What it has to lose is still withdrawn
    /// by itself; the refresh withdraws nothing.
    pub fn refresh(&mut self, markers: RefreshMarkers) {
        self.repeat_all();
        if markers == RefreshMarkers::BeginAndEnd {
            self.framed_refresh = FramedRefresh::BeginDue;
        }
    }

    /// Everything has to be said again because what is said about it has changed.
    pub fn repeat_all(&mut self) {
        for (prefix, attributes) in Arc::clone(&self.desired).iter() {
            let has = self.behind.entry(*prefix).or_insert(Has::Outdated);
            if matches!(has, Has::Route(_)) {
                *has = Has::Outdated;
            }
            self.announce_group(attributes).insert(*prefix);
        }
    }

    /// What comes next, `None` when the peer has all there is to tell.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        // RFC 7313 §4: not before the End-of-RIB of the first announcement.
        if self.framed_refresh == FramedRefresh::BeginDue && !self.is_end_of_rib_due {
            return Some(Due::BeginOfRefresh);
        }
        if !self.withdraw.is_empty() {
            return Some(Due::Withdrawals);
        }
        if let Some((attributes, _)) = self.announce.first_key_value() {
            return Some(Due::Announcements(attributes.clone()));
        }
        if self.is_end_of_rib_due {
            return self.is_complete.then_some(Due::End(EndMarker::EndOfRib));
        }
        (self.framed_refresh == FramedRefresh::Running).then_some(Due::End(EndMarker::EndOfRefresh))
    }

    /// `BoRR` is written.
    pub fn refresh_begun(&mut self) {
        self.framed_refresh = FramedRefresh::Running;
    }

    /// The marker is written.
    pub fn ended(&mut self, marker: EndMarker) {
        match marker {
            EndMarker::EndOfRib => self.is_end_of_rib_due = false,
            EndMarker::EndOfRefresh => self.framed_refresh = FramedRefresh::None,
        }
        // A refresh that was asked for during the first announcement gets its turn.
        if marker == EndMarker::EndOfRib && self.framed_refresh == FramedRefresh::BeginDue {
            self.repeat_all();
        }
    }

    /// Takes the next prefix to withdraw if `write` accepts it; `false` when there is none or no
    /// room.
    pub fn take_withdrawal(&mut self, write: impl FnOnce(P) -> bool) -> bool {
        let Some(prefix) = self
            .withdraw
            .first()
            .copied()
            .filter(|prefix| write(*prefix))
        else {
            return false;
        };
        self.withdraw.remove(&prefix);
        self.catch_up(prefix);
        true
    }

    /// Takes the next prefix to announce with `attributes` if `write` accepts it.
    pub fn take_announcement(
        &mut self,
        attributes: &AttributeSet,
        write: impl FnOnce(P) -> bool,
    ) -> bool {
        let Some(group) = self.announce.get_mut(attributes) else {
            return false;
        };
        let Some(prefix) = group.first().copied().filter(|prefix| write(*prefix)) else {
            return false;
        };
        group.pop_first();
        if group.is_empty() {
            self.announce.remove(attributes);
        }
        self.catch_up(prefix);
        true
    }

    /// Prefixes the peer has still to be told about.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.behind.len()
    }

    /// Routes the peer has.
    #[must_use]
    pub fn advertised(&self) -> usize {
        self.desired.len() + self.withdraw.len() - self.missing
    }

    /// Nothing is left to tell, not even a marker.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.behind.is_empty() && self.due().is_none()
    }

    fn note_change(
        &mut self,
        prefix: P,
        before: Option<&AttributeSet>,
        after: Option<&AttributeSet>,
    ) {
        let has = self.unqueue(prefix, before);
        match (&has, after) {
            (Has::Nothing, None) => return,
            (Has::Route(has), Some(after)) if has == after => return,
            (_, Some(after)) => {
                self.announce_group(after).insert(prefix);
            }
            (Has::Route(_) | Has::Outdated, None) => {
                self.withdraw.insert(prefix);
            }
        }
        self.missing += usize::from(has == Has::Nothing);
        self.behind.insert(prefix, has);
    }

    /// The peer has been told; returns what it had before, if it was behind.
    fn catch_up(&mut self, prefix: P) -> Option<Has> {
        let had = self.behind.remove(&prefix);
        self.missing -= usize::from(had == Some(Has::Nothing));
        had
    }

    /// Forgets what was due for a prefix and returns what the peer has of it.
    fn unqueue(&mut self, prefix: P, before: Option<&AttributeSet>) -> Has {
        let Some(has) = self.catch_up(prefix) else {
            return before.map_or(Has::Nothing, |before| Has::Route(before.clone()));
        };
        self.withdraw.remove(&prefix);
        if let Some(before) = before
            && let Some(group) = self.announce.get_mut(before)
        {
            group.remove(&prefix);
            if group.is_empty() {
                self.announce.remove(before);
            }
        }
        has
    }

    fn announce_group(&mut self, attributes: &AttributeSet) -> &mut BTreeSet<P> {
        self.announce.entry(attributes.clone()).or_default()
    }
}

/// One prefix on which two tables differ.
struct Change<'a, P> {
    prefix: P,
    before: Option<&'a AttributeSet>,
    after: Option<&'a AttributeSet>,
}

/// Walks two sorted tables side by side: linear, in memory order, no lookups.
struct Changes<'a, P> {
    before: &'a [(P, AttributeSet)],
    after: &'a [(P, AttributeSet)],
}

impl<'a, P: Ord + Copy> Changes<'a, P> {
    fn new(before: &'a [(P, AttributeSet)], after: &'a [(P, AttributeSet)]) -> Self {
        Self { before, after }
    }
}

impl<'a, P: Ord + Copy> Iterator for Changes<'a, P> {
    type Item = Change<'a, P>;

    fn next(&mut self) -> Option<Change<'a, P>> {
        loop {
            let order = match (self.before.first(), self.after.first()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() {
                self.before.split_off_first()
            } else {
                None
            };
            let after = if order.is_ge() {
                self.after.split_off_first()
            } else {
                None
            };
            let prefix = before.or(after)?.0;
            let before = before.map(|(_, attributes)| attributes);
            let after = after.map(|(_, attributes)| attributes);
            if before != after {
                return Some(Change {
                    prefix,
                    before,
                    after,
                });
            }
        }
    }
}
