//! Command line of `eip-daemon`: types only. [`crate::config`] says what the values mean and which
//! of them are refused.
//!
//! Values with rules of their own stay strings here, so that every problem of a command line is
//! reported at once and not one per attempt.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use eip_common::abi;

use crate::{
    announce::{l2::DEFAULT_REPEAT, peering::OnExit},
    ctl::DEFAULT_SOCKET,
    dataplane::{DEFAULT_BPFFS, DEFAULT_ROUTE_TABLE},
    model::{Announce, DeliveryChoice, TcMode, XdpMode},
    reconcile::FenceOn,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped on request
  1  failed; the reason is on standard error
  2  the command line or the environment is wrong";

/// Elastic IPs for KubeVirt virtual machines.
#[derive(Debug, Parser)]
#[command(name = "eip-daemon", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent: program this node's elastic IPs and keep them so.
    Agent(Box<AgentArgs>),
    /// Run the cluster's controller: say where each elastic IP is to be served.
    Controller(ControllerArgs),
    /// Tell whether this kernel and node can carry elastic IPs, and what is missing.
    Check(Box<CheckArgs>),
    /// Remove everything the agent left in the kernel. Elastic IPs of this node stop working.
    Cleanup(CleanupArgs),
    /// Take over what kube-eip translates on this node: print its bindings as ours, and the commands
    /// that remove it. Nothing of the node is changed.
    Import(ImportArgs),
    /// Print the custom resource definitions, for `kubectl apply --filename -`.
    Crd,
}

/// Flags of `eip-daemon agent`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct AgentArgs {
    /// What the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How host routes are announced.
    #[command(flatten)]
    pub bgp: BgpArgs,
    /// How callers of the older agent are served.
    #[command(flatten)]
    pub grpc: GrpcArgs,
    /// How the process runs.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// What kube-eip's agent understood and this one does not.
    #[command(flatten)]
    pub older: OlderArgs,
}

/// Flags of kube-eip's agent that mean nothing here. They are known in order to say what takes their place;
/// `--internal-net`, `--gateway-ip`, `--gateway-dev`, `--eip-cidr` and `--log-level` mean what they meant.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "kube-eip")]
pub struct OlderArgs {
    /// Port of the gRPC server
    #[arg(long, hide = true, value_name = "PORT")]
    pub port: Option<String>,

    /// Port of the web server
    #[arg(long, hide = true, value_name = "PORT")]
    pub webport: Option<String>,

    /// What announces by BGP
    #[arg(long, hide = true, value_name = "TYPE")]
    pub bgp_type: Option<String>,

    /// Whether BGP announces
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub bgp_enable: Option<String>,

    /// Whether ARP is answered for elastic IPs
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub arp_poisoning: Option<String>,
}

/// Flags that describe the node and how it carries traffic; `check` takes them too.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// Name the VMs' objects use for this node [default: the host name]
    #[arg(long, value_name = "NAME", env = "EIP_NODE_NAME")]
    pub node_name: Option<String>,

    /// Interface toward the routers; repeat it or separate names by commas [default: the device of
    /// the default route]
    #[arg(
        long = "uplink",
        visible_alias = "gateway-dev",
        value_name = "NAME",
        env = "EIP_UPLINK",
        value_delimiter = ','
    )]
    pub uplinks: Vec<String>,

    /// Next hop for what VMs send with an elastic IP: one IPv4 and/or one IPv6 address [default:
    /// what the routing table says]
    #[arg(
        long = "gateway-ip",
        value_name = "IP",
        env = "EIP_GATEWAY_IP",
        value_delimiter = ','
    )]
    pub gateway_ips: Vec<String>,

    /// Prefix elastic IPs come from; repeat it or separate prefixes by commas. Bindings outside of
    /// all of them are refused
    #[arg(
        long = "eip-cidr",
        value_name = "CIDR",
        env = "EIP_CIDR",
        value_delimiter = ','
    )]
    pub eip_cidrs: Vec<String>,

    /// Pod, service or node network; repeat it or separate prefixes by commas. VMs talk to these
    /// with their own address
    #[arg(
        long = "internal-net",
        value_name = "CIDR",
        env = "EIP_INTERNAL_NET",
        value_delimiter = ','
    )]
    pub internal_nets: Vec<String>,

    /// How packets reach a VM whose binding does not say it
    #[arg(
        long,
        value_name = "LANE",
        env = "EIP_DELIVERY",
        default_value = "auto"
    )]
    pub delivery: DeliveryChoice,

    /// How elastic IPs are announced whose binding does not say it: host routes to BGP peers, ARP and
    /// neighbour discovery on the uplinks, both, or none
    #[arg(long, value_name = "HOW", env = "EIP_ANNOUNCE", default_value = "bgp")]
    pub announce: Announce,

    /// XDP on uplinks: `auto` takes native, else generic, else none
    #[arg(
        long,
        value_name = "MODE",
        env = "EIP_XDP_MODE",
        default_value = "auto"
    )]
    pub xdp_mode: XdpMode,

    /// tc attachment: `auto` takes tcx (kernel 6.6), else clsact
    #[arg(long, value_name = "MODE", env = "EIP_TC_MODE", default_value = "auto")]
    pub tc_mode: TcMode,

    /// Routing table for traffic of elastic IPs, used where the main table leads elsewhere
    #[arg(
        long,
        value_name = "NUMBER",
        env = "EIP_ROUTE_TABLE",
        default_value_t = DEFAULT_ROUTE_TABLE
    )]
    pub route_table: u32,

    /// Mount point of the BPF file system; programs, maps and links are pinned in `eip/` below it
    #[arg(
        long,
        value_name = "DIR",
        env = "EIP_BPFFS",
        default_value = DEFAULT_BPFFS
    )]
    pub bpffs: PathBuf,
}

