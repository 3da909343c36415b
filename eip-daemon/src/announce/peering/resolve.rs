//! From objects and annotations to the peers of this node.

use std::collections::BTreeMap;

use super::{
    BgpSettings, Refusal,
    annotations::{self, Annotated},
    secrets::Secrets,
    tables,
};
use crate::{
    announce::bgp::{
        AttributeSet, ExportPolicy, Family, GracefulRestartMode, Initiative, Password, PeerAs,
        PeerConfig, Reach,
        bfd::{BfdSettings, Role, Strictness},
    },
    model::{
        self, ExportSettings, Facts, NodeFact, PasswordSource, PeerAsn, PeerFact, PeerPlace,
        PeerReach, PeerSettings, Secret,
    },
};

/// A peer of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// For the speaker.
    pub(super) config: PeerConfig,
    /// What is said about routes.
    pub(super) export: ExportSettings,
    /// Where it was read; `None` for annotations.
    pub(super) origin: Option<String>,
}

/// All peers, and those that cannot be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) peers: BTreeMap<String, Peer>,
    pub(super) refused: Vec<Refusal>,
}

/// The peers this node speaks to. Each is judged by itself.
pub(super) fn resolve(facts: &Facts, settings: &BgpSettings, secrets: &Secrets) -> Resolved {
    let node = facts
        .nodes
        .iter()
        .find(|node| node.name == settings.node_name);
    let mut resolved = Resolved::default();
    for fact in facts.peers.iter().filter(|fact| is_selected(fact, node)) {
        let origin = fact.origin.as_ref().map(ToString::to_string);
        let name = fact.name.name.clone();
        let peer = peer(&name, &fact.settings, &fact.export, settings, secrets);
        resolved.add(name, origin, peer);
    }
    let annotated = node.map(|node| annotations::peers(node, &settings.annotation_prefix));
    for Annotated { name, peer: read } in annotated.into_iter().flatten() {
        let peer =
            read.and_then(|(session, export)| peer(&name, &session, &export, settings, secrets));
        resolved.add(name, None, peer);
    }
    resolved
}

impl Resolved {
    fn add(
        &mut self,
        name: String,
        origin: Option<String>,
        peer: Result<(PeerConfig, ExportSettings), String>,
    ) {
        let peer = match peer {
            Ok(_) if self.peers.contains_key(&name) => {
                Err(format!("another peer goes by the name {name}"))
            }
            other => other,
        };
        match peer {
            Ok((config, export)) => {
                let peer = Peer {
                    config,
                    export,
                    origin,
                };
                self.peers.insert(name, peer);
            }
            Err(problem) => self.refused.push(Refusal {
                peer: name,
                origin,
                problem,
            }),
        }
    }
}

/// A node nobody knows has no labels.
fn is_selected(fact: &PeerFact, node: Option<&NodeFact>) -> bool {
    let label = |key: &String| node.and_then(|node| node.labels.get(key));
    fact.node_selector
        .iter()
        .all(|(key, value)| label(key) == Some(value))
}

fn peer(
    name: &str,
    session: &PeerSettings,
    export: &ExportSettings,
    settings: &BgpSettings,
    secrets: &Secrets,
) -> Result<(PeerConfig, ExportSettings), String> {
    let mut config = place(name, session);
    let local_as = session.local_as.or(settings.local_as);
    let local_as = local_as
        .ok_or("spec.localAs is missing: name the AS there, or for the node with --bgp-local-as")?;
    config.transport.port = session.port.unwrap_or(config.transport.port);
    config.transport.source = session.source;
    if session.passive {
        config.transport.initiative = Initiative::Passive;
    }
    config.transport.reach = match session.reach {
        PeerReach::Direct => Reach::Direct,
        PeerReach::Multihop(hops) => Reach::Multihop(hops),
        PeerReach::TtlSecurity(hops) => Reach::TtlSecurity(hops),
    };
    config.transport.password = password(session.password.as_ref(), secrets)?;
    let agreed = &mut config.session;
    agreed.local_as = Some(local_as);
    agreed.hold_time = session.hold_time.unwrap_or(agreed.hold_time);
    agreed.send_hold_time = session.send_hold_time;
    agreed.connect_timeout = session.connect_timeout.unwrap_or(agreed.connect_timeout);
    agreed.families = families(session);
    if !session.graceful_restart {
        agreed.graceful_restart = GracefulRestartMode::Off;
    }
    config.export = policy(name, export);
    check_attributes(export)?;
    config.check().map_err(|error| format!("spec.{error}"))?;
    if config.transport.initiative == Initiative::Passive && settings.listen.is_empty() {
        return Err(
            "spec.passive: nobody listens for the peer on this node, name an address \
                    with --bgp-listen"
                .to_owned(),
        );
    }
    Ok((config, export.clone()))
}

