//! `BgpPeer`: a router that host routes are announced to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{BgpPeerStatus, Metadata, ObjectError, community::community};
use crate::model::{
    BfdSettings, ExportRule, ExportSettings, Origin, PasswordSource, PeerAsn, PeerFact,
    PeerFamilies, PeerPlace, PeerReach, PeerSettings, Preference, RouteMarks,
};

/// Kind of a peer.
pub const PEER_KIND: &str = "BgpPeer";
/// Its API version.
pub const PEER_API: &str = super::BINDING_API;
/// Fields of its spec.
pub const PEER_SPEC: [&str; 27] = [
    "peerAddress",
    "peerRange",
    "interface",
    "peerAs",
    "localAs",
    "peerPort",
    "sourceAddress",
    "passive",
    "passwordFile",
    "holdTimeSeconds",
    "sendHoldTimeSeconds",
    "connectTimeoutSeconds",
    "families",
    "multihop",
    "ttlSecurity",
    "gracefulRestart",
    "bfd",
    "nextHop",
    "communities",
    "med",
    "localPref",
    "prepend",
    "rules",
    "aggregates",
    "preferred",
    "nodeSelector",
    "description",
];

/// A router that host routes are announced to, from every node its selector matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpPeer {
    /// Who it is. Peers are cluster-wide.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: BgpPeerSpec,
}

/// A number, or a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NumberOrWord {
    /// A number.
    Number(i64),
    /// A word, which may be a number in quotes.
    Word(String),
}

/// `spec` of a [`BgpPeer`].
#[derive(
    Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "virteip.github.com",
    version = "v1",
    kind = "BgpPeer",
    root = "PeerCrd",
    plural = "bgppeers",
    shortname = "bgpp",
    status = "BgpPeerStatus",
    doc = "A router that nodes announce elastic IPs to.",
    printcolumn = r#"{"name":"ADDRESS","type":"string","jsonPath":".spec.peerAddress"}"#,
    printcolumn = r#"{"name":"AS","type":"string","jsonPath":".spec.peerAs"}"#,
    printcolumn = r#"{"name":"INTERFACE","type":"string","jsonPath":".spec.interface"}"#,
    printcolumn = r#"{"name":"ESTABLISHED","type":"string","jsonPath":".status.sessions"}"#,
    printcolumn = r#"{"name":"ACCEPTED","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"REASON","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Established\")].message"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["peerAs"]))]
pub struct BgpPeerSpec {
    /// The peer's address. One of this, `peerRange` and `interface` alone has to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// Whoever dials from this prefix is a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_range: Option<String>,
    /// Interface the session is bound to; without an address, the router on it is the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The peer's AS: a number, `external` or `internal`.
    #[schemars(schema_with = "number_or_word")]
    pub peer_as: Option<NumberOrWord>,
    /// Our AS toward it; the node's without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_as: Option<i64>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_port: Option<i64>,
    /// Our address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// The peer dials, we never do.
    pub passive: bool,
    /// File on the node with the TCP MD5 password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// Hold time to propose; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_time_seconds: Option<i64>,
    /// Longest time the peer may take no byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_hold_time_seconds: Option<i64>,
    /// Longest time one attempt to connect may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_seconds: Option<i64>,
    /// `ipv4`, `ipv6`; both without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<String>,
    /// The peer is up to this many hops away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multihop: Option<i64>,
    /// The peer is at most this many hops away, checked on receipt (GTSM, RFC 5082).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<i64>,
    /// The peer keeps routes while the agent restarts; yes unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<bool>,
    /// Bidirectional forwarding detection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// Next hop where it is not our address on the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopSpec>,
    /// Communities of all routes: `64512:100`, `no-export`, `64512:1:2`, `rt:64512:100`, ...
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// `MULTI_EXIT_DISC` of all routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<i64>,
    /// `LOCAL_PREF` of all routes, inside the AS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<i64>,
    /// How often our AS is prepended to all routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend: Option<i64>,
    /// What is said otherwise about some routes; the first rule that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSpec>,
    /// Prefixes announced while an elastic IP inside of them is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<String>,
    /// What is said for a while about an elastic IP whose VM has just come from another node, where
    /// the source reports that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred: Option<PreferredSpec>,
    /// Labels a node must have to speak to this peer; every node without any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Bidirectional forwarding detection (RFC 5880); an empty block takes the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BfdSpec {
    /// Shortest interval between packets to the peer; 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_interval_ms: Option<i64>,
    /// Shortest interval between packets of the peer; 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_interval_ms: Option<i64>,
    /// Packets that may be missing in a row; 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<i64>,
    /// The peer speaks first.
    pub passive: bool,
    /// Lowest TTL of a packet of the peer; 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ttl: Option<i64>,
    /// No BGP session without BFD.
    pub strict: bool,
}

