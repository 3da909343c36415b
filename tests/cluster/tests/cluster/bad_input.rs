//! Objects that are wrong, too many, or change too often, all in one cluster: each ends in a stable state
//! with a reason a person can read, and a neighbour's binding is changed in the middle of it.

use std::{net::Ipv4Addr, thread};

use eip_cluster_tests::{
    flips,
    kubevirt::{self, Sign},
    world::{Cluster, PATIENCE},
};
use eip_lab::wait;
use serde_json::{Value, json};

use crate::{EIP, ON_N2, cluster, scene::Scene};

/// Address of the neighbour's pod, on the second node.
const QUIET: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 30);
/// Elastic IPs the neighbour takes one after the other.
const NEIGHBOURS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(203, 0, 113, 251),
    Ipv4Addr::new(203, 0, 113, 252),
];

/// How many changes of a status there are.
const FLIPS: usize = 400;

#[test]
fn bad_objects_end_in_a_stable_state_with_a_reason_and_hold_nobody_up() {
    let scene = Scene::new(cluster(), ON_N2);
    let cluster = &scene.cluster;
    let quiet = cluster.plug("quiet", 1, QUIET).unwrap();
    cluster.run_vm("quiet", &quiet).unwrap();
    fields_are_refused_with_a_sentence(cluster);
    names_may_be_odd_and_long(cluster);
    another_namespaces_vm_is_out_of_reach(cluster);
    a_vm_with_every_field_wrong_in_turn_is_served_when_it_is_right_again(&scene);
    a_status_that_flips_all_the_time_costs_few_writes(&scene);
    hundreds_of_bindings_for_one_vm_each_say_what_is_the_matter(cluster);
    an_edit_in_the_middle_of_a_move_ends_as_the_last_one_says(&scene);
}

