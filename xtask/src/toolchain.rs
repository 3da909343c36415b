//! The eBPF toolchain as set-up recorded it: a compiler that can build `core` for the BPF target,
//! and a bpf-linker whose LLVM is not older than the compiler's.
//!
//! The record is a small file in the cache directory that `eip-daemon`'s build script reads too: one
//! `key=value` a line. `toolchain` names a rustup toolchain, `path` is where bpf-linker is, every
//! other key is a variable for the inner cargo.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::command::{Line, find_program, workspace_root};

/// The target of the kernel programs on every machine Rust and Kubernetes share (little endian).
const BPF_TARGET: &str = "bpfel-unknown-none";

/// The recorded toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Name for `rustup run`; without rustup the compiler on `PATH` is meant.
    pub(crate) name: String,
    /// Directory of bpf-linker, when that is not on `PATH` anyway.
    pub(crate) linker_dir: Option<PathBuf>,
    /// Variables for the inner cargo.
    pub(crate) variables: Vec<(String, String)>,
}

impl Toolchain {
    /// What set-up recorded, if it did.
    pub(crate) fn load() -> Result<Option<Self>> {
        let file = record_file()?;
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text)
                .with_context(|| format!("read {}: delete it and set up again", file.display()))
                .map(Some),
            Err(_) => Ok(None),
        }
    }

    /// What set-up recorded; an error that names the cure when it did not.
    pub(crate) fn require() -> Result<Self> {
        Self::load()?.ok_or_else(|| anyhow!("no eBPF toolchain: run `cargo xtask setup`"))
    }

    /// Records it for the build script. A reader sees the old record or the new, never a part.
    pub(crate) fn save(&self) -> Result<()> {
        let file = record_file()?;
        let new = file.with_extension("new");
        fs::write(&new, self.render())
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut name = None;
        let mut linker_dir = None;
        let mut variables = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match line.split_once('=') {
                Some(("toolchain", value)) => name = Some(value.to_owned()),
                Some(("path", value)) => linker_dir = Some(PathBuf::from(value)),
                Some((key, value)) => variables.push((key.to_owned(), value.to_owned())),
                None => bail!("line without `=`: {line}"),
            }
        }
        Ok(Self {
            name: name.context("no line `toolchain=`")?,
            linker_dir,
            variables,
        })
    }

    fn render(&self) -> String {
        let Self {
            name,
            linker_dir,
            variables,
        } = self;
        let mut lines = vec![format!("toolchain={name}")];
        lines.extend(
            linker_dir
                .iter()
                .map(|dir| format!("path={}", dir.display())),
        );
        lines.extend(
            variables
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
        lines.join("\n") + "\n"
    }

    /// `program ...` of this toolchain, as the build script calls it.
    pub(crate) fn line(&self, program: &str) -> Line {
        let line = if find_program("rustup").is_some() {
            Line::new("rustup").args(["run", &self.name, program])
        } else {
            Line::new(program)
        };
        let line = self
            .variables
            .iter()
            .fold(line, |line, (key, value)| line.env(key, value));
        match &self.linker_dir {
            Some(dir) => line.programs_from(dir),
            None => line,
        }
    }

    /// `cargo VERB` for the kernel programs with the flags aya-build gives them.
    pub(crate) fn cargo(&self, verb: &str) -> Line {
        let architecture = env::consts::ARCH;
        let flags =
            format!("--cfg=bpf_target_arch=\"{architecture}\" -Cdebuginfo=2 -Clink-arg=--btf");
        self.line("cargo")
            .args([
                verb,
                "--package",
                "eip-ebpf",
                "--release",
                "--target",
                BPF_TARGET,
            ])
            .args(["-Z", "build-std=core", "--target-dir"])
            .arg(object_dir())
            .env("RUSTFLAGS", flags)
    }

    /// Says what it is, after a look that takes well under a second; an error says what is amiss.
    pub(crate) fn describe(&self) -> Result<String> {
        let rustc = Compiler::of(&self.line("rustc").arg("-vV"))
            .with_context(|| format!("toolchain {} does not run", self.name))?;
        let sysroot = self
            .line("rustc")
            .args(["--print", "sysroot"])
            .probe()
            .unwrap_or_default();
        if !has_core_sources(Path::new(sysroot.trim())) {
            bail!("toolchain {} has no sources of core (rust-src)", self.name);
        }
        let program = match &self.linker_dir {
            Some(dir) => dir.join("bpf-linker").into_os_string(),
            None => OsString::from("bpf-linker"),
        };
        let linker = Line::new(&program)
            .arg("--version")
            .probe()
            .with_context(|| format!("{} does not run", program.display()))?;
        Ok(format!(
            "rustc {} (LLVM {}), {}",
            rustc.release,
            rustc.llvm,
            linker.trim()
        ))
    }
}

