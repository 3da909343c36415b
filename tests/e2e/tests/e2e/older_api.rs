//! The older agent's gRPC API on the running agent, asked by a gRPC implementation that is not ours.

use std::process::{Command, Output};

use eip_lab::{
    daemon::DaemonOptions,
    plan::{VM1, eip},
    traffic::{self, PATIENCE, SILENCE},
    world::WorldOptions,
};

use crate::support::{Stage, at};

/// Debian's gRPC for Python, which is that of gRPC's own C core. Field numbers and types are spelt out
/// here once more: 1, 2 and 3 are strings, an answer has a string in 1 and a number in 2.
const CALLER: &str = r#"
import sys, grpc
target, *fields = sys.argv[1:]
def encode(fields):
    out = b""
    for number, text in enumerate(fields, 1):
        data = text.encode()
        out += bytes([number << 3 | 2, len(data)]) + data
    return out
channel = grpc.insecure_channel(target)
call = channel.unary_unary("/protoc.EipAgent/EipOperate",
                           request_serializer=encode, response_deserializer=bytes)
try:
    print(call(fields, timeout=60).hex())
except grpc.RpcError as error:
    phase = dict(error.trailing_metadata()).get("eip-err-phase")
    sys.exit(f"{error.code().name} {phase} {error.details()}")
"#;

/// `1: "Succeed"`; a zero is not written.
const SUCCEED: &str = "0a0753756363656564";

fn call(mut python: Command, target: &str, fields: [&str; 3]) -> Output {
    python.args(["-c", CALLER, target]).args(fields);
    python.output().unwrap()
}

fn said(output: &Output) -> (bool, String) {
    let text = if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8_lossy(text).trim().to_owned();
    (output.status.success(), text)
}

#[test]
fn a_caller_of_the_older_api_binds_and_unbinds_under_traffic_and_over_a_restart() {
    const LISTEN: &str = "127.0.0.1:6127";
    let options = DaemonOptions {
        more: vec![
            format!("--grpc-listen={LISTEN}"),
            "--grpc-plain-text".to_owned(),
        ],
        ..DaemonOptions::default()
    };
    let mut stage = Stage::empty(WorldOptions::default(), options);
    stage.start_servers();
    let (eip, vm) = (eip::VM1.v4.to_string(), VM1.address.v4.to_string());
    let socket = format!("unix:{}", stage.daemon.socket().display());
    let python = || stage.world.node.command("/usr/bin/python3");
    let succeeded = (true, SUCCEED.to_owned());

    let bound = said(&call(python(), LISTEN, ["bind", &eip, &vm]));
    assert_eq!(bound, succeeded);
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();
    let binding = stage.daemon.binding(&eip).unwrap();
    assert_eq!(binding["state"], "programmed", "{binding:#}");
    assert_eq!(binding["vmAddress"], vm, "{binding:#}");

    let other = call(python(), LISTEN, ["bind", &eip, "10.244.2.12"]);
    let (is_bound, why) = said(&other);
    assert!(!is_bound && why.starts_with("ALREADY_EXISTS 0 "), "{why}");
    let (is_bound, why) = said(&call(python(), LISTEN, ["bind", "192.0.2.99", &vm]));
    assert!(!is_bound && why.starts_with("INVALID_ARGUMENT 0 "), "{why}");

    stage.daemon.kill9().unwrap();
    stage.daemon.restart().unwrap();
    stage.daemon.wait_state(&eip, "programmed").unwrap();
    traffic::udp(&stage.world.client, at(eip::VM1.v4), 100, PATIENCE).unwrap();

    // The control socket says the same, to root alone.
    let python = || Command::new("/usr/bin/python3");
    let unbound = said(&call(python(), &socket, ["unbind", &eip, &vm]));
    assert_eq!(unbound, succeeded);
    assert_eq!(stage.daemon.binding(&eip), None);
    traffic::ping(&stage.world.client, eip::VM1.v4.into(), 56, SILENCE).unwrap_err();
}

#[test]
fn an_agent_that_would_let_strangers_bind_does_not_start() {
    let stage = Stage::empty(WorldOptions::default(), DaemonOptions::default());
    for more in [
        &["--grpc-listen=0.0.0.0:6127", "--grpc-plain-text"][..],
        &["--grpc-listen=0.0.0.0:6127"],
    ] {
        let output = stage.daemon.command().args(more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {text}");
        assert!(text.contains("--grpc-"), "{more:?}: {text}");
    }
}
