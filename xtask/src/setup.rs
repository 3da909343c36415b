//! `cargo xtask setup`: an eBPF toolchain, by the first way that works on this machine.
//!
//! The ways, in order: the user's own nightly with rust-src; Debian's rustc with its core sources;
//! a nightly of our own that rustup downloads. bpf-linker must have the LLVM of the compiler (it
//! reads the compiler's bitcode), so it is built against exactly that major version unless one on
//! `PATH` proves to work. Nothing of the user's rustup is changed: what has to be told to rustup is
//! told in a home of our own.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    command::{Line, find_program},
    toolchain::{Compiler, Toolchain, cache_dir, has_core_sources},
};

/// The release that goes with the versions of aya in Cargo.toml.
const LINKER_VERSION: &str = "0.13.0";
/// LLVM versions that release can be built against.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Name of the toolchain in our own rustup home.
const OWN_TOOLCHAIN: &str = "kube-eip-bpf";
/// The nightly that is downloaded when nothing else is there: LLVM 22, as Debian's rustc has.
const PINNED_NIGHTLY: &str = "nightly-2026-05-20";
/// Oldest compiler that takes this tree.
pub(crate) const OLDEST_RUST: (u32, u32) = (1, 95);
/// Debian's Rust under its two names: `-web` is the recent one that stable releases carry for
/// browsers.
const DEBIAN_FAMILIES: [[&str; 4]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"],
    ["rustc", "cargo", "rust-src", "rust-clippy"],
];

/// Makes the eBPF toolchain available: a compiler with the sources of core, and bpf-linker.
///
/// Takes about three minutes on a fresh machine and under a second when done before. What it makes
/// is kept outside the build tree, in `$KUBE_EIP_CACHE`, else `$XDG_CACHE_HOME/kube-eip`, else
/// `~/.cache/kube-eip`; a plain `cargo build` finds it there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Set up again, even if what is recorded works.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure(args.force)
}

/// Sets up unless that is done; `force` does it again.
pub(crate) fn ensure(force: bool) -> Result<()> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    if !force
        && let Ok(Some(toolchain)) = Toolchain::load()
        && let Ok(what) = toolchain.describe()
    {
        eprintln!("eBPF toolchain: {what}");
        return Ok(());
    }
    // Two set-ups at once would build the same thing over each other.
    let lock = File::create(cache.join("lock")).context("create the lock of the cache")?;
    lock.lock().context("wait for another set-up")?;
    if !force && let Some(what) = recorded() {
        eprintln!("eBPF toolchain: {what}");
        return Ok(());
    }
    let start = Instant::now();
    eprintln!("setting up the eBPF toolchain in {}", cache.display());
    let toolchain = first_that_works(&cache)?;
    toolchain.save()?;
    let what = toolchain.describe()?;
    eprintln!(
        "eBPF toolchain: {what}; set up in {} s",
        start.elapsed().as_secs()
    );
    Ok(())
}

/// What the recorded toolchain is, if there is one and it runs; says why a recorded one does not.
fn recorded() -> Option<String> {
    match Toolchain::load() {
        Ok(Some(toolchain)) => match toolchain.describe() {
            Ok(what) => Some(what),
            Err(error) => {
                eprintln!("the recorded eBPF toolchain no longer works: {error:#}");
                None
            }
        },
        Ok(None) => None,
        Err(error) => {
            eprintln!("{error:#}");
            None
        }
    }
}

type Way = fn(&Path) -> Result<Toolchain>;

fn first_that_works(cache: &Path) -> Result<Toolchain> {
    let ways: [(&str, Way); 3] = [
        ("your nightly", users_nightly),
        ("Debian's compiler", debian),
        ("a nightly of our own from rustup", own_nightly),
    ];
    for (name, way) in ways {
        eprintln!("- {name}");
        match way(cache) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => eprintln!("  not this way: {error:#}"),
        }
    }
    bail!(
        "no way to an eBPF toolchain worked. Either run `rustup toolchain install nightly \
         --component rust-src` and install bpf-linker (`cargo binstall bpf-linker`, or a release \
         with the LLVM of that nightly), or use Debian 12 as root, where set-up needs no help; \
         then run `cargo xtask setup` again"
    )
}

