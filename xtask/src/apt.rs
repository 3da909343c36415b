//! Debian packages: what can be installed, and installing it without a question or a surprise.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    command::{Line, find_program},
    toolchain,
};

/// Whether this process may install packages.
pub(crate) fn is_usable() -> bool {
    is_root() && find_program("apt-get").is_some()
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| effective_uid(&status) == Some(0))
}

/// The effective user id in `/proc/PID/status`.
fn effective_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// The version that `apt-get install PACKAGE` would bring, updating the lists when they know none.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let ask = || candidate_in(&Line::new("apt-cache").args(["policy", package]).probe()?);
    if let Some(version) = ask() {
        return Some(version);
    }
    if !is_usable() || update().is_err() {
        return None;
    }
    ask()
}

/// Reads the output of `apt-cache policy`.
fn candidate_in(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

fn is_installed(package: &str) -> bool {
    Line::new("dpkg-query")
        .args(["--show", "--showformat=${Status}", package])
        .probe()
        .is_some_and(|status| status.ends_with(" installed"))
}

/// Installs packages; `why` says what for, and how long it takes. Never removes one.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    let packages: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    if !is_usable() {
        bail!("{why}: as root, run `{}`", advice(&packages));
    }
    eprintln!("installing {}: {why}", packages.join(" "));
    let line = Line::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let log = toolchain::cache_dir()?.join("logs/apt-install.log");
    if line.run_logged(&log).is_ok() {
        return Ok(());
    }
    eprintln!("  the package lists may be missing or old: once more with new ones");
    update()?;
    line.run_logged(&log)
}

fn update() -> Result<()> {
    let log = toolchain::cache_dir()?.join("logs/apt-update.log");
    Line::new("apt-get")
        .args(["update", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run_logged(&log)
}

/// What to type to have packages.
pub(crate) fn advice(packages: &[&str]) -> String {
    if find_program("apt-get").is_some() || Path::new("/etc/debian_version").exists() {
        format!("apt-get install {}", packages.join(" "))
    } else {
        format!("install (Debian's name): {}", packages.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::{candidate_in, effective_uid};

    #[test]
    fn candidate_is_read_from_the_policy_of_a_known_package() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  \
                      Version table:\n     1.96.0+dfsg1-1~deb12u2 500\n";
        assert_eq!(
            candidate_in(policy).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
    }

    #[test]
    fn unknown_and_virtual_packages_have_no_candidate() {
        assert_eq!(candidate_in(""), None);
        assert_eq!(
            candidate_in("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
    }

    #[test]
    fn effective_user_is_the_second_of_the_four_ids() {
        assert_eq!(
            effective_uid("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"),
            Some(0)
        );
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
