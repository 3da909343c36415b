//! `cargo xtask check`: everything that is found without running the code.

use anyhow::Result;

use crate::{
    command::cargo,
    generate, modules,
    needs::{self, User},
    steps::Steps,
    toolchain::Toolchain,
};

/// Checks format, lints of both worlds, docs, module directions and generated files.
///
/// Warnings are errors. The kernel programs are linted by the eBPF toolchain for the BPF target; a
/// plain `cargo clippy` covers the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    needs::require(&[User::Check])?;
    let mut steps = Steps::default();
    add_steps(&mut steps);
    steps.finish()
}

/// The steps, for `ci` too.
pub(crate) fn add_steps(steps: &mut Steps) {
    steps.run("format", || cargo("fmt").args(["--all", "--check"]).run());
    steps.run("module directions", modules::check);
    steps.run("generated files", generate::check);
    steps.run("clippy", || {
        cargo("clippy")
            .args([
                "--all-targets",
                "--keep-going",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ])
            .run()
    });
    steps.run("clippy (kernel)", lint_kernel_programs);
    steps.run("docs", || {
        cargo("doc")
            .args(["--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()
    });
}

fn lint_kernel_programs() -> Result<()> {
    let toolchain = Toolchain::require()?;
    let has_clippy = toolchain
        .line("cargo")
        .args(["clippy", "--version"])
        .probe()
        .is_some();
    if has_clippy {
        return toolchain
            .cargo("clippy")
            .args(["--quiet", "--", "-D", "warnings"])
            .run();
    }
    eprintln!("  the eBPF toolchain has no clippy: warnings of the compiler only");
    toolchain
        .cargo("rustc")
        .args(["--quiet", "--bin", "eip", "--", "-D", "warnings"])
        .run()
}
