//! VMs that move between nodes that announce by BGP, to a real router, with traffic that does not wait.

use std::time::Duration;

use eip_cluster_tests::{
    bird::{Bird, NODE_AS, ROUTER_AS},
    kubevirt::Sign,
    world::PATIENCE,
};
use eip_lab::wait;
use serde_json::json;

use crate::{EIP, ON_N2, cluster_with, scene::Scene};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// A scene whose router is BIRD, and BIRD reaches the first node.
struct Routed {
    scene: Scene,
    bird: Bird,
}

fn routed() -> Routed {
    let cluster = cluster_with(&["--bgp-local-as=64512", "--handover=2s"]);
    assert_eq!(NODE_AS, 64512);
    let nodes = cluster.uplinks();
    let bird = Bird::start(&cluster.router, cluster.dir(), &nodes).unwrap();
    cluster
        .control
        .apply(&json!({
            "apiVersion": "virteip.github.com/v1", "kind": "BgpPeer",
            "metadata": {"name": "router"},
            "spec": {
                "peerAddress": "192.0.2.1", "peerAs": ROUTER_AS, "holdTimeSeconds": 9,
                "med": 100, "preferred": {"seconds": 60, "set": {"med": 10}}
            }
        }))
        .unwrap();
    let scene = Scene::new(cluster, ON_N2);
    bird.wait_ways(EIP, &nodes[..1]).unwrap();
    Routed { scene, bird }
}

#[test]
fn routers_learn_of_the_new_node_before_the_old_one_withdraws_and_stragglers_follow() {
    let Routed { mut scene, bird } = routed();
    let nodes = scene.cluster.uplinks();
    scene.under_traffic("BGP, new order", 8, |scene| {
        scene.migrate(1, &Sign::NEW_ORDER);
        scene.cluster.wait_served_by("b", 1).unwrap();
        // Both announce; the new one is preferred, and in the end alone.
        bird.wait_ways(EIP, &[nodes[1]]).unwrap();
    });
    assert_eq!(scene.answered_by(ANSWER), Some(ON_N2));
    // The sign that is missed first is followed by the next one; back again, and on.
    scene.under_traffic("BGP, back, ready sign missed, old order", 8, |scene| {
        scene.migrate(0, &[Sign::HandOff, Sign::FlipAndCompleted]);
        scene.cluster.wait_served_by("b", 0).unwrap();
        // The second migration begins while the first one is not at rest.
        scene.migrate(1, &Sign::NEW_ORDER);
        scene.cluster.wait_served_by("b", 1).unwrap();
    });
    bird.wait_ways(EIP, &[nodes[1]]).unwrap();
    wait::wait_until(PATIENCE, "the VM answers", || {
        scene.answered_by(ANSWER) == Some(ON_N2)
    })
    .unwrap();
    assert!(!scene.cluster.serves(0, EIP));
    scene.cluster.wait_reason("b", "Serving").unwrap();
}

/// Kills an agent, and what would start it again does.
fn replace_agent(scene: &mut Scene, node: usize) {
    scene.cluster.agent(node).unwrap().kill().unwrap();
    scene.cluster.start_agent(node).unwrap();
    scene.cluster.wait_agent(node).unwrap();
}

#[test]
fn programs_that_are_killed_in_the_middle_of_a_hand_over_end_it_where_the_vm_is() {
    let Routed { mut scene, bird } = routed();
    let nodes = scene.cluster.uplinks();
    let rests_at = |scene: &Scene, node: usize| {
        scene.cluster.wait_served_by("b", node).unwrap();
        bird.wait_ways(EIP, &[nodes[node]]).unwrap();
        let pod = scene.pods[node].address;
        wait::wait_until(PATIENCE, "the VM answers", || {
            scene.answered_by(ANSWER) == Some(pod)
        })
        .unwrap();
        wait::wait_until(PATIENCE, "the other node lets go", || {
            !scene.cluster.serves(1 - node, EIP)
        })
        .unwrap();
    };
    scene.under_traffic("the new node's agent is killed", 5, |scene| {
        scene.migrate(1, &[Sign::HandOff, Sign::DomainReady]);
        replace_agent(scene, 1);
        scene.migrate(1, &[Sign::Flip, Sign::Completed]);
    });
    rests_at(&scene, 1);
    scene.under_traffic("the old node's agent is killed", 5, |scene| {
        scene.migrate(0, &[Sign::HandOff, Sign::DomainReady]);
        scene.cluster.wait_served_by("b", 0).unwrap();
        replace_agent(scene, 1);
        scene.migrate(0, &[Sign::Flip, Sign::Completed]);
    });
    rests_at(&scene, 0);
    // Nobody is there to see the first sign; the one that follows sees them all.
    scene.under_traffic("the controller is killed", 8, |scene| {
        scene.migrate(1, &[Sign::HandOff]);
        scene.cluster.controller(0).kill().unwrap();
        scene.migrate(1, &[Sign::DomainReady, Sign::Flip]);
        scene.cluster.start_controller().unwrap();
        scene.cluster.wait_served_by("b", 1).unwrap();
        scene.migrate(1, &[Sign::Completed]);
    });
    rests_at(&scene, 1);
    scene.cluster.wait_reason("b", "Serving").unwrap();
}

#[test]
fn what_still_comes_to_the_old_node_is_sent_on_to_the_new_one_for_a_while() {
    let Routed { scene, bird: _bird } = routed();
    let nodes = scene.cluster.uplinks();
    // A router that hears nothing of it.
    scene
        .cluster
        .router
        .ip(&format!(
            "route replace {EIP}/32 via {} metric 1\n",
            nodes[0]
        ))
        .unwrap();
    scene.migrate(1, &[Sign::HandOff, Sign::DomainReady]);
    scene.cluster.wait_served_by("b", 1).unwrap();
    let mut last = None;
    wait::wait_until(PATIENCE, "the new node answers by the old one", || {
        last = scene.answered_by(ANSWER);
        last == Some(ON_N2)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    // Not for ever: a node does not carry for others what nobody takes back.
    wait::wait_until(PATIENCE, "it ends", || {
        scene.answered_by(ANSWER).is_none() && scene.answered_by(ANSWER).is_none()
    })
    .unwrap();
}
