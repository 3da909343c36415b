//! The API server, controllers and agents go away and come back.

use std::{net::Ipv4Addr, time::Duration};

use eip_cluster_tests::{
    kubevirt::{self, Sign},
    turnstile::Turnstile,
    world::{Cluster, PATIENCE},
};
use eip_lab::{
    traffic::{self, Pace},
    wait,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{EIP, ON_N2, cluster, raised, scene::Scene};

fn served(cluster: Cluster) -> Scene {
    let scene = Scene::new(cluster, ON_N2);
    scene.cluster.route(EIP, 0).unwrap();
    scene
}

fn answers(cluster: &Cluster) -> bool {
    traffic::udp(
        &cluster.client,
        (EIP, 7000).into(),
        64,
        Duration::from_secs(2),
    )
    .is_ok()
}

fn has(cluster: &Cluster, node: usize, eip: Ipv4Addr) -> bool {
    cluster.serves(node, eip)
}

#[test]
fn without_the_api_server_forwarding_goes_on_and_an_agent_restarts_into_the_same_state() {
    let mut scene = served(cluster());
    let cluster = &mut scene.cluster;
    // What was known is written down a moment later.
    wait::pause(Duration::from_secs(2));
    cluster.control.kill_api().unwrap();
    assert!(answers(cluster));
    let stream = std::thread::scope(|scope| {
        let client = &cluster.client;
        let stream =
            scope.spawn(move || traffic::stream(client, (EIP, 7000).into(), Pace::kilohertz(6)));
        stream.join().unwrap().unwrap()
    });
    assert_eq!(stream.lost(), 0, "{stream:?}");

    cluster.agent(0).unwrap().kill().unwrap();
    cluster.start_agent(0).unwrap();
    cluster.wait_agent(0).unwrap();
    wait::wait_until(PATIENCE, "the file knows it", || has(cluster, 0, EIP)).unwrap();
    assert!(answers(cluster));
    // Somebody damages the kernel state; the agent repairs it without asking anybody.
    let node = &cluster.nodes[0].ns;
    node.ip(&format!("route del {EIP}/32\n")).unwrap();
    wait::wait_until(PATIENCE, "the route is repaired", || {
        node.sh(&format!("ip route show {EIP}/32"))
            .is_ok_and(|text| !text.is_empty())
    })
    .unwrap();

    cluster.control.start_api().unwrap();
    let new = "203.0.113.20".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("c", new, "vm1"))
        .unwrap();
    cluster.wait_reason("c", "Serving").unwrap();
    assert!(answers(cluster));
}

#[test]
fn an_agent_that_missed_everything_lists_again_and_touches_only_what_changed() {
    let mut scene = served(cluster());
    let cluster = &mut scene.cluster;
    let gone = "203.0.113.20".parse().unwrap();
    let new = "203.0.113.21".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("gone", gone, "vm1"))
        .unwrap();
    cluster.wait_reason("gone", "Serving").unwrap();
    cluster.agent(0).unwrap().signal(Signal::SIGSTOP).unwrap();
    // A restarted server whose store was compacted does not know the versions the agent knows: its
    // watches have expired.
    cluster.control.compact().unwrap();
    cluster.control.kill_api().unwrap();
    cluster.control.start_api().unwrap();
    cluster
        .control
        .kubectl(&["delete", "eipb", "gone"])
        .unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("new", new, "vm1"))
        .unwrap();
    cluster.wait_reason("new", "Pending").unwrap();
    assert!(
        answers(cluster),
        "what is in the kernel works without the agent"
    );
    cluster.agent(0).unwrap().signal(Signal::SIGCONT).unwrap();
    cluster.wait_reason("new", "Serving").unwrap();
    wait::wait_until(PATIENCE, "what was deleted meanwhile is gone", || {
        !has(cluster, 0, gone)
    })
    .unwrap();
    assert!(has(cluster, 0, EIP) && answers(cluster));
}

#[test]
fn of_two_controllers_one_writes_and_the_other_takes_over_when_it_is_killed() {
    let mut cluster = raised();
    let (first, second) = (
        cluster.start_controller().unwrap(),
        cluster.start_controller().unwrap(),
    );
    for node in 0..2 {
        cluster.start_agent(node).unwrap();
        cluster.wait_agent(node).unwrap();
    }
    let mut scene = served(cluster);
    let cluster = &mut scene.cluster;
    let leads = |cluster: &mut Cluster, number: usize| {
        let log = cluster.controller(number).log();
        log.matches("leading").count() > log.matches("not leading any more").count() * 2
    };
    let (leader, standby) = if leads(cluster, first) {
        (first, second)
    } else {
        (second, first)
    };
    assert!(!leads(cluster, standby));
    cluster.controller(leader).kill().unwrap();
    // A killed leader and a change at the same time: nothing is lost, nothing is done twice.
    let new = "203.0.113.20".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("c", new, "vm1"))
        .unwrap();
    cluster.wait_reason("c", "Serving").unwrap();
    assert!(leads(cluster, standby));
    assert!(answers(cluster));
}

