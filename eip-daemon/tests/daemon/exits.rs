//! Exit codes: 0 done, 1 failed, 2 wrong usage.

use std::{
    path::Path,
    process::{Command, Output},
};

use eip_daemon::ctl::socket::SocketClaim;

fn daemon(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eip-daemon"));
    command.args(words.split(' ')).output().unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Flags of an agent that could start here but for what a test adds.
fn agent(dir: &Path, more: &str) -> Output {
    let dir = dir.display();
    daemon(&format!(
        "agent --uplink up0 --source dir:{dir} --socket {dir}/s --bpffs {dir} --http off {more}"
    ))
}

#[test]
fn all_problems_of_a_command_line_are_told_at_once_as_wrong_usage() {
    let output = daemon("agent --uplink lo --eip-cidr 203.0.113.9/24 --http 9469");
    assert_eq!(output.status.code(), Some(2));
    let told = complaint(&output);
    for flag in ["--uplink: ", "--eip-cidr: ", "--source: ", "--http: "] {
        assert!(told.contains(flag), "{flag} in {told}");
    }
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    assert_eq!(daemon("agent --frobnicate").status.code(), Some(2));
}

#[test]
fn the_exit_codes_are_documented() {
    let help = daemon("agent --help");
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(text.contains("Exit codes:"), "{text}");
    assert!(
        text.contains("--gateway-dev"),
        "the older name is shown: {text}"
    );
    assert!(text.contains("EIP_UPLINK"), "the variable is shown: {text}");
}

#[test]
fn without_a_bpf_file_system_the_agent_says_how_to_mount_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(dir.path(), "--eip-cidr 203.0.113.0/24");
    assert_eq!(output.status.code(), Some(1));
    let told = complaint(&output);
    assert!(told.contains("start the data plane"), "{told}");
    assert!(told.contains("mount -t bpf bpf"), "{told}");
    assert!(!dir.path().join("s").exists(), "no socket is left behind");
}

#[test]
fn a_second_agent_and_cleanup_are_refused_while_one_runs() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _running = SocketClaim::take(&socket).unwrap();
    let output = agent(dir.path(), "--eip-cidr 203.0.113.0/24");
    assert_eq!(output.status.code(), Some(1));
    let told = complaint(&output);
    assert!(told.contains("another agent is running"), "{told}");

    let cleanup = format!(
        "cleanup --socket {} --bpffs {}",
        socket.display(),
        dir.path().display()
    );
    let output = daemon(&cleanup);
    assert_eq!(output.status.code(), Some(1));
    let told = complaint(&output);
    assert!(told.contains("stop it first"), "{told}");
}

#[test]
fn a_bad_log_filter_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(dir.path(), "--log-level eip=loud");
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("--log-level: "));
}

#[test]
fn check_answers_in_json_and_fails_without_a_bpf_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let output = daemon(&format!(
        "check --uplink lo0 --bpffs {} -o json",
        dir.path().display()
    ));
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let bpffs = findings
        .iter()
        .find(|finding| finding["subject"] == "BPF file system")
        .unwrap();
    assert_eq!(bpffs["verdict"], "missing");
    assert!(
        bpffs["cure"]
            .as_str()
            .unwrap()
            .starts_with("mount -t bpf bpf ")
    );
}
