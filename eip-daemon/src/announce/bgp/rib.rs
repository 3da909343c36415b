//! Adj-RIB-Out (RFC 4271 §3.2): what one peer shall have against what it has.
//!
//! State, not a queue. The peer's view is the desired table except where `announce` and `withdraw`
//! say otherwise, so a settled peer costs next to nothing, and however often a prefix changes while
//! the socket is blocked, at most one announcement or withdrawal of it is due. Messages are made
//! when the socket has room, never before.
//!
//! Invariants
//! - A prefix that the peer has to be told about is in one place: in the group of `announce` with
//!   the attributes that it has in the desired table, or, when it is not there, in `withdraw`.
//! - An end marker is handed out only when nothing is left to tell.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::{
    route::{AttributeSet, FamilyRoutes},
    wire::WirePrefix,
};

#[cfg(test)]
mod tests;

/// What the peer has of a prefix that it has to be told about.
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

/// The next thing to tell the peer. Routes are taken as many as fit a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Withdraw prefixes from [`AdjRibOut::take_withdrawals`].
    Withdrawals,
    /// Announce prefixes from [`AdjRibOut::take_announcements`] with these attributes.
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
    /// What the peer has to be told, in the groups that share an UPDATE; none of them is empty.
    announce: BTreeMap<AttributeSet, BTreeMap<P, Has>>,
    /// What the peer has and shall lose.
    withdraw: BTreeMap<P, Has>,
    /// Prefixes in `announce`.
    to_announce: usize,
    /// How many of them the peer has nothing of.
    missing: usize,
    is_end_of_rib_due: bool,
    framed_refresh: FramedRefresh,
    /// End-of-RIB may claim that nothing is missing.
    is_complete: bool,
}

impl<P: WirePrefix> AdjRibOut<P> {
    /// For a peer that has nothing yet and shall have `desired`.
    #[must_use]
    pub fn new(desired: FamilyRoutes<P>, is_complete: bool) -> Self {
        let mut groups: BTreeMap<&AttributeSet, Vec<(P, Has)>> = BTreeMap::new();
        for (prefix, attributes) in desired.iter() {
            let group = groups.entry(attributes).or_default();
            group.push((*prefix, Has::Nothing));
        }
        let groups = groups.into_iter();
        Self {
            // A map that is made of sorted entries is made at once.
            announce: groups
                .map(|(attributes, group)| (attributes.clone(), group.into_iter().collect()))
                .collect(),
            withdraw: BTreeMap::new(),
            to_announce: desired.len(),
            missing: desired.len(),
            desired,
            is_end_of_rib_due: true,
            framed_refresh: FramedRefresh::None,
            is_complete,
        }
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
            match self.group(attributes).entry(*prefix) {
                Entry::Occupied(mut has) => has.get_mut().outdate(),
                Entry::Vacant(settled) => {
                    settled.insert(Has::Outdated);
                    self.to_announce += 1;
                }
            }
        }
        // Should it come back before it has left, it has to be said again too.
        self.withdraw.values_mut().for_each(Has::outdate);
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

    /// Takes prefixes to withdraw as long as `write` accepts them.
    pub fn take_withdrawals(&mut self, write: impl FnMut(P) -> bool) {
        take(&mut self.withdraw, write);
    }

    /// Takes prefixes to announce with `attributes` as long as `write` accepts them.
    pub fn take_announcements(&mut self, attributes: &AttributeSet, write: impl FnMut(P) -> bool) {
        let Some(group) = self.announce.get_mut(attributes) else {
            return;
        };
        let taken = take(group, write);
        if group.is_empty() {
            self.announce.remove(attributes);
        }
        self.to_announce -= taken.all;
        self.missing -= taken.missing;
    }

    /// Prefixes the peer has still to be told about.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.to_announce + self.withdraw.len()
    }

    /// Routes the peer has.
    #[must_use]
    pub fn advertised(&self) -> usize {
        self.desired.len() + self.withdraw.len() - self.missing
    }

    /// Nothing is left to tell, not even a marker.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending() == 0 && self.due().is_none()
    }

    fn note_change(
        &mut self,
        prefix: P,
        before: Option<&AttributeSet>,
        after: Option<&AttributeSet>,
    ) {
        match (self.unqueue(prefix, before), after) {
            (Has::Nothing, None) => {}
            (has, None) => {
                self.withdraw.insert(prefix, has);
            }
            (Has::Route(has), Some(after)) if has == *after => {}
            (has, Some(after)) => {
                self.to_announce += 1;
                self.missing += usize::from(has == Has::Nothing);
                self.group(after).insert(prefix, has);
            }
        }
    }

    /// Forgets what was due for a prefix and returns what the peer has of it.
    fn unqueue(&mut self, prefix: P, before: Option<&AttributeSet>) -> Has {
        let Some(before) = before else {
            return self.withdraw.remove(&prefix).unwrap_or(Has::Nothing);
        };
        let settled = || Has::Route(before.clone());
        let Some(group) = self.announce.get_mut(before) else {
            return settled();
        };
        let Some(has) = group.remove(&prefix) else {
            return settled();
        };
        if group.is_empty() {
            self.announce.remove(before);
        }
        self.to_announce -= 1;
        self.missing -= usize::from(has == Has::Nothing);
        has
    }

    fn group(&mut self, attributes: &AttributeSet) -> &mut BTreeMap<P, Has> {
        self.announce.entry(attributes.clone()).or_default()
    }
}

impl Has {
    /// What is said about it has changed.
    fn outdate(&mut self) {
        if matches!(self, Self::Route(_)) {
            *self = Self::Outdated;
        }
    }
}

/// How many were taken.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of which the peer had nothing.
    missing: usize,
}

/// Takes entries from the front as long as `write` accepts them.
fn take<P: Ord + Copy>(from: &mut BTreeMap<P, Has>, mut write: impl FnMut(P) -> bool) -> Taken {
    let mut taken = Taken::default();
    while let Some(first) = from.first_entry()
        && write(*first.key())
    {
        taken.all += 1;
        taken.missing += usize::from(first.remove() == Has::Nothing);
    }
    taken
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