/// What `rustc -vV` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// `1.96.0`
    pub(crate) release: String,
    /// `22.1.8`
    pub(crate) llvm: String,
}

impl Compiler {
    /// Asks a compiler.
    pub(crate) fn of(version: &Line) -> Option<Self> {
        Self::parse(&version.probe()?)
    }

    fn parse(verbose: &str) -> Option<Self> {
        let value = |key: &str| {
            let line = verbose.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim().to_owned())
        };
        Some(Self {
            release: value("release:")?,
            llvm: value("LLVM version:")?,
        })
    }

    /// `(1, 96)`
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// `22`
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        self.llvm.split('.').next()?.parse().ok()
    }
}

/// Where everything is kept that is set up once for all checkouts.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    cache_dir_in(|name| env::var_os(name))
}

/// The build script of `eip-daemon` follows the same rule.
fn cache_dir_in(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("KUBE_EIP_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("kube-eip")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/kube-eip")))
        .context("none of KUBE_EIP_CACHE, XDG_CACHE_HOME and HOME is set")
}

fn record_file() -> Result<PathBuf> {
    Ok(cache_dir()?.join("ebpf-toolchain"))
}

/// Where `build --ebpf` and `check` put what they compile for the kernel.
fn object_dir() -> PathBuf {
    workspace_root().join("target/ebpf")
}

/// The object that `build --ebpf` makes.
pub(crate) fn object_file() -> PathBuf {
    object_dir().join(BPF_TARGET).join("release/eip")
}

/// Whether `-Z build-std=core` finds what it needs.
pub(crate) fn has_core_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::PathBuf};

    use super::{Compiler, Toolchain, cache_dir_in};

    #[test]
    fn record_is_read_back_as_it_was_written() {
        let toolchain = Toolchain {
            name: "kube-eip-bpf".to_owned(),
            linker_dir: Some(PathBuf::from("/cache/bpf-linker/bin")),
            variables: vec![("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned())],
        };
        let text = toolchain.render();
        assert_eq!(
            text,
            "toolchain=kube-eip-bpf\npath=/cache/bpf-linker/bin\nRUSTC_BOOTSTRAP=1\n"
        );
        assert_eq!(Toolchain::parse(&text).unwrap(), toolchain);
    }

    #[test]
    fn record_without_a_toolchain_is_refused() {
        assert!(Toolchain::parse("path=/x\n").is_err());
        assert!(Toolchain::parse("rubbish\n").is_err());
        assert!(
            Toolchain::parse("toolchain=nightly\n")
                .unwrap()
                .linker_dir
                .is_none()
        );
    }

    #[test]
    fn compiler_is_known_by_what_it_tells() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                      binary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let nightly = "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let compiler = Compiler::parse(debian).unwrap();
        assert_eq!(
            (compiler.version(), compiler.llvm_major()),
            (Some((1, 96)), Some(22))
        );
        assert_eq!(Compiler::parse(nightly).unwrap().version(), Some((1, 97)));
        assert_eq!(Compiler::parse("rustc 1.96.0\n"), None);
    }

    #[test]
    fn cache_is_where_the_first_set_variable_says() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).into()))
                .collect();
            cache_dir_in(|name| {
                set.iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.clone())
            })
            .ok()
        };
        let all = [
            ("HOME", "/root"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("KUBE_EIP_CACHE", "/own"),
        ];
        assert_eq!(of(&all), Some("/own".into()));
        assert_eq!(of(&all[..2]), Some("/xdg/kube-eip".into()));
        assert_eq!(of(&all[..1]), Some("/root/.cache/kube-eip".into()));
        assert_eq!(
            of(&[("KUBE_EIP_CACHE", ""), ("HOME", "/h")]),
            Some("/h/.cache/kube-eip".into())
        );
        assert_eq!(of(&[]), None);
    }
}
