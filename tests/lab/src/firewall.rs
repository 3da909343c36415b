//! The node's own firewall: none of it knows about elastic IPs.

use crate::plan::{EIP_CIDR, EIP_CIDR6, POD_CIDR, POD_CIDR6};

/// How hostile the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firewall {
    /// Everything is forwarded; pods are still masqueraded.
    Open,
    /// `FORWARD DROP`, kube-proxy's INVALID drop, pods may talk and be talked to.
    #[default]
    KubeLike,
    /// As [`Firewall::KubeLike`], but only pods and established connections of pods.
    Strict,
}

/// Whether the operator followed the advice for the stack lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardAccept {
    /// No rule mentions EIPs.
    #[default]
    Missing,
    /// EIPs are accepted to and from pod devices, ahead of the INVALID drop.
    Present,
}

/// The ruleset of the node for both families.
#[must_use]
pub fn ruleset(firewall: Firewall, accept: ForwardAccept) -> String {
    let v4 = table("ip", POD_CIDR, EIP_CIDR, firewall, accept);
    let v6 = table("ip6", POD_CIDR6, EIP_CIDR6, firewall, accept);
    format!("{v4}{v6}")
}

fn table(
    family: &str,
    pods: &str,
    eips: &str,
    firewall: Firewall,
    accept: ForwardAccept,
) -> String {
    let policy = match firewall {
        Firewall::Open => "accept",
        Firewall::KubeLike | Firewall::Strict => "drop",
    };
    let eip_rules = match accept {
        ForwardAccept::Missing => String::new(),
        ForwardAccept::Present => format!(
            "    oifname {{ \"cali*\", \"cni0\" }} {family} daddr {eips} counter accept\n    \
             iifname {{ \"cali*\", \"cni0\" }} {family} saddr {eips} counter accept\n"
        ),
    };
    let pod_rules = match firewall {
        Firewall::Open => String::new(),
        Firewall::KubeLike => format!(
            "    ct state invalid counter drop\n    {family} saddr {pods} counter accept\n    \
             {family} daddr {pods} counter accept\n"
        ),
        Firewall::Strict => format!(
            "    ct state invalid counter drop\n    \
             {family} saddr {pods} {family} daddr {pods} counter accept\n    \
             iifname {{ \"cali*\", \"cni0\" }} {family} saddr {pods} counter accept\n    \
             {family} daddr {pods} ct state established,related counter accept\n"
        ),
    };
    format!(
        "table {family} node {{\n  \
         chain forward {{\n    type filter hook forward priority filter; policy {policy};\n\
         {eip_rules}{pod_rules}    counter comment \"what nobody accepted\"\n  }}\n  \
         chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
         {family} saddr {pods} {family} daddr != {pods} counter masquerade\n  }}\n}}\n"
    )
}

/// The router's anti-spoofing: on the management network only management addresses.
#[must_use]
pub fn router_ruleset() -> String {
    "table inet router {\n  chain forward {\n    \
     type filter hook forward priority filter; policy accept;\n    \
     iifname \"rm0\" ip saddr != 172.16.0.0/24 counter drop\n    \
     iifname \"rm0\" ip6 saddr != { 2001:db8:16::/64, fe80::/10 } counter drop\n  }\n}\n"
        .to_owned()
}
