//! Policy rules of ours: those with our protocol number inside our range of priorities.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteHeader,
        rule::{RuleAction as KernelAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};

use super::{NetlinkError, PROTOCOL, RouteClient, is_gone, routes::family};
use crate::model::{PolicyRule, RULE_PRIORITIES, RuleAction, RuleMatch};

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Our rules of both families. One that somebody changed into a form we never write is not among
/// them; [`remove_all`] finds it nevertheless.
pub(crate) async fn list_own(client: &RouteClient) -> Result<BTreeSet<PolicyRule>, NetlinkError> {
    Ok(dump_own(client).await?.iter().filter_map(read).collect())
}

/// Adds a rule.
pub(crate) async fn add(client: &RouteClient, rule: &PolicyRule) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewRule(write(rule));
    client
        .change(request, NLM_F_CREATE | NLM_F_EXCL)
        .await
        .map_err(|source| NetlinkError::new(format!("add rule {}", rule.priority), source))
}

/// Removes a rule. Gone is as good.
pub(crate) async fn remove(client: &RouteClient, rule: &PolicyRule) -> Result<(), NetlinkError> {
    remove_message(client, write(rule), rule.priority).await
}

/// Removes every rule of ours and says which.
pub(crate) async fn remove_all(client: &RouteClient) -> Result<Vec<String>, NetlinkError> {
    let mut removed = Vec::new();
    for message in dump_own(client).await? {
        let priority = priority(&message);
        let family = if message.header.family == AddressFamily::Inet6 {
            "IPv6"
        } else {
            "IPv4"
        };
        remove_message(client, message, priority).await?;
        removed.push(format!("rule {priority} ({family})"));
    }
    Ok(removed)
}

async fn remove_message(
    client: &RouteClient,
    message: RuleMessage,
    priority: u32,
) -> Result<(), NetlinkError> {
    match client
        .change(RouteNetlinkMessage::DelRule(message), 0)
        .await
    {
        Err(source) if !is_gone(&source) => {
            Err(NetlinkError::new(format!("remove rule {priority}"), source))
        }
        _ => Ok(()),
    }
}

async fn dump_own(client: &RouteClient) -> Result<Vec<RuleMessage>, NetlinkError> {
    let mut own = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let answers = match client.dump(RouteNetlinkMessage::GetRule(request)).await {
            Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => continue,
            answers => answers.map_err(|source| NetlinkError::new("list rules", source))?,
        };
        own.extend(answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) if is_ours(&message) => Some(message),
            _ => None,
        }));
    }
    Ok(own)
}

fn is_ours(message: &RuleMessage) -> bool {
    RULE_PRIORITIES.contains(&priority(message))
        && message
            .attributes
            .contains(&RuleAttribute::Protocol(PROTOCOL))
}

fn priority(message: &RuleMessage) -> u32 {
    let priority = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    priority.unwrap_or(0)
}

fn write(rule: &PolicyRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    write_match(&mut message, &rule.matches);
    match rule.action {
        RuleAction::MainWithoutDefault => {
            write_table(&mut message, MAIN);
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        RuleAction::Table(table) => write_table(&mut message, table),
        RuleAction::Unreachable => message.header.action = KernelAction::Unreachable,
    }
    message
}

fn write_match(message: &mut RuleMessage, matches: &RuleMatch) {
    let (source, destination) = match matches {
        RuleMatch::ArrivingFor { iif, to } => {
            message.attributes.push(RuleAttribute::Iifname(iif.clone()));
            (None, Some(to))
        }
        RuleMatch::From(net) => (Some(net), None),
        RuleMatch::To(net) => (None, Some(net)),
    };
    if let Some(net) = source {
        message.header.family = family(net.addr());
        message.header.src_len = net.prefix_len();
        message
            .attributes
            .push(RuleAttribute::Source(net.network()));
    }
    if let Some(net) = destination {
        message.header.family = family(net.addr());
        message.header.dst_len = net.prefix_len();
        message
            .attributes
            .push(RuleAttribute::Destination(net.network()));
    }
}

fn write_table(message: &mut RuleMessage, table: u32) {
    message.header.action = KernelAction::ToTable;
    // Tables above 255 go by the attribute alone.
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RuleAttribute::Table(table));
}