/// The user's nightly, if it can build core.
fn users_nightly(cache: &Path) -> Result<Toolchain> {
    let rustc = |arguments: &[&str]| {
        Line::new("rustup")
            .args(["run", "nightly", "rustc"])
            .args(arguments)
    };
    let compiler = Compiler::of(&rustc(&["-vV"])).context("rustup has no nightly")?;
    let sysroot = rustc(&["--print", "sysroot"])
        .probe()
        .context("ask the nightly for its place")?;
    if !has_core_sources(Path::new(sysroot.trim())) {
        bail!("the nightly has no rust-src (`rustup component add rust-src --toolchain nightly`)");
    }
    with_linker("nightly", Vec::new(), &compiler, cache)
}

/// Debian's compiler, which has its sources beside it, told to accept unstable flags.
fn debian(cache: &Path) -> Result<Toolchain> {
    let family = debian_family().context("this system's packages have no Rust of 1.95 or later")?;
    apt::install(
        &family,
        "a compiler with the sources of core, 120 MB, under a minute",
    )?;
    let compiler =
        Compiler::of(&Line::new("/usr/bin/rustc").arg("-vV")).context("run /usr/bin/rustc")?;
    let mut variables = vec![("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned())];
    if find_program("rustup").is_some() {
        let home = own_rustup(cache)?;
        link_toolchain(&home, Path::new("/usr"))?;
        variables.push(("RUSTUP_HOME".to_owned(), home.display().to_string()));
    }
    with_linker(OWN_TOOLCHAIN, variables, &compiler, cache)
}

/// The packages of the first family that is installed or can be, and is recent enough.
fn debian_family() -> Option<[&'static str; 4]> {
    find_program("apt-cache")?;
    DEBIAN_FAMILIES
        .into_iter()
        .find(|[rustc, ..]| apt::candidate(rustc).is_some_and(|version| is_recent(&version)))
}

/// Whether a Debian version of rustc, as in `1.96.0+dfsg1-1~deb12u2`, can build this tree.
fn is_recent(version: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = upstream.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST_RUST,
        _ => false,
    }
}

/// A nightly in our own rustup home, for systems without such packages.
fn own_nightly(cache: &Path) -> Result<Toolchain> {
    if find_program("rustup").is_none() {
        bail!("there is no rustup");
    }
    let home = own_rustup(cache)?;
    eprintln!("downloading {PINNED_NIGHTLY} with rust-src: the compiler, about a minute");
    Line::new("rustup")
        .args([
            "toolchain",
            "install",
            PINNED_NIGHTLY,
            "--profile",
            "minimal",
        ])
        .args(["--component", "rust-src,clippy", "--no-self-update"])
        .env("RUSTUP_HOME", &home)
        .run_logged(&cache.join("logs/rustup.log"))?;
    let variables = vec![("RUSTUP_HOME".to_owned(), home.display().to_string())];
    let rustc = Line::new("rustup")
        .args(["run", PINNED_NIGHTLY, "rustc", "-vV"])
        .env("RUSTUP_HOME", &home);
    let compiler = Compiler::of(&rustc).context("run the downloaded compiler")?;
    with_linker(PINNED_NIGHTLY, variables, &compiler, cache)
}

/// A compiler with the bpf-linker on `PATH`, if the two prove to go together; else with one built
/// for it.
fn with_linker(
    name: &str,
    variables: Vec<(String, String)>,
    compiler: &Compiler,
    cache: &Path,
) -> Result<Toolchain> {
    let mut toolchain = Toolchain {
        name: name.to_owned(),
        linker_dir: None,
        variables,
    };
    if find_program("bpf-linker").is_some() && prove(&toolchain, cache).is_ok() {
        return Ok(toolchain);
    }
    toolchain.linker_dir = Some(build_linker(compiler, cache)?);
    prove(&toolchain, cache)?;
    Ok(toolchain)
}

/// A rustup home that is ours alone.
fn own_rustup(cache: &Path) -> Result<PathBuf> {
    let home = cache.join("rustup");
    fs::create_dir_all(home.join("toolchains"))
        .with_context(|| format!("create {}", home.display()))?;
    Ok(home)
}

/// What `rustup toolchain link` does, also when the link is there already.
fn link_toolchain(home: &Path, prefix: &Path) -> Result<()> {
    let link = home.join("toolchains").join(OWN_TOOLCHAIN);
    if fs::read_link(&link).is_ok_and(|target| target == prefix) {
        return Ok(());
    }
    symlink(prefix, &link).with_context(|| format!("link {}", link.display()))
}

/// A bpf-linker with the LLVM of this compiler; returns its directory.
fn build_linker(compiler: &Compiler, cache: &Path) -> Result<PathBuf> {
    let llvm = compiler
        .llvm_major()
        .context("read the compiler's LLVM version")?;
    if !LINKER_LLVM.contains(&llvm) {
        bail!("bpf-linker {LINKER_VERSION} knows no LLVM {llvm}");
    }
    let root = cache.join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let dir = root.join("bin");
    if Line::new(dir.join("bpf-linker"))
        .arg("--version")
        .probe()
        .is_some()
    {
        return Ok(dir);
    }
    let prefix = llvm_prefix(llvm)?;
    if find_program("c++").is_none() {
        apt::install(&["g++"], "bpf-linker links the C++ library of LLVM")?;
    }
    eprintln!("building bpf-linker {LINKER_VERSION} for LLVM {llvm}: a minute or two, once");
    Line::new("cargo")
        .args(["install", "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&root)
        .arg(format!("bpf-linker@{LINKER_VERSION}"))
        // bpf-linker's build script reads the first, llvm-sys the second; both must agree.
        .env("LLVM_PREFIX", &prefix)
        .env(llvm_sys_variable(llvm), &prefix)
        .run_logged(&cache.join("logs/bpf-linker.log"))?;
    Ok(dir)
}

/// Where LLVM's libraries and headers are, installed when they can be.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let is_complete = |prefix: &Path| {
        prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c").is_dir()
    };
    if is_complete(&debian) {
        return Ok(debian);
    }
    for program in [format!("llvm-config-{llvm}"), "llvm-config".to_owned()] {
        let ask = |what: &str| Line::new(&program).arg(what).probe();
        let is_right = ask("--version").is_some_and(|v| v.starts_with(&format!("{llvm}.")));
        if let (true, Some(prefix)) = (is_right, ask("--prefix")) {
            let prefix = PathBuf::from(prefix.trim());
            if is_complete(&prefix) {
                return Ok(prefix);
            }
        }
    }
    let package = format!("llvm-{llvm}-dev");
    if apt::candidate(&package).is_none() {
        bail!("LLVM {llvm}'s libraries are not here, and no package {package} is known");
    }
    apt::install(
        &[&package],
        "the LLVM that bpf-linker is built with, 400 MB, about a minute",
    )?;
    Ok(debian)
}

/// The variable by which llvm-sys finds LLVM: its own version is that of LLVM with a 1 after it.
fn llvm_sys_variable(llvm: u32) -> String {
    format!("LLVM_SYS_{}_PREFIX", llvm * 10 + 1)
}

/// Compiles and links a first program, for only that shows that compiler and linker go together.
fn prove(toolchain: &Toolchain, cache: &Path) -> Result<()> {
    let dir = cache.join("first-program");
    fs::create_dir_all(dir.join("src")).with_context(|| format!("create {}", dir.display()))?;
    fs::write(dir.join("Cargo.toml"), FIRST_MANIFEST).context("write the first program")?;
    fs::write(dir.join("src/main.rs"), FIRST_PROGRAM).context("write the first program")?;
    eprintln!("compiling a first program with it: half a minute");
    let done = toolchain
        .line("cargo")
        .args(["build", "--release", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        .env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf")
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .run_logged(&cache.join("logs/first-program.log"));
    // Half a megabyte of sources is no use to anybody once it has shown what it can.
    let removed = fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()));
    done.and(removed)
}

const FIRST_MANIFEST: &str = r#"[package]
name = "first-program"
version = "0.0.0"
edition = "2021"

[workspace]
"#;

const FIRST_PROGRAM: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn first(context: *const u32) -> u32 {
    2 + u32::from(context.is_null())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_recent, link_toolchain, llvm_sys_variable};

    #[test]
    fn debian_versions_are_compared_by_number() {
        for (version, recent) in [
            ("1.96.0+dfsg1-1~deb12u2", true),
            ("1.95.0-1", true),
            ("1:2.0.1-1", true),
            ("1.85.0+dfsg3-1~deb12u3", false),
            ("1.9.0", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }

    #[test]
    fn llvm_sys_is_told_by_its_own_version() {
        assert_eq!(llvm_sys_variable(22), "LLVM_SYS_221_PREFIX");
    }

    #[test]
    fn linking_the_toolchain_twice_is_the_same_as_once() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("toolchains")).unwrap();
        for _ in 0..2 {
            link_toolchain(home.path(), Path::new("/usr")).unwrap();
        }
        let link = home.path().join("toolchains/kube-eip-bpf");
        assert_eq!(std::fs::read_link(link).unwrap(), Path::new("/usr"));
    }
}