/// Next hops.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NextHopSpec {
    /// Of IPv4 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// Of IPv6 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// Attributes of routes, as in [`BgpPeerSpec`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MarksSpec {
    /// Communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// `MULTI_EXIT_DISC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<i64>,
    /// `LOCAL_PREF`, inside the AS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<i64>,
    /// How often our AS is prepended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend: Option<i64>,
}

/// What is said for a while about an elastic IP whose VM has just come from another node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PreferredSpec {
    /// For how long; 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
    /// What is said, before rules and the peer's own attributes.
    pub set: MarksSpec,
}

/// Some routes, and what is said about them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RuleSpec {
    /// Which routes; all without any condition.
    #[serde(rename = "match")]
    pub matches: MatchSpec,
    /// `false`: not announced to this peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce: Option<bool>,
    /// Attributes that go before those of the peer; communities are added.
    pub set: MarksSpec,
}

/// Conditions of a rule; all of them have to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MatchSpec {
    /// The elastic IP is inside one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// The binding is in one of these namespaces.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<String>,
    /// The binding has one of these names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub bindings: BTreeSet<String>,
}

fn number_or_word(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "description": "The peer's AS: a number, `external` or `internal`."
    })
}

impl BgpPeer {
    /// The object as a fact.
    ///
    /// # Errors
    /// What is missing or wrong, and what would be right.
    pub fn into_fact(self, origin: Option<Origin>) -> Result<PeerFact, ObjectError> {
        let name = self.metadata.object_name()?;
        let spec = self.spec;
        Ok(PeerFact {
            name,
            generation: self.metadata.generation.unwrap_or(0),
            settings: spec.settings()?,
            export: spec.export()?,
            node_selector: spec.node_selector,
            origin,
        })
    }
}

impl BgpPeerSpec {
    fn settings(&self) -> Result<PeerSettings, ObjectError> {
        let place = self.place()?;
        Ok(PeerSettings {
            interface: match place {
                PeerPlace::Interface(_) => None,
                PeerPlace::Address(_) | PeerPlace::Range(_) => self.interface.clone(),
            },
            place,
            peer_as: self.peer_as()?,
            local_as: self.local_as.map(|n| asn("spec.localAs", n)).transpose()?,
            port: self.port()?,
            source: optional("spec.sourceAddress", self.source_address.as_ref(), ADDRESS)?,
            passive: self.passive,
            reach: self.reach()?,
            password: self.password()?,
            hold_time: self.hold_time()?,
            send_hold_time: self.send_hold_time()?,
            connect_timeout: self.connect_timeout()?,
            families: self.families()?,
            graceful_restart: self.graceful_restart.unwrap_or(true),
            bfd: self.bfd.as_ref().map(BfdSpec::settings).transpose()?,
        })
    }

    fn place(&self) -> Result<PeerPlace, ObjectError> {
        match (&self.peer_address, &self.peer_range, &self.interface) {
            (Some(text), None, _) => Ok(PeerPlace::Address(parsed(
                "spec.peerAddress",
                text,
                ADDRESS,
            )?)),
            (None, Some(text), _) => Ok(PeerPlace::Range(network("spec.peerRange", text)?)),
            (None, None, Some(name)) if !name.is_empty() => Ok(PeerPlace::Interface(name.clone())),
            (Some(_), Some(range), _) => Err(ObjectError::invalid(
                "spec.peerRange",
                range,
                "allowed beside peerAddress: leave one of the two out",
            )),
            (None, None, _) => Err(ObjectError::Missing {
                field: "spec.peerAddress".to_owned(),
                expected: "the peer's address, or an interface with a router on it",
            }),
        }
    }

    fn peer_as(&self) -> Result<PeerAsn, ObjectError> {
        let field = "spec.peerAs";
        let expected = "an AS number, external or internal";
        match &self.peer_as {
            None => Err(ObjectError::Missing {
                field: field.to_owned(),
                expected,
            }),
            Some(NumberOrWord::Number(number)) => Ok(PeerAsn::Number(asn(field, *number)?)),
            Some(NumberOrWord::Word(word)) => match (word.as_str(), word.parse()) {
                ("external", _) => Ok(PeerAsn::External),
                ("internal", _) => Ok(PeerAsn::Internal),
                (_, Ok(number)) => Ok(PeerAsn::Number(asn(field, number)?)),
                (_, Err(_)) => Err(ObjectError::invalid(field, word, expected)),
            },
        }
    }

