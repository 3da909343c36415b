//! Withdraw before unprogram: what leaves stays in the kernel as long as the network may send to it.
//!
//! [`Farewells`] asks the announcers and keeps the time; [`keep`] is pure and adds what is held to
//! what is desired, so that the plan knows nothing of all this.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    announce::Announcer,
    model::{BindingState, Desired, HostRoute, Lane, Observed, VmState},
};

/// Longest time a withdrawal may take to leave before the EIP is unprogrammed anyway: a router that
/// takes nothing must not keep an address on a VM that has lost it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// EIPs on their way out.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    leaving: BTreeMap<IpAddr, Farewell>,
}

#[derive(Debug)]
struct Farewell {
    until: Instant,
    is_given_up: bool,
}

impl Farewells {
    /// EIPs that must not be unprogrammed yet.
    pub(super) fn held(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        announcers: &[Box<dyn Announcer>],
        now: Instant,
    ) -> BTreeSet<IpAddr> {
        let is_leaving = |eip: &&IpAddr| !desired.bindings.contains_key(eip);
        let leaving: BTreeSet<IpAddr> = observed
            .bindings
            .keys()
            .filter(is_leaving)
            .copied()
            .collect();
        let lingering = announcers.iter().map(|one| one.lingering(&leaving));
        let lingering: BTreeSet<IpAddr> = lingering.flatten().collect();
        self.leaving.retain(|eip, _| leaving.contains(eip));
        let mut held = BTreeSet::new();
        for eip in lingering {
            let farewell = self.leaving.entry(eip).or_insert(Farewell {
                until: now + PATIENCE,
                is_given_up: false,
            });
            if now < farewell.until {
                held.insert(eip);
            } else if !std::mem::replace(&mut farewell.is_given_up, true) {
                let seconds = PATIENCE.as_secs();
                warn!(%eip, "its withdrawal has not left within {seconds} s, unprogramming it");
            }
        }
        held
    }

    /// When patience with one of them ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.leaving.values().filter(|one| !one.is_given_up);
        waiting.map(|one| one.until).min()
    }
}

/// What is desired, and beside it what is held as it stands. What has no door or no VM entry any more
/// reaches nobody and is not kept.
pub(super) fn keep<'a>(
    desired: &'a Desired,
    observed: &Observed,
    held: &BTreeSet<IpAddr>,
) -> Cow<'a, Desired> {
    let mut guests: BTreeMap<IpAddr, Vec<(IpAddr, &BindingState)>> = BTreeMap::new();
    for eip in held {
        let Some((is, _)) = observed.bindings.get(eip) else {
            continue;
        };
        let is_sound = observed.ports.contains(&is.port) && observed.vms.contains_key(&is.vm);
        if is_sound && !desired.bindings.contains_key(eip) {
            guests.entry(is.vm).or_default().push((*eip, is));
        }
    }
    if guests.is_empty() {
        return Cow::Borrowed(desired);
    }
    let mut kept = desired.clone();
    for (vm, eips) in guests {
        match desired.vms.get(&vm) {
            Some(want) => keep_beside(&mut kept, observed, vm, want, &eips),
            None => keep_alone(&mut kept, observed, vm, &eips),
        }
    }
    Cow::Owned(kept)
}

/// The VM has EIPs of its own: the held ones follow it to where it is now, as some of several.
fn keep_beside(
    kept: &mut Desired,
    observed: &Observed,
    vm: IpAddr,
    want: &VmState,
    eips: &[(IpAddr, &BindingState)],
) {
    let Some(primary) = kept.bindings.get(&want.eip).cloned() else {
        return;
    };
    for (eip, is) in eips {
        let state = BindingState {
            is_primary: false,
            generation: is.generation,
            ..primary.clone()
        };
        kept.bindings.insert(*eip, state);
        if observed
            .routes
            .iter()
            .any(|route| route.eip == *eip && route.vm == vm)
        {
            let l3 = primary.l3;
            kept.routes.insert(HostRoute { eip: *eip, vm, l3 });
        }
    }
    if let Some(entry) = kept.vms.get_mut(&vm) {
        entry.has_many = true;
    }
    share(kept, vm);
}

/// Nothing else is wanted of the VM: it stays as it is for what is held.
fn keep_alone(
    kept: &mut Desired,
    observed: &Observed,
    vm: IpAddr,
    eips: &[(IpAddr, &BindingState)],
) {
    let Some((is, _)) = observed.vms.get(&vm) else {
        return;
    };
    let mut entry = is.clone();
    let has_primary = eips.iter().any(|(eip, _)| *eip == entry.eip);
    if let Some((first, state)) = eips.first() {
        if !has_primary {
            entry.eip = *first;
        }
        // Both directions go through one door.
        (entry.port, entry.l3) = (state.port, state.l3);
        kept.ports.insert(state.port);
    }
    entry.has_many |= eips.len() > 1 || !has_primary;
    let has_many = entry.has_many;
    kept.vms.insert(vm, entry);
    for (eip, state) in eips {
        kept.bindings.insert(*eip, (*state).clone());
        kept.ports.insert(state.port);
    }
    let routes = observed.routes.iter().filter(|route| route.vm == vm);
    let routes = routes.filter(|route| eips.iter().any(|(eip, _)| *eip == route.eip));
    kept.routes.extend(routes.cloned());
    if has_many {
        share(kept, vm);
    }
}

/// From now on the VM's flows are recorded, which XDP does not do.
fn share(kept: &mut Desired, vm: IpAddr) {
    for state in kept.bindings.values_mut().filter(|state| state.vm == vm) {
        state.shares_vm = true;
        if state.delivery == Lane::Xdp {
            state.delivery = Lane::Peer;
        }
    }
}
