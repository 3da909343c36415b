//! Builds the kernel programs with aya-build and the eBPF toolchain that `cargo xtask setup` left.
//!
//! The choice is a file of `key=value` lines in the cache directory: `toolchain` (a rustup
//! toolchain), `path` (the directory of bpf-linker), and variables for the inner cargo. Without the
//! file a rustup nightly with rust-src and a bpf-linker on PATH will do.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aya_build::{Package, Toolchain, build_ebpf};

/// Variables the recorded choice may set for the inner cargo.
const VARIABLES: [&str; 2] = ["RUSTUP_HOME", "RUSTC_BOOTSTRAP"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // What the programs are made of besides their own crate, which aya-build watches.
    for path in [
        "../eip-common/Cargo.toml",
        "../eip-common/src",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let toolchain = match choose_toolchain() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            println!(
                "cargo::error=no toolchain for the kernel programs ({reason}): run `cargo xtask setup`"
            );
            return;
        }
    };
    // aya-build forwards every status line of the inner cargo as a warning of this crate; warnings
    // and errors of the compiler come another way and still show.
    set_variable("CARGO_TERM_QUIET", "true".as_ref());
    set_variable("CARGO_TERM_VERBOSE", "false".as_ref());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../eip-ebpf");
    let built = build_ebpf(
        [Package {
            name: "eip-ebpf",
            root_dir: &root.to_string_lossy(),
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    );
    if let Err(error) = built {
        println!("cargo::error=build the kernel programs: {error:#}");
    }
}

/// Puts the variables of the chosen toolchain in place and says its name, or why there is none.
fn choose_toolchain() -> Result<String, String> {
    let cache = cache_dir()?;
    let choice = cache.join("ebpf-toolchain");
    let Ok(text) = fs::read_to_string(&choice) else {
        return obvious_nightly();
    };
    println!("cargo::rerun-if-changed={}", choice.display());
    let mut toolchain = None;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("toolchain", name)) => toolchain = Some(name.to_owned()),
            Some(("path", dir)) => {
                let linker = Path::new(dir).join("bpf-linker");
                if !linker.is_file() {
                    return Err(format!("{} is gone", linker.display()));
                }
                println!("cargo::rerun-if-changed={}", linker.display());
                prepend_to_path(dir)?;
            }
            Some((key, value)) if VARIABLES.contains(&key) => set_variable(key, value.as_ref()),
            Some(_) | None => {}
        }
    }
    toolchain.ok_or_else(|| format!("{} names none", choice.display()))
}

/// Where set-up keeps its things: `cargo xtask setup` follows the same rule.
fn cache_dir() -> Result<PathBuf, String> {
    for name in ["KUBE_EIP_CACHE", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("KUBE_EIP_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("kube-eip")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/kube-eip")))
        .ok_or_else(|| "none of KUBE_EIP_CACHE, XDG_CACHE_HOME and HOME is set".to_owned())
}

/// The nightly that aya's own documentation asks for, if it is complete.
fn obvious_nightly() -> Result<String, String> {
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .ok_or("nothing is set up and rustup has no nightly")?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    if !Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Err("nothing is set up and the nightly has no rust-src".to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|dir| dir.join("bpf-linker").is_file()) {
        return Err("nothing is set up and there is no bpf-linker on PATH".to_owned());
    }
    Ok("nightly".to_owned())
}

fn prepend_to_path(dir: &str) -> Result<(), String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(PathBuf::from(dir)).chain(env::split_paths(&path));
    let joined = env::join_paths(dirs).map_err(|error| error.to_string())?;
    set_variable("PATH", &joined);
    Ok(())
}

fn set_variable(key: &str, value: &OsStr) {
    // SAFETY: a build script has one thread until aya-build starts its own, which is later.
    unsafe { env::set_var(key, value) };
}
