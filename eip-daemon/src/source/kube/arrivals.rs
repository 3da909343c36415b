//! When VMs came to this node from another one. Pure: time comes in.
//!
//! The grant says that a binding is this node's while `status.serving` still names the other node: that
//! moment is when its VM arrived. This process remembers it for as long as the VM is here; after a restart
//! nobody is new any more, and by then the network has converged.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Facts, ObjectName};

/// VMs that came while this process ran.
#[derive(Debug, Default)]
pub(super) struct Arrivals(BTreeMap<ObjectName, Arrival>);

#[derive(Debug)]
struct Arrival {
    uid: Option<String>,
    /// Seconds since the epoch.
    at: i64,
    /// The other node still has it in force.
    is_under_way: bool,
}

impl Arrivals {
    /// Writes down when each VM came. `coming` are those another node still has in force; `now` is in
    /// seconds since the epoch.
    pub(super) fn mark(&mut self, facts: &mut Facts, coming: &BTreeSet<ObjectName>, now: i64) {
        let mut before = std::mem::take(&mut self.0);
        for vm in &mut facts.vms {
            let known = before.remove(&vm.name).filter(|known| known.uid == vm.uid);
            let is_under_way = coming.contains(&vm.name);
            let at = match &known {
                Some(known) if known.is_under_way || !is_under_way => known.at,
                // It has been here before, and went away in between.
                Some(_) => now,
                None if is_under_way => now,
                None => continue,
            };
            vm.arrived = Some(at);
            let arrival = Arrival {
                uid: vm.uid.clone(),
                at,
                is_under_way,
            };
            self.0.insert(vm.name.clone(), arrival);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Arrivals;
    use crate::model::{Facts, ObjectName, VmFact, VmPhase};

    fn vm(uid: &str) -> VmFact {
        VmFact {
            name: ObjectName {
                namespace: "ns".to_owned(),
                name: "vm".to_owned(),
            },
            uid: Some(uid.to_owned()),
            created: None,
            phase: VmPhase::Running,
            node: None,
            arrived: None,
            interfaces: Vec::new(),
            origin: None,
        }
    }

    /// Each step: the VM's identity, nothing when it is not here; whether it is coming; the time.
    fn arrivals(steps: &[(Option<&str>, bool, i64)]) -> Vec<Option<i64>> {
        let mut arrivals = Arrivals::default();
        let mark = |(uid, is_coming, now): &(Option<&str>, bool, i64)| {
            let vms: Vec<VmFact> = uid.map(vm).into_iter().collect();
            let coming: BTreeSet<ObjectName> = vms
                .iter()
                .filter(|_| *is_coming)
                .map(|vm| vm.name.clone())
                .collect();
            let mut facts = Facts {
                vms,
                ..Facts::default()
            };
            arrivals.mark(&mut facts, &coming, *now);
            facts.vms.first().and_then(|vm| vm.arrived)
        };
        steps.iter().map(mark).collect()
    }

    #[test]
    fn a_vm_arrives_once_and_that_is_remembered_while_it_is_here() {
        let steps = [
            (Some("a"), true, 10),
            (Some("a"), true, 11),
            (Some("a"), false, 12),
            (None, false, 20),
            (Some("a"), false, 21),
        ];
        assert_eq!(arrivals(&steps), [Some(10), Some(10), Some(10), None, None]);
    }

    #[test]
    fn one_that_started_here_never_arrived() {
        assert_eq!(arrivals(&[(Some("a"), false, 10)]), [None]);
    }

    #[test]
    fn one_that_comes_back_and_another_of_its_name_arrive_anew() {
        let steps = [
            (Some("a"), true, 10),
            (Some("a"), false, 11),
            (Some("a"), true, 12),
            (Some("b"), true, 13),
            (Some("c"), false, 14),
        ];
        assert_eq!(
            arrivals(&steps),
            [Some(10), Some(10), Some(12), Some(13), None]
        );
    }
}