fn place(name: &str, session: &PeerSettings) -> PeerConfig {
    let peer_as = match session.peer_as {
        PeerAsn::Number(asn) => PeerAs::Number(asn),
        PeerAsn::External => PeerAs::External,
        PeerAsn::Internal => PeerAs::Internal,
    };
    let mut config = match &session.place {
        PeerPlace::Address(address) => PeerConfig::new(name, *address, peer_as),
        PeerPlace::Range(range) => PeerConfig::in_range(name, *range, peer_as),
        PeerPlace::Interface(interface) => PeerConfig::on_interface(name, interface, peer_as),
    };
    config.bfd = session.bfd.as_ref().map(bfd);
    if session.interface.is_some() {
        config.transport.interface.clone_from(&session.interface);
    }
    config
}

fn bfd(asked: &model::BfdSettings) -> BfdSettings {
    BfdSettings {
        min_tx: asked.transmit,
        min_rx: asked.receive,
        detect_multiplier: asked.multiplier,
        role: if asked.passive {
            Role::Passive
        } else {
            Role::Active
        },
        min_ttl: asked.minimum_ttl,
        strictness: if asked.strict {
            Strictness::Strict
        } else {
            Strictness::Lenient
        },
    }
}

fn families(session: &PeerSettings) -> Vec<Family> {
    let all = [
        (Family::Ipv4, session.families.ipv4),
        (Family::Ipv6, session.families.ipv6),
    ];
    let wanted = all.into_iter().filter(|(_, is_wanted)| *is_wanted);
    wanted.map(|(family, _)| family).collect()
}

fn password(
    source: Option<&PasswordSource>,
    secrets: &Secrets,
) -> Result<Option<Password>, String> {
    match source {
        None => Ok(None),
        Some(PasswordSource::Inline(Secret(text))) => Password::new(text.as_str())
            .map(Some)
            .map_err(|error| error.to_string()),
        Some(PasswordSource::File(path)) => {
            let read = secrets.get(path);
            read.map(Some)
                .map_err(|error| format!("spec.passwordFile: {}: {error}", path.display()))
        }
    }
}

/// Marks of routes that are all said alike are the session's; others come with the routes.
fn policy(name: &str, export: &ExportSettings) -> ExportPolicy {
    let next_hops = ExportPolicy {
        next_hop_ipv4: export.next_hop_ipv4,
        next_hop_ipv6: export.next_hop_ipv6,
        ..ExportPolicy::default()
    };
    if tables::has_own_table(export) {
        return ExportPolicy {
            table: Some(name.to_owned()),
            ..next_hops
        };
    }
    let attributes = tables::attributes(&[&export.attributes]);
    ExportPolicy {
        communities: attributes.communities,
        med: attributes.med,
        local_pref: attributes.local_pref,
        prepend: attributes.prepend,
        ..next_hops
    }
}

/// No route may get more than a message holds.
fn check_attributes(export: &ExportSettings) -> Result<(), String> {
    let rules = export.rules.iter().map(|rule| Some(&rule.attributes));
    for rule in rules.chain([None]) {
        let preferred = export.preferred.as_ref().map(|preferred| &preferred.marks);
        let levels = [preferred, rule, Some(&export.attributes)];
        let levels: Vec<_> = levels.into_iter().flatten().collect();
        AttributeSet::new(tables::attributes(&levels)).map_err(|error| format!("spec.{error}"))?;
    }
    Ok(())
}
