//! The guest's kernel: Debian's for clouds, downloaded once, unpacked and never installed.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use eip_lab::command;

/// Modules a guest needs for its network card.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The image qemu boots.
    pub image: PathBuf,
    /// What it needs of its modules.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// The kernel that a Debian package or meta-package stands for, from the cache or the network.
    ///
    /// # Errors
    /// When apt knows no such package, or cannot fetch it.
    pub fn fetch(package: &str) -> anyhow::Result<Self> {
        let package = concrete(package)?;
        let home = cache_dir()?.join("vm");
        let dir = home.join(&package);
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        // All tests want it at once: one downloads, the others wait for that. The lock ends with the
        // file, however this function ends.
        let lock = home.join("lock");
        let lock = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        lock.lock().context("wait for who downloads the kernel")?;
        if let Ok(kernel) = Self::find(&dir) {
            return Ok(kernel);
        }
        let unfinished = home.join("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&unfinished)?;
        unpack(&package, &unfinished)?;
        Self::find(&unfinished)?;
        fs::rename(&unfinished, &dir).with_context(|| format!("rename to {}", dir.display()))?;
        Self::find(&dir)
    }

    fn find(dir: &Path) -> anyhow::Result<Self> {
        let image = first(&dir.join("boot"), "vmlinuz-")?;
        let release = image
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"))
            .context("a kernel without release")?;
        let all = files_below(&dir.join("lib/modules").join(release));
        let modules = MODULES
            .iter()
            .filter_map(|name| {
                let file = format!("{name}.ko");
                all.iter().find(|path| path.ends_with(&file)).cloned()
            })
            .collect();
        Ok(Self { image, modules })
    }
}

/// Whether a guest can be had here at all; the error says what is missing.
///
/// # Errors
/// When qemu, busybox or apt is not there.
pub fn look() -> anyhow::Result<()> {
    for program in ["qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb"] {
        command::output(Command::new("sh").args(["-c", &format!("command -v {program}")]))
            .with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}

/// Where downloads are kept: outside the build directory.
fn cache_dir() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("KUBE_EIP_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("kube-eip")))
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/kube-eip")))
        .context("none of KUBE_EIP_CACHE, XDG_CACHE_HOME and HOME is set")
}

/// The package with the files: a meta-package depends on it.
fn concrete(package: &str) -> anyhow::Result<String> {
    let depends = command::output(Command::new("apt-cache").args(["depends", package]))?;
    let found = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    Ok(found.unwrap_or(package).to_owned())
}

fn unpack(package: &str, dir: &Path) -> anyhow::Result<()> {
    let download = || {
        command::output(
            Command::new("apt-get")
                .args(["download", package])
                .current_dir(dir),
        )
    };
    if download().is_err() {
        command::output(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    let archive = first(dir, "linux-image-")?;
    command::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(dir))?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// The file in a directory whose name begins so.
fn first(dir: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let found = fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match found {
        Some(entry) => Ok(entry.path()),
        None => bail!("no {prefix}* in {}", dir.display()),
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
