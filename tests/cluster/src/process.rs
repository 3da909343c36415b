//! A program that ends with the value that stands for it, and whose log a failing test shows.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use eip_lab::wait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Time a program has to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output appended to `DIR/NAME.log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Asks it to end and waits for that; kills it when it takes too long.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let ended = wait::wait_until(PATIENCE, "a program ends", || {
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        if ended.is_err() {
            self.kill()?;
        }
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Errors
    /// Its number is none.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_alive() {
            // One that is stopped by a signal is killed all the same.
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
        // What libfaketime shares between processes outlives one that is killed; others have none.
        for name in ["faketime_shm", "sem.faketime_sem"] {
            let _gone = fs::remove_file(format!("/dev/shm/{name}_{}", self.child.id()));
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let start = lines.len().saturating_sub(40);
            let tail = lines.get(start..).unwrap_or_default().join("\n");
            eprintln!("--- end of the log of {}:\n{tail}", self.name);
        }
    }
}