/// Flags about announcing by BGP. Peers are objects (`BgpPeer`) or annotations of the node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "BGP")]
pub struct BgpArgs {
    /// AS of this node, toward peers that name none of their own
    #[arg(long = "bgp-local-as", value_name = "NUMBER", env = "EIP_BGP_LOCAL_AS")]
    pub local_as: Option<u32>,

    /// BGP identifier [default: the lowest IPv4 address of an uplink]
    #[arg(long = "bgp-router-id", value_name = "IPV4", env = "EIP_BGP_ROUTER_ID")]
    pub router_id: Option<String>,

    /// Address, or address and port, to accept BGP connections on; repeat it or separate them by
    /// commas [default: none, peers are dialled]
    #[arg(
        long = "bgp-listen",
        value_name = "ADDR[:PORT]",
        env = "EIP_BGP_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<String>,

    /// How long peers keep routes while the agent restarts
    #[arg(
        long = "bgp-restart-time",
        value_name = "DURATION",
        env = "EIP_BGP_RESTART_TIME",
        default_value = "120s"
    )]
    pub restart_time: String,

    /// Prefix of node annotations that name peers: `PREFIX/bgp-peers-0-peer-ip` and so on
    #[arg(
        long = "bgp-annotations",
        value_name = "PREFIX",
        env = "EIP_BGP_ANNOTATIONS",
        default_value = "virteip.github.com"
    )]
    pub annotations: String,

    /// What becomes of announced routes when the agent is asked to stop: `keep` is for upgrades,
    /// peers keep them for the restart time
    #[arg(
        long,
        value_name = "WHAT",
        env = "EIP_ON_EXIT",
        default_value = "withdraw"
    )]
    pub on_exit: OnExit,
}

/// Flags about the older agent's gRPC API. The control socket serves it always.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The older agent's gRPC API")]
pub struct GrpcArgs {
    /// Address for callers of the older agent's API, by custom port 6127 [default: none]
    #[arg(
        long = "grpc-listen",
        value_name = "ADDR:PORT",
        env = "EIP_GRPC_LISTEN"
    )]
    pub grpc_listen: Option<String>,

    /// Certificate to show to callers, with those between it and its root; PEM
    #[arg(long = "grpc-cert", value_name = "FILE", env = "EIP_GRPC_CERT")]
    pub certificate: Option<PathBuf>,

    /// Key of that certificate; PEM
    #[arg(long = "grpc-key", value_name = "FILE", env = "EIP_GRPC_KEY")]
    pub key: Option<PathBuf>,

    /// Authority that signs the certificates of callers; whoever has one may bind any address; PEM
    #[arg(
        long = "grpc-client-ca",
        value_name = "FILE",
        env = "EIP_GRPC_CLIENT_CA"
    )]
    pub client_ca: Option<PathBuf>,

    /// Serve in plain text and without asking who calls; on loopback only, where every process of the
    /// node can call
    #[arg(long = "grpc-plain-text", env = "EIP_GRPC_PLAIN_TEXT")]
    pub plain_text: bool,
}

