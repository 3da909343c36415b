//! Which lane a binding takes: what was asked for where the port can do it, else the next best one
//! with a remark that says why.

use eip_common::abi::Delivery;

use super::Node;
use crate::model::{BindingFact, DeliveryChoice, Lane, Location, XdpMode};

/// Kinds of interfaces with a peer `bpf_redirect_peer` can reach.
const KINDS_WITH_PEER: [&str; 2] = ["veth", "netkit"];

/// A lane, and a remark for people where it is not the one they would expect.
pub(super) struct Choice {
    pub(super) lane: Lane,
    pub(super) remark: Option<String>,
}

impl Choice {
    fn plain(lane: Lane) -> Self {
        Self { lane, remark: None }
    }

    fn instead_of(lane: Lane, asked_for: &str, why: &str) -> Self {
        let name = Delivery::from(lane).name();
        Self {
            lane,
            remark: Some(format!("{name} instead of {asked_for}: {why}")),
        }
    }
}

/// The lane of one binding.
pub(super) fn choose(
    fact: &BindingFact,
    location: &Location,
    shares_vm: bool,
    node: &Node<'_>,
) -> Choice {
    match fact.delivery.unwrap_or(node.settings.delivery) {
        DeliveryChoice::Stack => Choice::plain(Lane::Stack),
        DeliveryChoice::Neigh => Choice::plain(Lane::Neigh),
        DeliveryChoice::Auto => automatic(location, node),
        DeliveryChoice::Peer => match why_not_peer(location, node) {
            None => Choice::plain(Lane::Peer),
            Some(why) => Choice::instead_of(Lane::Neigh, "peer", why),
        },
        DeliveryChoice::Xdp => match why_not_xdp(location, shares_vm, node) {
            None => Choice::plain(Lane::Xdp),
            Some(why) => Choice::instead_of(automatic(location, node).lane, "xdp", why),
        },
    }
}

/// `peer` would bypass an egress program somebody put on the port (a CNI's policy): `neigh` runs it.
fn automatic(location: &Location, node: &Node<'_>) -> Choice {
    if why_not_peer(location, node).is_some() {
        return Choice::plain(Lane::Neigh);
    }
    if node.view.foreign_egress.contains(&location.port) {
        let why = "the port carries another egress program, which peer would bypass";
        return Choice::instead_of(Lane::Neigh, "peer", why);
    }
    Choice::plain(Lane::Peer)
}

fn why_not_peer(location: &Location, node: &Node<'_>) -> Option<&'static str> {
    let kind = node
        .view
        .links
        .get(&location.port)
        .map_or("", |port| port.kind.as_str());
    if !KINDS_WITH_PEER.contains(&kind) {
        return Some("the port is not a veth or netkit");
    }
    location
        .vm_mac
        .is_none()
        .then_some("the VM's MAC is not known yet")
}

fn why_not_xdp(location: &Location, shares_vm: bool, node: &Node<'_>) -> Option<&'static str> {
    if node.settings.xdp_mode == XdpMode::Off {
        return Some("XDP is off on this node");
    }
    if shares_vm {
        return Some("the VM has several EIPs, whose flows XDP does not record");
    }
    if !node.view.xdp_ports.contains(&location.port) {
        return Some("the port does not take XDP frames");
    }
    location
        .vm_mac
        .is_none()
        .then_some("the VM's MAC is not known yet")
}