/// The parts of a rule as the kernel lists them.
#[derive(Default)]
struct Parts {
    iif: Option<String>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    table: u32,
    suppressed: Option<u32>,
    has_more: bool,
}

/// `None` for a rule of a form we never write.
fn read(message: &RuleMessage) -> Option<PolicyRule> {
    let mut parts = Parts {
        table: u32::from(message.header.table),
        ..Parts::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => parts.iif = Some(name.clone()),
            RuleAttribute::Source(address) => parts.source = Some(*address),
            RuleAttribute::Destination(address) => parts.destination = Some(*address),
            RuleAttribute::Table(table) => parts.table = *table,
            // The kernel lists "none" as all ones.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => parts.suppressed = None,
            RuleAttribute::SuppressPrefixLen(length) => parts.suppressed = Some(*length),
            RuleAttribute::FwMark(_) | RuleAttribute::Oifname(_) | RuleAttribute::IpProtocol(_) => {
                parts.has_more = true;
            }
            _ => {}
        }
    }
    if parts.has_more || message.header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    Some(PolicyRule {
        priority: priority(message),
        action: read_action(message.header.action, &parts)?,
        matches: read_match(message, parts)?,
    })
}

fn read_match(message: &RuleMessage, parts: Parts) -> Option<RuleMatch> {
    let Parts {
        iif,
        source,
        destination,
        ..
    } = parts;
    match (iif, source, destination) {
        (Some(iif), None, Some(to)) => Some(RuleMatch::ArrivingFor {
            iif,
            to: IpNet::new(to, message.header.dst_len).ok()?,
        }),
        (None, Some(from), None) => Some(RuleMatch::From(
            IpNet::new(from, message.header.src_len).ok()?,
        )),
        (None, None, Some(to)) => Some(RuleMatch::To(IpNet::new(to, message.header.dst_len).ok()?)),
        _ => None,
    }
}

fn read_action(action: KernelAction, parts: &Parts) -> Option<RuleAction> {
    match (action, parts.table, parts.suppressed) {
        (KernelAction::ToTable, MAIN, Some(0)) => Some(RuleAction::MainWithoutDefault),
        (KernelAction::ToTable, table, None) => Some(RuleAction::Table(table)),
        (KernelAction::Unreachable, _, None) => Some(RuleAction::Unreachable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_ours, read, write};
    use crate::model::{PolicyRule, RULE_PRIORITIES, RuleAction, RuleMatch};

    fn rules() -> Vec<PolicyRule> {
        let nets = ["203.0.113.0/24", "192.0.2.7/32", "2001:db8::/64"];
        let mut rules = Vec::new();
        for net in nets.map(|net| net.parse().unwrap()) {
            for matches in [
                RuleMatch::From(net),
                RuleMatch::To(net),
                RuleMatch::ArrivingFor {
                    iif: "eth1".to_owned(),
                    to: net,
                },
            ] {
                for action in [
                    RuleAction::MainWithoutDefault,
                    RuleAction::Table(201),
                    RuleAction::Table(70_000),
                    RuleAction::Unreachable,
                ] {
                    let matches = matches.clone();
                    rules.push(PolicyRule {
                        priority: *RULE_PRIORITIES.start(),
                        matches,
                        action,
                    });
                }
            }
        }
        rules
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_written() {
        for rule in rules() {
            let message = write(&rule);
            assert!(is_ours(&message), "{rule:?}");
            assert_eq!(read(&message), Some(rule));
        }
    }

    #[test]
    fn a_rule_outside_our_range_is_not_ours() {
        for mut rule in rules() {
            rule.priority = RULE_PRIORITIES.end() + 1;
            assert!(!is_ours(&write(&rule)));
        }
    }
}
