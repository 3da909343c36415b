//! What every test begins with.

use std::net::{IpAddr, SocketAddr};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    echo::Echo,
    hidden, needs,
    netns::Ns,
    plan::{CLIENT, Family, GuestPlan, HIDDEN, VM1, VM2, eip},
    sniff::Injector,
    world::{World, WorldOptions},
};

/// Port of every echo server.
pub(crate) const PORT: u16 = 7000;

/// A world of the test's own.
pub(crate) fn raise(options: WorldOptions) -> World {
    needs::root().unwrap();
    World::new(options).unwrap()
}

/// A world with the agent in it. Fields are dropped in this order.
pub(crate) struct Stage {
    servers: Vec<Echo>,
    pub(crate) daemon: Daemon,
    pub(crate) world: World,
}

impl Stage {
    /// The agent, serving nothing.
    pub(crate) fn empty(world: WorldOptions, daemon: DaemonOptions) -> Self {
        Self::inside(raise(world), daemon)
    }

    /// The agent in a world that stands already, serving nothing.
    pub(crate) fn inside(world: World, daemon: DaemonOptions) -> Self {
        let daemon = Daemon::start(&world, daemon).unwrap();
        Self {
            servers: Vec::new(),
            daemon,
            world,
        }
    }

    /// The agent, serving `vm1` and `vm2`; echo servers on both, on the client and on every pod.
    pub(crate) fn new(world: WorldOptions, daemon: DaemonOptions) -> Self {
        let mut stage = Self::empty(world, daemon);
        stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
        stage.daemon.serve(&VM2, eip::VM2.v4).unwrap();
        stage.start_servers();
        stage
    }

    /// With everything at its default.
    pub(crate) fn plain() -> Self {
        Self::new(WorldOptions::default(), DaemonOptions::default())
    }

    /// As [`Stage::new`], with an EIP and servers of each family.
    pub(crate) fn dual(world: WorldOptions, daemon: DaemonOptions) -> Self {
        let mut stage = Self::new(world, daemon);
        stage.serve6();
        stage
    }

    /// Adds an IPv6 EIP to `vm1` and `vm2`, and servers.
    pub(crate) fn serve6(&mut self) {
        self.daemon.serve(&VM1, eip::VM1.v6).unwrap();
        self.daemon.serve(&VM2, eip::VM2.v6).unwrap();
        self.start_servers_of(Family::V6);
    }

    pub(crate) fn start_servers(&mut self) {
        self.start_servers_of(Family::V4);
    }

    pub(crate) fn start_servers_of(&mut self, family: Family) {
        let guests = self.world.guests().iter();
        let hosts = guests.map(|guest| (&guest.ns, guest.plan.address));
        for (ns, address) in hosts.chain([(&self.world.client, CLIENT)]) {
            let echo = Echo::start(ns, address.of(family), PORT).unwrap();
            self.servers.push(echo);
        }
    }

    pub(crate) fn ns(&self, guest: GuestPlan) -> &Ns {
        &self.world.guest(guest).ns
    }

    /// A VM behind a pod, with echo servers.
    pub(crate) fn put_vm_behind(&mut self, pod: GuestPlan) -> Ns {
        let vm = hidden::put_behind(self.world.guest(pod)).unwrap();
        for family in Family::BOTH {
            let echo = Echo::start(&vm, HIDDEN.of(family), PORT).unwrap();
            self.servers.push(echo);
        }
        vm
    }

    /// Where frames of a guest to anybody else go: the MAC of its gateway.
    pub(crate) fn gateway_mac(&self, guest: GuestPlan) -> [u8; 6] {
        let device = match guest.attachment {
            eip_lab::plan::Attachment::Routed => guest.port,
            eip_lab::plan::Attachment::BridgePort => "cni0",
        };
        Injector::open(&self.world.node, device).unwrap().mac
    }
}

/// An address with the port of the echo servers.
pub(crate) fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), PORT)
}
