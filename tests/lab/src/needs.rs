//! What a test cannot do without. Where it is missing the test fails and says how to get it: a test that
//! did not run has not passed.

use std::path::Path;

use anyhow::{Result, ensure};

/// Network namespaces and BPF are root's.
///
/// # Errors
/// When somebody else runs the test.
pub fn root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "needs root, for network namespaces and BPF: run `cargo xtask test` as root, or `cargo xtask \
         test unit` without it"
    );
    Ok(())
}

/// A program of this machine.
///
/// # Errors
/// When it is not installed.
pub fn program(path: &str) -> Result<()> {
    ensure!(
        Path::new(path).exists(),
        "{path} is not installed: `cargo xtask doctor` tells what is missing, `cargo xtask test` \
         installs it"
    );
    Ok(())
}
