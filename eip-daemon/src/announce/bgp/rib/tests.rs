use std::collections::BTreeSet;

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::announce::bgp::{
    route::RouteAttributes,
    wire::{
        AsNumberWidth, Family, NextHop, PathAttributes, SizeLimit, UpdateWriter, encode_end_of_rib,
    },
};

fn host(index: u32) -> Ipv4Net {
    Ipv4Net::new_assert((0x0a00_0000 + index).into(), 32)
}

fn host6(index: u128) -> Ipv6Net {
    Ipv6Net::new_assert(((0xfd00_u128 << 112) + index).into(), 128)
}

fn attributes(med: u32) -> AttributeSet {
    AttributeSet::new(RouteAttributes {
        med: Some(med),
        ..RouteAttributes::default()
    })
    .unwrap()
}

fn table(routes: &[(u32, u32)]) -> FamilyRoutes<Ipv4Net> {
    let routes: BTreeMap<u32, u32> = routes.iter().copied().collect();
    routes
        .into_iter()
        .map(|(index, med)| (host(index), attributes(med)))
        .collect()
}

/// What a peer knows that does as it is told.
#[derive(Debug, Default)]
struct PeerView {
    /// With what was said about them.
    routes: BTreeMap<Ipv4Net, u32>,
    said: Vec<&'static str>,
    /// The policy at the moment; what is said comes of it as much as of the route.
    policy: u32,
    /// Under which policy a route was said.
    said_under: BTreeMap<Ipv4Net, u32>,
    /// Not said again since the last `BoRR` (RFC 7313 §4).
    stale: BTreeSet<Ipv4Net>,
}

impl PeerView {
    /// Takes one message of at most `size` routes; `false` when nothing is due.
    fn listen(&mut self, rib: &mut AdjRibOut<Ipv4Net>, size: usize) -> bool {
        let Some(due) = rib.due() else { return false };
        let mut room = size;
        let mut fits = || room.checked_sub(1).map(|left| room = left).is_some();
        match due {
            Due::Withdrawals => {
                self.said.push("withdraw");
                rib.take_withdrawals(|prefix| {
                    fits() && {
                        assert!(
                            self.routes.remove(&prefix).is_some(),
                            "{prefix} was not there"
                        );
                        self.said_under.remove(&prefix);
                        self.stale.remove(&prefix);
                        true
                    }
                });
            }
            Due::Announcements(attributes) => {
                self.said.push("announce");
                let med = attributes.med.unwrap();
                rib.take_announcements(&attributes, |prefix| {
                    fits() && {
                        self.routes.insert(prefix, med);
                        self.said_under.insert(prefix, self.policy);
                        self.stale.remove(&prefix);
                        true
                    }
                });
            }
            Due::BeginOfRefresh => {
                self.said.push("begin");
                self.stale = self.routes.keys().copied().collect();
                rib.refresh_begun();
            }
            Due::End(marker) => {
                self.said.push(match marker {
                    EndMarker::EndOfRib => "end of rib",
                    EndMarker::EndOfRefresh => "end of refresh",
                });
                if marker == EndMarker::EndOfRefresh {
                    for prefix in std::mem::take(&mut self.stale) {
                        self.routes.remove(&prefix);
                    }
                }
                rib.ended(marker);
            }
        }
        true
    }

    fn listen_to_all(&mut self, rib: &mut AdjRibOut<Ipv4Net>) {
        while self.listen(rib, 3) {}
    }
}

