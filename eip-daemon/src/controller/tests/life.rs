//! Where a VM is served while it starts, moves and ends, step by step as KubeVirt writes it.

use super::*;
use crate::controller::{
    object::NetworkKind,
    place::{Place, Reason, Sought, other_node, place},
};

fn pod_network(is_ipv4: bool) -> Sought<'static> {
    Sought {
        is_ipv4,
        network: &NetworkKind::Pod,
    }
}

/// Goes through the steps of a life; each is a VM, its pods, and what is to come of it.
struct Life {
    before: Option<Grant>,
}

impl Life {
    fn new() -> Self {
        Self { before: None }
    }

    #[track_caller]
    fn step(&mut self, vm: &Vm, pods: &[Pod], expected: Option<(&str, &str)>) {
        let pods: Vec<&Pod> = pods.iter().collect();
        let found = place(vm, &pods, pod_network(true), self.before.as_ref());
        self.before = match found {
            Place::At { grant, .. } => Some(grant),
            Place::Nowhere { .. } => None,
        };
        let found = self
            .before
            .as_ref()
            .map(|grant| (grant.node.as_str(), grant.address.to_string()));
        let expected = expected.map(|(node, address)| (node, address.to_owned()));
        assert_eq!(found, expected);
    }
}

fn source() -> Pod {
    pod("from", "u", "a", &["10.0.0.1"])
}

fn target() -> Pod {
    pod("to", "u", "b", &["10.0.0.2"])
}

#[test]
fn a_vm_is_served_from_running_to_its_end_and_not_before_or_after() {
    let mut life = Life::new();
    let in_phase = |phase| Vm {
        phase,
        ..running("u", "a")
    };
    life.step(&in_phase(VmPhase::Pending), &[], None);
    life.step(&in_phase(VmPhase::Pending), &[source()], None);
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    life.step(&in_phase(VmPhase::Final), &[source()], None);
}

#[test]
fn a_migration_switches_when_the_guest_runs_on_the_target_and_not_at_the_hand_off() {
    let mut life = Life::new();
    let with = |node: &str, state| Vm {
        migration: Some(state),
        ..running("u", node)
    };
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    let both = [source(), target()];
    life.step(&running("u", "a"), &both, Some(("a", "10.0.0.1")));
    life.step(
        &with("a", migration("b", false)),
        &both,
        Some(("a", "10.0.0.1")),
    );
    life.step(
        &with("a", migration("b", true)),
        &both,
        Some(("b", "10.0.0.2")),
    );
    // The update that flips the node still claims the old address.
    let flipped = Vm {
        claims: vec![ip("10.0.0.1")],
        ..with("b", migration("b", true))
    };
    life.step(&flipped, &both, Some(("b", "10.0.0.2")));
    let completed = MigrationState {
        completed: true,
        ..migration("b", true)
    };
    life.step(
        &with("b", completed.clone()),
        &both,
        Some(("b", "10.0.0.2")),
    );
    life.step(&with("b", completed), &[target()], Some(("b", "10.0.0.2")));
}

#[test]
fn the_old_order_that_flips_everything_at_once_works_without_the_first_sign() {
    let mut life = Life::new();
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    let flipped = Vm {
        migration: Some(MigrationState {
            completed: true,
            ..migration("b", false)
        }),
        ..running("u", "b")
    };
    life.step(&flipped, &[source(), target()], Some(("b", "10.0.0.2")));
}

#[test]
fn a_failed_migration_stays_or_goes_back() {
    let mut life = Life::new();
    let both = [source(), target()];
    let with = |state| Vm {
        migration: Some(state),
        ..running("u", "a")
    };
    life.step(&with(migration("b", true)), &both, Some(("b", "10.0.0.2")));
    let failed = MigrationState {
        failed: true,
        completed: true,
        ..migration("b", true)
    };
    life.step(&with(failed.clone()), &both, Some(("a", "10.0.0.1")));
    life.step(&with(failed), &[source()], Some(("a", "10.0.0.1")));
}

#[test]
fn a_migration_that_keeps_the_address_moves_the_node() {
    let mut life = Life::new();
    let target = pod("to", "u", "b", &["10.0.0.1"]);
    let both = [source(), target];
    life.step(&running("u", "a"), &both, Some(("a", "10.0.0.1")));
    let moved = Vm {
        migration: Some(migration("b", true)),
        ..running("u", "a")
    };
    life.step(&moved, &both, Some(("b", "10.0.0.1")));
}

