//! `cargo xtask demo`: an elastic IP at work, in front of one's eyes.

use anyhow::{Result, bail};
use eip_lab::{
    binaries::Binaries,
    demo::{self, DemoOptions, Outcome},
};

use crate::{
    build,
    needs::{self, User},
};

/// Shows an elastic IP working end to end on this kernel, in network namespaces.
///
/// Raises a client, a router, a node with a hostile firewall and VMs, runs the real daemon, and
/// tells what was sent and what arrived. Ends with 0 only if everything it claims was seen, and
/// removes everything. Needs root; nothing outside its namespaces changes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave everything standing at the end, and print what to try.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Demo])?;
    build::programs()?;
    let options = DemoOptions {
        binaries: Binaries::find()?,
        keep: args.keep,
    };
    match demo::run(&options)? {
        Outcome::Held => Ok(()),
        Outcome::Failed => bail!("not everything that was claimed was seen: the report says what"),
    }
}