/// Controllers that are killed when each has made one write, until nothing is left to write. Returns how
/// many there were.
fn one_write_each(
    cluster: &mut Cluster,
    turnstile: &Turnstile,
    what: &str,
    is_done: impl Fn(&Cluster) -> bool,
) -> usize {
    for life in 1..60 {
        turnstile.allow(1);
        let number = cluster.start_controller_behind(turnstile).unwrap();
        let end = wait::wait_until(PATIENCE, what, || {
            turnstile.is_holding() || is_done(cluster)
        });
        end.unwrap();
        cluster.controller(number).kill().unwrap();
        if !turnstile.is_holding() {
            return life;
        }
    }
    panic!("there is always something left to write: {what}");
}

#[test]
fn controllers_that_are_killed_after_every_single_write_end_where_one_alone_would() {
    let mut cluster = raised();
    for node in 0..2 {
        cluster.start_agent(node).unwrap();
        cluster.wait_agent(node).unwrap();
    }
    let turnstile = Turnstile::start(&cluster.control, "kube-eip-controller").unwrap();
    let mut scene = Scene::unbound(cluster, ON_N2);
    let other: Ipv4Addr = "203.0.113.20".parse().unwrap();
    let reason = |cluster: &Cluster, binding: &str| cluster.ready(binding).unwrap_or_default().1;
    let is_on = |cluster: &Cluster, eip, node: usize| {
        has(cluster, node, eip) && !has(cluster, 1 - node, eip)
    };
    let mut lives = Vec::new();

    let mut old = kubevirt::binding("b", EIP, "vm1");
    old["metadata"]["finalizers"] = json!(["virteip.github.com/finlizer"]);
    scene.cluster.control.apply(&old).unwrap();
    let late = kubevirt::binding("late", EIP, "vm1");
    scene.cluster.control.apply(&late).unwrap();
    lives.push(one_write_each(
        &mut scene.cluster,
        &turnstile,
        "bound",
        |c| reason(c, "b") == "Serving" && reason(c, "late") == "Conflict" && is_on(c, EIP, 0),
    ));

    scene.migrate(1, &[Sign::HandOff, Sign::DomainReady]);
    lives.push(one_write_each(
        &mut scene.cluster,
        &turnstile,
        "moved",
        |c| reason(c, "b") == "Serving" && is_on(c, EIP, 1),
    ));

    // One lets go of the address and the other one gets it.
    let edited = kubevirt::binding("b", other, "vm1");
    scene.cluster.control.apply(&edited).unwrap();
    lives.push(one_write_each(
        &mut scene.cluster,
        &turnstile,
        "edited",
        |c| {
            let are_ready = ["b", "late"].map(|name| reason(c, name) == "Serving");
            are_ready == [true; 2] && is_on(c, EIP, 1) && is_on(c, other, 1)
        },
    ));

    let ended = json!({"status": {"phase": "Succeeded"}});
    scene.cluster.patch_vm("vm1", &ended).unwrap();
    lives.push(one_write_each(
        &mut scene.cluster,
        &turnstile,
        "ended",
        |c| {
            let have_ended = ["b", "late"].map(|name| reason(c, name) == "VmNotRunning");
            have_ended == [true; 2] && [EIP, other].iter().all(|eip| !has(c, 1, *eip))
        },
    ));
    println!("controllers until bound, moved, edited, ended: {lives:?}");
    assert!(lives.iter().sum::<usize>() >= 10, "{lives:?}");
    // One that may live finds nothing left over.
    scene.cluster.start_controller().unwrap();
    wait::wait_until(PATIENCE, "no label names a node", || {
        let labelled = [
            "get",
            "eipb",
            "--output=name",
            "--selector=virteip.github.com/node",
        ];
        let found = scene.cluster.control.kubectl(&labelled);
        found.is_ok_and(|names| names.trim().is_empty())
    })
    .unwrap();
    for binding in ["b", "late"] {
        let stored = scene.cluster.binding(binding).unwrap().unwrap();
        assert_eq!(stored["status"]["node"], json!(null), "{stored:#}");
        assert_eq!(stored["metadata"]["finalizers"], json!(null), "{stored:#}");
    }
}

#[test]
fn nothing_is_taken_away_before_everything_has_been_read_once() {
    let mut scene = served(cluster());
    let cluster = &mut scene.cluster;
    wait::pause(Duration::from_secs(2));
    cluster.agent(0).unwrap().kill().unwrap();
    cluster.control.kill_api().unwrap();
    // Without its file, too, an agent that cannot read anything removes nothing.
    std::fs::remove_file(cluster.state_file(0)).unwrap();
    cluster.start_agent(0).unwrap();
    cluster.wait_agent(0).unwrap();
    wait::pause(Duration::from_secs(3));
    assert!(answers(cluster));
    cluster.control.start_api().unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    wait::wait_until(PATIENCE, "the agent knows it again", || {
        has(cluster, 0, EIP)
    })
    .unwrap();
    assert!(answers(cluster));
}
