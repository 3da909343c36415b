//! What an established session says about its routes.

use std::net::Ipv6Addr;

use ipnet::IpNet;

use super::*;
use crate::announce::bgp::{
    config::ExportPolicy,
    route::{Communities, NO_EXPORT, RouteAttributes},
    wire::{AsNumberWidth, Family, RefreshKind, RouteRefresh},
};

fn names(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|bytes| name(bytes)).collect()
}

fn established(table: RouteTable, open: Open) -> World {
    World::with_table(peer_config(), table).brought_to(State::Established, open)
}

fn route(prefix: &str, attributes: RouteAttributes) -> Route {
    let address: IpAddr = prefix.parse().unwrap();
    Route {
        prefix: IpNet::from(address),
        attributes: AttributeSet::new(attributes).unwrap(),
    }
}

fn both_families() -> RouteTable {
    let plain = RouteAttributes::default;
    RouteTable::new(
        [route("192.0.2.1", plain()), route("2001:db8::1", plain())],
        true,
    )
}

/// Attributes of an UPDATE from type to value.
fn attributes(message: &[u8]) -> std::collections::BTreeMap<u8, Vec<u8>> {
    let mut rest = &message[23..];
    let mut len = usize::from(u16::from_be_bytes([message[21], message[22]]));
    let mut found = std::collections::BTreeMap::new();
    while len > 0 {
        let (head, size) = if rest[0] & 0x10 == 0 {
            (3, usize::from(rest[2]))
        } else {
            (4, usize::from(u16::from_be_bytes([rest[2], rest[3]])))
        };
        found.insert(rest[1], rest[head..head + size].to_vec());
        rest = &rest[head + size..];
        len -= head + size;
    }
    found
}

#[test]
fn both_families_are_announced_and_ended() {
    let mut world = established(both_families(), peer_open());
    let said = names(&world.routes(Origin::Dialled));
    assert_eq!(
        said,
        [
            "UPDATE +1 -0",
            "End-of-RIB ipv4",
            "UPDATE +1 -0",
            "End-of-RIB ipv6"
        ]
    );
}

#[test]
fn a_peer_hears_nothing_of_a_family_it_did_not_name() {
    let rows = [
        (
            "no multiprotocol at all",
            false,
            false,
            false,
            ["UPDATE +1 -0", "End-of-RIB ipv4"],
        ),
        (
            "IPv4 only",
            true,
            true,
            false,
            ["UPDATE +1 -0", "End-of-RIB ipv4"],
        ),
        (
            "IPv6 only",
            true,
            false,
            true,
            ["UPDATE +1 -0", "End-of-RIB ipv6"],
        ),
    ];
    for (name, multiprotocol, ipv4, ipv6, expected) in rows {
        let mut open = peer_open();
        open.capabilities = Capabilities {
            multiprotocol,
            ipv4,
            ipv6,
            ..open.capabilities
        };
        let mut world = established(both_families(), open);
        assert_eq!(names(&world.routes(Origin::Dialled)), expected, "{name}");
    }
}

#[test]
fn outside_the_as_the_path_is_ours_and_there_is_no_local_pref() {
    let table = RouteTable::new(
        [route(
            "192.0.2.1",
            RouteAttributes {
                prepend: 1,
                local_pref: Some(200),
                ..RouteAttributes::default()
            },
        )],
        true,
    );
    let mut config = peer_config();
    config.export = ExportPolicy {
        prepend: 1,
        med: Some(7),
        ..ExportPolicy::default()
    };
    let mut world = World::with_table(config, table).brought_to(State::Established, peer_open());
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    assert_eq!(found[&1], [0]);
    assert_eq!(
        found[&2],
        [&[2, 3][..], &65010_u32.to_be_bytes().repeat(3)].concat()
    );
    assert_eq!(found[&3], [10, 99, 0, 2]);
    assert_eq!(found[&4], [0, 0, 0, 7]);
    assert_eq!(found.get(&5), None);
}

#[test]
fn inside_the_as_the_path_is_empty_and_local_pref_is_sent() {
    let mut config = peer_config();
    config.session.peer_as = PeerAs::Internal;
    let mut open = Open {
        asn: 65010,
        ..peer_open()
    };
    open.capabilities.four_octet_as = Some(65010);
    let mut world = World::with_table(config, hosts(1)).brought_to(State::Established, open);
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    assert_eq!(found[&2], Vec::<u8>::new());
    assert_eq!(found[&5], [0, 0, 0, 100]);
}

