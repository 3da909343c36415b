//! Every verb, with what it says and the exit code it ends with.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use crate::agent::{Agent, ask, eipctl, said};

#[tokio::test(flavor = "multi_thread")]
async fn list_names_the_state_of_every_binding() {
    let agent = Agent::canned();
    let list = agent.json("list");
    let states: Vec<_> = list["bindings"].as_array().unwrap().iter().collect();
    let states: Vec<_> = states.iter().map(|item| &item["state"]).collect();
    let expected = ["programmed", "refused", "elsewhere", "waiting", "failing"];
    assert_eq!(states, expected);
    let said = agent.ctl("list");
    assert_eq!(said.out.lines().count(), 6, "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_shows_one_binding_with_its_traffic() {
    let said = Agent::canned().ctl("get 203.0.113.10");
    let expected = "\
EIP             203.0.113.10
binding         default/web
VM              vm-a (10.0.0.10)
state           programmed
ready           yes; this node has no BGP peers: routes of the operator lead here, or do not
also wanted by  default/thief
primary         yes
lane            peer
policy          iptables-based NetworkPolicy is not seen in this lane
announced       bgp
port            vm0
VM MAC          02:00:00:00:00:0a
MTU             1450
read from       /etc/kube-eip/lab.yaml (document 1)
to the VM       1000 packets, 64000 bytes
from the VM     900 packets, 50000 bytes
";
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.starts_with(expected), "{}", said.out);
    assert!(said.out.contains("ttl-exceeded"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_walks_the_chain_and_fails_at_the_first_broken_link() {
    let agent = Agent::canned();
    let said = agent.ctl("explain 203.0.113.10");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("ok   way out"), "{}", said.out);
    assert_eq!(agent.ctl("explain vm-a").out, said.out);

    let said = agent.ctl("explain default/waiting");
    assert_eq!(said.code, 1);
    assert!(said.out.contains("BAD  vm "), "{}", said.out);
    assert!(
        said.err
            .contains("203.0.113.12 does not work: the first broken link is `vm`"),
        "{}",
        said.err
    );
    let said = agent.ctl("explain 203.0.113.99");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("eipctl bind 203.0.113.99"),
        "{}",
        said.err
    );
    let said = agent.ctl("explain nothing");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("no binding named nothing"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_fails_with_what_is_near() {
    let agent = Agent::canned();
    let said = agent.ctl("get 203.0.113.19");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("no binding with the EIP 203.0.113.19"),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("did you mean 203.0.113.10"),
        "{}",
        said.err
    );
    let said = agent.ctl("unbind no/such");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("no binding named no/such"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_runs_and_what_does_not() {
    let agent = Agent::canned();
    let said = agent.ctl("status");
    assert_eq!(said.code, 0, "the agent answered: {said:?}");
    for line in [
        "node      node-a",
        "ready     yes",
        "in sync   no (42 rounds, the last in 2 ms; 3 repairs)",
        "gateway   192.0.2.1",
        "bindings  1 programmed, 1 failing, 1 waiting, 1 elsewhere, 1 refused",
        "  eth0: up, MTU 1500, generic XDP, tcx",
        "  eth9: no such interface; it is taken when it appears",
        "  write EIP 203.0.113.13: map EIP4_V1 is full: raise --max-bindings (tried 7 times)",
        "  /etc/kube-eip/bad.yaml (document 2): spec.eip: missing",
        "  eth0: no native XDP, generic is used",
        "  EIP4_V1: 3900 of 4096 (95 %, nearly full)",
    ] {
        assert!(
            said.out.lines().any(|found| found == line),
            "{line} in\n{}",
            said.out
        );
    }
    let said = agent.ctl("status --check");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("node-a is not in sync"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_drops_unless_all_is_asked_for() {
    let agent = Agent::canned();
    let said = agent.ctl("drops");
    assert!(said.out.contains("spoofed-vm"), "{}", said.out);
    assert_eq!(said.out.lines().count(), 2, "{}", said.out);
    let said = agent.ctl("drops --all");
    assert!(said.out.contains("delivered-peer"), "{}", said.out);
    let said = agent.ctl("drops 203.0.113.10 --all");
    assert!(said.out.contains("ttl-exceeded"), "{}", said.out);
    let said = agent.ctl("drops 203.0.113.13");
    assert_eq!(said.code, 1);
    assert!(said.err.contains("is not in the kernel"), "{}", said.err);
    assert!(
        said.err.contains("cause: map EIP4_V1 is full"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nets_tell_wanted_from_programmed() {
    let expected = "\
PREFIX          KIND       KERNEL
10.0.0.0/8      internal   programmed
203.0.113.0/24  eip-range  missing
";
    assert_eq!(Agent::canned().ctl("nets").out, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_has_the_whole_state() {
    let agent = Agent::canned();
    let dump: serde_json::Value = serde_json::from_str(&agent.ctl("dump").out).unwrap();
    for part in [
        "status",
        "settings",
        "bindings",
        "reasons",
        "attachments",
        "facts",
        "desired",
        "observed",
        "node",
    ] {
        assert!(dump.get(part).is_some(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_bound_listed_and_released() {
    let agent = Agent::following();
    let said = agent.ctl("bind 203.0.113.10 vm-a --primary");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        said.out,
        "bound 203.0.113.10 to vm-a (10.0.0.10), lane peer\n"
    );
    assert_eq!(
        agent.written(),
        1,
        "the object survives a restart of the agent"
    );
    assert_eq!(
        agent.ctl("bind 203.0.113.10 vm-a --primary").code,
        0,
        "saying it twice is fine"
    );
    assert_eq!(agent.json("list")["bindings"][0]["state"], "programmed");
    let said = agent.ctl("unbind 203.0.113.10");
    assert_eq!(
        said.out,
        "unbound 203.0.113.10 (default/eip-203-0-113-10)\n"
    );
    assert_eq!(agent.written(), 0);
    assert_eq!(agent.ctl("list").out, "no bindings on this node\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_would_be_refused_is_not_written() {
    let agent = Agent::following();
    let cases = [
        ("outside", "bind 198.51.100.1 vm-a", "203.0.113.0/24"),
        (
            "network address",
            "bind 203.0.113.0 vm-a",
            "network address",
        ),
        (
            "bad name",
            "bind 203.0.113.10 vm-a --name Not_A_Name",
            "not a valid name",
        ),
    ];
    for (name, words, expected) in cases {
        let said = agent.ctl(words);
        assert_eq!(said.code, 1, "{name}: {said:?}");
        assert!(said.err.contains(expected), "{name}: {}", said.err);
        assert_eq!(agent.written(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eip_is_never_moved_to_another_vm_by_binding_it_again() {
    let agent = Agent::following();
    assert_eq!(agent.ctl("bind 203.0.113.10 vm-a").code, 0);
    let said = agent.ctl("bind 203.0.113.10 vm-b");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("already binds 203.0.113.10 to vm-a"),
        "{}",
        said.err
    );
    assert!(said.err.contains("eipctl unbind"), "{}", said.err);
    let said = agent.ctl("bind 203.0.113.10 vm-b --name thief");
    assert_eq!(said.code, 1, "the older binding holds it: {said:?}");
    assert_eq!(agent.written(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_whose_vm_is_missing_is_kept_and_said_to_wait() {
    let agent = Agent::following();
    let said = agent.ctl("bind 203.0.113.10 nobody --wait 1");
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("is not bound to nobody yet: waiting"),
        "{}",
        said.err
    );
    assert!(said.err.contains("the binding is kept in"), "{}", said.err);
    assert_eq!(agent.written(), 1);
    let said = agent.ctl("bind 203.0.113.11 nobody --wait 0");
    assert_eq!(said.code, 0, "nobody waited: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_socket_and_the_cure_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("eip.sock");
    let absent = said(eipctl(&socket, "list").output().unwrap());
    assert_eq!(absent.code, 1);
    assert!(
        absent
            .err
            .contains(&format!("no agent answers on {}", socket.display()))
    );
    assert!(absent.err.contains("cause: No such file"), "{}", absent.err);
    assert!(
        absent.err.contains("hint: start `eip-daemon agent`"),
        "{}",
        absent.err
    );
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let dead = said(eipctl(&socket, "list").output().unwrap());
    assert_eq!(dead.code, 1);
    assert!(
        dead.err.contains("cause: Connection refused"),
        "{}",
        dead.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_root_gets_an_answer() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become nobody");
        return;
    }
    let agent = Agent::canned();
    // Others may reach the socket here: only its own mode keeps them out. The binary is copied to
    // where they can run it.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(agent.dir.path(), open).unwrap();
    let binary = agent.dir.path().join("eipctl");
    fs::copy(env!("CARGO_BIN_EXE_eipctl"), &binary).unwrap();
    let mut command = Command::new(binary);
    command
        .arg("list")
        .env("EIP_SOCKET", agent.socket())
        .uid(NOBODY);
    let said = said(command.output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("is for root only"), "{}", said.err);
    assert!(
        said.err.contains("hint: run eipctl as root"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_has_an_exit_code_of_its_own() {
    let agent = Agent::canned();
    for words in [
        "bind 203.0.113 vm-a",
        "frobnicate",
        "get",
        "bind 203.0.113.10 a --wait 61",
    ] {
        assert_eq!(agent.ctl(words).code, 2, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_the_answer_is_json() {
    let agent = Agent::canned();
    let cases = [
        ("unknown path", "GET /v2/x", "", "404"),
        ("wrong method", "DELETE /v1/status", "", "405"),
        ("no JSON", "POST /v1/bindings", "{", "400"),
        (
            "unknown field",
            "POST /v1/bindings",
            "{\"eip\":\"1.2.3.4\",\"vm\":\"a\",\"x\":1}",
            "400",
        ),
    ];
    for (name, line, body, code) in cases {
        let answer = ask(&agent.socket(), line, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{name}: {answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"].is_string(), "{name}: {body}");
    }
}
