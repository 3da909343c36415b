//! What most scenarios begin with: a VM on the first node that is served, and a pod on the second one that
//! it can move to.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use eip_cluster_tests::{
    kubevirt::{self, Sign},
    world::{Cluster, Pod},
};
use eip_lab::{
    echo::Echo,
    netns::Ns,
    traffic::{self, Pace, StreamReport},
    wait,
};

use crate::{EIP, ON_N1};

/// The VM `vm1` and its binding `b`. Whatever the objects say, both pods answer: so does a guest behind
/// a connection that is broken.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) uid: String,
    /// On the first and on the second node.
    pub(crate) pods: [Pod; 2],
    _echoes: [Echo; 2],
}

impl Scene {
    /// Sets it up and waits until the first node serves it. No router knows of it.
    pub(crate) fn new(cluster: Cluster, target: Ipv4Addr) -> Self {
        let scene = Self::unbound(cluster, target);
        let binding = kubevirt::binding("b", EIP, "vm1");
        scene.cluster.control.apply(&binding).unwrap();
        scene.cluster.wait_reason("b", "Serving").unwrap();
        scene
    }

    /// The VM alone.
    pub(crate) fn unbound(cluster: Cluster, target: Ipv4Addr) -> Self {
        let pods = [
            cluster.plug("from", 0, ON_N1).unwrap(),
            cluster.plug("to", 1, target).unwrap(),
        ];
        let echo = |pod: &Pod| Echo::start(&pod.ns, pod.address, 7000).unwrap();
        let echoes = [echo(&pods[0]), echo(&pods[1])];
        let uid = cluster.run_vm("vm1", &pods[0]).unwrap();
        Self {
            cluster,
            uid,
            pods,
            _echoes: echoes,
        }
    }

    /// The objects KubeVirt writes around a migration, in an order.
    pub(crate) fn migrate(&self, to: usize, order: &[Sign]) {
        let (node, pod) = (self.cluster.nodes[to].name, &self.pods[to]);
        self.cluster.write_pod("vm1", &self.uid, pod).unwrap();
        for sign in order {
            let update = sign.update(node, &pod.name);
            self.cluster.patch_vm("vm1", &update).unwrap();
            wait::pause(Duration::from_millis(200));
        }
    }

    /// Whether a node serves it, or is about to.
    pub(crate) fn is_on(&self, node: usize) -> bool {
        self.cluster.serves(node, EIP)
    }

    /// A thousand packets a second around what `moves` does.
    pub(crate) fn under_traffic(
        &mut self,
        name: &str,
        seconds: u32,
        moves: impl FnOnce(&mut Self),
    ) -> StreamReport {
        let client = Ns::open(self.cluster.client.name()).unwrap();
        let report = thread::scope(|scope| {
            let stream = scope.spawn(|| {
                traffic::stream(&client, (EIP, 7000).into(), Pace::kilohertz(seconds)).unwrap()
            });
            moves(self);
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

    /// The pod that answers what is sent to the elastic IP.
    pub(crate) fn answered_by(&self, patience: Duration) -> Option<Ipv4Addr> {
        let to = (EIP, 7000).into();
        let answer = traffic::udp(&self.cluster.client, to, 64, patience).ok()?;
        match answer.server_was.ip() {
            IpAddr::V4(pod) => Some(pod),
            IpAddr::V6(pod) => panic!("{pod}"),
        }
    }
}