    fn port(&self) -> Result<Option<u16>, ObjectError> {
        let port = self.peer_port.map(|port| {
            let expected = "a port number from 1 to 65535";
            number("spec.peerPort", port, 1..=u16::MAX.into(), expected)
        });
        Ok(port.transpose()?.and_then(|port| u16::try_from(port).ok()))
    }

    fn reach(&self) -> Result<PeerReach, ObjectError> {
        let hops = |field: &str, hops: i64| {
            let hops = number(field, hops, 1..=255, "a number of hops from 1 to 255")?;
            Ok(u8::try_from(hops).unwrap_or(u8::MAX))
        };
        match (self.multihop, self.ttl_security) {
            (None, None) => Ok(PeerReach::Direct),
            (Some(count), None) => Ok(PeerReach::Multihop(hops("spec.multihop", count)?)),
            (None, Some(count)) => Ok(PeerReach::TtlSecurity(hops("spec.ttlSecurity", count)?)),
            (Some(_), Some(count)) => Err(ObjectError::invalid(
                "spec.ttlSecurity",
                &count.to_string(),
                "allowed beside multihop: leave one of the two out",
            )),
        }
    }

    fn password(&self) -> Result<Option<PasswordSource>, ObjectError> {
        let Some(text) = &self.password_file else {
            return Ok(None);
        };
        if !text.starts_with('/') {
            let expected = "an absolute path to a file on the node";
            return Err(ObjectError::invalid("spec.passwordFile", text, expected));
        }
        Ok(Some(PasswordSource::File(PathBuf::from(text))))
    }

    fn hold_time(&self) -> Result<Option<Duration>, ObjectError> {
        let field = "spec.holdTimeSeconds";
        if let Some(time @ (1 | 2)) = self.hold_time_seconds {
            let expected = "0 for none, or at least 3";
            return Err(ObjectError::invalid(field, &time.to_string(), expected));
        }
        seconds(field, self.hold_time_seconds)
    }

    /// RFC 9687 §3.2: what is shorter may end a session that had nothing to say.
    fn send_hold_time(&self) -> Result<Option<Duration>, ObjectError> {
        let field = "spec.sendHoldTimeSeconds";
        let hold = self.hold_time_seconds.unwrap_or(90);
        if let Some(time) = self.send_hold_time_seconds.filter(|time| *time < hold) {
            let expected = "at least the hold time (90 where it is left out)";
            return Err(ObjectError::invalid(field, &time.to_string(), expected));
        }
        seconds(field, self.send_hold_time_seconds)
    }

    fn connect_timeout(&self) -> Result<Option<Duration>, ObjectError> {
        let field = "spec.connectTimeoutSeconds";
        if self.connect_timeout_seconds == Some(0) {
            return Err(ObjectError::invalid(field, "0", "at least 1"));
        }
        seconds(field, self.connect_timeout_seconds)
    }

    fn families(&self) -> Result<PeerFamilies, ObjectError> {
        if self.families.is_empty() {
            return Ok(PeerFamilies::default());
        }
        let mut families = PeerFamilies {
            ipv4: false,
            ipv6: false,
        };
        for name in &self.families {
            match name.as_str() {
                "ipv4" => families.ipv4 = true,
                "ipv6" => families.ipv6 = true,
                _ => return Err(ObjectError::invalid("spec.families", name, "ipv4 or ipv6")),
            }
        }
        Ok(families)
    }

    fn export(&self) -> Result<ExportSettings, ObjectError> {
        let next_hop = self.next_hop.clone().unwrap_or_default();
        let marks = MarksSpec {
            communities: self.communities.clone(),
            med: self.med,
            local_pref: self.local_pref,
            prepend: self.prepend,
        };
        let rules = self.rules.iter().enumerate();
        let rules: Result<Vec<_>, _> = rules.map(|(at, rule)| rule.rule(at)).collect();
        let aggregates = self.aggregates.iter();
        let aggregates: Result<BTreeSet<_>, _> = aggregates
            .map(|text| network("spec.aggregates", text))
            .collect();
        Ok(ExportSettings {
            next_hop_ipv4: optional(
                "spec.nextHop.ipv4",
                next_hop.ipv4.as_ref(),
                "an IPv4 address",
            )?,
            next_hop_ipv6: optional(
                "spec.nextHop.ipv6",
                next_hop.ipv6.as_ref(),
                "an IPv6 address",
            )?,
            attributes: marks.marks("spec")?,
            rules: rules?,
            aggregates: aggregates?,
            preferred: self
                .preferred
                .as_ref()
                .map(PreferredSpec::preference)
                .transpose()?,
        })
    }
}

