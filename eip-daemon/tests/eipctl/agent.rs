//! An agent to ask, and the ways to ask it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use eip_daemon::{
    config::SourceSpec,
    ctl::{server, socket::SocketClaim, state::AgentState},
    desired,
    model::{Facts, Outcome, RouteTo},
    report::{BindingReport, Report},
    source::dir::DirSource,
};
use tokio::sync::watch;

use crate::fixture;

/// Longest wait for what is bound to happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// An agent without a kernel. Everything it holds lives as long as it does.
pub(crate) struct Agent {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) state: Arc<AgentState>,
    _claim: SocketClaim,
    _stop: watch::Sender<bool>,
    _reports: Option<watch::Sender<Arc<Report>>>,
}

impl Agent {
    /// One that published the canned report and nothing since.
    pub(crate) fn canned() -> Self {
        let (state, reports) = fixture::agent();
        Self::serve(tempfile::tempdir().unwrap(), state, Some(reports))
    }

    /// One that follows a directory of objects with one VM in it.
    pub(crate) fn following() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        fs::create_dir(&objects).unwrap();
        fs::write(objects.join("vm.yaml"), VM).unwrap();
        let (facts, _) = DirSource::start(objects.clone());
        let (sender, reports) = watch::channel(Arc::new(Report::default()));
        tokio::spawn(reconcile(facts.clone(), sender));
        let (canned, _) = fixture::agent();
        let state = AgentState {
            reports,
            facts,
            counters: Arc::clone(&canned.counters),
            inspector: Arc::clone(&canned.inspector),
            examiner: Arc::clone(&canned.examiner),
            followers: Arc::clone(&canned.followers),
            settings: Arc::clone(&canned.settings),
            source: SourceSpec::Dir(objects),
            notices: Vec::new(),
            l2: canned.l2.clone(),
            started: canned.started,
            bgp: canned.bgp.clone(),
            turn: tokio::sync::Mutex::default(),
        };
        Self::serve(dir, Arc::new(state), None)
    }

    fn serve(
        dir: tempfile::TempDir,
        state: Arc<AgentState>,
        reports: Option<watch::Sender<Arc<Report>>>,
    ) -> Self {
        let claim = SocketClaim::take(&dir.path().join("eip.sock")).unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = Arc::clone(&state);
        tokio::spawn(server::serve(claim.listen().unwrap(), served, stopped));
        Self {
            dir,
            state,
            _claim: claim,
            _stop: stop,
            _reports: reports,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("eip.sock")
    }

    /// Runs `eipctl` with these words.
    pub(crate) fn ctl(&self, words: &str) -> Said {
        said(eipctl(&self.socket(), words).output().unwrap())
    }

    pub(crate) fn json(&self, words: &str) -> serde_json::Value {
        let said = self.ctl(&format!("{words} -o json"));
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// Waits until the agent has read its source.
    pub(crate) async fn until_complete(&self) {
        let mut reports = self.state.reports.clone();
        let complete = reports.wait_for(|report| report.facts_complete);
        let waited = tokio::time::timeout(PATIENCE, complete).await;
        waited.unwrap().unwrap();
    }

    /// Waits until the agent knows no VM any more.
    pub(crate) async fn until_no_vm(&self) {
        let mut facts = self.state.facts.clone();
        let gone = facts.wait_for(|facts| facts.complete && facts.vms.is_empty());
        tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    }

    /// Waits until the agent has looked at a binding of an elastic IP.
    pub(crate) async fn until_listed(&self, eip: &str) {
        let eip: std::net::IpAddr = eip.parse().unwrap();
        let mut reports = self.state.reports.clone();
        let listed = reports.wait_for(|report| {
            let mut bindings = report.bindings.iter();
            bindings.any(|binding| binding.fact.eip == eip)
        });
        tokio::time::timeout(PATIENCE, listed)
            .await
            .unwrap()
            .unwrap();
    }

    /// Files that `eipctl bind` wrote.
    pub(crate) fn written(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("objects")).unwrap();
        let is_written = |name: &str| name.starts_with("eipctl-");
        files
            .filter(|file| is_written(&file.as_ref().unwrap().file_name().to_string_lossy()))
            .count()
    }
}

const VM: &str = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: vm-a, namespace: default}
status:
  phase: Running
  nodeName: node-a
  interfaces: [{name: default, ipAddress: 10.0.0.10, ipAddresses: [10.0.0.10]}]
";

/// What a reconciler does, with a kernel that takes everything.
async fn reconcile(mut facts: watch::Receiver<Facts>, reports: watch::Sender<Arc<Report>>) {
    loop {
        let seen = facts.borrow_and_update().clone();
        let rounds = reports.borrow().rounds + 1;
        reports.send_replace(Arc::new(round(&seen, rounds)));
        if facts.changed().await.is_err() {
            return;
        }
    }
}

fn round(facts: &Facts, rounds: u64) -> Report {
    let mut view = fixture::view();
    let vm = "10.0.0.10".parse().unwrap();
    let route = RouteTo {
        ifindex: 7,
        gateway: None,
        is_unicast: true,
    };
    view.routes.insert(vm, route);
    view.neighbours.insert((7, vm), [2, 0, 0, 0, 0, 10]);
    let desired = desired::compute(facts, &fixture::settings(), &view);
    let bindings = facts.bindings.iter().map(|fact| {
        let outcome = desired.outcomes[&fact.name].clone();
        let is_served = matches!(outcome, Outcome::Served { .. });
        let state = desired.bindings.get(&fact.eip).cloned();
        BindingReport {
            fact: fact.clone(),
            outcome,
            programmed: state.filter(|_| is_served),
            slot: is_served.then_some(0),
            error: None,
            is_fenced: false,
        }
    });
    Report {
        facts_complete: facts.complete,
        in_sync: true,
        rounds,
        bindings: bindings.collect(),
        desired: Arc::new(desired.clone()),
        view: Arc::new(view),
        ..Report::default()
    }
}

pub(crate) fn eipctl(socket: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eipctl"));
    command.env("EIP_SOCKET", socket).args(words.split(' '));
    command
}

/// What a run of `eipctl` left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// One request, written out by hand.
pub(crate) fn ask(socket: &Path, line: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
