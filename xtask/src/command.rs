//! Running other programs: shown as they can be pasted, without a terminal or standard input, and
//! with a sign of life from the long and silent ones.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How often a step that writes to a log tells that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Lines of a log shown when its command ends badly.
const LOG_TAIL: usize = 40;

/// A command line: a program, its arguments and the variables it is given.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    /// Searched for programs before `PATH`.
    programs_dir: Option<PathBuf>,
}

impl Line {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            programs_dir: None,
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    pub(crate) fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Searches a directory for programs before `PATH`.
    pub(crate) fn programs_from(mut self, dir: &Path) -> Self {
        self.programs_dir = Some(dir.to_owned());
        self
    }

    /// Runs it with this terminal as its output.
    pub(crate) fn run(&self) -> Result<()> {
        eprintln!("$ {self}");
        let status = self
            .command()
            .status()
            .with_context(|| self.start_context())?;
        self.check(status)
    }

    /// Runs it and hands each line of its standard output to `on_line`, which decides what to show.
    /// The status is the caller's to judge.
    pub(crate) fn run_lines(&self, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
        eprintln!("$ {self}");
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| self.start_context())?;
        let stdout = child.stdout.take().context("take the output of a child")?;
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .context("read the output of a child")?
            > 0
        {
            on_line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            line.clear();
        }
        child.wait().context("wait for a child")
    }

    /// Runs it with its output in `log`, tells every few seconds how far it is, and shows the end of
    /// the log when it ends badly.
    pub(crate) fn run_logged(&self, log: &Path) -> Result<()> {
        eprintln!("$ {self}");
        eprintln!("  output: {}", log.display());
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().context("share the log")?;
        let mut child = self
            .command()
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| self.start_context())?;
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(child.wait()));
        let start = Instant::now();
        let status = loop {
            match end.recv_timeout(HEARTBEAT) {
                Ok(status) => break status.context("wait for a child")?,
                Err(RecvTimeoutError::Timeout) => {
                    let last = last_lines(log, 1).pop().unwrap_or_default();
                    let last: String = last.chars().take(90).collect();
                    eprintln!("  ... {:>3} s  {last}", start.elapsed().as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => bail!("lost sight of `{self}`"),
            }
        };
        if !status.success() {
            for line in last_lines(log, LOG_TAIL) {
                eprintln!("  | {line}");
            }
        }
        self.check(status)
    }

    /// Runs it silently; its standard output, or `None` when it cannot start or ends badly.
    pub(crate) fn probe(&self) -> Option<String> {
        let output = self.command().output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        // What cargo set for xtask itself is not the business of the commands xtask runs; build
        // scripts that watch these variables would run again each time.
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(is_cargos_own) {
                command.env_remove(key);
            }
        }
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.programs_dir {
            let path = env::var_os("PATH").unwrap_or_default();
            let dirs = std::iter::once(dir.clone()).chain(env::split_paths(&path));
            // Only a directory with a colon in its name cannot be joined.
            command.env("PATH", env::join_paths(dirs).unwrap_or(path));
        }
        command
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        bail!("`{self}` ended with {status}");
    }

    fn start_context(&self) -> String {
        format!("start {}", self.program.display())
    }
}

/// As a shell takes it.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.programs_dir {
            write!(f, "PATH={}:\"$PATH\" ", quoted(&dir.to_string_lossy()))?;
        }
        for (key, value) in &self.variables {
            write!(f, "{}={} ", key.display(), quoted(&value.to_string_lossy()))?;
        }
        write!(f, "{}", quoted(&self.program.to_string_lossy()))?;
        for argument in &self.arguments {
            write!(f, " {}", quoted(&argument.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn is_cargos_own(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // A carriage return starts a progress line over.
    let lines: Vec<&str> = text
        .split(['\n', '\r'])
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .map(|&line| line.to_owned())
        .collect()
}

/// Where a program is, by `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Root's programs, for a shell whose PATH forgets them.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The root of the checkout.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// `cargo VERB` for the workspace, with the toolchain that runs xtask.
pub(crate) fn cargo(verb: &str) -> Line {
    Line::new("cargo").arg(verb)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Line, is_cargos_own, last_lines, quoted};

    #[test]
    fn shown_command_can_be_pasted_into_a_shell() {
        let line = Line::new("printf")
            .args(["%s|", "two words", "it's", "$HOME", ""])
            .env("LANG", "C")
            .env("FLAGS", "-D warnings");
        assert_eq!(
            line.to_string(),
            r"LANG=C FLAGS='-D warnings' printf '%s|' 'two words' 'it'\''s' '$HOME' ''"
        );
        let shell = Line::new("sh").arg("-c").arg(line.to_string()).probe();
        assert_eq!(shell.as_deref(), Some("two words|it's|$HOME||"));
    }

    #[test]
    fn shown_search_path_is_that_of_the_reader() {
        let line = Line::new("sh")
            .args(["-c", "echo $PATH"])
            .programs_from("/a b/bin".as_ref());
        assert!(
            line.to_string()
                .starts_with(r#"PATH='/a b/bin':"$PATH" sh -c "#),
            "{line}"
        );
        assert!(line.probe().unwrap().starts_with("/a b/bin:"));
    }

    #[test]
    fn plain_words_stay_plain() {
        for word in [
            "cargo",
            "--features=a,b",
            "/usr/lib/llvm-22",
            "1.2.3",
            "a=b",
        ] {
            assert_eq!(quoted(word), word);
        }
    }

    #[test]
    fn variables_of_the_outer_cargo_are_not_passed_on() {
        assert!(is_cargos_own("CARGO_PKG_NAME"));
        assert!(is_cargos_own("CARGO_MANIFEST_DIR"));
        assert!(!is_cargos_own("CARGO_TARGET_DIR"));
        assert!(!is_cargos_own("CARGO_BUILD_JOBS"));
    }

    #[test]
    fn a_probe_of_a_failing_or_missing_program_is_none() {
        assert_eq!(Line::new("false").probe(), None);
        assert_eq!(Line::new("no-such-program-anywhere").probe(), None);
    }

    #[test]
    fn logged_command_fails_with_its_name_and_leaves_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("logs/step.log");
        let line = Line::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = line.run_logged(&log).unwrap_err().to_string();
        assert!(
            error.contains("exit 3") && error.contains("exit status: 3"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        assert_eq!(last_lines(&log, 1), ["two"]);
    }
}
