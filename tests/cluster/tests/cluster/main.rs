//! Controller and agents against a real API server. A test is named after the behaviour.
#![cfg(test)]
#![forbid(unsafe_code)]

mod bind;
mod fencing;
mod handover;
mod outage;
mod vm_life;

use std::net::Ipv4Addr;

use eip_cluster_tests::world::Cluster;

/// The elastic IP most tests use.
const EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Address of a VM's pod on the first node.
const ON_N1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
/// Address of a VM's pod on the second node.
const ON_N2: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 12);

/// A cluster with everything running; `None`, said aloud, where it cannot be had.
fn cluster() -> Option<Cluster> {
    let mut cluster = raised()?;
    cluster.start_all().unwrap();
    Some(cluster)
}

/// A cluster with everything running, its agents with more flags.
fn cluster_with(flags: &[&'static str]) -> Option<Cluster> {
    let mut cluster = raised()?;
    cluster.agent_flags = flags.to_vec();
    cluster.start_all().unwrap();
    Some(cluster)
}

/// A cluster with nothing of ours running.
fn raised() -> Option<Cluster> {
    let is_required = std::env::var_os("EIP_CLUSTER_REQUIRED").is_some();
    match eip_cluster_tests::assets() {
        Ok(_) => Some(Cluster::new().unwrap()),
        Err(error) if is_required => panic!("{error:#}"),
        Err(error) => {
            eprintln!("SKIPPED, THIS TEST DID NOT RUN: {error:#}");
            None
        }
    }
}
