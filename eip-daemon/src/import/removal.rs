//! The commands that hand elastic IPs over and remove the older agent. Pure; nobody runs them here.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use super::{
    evidence::{Address, Evidence, SETS},
    takeover::Pair,
};

/// Number of the older agent's routing table, and priority of its rules.
pub(super) const TABLE: u16 = 1001;
/// Its name.
const TABLE_NAME: &str = "eip_route";

/// Some commands, and when it is time for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    title: String,
    commands: Vec<String>,
}

/// Whether a line of `rt_tables` names the table.
pub(super) fn is_table_name(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("1001") && words.next() == Some(TABLE_NAME)
}

/// As a script that says of each part when it is time for it.
pub(super) fn render(steps: &[Step]) -> String {
    let mut text = String::new();
    for Step { title, commands } in steps {
        let _never_fails = writeln!(text, "# {title}");
        for command in commands {
            let _never_fails = writeln!(text, "{command}");
        }
    }
    text
}

/// What to do, in this order. Each part leaves a node that works.
pub(super) fn steps(evidence: &Evidence, pairs: &[Pair]) -> Vec<Step> {
    if evidence.is_empty() {
        return Vec::new();
    }
    let stop = Step {
        title:
            "1. With our agent running on the bindings: keep kube-eip from writing on this node, \
                for example by `kubectl --namespace kube-eip-agent delete daemonset eip-agent`"
                .to_owned(),
        commands: Vec::new(),
    };
    let mut steps = vec![stop];
    let mut push = |title: String, commands: Vec<String>| {
        if !commands.is_empty() {
            steps.push(Step { title, commands });
        }
    };
    push(
        "2. Hand over, one elastic IP at a time: our agent serves each as soon as it is no address \
         of the node any more. To go back: `ip address add`"
            .to_owned(),
        hand_over(evidence, pairs),
    );
    push(
        "3. When `eipctl list` shows all of them as programmed: what translated before".to_owned(),
        rules(evidence),
    );
    push("4. What is left".to_owned(), rest(evidence));
    steps
}

/// Secondary addresses first: a primary one takes those of its network along when it goes.
fn hand_over(evidence: &Evidence, pairs: &[Pair]) -> Vec<String> {
    let eips: BTreeSet<IpAddr> = pairs.iter().map(|pair| pair.eip).collect();
    let held = evidence
        .addresses
        .iter()
        .filter(|held| eips.contains(&held.ip));
    let mut held: Vec<&Address> = held.collect();
    held.sort_by_key(|held| (!held.is_secondary, held.ip));
    let mut commands = Vec::new();
    for device in held
        .iter()
        .map(|held| &held.device)
        .collect::<BTreeSet<_>>()
    {
        let takes_others_along = |held: &&&Address| {
            !held.is_secondary
                && held.device == *device
                && evidence
                    .addresses
                    .iter()
                    .any(|other| other.is_secondary && is_beside(other, held))
        };
        if held.iter().any(|held| takes_others_along(&held)) {
            commands.push(format!(
                "sysctl -w net.ipv4.conf.{}.promote_secondaries=1",
                device.replace('.', "/")
            ));
        }
    }
    for address in held {
        let Address {
            device,
            ip: eip,
            prefix,
            ..
        } = address;
        let is_last = !evidence
            .addresses
            .iter()
            .any(|other| !eips.contains(&other.ip) && is_beside(other, address));
        if is_last && commands.iter().all(|line| !line.starts_with('#')) {
            let net = address.net().map(|net| net.to_string()).unwrap_or_default();
            commands.push(format!(
                "# {device} has no address of its own in {net}: if the gateway is in there, give it one \
                 first, or the gateway is out of reach"
            ));
        }
        commands.push(format!("ip address del {eip}/{prefix} dev {device}"));
    }
    commands
}

fn is_beside(one: &Address, other: &Address) -> bool {
    one.device == other.device && one.net() == other.net()
}

/// First nothing leads into the chains any more, then they can be removed.
fn rules(evidence: &Evidence) -> Vec<String> {
    let mut commands = Vec::new();
    for rules in &evidence.rules {
        let family = &rules.family;
        for (table, rule) in &rules.jumps {
            commands.push(format!("{family} -t {table} -D {rule}"));
        }
        for verb in ["-F", "-X"] {
            let chains = rules.chains.iter();
            commands.extend(chains.map(|chain| format!("{family} -t nat {verb} {chain}")));
        }
    }
    let policy = evidence.policy.iter();
    commands.extend(policy.map(|source| format!("ip rule del from {source} pref {TABLE}")));
    if evidence.has_table {
        commands.push(format!("ip route flush table {TABLE}"));
    }
    commands
}

fn rest(evidence: &Evidence) -> Vec<String> {
    let there = SETS.iter().filter(|set| evidence.sets.contains_key(*set));
    let mut commands: Vec<String> = there.map(|set| format!("ipset destroy {set}")).collect();
    if evidence.names_table {
        commands.push(format!(
            "sed -i '/^{TABLE}[[:space:]]*{TABLE_NAME}/d' /etc/iproute2/rt_tables"
        ));
    }
    let files = evidence.records.iter();
    commands.extend(files.map(|(path, _)| format!("rm '{}'", path.display())));
    commands
}
