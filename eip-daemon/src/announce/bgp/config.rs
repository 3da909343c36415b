//! Settings of the speaker and of its peers. Checked when they are handed over, constant after.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use super::{
    bfd::BfdSettings,
    route::{self, AttributeError, Communities},
    wire::Family,
};

/// Well-known port (RFC 4271 §4.2).
pub const BGP_PORT: u16 = 179;

/// Settings of the whole speaker. They hold until it is shut down.
#[derive(Debug, Clone)]
pub struct SpeakerConfig {
    /// Our AS.
    pub local_as: u32,
    /// BGP identifier; unique in the AS and not zero (RFC 6286 §2.1).
    pub router_id: Ipv4Addr,
    /// Told to peers; empty for none.
    pub hostname: String,
    /// Where to accept connections of configured peers; empty for nowhere.
    pub listen: Vec<SocketAddr>,
    /// How long peers keep our routes while we are gone (RFC 4724 §3), at most 4095 s. The first
    /// sessions wait for a complete table, but no longer than this after start.
    pub restart_time: Duration,
}

impl SpeakerConfig {
    /// Settings with defaults for all that has one: listens nowhere, restart time 120 s.
    #[must_use]
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            hostname: String::new(),
            listen: Vec::new(),
            restart_time: Duration::from_mins(2),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.local_as == 0 || self.local_as == u32::from(super::wire::AS_TRANS) {
            return Err(ConfigError::Reserved { field: "localAs" });
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::Reserved { field: "routerId" });
        }
        if self.restart_time > Duration::from_secs(4095) {
            return Err(ConfigError::TooLarge {
                field: "restartTime",
                max: 4095,
            });
        }
        Ok(())
    }
}

/// Name of a peer, chosen by whoever configures it; sessions are told apart by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct PeerName(pub String);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which AS the peer has to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAs {
    /// This one.
    Number(u32),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
}

/// Who opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initiative {
    /// We do, and we accept one as well where the speaker listens.
    #[default]
    Active,
    /// The peer does; we never dial (RFC 4271 §8.1.1, `PassiveTcpEstablishment`).
    Passive,
}

/// How far away the peer may be. The three exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// On the same link outside the AS (TTL 1), anywhere inside it (TTL 64).
    #[default]
    Direct,
    /// Up to this many hops away.
    Multihop(u8),
    /// Exactly this many hops away at most, checked on receipt: GTSM (RFC 5082). 1 is a neighbour.
    TtlSecurity(u8),
}

/// Who may be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Neighbour {
    /// [`Transport::address`] and nobody else.
    #[default]
    Address,
    /// Whoever dials from this prefix. Each source has a session of its own, which is forgotten
    /// some time after it was lost. A peer configured by its address goes before.
    Range(IpNet),
    /// The router on [`Transport::interface`], whatever its link-local address: it is learnt from
    /// router advertisements, and we send some for it to learn ours ("unnumbered").
    Advertised,
}

/// A secret. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Longest key the kernel takes for RFC 2385.
    pub const MAX_LEN: usize = 80;

    /// Checks the length.
    ///
    /// # Errors
    /// When it is empty or longer than 80 bytes.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, ConfigError> {
        let secret = secret.into();
        match secret.len() {
            0 => Err(ConfigError::Empty { field: "password" }),
            1..=Self::MAX_LEN => Ok(Self(secret)),
            _ => Err(ConfigError::TooLarge {
                field: "password",
                max: 80,
            }),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How the connection is made. A change of any of it needs a new session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// Who the peer is.
    pub neighbour: Neighbour,
    /// Its address; unspecified where it is not known beforehand.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Interface the connection is bound to; needed for a link-local peer.
    pub interface: Option<String>,
    /// Our address; the kernel chooses when there is none.
    pub source: Option<IpAddr>,
    /// Who opens it.
    pub initiative: Initiative,
    /// How far away the peer may be.
    pub reach: Reach,
    /// Key of RFC 2385.
    pub password: Option<Password>,
}

/// What is agreed in OPENs, and timers. A change of any of it needs a new session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// The peer's AS.
    pub peer_as: PeerAs,
    /// Our AS toward this peer, where it differs.
    pub local_as: Option<u32>,
    /// Hold time to propose; zero, or at least 3 s (RFC 4271 §4.2).
    pub hold_time: Duration,
    /// Longest time the peer may take no byte, not shorter than the hold time; `None` for the larger
    /// of 8 minutes and twice the hold time (RFC 9687 §5).
    pub send_hold_time: Option<Duration>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Families to announce.
    pub families: Vec<Family>,
    /// Whether the peer is asked to keep routes over a restart (RFC 4724).
    pub graceful_restart: GracefulRestartMode,
    /// What to do when the peer refuses our capabilities.
    pub on_refused_capabilities: RefusedCapabilities,
}

