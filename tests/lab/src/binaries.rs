//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The two programs a user gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `eip-daemon`.
    pub daemon: PathBuf,
    /// `eipctl`.
    pub eipctl: PathBuf,
}

impl Binaries {
    /// `EIP_DAEMON_BIN` and `EIPCTL_BIN`, else beside the running executable or in the build
    /// directory it came from (`target/debug` for `target/debug/deps/e2e-1234`).
    ///
    /// # Errors
    /// When one of them is nowhere; the error says how to build it.
    pub fn find() -> anyhow::Result<Self> {
        Ok(Self {
            daemon: find_one("EIP_DAEMON_BIN", "eip-daemon")?,
            eipctl: find_one("EIPCTL_BIN", "eipctl")?,
        })
    }
}

fn find_one(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        bail!("{variable} names {}, which is no file", path.display());
    }
    let executable = env::current_exe().context("find the running executable")?;
    executable
        .ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
        .with_context(|| {
            format!(
                "{name} is not built: run `cargo build --package eip-daemon`, or set {variable}"
            )
        })
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}