#[test]
fn a_new_peer_hears_everything_and_then_the_end() {
    let mut rib = AdjRibOut::new(table(&[(1, 10), (2, 10), (3, 20)]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    assert_eq!(peer.said, ["announce", "announce", "end of rib"]);
    assert_eq!(
        peer.routes,
        BTreeMap::from([(host(1), 10), (host(2), 10), (host(3), 20)])
    );
    assert!(rib.is_settled());
}

#[test]
fn an_empty_table_still_ends() {
    let mut rib = AdjRibOut::new(table(&[]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    assert_eq!(peer.said, ["end of rib"]);
}

#[test]
fn the_end_waits_for_a_complete_table() {
    let mut rib = AdjRibOut::new(table(&[(1, 10)]), false);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    assert_eq!(peer.said, ["announce"]);
    rib.set_desired(table(&[(1, 10), (2, 10)]), true);
    peer.listen_to_all(&mut rib);
    assert_eq!(peer.said, ["announce", "announce", "end of rib"]);
}

#[test]
fn a_change_touches_only_what_changed() {
    let mut rib = AdjRibOut::new(table(&[(1, 10), (2, 10), (3, 10)]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    rib.set_desired(table(&[(1, 10), (2, 20), (4, 10)]), true);
    assert_eq!(rib.pending(), 3);
    assert_eq!(rib.advertised(), 3);
    peer.listen_to_all(&mut rib);
    assert_eq!(
        peer.routes,
        BTreeMap::from([(host(1), 10), (host(2), 20), (host(4), 10)])
    );
}

#[test]
fn a_prefix_that_flaps_while_nothing_can_be_sent_is_due_once_at_most() {
    let mut rib = AdjRibOut::new(table(&[]), true);
    PeerView::default().listen_to_all(&mut rib);
    for _ in 0..10_000 {
        rib.set_desired(table(&[(1, 10)]), true);
        rib.set_desired(table(&[(1, 20)]), true);
        assert_eq!(rib.pending(), 1);
        rib.set_desired(table(&[]), true);
        assert_eq!(rib.pending(), 0, "the peer never had it");
    }
    assert!(rib.is_settled());
}

#[test]
fn a_prefix_that_comes_back_before_its_withdrawal_left_is_not_mentioned() {
    let mut rib = AdjRibOut::new(table(&[(1, 10)]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    rib.set_desired(table(&[]), true);
    rib.set_desired(table(&[(1, 10)]), true);
    assert_eq!(rib.due(), None);
}

/// The peer has what was said before; it has to hear what is said now.
#[test]
fn a_prefix_that_comes_back_after_the_policy_has_changed_is_said_again() {
    let ways: [fn(&mut AdjRibOut<Ipv4Net>); 2] = [AdjRibOut::repeat_all, |rib| {
        rib.refresh(RefreshMarkers::BeginAndEnd);
    }];
    for repeat in ways {
        let mut rib = AdjRibOut::new(table(&[(1, 10)]), true);
        let mut peer = PeerView::default();
        peer.listen_to_all(&mut rib);
        rib.set_desired(table(&[]), true);
        repeat(&mut rib);
        peer.policy += 1;
        rib.set_desired(table(&[(1, 10)]), true);
        peer.listen_to_all(&mut rib);
        assert_eq!(peer.said_under[&host(1)], peer.policy);
        assert_eq!(peer.routes, BTreeMap::from([(host(1), 10)]));
    }
}

#[test]
fn a_refresh_repeats_everything_and_withdraws_nothing() {
    let mut rib = AdjRibOut::new(table(&[(1, 10), (2, 20)]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    peer.said.clear();
    rib.refresh(RefreshMarkers::BeginAndEnd);
    peer.listen_to_all(&mut rib);
    assert_eq!(
        peer.said,
        ["begin", "announce", "announce", "end of refresh"]
    );
}

#[test]
fn a_refresh_without_markers_has_none() {
    let mut rib = AdjRibOut::new(table(&[(1, 10)]), true);
    let mut peer = PeerView::default();
    peer.listen_to_all(&mut rib);
    peer.said.clear();
    rib.refresh(RefreshMarkers::None);
    peer.listen_to_all(&mut rib);
    assert_eq!(peer.said, ["announce"]);
}

#[test]
fn a_refresh_asked_for_before_the_end_of_rib_is_framed_after_it() {
    let mut rib = AdjRibOut::new(table(&[(1, 10)]), true);
    let mut peer = PeerView::default();
    rib.refresh(RefreshMarkers::BeginAndEnd);
    peer.listen_to_all(&mut rib);
    assert_eq!(
        peer.said,
        [
            "announce",
            "end of rib",
            "begin",
            "announce",
            "end of refresh"
        ]
    );
}

/// Puts in as many prefixes as fit and returns how many that are.
fn fill<P: WirePrefix>(mut update: UpdateWriter<'_>, prefixes: impl Iterator<Item = P>) -> usize {
    let count = prefixes.take_while(|prefix| update.push(*prefix)).count();
    update.finish();
    count
}

fn plain(next_hop: Option<std::net::Ipv4Addr>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let path = PathAttributes {
        as_path: vec![65010],
        next_hop,
        med: None,
        local_pref: None,
        communities: Vec::new(),
        extended_communities: Vec::new(),
        large_communities: Vec::new(),
    };
    path.encode(AsNumberWidth::Four, &mut bytes);
    bytes
}

/// How many routes of each kind go into one message: announced and withdrawn IPv4, then IPv6.
fn packed(limit: SizeLimit) -> [usize; 4] {
    let v4 = plain(Some([10, 99, 0, 2].into()));
    let v6 = plain(None);
    let next_hop = NextHop {
        global: "fd99::2".parse().unwrap(),
        link_local: None,
    };
    let all4 = || (0..20_000).map(host);
    let all6 = || (0..20_000).map(host6);
    let mut out: [Vec<u8>; 4] = Default::default();
    let [announce4, withdraw4, announce6, withdraw6] = &mut out;
    let counts = [
        fill(UpdateWriter::announce_ipv4(announce4, limit, &v4), all4()),
        fill(UpdateWriter::withdraw::<Ipv4Net>(withdraw4, limit), all4()),
        fill(
            UpdateWriter::announce_mp::<Ipv6Net>(announce6, limit, &v6, next_hop),
            all6(),
        ),
        fill(UpdateWriter::withdraw::<Ipv6Net>(withdraw6, limit), all6()),
    ];
    for message in out {
        assert!(message.len() <= limit.bytes(), "{} bytes", message.len());
        assert!(
            message.len() > limit.bytes() - 17,
            "{} bytes: one more fits",
            message.len()
        );
    }
    counts
}

#[test]
fn messages_are_packed_to_the_limit() {
    assert_eq!(packed(SizeLimit::Standard), [810, 814, 237, 239]);
    assert_eq!(packed(SizeLimit::Extended), [13_098, 13_102, 3_851, 3_853]);
}

#[test]
fn the_two_ends_of_rib_have_their_well_known_form() {
    let mut out = Vec::new();
    encode_end_of_rib(Family::Ipv4, &mut out);
    assert_eq!(&out[16..], [0, 23, 2, 0, 0, 0, 0]);
    out.clear();
    encode_end_of_rib(Family::Ipv6, &mut out);
    assert_eq!(&out[16..], [0, 29, 2, 0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]);
}

/// What can happen to the routes of one peer.
#[derive(Debug, Clone)]
enum Happening {
    Set(Vec<(u32, u32)>),
    Listen(usize),
    Refresh(RefreshMarkers),
    Repeat,
}

fn happening() -> impl Strategy<Value = Happening> {
    let routes = prop::collection::vec((0..12_u32, 0..3_u32), 0..12);
    prop_oneof![
        4 => routes.prop_map(Happening::Set),
        4 => (1..5_usize).prop_map(Happening::Listen),
        1 => Just(Happening::Refresh(RefreshMarkers::None)),
        1 => Just(Happening::Refresh(RefreshMarkers::BeginAndEnd)),
        1 => Just(Happening::Repeat),
    ]
}

proptest! {
    #[test]
    fn at_rest_the_peer_has_exactly_the_desired_set(
        happenings in prop::collection::vec(happening(), 0..60)
    ) {
        let mut desired = table(&[]);
        let mut rib = AdjRibOut::new(FamilyRoutes::clone(&desired), true);
        let mut peer = PeerView::default();
        for happening in happenings {
            match happening {
                Happening::Set(routes) => {
                    desired = table(&routes);
                    rib.set_desired(FamilyRoutes::clone(&desired), true);
                }
                Happening::Listen(size) => { peer.listen(&mut rib, size); }
                Happening::Refresh(markers) => rib.refresh(markers),
                Happening::Repeat => {
                    peer.policy += 1;
                    rib.repeat_all();
                }
            }
            prop_assert_eq!(rib.advertised(), peer.routes.len());
        }
        peer.listen_to_all(&mut rib);
        let wanted: BTreeMap<Ipv4Net, u32> =
            desired.iter().map(|(prefix, set)| (*prefix, set.med.unwrap())).collect();
        prop_assert_eq!(&peer.routes, &wanted);
        prop_assert!(peer.routes.keys().all(|prefix| peer.said_under[prefix] == peer.policy));
        prop_assert!(rib.is_settled());
        prop_assert_eq!(rib.pending(), 0);
        prop_assert_eq!(peer.said.iter().filter(|said| **said == "end of rib").count(), 1);
    }
}
