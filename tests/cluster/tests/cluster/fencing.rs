//! A node whose agent is frozen, gone or cut off does not answer for what may have moved.

use std::{
    net::Ipv4Addr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use eip_cluster_tests::{
    kubevirt::{self, Sign},
    world::{Cluster, PATIENCE},
};
use eip_lab::wait;
use nix::sys::signal::Signal;

use crate::{EIP, ON_N1, ON_N2, cluster_with, raised, scene::Scene};

/// How long the kernel serves what nobody renews.
const LEASE: Duration = Duration::from_secs(5);
const AFTER: &str = "--fence-after=5s";

/// A scene in which the VM may move without its first node knowing.
struct Split(Scene);

fn split(flags: &[&'static str]) -> Split {
    let scene = Scene::new(cluster_with(flags), ON_N2);
    scene.cluster.route(EIP, 0).unwrap();
    Split(scene)
}

impl Deref for Split {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

impl DerefMut for Split {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.0
    }
}

impl Split {
    /// The pod that answers what is sent to the elastic IP by the way of a node.
    fn answer_by(&self, node: usize) -> Option<Ipv4Addr> {
        self.cluster.route(EIP, node).unwrap();
        self.answered_by(Duration::from_millis(300))
    }

    fn wait_answer_by(&self, node: usize, expected: Option<Ipv4Addr>) {
        let mut last = None;
        let what = format!("{expected:?} answers by node {node}");
        // Nobody answers only if nobody does again and again.
        let tries = if expected.is_none() { 4 } else { 1 };
        wait::wait_until(PATIENCE, &what, || {
            (0..tries).all(|_| {
                last = self.answer_by(node);
                last == expected
            })
        })
        .unwrap_or_else(|error| panic!("{error:#}; it was {last:?}"));
    }

    fn move_vm(&self) {
        self.migrate(1, &[Sign::HandOff, Sign::FlipAndCompleted]);
        self.cluster.wait_served_by("b", 1).unwrap();
        self.wait_answer_by(1, Some(ON_N2));
    }

    fn list(&self, node: usize) -> String {
        let list = self.cluster.eipctl(node, &["list", "-o", "json"]);
        list.unwrap_or_default()
    }
}

#[test]
fn a_node_whose_agent_is_frozen_falls_silent_and_wakes_up_silent_when_its_vm_has_moved() {
    let mut world = split(&[AFTER]);
    let frozen = |world: &mut Split, signal| world.cluster.agent(0).unwrap().signal(signal);
    assert_eq!(world.answer_by(0), Some(ON_N1));
    frozen(&mut world, Signal::SIGSTOP).unwrap();
    world.wait_answer_by(0, None);
    world.move_vm();
    assert_eq!(world.answer_by(0), None);
    frozen(&mut world, Signal::SIGCONT).unwrap();
    // It knows no better than before, for a moment, and says nothing in it.
    wait::wait_until(PATIENCE, "the node has learnt that it moved", || {
        assert_ne!(world.answer_by(0), Some(ON_N1));
        !world.list(0).is_empty() && !world.cluster.serves(0, EIP)
    })
    .unwrap();
    assert_eq!(world.answer_by(1), Some(ON_N2));
}

#[test]
fn a_node_that_comes_back_without_the_api_server_stays_silent_until_it_has_asked() {
    let mut world = split(&[AFTER]);
    world.cluster.control.kill_api().unwrap();
    // The API server alone ends nothing, however long it is away.
    wait::pause(LEASE * 2);
    world.wait_answer_by(0, Some(ON_N1));
    world.cluster.agent(0).unwrap().kill().unwrap();
    world.wait_answer_by(0, None);
    world.cluster.start_agent(0).unwrap();
    wait::wait_until(PATIENCE, "the agent says that it is fenced", || {
        world.list(0).contains("\"fenced\"")
    })
    .unwrap();
    assert_eq!(world.answer_by(0), None);
    let explained = world.cluster.eipctl(0, &["explain", "203.0.113.10"]);
    let explained = format!("{:#}", explained.unwrap_err());
    assert!(explained.contains("did not renew"), "{explained}");
    let drops = world.cluster.eipctl(0, &["drops", "203.0.113.10"]).unwrap();
    assert!(drops.contains("fenced"), "{drops}");
    world.cluster.control.start_api().unwrap();
    world.wait_answer_by(0, Some(ON_N1));
    world.cluster.wait_reason("b", "Serving").unwrap();
}

#[test]
fn a_node_that_is_cut_off_falls_silent_when_isolation_fences() {
    let world = split(&[AFTER, "--fence-on=isolation"]);
    let node = &world.cluster.nodes[0].ns;
    node.ip("link set mg0 down\n").unwrap();
    world.wait_answer_by(0, None);
    wait::wait_until(PATIENCE, "the agent says that it is fenced", || {
        world.list(0).contains("\"fenced\"")
    })
    .unwrap();
    world.move_vm();
    assert_eq!(world.answer_by(0), None);
    let lease = world.cluster.control.get("lease", "kube-eip", "agent.n2");
    assert_eq!(lease.unwrap().unwrap()["spec"]["holderIdentity"], "n2");
    node.ip("link set mg0 up\n").unwrap();
    wait::wait_until(PATIENCE, "the node has learnt that it moved", || {
        assert_ne!(world.answer_by(0), Some(ON_N1));
        !world.cluster.serves(0, EIP)
    })
    .unwrap();
    assert_eq!(world.answer_by(1), Some(ON_N2));
}

/// The controller wrote a time of that clock: the test would prove nothing without.
fn has_jumped(cluster: &Cluster, binding: &str, offset: &str) -> bool {
    let stored = cluster.binding(binding).unwrap().unwrap();
    let created = stored["metadata"]["creationTimestamp"].as_str().unwrap();
    let ready = stored["status"]["conditions"].as_array().unwrap();
    let ready = ready.iter().find(|one| one["type"] == "Ready").unwrap();
    let told = ready["lastTransitionTime"].as_str().unwrap();
    // RFC 3339 in UTC sorts as text. Within an hour the hours differ.
    let is_ahead = told > created && told[..13] != created[..13];
    let is_behind = told < created;
    if offset.starts_with('+') {
        is_ahead
    } else {
        is_behind
    }
}

#[test]
fn a_wall_clock_that_is_set_moves_no_deadline() {
    let mut cluster = raised();
    cluster.agent_flags = vec![AFTER];
    cluster.take_clock().unwrap();
    cluster.start_all().unwrap();
    let scene = Scene::new(cluster, ON_N2);
    let mut world = Split(scene);
    world.wait_answer_by(0, Some(ON_N1));
    let new = "203.0.113.20".parse().unwrap();
    for (offset, name) in [("+1h", "ahead"), ("-1h", "behind")] {
        world.cluster.set_clock(offset).unwrap();
        // The programs notice within a second; neither serves the kernel less nor longer for it.
        wait::pause(LEASE * 2);
        world.wait_answer_by(0, Some(ON_N1));
        let binding = kubevirt::binding(name, new, "vm1");
        world.cluster.control.apply(&binding).unwrap();
        world.cluster.wait_reason(name, "Serving").unwrap();
        assert!(has_jumped(&world.cluster, name, offset), "{name}");
        world
            .cluster
            .control
            .kubectl(&["delete", "eipb", name])
            .unwrap();
    }
    world.move_vm();
    world.cluster.set_clock("+0").unwrap();
    world.cluster.wait_reason("b", "Serving").unwrap();
    let log = world.cluster.controller(0).log();
    assert!(!log.contains("not leading any more"), "{log}");
}
