//! `cargo xtask lab up|down|status`: one standing lab to explore by hand.

use crate::binaries::Binaries;

/// Raises the standing lab with the daemon in it, or leaves it alone when it stands already.
/// Returns what to tell the user: where things are and what to try.
///
/// # Errors
/// When a namespace, a firewall or the daemon cannot be set up; nothing is left behind then.
pub fn up(binaries: &Binaries) -> anyhow::Result<String> {
    let _ = binaries;
    anyhow::bail!("the standing lab is not written yet")
}

/// Removes the standing lab and what killed runs left behind. Says what was removed.
///
/// # Errors
/// When something refuses to go away; the error says what.
pub fn down() -> anyhow::Result<String> {
    anyhow::bail!("the standing lab is not written yet")
}

/// Describes the standing lab: namespaces, addresses, daemon, commands to try.
///
/// # Errors
/// When its state cannot be read.
pub fn status() -> anyhow::Result<String> {
    anyhow::bail!("the standing lab is not written yet")
}
