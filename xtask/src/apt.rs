//! Debian packages: what can be installed, and installing it without a question or a surprise.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

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
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_uid(&status) == Some(0))
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

/// Installs packages; `why` says what for, and how long it takes. Never removes one, and starts,
/// stops or restarts no service.
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
    let _services = ServicesLeftAlone::begin(Path::new(POLICY))?;
    if line.run_logged(&log).is_ok() {
        return Ok(());
    }
    eprintln!("  the package lists may be missing or old: once more with new ones");
    update()?;
    line.run_logged(&log)
}

/// Keeps the service of a package that has just been installed from starting with the machine.
pub(crate) fn leave_off(unit: &str) -> Result<()> {
    if find_program("systemctl").is_some() {
        return Line::new("systemctl")
            .args(["--quiet", "disable", unit])
            .run();
    }
    if Path::new("/etc/init.d").join(unit).exists() && find_program("update-rc.d").is_some() {
        return Line::new("update-rc.d").args([unit, "disable"]).run();
    }
    Ok(())
}

/// Whom the maintainer scripts of Debian's packages ask before they touch a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, no package starts, stops or restarts a service: the machine may be somebody's
/// desk, or a router. A policy that was there before comes back, also when this process is killed:
/// ours has no effect without it, and gives its place back when it is next asked.
#[derive(Debug)]
struct ServicesLeftAlone {
    policy: PathBuf,
    before: PathBuf,
}

impl ServicesLeftAlone {
    fn begin(policy: &Path) -> Result<Self> {
        let before = policy.with_extension("d.before-kube-eip");
        let guard = Self {
            policy: policy.to_owned(),
            before,
        };
        // What a killed process has left is its policy, and the machine's own under the other name.
        if policy.exists() && !guard.is_ours() {
            fs::rename(policy, &guard.before).with_context(|| guard.context())?;
        }
        fs::write(policy, guard.script()).with_context(|| guard.context())?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))
            .with_context(|| guard.context())?;
        Ok(guard)
    }

    fn is_ours(&self) -> bool {
        fs::read_to_string(&self.policy).is_ok_and(|text| text.contains("kube-eip"))
    }

    fn context(&self) -> String {
        format!("hold services back by {}", self.policy.display())
    }

    /// 101: action forbidden by policy; 0: allowed (invoke-rc.d's interface).
    fn script(&self) -> String {
        format!(
            "#!/bin/sh
# kube-eip's xtask, process {pid}, installs packages: no service shall be touched by that.
[ -d /proc/{pid} ] && exit 101
rm -f {policy}
[ -e {before} ] && mv {before} {policy} && exec {policy} \"$@\"
exit 0
",
            pid = std::process::id(),
            policy = self.policy.display(),
            before = self.before.display(),
        )
    }
}

impl Drop for ServicesLeftAlone {
    fn drop(&mut self) {
        let given_back = if self.before.exists() {
            fs::rename(&self.before, &self.policy)
        } else {
            fs::remove_file(&self.policy)
        };
        if let Err(error) = given_back {
            eprintln!("  {}: {error}; remove it by hand", self.policy.display());
        }
    }
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
    use std::{fs, path::Path, process::Command};

    use super::{ServicesLeftAlone, candidate_in, effective_uid};

    /// What a package's script hears when it wants to start a service.
    fn verdict(policy: &Path) -> Option<i32> {
        if !policy.exists() {
            return Some(0);
        }
        let asked = Command::new(policy).args(["bird", "start"]).status();
        asked.unwrap().code()
    }

    #[test]
    fn services_are_held_back_while_packages_are_installed_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        let guard = ServicesLeftAlone::begin(&policy).unwrap();
        assert_eq!(verdict(&policy), Some(101));
        drop(guard);
        assert!(!policy.exists());
    }

    #[test]
    fn the_policy_of_the_machine_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        let own = "#!/bin/sh\nexit 104\n";
        fs::write(&policy, own).unwrap();
        drop(ServicesLeftAlone::begin(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), own);
        // Killed in between, twice.
        for _ in 0..2 {
            std::mem::forget(ServicesLeftAlone::begin(&policy).unwrap());
        }
        drop(ServicesLeftAlone::begin(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), own);
    }

    #[test]
    fn the_policy_of_a_process_that_is_gone_has_no_effect_and_removes_itself() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        std::mem::forget(ServicesLeftAlone::begin(&policy).unwrap());
        let own = format!("/proc/{} ", std::process::id());
        let of_a_dead_one = fs::read_to_string(&policy)
            .unwrap()
            .replace(&own, "/proc/0 ");
        fs::write(&policy, of_a_dead_one).unwrap();
        assert_eq!(verdict(&policy), Some(0));
        assert!(!policy.exists());
    }

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
