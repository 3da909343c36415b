//! `eip-daemon cleanup`: everything of ours out of the kernel, unless an agent would put it back.

use std::{fmt::Write as _, path::PathBuf};

use crate::{
    cli::CleanupArgs,
    ctl::socket::{SocketClaim, SocketError},
    dataplane::{
        DataPlaneError,
        cleanup::{CleanupOptions, CleanupReport, cleanup},
    },
};

/// Why nothing was removed. Fate: exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// It would be programmed again at once.
    #[error("an agent is running behind {}: stop it first", socket.display())]
    AgentRuns {
        /// Its socket.
        socket: PathBuf,
    },
    /// The socket's directory cannot be used.
    #[error("make sure that no agent runs")]
    Socket(#[source] SocketError),
    /// The node cannot be read.
    #[error("read the node")]
    Kernel(#[from] DataPlaneError),
}

/// Removes programs, pins, maps, routes and rules, and the agent's socket.
///
/// # Errors
/// An agent runs, or the node cannot be read. What fails singly is in the report.
pub async fn run(args: &CleanupArgs) -> Result<CleanupReport, CleanupError> {
    let claim = SocketClaim::take(&args.socket).map_err(|error| match error {
        SocketError::InUse { path } => CleanupError::AgentRuns { socket: path },
        other => CleanupError::Socket(other),
    })?;
    let report = cleanup(CleanupOptions {
        bpffs: args.bpffs.clone(),
    })
    .await?;
    claim.remove_all();
    Ok(report)
}

/// For people: a line for each thing removed, and what could not be.
#[must_use]
pub fn render(report: &CleanupReport) -> String {
    if report.is_empty() {
        return "nothing to remove\n".to_owned();
    }
    let CleanupReport {
        programs,
        pins,
        routes,
        rules,
        failures,
    } = report;
    let programs = programs.iter().map(|program| format!("program {program}"));
    let pins = pins.iter().map(|pin| format!("pin {}", pin.display()));
    // Routes and rules say themselves what they are.
    let others = routes.iter().chain(rules).cloned();
    let mut text = String::new();
    for item in programs.chain(pins).chain(others) {
        let _infallible = writeln!(text, "removed {item}");
    }
    for failure in failures {
        let _infallible = writeln!(text, "NOT removed: {failure}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{CleanupError, CleanupReport, render, run};
    use crate::{cli::CleanupArgs, ctl::socket::SocketClaim};

    #[tokio::test]
    async fn nothing_is_removed_under_a_running_agent() {
        let dir = tempfile::tempdir().unwrap();
        let args = CleanupArgs {
            bpffs: dir.path().into(),
            socket: dir.path().join("eip.sock"),
        };
        let _agent = SocketClaim::take(&args.socket).unwrap();
        assert!(matches!(
            run(&args).await,
            Err(CleanupError::AgentRuns { .. })
        ));
    }

    #[test]
    fn everything_that_was_removed_is_told() {
        let report = CleanupReport {
            programs: vec!["eth0 uplink-xdp".into()],
            pins: vec!["/sys/fs/bpf/eip/maps/EIP4_V1".into()],
            rules: vec!["rule 1180 (IPv4)".into()],
            failures: vec!["remove rule 1181: busy".into()],
            ..CleanupReport::default()
        };
        let expected = "removed program eth0 uplink-xdp\n\
                        removed pin /sys/fs/bpf/eip/maps/EIP4_V1\n\
                        removed rule 1180 (IPv4)\n\
                        NOT removed: remove rule 1181: busy\n";
        assert_eq!(render(&report), expected);
        assert_eq!(render(&CleanupReport::default()), "nothing to remove\n");
    }
}
