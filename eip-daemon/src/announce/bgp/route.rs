//! What is to be announced: routes, their attributes, and the whole table of them.

use std::{cmp::Ordering, collections::BTreeSet, ops::Deref, sync::Arc};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `NO_EXPORT` (RFC 1997).
pub const NO_EXPORT: u32 = 0xffff_ff01;
/// `NO_ADVERTISE` (RFC 1997).
pub const NO_ADVERTISE: u32 = 0xffff_ff02;
/// `GRACEFUL_SHUTDOWN` (RFC 8326 §5).
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// Most communities of one kind on one route, and on top of them per peer. Together with
/// [`MAX_PREPEND`] it keeps the attributes of any route below 3400 bytes, so that at least one
/// prefix fits into any message.
pub const MAX_COMMUNITIES: usize = 64;
/// Most times our AS is prepended.
pub const MAX_PREPEND: u8 = 32;

/// Communities of all three kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Communities {
    /// RFC 1997.
    pub standard: BTreeSet<u32>,
    /// RFC 4360.
    pub extended: BTreeSet<[u8; 8]>,
    /// RFC 8092.
    pub large: BTreeSet<[u32; 3]>,
}

impl Communities {
    fn is_too_many(&self) -> bool {
        let Self {
            standard,
            extended,
            large,
        } = self;
        [standard.len(), extended.len(), large.len()]
            .into_iter()
            .any(|n| n > MAX_COMMUNITIES)
    }
}

/// What is said about a route beside its prefix. A peer's [`ExportPolicy`] adds to it.
///
/// [`ExportPolicy`]: super::ExportPolicy
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RouteAttributes {
    /// Communities.
    pub communities: Communities,
    /// `MULTI_EXIT_DISC`; none is sent when the peer's policy has none either.
    pub med: Option<u32>,
    /// `LOCAL_PREF` inside the AS; 100 when the peer's policy has none either.
    pub local_pref: Option<u32>,
    /// How often our AS is prepended, on top of the peer's policy.
    pub prepend: u8,
}

/// Attributes that no peer could be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// Reject the object they come from.
    #[error("communities: more than {MAX_COMMUNITIES} of one kind")]
    TooManyCommunities,
    /// Reject the object they come from.
    #[error("prepend: more than {MAX_PREPEND}")]
    TooManyPrepends,
}

/// Checked attributes, shared by the routes that have them. Cheap to clone, and cheap to compare
/// with itself: the address goes before the content (`Arc` has that for equality only).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttributeSet(Arc<RouteAttributes>);

impl Ord for AttributeSet {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            Ordering::Equal
        } else {
            self.0.cmp(&other.0)
        }
    }
}

impl PartialOrd for AttributeSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl AttributeSet {
    /// Checks the attributes.
    ///
    /// # Errors
    /// When they could exceed a message.
    pub fn new(attributes: RouteAttributes) -> Result<Self, AttributeError> {
        check(&attributes.communities, attributes.prepend)?;
        Ok(Self(Arc::new(attributes)))
    }
}

pub(super) fn check(communities: &Communities, prepend: u8) -> Result<(), AttributeError> {
    if communities.is_too_many() {
        return Err(AttributeError::TooManyCommunities);
    }
    if prepend > MAX_PREPEND {
        return Err(AttributeError::TooManyPrepends);
    }
    Ok(())
}

impl Default for AttributeSet {
    /// No attribute beyond those every route has.
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl Deref for AttributeSet {
    type Target = RouteAttributes;

    fn deref(&self) -> &RouteAttributes {
        &self.0
    }
}

/// A route to announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Prefix; host bits are ignored.
    pub prefix: IpNet,
    /// Attributes.
    pub attributes: AttributeSet,
}

/// Routes of one family, ascending by prefix, each prefix once.
pub type FamilyRoutes<P> = Arc<[(P, AttributeSet)]>;

/// A whole desired set. Immutable and shared: all peers refer to one.
#[derive(Debug, Clone)]
pub struct RouteTable {
    /// IPv4.
    pub ipv4: FamilyRoutes<Ipv4Net>,
    /// IPv6.
    pub ipv6: FamilyRoutes<Ipv6Net>,
    /// Nothing is missing: what is not here is not served. Until then nothing is ended.
    pub is_complete: bool,
    /// Counts the calls that led here, so that a peer's status can say how far it has come.
    pub generation: u64,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            ipv4: Arc::from([]),
            ipv6: Arc::from([]),
            is_complete: false,
            generation: 0,
        }
    }
}

impl RouteTable {
    /// Sorts the routes by family and prefix. Of a prefix named twice the last one stands.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route>, is_complete: bool) -> Self {
        let mut ipv4 = Vec::new();
        let mut ipv6 = Vec::new();
        for Route { prefix, attributes } in routes {
            match prefix {
                IpNet::V4(net) => ipv4.push((net.trunc(), attributes)),
                IpNet::V6(net) => ipv6.push((net.trunc(), attributes)),
            }
        }
        Self {
            ipv4: sorted(ipv4),
            ipv6: sorted(ipv6),
            is_complete,
            generation: 0,
        }
    }
}

fn sorted<P: Ord + Copy>(mut routes: Vec<(P, AttributeSet)>) -> FamilyRoutes<P> {
    // Stable, so that the last of equal prefixes is last; then reversed for dedup to keep it.
    routes.sort_by_key(|(prefix, _)| *prefix);
    routes.reverse();
    routes.dedup_by_key(|(prefix, _)| *prefix);
    routes.reverse();
    routes.into()
}
