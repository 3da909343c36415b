//! Running the tools of iproute2 and friends.

use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or does not end with 0; the error carries the command line and what
/// it printed to standard error.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let line = display(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}`: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`output`], with text for standard input.
///
/// # Errors
/// As [`output`]; the error shows the text as well.
pub fn feed(command: &mut Command, text: &str) -> anyhow::Result<String> {
    let line = display(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{line}`"))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(text.as_bytes())
            .with_context(|| format!("write to `{line}`"))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}`: {}: {}\n{text}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a command printed, failed or not: for dumps, where an error is information too.
#[must_use]
pub fn report(command: &mut Command) -> String {
    let line = display(command);
    match command.stdin(Stdio::null()).output() {
        Ok(output) => format!(
            "$ {line}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => format!("$ {line}\n{error}\n"),
    }
}

/// The command line as it could be typed.
#[must_use]
pub fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