/// Graceful restart toward one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GracefulRestartMode {
    /// The peer keeps our routes while we are gone.
    #[default]
    Restarting,
    /// The capability is not sent.
    Off,
}

/// After a NOTIFICATION 2/4 or 2/7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RefusedCapabilities {
    /// Try again as before.
    #[default]
    Insist,
    /// Try again without any (RFC 5492 §3).
    DoWithout,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            peer_as: PeerAs::External,
            local_as: None,
            hold_time: Duration::from_secs(90),
            send_hold_time: None,
            connect_timeout: Duration::from_secs(10),
            families: Family::ALL.to_vec(),
            graceful_restart: GracefulRestartMode::default(),
            on_refused_capabilities: RefusedCapabilities::default(),
        }
    }
}

/// What is said about every route to this peer. A change is announced, the session stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportPolicy {
    /// Name of the table the peer gets, of those given to [`Speaker::set_tables`]; the common one
    /// without a name, and where there is no table of that name.
    ///
    /// [`Speaker::set_tables`]: super::Speaker::set_tables
    pub table: Option<String>,
    /// Added to those of the route.
    pub communities: Communities,
    /// For routes without one.
    pub med: Option<u32>,
    /// For routes without one, inside the AS.
    pub local_pref: Option<u32>,
    /// Added to that of the route.
    pub prepend: u8,
    /// Next hop of IPv4 routes; else our address on the session's interface.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes; else our address on the session's interface.
    pub next_hop_ipv6: Option<Ipv6Addr>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub name: PeerName,
    /// Connection.
    pub transport: Transport,
    /// Session.
    pub session: SessionSettings,
    /// Routes.
    pub export: ExportPolicy,
    /// BFD toward the peer, for neighbours on the link. A change leaves the session as it is.
    pub bfd: Option<BfdSettings>,
}

impl PeerConfig {
    /// A peer with defaults for all but its name, address and AS.
    #[must_use]
    pub fn new(name: &str, address: IpAddr, peer_as: PeerAs) -> Self {
        Self {
            name: PeerName(name.to_owned()),
            transport: Transport {
                neighbour: Neighbour::Address,
                address,
                port: BGP_PORT,
                interface: None,
                source: None,
                initiative: Initiative::default(),
                reach: Reach::default(),
                password: None,
            },
            session: SessionSettings {
                peer_as,
                ..SessionSettings::default()
            },
            export: ExportPolicy::default(),
            bfd: None,
        }
    }

    /// Whoever dials from a prefix.
    #[must_use]
    pub fn in_range(name: &str, range: IpNet, peer_as: PeerAs) -> Self {
        let unknown = match range {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut peer = Self::new(name, unknown, peer_as);
        peer.transport.neighbour = Neighbour::Range(range.trunc());
        peer.transport.initiative = Initiative::Passive;
        peer
    }

    /// The router on an interface.
    #[must_use]
    pub fn on_interface(name: &str, interface: &str, peer_as: PeerAs) -> Self {
        let mut peer = Self::new(name, Ipv6Addr::UNSPECIFIED.into(), peer_as);
        peer.transport.neighbour = Neighbour::Advertised;
        peer.transport.interface = Some(interface.to_owned());
        peer
    }

    /// Checks all fields against their limits.
    ///
    /// # Errors
    /// The first field that is wrong. The peer is refused, the others go on.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self {
            name: _,
            transport,
            session,
            export,
            bfd,
        } = self;
        transport.check()?;
        session.check()?;
        if let Some(bfd) = bfd {
            check_bfd(bfd, transport.reach)?;
        }
        route::check(&export.communities, export.prepend).map_err(ConfigError::Attributes)
    }
}

/// RFC 5880 §6.8.1 and §4.1; sessions over several hops (RFC 5883) are not spoken.
fn check_bfd(bfd: &BfdSettings, reach: Reach) -> Result<(), ConfigError> {
    let is_far = match reach {
        Reach::Direct | Reach::TtlSecurity(0 | 1) => false,
        Reach::Multihop(hops) | Reach::TtlSecurity(hops) => hops > 1,
    };
    if is_far {
        return Err(ConfigError::Reserved { field: "bfd" });
    }
    for (field, interval) in [("bfd.minTx", bfd.min_tx), ("bfd.minRx", bfd.min_rx)] {
        match interval.as_millis() {
            0..10 => return Err(ConfigError::TooSmall { field, min: 10 }),
            10..=60_000 => {}
            _ => return Err(ConfigError::TooLarge { field, max: 60_000 }),
        }
    }
    match (bfd.detect_multiplier, bfd.min_ttl) {
        (0, _) => Err(ConfigError::TooSmall {
            field: "bfd.detectMultiplier",
            min: 1,
        }),
        (_, 0) => Err(ConfigError::TooSmall {
            field: "bfd.minTtl",
            min: 1,
        }),
        (1.., 1..) => Ok(()),
    }
}

