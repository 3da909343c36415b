//! Would the node's FORWARD chains let elastic IPs pass in the lane `stack`?
//!
//! `eip-daemon check` is a command an operator runs once, so it may ask `nft` and `iptables-legacy-save`
//! where they are installed; the agent starts no program and judges by what packets do (`eipctl explain`).
//! The judgement is coarse on purpose: a chain that drops by its policy, and has no rule that accepts an
//! address of the EIP ranges, drops them.

use std::process::Command;

use ipnet::IpNet;
use serde_json::Value;

/// A chain that drops what nobody accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppingChain {
    /// For people: `nft table ip filter chain FORWARD`.
    pub name: String,
    /// The addresses it is about; `None` for both families.
    pub is_ipv4: Option<bool>,
    /// Prefixes it accepts, as source or destination.
    pub accepts: Vec<IpNet>,
}

impl DroppingChain {
    /// Nothing in it accepts any part of this range.
    #[must_use]
    pub fn drops(&self, range: &IpNet) -> bool {
        let is_about = self.is_ipv4.is_none_or(|v4| v4 == range.addr().is_ipv4());
        let overlaps = |net: &IpNet| net.contains(range) || range.contains(net);
        is_about && !self.accepts.iter().any(overlaps)
    }
}

/// What the node's netfilter says; `None` where neither program answers.
#[must_use]
pub fn read() -> Option<Vec<DroppingChain>> {
    let nft = output("nft", &["-j", "list", "ruleset"]);
    let nft = nft.and_then(|text| serde_json::from_str(&text).ok());
    let legacy = ["iptables-legacy-save", "ip6tables-legacy-save"]
        .map(|program| output(program, &["-t", "filter"]));
    if nft.is_none() && legacy.iter().all(Option::is_none) {
        return None;
    }
    let mut chains = nft.as_ref().map(of_nft).unwrap_or_default();
    for (text, is_ipv4) in legacy.iter().zip([true, false]) {
        chains.extend(text.as_deref().and_then(|text| of_legacy(text, is_ipv4)));
    }
    Some(chains)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// Chains at the forward hook with a dropping policy, in `nft -j list ruleset`.
fn of_nft(ruleset: &Value) -> Vec<DroppingChain> {
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    let chains = objects().filter_map(|object| object.get("chain"));
    let dropping = chains.filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop");
    dropping
        .map(|chain| {
            let text = |name: &str| chain[name].as_str().unwrap_or_default().to_owned();
            let (family, table, name) = (text("family"), text("table"), text("name"));
            let rules = objects().filter_map(|object| object.get("rule"));
            // Accepting rules of the whole table: the chain may jump to another one.
            let rules = rules.filter(|rule| {
                rule["family"] == chain["family"] && rule["table"] == chain["table"]
            });
            DroppingChain {
                is_ipv4: match family.as_str() {
                    "ip" => Some(true),
                    "ip6" => Some(false),
                    _ => None,
                },
                name: format!("nft table {family} {table} chain {name}"),
                accepts: rules.filter_map(accepted).flatten().collect(),
            }
        })
        .collect()
}

/// The prefixes a rule accepts.
fn accepted(rule: &Value) -> Option<Vec<IpNet>> {
    let expressions = rule["expr"].as_array()?;
    let accepts = expressions.iter().any(|expression| {
        expression.get("accept").is_some() || expression["xt"]["name"] == "ACCEPT"
    });
    let matches = expressions
        .iter()
        .filter_map(|expression| expression.get("match"));
    let addresses = matches.filter(|found| {
        let field = found["left"]["payload"]["field"].as_str();
        matches!(field, Some("saddr" | "daddr")) && found["op"] != "!="
    });
    accepts.then(|| {
        addresses
            .flat_map(|found| prefixes(&found["right"]))
            .collect()
    })
}

fn prefixes(right: &Value) -> Vec<IpNet> {
    if let Some(address) = right.as_str() {
        let host = || {
            address
                .parse()
                .ok()
                .map(|address: std::net::IpAddr| IpNet::from(address))
        };
        return address.parse().ok().or_else(host).into_iter().collect();
    }
    if let Some(prefix) = right.get("prefix") {
        let address = prefix["addr"].as_str().and_then(|text| text.parse().ok());
        let len = prefix["len"]
            .as_u64()
            .and_then(|len| u8::try_from(len).ok());
        let net = address
            .zip(len)
            .and_then(|(address, len)| IpNet::new(address, len).ok());
        return net.into_iter().collect();
    }
    let set = right["set"].as_array().into_iter().flatten();
    set.flat_map(prefixes).collect()
}

/// The FORWARD chain in `iptables-legacy-save -t filter`.
fn of_legacy(saved: &str, is_ipv4: bool) -> Option<DroppingChain> {
    saved
        .lines()
        .find(|line| line.starts_with(":FORWARD DROP"))?;
    let rules = saved
        .lines()
        .filter(|line| line.starts_with("-A ") && line.ends_with("-j ACCEPT"));
    let accepts = rules.flat_map(|rule| {
        let words: Vec<_> = rule.split_whitespace().collect();
        let pairs = words
            .windows(2)
            .map(|pair| (pair.first().copied(), pair.get(1).copied()));
        let addresses = pairs.filter(|(flag, _)| matches!(flag, Some("-s" | "-d")));
        addresses
            .filter_map(|(_, net)| net?.parse().ok())
            .collect::<Vec<IpNet>>()
    });
    Some(DroppingChain {
        name: format!("{} FORWARD", if is_ipv4 { "iptables" } else { "ip6tables" }),
        is_ipv4: Some(is_ipv4),
        accepts: accepts.collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{of_legacy, of_nft};

    fn chain(family: &str, policy: &str) -> serde_json::Value {
        json!({"chain": {"family": family, "table": "filter", "name": "FORWARD", "hook": "forward",
                         "policy": policy}})
    }

    fn rule(field: &str, right: &serde_json::Value, verdict: &str) -> serde_json::Value {
        let address = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": field}},
                                       "right": right}});
        json!({"rule": {"family": "ip", "table": "filter", "chain": "FORWARD",
                        "expr": [address, {"counter": null}, {verdict: null}]}})
    }

    #[test]
    fn a_dropping_forward_chain_drops_what_it_does_not_accept() {
        let eips = "203.0.113.0/24".parse().unwrap();
        let prefix = json!({"prefix": {"addr": "203.0.113.0", "len": 24}});
        let pods = json!({"prefix": {"addr": "10.244.0.0", "len": 16}});
        let set = json!({"set": [pods.clone(), "203.0.113.11"]});
        for (rules, drops) in [
            (vec![chain("ip", "drop")], true),
            (vec![chain("inet", "drop")], true),
            (vec![chain("ip6", "drop")], false),
            (
                vec![chain("ip", "drop"), rule("daddr", &pods, "accept")],
                true,
            ),
            (
                vec![chain("ip", "drop"), rule("daddr", &prefix, "drop")],
                true,
            ),
            (
                vec![chain("ip", "drop"), rule("dport", &prefix, "accept")],
                true,
            ),
            (
                vec![chain("ip", "drop"), rule("daddr", &prefix, "accept")],
                false,
            ),
            (
                vec![chain("ip", "drop"), rule("saddr", &set, "accept")],
                false,
            ),
        ] {
            let ruleset = json!({"nftables": rules});
            let found = of_nft(&ruleset);
            assert_eq!(
                found.iter().any(|chain| chain.drops(&eips)),
                drops,
                "{ruleset:#}"
            );
        }
        assert_eq!(of_nft(&json!({"nftables": [chain("ip", "accept")]})), []);
        assert_eq!(of_nft(&json!({})), []);
    }

    #[test]
    fn the_legacy_tables_are_read_as_they_are_saved() {
        let eips = "203.0.113.0/24".parse().unwrap();
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n\
                     -A FORWARD -s 10.244.0.0/16 -j ACCEPT\nCOMMIT\n";
        assert!(of_legacy(saved, true).unwrap().drops(&eips));
        let saved = saved.replace(
            "COMMIT",
            "-A FORWARD -d 203.0.113.0/24 -o cni0 -j ACCEPT\nCOMMIT",
        );
        assert!(!of_legacy(&saved, true).unwrap().drops(&eips));
        assert_eq!(
            of_legacy("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", true),
            None
        );
    }
}
