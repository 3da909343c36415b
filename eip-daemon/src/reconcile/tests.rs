//! The reconciler against a kernel in memory.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tokio::sync::{Notify, watch};

use super::{
    Reconciler,
    fake::{FakeKernel, FakeNetwork, violations},
    hold::{PATIENCE, keep},
    plan::{Removal, plan},
};
use crate::{
    announce::Announcer,
    desired,
    model::{
        Action, Announce, BindingFact, DefaultRoute, DeliveryChoice, Facts, HostRoute, Link,
        NetworkView, NodeAddress, NodeSettings, ObjectName, Observed, Outcome, RouteTo, TargetKind,
        TcMode, VmFact, VmInterface, VmPhase, WaitReason, XdpMode,
    },
    report::Report,
};

mod farewells;
mod leases;
mod properties;
mod rounds;

pub(super) const UPLINK: u32 = 2;
pub(super) const MANAGEMENT: u32 = 3;
pub(super) const BRIDGE: u32 = 30;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn object(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

pub(super) fn settings() -> NodeSettings {
    NodeSettings {
        node_name: "here".to_owned(),
        uplinks: vec!["up0".to_owned()],
        gateway4: Some("203.0.113.1".parse().unwrap()),
        gateway6: Some("2001:db8:1::1".parse().unwrap()),
        eip_cidrs: vec![net("203.0.113.0/24"), net("2001:db8:1::/64")],
        internal_nets: vec![net("10.244.0.0/16"), net("fd00:10::/64")],
        delivery: DeliveryChoice::Auto,
        announce: Announce::Bgp,
        xdp_mode: XdpMode::Auto,
        tc_mode: TcMode::Auto,
        route_table: 1180,
    }
}

fn link(ifindex: u32, name: &str, kind: &str, master: Option<u32>) -> Link {
    let last = u8::try_from(ifindex).unwrap();
    Link {
        ifindex,
        name: name.to_owned(),
        kind: kind.to_owned(),
        mac: Some([2, 0, 0, 0, 0, last]),
        mtu: 1500,
        master,
        vlan: None,
        is_up: true,
    }
}

/// An uplink, a management interface with the default route, and a bridge without ports.
pub(super) fn bare_node() -> NetworkView {
    let mut view = NetworkView::default();
    for link in [
        link(UPLINK, "up0", "", None),
        link(MANAGEMENT, "mg0", "", None),
        link(BRIDGE, "cni0", "bridge", None),
    ] {
        view.links.insert(link.ifindex, link);
    }
    for (ifindex, address) in [
        (UPLINK, "203.0.113.2/24"),
        (UPLINK, "2001:db8:1::2/64"),
        (MANAGEMENT, "172.16.0.10/24"),
        (BRIDGE, "10.244.9.1/24"),
    ] {
        view.addresses.push(NodeAddress {
            ifindex,
            address: net(address),
        });
    }
    view.default_routes.push(DefaultRoute {
        ifindex: MANAGEMENT,
        gateway: Some(ip("172.16.0.1")),
        metric: 0,
    });
    view
}

/// The address is behind a veth of its own.
pub(super) fn route_to_veth(view: &mut NetworkView, address: &str, ifindex: u32) {
    let address = ip(address);
    view.links.insert(
        ifindex,
        link(ifindex, &format!("cali{ifindex}"), "veth", None),
    );
    view.routes.insert(
        address,
        RouteTo {
            ifindex,
            gateway: None,
            is_unicast: true,
        },
    );
    view.neighbours
        .insert((ifindex, address), guest_mac(ifindex));
}

/// The address is behind a port of the bridge.
pub(super) fn route_to_bridge(view: &mut NetworkView, address: &str, port: u32) {
    let address = ip(address);
    view.links.insert(
        port,
        link(port, &format!("veth{port}"), "veth", Some(BRIDGE)),
    );
    view.routes.insert(
        address,
        RouteTo {
            ifindex: BRIDGE,
            gateway: None,
            is_unicast: true,
        },
    );
    view.neighbours.insert((BRIDGE, address), guest_mac(port));
    view.bridge_ports.insert((BRIDGE, guest_mac(port)), port);
}

pub(super) fn guest_mac(port: u32) -> [u8; 6] {
    [6, 0, 0, 0, 0, u8::try_from(port).unwrap()]
}

pub(super) fn vm(name: &str, addresses: &[&str]) -> VmFact {
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    VmFact {
        name: object(name),
        uid: Some(format!("uid-{name}")),
        created: None,
        phase: VmPhase::Running,
        node: Some("here".to_owned()),
        arrived: None,
        interfaces: vec![VmInterface {
            name: "default".to_owned(),
            addresses,
        }],
        origin: None,
    }
}

pub(super) fn binding(name: &str, eip: &str, vm: &str) -> BindingFact {
    BindingFact {
        moving: crate::model::Moving::default(),
        name: object(name),
        eip: ip(eip),
        vm: object(vm),
        kind: TargetKind::Vm,
        interface: None,
        created: None,
        generation: 1,
        primary: false,
        delivery: None,
        announce: None,
        origin: None,
    }
}

pub(super) fn facts(bindings: Vec<BindingFact>, vms: Vec<VmFact>) -> Facts {
    Facts {
        nets: Vec::new(),
        nodes: Vec::new(),
        peers: Vec::new(),
        bindings,
        vms,
        refused: Vec::new(),
        complete: true,
        read_at: None,
    }
}

/// A reconciler with everything around it.
pub(super) struct Bench {
    pub(super) kernel: FakeKernel,
    pub(super) network: FakeNetwork,
    pub(super) facts: watch::Sender<Facts>,
    pub(super) reports: watch::Receiver<Arc<Report>>,
    reconciler: Reconciler<FakeKernel>,
    shutdown: watch::Receiver<bool>,
    _keeps_running: watch::Sender<bool>,
}

impl Bench {
    pub(super) fn new(view: NetworkView, initial: Facts) -> Self {
        let kernel = FakeKernel::default();
        kernel.world().view = view;
        Self::on(kernel, initial)
    }

    /// A new process on a kernel that stands, in a network that believes nothing.
    pub(super) fn on(kernel: FakeKernel, initial: Facts) -> Self {
        Self::between(kernel, FakeNetwork::default(), initial)
    }

    /// A new process between a kernel and a network that have been there before.
    pub(super) fn between(kernel: FakeKernel, network: FakeNetwork, initial: Facts) -> Self {
        let (facts, receiver) = watch::channel(initial);
        let (running, shutdown) = watch::channel(false);
        let (reconciler, reports) = Reconciler::new(
            kernel.clone(),
            receiver,
            Arc::new(settings()),
            Arc::new(Notify::new()),
        );
        let announcers: Vec<Box<dyn Announcer>> = vec![Box::new(network.clone())];
        let reconciler = reconciler.with_announcers(announcers, Arc::new(Notify::new()));
        Self {
            kernel,
            network,
            facts,
            reports,
            reconciler,
            shutdown,
            _keeps_running: running,
        }
    }

    /// One round in a network that listens before and after; what was done in it. What has to be
    /// withdrawn first is so at once.
    pub(super) async fn round(&mut self) -> Vec<Action> {
        let mut done = self.deaf_round().await;
        self.network.listen();
        if self.network.air().is_deaf {
            return done;
        }
        let held = self.report();
        if !held.in_sync && held.failing.is_empty() && held.facts_complete {
            done.extend(self.deaf_round().await);
        }
        done
    }

    /// One round; what was done in it.
    pub(super) async fn deaf_round(&mut self) -> Vec<Action> {
        self.kernel.world().applied.clear();
        self.reconciler.take_facts();
        self.reconciler.round(&self.shutdown).await;
        self.kernel.world().applied.clone()
    }

    pub(super) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    pub(super) fn outcome(&self, name: &str) -> Outcome {
        let report = self.report();
        report.desired.outcomes.get(&object(name)).cloned().unwrap()
    }
}

/// Two VMs behind veths, one behind the bridge, one EIP each.
pub(super) fn three_vms() -> (NetworkView, Facts) {
    let mut view = bare_node();
    route_to_veth(&mut view, "10.244.0.1", 11);
    route_to_veth(&mut view, "10.244.0.2", 12);
    route_to_bridge(&mut view, "10.244.9.3", 33);
    let vms = vec![
        vm("a", &["10.244.0.1"]),
        vm("b", &["10.244.0.2"]),
        vm("c", &["10.244.9.3"]),
    ];
    let bindings = vec![
        binding("one", "203.0.113.10", "a"),
        binding("two", "203.0.113.11", "b"),
        binding("three", "203.0.113.12", "c"),
    ];
    (view, facts(bindings, vms))
}
