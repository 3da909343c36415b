//! A cluster for tests: a real kube-apiserver on etcd, two nodes, and the programs under test with
//! the service accounts that `deploy/kubernetes` gives them.
//!
//! ```text
//!  client ─── router ──┬── up0 192.0.2.11  node n1 ── ports of its VMs
//!                      └── up0 192.0.2.12  node n2 ── ports of its VMs
//!                                      mg0 172.16.0.11, .12 ──┐
//!  control plane 172.16.0.1: etcd, kube-apiserver, controller ┘
//! ```
//!
//! There is no kubelet and no KubeVirt: tests write what those would write, in the order in which they
//! do. Everything lives in network namespaces and a directory under `/run/kube-eip-lab`, and goes away
//! with the value that stands for it.
#![forbid(unsafe_code)]

pub mod bird;
mod clock;
pub mod control_plane;
pub mod flips;
pub mod kubevirt;
pub mod process;
pub mod turnstile;
pub mod world;

use std::{env, path::PathBuf};

use anyhow::Context as _;

/// Where etcd, kube-apiserver and kubectl are: `KUBEBUILDER_ASSETS`, which `cargo xtask test cluster`
/// sets when it is not set.
///
/// # Errors
/// It is not set, or a program is missing.
pub fn assets() -> anyhow::Result<PathBuf> {
    let dir = env::var_os("KUBEBUILDER_ASSETS")
        .map(PathBuf::from)
        .context("KUBEBUILDER_ASSETS is not set: run `cargo xtask test cluster`")?;
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        anyhow::ensure!(
            dir.join(program).is_file(),
            "there is no {program} in {}",
            dir.display()
        );
    }
    Ok(dir)
}
