//! From flags, environment and what the node shows to one validated configuration.
//!
//! Everything here is pure: it gets a snapshot of the node and reads nothing itself. Every problem
//! of a command line is found in one go; each names the flag, says what is wrong and what would be
//! right. What is allowed but probably not meant becomes a notice, logged once at start and shown
//! by `check`.

mod bgp;
mod grpc;
mod node;
mod older;
mod value;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    announce::{l2::L2Settings, peering::BgpSettings},
    cli::{AgentArgs, ControllerArgs, NodeArgs, ProcessArgs},
    controller::{ControllerOptions, Timing},
    model::{NetworkView, NodeSettings},
    reconcile::{FenceOn, FencePolicy},
};

/// What the node itself says, read once at start.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// Host name.
    pub host_name: String,
    /// Interfaces, addresses and default routes.
    pub view: NetworkView,
    /// Variables that begin with [`OLDER_PREFIX`].
    pub older_variables: BTreeMap<String, String>,
}

/// What variables of kube-eip's agent begin with.
pub use older::PREFIX as OLDER_PREFIX;

/// Where facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// YAML and JSON documents in a directory.
    Dir(PathBuf),
    /// The API server that a kubeconfig names, or that of the cluster this runs in.
    Kube(Option<PathBuf>),
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Kube(None) => f.write_str("kube"),
            Self::Kube(Some(path)) => write!(f, "kube:{}", path.display()),
        }
    }
}

/// How callers of the older agent are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcListen {
    /// Where.
    pub address: SocketAddr,
    /// Who may call; `None` is everybody on this node, in plain text.
    pub tls: Option<TlsFiles>,
}

/// Files of a listener that knows its callers, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// What is shown to callers.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of callers.
    pub client_ca: PathBuf,
}

/// How the agent process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOptions {
    /// Where facts come from.
    pub source: SourceSpec,
    /// Where the last state of a source that can be away is kept.
    pub state_dir: PathBuf,
    /// Control socket.
    pub socket: PathBuf,
    /// Address of the HTTP server; `None` serves none.
    pub http: Option<SocketAddr>,
    /// The older agent's API on TCP.
    pub grpc: Option<GrpcListen>,
    /// Entries of a binding map.
    pub max_bindings: u32,
    /// Entries of a flow map.
    pub max_flows: u32,
    /// Longest time between two comparisons with the kernel.
    pub resync: Duration,
    /// What is logged.
    pub log_level: String,
    /// How host routes are announced.
    pub bgp: BgpSettings,
    /// How often EIPs are told on layer 2.
    pub l2: L2Settings,
    /// How long this node helps out after a VM has moved.
    pub hand_over: Option<Duration>,
    /// When the kernel stops to serve what this process does not renew.
    pub fence: FencePolicy,
}

/// Something allowed that is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The flag it is about.
    pub flag: &'static str,
    /// What was found, what follows, what to do.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.text)
    }
}

/// A value that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.text)
    }
}

/// The configuration cannot be used. Fate: the process ends with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct ConfigError {
    /// Everything that is wrong, in the order of the flags.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    fn lines(&self) -> String {
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

/// A description of the node that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// What the rest of the agent works with.
    pub settings: NodeSettings,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Worth a look.
    pub notices: Vec<Notice>,
}

/// Works out the description of the node.
///
/// # Errors
/// Every problem of the flags together.
pub fn resolve_node(args: &NodeArgs, found: &Discovered) -> Result<NodeConfig, ConfigError> {
    let mut findings = Findings::default();
    let args = older::node(args, &found.older_variables, &mut findings);
    let config = node::node(&args, found, &mut findings);
    findings.into_result(config).map(|(mut config, notices)| {
        config.notices = notices;
        config
    })
}

/// Works out the whole configuration of the agent.
///
/// # Errors
/// Every problem of the flags together.
pub fn resolve_agent(
    args: &AgentArgs,
    found: &Discovered,
) -> Result<(NodeConfig, AgentOptions), ConfigError> {
    let mut findings = Findings::default();
    older::refuse(&args.older, &mut findings);
    let of_node = older::node(&args.node, &found.older_variables, &mut findings);
    let config = node::node(&of_node, found, &mut findings);
    let settings = config.as_ref().map(|config| &config.settings);
    let node = bgp::Node {
        name: settings.map_or("", |settings| settings.node_name.as_str()),
        uplinks: settings.map_or(&[][..], |settings| &settings.uplinks),
        state_dir: &args.process.state_dir,
    };
    let bgp = bgp::bgp(&args.bgp, &node, found, &mut findings);
    let grpc = grpc::grpc(&args.grpc, &mut findings);
    let log_level = older::log_level(&args.process.log, &found.older_variables, &mut findings);
    let options = options(&args.process, log_level, bgp, grpc, &mut findings);
    let ((mut config, options), notices) = findings.into_result(config.zip(options))?;
    config.notices = notices;
    Ok((config, options))
}

