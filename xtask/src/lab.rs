//! `cargo xtask lab`: the demo's network, to explore.

use anyhow::Result;
use clap::ValueEnum;
use eip_lab::{binaries::Binaries, lab};

use crate::{
    build,
    needs::{self, User},
};

/// Raises, removes or shows a lab to explore: client, router, node and VMs in network namespaces.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to do with it.
    #[arg(value_enum)]
    action: Action,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Raise it with the daemon in it; it stays when this command ends.
    Up,
    /// Remove it, and whatever a killed run left behind.
    Down,
    /// Show what stands, and what to try.
    Status,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Lab])?;
    let told = match args.action {
        Action::Up => {
            build::programs()?;
            lab::up(&Binaries::find()?)?
        }
        Action::Down => lab::down()?,
        Action::Status => lab::status()?,
    };
    println!("{}", told.trim_end());
    Ok(())
}
