//! A world in which one guest is a real VM.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    echo::Echo,
    needs,
    netns::Ns,
    plan::{CLIENT, Dual, Family, GuestPlan, POD1},
    world::{World, WorldOptions},
};
use eip_vm_tests::{
    PORT, PORT6,
    kernel::{self, Kernel},
    machine::Machine,
    pod::{self, Binding},
};

/// A guest without KVM is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The VM's kernel: that of the Debian this project supports.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Dropped in this order.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    _servers: Vec<Echo>,
    pub(crate) daemon: Daemon,
    pub(crate) world: World,
    pub(crate) eip: Dual,
}

impl Stage {
    /// A VM behind `plan`'s pod, bound to `eip`.
    pub(crate) fn raise(plan: GuestPlan, eip: Dual, binding: Binding, guest_mtu: u32) -> Self {
        let world = WorldOptions {
            guest_mtu,
            guests: vec![plan, POD1],
            ..WorldOptions::default()
        };
        Self::raise_with(world, DaemonOptions::default(), (plan, eip, binding))
    }

    /// As [`Stage::raise`], in any world with any agent.
    pub(crate) fn raise_with(
        world: WorldOptions,
        daemon: DaemonOptions,
        (plan, eip, binding): (GuestPlan, Dual, Binding),
    ) -> Self {
        needs::root().unwrap();
        kernel::look().unwrap();
        let guest_mtu = world.guest_mtu;
        let world = World::new(world).unwrap();
        let guest = world.guest(plan);
        let setup = pod::wire(guest, binding, guest_mtu).unwrap();
        let kernel = Kernel::fetch(KERNEL).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_eip-test-guest"));
        let machine = Machine::boot(&guest.ns, &kernel, program, &setup).unwrap();
        let mut daemon = Daemon::start(&world, daemon).unwrap();
        let mut servers = Vec::new();
        for family in Family::BOTH {
            daemon.serve(&plan, eip.of(family)).unwrap();
            for (ns, address) in [
                (&world.client, CLIENT),
                (&world.guest(POD1).ns, POD1.address),
            ] {
                servers.push(Echo::start(ns, address.of(family), PORT).unwrap());
            }
        }
        Self {
            machine,
            _servers: servers,
            daemon,
            world,
            eip,
        }
    }

    pub(crate) fn client(&self) -> &Ns {
        &self.world.client
    }

    /// The VM's EIP of a family.
    pub(crate) fn eip(&self, family: Family) -> IpAddr {
        self.eip.of(family)
    }

    /// The VM's echo server by that EIP.
    pub(crate) fn server(&self, family: Family) -> SocketAddr {
        let port = match family {
            Family::V4 => PORT,
            Family::V6 => PORT6,
        };
        SocketAddr::new(self.eip(family), port)
    }
}
