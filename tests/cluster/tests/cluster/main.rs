//! Controller and agents against a real API server. A test is named after the behaviour.
#![cfg(test)]
#![forbid(unsafe_code)]

mod bad_input;
mod bind;
mod fencing;
mod handover;
mod outage;
mod peers;
mod scene;
mod vm_life;

use std::net::Ipv4Addr;

use eip_cluster_tests::world::Cluster;
use eip_lab::needs;

/// The elastic IP most tests use.
const EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Address of a VM's pod on the first node.
const ON_N1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
/// Address of a VM's pod on the second node.
const ON_N2: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 12);

/// A cluster with everything running.
fn cluster() -> Cluster {
    let mut cluster = raised();
    cluster.start_all().unwrap();
    cluster
}

/// A cluster with everything running, its agents with more flags.
fn cluster_with(flags: &[&'static str]) -> Cluster {
    let mut cluster = raised();
    cluster.agent_flags = flags.to_vec();
    cluster.start_all().unwrap();
    cluster
}

/// A cluster with nothing of ours running.
fn raised() -> Cluster {
    needs::root().unwrap();
    Cluster::new().unwrap()
}
