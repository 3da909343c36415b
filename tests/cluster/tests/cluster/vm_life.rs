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
    kubevirt,
    world::{Cluster, PATIENCE, Pod},
};
use eip_lab::{
    echo::Echo,
    netns::Ns,
    traffic::{self, Pace, StreamReport},
    wait,
};
use serde_json::{Value, json};

use crate::{EIP, ON_N1, ON_N2, cluster};

/// A VM on the first node that is served, and the pod it can move to.
struct Moving {
    cluster: Cluster,
    uid: String,
    source: Pod,
    target: Pod,
    _echoes: [Echo; 2],
}

fn moving(target_address: Ipv4Addr) -> Moving {
    let cluster = cluster();
    let source = cluster.plug("from", 0, ON_N1).unwrap();
    let target = cluster.plug("to", 1, target_address).unwrap();
    let echoes = [
        Echo::start(&source.ns, ON_N1, 7000).unwrap(),
        Echo::start(&target.ns, target_address, 7000).unwrap(),
    ];
    let uid = cluster.run_vm("vm1", &source).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    cluster.route(EIP, 0).unwrap();
    Moving {
        cluster,
        uid,
        source,
        target,
        _echoes: echoes,
    }
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

impl Moving {
    /// Runs the steps of a migration under a thousand packets a second and prints what was lost.
    fn move_with(&self, name: &str, steps: &[Value], last_node: &str) -> StreamReport {
        let cluster = &self.cluster;
        let _routers = Routers::follow(cluster);
        let report = thread::scope(|scope| {
            let stream = scope
                .spawn(|| traffic::stream(&cluster.client, (EIP, 7000).into(), Pace::kilohertz(8)));
            wait::pause(Duration::from_secs(1));
            // KubeVirt makes the target's pod first.
            cluster.write_pod("vm1", &self.uid, &self.target).unwrap();
            for step in steps {
                cluster.patch_vm("vm1", step).unwrap();
                wait::pause(Duration::from_millis(300));
            }
            stream.join().unwrap().unwrap()
        });
        println!(
            "{name}: {} of {} packets lost, longest silence {:?}",
            report.lost(),
            report.sent,
            report.longest_gap
        );
        wait::wait_until(PATIENCE, "the binding is where the VM is", || {
            let stored = cluster.control.get("eipb", "default", "b").ok().flatten();
            stored.is_some_and(|stored| stored["status"]["node"] == last_node)
        })
        .unwrap();
        cluster.wait_reason("b", "Serving").unwrap();
        let answer = traffic::udp(
            &cluster.client,
            (EIP, 7000).into(),
            64,
            Duration::from_secs(5),
        );
        assert_eq!(answer.unwrap().came_from.ip(), EIP);
        report
    }

    fn is_on(&self, node: usize) -> bool {
        self.cluster.serves(node, EIP)
    }
}

fn hand_off() -> Value {
    json!({
        "metadata": {"labels": {"kubevirt.io/migrationTargetNodeName": "n2"}},
        "status": {"migrationState": {
            "migrationUid": "m", "sourceNode": "n1", "targetNode": "n2", "targetPod": "to"
        }}
    })
}

fn domain_ready() -> Value {
    json!({"status": {"migrationState": {"targetNodeDomainReadyTimestamp": "2026-01-01T00:00:00Z"}}})
}

/// The update that flips node and label; the address is still the old one.
fn flip() -> Value {
    json!({
        "metadata": {"labels": {"kubevirt.io/nodeName": "n2"}},
        "status": {"nodeName": "n2", "migrationState": {"endTimestamp": "2026-01-01T00:00:01Z"}}
    })
}

fn completed() -> Value {
    json!({"status": {"migrationState": {"completed": true}}})
}

fn new_address(address: Ipv4Addr) -> Value {
    json!({"status": {"interfaces": [{"name": "default", "ipAddress": address}]}})
}

#[test]
fn a_migration_to_another_address_follows_the_guest_in_the_order_of_new_releases() {
    let world = moving(ON_N2);
    let steps = [
        hand_off(),
        domain_ready(),
        flip(),
        completed(),
        new_address(ON_N2),
    ];
    let report = world.move_with("new order, address changes", &steps, "n2");
    assert!(report.answered > 0 && report.strangers == 0);
    assert!(!world.is_on(0), "the source keeps nothing");
    world.cluster.delete_pod(&world.source).unwrap();
    world.cluster.unplug(&world.source).unwrap();
    world.cluster.wait_reason("b", "Serving").unwrap();
}

#[test]
fn a_migration_in_the_order_of_the_old_release_follows_too() {
    let world = moving(ON_N2);
    let at_once = json!({
        "metadata": {"labels": {"kubevirt.io/nodeName": "n2"}},
        "status": {"nodeName": "n2", "migrationState": {"completed": true}}
    });
    let steps = [hand_off(), at_once, new_address(ON_N2)];
    world.move_with("old order, address changes", &steps, "n2");
    assert!(!world.is_on(0));
}

#[test]
fn a_migration_that_keeps_the_address_moves_the_elastic_ip() {
    let world = moving(ON_N1);
    let steps = [hand_off(), domain_ready(), flip(), completed()];
    world.move_with("new order, address stays", &steps, "n2");
    assert!(!world.is_on(0));
    assert_eq!(world.target.address, ON_N1);
}

#[test]
fn a_failed_migration_stays_at_the_source_and_loses_nothing() {
    let world = moving(ON_N2);
    let failed = json!({"status": {"migrationState": {"failed": true, "completed": true}}});
    let report = world.move_with("failed migration", &[hand_off(), failed], "n1");
    assert_eq!(report.lost(), 0);
    assert!(!world.is_on(1));
}

#[test]
fn a_vm_that_stops_restarts_and_goes_is_followed_with_a_reason_each() {
    let world = moving(ON_N2);
    let cluster = &world.cluster;
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.patch_vm("vm1", &ended).unwrap();
    cluster.wait_reason("b", "VmNotRunning").unwrap();
    wait::wait_until(PATIENCE, "the node lets go", || !world.is_on(0)).unwrap();
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
    cluster.run_vm("vm1", &world.target).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    cluster.route(EIP, 1).unwrap();
    let answer = traffic::udp(
        &cluster.client,
        (EIP, 7000).into(),
        64,
        Duration::from_secs(5),
    );
    assert_eq!(answer.unwrap().came_from.ip(), EIP);
    assert!(!world.is_on(0));
}

#[test]
fn a_status_that_flips_all_the_time_ends_where_it_stops_and_delays_nobody() {
    let world = moving(ON_N2);
    let cluster = &world.cluster;
    let quiet = cluster
        .plug("quiet", 1, "10.244.2.30".parse().unwrap())
        .unwrap();
    for round in 0..30 {
        let phase = if round % 2 == 0 {
            "Unknown"
        } else {
            "Scheduling"
        };
        cluster
            .patch_vm("vm1", &json!({"status": {"phase": phase}}))
            .unwrap();
        if round == 10 {
            let eip = "203.0.113.30".parse().unwrap();
            cluster.run_vm("other", &quiet).unwrap();
            cluster
                .control
                .apply(&kubevirt::binding("other", eip, "other"))
                .unwrap();
        }
    }
    cluster.wait_reason("other", "Serving").unwrap();
    cluster
        .patch_vm("vm1", &json!({"status": {"phase": "Running"}}))
        .unwrap();
    wait::wait_until(PATIENCE, "the node serves it again", || world.is_on(0)).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
}
