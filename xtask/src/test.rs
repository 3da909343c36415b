//! `cargo xtask test`: the levels, and one summary.

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    apt, build, cluster,
    command::{Line, cargo},
    fuzz,
    needs::{self, User},
    steps::Steps,
};

/// Runs the tests: all levels, or one, or those of it whose name contains a word.
///
/// unit: pure parts, no root. bpf: the kernel programs, packet by packet, by the kernel's own test
/// run. e2e: the real daemon in network namespaces. oracle: the kernel's own NAT and ours get the same
/// packets. vm: a real kernel in qemu as the VM. fuzz: each target of
/// `cargo xtask fuzz` for some seconds. interop: the BGP speaker against BIRD, FRR and GoBGP. cluster:
/// controller and agents against a real API server, which is built once. All but unit and fuzz need root.
///
/// Tests that try random input try the same in every run; `PROPTEST_RNG_SEED=2` tries other input.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which level; all of them without it.
    #[arg(value_enum)]
    level: Option<Level>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Unit,
    Bpf,
    E2e,
    Oracle,
    Vm,
    Fuzz,
    Interop,
    Cluster,
}

impl Level {
    const ALL: [Self; 8] = [
        Self::Unit,
        Self::Bpf,
        Self::E2e,
        Self::Oracle,
        Self::Vm,
        Self::Fuzz,
        Self::Interop,
        Self::Cluster,
    ];

    const fn user(self) -> User {
        match self {
            Self::Unit => User::TestUnit,
            Self::Bpf => User::TestBpf,
            Self::E2e => User::TestE2e,
            Self::Oracle => User::TestOracle,
            Self::Vm => User::TestVm,
            Self::Fuzz => User::Fuzz,
            Self::Interop => User::TestInterop,
            Self::Cluster => User::TestCluster,
        }
    }

    const fn step(self) -> &'static str {
        match self {
            Self::Unit => "test unit",
            Self::Bpf => "test bpf",
            Self::E2e => "test e2e",
            Self::Oracle => "test oracle",
            Self::Vm => "test vm",
            Self::Fuzz => "test fuzz",
            Self::Interop => "test interop",
            Self::Cluster => "test cluster",
        }
    }

    /// Whether its tests run the real daemon in namespaces.
    const fn starts_programs(self) -> bool {
        matches!(self, Self::E2e | Self::Oracle | Self::Vm | Self::Cluster)
    }

    /// Whether all levels may run without it on a machine that lacks what it needs. Said aloud, and
    /// counted as skipped.
    const fn can_be_skipped(self) -> bool {
        matches!(self, Self::Vm | Self::Cluster)
    }

    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Unit => &["eip-common", "eip-daemon", "eip-lab", "xtask"],
            Self::Bpf => &["eip-bpf-tests"],
            Self::E2e => &["eip-e2e-tests"],
            Self::Oracle => &["eip-oracle-tests"],
            Self::Vm => &["eip-vm-tests"],
            // Not a test harness: see `fuzz`.
            Self::Fuzz => &[],
            Self::Interop => &["eip-interop-tests"],
            Self::Cluster => &["eip-cluster-tests"],
        }
    }
}

/// How long a fuzz target runs among the tests: long enough to notice that a parser changed for the worse.
const FUZZ_SECONDS: u32 = 10;

/// Random input is the same in every run unless somebody asks for other: a change is judged by what it
/// changed, not by luck.
const SEED_VARIABLE: &str = "PROPTEST_RNG_SEED";
const SEED: &str = "1";

/// What test harnesses counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            skipped,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let levels = args.level.map_or(Level::ALL.to_vec(), |level| vec![level]);
    needs::require(&match args.level {
        Some(level) => vec![level.user()],
        None => users().collect(),
    })?;
    let mut steps = Steps::default();
    let counts = add_steps(&mut steps, &levels, args.filter.as_deref());
    finish(steps, counts)
}

/// Who has to have what they need before all levels run, for `ci` too.
pub(crate) fn users() -> impl Iterator<Item = User> {
    let levels = Level::ALL.into_iter();
    levels
        .filter(|level| !level.can_be_skipped())
        .map(Level::user)
}

/// Every level, for `ci`.
pub(crate) fn add_all(steps: &mut Steps) -> Counted {
    Counted(add_steps(steps, &Level::ALL, None))
}

/// Counts to be shown at the very end.
#[derive(Debug)]
pub(crate) struct Counted(Counts);

impl Counted {
    /// The table of steps, then the counts as the closing line.
    pub(crate) fn finish(self, steps: Steps) -> Result<()> {
        finish(steps, self.0)
    }
}

fn add_steps(steps: &mut Steps, levels: &[Level], filter: Option<&str>) -> Counts {
    let mut counts = Counts::default();
    for &level in levels {
        steps.run(level.step(), || {
            if level.can_be_skipped()
                && let Err(error) = needs::require(&[level.user()])
            {
                eprintln!("    SKIPPED {}: {error:#}", level.step());
                counts.skipped += 1;
                return Ok(());
            }
            let of_level = run_level(level, filter)?;
            counts.add(of_level);
            judge(level, of_level, filter)
        });
    }
    counts
}

fn finish(
    steps: Steps,
    Counts {
        passed,
        failed,
        skipped,
    }: Counts,
) -> Result<()> {
    let finished = steps.finish();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    finished
}

