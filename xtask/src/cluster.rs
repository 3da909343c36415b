//! etcd, kube-apiserver and kubectl for `cargo xtask test cluster`, without a cluster.
//!
//! `KUBEBUILDER_ASSETS` wins when it is set, as in other projects. Else etcd comes from Debian's package
//! (unpacked, not installed: nothing is started), and kube-apiserver and kubectl are built from their
//! module, whose checksums `tests/cluster/control-plane` pins. All of it is kept in the cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    apt,
    command::{Line, find_program, workspace_root},
    toolchain::cache_dir,
};

/// The release that is built; go.mod of `tests/cluster/control-plane` has the same.
const KUBERNETES: &str = "1.35.0";
/// A Go that can build it, as the module proxy has it.
const GO: &str = "1.25.5";
/// The oldest Go that can.
const OLDEST_GO: (u32, u32) = (1, 25);
/// What tests start.
const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];
/// Where other projects say that they are.
pub(crate) const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// Where the programs are, if they are there.
pub(crate) fn find() -> Result<PathBuf> {
    let dir = dir()?;
    for program in PROGRAMS {
        if !dir.join(program).is_file() {
            bail!("there is no {program} in {}", dir.display());
        }
    }
    Ok(dir)
}

fn dir() -> Result<PathBuf> {
    match env::var_os(VARIABLE) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Ok(cache_dir()?.join(format!("kubernetes-{KUBERNETES}"))),
    }
}

/// Has the programs be there.
pub(crate) fn ensure() -> Result<PathBuf> {
    if find().is_ok() || env::var_os(VARIABLE).is_some() {
        return find();
    }
    let dir = dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let lock = fs::File::create(dir.join("lock")).context("create a lock")?;
    lock.lock().context("wait for another set-up")?;
    if !dir.join("etcd").is_file() {
        unpack_etcd(&dir)?;
    }
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .skip(1)
        .filter(|program| !dir.join(program).is_file())
        .collect();
    if !missing.is_empty() {
        let go = go()?;
        for program in missing {
            build(program, &go, &dir)?;
        }
    }
    find()
}

/// Debian's etcd, out of its package.
fn unpack_etcd(dir: &Path) -> Result<()> {
    if let Some(installed) = find_program("etcd") {
        fs::copy(&installed, dir.join("etcd")).context("copy etcd")?;
        return Ok(());
    }
    apt::candidate("etcd-server").context("this system's packages have no etcd-server")?;
    let unpacked = dir.join("etcd-package");
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    Line::new("sh")
        .args([
            "-c",
            "cd \"$0\" && apt-get download etcd-server && dpkg-deb --extract etcd-server_*.deb .",
        ])
        .arg(&unpacked)
        .run_logged(&log("etcd")?)?;
    fs::rename(unpacked.join("usr/bin/etcd"), dir.join("etcd")).context("move etcd")?;
    fs::remove_dir_all(&unpacked).context("remove what was unpacked")
}

/// A Go that is recent enough: the one on `PATH`, else one that an older Go brings as a module.
fn go() -> Result<PathBuf> {
    if let Some(go) = find_program("go").filter(|go| is_recent(go)) {
        return Ok(go);
    }
    if find_program("go").is_none() {
        apt::install(&["golang-go"], "a Go that fetches a newer one, a minute")?;
    }
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go is known for {other}"),
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{GO}.linux-{architecture}");
    eprintln!("fetching Go {GO} from the module proxy: 70 MB");
    let answer = Line::new("go")
        .args(["mod", "download", "-json", &module])
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "on")
        .probe()
        .with_context(|| format!("go cannot fetch {module}; install Go 1.25 or later"))?;
    let answer: Value = serde_json::from_str(&answer).context("read what go says")?;
    let root = answer["Dir"].as_str().context("go names no directory")?;
    // The proxy does not keep the permission to execute, nor the one to write.
    Line::new("sh")
        .args([
            "-c",
            "chmod -R u+w \"$0\" && chmod +x \"$0\"/bin/* \"$0\"/pkg/tool/*/*",
        ])
        .arg(root)
        .run()?;
    Ok(Path::new(root).join("bin/go"))
}

fn is_recent(go: &Path) -> bool {
    let version = Line::new(go).args(["env", "GOVERSION"]).probe();
    version.is_some_and(|version| version_of(&version).is_some_and(|found| found >= OLDEST_GO))
}

/// `go1.26.8` is 1.26.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

fn build(program: &str, go: &Path, dir: &Path) -> Result<()> {
    eprintln!("building {program} {KUBERNETES}: five to twenty minutes, once");
    let stamp = "k8s.io/component-base/version";
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
    let flags = format!(
        "-s -w -X {stamp}.gitVersion=v{KUBERNETES} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    );
    let new = dir.join(format!("{program}.new"));
    Line::new(go)
        .arg("-C")
        .arg(workspace_root().join("tests/cluster/control-plane"))
        .args([
            "build",
            "-trimpath",
            "-mod=readonly",
            "-ldflags",
            &flags,
            "-o",
        ])
        .arg(&new)
        .arg(format!("k8s.io/kubernetes/cmd/{program}"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOTOOLCHAIN", "local")
        .run_logged(&log(program)?)?;
    fs::rename(&new, dir.join(program)).with_context(|| format!("keep {program}"))
}

fn log(name: &str) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("logs/{name}.log")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{KUBERNETES, OLDEST_GO, version_of};
    use crate::command::workspace_root;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(version_of("go1.26.8\n"), Some((1, 26)));
        assert_eq!(version_of("go1.19"), Some((1, 19)));
        assert_eq!(version_of("go1.27rc1"), Some((1, 27)));
        assert_eq!(version_of("devel"), None);
    }

    #[test]
    fn the_pinned_module_is_the_release_that_is_named() {
        let file = workspace_root().join("tests/cluster/control-plane/go.mod");
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes v{KUBERNETES}\n")));
        let go = format!("go {}.{}", OLDEST_GO.0, OLDEST_GO.1);
        assert!(text.lines().any(|line| line.starts_with(&go)));
    }
}
