//! What the older agent left on a node, from the words of the programs that show it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use serde::Deserialize;

use super::takeover::Finding;

/// Its chain for what arrives: one `DNAT` each.
pub(super) const IN_CHAIN: &str = "KUBE-EIP-PREROUTING";
/// Its chain for what leaves: one `SNAT` each.
pub(super) const OUT_CHAIN: &str = "KUBE-EIP-POSTROUTING";
/// Its sets: elastic IPs, VM addresses, and the networks it does not translate toward.
pub(super) const SETS: [&str; 3] = ["kube-eip-eip", "kube-eip-vmi", "k8s_internal_net"];

/// A file about one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) eip: IpAddr,
    pub(super) vm: IpAddr,
    /// All its steps have been done.
    pub(super) is_finished: bool,
    /// The last step that was.
    pub(super) phase: i64,
}

#[derive(Debug, Deserialize)]
struct RawRecord {
    status: String,
    exip: String,
    inip: String,
    #[serde(default)]
    phase: i64,
}

impl Record {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let raw: RawRecord = serde_json::from_str(text)
            .map_err(|error| format!("no record of kube-eip: {error}"))?;
        let address = |field: &str, text: &str| {
            let parsed: Result<IpAddr, _> = text.parse();
            parsed.map_err(|_| format!("{field}: {text:?} is no IP address"))
        };
        Ok(Self {
            eip: address("exip", &raw.exip)?,
            vm: address("inip", &raw.inip)?,
            is_finished: raw.status == "Finished",
            phase: raw.phase,
        })
    }
}

/// The rules of one family of commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// `iptables-nft` or `iptables-legacy`.
    pub(super) family: String,
    /// Elastic IP to VM, in the order in which they are tried.
    pub(super) into: Vec<(IpAddr, IpAddr)>,
    /// VM to elastic IP, in the order in which they are tried.
    pub(super) out: Vec<(IpAddr, IpAddr)>,
    /// Its chains that are there.
    pub(super) chains: BTreeSet<&'static str>,
    /// Table and rule of whatever leads into its chains or looks into its sets from elsewhere.
    pub(super) jumps: Vec<(String, String)>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) device: String,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) is_secondary: bool,
}

impl Address {
    /// The network it is in.
    pub(super) fn net(&self) -> Option<ipnet::IpNet> {
        let net = ipnet::IpNet::new(self.ip, self.prefix).ok()?;
        Some(net.trunc())
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) records: Vec<(PathBuf, Record)>,
    pub(super) rules: Vec<Rules>,
    /// The rules could be looked at.
    pub(super) knows_rules: bool,
    pub(super) sets: BTreeMap<&'static str, BTreeSet<String>>,
    /// Sources that are sent to the older agent's routing table.
    pub(super) policy: Vec<String>,
    pub(super) has_table: bool,
    pub(super) names_table: bool,
    pub(super) addresses: Vec<Address>,
    /// What could not be read or understood.
    pub(super) findings: Vec<Finding>,
}

impl Evidence {
    /// Whether there is no sign of the older agent at all.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.rules.is_empty()
            && self.sets.is_empty()
            && self.policy.is_empty()
            && !self.has_table
            && self.findings.is_empty()
    }

    /// From what `iptables-save` of a family printed.
    pub(super) fn take_rules(&mut self, family: &str, text: &str) {
        self.knows_rules = true;
        let mut rules = Rules {
            family: family.to_owned(),
            ..Rules::default()
        };
        let mut table = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split_whitespace().next().unwrap_or_default();
                let ours = [IN_CHAIN, OUT_CHAIN].into_iter().find(|ours| *ours == name);
                rules.chains.extend(ours);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                self.take_rule(&mut rules, table, rule);
            }
        }
        if !rules.chains.is_empty() || !rules.jumps.is_empty() {
            self.rules.push(rules);
        }
    }

    fn take_rule(&mut self, rules: &mut Rules, table: &str, rule: &str) {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let after = |flag: &str| {
            let position = words.iter().position(|word| *word == flag)?;
            words.get(position + 1).copied()
        };
        let (from, to, target) = match words.first().copied() {
            Some(IN_CHAIN) => ("-d", ["--to-destination", "--to"], "DNAT"),
            Some(OUT_CHAIN) => ("-s", ["--to-source", "--to"], "SNAT"),
            _ => {
                let leads_in = [Some(IN_CHAIN), Some(OUT_CHAIN)].contains(&after("-j"));
                if leads_in || words.iter().any(|word| SETS.contains(word)) {
                    rules.jumps.push((table.to_owned(), rule.to_owned()));
                }
                return;
            }
        };
        let is_meant = after("-j") == Some(target) && !words.contains(&"-p");
        let source = after(from).and_then(host);
        let result = to.iter().find_map(|flag| after(flag)).and_then(host);
        match (source, result) {
            (Some(source), Some(result)) if is_meant => {
                let pairs = if target == "DNAT" {
                    &mut rules.into
                } else {
                    &mut rules.out
                };
                pairs.push((source, result));
            }
            _ => {
                let text = "kube-eip writes no such rule, so it is nothing to take over";
                self.findings
                    .push(Finding::left_out(format!("rule {rule:?}"), text));
            }
        }
    }

    /// From what `ipset save` printed.
    pub(super) fn take_sets(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (verb, name) = (words.next(), words.next().unwrap_or_default());
            let Some(name) = SETS.into_iter().find(|set| *set == name) else {
                continue;
            };
            let members = self.sets.entry(name).or_default();
            if verb == Some("add") {
                members.extend(words.next().map(str::to_owned));
            }
        }
    }

    /// From what `ip -json rule` printed.
    pub(super) fn take_policy(&mut self, text: &str) {
        #[derive(Deserialize)]
        struct Rule {
            priority: i64,
            #[serde(default)]
            src: String,
        }
        match serde_json::from_str::<Vec<Rule>>(text) {
            Ok(rules) => {
                let theirs = rules
                    .into_iter()
                    .filter(|rule| rule.priority == i64::from(super::removal::TABLE));
                self.policy.extend(theirs.map(|rule| rule.src));
            }
            Err(error) => self.unreadable("ip rule", &error),
        }
    }

    /// From what `ip -json address` printed.
    pub(super) fn take_addresses(&mut self, text: &str) {
        #[derive(Deserialize)]
        struct Link {
            #[serde(default)]
            ifname: String,
            #[serde(default)]
            addr_info: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            local: Option<IpAddr>,
            #[serde(default)]
            prefixlen: u8,
            #[serde(default)]
            secondary: bool,
        }
        match serde_json::from_str::<Vec<Link>>(text) {
            Ok(links) => {
                for link in links {
                    for entry in link.addr_info {
                        self.addresses.extend(entry.local.map(|ip| Address {
                            device: link.ifname.clone(),
                            ip,
                            prefix: entry.prefixlen,
                            is_secondary: entry.secondary,
                        }));
                    }
                }
            }
            Err(error) => self.unreadable("ip address", &error),
        }
    }

    fn unreadable(&mut self, what: &str, error: &serde_json::Error) {
        let finding = Finding::left_out(format!("`{what}`"), error.to_string());
        self.findings.push(finding);
    }
}

/// A single address, as `iptables-save` writes it: with its prefix length.
fn host(text: &str) -> Option<IpAddr> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { "32" } else { "128" };
    (length.is_empty() || length == whole).then_some(address)
}
