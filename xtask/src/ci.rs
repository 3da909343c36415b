//! `cargo xtask ci`: the whole pipeline, the same on a laptop.

use anyhow::Result;

use crate::{check, needs, needs::User, steps::Steps, test};

/// Runs everything that has to hold before a change lands: check, then every test.
///
/// Installs what is missing first, where it can. All steps run even if one fails; a table with
/// their times closes the run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    let mut users = vec![User::Check];
    users.extend(test::users());
    needs::require(&users)?;
    let mut steps = Steps::default();
    check::add_steps(&mut steps);
    let counted = test::add_all(&mut steps);
    counted
        .finish(steps)
        .inspect_err(|_| eprintln!("to repeat: cargo xtask ci"))
}
