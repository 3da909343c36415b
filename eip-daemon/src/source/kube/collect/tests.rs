//! Watched objects and the facts they become.

use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// A binding as the controller has granted it.
fn granted(name: &str, version: u64, node: &str) -> Value {
    json!({
        "apiVersion": "virteip.github.com/v1",
        "kind": "EipBinding",
        "metadata": {
            "name": name, "namespace": "ns", "uid": "b", "generation": 3,
            "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z"
        },
        "spec": {"eip": "203.0.113.10", "vmi": "vm"},
        "status": {
            "eip": "203.0.113.10", "node": node, "vmAddress": "10.244.0.5", "vmUid": "u"
        }
    })
}

fn listed(streams: &[(Stream, Vec<Value>)]) -> Collection {
    let mut collection = Collection::new("here".to_owned());
    for stream in Stream::ALL {
        collection.take(stream, Event::Init);
        for (_, objects) in streams.iter().filter(|(of, _)| *of == stream) {
            for value in objects {
                collection.take(stream, Event::InitApply(object(value.clone())));
            }
        }
        collection.take(stream, Event::InitDone);
    }
    collection
}

#[test]
fn a_grant_to_this_node_is_the_fact_a_directory_would_give() {
    let facts = listed(&[(Stream::Bindings, vec![granted("b", 1, "here")])]).facts();
    assert!(facts.complete);
    assert_eq!(facts.bindings.len(), 1);
    let fact = &facts.bindings[0];
    assert_eq!(fact.eip.to_string(), "203.0.113.10");
    assert_eq!(
        (fact.generation, fact.vm.to_string().as_str()),
        (3, "ns/vm")
    );
    let vm = &facts.vms[0];
    assert_eq!(vm.node.as_deref(), Some("here"));
    assert_eq!(vm.phase, VmPhase::Running);
    assert_eq!(vm.interfaces[0].addresses[0].to_string(), "10.244.0.5");
}

#[test]
fn an_edit_is_not_served_before_the_controller_has_judged_it() {
    let mut edited = granted("b", 2, "here");
    edited["spec"]["eip"] = json!("203.0.113.99");
    let facts = listed(&[(Stream::Bindings, vec![edited])]).facts();
    assert_eq!(facts.bindings[0].eip.to_string(), "203.0.113.10");
}

#[test]
fn grants_to_others_deleted_objects_and_half_grants_are_not_served() {
    let mut deleted = granted("d", 1, "here");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut half = granted("h", 1, "here");
    half["status"]["vmAddress"] = Value::Null;
    let facts = listed(&[(
        Stream::Bindings,
        vec![granted("b", 1, "there"), deleted, half],
    )])
    .facts();
    assert_eq!((facts.bindings, facts.refused), (Vec::new(), Vec::new()));
}

#[test]
fn one_object_that_cannot_be_read_is_refused_and_the_others_are_served() {
    let mut bad = granted("bad", 1, "here");
    bad["status"]["vmAddress"] = json!("nowhere");
    let facts = listed(&[(Stream::Bindings, vec![bad, granted("b", 1, "here")])]).facts();
    assert_eq!((facts.bindings.len(), facts.refused.len()), (1, 1));
    assert!(facts.refused[0].problem.contains("nowhere"));
}

#[test]
fn of_two_versions_the_newer_one_counts_whatever_stream_shows_it() {
    for (here, other, is_served) in [(5, 6, false), (6, 5, true)] {
        let collection = listed(&[
            (Stream::Bindings, vec![granted("b", here, "here")]),
            (Stream::OtherBindings, vec![granted("b", other, "there")]),
        ]);
        assert_eq!(!collection.facts().bindings.is_empty(), is_served);
        let collection = listed(&[
            (Stream::Bindings, vec![granted("b", here, "there")]),
            (Stream::OtherBindings, vec![granted("b", other, "here")]),
        ]);
        assert_eq!(collection.facts().bindings.is_empty(), is_served);
    }
}

#[test]
fn a_list_that_is_under_way_takes_nothing_away_and_its_end_does() {
    let mut collection = listed(&[(
        Stream::Bindings,
        vec![granted("a", 1, "here"), granted("b", 1, "here")],
    )]);
    collection.take(Stream::Bindings, Event::Init);
    assert_eq!(collection.facts().bindings.len(), 2);
    collection.take(
        Stream::Bindings,
        Event::InitApply(object(granted("b", 1, "here"))),
    );
    assert_eq!(collection.facts().bindings.len(), 2);
    collection.take(Stream::Bindings, Event::InitDone);
    assert_eq!(collection.facts().bindings.len(), 1);
}

#[test]
fn facts_are_complete_after_every_kind_was_listed() {
    let mut collection = Collection::new("here".to_owned());
    for stream in Stream::ALL {
        assert!(!collection.facts().complete);
        collection.take(stream, Event::Init);
        collection.take(stream, Event::InitDone);
    }
    assert!(collection.facts().complete);
}

#[test]
fn two_bindings_of_one_vm_bring_both_of_its_addresses() {
    let mut second = granted("six", 1, "here");
    second["spec"]["eip"] = json!("2001:db8::10");
    second["status"]["eip"] = json!("2001:db8::10");
    second["status"]["vmAddress"] = json!("fd00::5");
    let facts = listed(&[(Stream::Bindings, vec![granted("b", 1, "here"), second])]).facts();
    assert_eq!((facts.bindings.len(), facts.vms.len()), (2, 1));
    assert_eq!(facts.vms[0].interfaces[0].addresses.len(), 2);
}

#[test]
fn nodes_and_service_ranges_are_internal_networks() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}
    });
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "k"},
        "spec": {"cidrs": ["10.96.0.0/16"]}
    });
    let facts = listed(&[
        (Stream::Nodes, vec![node]),
        (Stream::ServiceCidrs, vec![range]),
    ])
    .facts();
    let nets: Vec<String> = facts
        .nets
        .iter()
        .map(|fact| fact.nets[0].to_string())
        .collect();
    assert_eq!(nets, ["10.244.1.0/24", "10.96.0.0/16"]);
}
