//! Network namespaces that always go away again.
//!
//! A namespace is named `eip-<pid>-<n>-<role>` after the process that made it, so that tests of any
//! number of processes run side by side and [`sweep`] can tell what a killed process left behind.
//! The standing lab alone is named `eip-lab-<role>`: it outlives its maker on purpose.
//!
//! [`Ns::run`] and [`Ns::spawn`] execute Rust code inside: `setns` changes the calling thread only,
//! so each call has a thread of its own, and sockets made there stay in the namespace for good.
//! Programs are started through `nsenter --net=`, because `ip netns exec` mounts a new `/sys` and
//! with it hides the BPF file system.

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, wait};

/// Where iproute2 keeps named namespaces.
const NETNS_DIR: &str = "/run/netns";

/// A named network namespace; removed, with every process in it, when dropped.
#[derive(Debug)]
pub struct Ns {
    name: String,
    handle: File,
    is_kept: bool,
}

impl Ns {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// Without root, or when the name is taken.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        command::output(Command::new("ip").args(["netns", "add", name]))?;
        let mut ns = Self::open(name)?;
        ns.is_kept = false;
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// Takes hold of a namespace that exists. It is not removed when dropped.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let handle = File::open(Path::new(NETNS_DIR).join(name))
            .with_context(|| format!("open namespace {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            handle,
            is_kept: true,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, for `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Leaves the namespace standing when this value is dropped.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Runs code inside and returns its value. A panic in there goes on in the caller.
    pub fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                code()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs code inside on a thread of its own.
    ///
    /// # Errors
    /// When the namespace's file cannot be duplicated (out of file descriptors).
    pub fn spawn<T: Send + 'static>(
        &self,
        code: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<JoinHandle<T>> {
        let inside = Self {
            name: self.name.clone(),
            handle: self
                .handle
                .try_clone()
                .context("duplicate a namespace handle")?,
            is_kept: true,
        };
        Ok(thread::spawn(move || {
            inside.enter();
            drop(inside);
            code()
        }))
    }

    #[expect(
        clippy::expect_used,
        reason = "code must never run in the wrong namespace"
    )]
    fn enter(&self) {
        setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command inside to its end: the words of `line` are its arguments.
    ///
    /// # Errors
    /// As [`command::output`].
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        command::output(self.command(program).args(words))
    }

    /// As [`Ns::sh`], for dumps: what it printed, failed or not.
    #[must_use]
    pub fn report(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        words.next().map_or_else(String::new, |program| {
            command::report(self.command(program).args(words))
        })
    }

    /// Runs lines of `ip -batch`, all or the first that fails.
    ///
    /// # Errors
    /// With what `ip` said and the lines.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        command::feed(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        )?;
        Ok(())
    }

    /// Waits until the kernel takes packets to an address as its own. With IPv6 that is a moment after the
    /// address was added; until then it answers "no route".
    ///
    /// # Errors
    /// When it does not within some seconds.
    pub fn wait_local(&self, address: impl Into<IpAddr>) -> anyhow::Result<()> {
        let address = address.into();
        let what = format!("{address} is an address of {}", self.name);
        wait::wait_until(Duration::from_secs(20), &what, || {
            self.sh(&format!("ip route get {address}"))
                .is_ok_and(|route| route.starts_with("local "))
        })
    }

    /// Loads an nftables ruleset.
    ///
    /// # Errors
    /// With what `nft` said and the ruleset.
    pub fn nft(&self, ruleset: &str) -> anyhow::Result<()> {
        command::feed(self.command("nft").args(["-f", "-"]), ruleset)?;
        Ok(())
    }

    /// Writes settings below `/proc/sys/net`, one `path=value` a line.
    ///
    /// # Errors
    /// For the first one the kernel refuses.
    pub fn sysctl(&self, settings: &str) -> anyhow::Result<()> {
        self.run(|| {
            for line in settings
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
            {
                let (path, value) = line
                    .split_once('=')
                    .with_context(|| format!("`{line}` has no `=`"))?;
                fs::write(Path::new("/proc/sys/net").join(path), value)
                    .with_context(|| format!("set net/{path} to {value}"))?;
            }
            Ok(())
        })
    }

    /// Reads a file of `/proc/net` or `/proc/sys/net` as the namespace sees it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_proc(&self, path: &str) -> anyhow::Result<String> {
        let path = match path.strip_prefix("net/") {
            Some(rest) => format!("/proc/thread-self/net/{rest}"),
            None => format!("/proc/{path}"),
        };
        self.run(|| fs::read_to_string(&path).with_context(|| format!("read {path}")))
    }

    /// Processes inside.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        processes_in(&self.name)
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = remove(&self.name)
        {
            eprintln!("lab: {error:#}");
        }
    }
}

fn processes_in(name: &str) -> Vec<Pid> {
    command::output(Command::new("ip").args(["netns", "pids", name]))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// Removes a namespace by name, killing what runs in it.
///
/// # Errors
/// When it does not exist or a process in it does not die.
pub fn remove(name: &str) -> anyhow::Result<()> {
    for pid in processes_in(name) {
        // It may have ended by itself meanwhile.
        let _ = kill(pid, Signal::SIGKILL);
    }
    wait::wait_until(
        Duration::from_secs(5),
        &format!("processes in {name} end"),
        || processes_in(name).is_empty(),
    )?;
    command::output(Command::new("ip").args(["netns", "del", name]))?;
    Ok(())
}

/// Names of the lab's namespaces that begin with `prefix`.
#[must_use]
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// The process a name of the form `eip-<pid>-...` belongs to.
#[must_use]
pub fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix("eip-")?.split('-').next()?.parse().ok()
}

/// Removes namespaces whose maker is dead. Returns their names.
#[must_use]
pub fn sweep() -> Vec<String> {
    list("eip-")
        .into_iter()
        .filter(|name| {
            owner_of(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        })
        .filter(|name| remove(name).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::owner_of;

    #[test]
    fn a_name_tells_its_maker_and_the_standing_lab_has_none() {
        assert_eq!(owner_of("eip-4711-0-hv"), Some(4711));
        assert_eq!(owner_of("eip-lab-hv"), None);
        assert_eq!(owner_of("other-4711-0-hv"), None);
    }
}
