//! The speaker under test, as a process that can be killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use eip_lab::{netns::Ns, wait::wait_until};
use serde_json::Value;

use crate::Bench;

/// A running `eip-test-speaker`.
#[derive(Debug)]
pub struct SpeakerProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl SpeakerProcess {
    /// Starts `program` in the speaker's namespace with AS 65010 and the router's IPv4 address as
    /// peer, unless `options` say otherwise.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(bench: &Bench, program: &str, options: &[&str]) -> anyhow::Result<Self> {
        let places = ["--peer", "--unnumbered", "--range"];
        let has_peer = places.iter().any(|place| options.contains(place));
        let peer: &[&str] = if has_peer {
            &[]
        } else {
            &["--peer", "10.99.0.1"]
        };
        Self::start_in(&bench.speaker, bench, program, &[options, peer].concat())
    }

    /// Starts `program` in a namespace; the peer is to be among the options.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in(
        ns: &Ns,
        bench: &Bench,
        program: &str,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = ns.command(program);
        for (option, value) in [
            ("--id", "10.99.0.2"),
            ("--local-as", "65010"),
            ("--peer-as", "65001"),
        ] {
            if !options.contains(&option) {
                command.args([option, value]);
            }
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(bench.dir().join("speaker.log"))?;
        let mut child = command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let input = child.stdin.take().context("its standard input")?;
        let output = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Sends a command and returns the answer.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{command}").with_context(|| format!("send `{command}`"))?;
        let mut answer = String::new();
        let len = self.output.read_line(&mut answer)?;
        ensure!(len > 0, "no answer to `{command}`: the speaker is gone");
        Ok(answer.trim_end().to_owned())
    }

    /// The status of the first peer.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peer(&mut self) -> anyhow::Result<Value> {
        let status: Value = serde_json::from_str(&self.ask("status")?)?;
        Ok(status["peers"][0].clone())
    }

    /// Waits until the first peer is in a state.
    ///
    /// # Errors
    /// When it is not in time; the error has the status.
    pub fn wait_state(&mut self, state: &str, limit: Duration) -> anyhow::Result<()> {
        let result = wait_until(limit, state, || {
            self.peer().is_ok_and(|peer| peer["state"] == state)
        });
        result.with_context(|| format!("{:#}", self.peer().unwrap_or_default()))
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process, to be stopped and continued.
    #[must_use]
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }
}

impl Drop for SpeakerProcess {
    fn drop(&mut self) {
        // It may have left by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