/// Works out how the controller runs.
///
/// # Errors
/// Every problem of the flags together.
pub fn resolve_controller(
    args: &ControllerArgs,
    host_name: &str,
) -> Result<ControllerOptions, ConfigError> {
    let mut findings = Findings::default();
    let http = findings.keep("--http", value::http(&args.http));
    let lease = findings.keep("--lease-duration", value::lease(&args.lease_duration));
    let log_level = older::log_level(&args.log, &BTreeMap::new(), &mut findings);
    findings.keep("--log-level", value::log_level(&log_level));
    let given = args.identity.as_deref().unwrap_or_default().trim();
    let identity = if given.is_empty() { host_name } else { given };
    if identity.is_empty() {
        findings.refuse("--identity", "not given, and this machine has no name");
    }
    let options = http.zip(lease).map(|(http, duration)| ControllerOptions {
        kubeconfig: args.kubeconfig.clone(),
        log_level,
        namespace: args.namespace.clone(),
        identity: identity.to_owned(),
        timing: Timing {
            duration,
            retry: duration / 7,
        },
        http,
        trusts_network_status: args.trust_network_status,
    });
    findings.into_result(options).map(|(options, _)| options)
}

/// What was noticed on the way. A value is `None` only after a problem has been noted for it.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<Problem>,
    notices: Vec<Notice>,
}

impl Findings {
    fn refuse(&mut self, flag: &'static str, text: impl Into<String>) {
        self.problems.push(Problem {
            flag,
            text: text.into(),
        });
    }

    fn notice(&mut self, flag: &'static str, text: impl Into<String>) {
        self.notices.push(Notice {
            flag,
            text: text.into(),
        });
    }

    /// Keeps a good value, notes the problem of a bad one.
    fn keep<T>(&mut self, flag: &'static str, value: Result<T, String>) -> Option<T> {
        value.map_err(|text| self.refuse(flag, text)).ok()
    }

    fn into_result<T>(self, value: Option<T>) -> Result<(T, Vec<Notice>), ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, self.notices)),
            _ => Err(ConfigError {
                problems: self.problems,
            }),
        }
    }
}

fn options(
    args: &ProcessArgs,
    log_level: String,
    bgp: Option<BgpSettings>,
    grpc: Option<GrpcListen>,
    findings: &mut Findings,
) -> Option<AgentOptions> {
    let source = findings.keep("--source", value::source(args.source.as_deref()));
    if let (Some(SourceSpec::Kube(_)), Some(_)) = (&source, &grpc) {
        let text = "bindings are objects of the cluster with --source kube, and callers of the older \
                    API could change none: leave it out";
        findings.refuse("--grpc-listen", text);
    }
    check_absolute("--socket", &args.socket, findings);
    check_absolute("--state-dir", &args.state_dir, findings);
    let http = findings.keep("--http", value::http(&args.http));
    if let Some(address) = http.flatten().filter(|address| !address.ip().is_loopback()) {
        let text =
            format!("{address} is reachable from the network: metrics and the log level are");
        findings.notice("--http", format!("{text} open to whoever reaches it"));
    }
    let resync = findings.keep("--resync", value::resync(&args.resync));
    let l2_refresh = findings.keep("--l2-refresh", value::l2_refresh(&args.l2_refresh));
    findings.keep("--log-level", value::log_level(&log_level));
    let fence = source
        .as_ref()
        .zip(resync)
        .and_then(|(source, resync)| fence(args, source, resync, findings));
    let hand_over = findings.keep("--handover", value::hand_over(&args.handover));
    Some(AgentOptions {
        hand_over: hand_over?,
        fence: fence?,
        source: source?,
        state_dir: args.state_dir.clone(),
        socket: args.socket.clone(),
        http: http?,
        grpc,
        max_bindings: args.max_bindings,
        max_flows: args.max_flows,
        resync: resync?,
        bgp: bgp?,
        log_level,
        l2: L2Settings {
            repeat: args.l2_repeat,
            refresh: l2_refresh?,
        },
    })
}

/// How long a node may answer for what its agent does not follow any more. Five minutes are as long as
/// Kubernetes waits before it gives up the pods of a node, and longer than any restart of an agent.
const FENCE_AFTER: Duration = Duration::from_mins(5);

fn fence(
    args: &ProcessArgs,
    source: &SourceSpec,
    resync: Duration,
    findings: &mut Findings,
) -> Option<FencePolicy> {
    let is_cluster = matches!(source, SourceSpec::Kube(_));
    let after = match args.fence_after.trim() {
        "auto" => is_cluster.then_some(FENCE_AFTER),
        text => findings.keep("--fence-after", value::fence_after(text, resync))?,
    };
    if after.is_some() && !is_cluster {
        let text = "with a directory nobody else moves elastic IPs: leave it out, or write never";
        findings.refuse("--fence-after", text);
        return None;
    }
    if args.fence_on == FenceOn::Isolation && after.is_none() {
        let text = "`isolation` needs --source kube and a duration in --fence-after";
        findings.refuse("--fence-on", text);
        return None;
    }
    Some(FencePolicy {
        after,
        on: args.fence_on,
    })
}

fn check_absolute(flag: &'static str, path: &Path, findings: &mut Findings) {
    if !path.is_absolute() {
        let text = format!("{} is a relative path: start it with /", path.display());
        findings.refuse(flag, text);
    }
}

/// The values of a list flag. An empty variable in a manifest means "not set".
fn given(texts: &[String]) -> impl Iterator<Item = &str> {
    texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