fn run_level(level: Level, filter: Option<&str>) -> Result<Counts> {
    if level == Level::Fuzz {
        let (passed, failed) = fuzz::run_all(FUZZ_SECONDS, SEED, filter)?;
        return Ok(Counts {
            passed,
            failed,
            skipped: 0,
        });
    }
    if level.starts_programs() {
        // The tests start the programs as a node does.
        build::programs()?;
    }
    let mut line = test_line(level, filter);
    if std::env::var_os(SEED_VARIABLE).is_none() {
        line = line.env(SEED_VARIABLE, SEED);
    }
    if level == Level::Cluster {
        line = line.env(cluster::VARIABLE, cluster::find()?);
    }
    let mut counts = Counts::default();
    let mut harnesses = 0;
    let mut shown = Shown::default();
    let status = line.run_lines(|line| {
        shown.show(line);
        if let Some(of_harness) = parse_result(line) {
            counts.add(of_harness);
            harnesses += 1;
        }
    })?;
    if !status.success() && counts.failed == 0 {
        bail!("the tests could not be built or run to their end ({status})");
    }
    if harnesses == 0 {
        bail!("no test harness ran");
    }
    Ok(counts)
}

fn test_line(level: Level, filter: Option<&str>) -> Line {
    let mut line = cargo("test").arg("--no-fail-fast");
    for package in level.packages() {
        line = line.args(["--package", package]);
    }
    let mut harness: Vec<&str> = filter.into_iter().collect();
    if level == Level::Unit && apt::is_root() {
        // Tests that need root are marked as ignored, so that nobody takes them for passed without it.
        harness.push("--include-ignored");
    }
    if level == Level::Cluster {
        // Each test has an API server and an etcd.
        harness.extend(["--test-threads", "2", "--nocapture"]);
    }
    if level == Level::Interop {
        // Nearly all of their time is waiting for routers, so more of them than there are cores.
        harness.extend(["--test-threads", "4"]);
    }
    if harness.is_empty() {
        return line;
    }
    line.arg("--").args(harness)
}

/// Shows the output of harnesses, but not that of those without a test (many crates have an empty
/// one for their programs or docs) nor the blank lines around it.
#[derive(Debug, Default)]
struct Shown {
    after_gap: bool,
}

impl Shown {
    fn show(&mut self, line: &str) {
        if self.keeps(line) {
            println!("{line}");
        }
    }

    fn keeps(&mut self, line: &str) -> bool {
        let is_empty_harness =
            line == "running 0 tests" || parse_result(line) == Some(Counts::default());
        let is_hidden = is_empty_harness || (line.is_empty() && self.after_gap);
        self.after_gap = is_empty_harness || line.is_empty();
        !is_hidden
    }
}

/// A level holds when all of its tests ran and passed. A test that is skipped proves nothing, and a
/// level without tests does not exist. Only the tests of pure parts may be run without root, and then the
/// summary says how many of them were left out.
fn judge(level: Level, counts: Counts, filter: Option<&str>) -> Result<()> {
    let Counts {
        passed,
        failed,
        skipped,
    } = counts;
    if failed > 0 {
        bail!("{failed} failed");
    }
    if skipped > 0 && (level != Level::Unit || apt::is_root()) {
        bail!("{skipped} skipped that were expected to run");
    }
    match (passed, filter) {
        (0, Some(filter)) => bail!("no test has `{filter}` in its name"),
        (0, None) => bail!("there is no test"),
        _ => Ok(()),
    }
}

/// Reads the closing line of a Rust test harness.
fn parse_result(line: &str) -> Option<Counts> {
    let (_verdict, counted) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counted
            .split(';')
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Counts, Level, Shown, judge, parse_result, test_line};

    #[test]
    fn closing_line_of_a_harness_is_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; \
                    4 filtered out; finished in 0.00s";
        assert_eq!(
            parse_result(line),
            Some(Counts {
                passed: 3,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(parse_result("test codec ... ok"), None);
        assert_eq!(parse_result("test result: rubbish"), None);
    }

    #[test]
    fn a_level_holds_only_when_tests_ran_and_none_was_skipped() {
        let counts = |passed, failed, skipped| Counts {
            passed,
            failed,
            skipped,
        };
        assert!(judge(Level::Bpf, counts(1, 0, 0), None).is_ok());
        assert!(judge(Level::Bpf, counts(1, 1, 0), None).is_err());
        assert!(judge(Level::Bpf, counts(1, 0, 1), None).is_err());
        assert!(judge(Level::Bpf, counts(0, 0, 0), None).is_err());
        assert!(
            judge(Level::Bpf, counts(0, 0, 0), Some("x"))
                .unwrap_err()
                .to_string()
                .contains("`x`")
        );
    }

    #[test]
    fn harness_without_tests_is_not_shown() {
        let output = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; \
                      9 filtered out\n\n\nrunning 1 test\ntest a ... ok\n";
        let mut shown = Shown::default();
        let kept: Vec<&str> = output.lines().filter(|line| shown.keeps(line)).collect();
        assert_eq!(kept, ["", "running 1 test", "test a ... ok"]);
    }

    #[test]
    fn filter_goes_to_the_harness() {
        assert_eq!(
            test_line(Level::Bpf, Some("fragment")).to_string(),
            "cargo test --no-fail-fast --package eip-bpf-tests -- fragment"
        );
        assert_eq!(
            test_line(Level::Interop, Some("drain")).to_string(),
            "cargo test --no-fail-fast --package eip-interop-tests -- drain \
             --test-threads 4"
        );
    }
}
