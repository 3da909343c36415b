//! `cargo xtask demo`: an elastic IP at work, told so that a newcomer understands it.

use crate::binaries::Binaries;

/// What to show and what to leave behind.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The programs to show.
    pub binaries: Binaries,
    /// Leave the lab and the daemon running, and print commands to try.
    pub keep: bool,
}

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Everything that was claimed was seen.
    Held,
    /// At least one step showed something else; the report says which.
    Failed,
}

/// Raises a lab, runs the daemon in it and prints the report.
///
/// # Errors
/// When the lab itself cannot be raised (no root, a tool is missing). A step that fails is no
/// error but [`Outcome::Failed`].
pub fn run(options: &DemoOptions) -> anyhow::Result<Outcome> {
    let _ = options;
    anyhow::bail!("the demo is not written yet")
}
