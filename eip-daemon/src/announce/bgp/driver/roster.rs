//! Who the peers are, where their configuration does not say it by address: sources that dial from
//! a range, and routers that advertise themselves on an interface. No I/O, no clock.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::announce::bgp::config::{Neighbour, PeerConfig, PeerName};

/// Peers by name.
pub(super) type Peers = BTreeMap<PeerName, PeerConfig>;

/// Sessions of one range at a time. More sources than that are nobody's routers.
const MAX_PER_RANGE: usize = 256;
/// A router that was heard more recently than this is not given up for another one while its
/// session is up. Routers advertise every 10 s or so on such links.
const ROUTER_PATIENCE: Duration = Duration::from_secs(30);

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) address: IpAddr,
    /// Of a link-local address.
    pub(super) interface: Option<String>,
}

/// A peer that dialled from a range.
#[derive(Debug)]
struct Guest {
    range: PeerName,
    source: Source,
}

#[derive(Debug)]
struct Router {
    address: Ipv6Addr,
    heard: Instant,
}

/// Everybody whose address was not configured.
#[derive(Debug, Default)]
pub(super) struct Roster {
    guests: BTreeMap<PeerName, Guest>,
    routers: BTreeMap<String, Router>,
}

impl Roster {
    /// The peers with their addresses. Those whose address is not known yet are not among them.
    pub(super) fn resolve(&self, configured: &Arc<Peers>) -> Arc<Peers> {
        let is_plain = |peer: &PeerConfig| peer.transport.neighbour == Neighbour::Address;
        if configured.values().all(is_plain) {
            return Arc::clone(configured);
        }
        let mut resolved = Peers::new();
        for peer in configured.values() {
            match peer.transport.neighbour {
                Neighbour::Address => {
                    resolved.insert(peer.name.clone(), peer.clone());
                }
                Neighbour::Advertised => {
                    if let Some(router) = self.router_of(peer) {
                        let peer = at(peer, router.address.into());
                        resolved.insert(peer.name.clone(), peer);
                    }
                }
                Neighbour::Range(_) => {
                    let guests = self.guests.iter();
                    for (name, guest) in guests.filter(|(_, guest)| guest.range == peer.name) {
                        let mut peer = at(peer, guest.source.address);
                        peer.name.clone_from(name);
                        if guest.source.interface.is_some() {
                            peer.transport.interface.clone_from(&guest.source.interface);
                        }
                        resolved.insert(name.clone(), peer);
                    }
                }
            }
        }
        Arc::new(resolved)
    }

    /// Whether the peer is known by address.
    pub(super) fn is_known(&self, peer: &PeerConfig) -> bool {
        match peer.transport.neighbour {
            Neighbour::Address => true,
            Neighbour::Advertised => self.router_of(peer).is_some(),
            Neighbour::Range(_) => false,
        }
    }

    /// Takes note of a connection from a range, of the longest that fits. Says whether there is
    /// now somebody to hand it to who was not there before.
    pub(super) fn admit(&mut self, configured: &Peers, source: Source) -> bool {
        let fitting = configured
            .values()
            .filter_map(|peer| match peer.transport.neighbour {
                Neighbour::Range(range) if fits(peer, range, &source) => Some((range, peer)),
                Neighbour::Range(_) | Neighbour::Address | Neighbour::Advertised => None,
            });
        let Some((_, peer)) = fitting.max_by_key(|(range, _)| range.prefix_len()) else {
            return false;
        };
        let of_range = self.guests.values().filter(|g| g.range == peer.name);
        if of_range.count() >= MAX_PER_RANGE {
            return false;
        }
        let name = PeerName(format!("{}[{}]", peer.name, source.address));
        let guest = Guest {
            range: peer.name.clone(),
            source,
        };
        self.guests.insert(name, guest).is_none()
    }

    /// Forgets guests whose session is over, and those whose range is not configured any more.
    /// Says whether anybody is gone.
    pub(super) fn tidy(&mut self, configured: &Peers, is_over: impl Fn(&PeerName) -> bool) -> bool {
        let before = self.guests.len();
        self.guests
            .retain(|name, guest| configured.contains_key(&guest.range) && !is_over(name));
        self.guests.len() != before
    }

    /// Whether there is anybody to tidy up after.
    pub(super) fn has_guests(&self) -> bool {
        !self.guests.is_empty()
    }