/// Flags about the process itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Where bindings and VMs come from: `dir:PATH` reads YAML and JSON files and follows changes,
    /// `kube` asks the API server of the pod's cluster, `kube:FILE` the one a kubeconfig names
    #[arg(long, value_name = "SOURCE", env = "EIP_SOURCE")]
    pub source: Option<String>,

    /// Directory for what has to outlast the process: whether the node is drained, and the last state
    /// known from the API server, for a start without it
    #[arg(
        long,
        value_name = "DIR",
        env = "EIP_STATE_DIR",
        default_value = "/var/lib/kube-eip"
    )]
    pub state_dir: PathBuf,

    /// Control socket of `eipctl`; root only
    #[arg(long, value_name = "PATH", env = "EIP_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// Address of /metrics, /healthz, /readyz and /log-level; `off` serves none
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "EIP_HTTP",
        default_value = "127.0.0.1:9469"
    )]
    pub http: String,

    /// Elastic IPs this node can carry, per address family
    #[arg(
        long,
        value_name = "COUNT",
        env = "EIP_MAX_BINDINGS",
        default_value_t = abi::DEFAULT_MAX_BINDINGS,
        value_parser = clap::value_parser!(u32).range(1..=1_048_576)
    )]
    pub max_bindings: u32,

    /// Conversations between an elastic IP and an internal network, per address family
    #[arg(
        long,
        value_name = "COUNT",
        env = "EIP_MAX_FLOWS",
        default_value_t = abi::DEFAULT_MAX_FLOWS,
        value_parser = clap::value_parser!(u32).range(1024..=16_777_216)
    )]
    pub max_flows: u32,

    /// How often the kernel is compared with what it should hold, events or not: `500ms`, `10s`, `2m`
    #[arg(
        long,
        value_name = "DURATION",
        env = "EIP_RESYNC",
        default_value = "2s"
    )]
    pub resync: String,

    /// How long the kernel serves an elastic IP that nobody renews, because the agent is stopped or stuck:
    /// `30s`, `5m`, `never`; `auto` is 5m with the API server, and never with a directory
    #[arg(
        long,
        value_name = "DURATION",
        env = "EIP_FENCE_AFTER",
        default_value = "auto"
    )]
    pub fence_after: String,

    /// How long BGP peers are still told of this node when a VM has moved and the other node serves it;
    /// what comes here is sent on, three times as long: `10s`, `off`
    #[arg(
        long,
        value_name = "DURATION",
        env = "EIP_HANDOVER",
        default_value = "10s"
    )]
    pub handover: String,

    /// What ends the renewals: an agent that stands still, or also one whose Lease the API server does
    /// not take any more
    #[arg(
        long,
        value_name = "WHAT",
        env = "EIP_FENCE_ON",
        default_value = "stall"
    )]
    pub fence_on: FenceOn,

    /// Gratuitous ARP or neighbour advertisements for an elastic IP that has come, at growing gaps
    #[arg(
        long,
        value_name = "COUNT",
        env = "EIP_L2_REPEAT",
        default_value_t = DEFAULT_REPEAT,
        value_parser = clap::value_parser!(u32).range(1..=10)
    )]
    pub l2_repeat: u32,

    /// Time between them afterwards: `30s`, `2m`; `off` sends none after the first
    #[arg(
        long,
        value_name = "DURATION",
        env = "EIP_L2_REFRESH",
        default_value = "120s"
    )]
    pub l2_refresh: String,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of the log of a process that stays.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What is logged: a level, or directives such as `info,eip_daemon::reconcile=debug` [default: info]
    #[arg(long = "log-level", value_name = "FILTER", env = "EIP_LOG_LEVEL")]
    pub level: Option<String>,

    /// Form of the log
    #[arg(
        long = "log-format",
        value_name = "FORM",
        env = "EIP_LOG_FORMAT",
        default_value = "text"
    )]
    pub format: LogFormat,
}

