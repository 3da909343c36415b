//! What does not work at the moment, and when it is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Instant;

use super::depend::Family;
use crate::model::{Action, HostRoute, PolicyRule, TableDefault};

/// Pause after the first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What an action is about: two actions on one item are tries of the same thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Gateway,
    Net(IpNet),
    NetGone(IpNet),
    Uplink(u32),
    UplinkGone(u32),
    Port(u32),
    PortGone(u32),
    Leftover(u32),
    Eip(IpAddr),
    EipGone(IpAddr),
    Vm(IpAddr),
    VmGone(IpAddr),
    Route(IpAddr),
    RouteGone(HostRoute),
    Rule(PolicyRule),
    RuleGone(PolicyRule),
    Table(u32, Family),
    TableGone(TableDefault),
}

impl Item {
    pub(super) fn of(action: &Action) -> Self {
        match action {
            Action::PutGateway(_) => Self::Gateway,
            Action::PutNet(net, _) => Self::Net(*net),
            Action::RemoveNet(net) => Self::NetGone(*net),
            Action::AttachUplink(index, _) => Self::Uplink(*index),
            Action::DetachUplink(index) => Self::UplinkGone(*index),
            Action::AttachPort(index) => Self::Port(*index),
            Action::DetachPort(index) => Self::PortGone(*index),
            Action::RemoveLeftover(index) => Self::Leftover(*index),
            Action::PutBinding { eip, .. } => Self::Eip(*eip),
            Action::RemoveBinding { eip } => Self::EipGone(*eip),
            Action::PutVm { vm, .. } => Self::Vm(*vm),
            Action::RemoveVm { vm } => Self::VmGone(*vm),
            Action::PutRoute(route) => Self::Route(route.eip),
            Action::RemoveRoute(route) => Self::RouteGone(route.clone()),
            Action::AddRule(rule) => Self::Rule(rule.clone()),
            Action::RemoveRule(rule) => Self::RuleGone(rule.clone()),
            Action::PutTableDefault(default) => {
                Self::Table(default.table, Family::of(default.gateway))
            }
            Action::RemoveTableDefault(default) => Self::TableGone(default.clone()),
        }
    }
}

/// An item that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) action: Action,
    pub(super) error: String,
    pub(super) attempts: u64,
    next: Instant,
}

/// All items that failed. Bounded by the size of a plan.
#[derive(Debug, Default)]
pub(super) struct Failures {
    items: BTreeMap<Item, Failure>,
}

impl Failures {
    /// The action has not failed, or its pause is over, or it is another one than the one that failed.
    pub(super) fn may_try(&self, action: &Action, now: Instant) -> bool {
        self.items
            .get(&Item::of(action))
            .is_none_or(|failure| failure.action != *action || failure.next <= now)
    }

    /// Notes a failure and returns how often it has happened.
    pub(super) fn add(&mut self, action: &Action, error: String, now: Instant) -> u64 {
        let item = Item::of(action);
        let before = self
            .items
            .get(&item)
            .filter(|failure| failure.action == *action);
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let doublings = u32::try_from(attempts - 1).unwrap_or(u32::MAX).min(16);
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        let failure = Failure {
            action: action.clone(),
            error,
            attempts,
            next: now + pause,
        };
        self.items.insert(item, failure);
        attempts
    }

    /// Forgets a failure; true when there was one.
    pub(super) fn clear(&mut self, action: &Action) -> bool {
        self.items.remove(&Item::of(action)).is_some()
    }

    /// Forgets what no plan asks for any more.
    pub(super) fn retain(&mut self, plan: &[Action]) {
        let items: BTreeSet<Item> = plan.iter().map(Item::of).collect();
        self.items.retain(|item, _| items.contains(item));
    }

    /// When the next try is due.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.items.values().map(|failure| failure.next).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The error of one item.
    pub(super) fn error_of(&self, item: &Item) -> Option<&String> {
        self.items.get(item).map(|failure| &failure.error)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Item, &Failure)> {
        self.items.iter()
    }
}
