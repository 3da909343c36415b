//! What a cluster costs the control side: start to in-sync, memory, CPU, requests and the time from a
//! stored binding to a router that knows it.
//!
//! etcd, kube-apiserver, controller, the agent of one node and BIRD are real. The other nodes are
//! objects: their VMs, pods and bindings exist, and nobody reports on them. VMs of the measured node have
//! a veth each, all of whose other ends are in one namespace. Times run by one clock, from the request to the
//! API server on; kernel maps and BIRD are asked every half millisecond. Nothing is asserted.
#![forbid(unsafe_code)]

mod api;
mod measure;
mod plan;
mod probe;
mod results;
mod wires;

use clap::{Parser, ValueEnum};
use eip_cluster_tests::world::{Cluster, Options};
use eip_lab::{needs, netns::Ns};

use crate::plan::{EIP_CIDR, POD_CIDRS, Plan};

/// Measures; `cargo xtask bench kube --help` explains.
#[derive(Debug, Parser)]
struct Flags {
    #[arg(long, default_value_t = 10_000)]
    bindings: u32,
    #[arg(long, default_value_t = 1000)]
    here: u32,
    #[arg(long, default_value_t = 100)]
    nodes: u32,
    #[arg(long, default_value_t = 200)]
    changes: u32,
    #[arg(long, default_value_t = 0)]
    crowd: u32,
    #[arg(short, long, default_value = "text")]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let plan = Plan::new(flags.bindings, flags.here, flags.nodes, flags.changes)?;
    needs::root()?;
    probe::heed_interrupts()?;
    probe::say("starting etcd and kube-apiserver");
    let mut cluster = Cluster::with(Options {
        eip_cidr: EIP_CIDR,
        pod_cidrs: POD_CIDRS,
        log_level: "info",
        lease_duration: "15s",
        resync: "2s",
    })?;
    // Sockets of this thread are where the API server is.
    let place = Ns::open(cluster.place().name())?;
    let crowd = plan::crowd(flags.crowd)?;
    let results = place.run(|| measure::all(&mut cluster, &plan, &crowd))?;
    match flags.output {
        Form::Text => print!("{results}"),
        Form::Json => println!("{:#}", results.json()),
    }
    Ok(())
}