/// Flags of `eip-daemon controller`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ControllerArgs {
    /// File that says how to reach the API server [default: the service account of the pod, or
    /// $KUBECONFIG]
    #[arg(long, value_name = "FILE", env = "EIP_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of the Lease by which one of several controllers leads
    #[arg(
        long,
        value_name = "NAME",
        env = "EIP_NAMESPACE",
        default_value = "kube-eip"
    )]
    pub namespace: String,

    /// Name of this controller among several [default: the host name]
    #[arg(long, value_name = "NAME", env = "EIP_IDENTITY")]
    pub identity: Option<String>,

    /// How long a controller that is gone is waited for: `15s`
    #[arg(
        long,
        value_name = "DURATION",
        env = "EIP_LEASE_DURATION",
        default_value = "15s"
    )]
    pub lease_duration: String,

    /// Address of /metrics, /healthz and /readyz; `off` serves none
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "EIP_HTTP",
        default_value = "127.0.0.1:9470"
    )]
    pub http: String,

    /// Let bindings lead to networks of Multus, at the addresses that the pods' annotation
    /// k8s.v1.cni.cncf.io/network-status names; whoever may edit a pod can change that
    #[arg(long, env = "EIP_TRUST_NETWORK_STATUS")]
    pub trust_network_status: bool,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of `eip-daemon check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit codes:
  0  everything required is there
  1  something required is missing
  2  the command line or the environment is wrong")]
pub struct CheckArgs {
    /// The node as the agent would be told about it.
    #[command(flatten)]
    pub node: NodeArgs,

    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: CheckOutput,
}

/// Form of the answer of `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CheckOutput {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Flags of `eip-daemon cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// Mount point of the BPF file system
    #[arg(
        long,
        value_name = "DIR",
        env = "EIP_BPFFS",
        default_value = DEFAULT_BPFFS
    )]
    pub bpffs: PathBuf,

    /// Control socket of the agent, which must not be running
    #[arg(long, value_name = "PATH", env = "EIP_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Flags of `eip-daemon import`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit codes:
  0  everything that was found is taken over
  1  something is not; standard error says what and why
  2  the command line is wrong")]
pub struct ImportArgs {
    /// What to import from
    pub from: ImportSource,

    /// Directory of kube-eip's records
    #[arg(long, value_name = "DIR", default_value = "/var/run/eip_agent")]
    pub metadata_dir: PathBuf,

    /// File or directory with `VirtualMachineInstance` documents, such as of `kubectl get vmi -A -o
    /// yaml`: bindings name VMs then, and not addresses, as a cluster wants them
    #[arg(long, value_name = "PATH")]
    pub objects: Option<PathBuf>,

    /// Write the bindings into this directory of `--source dir:`, except those that are there
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,

    /// What to print on standard output; the report on standard error has both
    #[arg(long, value_name = "WHAT", default_value = "bindings")]
    pub print: ImportPrint,
}

/// What can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportSource {
    /// A node of kube-eip.
    KubeEip,
}

/// What `import` prints on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ImportPrint {
    /// The bindings, unless they are written.
    #[default]
    Bindings,
    /// The commands that hand over and remove kube-eip.
    Removal,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command};

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_may_be_repeated_or_separated_by_commas() {
        let cli = Cli::parse_from(["eip-daemon", "agent", "--uplink", "a,b", "--uplink", "c"]);
        let Command::Agent(agent) = cli.command else {
            panic!("not the agent")
        };
        assert_eq!(agent.node.uplinks, ["a", "b", "c"]);
    }

    #[test]
    fn the_flag_names_of_the_first_operator_still_work() {
        let cli = Cli::parse_from([
            "eip-daemon",
            "agent",
            "--gateway-dev=eth1",
            "--gateway-ip=192.0.2.1",
            "--eip-cidr=203.0.113.0/24",
            "--internal-net=10.0.0.0/8",
            "--log-level=debug",
        ]);
        let Command::Agent(agent) = cli.command else {
            panic!("not the agent")
        };
        assert_eq!(agent.node.uplinks, ["eth1"]);
        assert_eq!(agent.process.log.level.as_deref(), Some("debug"));
    }

    #[test]
    fn every_flag_of_the_agent_can_come_from_the_environment() {
        let command = Cli::command();
        let agent = command.find_subcommand("agent").unwrap();
        let ours = |arg: &&clap::Arg| arg.get_id() != "help" && !arg.is_hide_set();
        for arg in agent.get_arguments().filter(ours) {
            let env = arg
                .get_env()
                .unwrap_or_else(|| panic!("{} has none", arg.get_id()));
            assert!(
                env.to_string_lossy().starts_with("EIP_"),
                "{}",
                arg.get_id()
            );
        }
    }

    #[test]
    fn every_flag_is_explained() {
        let command = Cli::command();
        for verb in command.get_subcommands() {
            for arg in verb.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} --{}",
                    verb.get_name(),
                    arg.get_id()
                );
            }
        }
    }
}