impl Transport {
    fn check(&self) -> Result<(), ConfigError> {
        match self.neighbour {
            Neighbour::Address if self.address.is_unspecified() || self.address.is_multicast() => {
                return Err(ConfigError::Reserved { field: "address" });
            }
            // Nobody can be dialled there.
            Neighbour::Range(_) if self.initiative == Initiative::Active => {
                return Err(ConfigError::Reserved { field: "passive" });
            }
            Neighbour::Advertised if self.interface.is_none() => {
                return Err(ConfigError::Empty { field: "interface" });
            }
            Neighbour::Address | Neighbour::Range(_) | Neighbour::Advertised => {}
        }
        if self
            .source
            .is_some_and(|source| source.is_ipv4() != self.address.is_ipv4())
        {
            return Err(ConfigError::FamilyMismatch { field: "source" });
        }
        if self.is_link_local() && self.interface.is_none() {
            return Err(ConfigError::Empty { field: "interface" });
        }
        match self.reach {
            Reach::Multihop(0) => Err(ConfigError::Reserved { field: "multihop" }),
            Reach::TtlSecurity(0) => Err(ConfigError::Reserved {
                field: "ttlSecurity",
            }),
            Reach::Direct | Reach::Multihop(_) | Reach::TtlSecurity(_) => Ok(()),
        }
    }

    /// Whether the peer shares a link with us by its address alone.
    pub(super) fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(v6) if v6.is_unicast_link_local())
    }

    /// Hop limit to send with, and the lowest to accept (RFC 5082 §3).
    pub(super) fn hop_limits(&self, is_internal: bool) -> (u8, Option<u8>) {
        match self.reach {
            Reach::Direct if is_internal => (64, None),
            Reach::Direct => (1, None),
            Reach::Multihop(hops) => (hops, None),
            Reach::TtlSecurity(hops) => (255, Some(255 - (hops - 1).min(254))),
        }
    }
}

impl SessionSettings {
    fn check(&self) -> Result<(), ConfigError> {
        let hold = self.hold_time.as_secs();
        if matches!(hold, 1 | 2) || (hold == 0 && !self.hold_time.is_zero()) {
            return Err(ConfigError::TooSmall {
                field: "holdTime",
                min: 3,
            });
        }
        if hold > u64::from(u16::MAX) {
            return Err(ConfigError::TooLarge {
                field: "holdTime",
                max: 65535,
            });
        }
        if self
            .send_hold_time
            .is_some_and(|time| time < self.hold_time)
        {
            return Err(ConfigError::TooSmall {
                field: "sendHoldTime",
                min: hold,
            });
        }
        if self.connect_timeout.is_zero() {
            return Err(ConfigError::TooSmall {
                field: "connectTimeout",
                min: 1,
            });
        }
        if self.families.is_empty() {
            return Err(ConfigError::Empty { field: "families" });
        }
        if self.peer_as == PeerAs::Number(0) || self.local_as == Some(0) {
            return Err(ConfigError::Reserved { field: "peerAs" });
        }
        Ok(())
    }
}

/// A setting that cannot be used, with its field. Fate: the object it came from is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Out of range.
    #[error("{field}: more than {max}")]
    TooLarge {
        /// Field.
        field: &'static str,
        /// Largest value.
        max: u64,
    },
    /// Out of range.
    #[error("{field}: less than {min}")]
    TooSmall {
        /// Field.
        field: &'static str,
        /// Smallest value.
        min: u64,
    },
    /// Missing.
    #[error("{field}: must not be empty")]
    Empty {
        /// Field.
        field: &'static str,
    },
    /// A value with a meaning of its own.
    #[error("{field}: reserved value")]
    Reserved {
        /// Field.
        field: &'static str,
    },
    /// IPv4 beside IPv6.
    #[error("{field}: not of the peer's address family")]
    FamilyMismatch {
        /// Field.
        field: &'static str,
    },
    /// Two peers under one name, or two that connections could not be told apart by.
    #[error("{field}: taken by peer {other}")]
    Duplicate {
        /// Field.
        field: &'static str,
        /// The peer that has it.
        other: PeerName,
    },
    /// Attributes of the export policy.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
}
