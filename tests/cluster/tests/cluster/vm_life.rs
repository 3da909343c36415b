//! VMs that start, stop and move, with traffic that does not wait.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use eip_cluster_tests::{
    kubevirt::Sign,
    world::{Cluster, PATIENCE},
};
use eip_lab::{netns::Ns, traffic::StreamReport, wait};
use serde_json::json;

use crate::{EIP, ON_N1, ON_N2, cluster, scene::Scene};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

fn moving(target: Ipv4Addr) -> Scene {
    let scene = Scene::new(cluster(), target);
    scene.cluster.route(EIP, 0).unwrap();
    scene
}

/// Plays the routers: an elastic IP is routed to the node whose kernel has it, as soon as it has.
struct Routers {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Routers {
    fn follow(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<(Ns, Ipv4Addr)> = cluster
            .nodes
            .iter()
            .map(|node| (Ns::open(node.ns.name()).unwrap(), node.uplink))
            .collect();
        let router = Ns::open(cluster.router.name()).unwrap();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut had = [true, false];
            while !stopped.load(Ordering::Relaxed) {
                for (index, (ns, uplink)) in nodes.iter().enumerate() {
                    let has = !ns
                        .report(&format!("ip route show {EIP}/32"))
                        .contains("exit")
                        && ns
                            .sh(&format!("ip route show {EIP}/32"))
                            .is_ok_and(|text| !text.is_empty());
                    if has && !had[index] {
                        router
                            .ip(&format!("route replace {EIP}/32 via {uplink}\n"))
                            .unwrap();
                    }
                    had[index] = has;
                }
                wait::pause(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Routers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A migration under traffic, with routers that follow at once.
fn move_with(scene: &mut Scene, name: &str, order: &[Sign], last_node: usize) -> StreamReport {
    let _routers = Routers::follow(&scene.cluster);
    let report = scene.under_traffic(name, 8, |scene| {
        wait::pause(Duration::from_secs(1));
        scene.migrate(1, order);
    });
    scene.cluster.wait_served_by("b", last_node).unwrap();
    scene.cluster.wait_reason("b", "Serving").unwrap();
    let last = scene.pods[last_node].address;
    assert_eq!(scene.answered_by(ANSWER), Some(last));
    report
}

#[test]
fn a_migration_to_another_address_follows_the_guest_in_the_order_of_new_releases() {
    let mut scene = moving(ON_N2);
    let mut order = Sign::NEW_ORDER.to_vec();
    order.push(Sign::NewAddress(ON_N2));
    let report = move_with(&mut scene, "new order, address changes", &order, 1);
    assert!(report.answered > 0 && report.strangers == 0);
    assert!(!scene.is_on(0), "the source keeps nothing");
    scene.cluster.delete_pod(&scene.pods[0]).unwrap();
    scene.cluster.unplug(&scene.pods[0]).unwrap();
    scene.cluster.wait_reason("b", "Serving").unwrap();
}

#[test]
fn a_migration_in_the_order_of_the_old_release_follows_too() {
    let mut scene = moving(ON_N2);
    let order = [
        Sign::HandOff,
        Sign::FlipAndCompleted,
        Sign::NewAddress(ON_N2),
    ];
    move_with(&mut scene, "old order, address changes", &order, 1);
    assert!(!scene.is_on(0));
}

#[test]
fn a_migration_that_keeps_the_address_moves_the_elastic_ip() {
    let mut scene = moving(ON_N1);
    move_with(&mut scene, "new order, address stays", &Sign::NEW_ORDER, 1);
    assert!(!scene.is_on(0));
}

#[test]
fn a_failed_migration_stays_at_the_source_and_loses_nothing() {
    let mut scene = moving(ON_N2);
    let order = [Sign::HandOff, Sign::Failed];
    let report = move_with(&mut scene, "failed migration", &order, 0);
    assert_eq!(report.lost(), 0);
    assert!(!scene.is_on(1));
}

#[test]
fn a_vm_that_powers_off_restarts_and_goes_is_followed_with_a_reason_each() {
    let scene = moving(ON_N2);
    let cluster = &scene.cluster;
    // The guest powers itself off: its pod ends, and the object stays where nothing starts it again.
    cluster.end_pod(&scene.pods[0]).unwrap();
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.patch_vm("vm1", &ended).unwrap();
    cluster.wait_reason("b", "VmNotRunning").unwrap();
    wait::wait_until(PATIENCE, "the node lets go", || !scene.is_on(0)).unwrap();
    assert_eq!(scene.answered_by(Duration::from_millis(300)), None);
    cluster.control.kubectl(&["delete", "vmi", "vm1"]).unwrap();
    cluster.wait_reason("b", "VmNotFound").unwrap();
    // The same name, another VM, another node; a pod of the one before counts for nothing.
    let pending = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm1", "namespace": "default"},
        "status": {"phase": "Scheduling"}
    });
    cluster.control.apply(&pending).unwrap();
    cluster.wait_reason("b", "VmNotRunning").unwrap();
    cluster.run_vm("vm1", &scene.pods[1]).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    cluster.route(EIP, 1).unwrap();
    assert_eq!(scene.answered_by(ANSWER), Some(ON_N2));
    assert!(!scene.is_on(0));
    // Gone while it runs: the pod vanishes with its node, as it seems, and the VM is called failed.
    cluster.delete_pod(&scene.pods[1]).unwrap();
    let lost = json!({"status": {"phase": "Failed", "reason": "NodeUnresponsive"}});
    cluster.patch_vm("vm1", &lost).unwrap();
    cluster.wait_reason("b", "VmNotRunning").unwrap();
    wait::wait_until(PATIENCE, "the other node lets go", || !scene.is_on(1)).unwrap();
}