#[test]
fn a_peer_with_two_octet_numbers_sees_as_trans() {
    let mut config = peer_config();
    config.session.local_as = Some(4_200_000_010);
    let mut open = peer_open();
    open.capabilities.four_octet_as = None;
    let mut world = World::with_table(config, hosts(1)).brought_to(State::Established, open);
    assert_eq!(
        world
            .session
            .connections
            .established()
            .and_then(Connection::agreement)
            .unwrap()
            .as_width,
        AsNumberWidth::Two
    );
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    assert_eq!(found[&2], [2, 1, 0x5b, 0xa0]);
    assert_eq!(found[&17], [2, 1, 0xfa, 0x56, 0xea, 0x0a]);
}

#[test]
fn communities_of_route_and_peer_are_sorted_and_said_once() {
    let standard = |values: &[u32]| Communities {
        standard: values.iter().copied().collect(),
        ..Communities::default()
    };
    let table = RouteTable::new(
        [route(
            "192.0.2.1",
            RouteAttributes {
                communities: standard(&[9, NO_EXPORT]),
                ..RouteAttributes::default()
            },
        )],
        true,
    );
    let mut config = peer_config();
    config.export.communities = standard(&[9, 3]);
    let mut world = World::with_table(config, table).brought_to(State::Established, peer_open());
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    let expected = [3_u32, 9, NO_EXPORT].map(u32::to_be_bytes).concat();
    assert_eq!(found[&8], expected);
}

#[test]
fn ipv6_next_hop_is_never_missing_nor_mapped() {
    let mut world = established(both_families(), peer_open());
    let messages = world.routes(Origin::Dialled);
    let reach = &attributes(&messages[2])[&14];
    let own: Ipv6Addr = "fd99::2".parse().unwrap();
    assert_eq!(reach[..4], [0, 2, 1, 16]);
    assert_eq!(reach[4..20], own.octets());

    let mut world = World::with_table(peer_config(), both_families());
    world.feed(Input::Start);
    world.feed(Input::Dialled(Endpoints {
        other_ipv6: None,
        ..endpoints()
    }));
    world.hear(Origin::Dialled, Message::Open(peer_open()));
    world.hear(Origin::Dialled, Message::Keepalive);
    assert_eq!(
        names(&world.routes(Origin::Dialled)),
        ["UPDATE +1 -0", "End-of-RIB ipv4"]
    );
    let silent = FamilySnapshot::Silent {
        reason: Silence::NoNextHop,
    };
    assert_eq!(world.session.snapshot().ipv6, Some(silent));
}

#[test]
fn next_hops_may_be_fixed_for_each_family() {
    let mut config = peer_config();
    let (ipv4, ipv6) = (
        Ipv4Addr::new(10, 99, 0, 77),
        "fd99::77".parse::<Ipv6Addr>().unwrap(),
    );
    config.export.next_hop_ipv4 = Some(ipv4);
    config.export.next_hop_ipv6 = Some(ipv6);
    let mut world = World::with_table(config, both_families());
    world = world.brought_to(State::Established, peer_open());
    let messages = world.routes(Origin::Dialled);
    assert_eq!(attributes(&messages[0])[&3], ipv4.octets());
    let reach = &attributes(&messages[2])[&14];
    assert_eq!(reach[..4], [0, 2, 1, 16], "no link-local address beside it");
    assert_eq!(reach[4..20], ipv6.octets());
}

#[test]
fn ipv4_goes_over_an_ipv6_next_hop_where_both_can() {
    let mut open = peer_open();
    open.capabilities.extended_next_hop = true;
    let mut world = World::with_table(peer_config(), hosts(1));
    world.feed(Input::Start);
    let local = IpAddr::V6("fd99::2".parse().unwrap());
    let endpoints = Endpoints {
        local,
        other_ipv4: None,
        other_ipv6: None,
        link_local: None,
    };
    world.feed(Input::Dialled(endpoints));
    world.hear(Origin::Dialled, Message::Open(open));
    world.hear(Origin::Dialled, Message::Keepalive);
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    assert_eq!(found[&14][..4], [0, 1, 1, 16]);
    assert_eq!(found.get(&3), None);
}

#[test]
fn a_changed_policy_is_announced_without_a_reset() {
    let mut world = established(hosts(3), peer_open());
    world.routes(Origin::Dialled);
    world.session.set_export(ExportPolicy {
        med: Some(9),
        ..ExportPolicy::default()
    });
    let messages = world.routes(Origin::Dialled);
    assert_eq!(names(&messages), ["UPDATE +3 -0"]);
    assert_eq!(attributes(&messages[0])[&4], [0, 0, 0, 9]);
    assert_eq!(world.state(), State::Established);
}

