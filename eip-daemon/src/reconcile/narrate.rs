//! What the reconciler says in the log: changes once, at the level they deserve; nothing when idle.

use std::{collections::BTreeMap, error::Error, fmt::Write as _, net::IpAddr};

use tracing::{debug, field::display, info, warn};

use crate::model::{Action, NetworkView, ObjectName, Outcome, RefusedDocument};

/// Why an action is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Facts, settings or the node's network changed.
    Wish,
    /// Somebody else changed what was in place.
    Drift,
}

/// An action in words.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// As a thing to do.
    doing: &'static str,
    /// As a thing done.
    done: &'static str,
    pub(super) eip: Option<IpAddr>,
    vm: Option<IpAddr>,
    interface: Option<String>,
    /// What else identifies it: a prefix, a rule.
    subject: Option<String>,
}

impl Line {
    pub(super) fn new(action: &Action, view: &NetworkView) -> Self {
        let interface = |index: &u32| {
            let name = view.links.get(index).map(|link| link.name.clone());
            Some(name.unwrap_or_else(|| format!("#{index}")))
        };
        let line = |doing, done| Self {
            doing,
            done,
            ..Self::default()
        };
        match action {
            Action::PutGateway(_) => line("write gateway", "gateway written"),
            Action::PutNet(net, _) => Self {
                subject: Some(net.to_string()),
                ..line("write prefix", "prefix written")
            },
            Action::RemoveNet(net) => Self {
                subject: Some(net.to_string()),
                ..line("remove prefix", "prefix removed")
            },
            Action::AttachUplink(index, _) => Self {
                interface: interface(index),
                ..line("attach uplink", "uplink attached")
            },
            Action::DetachUplink(index) => Self {
                interface: interface(index),
                ..line("detach uplink", "uplink detached")
            },
            Action::AttachPort(index) => Self {
                interface: interface(index),
                ..line("attach door", "door attached")
            },
            Action::DetachPort(index) => Self {
                interface: interface(index),
                ..line("detach door", "door detached")
            },
            Action::RemoveLeftover(index) => Self {
                interface: interface(index),
                ..line("remove leftover", "leftover removed")
            },
            Action::PutBinding { eip, state, .. } => Self {
                eip: Some(*eip),
                vm: Some(state.vm),
                interface: interface(&state.port),
                ..line("program binding", "binding programmed")
            },
            Action::RemoveBinding { eip } => Self {
                eip: Some(*eip),
                ..line("unprogram binding", "binding unprogrammed")
            },
            Action::PutVm { vm, state, .. } => Self {
                eip: Some(state.eip),
                vm: Some(*vm),
                interface: interface(&state.port),
                ..line("program vm", "vm programmed")
            },
            Action::RemoveVm { vm } => Self {
                vm: Some(*vm),
                ..line("unprogram vm", "vm unprogrammed")
            },
            Action::PutRoute(route) => Self {
                eip: Some(route.eip),
                vm: Some(route.vm),
                interface: interface(&route.l3),
                ..line("install host route", "host route installed")
            },
            Action::RemoveRoute(route) => Self {
                eip: Some(route.eip),
                vm: Some(route.vm),
                interface: interface(&route.l3),
                ..line("remove host route", "host route removed")
            },
            Action::AddRule(rule) => Self {
                subject: Some(rule.to_string()),
                ..line("add rule", "rule added")
            },
            Action::RemoveRule(rule) => Self {
                subject: Some(rule.to_string()),
                ..line("remove rule", "rule removed")
            },
            Action::PutTableDefault(default) => Self {
                interface: interface(&default.ifindex),
                subject: Some(default.gateway.to_string()),
                ..line("install default route", "default route installed")
            },
            Action::RemoveTableDefault(default) => Self {
                interface: interface(&default.ifindex),
                subject: Some(default.gateway.to_string()),
                ..line("remove default route", "default route removed")
            },
        }
    }

    /// For reports: `attach door interface=cali1`.
    pub(super) fn to_text(&self) -> String {
        let mut text = self.doing.to_owned();
        let fields = [
            ("eip", self.eip.map(|eip| eip.to_string())),
            ("vm", self.vm.map(|vm| vm.to_string())),
            ("interface", self.interface.clone()),
            ("subject", self.subject.clone()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _infallible = write!(text, " {name}={value}");
            }
        }
        text
    }

    pub(super) fn tell_done(&self, cause: Cause) {
        let (eip, vm) = (self.eip.map(display), self.vm.map(display));
        let (interface, subject) = (self.interface.as_deref(), self.subject.as_deref());
        match cause {
            Cause::Wish => info!(eip, vm, interface, subject, "{}", self.done),
            Cause::Drift => {
                warn!(
                    eip,
                    vm, interface, subject, "{} again: somebody had changed it", self.done
                );
            }
        }
    }

    pub(super) fn tell_failing(&self, error: &str) {
        let (eip, vm) = (self.eip.map(display), self.vm.map(display));
        let (interface, subject) = (self.interface.as_deref(), self.subject.as_deref());
        warn!(
            eip,
            vm, interface, subject, error, "{} does not work, retrying", self.doing
        );
    }

    pub(super) fn tell_recovered(&self) {
        let (eip, vm) = (self.eip.map(display), self.vm.map(display));
        let (interface, subject) = (self.interface.as_deref(), self.subject.as_deref());
        info!(eip, vm, interface, subject, "{} works again", self.doing);
    }
}

/// Tells what became of bindings, where that changed.
pub(super) fn tell_outcomes(
    before: &BTreeMap<ObjectName, Outcome>,
    after: &BTreeMap<ObjectName, Outcome>,
) {
    for (name, outcome) in after
        .iter()
        .filter(|(name, outcome)| before.get(name) != Some(outcome))
    {
        let (namespace, binding) = (&name.namespace, &name.name);
        match outcome {
            Outcome::Served { vm, note } => {
                debug!(namespace, binding, %vm, note = note.as_deref(), "binding is served here");
            }
            Outcome::Elsewhere { node } => debug!(namespace, binding, node, "binding is elsewhere"),
            Outcome::Waiting { reason, message } => {
                info!(namespace, binding, ?reason, "binding waits: {message}");
            }
            Outcome::Refused { reason, message } => {
                warn!(namespace, binding, ?reason, "binding refused: {message}");
            }
        }
    }
}

/// Tells which documents are refused, where that changed.
pub(super) fn tell_refused(before: &[RefusedDocument], after: &[RefusedDocument]) {
    for refused in after.iter().filter(|refused| !before.contains(refused)) {
        warn!(origin = %refused.origin, "document refused: {}", refused.problem);
    }
    let is_gone = |old: &&RefusedDocument| after.iter().all(|new| new.origin != old.origin);
    for refused in before.iter().filter(is_gone) {
        info!(origin = %refused.origin, "document no longer refused");
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
