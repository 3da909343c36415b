//! Builds the kernel programs with aya-build and whatever eBPF toolchain `cargo xtask setup` left.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    let cache = env::var_os("KUBE_EIP_CACHE").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/kube-eip"),
        PathBuf::from,
    );
    let choice = cache.join("ebpf-toolchain");
    println!("cargo:rerun-if-env-changed=KUBE_EIP_CACHE");
    println!("cargo:rerun-if-changed={}", choice.display());
    let text = fs::read_to_string(&choice)
        .with_context(|| format!("read {}: run `cargo xtask setup` first", choice.display()))?;
    let mut toolchain = "nightly".to_owned();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("toolchain", name)) => name.clone_into(&mut toolchain),
            Some(("path", dir)) => {
                let path = env::var("PATH").unwrap_or_default();
                // SAFETY: a build script has one thread at this point.
                unsafe { env::set_var("PATH", format!("{dir}:{path}")) };
            }
            Some((key, value)) => {
                // SAFETY: as above.
                unsafe { env::set_var(key, value) };
            }
            None => {}
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../eip-ebpf");
    build_ebpf(
        [Package { name: "eip-ebpf", root_dir: &root.to_string_lossy(), ..Package::default() }],
        Toolchain::Custom(&toolchain),
    )
}
