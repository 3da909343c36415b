//! From flags, environment and what the node shows to one validated configuration.
//!
//! [`resolve`] is pure: it gets a snapshot of the node and reads nothing itself. Every problem of a
//! command line is found in one go; each names the flag, says what is wrong and what would be
//! right. What is allowed but probably not meant becomes a notice, logged once at start and shown
//! by `check`.

mod value;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use eip_common::abi;
use ipnet::IpNet;

use crate::{
    cli::{NodeArgs, ProcessArgs},
    model::{DeliveryChoice, NetworkView, NodeSettings, XdpMode},
};

/// What the node itself says, read once at start.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// Host name.
    pub host_name: String,
    /// Interfaces, addresses and default routes.
    pub view: NetworkView,
}

/// Where facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// YAML and JSON documents in a directory.
    Dir(PathBuf),
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// How the agent process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOptions {
    /// Where facts come from.
    pub source: SourceSpec,
    /// Control socket.
    pub socket: PathBuf,
    /// Address of the HTTP server; `None` serves none.
    pub http: Option<SocketAddr>,
    /// Entries of a binding map.
    pub max_bindings: u32,
    /// Entries of a flow map.
    pub max_flows: u32,
    /// Longest time between two comparisons with the kernel.
    pub resync: Duration,
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
    let config = node(args, found, &mut findings);
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
    node_args: &NodeArgs,
    process: &ProcessArgs,
    found: &Discovered,
) -> Result<(NodeConfig, AgentOptions), ConfigError> {
    let mut findings = Findings::default();
    let config = node(node_args, found, &mut findings);
    let options = options(process, &mut findings);
    let ((mut config, options), notices) = findings.into_result(config.zip(options))?;
    config.notices = notices;
    Ok((config, options))
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

fn node(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Option<NodeConfig> {
    let node_name = node_name(args, found, findings);
    let uplinks = uplinks(args, found, findings);
    let gateways = gateways(args, found, findings);
    let eip_cidrs = networks("--eip-cidr", &args.eip_cidrs, findings);
    let internal_nets = networks("--internal-net", &args.internal_nets, findings);
    check_overlap(&eip_cidrs, &internal_nets, findings);
    check_translated(&eip_cidrs, findings);
    check_families(&eip_cidrs, gateways, findings);
    check_delivery(args, findings);
    let route_table = route_table(args.route_table, findings);
    check_absolute("--bpffs", &args.bpffs, findings);
    let settings = NodeSettings {
        node_name: node_name?,
        uplinks: uplinks?,
        gateway4: gateways.v4,
        gateway6: gateways.v6,
        eip_cidrs,
        internal_nets,
        delivery: args.delivery,
        xdp_mode: args.xdp_mode,
        tc_mode: args.tc_mode,
        route_table: route_table?,
    };
    Some(NodeConfig {
        settings,
        bpffs: args.bpffs.clone(),
        notices: Vec::new(),
    })
}

fn node_name(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Option<String> {
    let given = args
        .node_name
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty());
    // Kubelet registers the host name in lower case.
    let name = given.map_or_else(|| found.host_name.to_lowercase(), str::to_owned);
    findings.keep("--node-name", value::node_name(&name))
}

fn uplinks(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Option<Vec<String>> {
    let flag = "--uplink";
    let given: Vec<&str> = given(&args.uplinks).collect();
    if given.is_empty() {
        return discovered_uplinks(found, findings);
    }
    let mut names: Vec<String> = Vec::new();
    for name in given {
        let Some(name) = findings.keep(flag, value::interface(name)) else {
            continue;
        };
        if names.contains(&name) {
            findings.notice(flag, format!("{name} is given twice; once is enough"));
            continue;
        }
        if !found.view.links.values().any(|link| link.name == name) {
            let text = format!("no interface {name} yet; it is taken when it appears");
            findings.notice(flag, text);
        }
        names.push(name);
    }
    if names.len() > abi::MAX_UPLINKS as usize {
        let count = names.len();
        findings.refuse(
            flag,
            format!("{count} uplinks, at most {} work", abi::MAX_UPLINKS),
        );
    }
    (!names.is_empty()).then_some(names)
}

/// Every device that holds a default route of the lowest metric: more than one with ECMP, or when
/// the two families leave by different ways.
fn discovered_uplinks(found: &Discovered, findings: &mut Findings) -> Option<Vec<String>> {
    let routes = &found.view.default_routes;
    let mut names: Vec<String> = Vec::new();
    for is_v4 in [true, false] {
        let family = || {
            routes
                .iter()
                .filter(|route| value::is_v4_route(route, is_v4))
        };
        let Some(best) = family().map(|route| route.metric).min() else {
            continue;
        };
        for route in family().filter(|route| route.metric == best) {
            let link = found.view.links.get(&route.ifindex);
            let Some(name) = link.map(|link| link.name.clone()) else {
                continue;
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        let text = "no uplink is named and the node has no default route to find one by: name the \
                    interface toward the routers";
        findings.refuse("--uplink", text);
        return None;
    }
    Some(names)
}

#[derive(Debug, Clone, Copy, Default)]
struct Gateways {
    v4: Option<std::net::Ipv4Addr>,
    v6: Option<std::net::Ipv6Addr>,
}

fn gateways(args: &NodeArgs, found: &Discovered, findings: &mut Findings) -> Gateways {
    let flag = "--gateway-ip";
    let mut gateways = Gateways::default();
    for text in given(&args.gateway_ips) {
        let Some(ip) = findings.keep(flag, value::gateway(text)) else {
            continue;
        };
        if found
            .view
            .addresses
            .iter()
            .any(|own| own.address.addr() == ip)
        {
            findings.refuse(
                flag,
                format!("{ip} is an address of this node: name the router's"),
            );
            continue;
        }
        let other: Option<IpAddr> = match ip {
            IpAddr::V4(v4) => gateways.v4.replace(v4).map(Into::into),
            IpAddr::V6(v6) => gateways.v6.replace(v6).map(Into::into),
        };
        if let Some(other) = other.filter(|other| *other != ip) {
            let text = format!("{other} and {ip} are of one family: one gateway per family");
            findings.refuse(flag, text);
        }
    }
    gateways
}

fn networks(flag: &'static str, texts: &[String], findings: &mut Findings) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = Vec::new();
    for text in given(texts) {
        let Some(net) = findings.keep(flag, value::network(text)) else {
            continue;
        };
        if nets.contains(&net) {
            findings.notice(flag, format!("{net} is given twice; once is enough"));
            continue;
        }
        nets.push(net);
    }
    if texts.is_empty() || (nets.is_empty() && given(texts).next().is_none()) {
        findings.notice(flag, value::without_networks(flag));
    }
    nets
}

fn check_overlap(eip_cidrs: &[IpNet], internal: &[IpNet], findings: &mut Findings) {
    for cidr in eip_cidrs {
        for net in internal {
            if net.contains(cidr) {
                let text = format!(
                    "{cidr} lies inside --internal-net {net}, so no elastic IP of it could ever be \
                     used: take it out of the internal network, or choose another prefix"
                );
                findings.refuse("--eip-cidr", text);
            } else if cidr.contains(net) {
                let text = format!("addresses of --internal-net {net} are refused as elastic IPs");
                findings.notice("--eip-cidr", format!("{cidr}: {text}"));
            }
        }
    }
}

/// Everything around the kernel programs speaks both families; they translate IPv4.
fn check_translated(eip_cidrs: &[IpNet], findings: &mut Findings) {
    for cidr in eip_cidrs.iter().filter(|cidr| cidr.addr().is_ipv6()) {
        let text = format!("{cidr} is IPv6, which this version does not translate: leave it out");
        findings.refuse("--eip-cidr", text);
    }
}

fn check_families(eip_cidrs: &[IpNet], gateways: Gateways, findings: &mut Findings) {
    let has_v4 = eip_cidrs.iter().any(|net| net.addr().is_ipv4());
    let has_v6 = eip_cidrs.iter().any(|net| net.addr().is_ipv6());
    if let Some(ip) = gateways.v4.filter(|_| has_v6 && !has_v4) {
        findings.refuse(
            "--gateway-ip",
            format!("{ip} is IPv4 and every --eip-cidr is IPv6"),
        );
    }
    if let Some(ip) = gateways.v6.filter(|_| has_v4 && !has_v6) {
        findings.refuse(
            "--gateway-ip",
            format!("{ip} is IPv6 and every --eip-cidr is IPv4"),
        );
    }
}

fn check_delivery(args: &NodeArgs, findings: &mut Findings) {
    if args.delivery == DeliveryChoice::Xdp && args.xdp_mode == XdpMode::Off {
        let text = "xdp needs an XDP program on the uplink: drop --xdp-mode off, or choose auto";
        findings.refuse("--delivery", text);
    }
}

fn route_table(table: u32, findings: &mut Findings) -> Option<u32> {
    findings.keep("--route-table", value::route_table(table))
}

fn options(args: &ProcessArgs, findings: &mut Findings) -> Option<AgentOptions> {
    let source = findings.keep("--source", value::source(args.source.as_deref()));
    check_absolute("--socket", &args.socket, findings);
    let http = findings.keep("--http", value::http(&args.http));
    if let Some(address) = http.flatten().filter(|address| !address.ip().is_loopback()) {
        let text =
            format!("{address} is reachable from the network: metrics and the log level are");
        findings.notice("--http", format!("{text} open to whoever reaches it"));
    }
    let resync = findings.keep("--resync", value::resync(&args.resync));
    findings.keep("--log-level", value::log_level(&args.log_level));
    Some(AgentOptions {
        source: source?,
        socket: args.socket.clone(),
        http: http?,
        max_bindings: args.max_bindings,
        max_flows: args.max_flows,
        resync: resync?,
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