#[test]
fn a_changed_table_says_only_what_changed() {
    let mut world = established(hosts(100), peer_open());
    world.routes(Origin::Dialled);
    world.session.set_table(hosts(101));
    assert_eq!(names(&world.routes(Origin::Dialled)), ["UPDATE +1 -0"]);
    world.session.set_table(hosts(98));
    assert_eq!(names(&world.routes(Origin::Dialled)), ["UPDATE +0 -3"]);
    world.session.set_table(hosts(98));
    assert!(world.session.is_settled());
}

#[test]
fn a_refresh_is_framed_only_where_both_can() {
    let ask = RouteRefresh {
        family: Family::Ipv4,
        kind: RefreshKind::Request,
    };
    for (enhanced, expected) in [
        (false, vec!["UPDATE +2 -0"]),
        (true, vec!["Begin", "UPDATE +2 -0", "End"]),
    ] {
        let mut open = peer_open();
        open.capabilities.enhanced_route_refresh = enhanced;
        let mut world = established(hosts(2), open);
        world.routes(Origin::Dialled);
        // However often it asks before the socket has room, it gets everything once.
        for _ in 0..100 {
            world.hear(Origin::Dialled, Message::RouteRefresh(Some(ask)));
            assert!(!world.session.is_settled());
        }
        assert_eq!(names(&world.routes(Origin::Dialled)), expected);
        assert!(world.session.is_settled());
    }
}

#[test]
fn draining_marks_then_withdraws_and_comes_back() {
    let mut world = established(hosts(2), peer_open());
    world.routes(Origin::Dialled);
    world.session.set_serving(Serving::Reluctantly);
    let messages = world.routes(Origin::Dialled);
    assert_eq!(names(&messages), ["UPDATE +2 -0"]);
    assert_eq!(attributes(&messages[0])[&8], [0xff, 0xff, 0, 0]);
    world.session.set_serving(Serving::Nothing);
    assert_eq!(names(&world.routes(Origin::Dialled)), ["UPDATE +0 -2"]);
    world.session.set_serving(Serving::Normally);
    let messages = world.routes(Origin::Dialled);
    assert_eq!(names(&messages), ["UPDATE +2 -0"]);
    assert_eq!(attributes(&messages[0]).get(&8), None);
}

#[test]
fn inside_the_as_a_draining_node_is_least_preferred() {
    let mut config = peer_config();
    config.session.peer_as = PeerAs::Internal;
    let mut open = Open {
        asn: 65010,
        ..peer_open()
    };
    open.capabilities.four_octet_as = Some(65010);
    let mut world = World::with_table(config, hosts(1)).brought_to(State::Established, open);
    world.routes(Origin::Dialled);
    world.session.set_serving(Serving::Reluctantly);
    let found = attributes(&world.routes(Origin::Dialled)[0]);
    assert_eq!(found[&5], [0, 0, 0, 0]);
}

#[test]
fn the_end_is_not_claimed_before_the_table_is_complete() {
    let mut table = hosts(2);
    table.is_complete = false;
    let mut world = established(table, peer_open());
    assert_eq!(names(&world.routes(Origin::Dialled)), ["UPDATE +2 -0"]);
    world.session.set_table(hosts(2));
    assert_eq!(
        names(&world.routes(Origin::Dialled)),
        ["End-of-RIB ipv4", "End-of-RIB ipv6"]
    );
}

#[test]
fn a_hundred_thousand_routes_take_124_messages() {
    let mut world = established(hosts(100_000), peer_open());
    let messages = world.routes(Origin::Dialled);
    let updates = names(&messages)
        .iter()
        .filter(|name| name.starts_with("UPDATE"))
        .count();
    assert_eq!(updates, 124);
    assert!(messages.iter().all(|message| message.len() <= 4096));
    world.session.set_table(hosts(0));
    assert_eq!(world.routes(Origin::Dialled).len(), 123);
}

#[test]
fn routes_wait_for_room() {
    let mut world = established(hosts(10_000), peer_open());
    let mut bytes = Vec::new();
    world
        .session
        .write_routes(Origin::Dialled, &mut bytes, 8192);
    assert!(
        (8192..8192 + 4096).contains(&bytes.len()),
        "{}",
        bytes.len()
    );
    // While the socket is blocked everything goes: only what was written needs a withdrawal.
    let written = split(&bytes).len() * 810;
    world.session.set_table(hosts(0));
    let withdrawn = names(&world.routes(Origin::Dialled))[..2].to_vec();
    assert_eq!(
        withdrawn,
        [format!("UPDATE +0 -{}", 814), format!("UPDATE +0 -{}", 814)]
    );
    assert!(written < 3 * 814);
}