/// What a neighbour asks for meanwhile is done.
fn neighbour_is_served(cluster: &Cluster, turn: usize) {
    let eip = NEIGHBOURS[turn % 2];
    let binding = kubevirt::binding("quiet", eip, "quiet");
    cluster.control.apply(&binding).unwrap();
    cluster.wait_reason("quiet", "Serving").unwrap();
    wait::wait_until(PATIENCE, "the neighbour is served", || {
        cluster.serves(1, eip)
    })
    .unwrap();
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn fields_are_refused_with_a_sentence(cluster: &Cluster) {
    let single = "spec.eip has to be a single IP address";
    for (field, value, sentence) in [
        ("eip", json!("203.0.113.300"), single),
        ("eip", json!("203.0.113.0/24"), single),
        ("eip", json!(""), single),
        ("eip", json!(["203.0.113.1"]), "spec.eip"),
        ("eip", json!(null), "spec.eip is missing"),
        ("interface", json!(""), "spec.interface"),
        ("interface", json!(["default"]), "spec.interface"),
        ("vmi", json!(""), "spec.vmi"),
        ("vmi", json!(7), "spec.vmi"),
        ("vmi", json!(null), "one of spec.vmi and spec.target"),
        ("target", json!("web"), "spec.target"),
        ("target", json!({"kind": "Pod"}), "spec.target"),
        ("primary", json!("yes"), "spec.primary"),
        (
            "delivery",
            json!("fast"),
            "one of auto, peer, neigh, stack, xdp",
        ),
        ("announce", json!("ospf"), "one of bgp, l2, both, none"),
        ("jobHistory", json!("five"), "spec.jobHistory"),
        ("lastHyper", json!({}), "spec.lastHyper"),
        ("LastIP", json!(1), "spec.LastIP"),
    ] {
        let mut object = kubevirt::binding("bad", EIP, "vm1");
        object["spec"][field] = value.clone();
        let Err(refused) = cluster.control.apply(&object) else {
            panic!("{field}: {value} is taken");
        };
        let refused = format!("{refused:#}");
        assert!(refused.contains(sentence), "{field}: {refused}");
    }
    let explained = cluster.control.kubectl(&["explain", "eipb.spec"]).unwrap();
    assert!(explained.contains("elastic IP"), "{explained}");
}

fn names_may_be_odd_and_long(cluster: &Cluster) {
    let first = "203.0.113.30".parse().unwrap();
    let second = "203.0.113.31".parse().unwrap();
    let long = ["a-0.b"; 42].join(".");
    let odd = "0--x.1.2";
    for (name, eip) in [(odd, first), (long.as_str(), second)] {
        let binding = kubevirt::binding(name, eip, "vm1");
        cluster.control.apply(&binding).unwrap();
        cluster.wait_reason(name, "Serving").unwrap();
    }
    // Names no VM can have are seen before anybody is asked.
    for (number, name) in [
        "No VM_has/this name",
        "../vm1",
        "vm1.",
        "ünïcode",
        "pod/vm1",
    ]
    .into_iter()
    .enumerate()
    {
        let own = format!("odd-{number}");
        let binding = kubevirt::binding(&own, "203.0.113.32".parse().unwrap(), name);
        cluster.control.apply(&binding).unwrap();
        cluster.wait_reason(&own, "Invalid").unwrap();
    }
    let all = [
        "delete", "eipb", "odd-0", "odd-1", "odd-2", "odd-3", "odd-4", odd, &long,
    ];
    cluster.control.kubectl(&all).unwrap();
}

fn another_namespaces_vm_is_out_of_reach(cluster: &Cluster) {
    let control = &cluster.control;
    control.kubectl(&["create", "namespace", "tenant"]).unwrap();
    let theirs = |name: &str, eip, vm| {
        let mut binding = kubevirt::binding(name, eip, vm);
        binding["metadata"]["namespace"] = json!("tenant");
        control.apply(&binding).unwrap();
    };
    theirs("plain", "203.0.113.33".parse().unwrap(), "vm1");
    theirs("path", "203.0.113.34".parse().unwrap(), "default/vm1");
    theirs("rival", EIP, "vm1");
    cluster.wait_reason("tenant/plain", "VmNotFound").unwrap();
    cluster.wait_reason("tenant/path", "Invalid").unwrap();
    cluster.wait_reason("tenant/rival", "Conflict").unwrap();
    let rival = cluster.binding("tenant/rival").unwrap().unwrap();
    let rival = rival["status"].to_string();
    assert!(
        rival.contains("an EipBinding of another namespace"),
        "{rival}"
    );
    assert!(!rival.contains("default"), "it does not say whose: {rival}");
    cluster.wait_reason("b", "Serving").unwrap();
    control
        .kubectl(&["delete", "eipb", "--all", "--namespace=tenant"])
        .unwrap();
}

fn a_vm_with_every_field_wrong_in_turn_is_served_when_it_is_right_again(scene: &Scene) {
    let cluster = &scene.cluster;
    let right = kubevirt::running("vm1", "n1", scene.pods[0].address);
    for (turn, wrong) in [
        json!({"status": {"phase": 7}}),
        json!({"status": {"phase": "Nonsense"}}),
        json!({"status": {"nodeName": {"n1": true}}}),
        json!({"status": {"nodeName": "no-such-node"}}),
        json!({"status": {"interfaces": "eth0"}}),
        json!({"status": {"interfaces": [{"ipAddress": ["10.244.1.11"]}]}}),
        json!({"status": {"interfaces": [{"name": "default", "ipAddress": "10.244.1.999"}]}}),
        json!({"status": {"migrationState": "soon"}}),
        json!({"status": {"migrationState": {"targetNodeDomainReadyTimestamp": 5}}}),
        json!({"status": "Running"}),
        json!({"spec": {"networks": 1}}),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.patch_vm("vm1", &wrong).unwrap();
        // Whatever is made of it, it is said, and the VM's pod is still what it was.
        let (_, reason) = cluster.ready("b").unwrap();
        assert!(!reason.is_empty(), "{wrong}");
        if turn % 4 == 0 {
            neighbour_is_served(cluster, turn / 4);
        }
        let mut whole = right.clone();
        whole["status"]["migrationState"] = json!(null);
        cluster
            .patch_vm("vm1", &json!({"spec": null, "status": null}))
            .unwrap();
        cluster.patch_vm("vm1", &whole).unwrap();
    }
    cluster.wait_reason("b", "Serving").unwrap();
    wait::wait_until(PATIENCE, "the node serves it", || scene.is_on(0)).unwrap();
}

fn a_status_that_flips_all_the_time_costs_few_writes(scene: &Scene) {
    let cluster = &scene.cluster;
    let states = ["Succeeded", "Running", "Unknown", "Scheduling"].map(|phase| {
        let mut vm = kubevirt::running("vm1", "n1", scene.pods[0].address);
        vm["status"]["phase"] = json!(phase);
        vm
    });
    let kubeconfig = cluster.control.administrator().unwrap();
    let flips = thread::scope(|scope| {
        let flipping = scope.spawn(|| {
            let (place, who) = (cluster.place(), ("vm1", "b"));
            flips::flip(place, &kubeconfig, who, &states, FLIPS)
        });
        neighbour_is_served(cluster, 1);
        neighbour_is_served(cluster, 0);
        flipping.join().unwrap().unwrap()
    });
    // A hundred a second where the machine is not busy; what is allowed goes by the time it really took.
    println!("a status that flips: {flips:?}");
    // The controller has six and then two a second, the agent at most five.
    let allowed = 16 + 7 * usize::try_from(flips.took.as_secs()).unwrap();
    assert!(flips.writes <= allowed, "{flips:?}");
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.patch_vm("vm1", &ended).unwrap();
    cluster.wait_reason("b", "VmNotRunning").unwrap();
    let running = json!({"status": {"phase": "Running"}});
    cluster.patch_vm("vm1", &running).unwrap();
    wait::wait_until(PATIENCE, "the node serves it again", || scene.is_on(0)).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
}

/// Ten thousand are a matter of `cargo xtask bench kube --crowd 10000` and of the model of turns (`controller::pace`).
fn hundreds_of_bindings_for_one_vm_each_say_what_is_the_matter(cluster: &Cluster) {
    let crowd = |number: u8| {
        // Some of them outside of what this node may serve.
        let network = if number < 150 { 113 } else { 114 };
        let eip = Ipv4Addr::new(203, 0, network, 50 + number);
        let mut binding = kubevirt::binding(&format!("crowd-{number}"), eip, "vm1");
        binding["metadata"]["labels"] = json!({"crowd": "yes"});
        binding
    };
    let all: Vec<Value> = (0..200).map(crowd).collect();
    cluster.control.apply(&list(&all)).unwrap();
    neighbour_is_served(cluster, 1);
    let reasons = [
        "get",
        "eipb",
        "--selector=crowd",
        "--output=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].reason}{\"\\n\"}{end}",
    ];
    let mut last = String::new();
    wait::wait_until(PATIENCE, "each is served or told why not", || {
        last = cluster.control.kubectl(&reasons).unwrap_or_default();
        let count = |reason: &str| last.lines().filter(|line| *line == reason).count();
        count("Serving") == 150 && count("OutsideEipCidrs") == 50
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last}"));
    cluster
        .control
        .kubectl(&["delete", "eipb", "--selector=crowd", "--wait=false"])
        .unwrap();
    neighbour_is_served(cluster, 0);
    wait::wait_until(PATIENCE, "the node lets go of all of them", || {
        let listed = cluster.eipctl(0, &["list", "-o", "json"]);
        listed.is_ok_and(|text| !text.contains("crowd-"))
    })
    .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
}

fn an_edit_in_the_middle_of_a_move_ends_as_the_last_one_says(scene: &Scene) {
    let cluster = &scene.cluster;
    let edit = |host: u8| {
        let binding = kubevirt::binding("b", Ipv4Addr::new(203, 0, 113, host), "vm1");
        cluster.control.apply(&binding).unwrap();
    };
    scene.migrate(1, &[Sign::HandOff]);
    edit(40);
    scene.migrate(1, &[Sign::DomainReady]);
    edit(41);
    edit(42);
    scene.migrate(1, &[Sign::Flip, Sign::Completed]);
    edit(43);
    cluster.wait_served_by("b", 1).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    let last = Ipv4Addr::new(203, 0, 113, 43);
    wait::wait_until(PATIENCE, "the last one is served, and nothing else", || {
        let of_vm = [10, 40, 41, 42].map(|host| Ipv4Addr::new(203, 0, 113, host));
        let is_left = |eip: &Ipv4Addr| cluster.serves(0, *eip) || cluster.serves(1, *eip);
        cluster.serves(1, last) && !cluster.serves(0, last) && !of_vm.iter().any(is_left)
    })
    .unwrap();
}
