//! `cargo xtask build`: what a plain `cargo build` does, with its needs met first.

use anyhow::Result;

use crate::{
    command::cargo,
    needs::{self, User},
    toolchain::{Toolchain, object_file},
};

/// Builds the daemon, the kernel programs and the tests.
///
/// Plain `cargo build` does the same once `cargo xtask setup` has run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// With optimisation, as it is shipped.
    #[arg(long)]
    release: bool,
    /// Only the kernel programs, as an object to look at.
    #[arg(long, conflicts_with = "release")]
    ebpf: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Build])?;
    if args.ebpf {
        Toolchain::require()?.cargo("build").run()?;
        println!("{}", object_file().display());
        return Ok(());
    }
    let line = cargo("build");
    if args.release {
        line.arg("--release").run()
    } else {
        line.run()
    }
}

/// Builds the programs a node runs, which the lab starts from the build directory.
pub(crate) fn programs() -> Result<()> {
    eprintln!("building the daemon and the kernel programs: a minute or two the first time");
    cargo("build")
        .args(["--package", "eip-daemon", "--bins"])
        .run()
}
