//! `cargo xtask bench`: measurements.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use crate::{
    cluster,
    command::cargo,
    needs::{self, User},
};

/// Measures, with release builds. Nothing is asserted; numbers are of the machine they were taken on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[command(subcommand)]
    what: Subject,
}

#[derive(Debug, Clone, Subcommand)]
enum Subject {
    /// Nanoseconds per packet over a no-op program, by path and number of bindings
    Packet,
    /// How fast BIRD learns and forgets routes from the speaker, beside other speakers; bind to UPDATE
    ///
    /// Tables in Markdown; the last one has the goals. About ten minutes. `--only` names a part: many, one,
    /// bind, memory, bfd.
    Bgp(Bgp),
    /// A cluster's control side: start to in-sync, memory, CPU, requests, `kubectl apply` to BIRD
    ///
    /// etcd, kube-apiserver, the controller, the agent of one node and BIRD are real; the other nodes are
    /// objects with VMs, pods and bindings, and no agent. The measured node has a veth for each of its VMs.
    /// Everything is in namespaces of its own and goes away at the end. Several minutes at the usual size.
    Kube(Kube),
}

#[derive(Debug, Clone, clap::Args)]
struct Bgp {
    /// Only the parts whose name has this in it
    #[arg(long, value_name = "PART", default_value = "")]
    only: String,
}

#[derive(Debug, Clone, clap::Args)]
struct Kube {
    /// Bindings from the start, a VM and a pod each
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    bindings: u32,

    /// How many of them are on the node that is measured
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    here: u32,

    /// Nodes, with the measured one
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    nodes: u32,

    /// Bindings that are made and deleted one after the other
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    changes: u32,

    /// Bindings that are then made for one single VM, all at once
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    crowd: u32,

    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A table for people.
    Text,
    /// One JSON object.
    Json,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(match args.what {
        Subject::Packet => &[User::Bench],
        // The whole agent in the lab, and the routers.
        Subject::Bgp(_) => &[User::Bench, User::BenchBgp, User::TestInterop, User::Lab],
        Subject::Kube(_) => &[User::Bench, User::TestCluster],
    })?;
    match &args.what {
        Subject::Bgp(bgp) => cargo("build")
            .args(["--release", "--package", "eip-interop-tests"])
            .args(["--package", "eip-daemon", "--bins"])
            .run()
            .and_then(|()| {
                cargo("run")
                    .args(["--release", "--package", "eip-interop-tests"])
                    .args(["--bin", "bench-bgp", "--"])
                    .arg(format!("--only={}", bgp.only))
                    .run()
            }),
        Subject::Packet => cargo("run")
            .args([
                "--release",
                "--package",
                "eip-bpf-tests",
                "--bin",
                "bench-packet",
            ])
            .run(),
        Subject::Kube(kube) => kube.run(),
    }
}

impl Kube {
    fn run(&self) -> Result<()> {
        let both = ["--package", "eip-daemon", "--package", "eip-cluster-tests"];
        cargo("build")
            .args(["--release", "--bins"])
            .args(both)
            .run()?;
        let output = match self.output {
            Output::Text => "text",
            Output::Json => "json",
        };
        cargo("run")
            .arg("--release")
            .args(both)
            .args(["--bin", "bench-kube", "--"])
            .arg(format!("--bindings={}", self.bindings))
            .arg(format!("--here={}", self.here))
            .arg(format!("--nodes={}", self.nodes))
            .arg(format!("--changes={}", self.changes))
            .arg(format!("--crowd={}", self.crowd))
            .arg(format!("--output={output}"))
            .env(cluster::VARIABLE, cluster::find()?)
            .run()
    }
}