#[test]
fn two_migrations_in_a_row_end_where_the_second_goes() {
    let mut life = Life::new();
    let back = pod("back", "u", "a", &["10.0.0.3"]);
    let first = MigrationState {
        completed: true,
        ..migration("b", true)
    };
    let with = |node: &str, state| Vm {
        migration: Some(state),
        ..running("u", node)
    };
    life.step(&with("b", first), &[target()], Some(("b", "10.0.0.2")));
    let to_a = |is_ready| MigrationState {
        target_pod: Some("back".to_owned()),
        ..migration("a", is_ready)
    };
    let three = [source(), target(), back.clone()];
    life.step(&with("b", to_a(false)), &three, Some(("b", "10.0.0.2")));
    // The pod it comes back to, not the one it left long ago on the same node.
    life.step(&with("b", to_a(true)), &three, Some(("a", "10.0.0.3")));
}

#[test]
fn the_switch_waits_for_the_targets_pod_to_be_known() {
    let mut life = Life::new();
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    let moved = Vm {
        migration: Some(migration("b", true)),
        ..running("u", "b")
    };
    life.step(&moved, &[source()], Some(("a", "10.0.0.1")));
    life.step(&moved, &[source(), target()], Some(("b", "10.0.0.2")));
}

#[test]
fn an_emptied_status_does_not_unbind_a_running_vm() {
    let mut life = Life::new();
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    let emptied = Vm {
        node: None,
        ..running("u", "a")
    };
    life.step(&emptied, &[source()], Some(("a", "10.0.0.1")));
    let unknown = Vm {
        phase: VmPhase::Unknown,
        ..running("u", "a")
    };
    life.step(&unknown, &[source()], Some(("a", "10.0.0.1")));
}

#[test]
fn an_address_whose_pod_has_ended_is_nobodys() {
    let mut life = Life::new();
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    life.step(&running("u", "a"), &[pod("from", "u", "a", &[])], None);
}

#[test]
fn a_restarted_vm_inherits_nothing_from_the_one_before() {
    let mut life = Life::new();
    life.step(&running("u", "a"), &[source()], Some(("a", "10.0.0.1")));
    life.step(&running("u2", "a"), &[], None);
    let new = pod("new", "u2", "b", &["10.0.0.9"]);
    life.step(&running("u2", "b"), &[new], Some(("b", "10.0.0.9")));
}

#[test]
fn a_claim_of_the_guest_is_never_the_target() {
    let liar = Vm {
        claims: vec![ip("10.9.9.9")],
        ..running("u", "a")
    };
    let own = source();
    let Place::At { grant, note } = place(&liar, &[&own], pod_network(true), None) else {
        panic!("the VM has an address of its own");
    };
    assert_eq!(grant.address, ip("10.0.0.1"));
    assert!(note.unwrap().contains("10.9.9.9"));
    let Place::Nowhere { reason, message } = place(&liar, &[], pod_network(true), None) else {
        panic!("nobody has verified that address");
    };
    assert_eq!(reason, Reason::AddressUnverified);
    assert!(message.contains("10.9.9.9"), "{message}");
}

#[test]
fn the_address_is_of_the_elastic_ips_family() {
    let dual = pod("p", "u", "a", &["fd00::1", "10.0.0.1"]);
    for (is_ipv4, expected) in [(true, "10.0.0.1"), (false, "fd00::1")] {
        let Place::At { grant, .. } =
            place(&running("u", "a"), &[&dual], pod_network(is_ipv4), None)
        else {
            panic!("it has one");
        };
        assert_eq!(grant.address, ip(expected));
    }
    let single = source();
    let Place::Nowhere { reason, .. } =
        place(&running("u", "a"), &[&single], pod_network(false), None)
    else {
        panic!("it has none");
    };
    assert_eq!(reason, Reason::VmHasNoAddress);
}

#[test]
fn both_nodes_of_a_migration_are_concerned() {
    let (from, to) = (source(), target());
    let here = grant("u", "a", "10.0.0.1");
    assert_eq!(other_node(Some(&here), &[&from]), None);
    assert_eq!(other_node(Some(&here), &[&from, &to]).as_deref(), Some("b"));
    let there = grant("u", "b", "10.0.0.2");
    assert_eq!(
        other_node(Some(&there), &[&from, &to]).as_deref(),
        Some("a")
    );
}
