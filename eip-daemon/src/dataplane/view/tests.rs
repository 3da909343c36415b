//! The memory of a look, on hand-made views.

use std::net::IpAddr;

use super::{Memory, Question, candidate_ports, questions};
use crate::model::{BindingState, Lane, Link, NetworkView, RouteTo};

const BRIDGE: u32 = 10;
const PORT: u32 = 11;
const OTHER_PORT: u32 = 12;
const VETH: u32 = 20;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn vm() -> IpAddr {
    "10.244.2.7".parse().unwrap()
}

fn link(ifindex: u32, kind: &str, master: Option<u32>) -> (u32, Link) {
    let link = Link {
        ifindex,
        name: format!("if{ifindex}"),
        kind: kind.to_owned(),
        mac: None,
        mtu: 1500,
        master,
        vlan: None,
        is_up: true,
    };
    (ifindex, link)
}

fn behind(ifindex: u32) -> NetworkView {
    NetworkView {
        links: [
            link(BRIDGE, "bridge", None),
            link(PORT, "veth", Some(BRIDGE)),
            link(OTHER_PORT, "veth", Some(BRIDGE)),
            link(VETH, "veth", None),
        ]
        .into(),
        routes: [(
            vm(),
            RouteTo {
                ifindex,
                gateway: None,
                is_unicast: true,
            },
        )]
        .into(),
        ..NetworkView::default()
    }
}

fn resolved(ifindex: u32) -> NetworkView {
    let mut view = behind(ifindex);
    view.neighbours.insert((ifindex, vm()), MAC);
    view
}

#[test]
fn an_unresolved_vm_is_asked_for_and_a_resolved_routed_one_is_not() {
    assert_eq!(
        questions(&behind(VETH)),
        [((VETH, vm()), Question::Resolve)].into()
    );
    assert_eq!(questions(&resolved(VETH)), [].into());
}

#[test]
fn a_vm_whose_port_the_bridge_forgot_is_probed() {
    let mut view = resolved(BRIDGE);
    assert_eq!(
        questions(&view),
        [((BRIDGE, vm()), Question::Confirm(MAC))].into()
    );
    view.bridge_ports.insert((BRIDGE, MAC), PORT);
    assert_eq!(questions(&view), [].into());
}

#[test]
fn a_vm_behind_a_gateway_is_nobody_to_ask() {
    let mut view = behind(VETH);
    view.routes.insert(
        vm(),
        RouteTo {
            ifindex: VETH,
            gateway: "192.0.2.1".parse().ok(),
            is_unicast: true,
        },
    );
    assert_eq!(questions(&view), [].into());
    assert_eq!(candidate_ports(&view), [].into());
}

#[test]
fn a_forgotten_port_stays_known_while_it_is_a_port_of_the_bridge() {
    let mut memory = Memory::default();
    let mut first = resolved(BRIDGE);
    first.bridge_ports.insert((BRIDGE, MAC), PORT);
    memory.recall(&mut first);

    let mut aged = resolved(BRIDGE);
    memory.recall(&mut aged);
    assert_eq!(aged.bridge_ports, [((BRIDGE, MAC), PORT)].into());
    assert_eq!(candidate_ports(&aged), [PORT].into());

    let mut unplugged = resolved(BRIDGE);
    unplugged.links.remove(&PORT);
    memory.recall(&mut unplugged);
    assert_eq!(unplugged.bridge_ports, [].into());
    let mut later = resolved(BRIDGE);
    memory.recall(&mut later);
    assert_eq!(
        later.bridge_ports,
        [].into(),
        "a port that left once is not believed any more"
    );
}

#[test]
fn what_the_bridge_says_now_wins_over_memory() {
    let mut memory = Memory::default();
    for port in [PORT, OTHER_PORT] {
        let mut view = resolved(BRIDGE);
        view.bridge_ports.insert((BRIDGE, MAC), port);
        memory.recall(&mut view);
        assert_eq!(view.bridge_ports, [((BRIDGE, MAC), port)].into());
    }
    let mut aged = resolved(BRIDGE);
    memory.recall(&mut aged);
    assert_eq!(aged.bridge_ports, [((BRIDGE, MAC), OTHER_PORT)].into());
}

#[test]
fn a_vm_that_stops_answering_keeps_its_mac_and_port() {
    for interface in [VETH, BRIDGE] {
        let mut memory = Memory::default();
        let mut first = resolved(interface);
        first.bridge_ports.insert((BRIDGE, MAC), PORT);
        memory.recall(&mut first);

        let mut silent = behind(interface);
        memory.recall(&mut silent);
        assert_eq!(silent.neighbours, [((interface, vm()), MAC)].into());
        let port = if interface == BRIDGE { PORT } else { VETH };
        assert_eq!(candidate_ports(&silent), [port].into());
    }
}

#[test]
fn another_mac_replaces_the_remembered_one() {
    let mut memory = Memory::default();
    memory.recall(&mut resolved(VETH));
    let mut replaced = behind(VETH);
    replaced.neighbours.insert((VETH, vm()), [2, 0, 0, 0, 0, 9]);
    memory.recall(&mut replaced);
    let mut silent = behind(VETH);
    memory.recall(&mut silent);
    assert_eq!(
        silent.neighbours,
        [((VETH, vm()), [2, 0, 0, 0, 0, 9])].into()
    );
}

#[test]
fn a_vm_that_is_gone_takes_its_memory_along() {
    let mut unplugged = behind(BRIDGE);
    unplugged.links.remove(&PORT);
    let mut rerouted = behind(VETH);
    rerouted.routes.insert(
        vm(),
        RouteTo {
            ifindex: VETH,
            gateway: "192.0.2.1".parse().ok(),
            is_unicast: true,
        },
    );
    for mut gone in [unplugged, rerouted, NetworkView::default()] {
        let mut memory = Memory::default();
        let mut first = resolved(BRIDGE);
        first.bridge_ports.insert((BRIDGE, MAC), PORT);
        memory.recall(&mut first);
        memory.recall(&mut gone);
        assert!(
            gone.neighbours.is_empty() && gone.bridge_ports.is_empty(),
            "{gone:?}"
        );
        assert!(memory.macs.is_empty() && memory.ports.is_empty());
    }
}

#[test]
fn a_restart_finds_a_silent_vm_where_its_binding_has_it() {
    for (l3, port) in [(VETH, VETH), (BRIDGE, PORT)] {
        let binding = BindingState {
            vm: vm(),
            port,
            l3,
            mtu: 1500,
            vm_mac: MAC,
            node_mac: [2; 6],
            delivery: Lane::Peer,
            is_primary: true,
            shares_vm: false,
            answers_l2: false,
            generation: 1,
        };
        let mut memory = Memory::of_bindings([&binding].into_iter());
        let mut silent = behind(l3);
        memory.recall(&mut silent);
        assert_eq!(silent.neighbours, [((l3, vm()), MAC)].into());
        assert_eq!(candidate_ports(&silent), [port].into());

        let unresolved = BindingState {
            vm_mac: [0; 6],
            ..binding
        };
        let mut memory = Memory::of_bindings([&unresolved].into_iter());
        let mut silent = behind(l3);
        memory.recall(&mut silent);
        assert!(silent.neighbours.is_empty());
    }
}
