//! `cargo xtask bench`: measurements.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    command::cargo,
    needs::{self, User},
};

/// Measures. packet: nanoseconds per packet over a no-op program, by path and number of bindings.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    what: Subject,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Subject {
    Packet,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Bench])?;
    match args.what {
        Subject::Packet => cargo("run")
            .args([
                "--release",
                "--package",
                "eip-bpf-tests",
                "--bin",
                "bench-packet",
            ])
            .run(),
    }
}
