//! Names, addresses and sizes of what is measured. Pure.

use std::net::Ipv4Addr;

use anyhow::ensure;

/// Where elastic IPs come from: RFC 2544, and room for 131 072.
pub(crate) const EIP_CIDR: &str = "198.18.0.0/15";
/// First elastic IP of what is there from the start.
const FIRST_EIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// First elastic IP of what comes and goes.
const FIRST_CHANGE: Ipv4Addr = Ipv4Addr::new(198, 19, 128, 1);
/// First elastic IP of those for one VM.
const FIRST_OF_CROWD: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Pod networks of the two nodes that are namespaces.
pub(crate) const POD_CIDRS: [&str; 2] = ["10.0.0.0/20", "10.0.16.0/20"];
/// Addresses of a node's pod network.
const POD_CIDR_SIZE: u32 = 4096;
/// VMs of the measured node whose bindings come and go.
const SPARES: u32 = 50;

/// How much there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bindings from the start.
    pub(crate) bindings: u32,
    /// How many of them are on the measured node.
    pub(crate) here: u32,
    /// Nodes.
    pub(crate) nodes: u32,
    /// Bindings that come and go.
    pub(crate) changes: u32,
}

/// A VM, and the elastic IP that is bound to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vm {
    /// Its name, and those of its pod and its binding.
    pub(crate) name: String,
    /// Its node.
    pub(crate) node: String,
    /// Address of its pod.
    pub(crate) address: Ipv4Addr,
    /// The elastic IP.
    pub(crate) eip: Ipv4Addr,
}

impl Plan {
    pub(crate) fn new(bindings: u32, here: u32, nodes: u32, changes: u32) -> anyhow::Result<Self> {
        ensure!((2..=2000).contains(&nodes), "--nodes: 2 to 2000");
        ensure!((1..=65_000).contains(&bindings), "--bindings: 1 to 65000");
        ensure!(
            (1..=3500).contains(&here) && here <= bindings,
            "--here: 1 to 3500, and not more than --bindings"
        );
        let elsewhere = (bindings - here).div_ceil(nodes - 1);
        ensure!(
            elsewhere < POD_CIDR_SIZE - 2,
            "--nodes: too few for {bindings} bindings"
        );
        ensure!((1..=100_000).contains(&changes), "--changes: 1 to 100000");
        Ok(Self {
            bindings,
            here,
            nodes,
            changes,
        })
    }

    /// Name of a node; the first one is measured.
    pub(crate) fn node(index: u32) -> String {
        format!("n{}", index + 1)
    }

    /// Pod network of a node.
    pub(crate) fn pod_cidr(index: u32) -> String {
        format!("{}/20", pod_address(index, 0))
    }

    /// The nodes that are objects only.
    pub(crate) fn simulated_nodes(&self) -> impl Iterator<Item = (String, String)> {
        (2..self.nodes).map(|index| (Self::node(index), Self::pod_cidr(index)))
    }

    /// VMs with a binding.
    pub(crate) fn bound(&self) -> Vec<Vm> {
        let here = (0..self.here).map(|index| (0, index));
        let others = self.nodes - 1;
        let elsewhere =
            (0..self.bindings - self.here).map(|index| (1 + index % others, index / others));
        here.chain(elsewhere)
            .zip(0..)
            .map(|((node, index), number)| Vm {
                name: format!("vm-{number:05}"),
                node: Self::node(node),
                address: pod_address(node, index + 1),
                eip: after(FIRST_EIP, number),
            })
            .collect()
    }

    /// VMs of the measured node whose bindings come and go.
    pub(crate) fn spares(&self) -> Vec<Vm> {
        (0..SPARES.min(self.changes))
            .map(|index| Vm {
                name: format!("spare-{index:03}"),
                node: Self::node(0),
                address: pod_address(0, self.here + 1 + index),
                eip: after(FIRST_CHANGE, index),
            })
            .collect()
    }
}

/// Elastic IPs that are all for one VM.
pub(crate) fn crowd(size: u32) -> anyhow::Result<Vec<Ipv4Addr>> {
    ensure!(size <= 30_000, "--crowd: at most 30000");
    Ok((0..size)
        .map(|index| after(FIRST_OF_CROWD, index))
        .collect())
}

fn pod_address(node: u32, index: u32) -> Ipv4Addr {
    after(Ipv4Addr::new(10, 0, 0, 0), node * POD_CIDR_SIZE + index)
}

fn after(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + index)
}