impl BfdSpec {
    fn settings(&self) -> Result<BfdSettings, ObjectError> {
        let interval = |field: &str, value: Option<i64>| {
            let expected = "milliseconds from 10 to 60000";
            let ms = number(field, value.unwrap_or(300), 10..=60_000, expected)?;
            Ok(Duration::from_millis(u64::from(ms)))
        };
        let small = |field: &str, value: Option<i64>, default: u8| {
            let value = value.unwrap_or(default.into());
            let value = number(field, value, 1..=255, "a number from 1 to 255")?;
            Ok(u8::try_from(value).unwrap_or(u8::MAX))
        };
        Ok(BfdSettings {
            transmit: interval("spec.bfd.transmitIntervalMs", self.transmit_interval_ms)?,
            receive: interval("spec.bfd.receiveIntervalMs", self.receive_interval_ms)?,
            multiplier: small("spec.bfd.multiplier", self.multiplier, 3)?,
            passive: self.passive,
            minimum_ttl: small("spec.bfd.minimumTtl", self.minimum_ttl, 255)?,
            strict: self.strict,
        })
    }
}

impl MarksSpec {
    fn marks(&self, path: &str) -> Result<RouteMarks, ObjectError> {
        let field = |name: &str| format!("{path}.{name}");
        let communities = self.communities.iter();
        let communities: Result<BTreeSet<_>, _> = communities
            .map(|text| community(&field("communities"), text))
            .collect();
        let whole = |name: &str, value: Option<i64>, max: u32, expected| {
            let value = value.map(|value| number(&field(name), value, 0..=max, expected));
            value.transpose()
        };
        let prepend = whole("prepend", self.prepend, 32, "a number from 0 to 32")?;
        Ok(RouteMarks {
            communities: communities?,
            med: whole("med", self.med, u32::MAX, "a number of 32 bits")?,
            local_pref: whole(
                "localPref",
                self.local_pref,
                u32::MAX,
                "a number of 32 bits",
            )?,
            prepend: prepend.and_then(|count| u8::try_from(count).ok()),
        })
    }
}

impl PreferredSpec {
    fn preference(&self) -> Result<Preference, ObjectError> {
        let duration = seconds("spec.preferred.seconds", self.seconds.or(Some(30)))?;
        Ok(Preference {
            duration: duration.unwrap_or_default(),
            marks: self.set.marks("spec.preferred.set")?,
        })
    }
}

impl RuleSpec {
    fn rule(&self, at: usize) -> Result<ExportRule, ObjectError> {
        let path = format!("spec.rules[{at}]");
        let prefixes = self.matches.prefixes.iter();
        let field = format!("{path}.match.prefixes");
        let prefixes: Result<Vec<_>, _> = prefixes.map(|text| network(&field, text)).collect();
        Ok(ExportRule {
            prefixes: prefixes?,
            namespaces: self.matches.namespaces.clone(),
            bindings: self.matches.bindings.clone(),
            announce: self.announce.unwrap_or(true),
            attributes: self.set.marks(&format!("{path}.set"))?,
        })
    }
}

const ADDRESS: &str = "an IP address";

fn parsed<T: std::str::FromStr>(
    field: &str,
    text: &str,
    expected: &'static str,
) -> Result<T, ObjectError> {
    let value = text.trim().parse();
    value.map_err(|_| ObjectError::invalid(field, text, expected))
}

fn optional<T: std::str::FromStr>(
    field: &str,
    text: Option<&String>,
    expected: &'static str,
) -> Result<Option<T>, ObjectError> {
    text.map(|text| parsed(field, text, expected)).transpose()
}

/// A prefix, or an address as the prefix of itself.
fn network(field: &str, text: &str) -> Result<IpNet, ObjectError> {
    if let Ok(address) = text.trim().parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = parsed(field, text, "a prefix such as 203.0.113.0/24")?;
    Ok(net.trunc())
}

fn number(
    field: &str,
    value: i64,
    range: std::ops::RangeInclusive<u32>,
    expected: &'static str,
) -> Result<u32, ObjectError> {
    let number = u32::try_from(value).ok();
    let number = number.filter(|number| range.contains(number));
    number.ok_or_else(|| ObjectError::invalid(field, &value.to_string(), expected))
}

/// RFC 4893 and RFC 7607: 0 and 23456 are nobody's.
fn asn(field: &str, value: i64) -> Result<u32, ObjectError> {
    let expected = "an AS number from 1 to 4294967295 other than 23456";
    let asn = number(field, value, 1..=u32::MAX, expected)?;
    if asn == 23456 {
        return Err(ObjectError::invalid(field, "23456", expected));
    }
    Ok(asn)
}

fn seconds(field: &str, value: Option<i64>) -> Result<Option<Duration>, ObjectError> {
    let seconds = value.map(|value| number(field, value, 0..=65535, "seconds from 0 to 65535"));
    Ok(seconds.transpose()?.map(|s| Duration::from_secs(s.into())))
}
