//! `cargo xtask bench`: measurements.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    command::cargo,
    needs::{self, User},
};

/// Measures. packet: nanoseconds per packet over a no-op program, by path and number of bindings.
/// bgp: how fast BIRD learns and forgets routes from the speaker, beside other speakers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    what: Subject,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Subject {
    Packet,
    Bgp,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(match args.what {
        Subject::Packet => &[User::Bench],
        Subject::Bgp => &[User::Bench, User::TestInterop],
    })?;
    match args.what {
        Subject::Bgp => cargo("build")
            .args(["--release", "--package", "eip-interop-tests", "--bins"])
            .run()
            .and_then(|()| {
                cargo("run")
                    .args(["--release", "--package", "eip-interop-tests"])
                    .args(["--bin", "bench-bgp"])
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
    }
}
