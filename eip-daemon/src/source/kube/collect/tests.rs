//! Watched objects and the facts they become.

use serde_json::{Value, json};

use super::*;

const HAND_OVER: Duration = Duration::from_secs(10);

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
    let mut collection = Collection::new("here".to_owned(), Some(HAND_OVER));
    for stream in Stream::ALL {
        collection.take(stream, Event::Init, Instant::now());
        for (_, objects) in streams.iter().filter(|(of, _)| *of == stream) {
            for value in objects {
                collection.take(
                    stream,
                    Event::InitApply(object(value.clone())),
                    Instant::now(),
                );
            }
        }
        collection.take(stream, Event::InitDone, Instant::now());
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
fn bindings_to_several_networks_of_a_vm_each_lead_to_their_own() {
    let mut other = granted("c", 1, "here");
    other["spec"] = json!({"eip": "203.0.113.11", "vmi": "vm", "interface": "blue"});
    other["status"]["eip"] = json!("203.0.113.11");
    other["status"]["vmAddress"] = json!("10.8.0.8");
    let pod = || granted("d", 1, "here");
    for objects in [vec![other.clone(), pod()], vec![pod(), other.clone()]] {
        let facts = listed(&[(Stream::Bindings, objects)]).facts();
        let interfaces = &facts.vms[0].interfaces;
        let of: Vec<(&str, String)> = interfaces
            .iter()
            .map(|one| (one.name.as_str(), one.addresses[0].to_string()))
            .collect();
        let expected = [("", "10.244.0.5"), ("blue", "10.8.0.8")];
        assert_eq!(
            of,
            expected.map(|(name, address)| (name, address.to_owned()))
        );
        assert_eq!(facts.bindings[0].interface.as_deref(), Some("blue"));
    }
}

#[test]
fn an_edit_is_not_served_before_the_controller_has_judged_it() {
    let mut edited = granted("b", 2, "here");
    edited["spec"]["eip"] = json!("203.0.113.99");
    let facts = listed(&[(Stream::Bindings, vec![edited])]).facts();
    assert_eq!(facts.bindings[0].eip.to_string(), "203.0.113.10");
}

#[test]
fn a_binding_that_moves_stays_until_the_other_node_serves_it() {
    let moved = |serving: Value| {
        let mut object = granted("b", 2, "there");
        object["status"]["vmAddress"] = json!("10.244.9.9");
        object["status"]["serving"] = serving;
        listed(&[(Stream::OtherBindings, vec![object])]).facts()
    };
    let by = |node: &str, eip: &str| json!({"node": node, "eip": eip, "vmAddress": "10.244.0.5"});
    let facts = moved(by("here", "203.0.113.10"));
    assert_eq!(facts.bindings.len(), 1);
    let kept = facts.vms[0].interfaces[0].addresses[0];
    assert_eq!(
        kept.to_string(),
        "10.244.0.5",
        "what it has here, not there"
    );
    for serving in [
        by("there", "203.0.113.10"),
        by("here", "203.0.113.99"),
        Value::Null,
    ] {
        assert!(moved(serving).bindings.is_empty());
    }
}

#[test]
fn a_binding_that_another_node_still_serves_is_coming() {
    for (serving, is_coming) in [
        (json!({"node": "there", "eip": "203.0.113.10"}), true),
        (json!({"node": "there"}), false),
        (json!({"node": "here", "eip": "203.0.113.10"}), false),
        (Value::Null, false),
    ] {
        let mut object = granted("b", 2, "here");
        object["status"]["serving"] = serving;
        let collection = listed(&[(Stream::Bindings, vec![object])]);
        assert_eq!(collection.coming().len(), usize::from(is_coming));
    }
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
    collection.take(Stream::Bindings, Event::Init, Instant::now());
    assert_eq!(collection.facts().bindings.len(), 2);
    collection.take(
        Stream::Bindings,
        Event::InitApply(object(granted("b", 1, "here"))),
        Instant::now(),
    );
    assert_eq!(collection.facts().bindings.len(), 2);
    collection.take(Stream::Bindings, Event::InitDone, Instant::now());
    assert_eq!(collection.facts().bindings.len(), 1);
}

#[test]
fn facts_are_complete_after_every_kind_was_listed() {
    let mut collection = Collection::new("here".to_owned(), Some(HAND_OVER));
    for stream in Stream::ALL {
        assert!(!collection.facts().complete);
        collection.take(stream, Event::Init, Instant::now());
        collection.take(stream, Event::InitDone, Instant::now());
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

#[test]
fn a_binding_between_the_two_streams_is_served_all_the_time() {
    let serving = json!({"node": "here", "eip": "203.0.113.10", "vmAddress": "10.244.0.5"});
    let mut leaving = granted("b", 2, "there");
    leaving["status"]["serving"] = serving;
    let arriving = granted("b", 2, "here");
    for (from, to, object) in [
        (Stream::Bindings, Stream::OtherBindings, &leaving),
        (Stream::OtherBindings, Stream::Bindings, &arriving),
    ] {
        let mut collection = listed(&[(from, vec![object.clone()])]);
        let now = Instant::now();
        let event = Event::Delete(self::object(object.clone()));
        collection.take(from, event, now);
        assert_eq!(collection.facts().bindings.len(), 1);
        let event = Event::Apply(self::object(object.clone()));
        collection.take(to, event, now);
        assert_eq!(collection.facts().bindings.len(), 1);
        assert_eq!(collection.next_time(), None);
    }
    // One that does not come up was deleted.
    let mut collection = listed(&[(Stream::OtherBindings, vec![arriving.clone()])]);
    let now = Instant::now();
    let event = Event::Delete(object(arriving));
    collection.take(Stream::OtherBindings, event, now);
    collection.settle(collection.next_time().unwrap());
    assert!(collection.facts().bindings.is_empty());
}

#[test]
fn a_binding_that_is_deleted_is_gone_at_once() {
    let object_here = granted("b", 2, "here");
    let mut collection = listed(&[(Stream::Bindings, vec![object_here.clone()])]);
    let event = Event::Delete(object(object_here));
    collection.take(Stream::Bindings, event, Instant::now());
    assert!(collection.facts().bindings.is_empty());
}

/// Served by a node that its address tells of.
fn served(version: u64, grant: &str, serving: &str) -> Value {
    let mut object = granted("b", version, grant);
    object["status"]["serving"] = json!({
        "node": serving, "eip": "203.0.113.10", "vmAddress": "10.244.0.5",
        "nodeAddress": "192.0.2.12"
    });
    object
}

#[test]
fn a_binding_that_left_is_told_of_and_sent_on_for_a_while() {
    let mut collection = listed(&[(Stream::OtherBindings, vec![served(2, "there", "here")])]);
    let began = Instant::now();
    let apply = |collection: &mut Collection, value: Value| {
        let event = Event::Apply(object(value));
        collection.take(Stream::OtherBindings, event, began);
    };
    let left = |collection: &Collection| {
        let facts = collection.facts();
        facts
            .bindings
            .first()
            .and_then(|fact| fact.moving.left.clone())
    };
    assert_eq!(left(&collection), None, "nobody else serves it yet");
    apply(&mut collection, served(3, "there", "there"));
    let expected = |is_announced| HandOver {
        node: "there".to_owned(),
        to: Some("192.0.2.12".parse().unwrap()),
        is_announced,
        began: 0,
    };
    assert_eq!(left(&collection), Some(expected(true)));
    assert_eq!(collection.facts().vms, []);
    assert_eq!(collection.next_time(), Some(began + HAND_OVER));
    collection.settle(began + HAND_OVER);
    assert_eq!(left(&collection), Some(expected(false)));
    assert_eq!(collection.next_time(), Some(began + HAND_OVER * 3));
    // What an other stream shows late is history.
    collection.take(
        Stream::Bindings,
        Event::Apply(object(served(2, "there", "here"))),
        began,
    );
    assert_eq!(left(&collection), Some(expected(false)));
    collection.settle(began + HAND_OVER * 3);
    assert!(collection.facts().bindings.is_empty());
    assert_eq!(collection.next_time(), None);
}

#[test]
fn a_process_that_starts_in_the_middle_of_a_hand_over_ends_it_when_the_one_before_would_have() {
    const SECOND: u64 = 1_000_000_000;
    let began = Instant::now();
    let mut first = listed(&[(Stream::OtherBindings, vec![served(2, "there", "here")])]);
    first.resume(&Facts::default(), began, 100 * SECOND);
    let moved = object(served(3, "there", "there"));
    let second = Duration::from_secs(1);
    first.take(
        Stream::OtherBindings,
        Event::Apply(moved.clone()),
        began + second,
    );
    let kept = first.facts();
    assert_eq!(
        kept.bindings[0].moving.left.as_ref().unwrap().began,
        101 * SECOND
    );

    // Another process, whose monotonic clock says nothing about the first one's.
    let restarted = |boot: u64, list: Vec<Value>| {
        let now = began + second * 1000;
        let mut collection = Collection::new("here".to_owned(), Some(HAND_OVER));
        collection.resume(&kept, now, boot * SECOND);
        for stream in Stream::ALL {
            collection.take(stream, Event::Init, now);
            for value in list.iter().filter(|_| stream == Stream::OtherBindings) {
                collection.take(stream, Event::InitApply(object(value.clone())), now);
            }
            collection.take(stream, Event::InitDone, now);
        }
        let left = |collection: &Collection| {
            let first = collection.facts().bindings.first().cloned();
            first
                .and_then(|fact| fact.moving.left)
                .map(|left| left.is_announced)
        };
        let at_once = left(&collection);
        collection.settle(now + HAND_OVER);
        (at_once, left(&collection))
    };
    let still_there = || vec![served(3, "there", "there")];
    assert_eq!(restarted(105, still_there()), (Some(true), Some(false)));
    assert_eq!(restarted(112, still_there()), (Some(false), Some(false)));
    assert_eq!(restarted(125, still_there()), (Some(false), None));
    assert_eq!(restarted(131, still_there()), (None, None), "it is over");
    assert_eq!(
        restarted(105, Vec::new()),
        (Some(true), Some(false)),
        "its pod is gone"
    );
    assert_eq!(
        restarted(50, still_there()),
        (None, None),
        "the machine was restarted"
    );
    let back = vec![served(4, "here", "there")];
    assert_eq!(restarted(105, back), (None, None), "it has come back");
}

#[test]
fn a_binding_that_comes_back_in_time_is_served() {
    let mut collection = listed(&[(Stream::OtherBindings, vec![served(2, "there", "here")])]);
    let now = Instant::now();
    for object in [served(3, "there", "there"), served(4, "here", "there")] {
        let event = Event::Apply(self::object(object));
        collection.take(Stream::OtherBindings, event, now);
    }
    let facts = collection.facts();
    assert_eq!((facts.bindings.len(), facts.vms.len()), (1, 1));
    assert_eq!(facts.bindings[0].moving.left, None);
    assert_eq!(collection.next_time(), None);
}

#[test]
fn a_binding_that_was_never_here_or_is_deleted_is_not_sent_on() {
    let elsewhere = served(2, "there", "there");
    let mut collection = listed(&[(Stream::OtherBindings, vec![elsewhere])]);
    assert!(collection.facts().bindings.is_empty());
    let now = Instant::now();
    let mut deleted = served(5, "there", "there");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for object in [
        served(3, "here", "here"),
        served(4, "there", "there"),
        deleted,
    ] {
        let event = Event::Apply(self::object(object));
        collection.take(Stream::OtherBindings, event, now);
    }
    assert!(collection.facts().bindings.is_empty());
}

#[test]
fn heartbeats_of_nodes_and_what_is_written_about_bindings_are_no_news() {
    let node = |name: &str, beat: u64| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "resourceVersion": beat.to_string(), "labels": {"rack": "7"}},
            "spec": {"podCIDRs": ["10.244.1.0/24"]},
            "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": beat}]}
        })
    };
    let mut collection = listed(&[
        (Stream::Nodes, vec![node("other", 1)]),
        (Stream::Bindings, vec![granted("b", 2, "here")]),
    ]);
    let before = collection.facts();
    let mut take =
        |stream, value| collection.take(stream, Event::Apply(object(value)), Instant::now());
    assert!(!take(Stream::Nodes, node("other", 3)));
    let mut reported = granted("b", 4, "here");
    reported["status"]["conditions"] = json!([]);
    assert!(!take(Stream::Bindings, reported.clone()));
    assert!(take(Stream::Nodes, node("here", 5)), "a node that is new");
    reported["status"]["vmAddress"] = json!("10.244.0.6");
    assert!(take(Stream::Bindings, reported), "another address");
    let after = collection.facts();
    assert_eq!((before.nodes.len(), before.nets.len()), (0, 1));
    let names: Vec<&str> = after.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(
        names,
        ["here"],
        "labels and annotations of others are nobody's business here"
    );
    assert_eq!(
        after.vms[0].interfaces[0].addresses,
        ["10.244.0.6".parse::<IpAddr>().unwrap()]
    );
}
