//! What a node was told about kube-eip's agent: its variables are understood where ours say nothing, its
//! flags that have no meaning here are refused with what takes their place.

use std::collections::BTreeMap;

use super::{Findings, given};
use crate::cli::{LogArgs, NodeArgs, OlderArgs};

/// What kube-eip's variables begin with.
pub const PREFIX: &str = "AGENT_";

const EIP_NET: &str = "AGENT_EIP_NET";
const GATEWAY_IP: &str = "AGENT_EIP_GW_IP";
const GATEWAY_DEV: &str = "AGENT_EIP_GW_DEV";
const POD_NET: &str = "AGENT_POD_NET";
const SVC_NET: &str = "AGENT_SVC_NET";
const LOG_LEVEL: &str = "AGENT_LOG_LEVEL";

/// Variables of kube-eip's agent.
pub(super) type Variables = BTreeMap<String, String>;

/// The flags about the node, with the older variables in the place of those that are not given.
pub(super) fn node(args: &NodeArgs, older: &Variables, findings: &mut Findings) -> NodeArgs {
    let mut args = args.clone();
    let mut fill = |list: &mut Vec<String>, names: &[&'static str], ours: &str| {
        if given(list).next().is_none() {
            let values = names
                .iter()
                .filter_map(|name| value(older, name, ours, findings));
            list.extend(values.flat_map(|text| text.split(',')).map(str::to_owned));
        }
    };
    fill(&mut args.eip_cidrs, &[EIP_NET], "EIP_CIDR");
    fill(&mut args.gateway_ips, &[GATEWAY_IP], "EIP_GATEWAY_IP");
    fill(&mut args.uplinks, &[GATEWAY_DEV], "EIP_UPLINK");
    fill(
        &mut args.internal_nets,
        &[POD_NET, SVC_NET],
        "EIP_INTERNAL_NET",
    );
    args
}

/// What is logged.
pub(super) fn log_level(args: &LogArgs, older: &Variables, findings: &mut Findings) -> String {
    let own = args.level.as_deref().map(str::trim);
    if let Some(level) = own.filter(|level| !level.is_empty()) {
        return level.to_owned();
    }
    value(older, LOG_LEVEL, "EIP_LOG_LEVEL", findings)
        .map_or_else(|| "info".to_owned(), str::to_owned)
}

fn value<'a>(
    older: &'a Variables,
    name: &'static str,
    ours: &str,
    findings: &mut Findings,
) -> Option<&'a str> {
    let text = older.get(name)?.trim();
    if text.is_empty() {
        return None;
    }
    findings.notice(name, format!("a variable of kube-eip, taken as {ours}"));
    Some(text)
}

/// Flags that mean nothing here.
pub(super) fn refuse(args: &OlderArgs, findings: &mut Findings) {
    let OlderArgs {
        port,
        webport,
        bgp_type,
        bgp_enable,
        arp_poisoning,
    } = args;
    if let Some(port) = port {
        let text = format!(
            "callers of kube-eip's gRPC are served with --grpc-listen 127.0.0.1:{port} \
             --grpc-plain-text on loopback, or from elsewhere with --grpc-cert, --grpc-key and \
             --grpc-client-ca"
        );
        findings.refuse("--port", text);
    }
    if webport.is_some() {
        let text = "what kube-eip's web server showed is in eipctl list -o json; metrics and health are \
                    at --http";
        findings.refuse("--webport", text);
    }
    for (flag, value) in [("--bgp-type", bgp_type), ("--bgp-enable", bgp_enable)] {
        match value.as_deref() {
            None => {}
            Some("none" | "false") => findings.refuse(
                flag,
                "write --announce l2: neighbours are told by ARP, as with kube-eip without BGP",
            ),
            Some(_) => findings.refuse(
                flag,
                "leave it out: --announce bgp is the default, the node's AS is --bgp-local-as, and \
                 routers are BgpPeer objects",
            ),
        }
    }
    match arp_poisoning.as_deref() {
        None => {}
        Some("false") => findings.refuse("--arp-poisoning", "leave it out: that is the default"),
        Some(_) => findings.refuse("--arp-poisoning", "write --announce l2"),
    }
}
