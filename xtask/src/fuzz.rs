//! `cargo xtask fuzz`: libFuzzer on what reads bytes from strangers.
//!
//! The targets have the layout of cargo-fuzz, which is not needed: coverage instrumentation comes from
//! code generation options that stable Rust has. Without the address sanitizer, which is nightly's:
//! the code under test has no unsafe, so what can go wrong is a panic.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{Line, cargo, workspace_root},
    needs::{self, User},
};

/// Feeds the parsers with bytes that look for trouble.
///
/// What is found is kept under target/fuzz/artifacts, what leads to new code under target/fuzz/corpus.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which target; all of them without it.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Fuzz])?;
    let targets = targets()?;
    let chosen = match &args.target {
        None => targets,
        Some(target) if targets.contains(target) => vec![target.clone()],
        Some(target) => bail!("no target `{target}`: there are {}", targets.join(", ")),
    };
    let results = run_each(&chosen, args.seconds, RANDOM)?;
    let failed: Vec<&str> = results
        .iter()
        .filter(|(_, found)| found.is_err())
        .map(|(target, _)| target.as_str())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("found something: {}", failed.join(", "));
}

/// Lets libFuzzer choose where its random numbers start.
const RANDOM: &str = "0";

/// Runs every target, or those whose name contains a word; gives how many passed and failed.
pub(crate) fn run_all(seconds: u32, seed: &str, filter: Option<&str>) -> Result<(u64, u64)> {
    let mut chosen = targets()?;
    chosen.retain(|target| filter.is_none_or(|filter| target.contains(filter)));
    let results = run_each(&chosen, seconds, seed)?;
    let failed = results.iter().filter(|(_, found)| found.is_err()).count();
    let passed = results.len() - failed;
    Ok((u64::try_from(passed)?, u64::try_from(failed)?))
}

/// One file, one target.
fn targets() -> Result<Vec<String>> {
    let dir = workspace_root().join("tests/fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    let mut targets: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".rs")?.to_owned())
        })
        .collect();
    targets.sort();
    Ok(targets)
}

/// What cargo-fuzz passes, apart from the sanitizer.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

fn run_each(targets: &[String], seconds: u32, seed: &str) -> Result<Vec<(String, Result<()>)>> {
    let home = workspace_root().join("target/fuzz");
    let host = host()?;
    // With a target of its own, so that build scripts are not instrumented.
    let line = |verb: &str| {
        cargo(verb)
            .args(["--quiet", "--release", "--manifest-path"])
            .arg(workspace_root().join("tests/fuzz/Cargo.toml"))
            .args(["--target", &host, "--target-dir"])
            .arg(&home)
            .env("RUSTFLAGS", INSTRUMENTATION)
    };
    line("build").run().context("build the fuzz targets")?;
    let mut results = Vec::new();
    for target in targets {
        let corpus = make(home.join("corpus").join(target))?;
        let artifacts = make(home.join("artifacts").join(target))?;
        let found = line("run")
            .args(["--bin", target, "--"])
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={seed}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-max_len=512", "-print_final_stats=0", "-verbosity=0"])
            .run();
        results.push((target.clone(), found));
    }
    Ok(results)
}

/// The compiler's own target.
fn host() -> Result<String> {
    let version = Line::new("rustc").arg("-vV").probe();
    version
        .as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ")))
        .map(str::to_owned)
        .context("rustc does not say what it compiles for")
}

fn make(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}