    /// A router has advertised itself. Another one than before takes its place only when the
    /// session is not up or nothing was heard of the old one for some time. Says whether the
    /// router of the interface has changed.
    pub(super) fn hear(
        &mut self,
        interface: &str,
        address: Ipv6Addr,
        is_up: bool,
        now: Instant,
    ) -> bool {
        if let Some(router) = self.routers.get_mut(interface) {
            if router.address == address {
                router.heard = now;
                return false;
            }
            if is_up && now.duration_since(router.heard) < ROUTER_PATIENCE {
                return false;
            }
        }
        let heard = now;
        let router = Router { address, heard };
        self.routers.insert(interface.to_owned(), router);
        true
    }

    fn router_of(&self, peer: &PeerConfig) -> Option<&Router> {
        self.routers.get(peer.transport.interface.as_deref()?)
    }
}

fn at(peer: &PeerConfig, address: IpAddr) -> PeerConfig {
    let mut peer = peer.clone();
    peer.transport.address = address;
    peer
}

fn fits(peer: &PeerConfig, range: IpNet, source: &Source) -> bool {
    let wanted = &peer.transport.interface;
    let is_there = wanted.is_none() || source.interface.is_none() || *wanted == source.interface;
    range.contains(&source.address) && is_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::bgp::config::PeerAs;

    fn peers(peers: impl IntoIterator<Item = PeerConfig>) -> Arc<Peers> {
        Arc::new(peers.into_iter().map(|p| (p.name.clone(), p)).collect())
    }

    fn range(name: &str, range: &str) -> PeerConfig {
        PeerConfig::in_range(name, range.parse().unwrap(), PeerAs::External)
    }

    fn source(address: &str) -> Source {
        Source {
            address: address.parse().unwrap(),
            interface: None,
        }
    }

    fn names(peers: &Peers) -> Vec<&str> {
        peers.keys().map(|name| name.0.as_str()).collect()
    }

    #[test]
    fn a_source_gets_a_session_of_the_longest_range_it_is_in() {
        let configured = peers([range("wide", "10.0.0.0/8"), range("rack", "10.1.0.0/16")]);
        let mut roster = Roster::default();
        assert!(roster.resolve(&configured).is_empty());
        assert!(roster.admit(&configured, source("10.1.0.7")));
        assert!(roster.admit(&configured, source("10.2.0.7")));
        assert!(!roster.admit(&configured, source("10.2.0.7")), "known");
        assert!(!roster.admit(&configured, source("192.0.2.1")), "nobody's");
        let resolved = roster.resolve(&configured);
        assert_eq!(names(&resolved), ["rack[10.1.0.7]", "wide[10.2.0.7]"]);
        let peer = resolved.values().next().unwrap();
        assert_eq!(peer.transport.address, source("10.1.0.7").address);
    }

    #[test]
    fn guests_are_bounded_and_forgotten() {
        let configured = peers([range("wide", "10.0.0.0/8")]);
        let mut roster = Roster::default();
        for host in 0..1000_u32 {
            let address = IpAddr::V4((0x0a00_0000 + host).into());
            roster.admit(
                &configured,
                Source {
                    address,
                    interface: None,
                },
            );
        }
        assert_eq!(roster.resolve(&configured).len(), MAX_PER_RANGE);
        assert!(!roster.tidy(&configured, |_| false));
        assert!(roster.tidy(&configured, |name| name.0.ends_with(".7]")));
        assert_eq!(roster.resolve(&configured).len(), MAX_PER_RANGE - 1);
        assert!(roster.tidy(&Peers::new(), |_| false));
        assert!(!roster.has_guests());
    }

    #[test]
    fn a_router_is_followed_to_its_new_address_but_not_off_a_session_that_works() {
        let configured = peers([PeerConfig::on_interface("tor", "eth1", PeerAs::External)]);
        let mut roster = Roster::default();
        let now = Instant::now();
        let [first, second]: [Ipv6Addr; 2] = ["fe80::1", "fe80::2"].map(|a| a.parse().unwrap());
        let address = |roster: &Roster| {
            let resolved = roster.resolve(&configured);
            resolved.values().next().map(|peer| peer.transport.address)
        };
        assert_eq!(address(&roster), None);
        assert!(roster.hear("eth1", first, false, now));
        assert!(!roster.hear("eth1", second, true, now), "the session is up");
        assert_eq!(address(&roster), Some(first.into()));
        assert!(roster.hear("eth1", second, false, now));
        assert_eq!(address(&roster), Some(second.into()));
        assert!(roster.hear("eth1", first, true, now + ROUTER_PATIENCE));
        assert_eq!(address(&roster), Some(first.into()));
        assert!(!roster.hear("eth1", first, true, now + ROUTER_PATIENCE));
    }
}
