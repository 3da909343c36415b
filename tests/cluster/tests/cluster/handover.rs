//! VMs that move between nodes that announce by BGP, to a real router, with traffic that does not wait.

use std::{net::Ipv4Addr, thread, time::Duration};

use eip_cluster_tests::{
    bird::{Bird, NODE_AS, ROUTER_AS},
    kubevirt,
    world::{Cluster, PATIENCE, Pod},
};
use eip_lab::{
    echo::Echo,
    traffic::{self, Pace, StreamReport},
    wait,
};
use serde_json::{Value, json};

use crate::{EIP, ON_N1, ON_N2, cluster_with};

/// A VM on the first node that BIRD reaches, and a pod of it on the second one.
struct Routed {
    cluster: Cluster,
    bird: Bird,
    uid: String,
    pods: [Pod; 2],
    _echoes: [Echo; 2],
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
    let pods = [
        cluster.plug("from", 0, ON_N1).unwrap(),
        cluster.plug("to", 1, ON_N2).unwrap(),
    ];
    let echoes = [
        Echo::start(&pods[0].ns, ON_N1, 7000).unwrap(),
        Echo::start(&pods[1].ns, ON_N2, 7000).unwrap(),
    ];
    let uid = cluster.run_vm("vm1", &pods[0]).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    bird.wait_ways(EIP, &nodes[..1]).unwrap();
    Routed {
        cluster,
        bird,
        uid,
        pods,
        _echoes: echoes,
    }
}

impl Routed {
    /// The objects KubeVirt writes around a migration, in an order.
    fn migrate(&self, to: usize, order: &[Sign]) {
        let name = self.cluster.nodes[to].name;
        let pod = &self.pods[to];
        self.cluster.write_pod("vm1", &self.uid, pod).unwrap();
        for sign in order {
            self.cluster
                .patch_vm("vm1", &sign.patch(name, ["from", "to"][to]))
                .unwrap();
            wait::pause(Duration::from_millis(200));
        }
    }

    fn wait_served_by(&self, node: usize) {
        let name = self.cluster.nodes[node].name;
        wait::wait_until(PATIENCE, "the other node serves it", || {
            let stored = self.cluster.control.get("eipb", "default", "b");
            let stored = stored.ok().flatten();
            stored.is_some_and(|stored| stored["status"]["serving"]["node"] == name)
        })
        .unwrap();
    }

    /// A thousand packets a second around what `moves` does.
    fn under_traffic(&self, name: &str, seconds: u32, moves: impl FnOnce()) -> StreamReport {
        let client = &self.cluster.client;
        let report = thread::scope(|scope| {
            let stream = scope.spawn(|| {
                traffic::stream(client, (EIP, 7000).into(), Pace::kilohertz(seconds)).unwrap()
            });
            moves();
            stream.join().unwrap()
        });
        println!(
            "{name}: {} of {} packets lost, longest silence {:?}",
            report.lost(),
            report.sent,
            report.longest_gap
        );
        report
    }

    fn answered_by(&self) -> Option<Ipv4Addr> {
        let to = (EIP, 7000).into();
        let answer = traffic::udp(&self.cluster.client, to, 64, Duration::from_secs(2)).ok()?;
        match answer.server_was.ip() {
            std::net::IpAddr::V4(pod) => Some(pod),
            std::net::IpAddr::V6(pod) => panic!("{pod}"),
        }
    }
}

/// What KubeVirt says of a migration, step by step.
#[derive(Debug, Clone, Copy)]
enum Sign {
    HandOff,
    DomainReady,
    Flip,
    Completed,
    /// The order of KubeVirt 1.2.
    FlipAndCompleted,
}

impl Sign {
    fn patch(self, node: &str, pod: &str) -> Value {
        let time = "2026-01-01T00:00:00Z";
        let migration = |state: Value| json!({"status": {"migrationState": state}});
        let flip = |state: Value| {
            json!({
                "metadata": {"labels": {"kubevirt.io/nodeName": node}},
                "status": {"nodeName": node, "migrationState": state}
            })
        };
        match self {
            Self::HandOff => migration(json!({
                "migrationUid": node, "targetNode": node, "targetPod": pod,
                "targetNodeDomainReadyTimestamp": null, "completed": false, "failed": false
            })),
            Self::DomainReady => migration(json!({"targetNodeDomainReadyTimestamp": time})),
            Self::Flip => flip(json!({"endTimestamp": time})),
            Self::Completed => migration(json!({"completed": true})),
            Self::FlipAndCompleted => flip(json!({"completed": true})),
        }
    }
}

const NEW_ORDER: [Sign; 4] = [
    Sign::HandOff,
    Sign::DomainReady,
    Sign::Flip,
    Sign::Completed,
];

#[test]
fn routers_learn_of_the_new_node_before_the_old_one_withdraws_and_stragglers_follow() {
    let world = routed();
    let nodes = world.cluster.uplinks();
    world.under_traffic("BGP, new order", 8, || {
        world.migrate(1, &NEW_ORDER);
        world.wait_served_by(1);
        // Both announce; the new one is preferred, and in the end alone.
        world.bird.wait_ways(EIP, &[nodes[1]]).unwrap();
    });
    assert_eq!(world.answered_by(), Some(ON_N2));
    // The sign that is missed first is followed by the next one; back again, and on.
    world.under_traffic("BGP, back, ready sign missed, old order", 8, || {
        world.migrate(0, &[Sign::HandOff, Sign::FlipAndCompleted]);
        world.wait_served_by(0);
        // The second migration begins while the first one is not at rest.
        world.migrate(1, &NEW_ORDER);
        world.wait_served_by(1);
    });
    world.bird.wait_ways(EIP, &[nodes[1]]).unwrap();
    wait::wait_until(PATIENCE, "the VM answers", || {
        world.answered_by() == Some(ON_N2)
    })
    .unwrap();
    assert!(!world.cluster.serves(0, EIP));
    world.cluster.wait_reason("b", "Serving").unwrap();
}

#[test]
fn what_still_comes_to_the_old_node_is_sent_on_to_the_new_one_for_a_while() {
    let world = routed();
    let nodes = world.cluster.uplinks();
    // A router that hears nothing of it.
    world
        .cluster
        .router
        .ip(&format!(
            "route replace {EIP}/32 via {} metric 1\n",
            nodes[0]
        ))
        .unwrap();
    world.migrate(1, &NEW_ORDER);
    world.wait_served_by(1);
    let mut last = None;
    wait::wait_until(PATIENCE, "the new node answers by the old one", || {
        last = world.answered_by();
        last == Some(ON_N2)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    // Not for ever: a node does not carry for others what nobody takes back.
    wait::wait_until(PATIENCE, "it ends", || {
        world.answered_by().is_none() && world.answered_by().is_none()
    })
    .unwrap();
}
