//! The VMs of the measured node, as far as its kernel knows them: a veth, a route and a neighbour each.

use std::fmt::Write as _;

use eip_cluster_tests::world::Cluster;
use eip_lab::netns::Ns;

use crate::plan::Vm;

/// The namespace with the other ends; gone when dropped.
#[derive(Debug)]
pub(crate) struct Wires {
    _pods: Ns,
}

impl Wires {
    /// Plugs all of them into the measured node.
    pub(crate) fn plug(cluster: &Cluster, vms: &[Vm]) -> anyhow::Result<Self> {
        let node = &cluster.nodes[0].ns;
        let pods = Ns::create(&format!("{}pods", cluster.prefix()))?;
        for ns in [node, &pods] {
            ns.sysctl("ipv6/conf/default/disable_ipv6=1")?;
        }
        let (mut outside, mut inside) = (String::new(), String::new());
        for (number, vm) in vms.iter().enumerate() {
            let mac = format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256);
            // A permanent neighbour does not count toward the kernel's limit of 1024.
            writeln!(
                outside,
                "link add p{number} type veth peer name v{number} address {mac} netns {inside}
                link set p{number} up
                route add {address}/32 dev p{number} scope link
                neigh replace {address} lladdr {mac} dev p{number} nud permanent",
                inside = pods.name(),
                address = vm.address,
            )?;
            writeln!(inside, "link set v{number} up")?;
        }
        node.ip(&outside)?;
        pods.ip(&inside)?;
        Ok(Self { _pods: pods })
    }
}
