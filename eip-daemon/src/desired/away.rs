//! Elastic IPs whose VM another node serves now. For a while what still comes here is sent on to that
//! node, untranslated, and peers are told of both: nobody is without an answer while routers learn.

use std::net::IpAddr;

use super::Node;
use crate::model::{
    Announce, Announcement, BindingFact, BindingState, Desired, Facts, HandOver, Lane, Link,
};

/// Adds what is handed over, unless the elastic IP is somebody's here by now.
pub(super) fn forward(desired: &mut Desired, facts: &Facts, node: &Node<'_>) {
    for fact in &facts.bindings {
        if let Some(left) = &fact.moving.left
            && !desired.bindings.contains_key(&fact.eip)
            && let Some(state) = state(fact, left, node)
        {
            desired.bindings.insert(fact.eip, state);
            if let Some(by) = still_told(fact, node).filter(|_| left.is_announced) {
                let announcement = Announcement {
                    binding: fact.name.clone(),
                    by,
                    arrived: None,
                };
                desired.announcements.insert(fact.eip, announcement);
            }
        }
    }
}

/// `None` where the other node is on none of this node's segments: a router between the two would
/// send the packet back.
fn state(fact: &BindingFact, left: &HandOver, node: &Node<'_>) -> Option<BindingState> {
    let to = left.to.filter(|to| to.is_ipv4() == fact.eip.is_ipv4())?;
    let link = segment(to, node)?;
    Some(BindingState {
        vm: to,
        port: link.ifindex,
        l3: link.ifindex,
        mtu: link.mtu,
        vm_mac: [0; 6],
        node_mac: link.mac?,
        delivery: Lane::Forward,
        is_primary: false,
        shares_vm: false,
        // Whoever asks on the segment is to hear of the other node.
        answers_l2: false,
        generation: u32::try_from(fact.generation).unwrap_or(u32::MAX),
    })
}

/// The uplink that is on a segment with an address which is not this node's own.
fn segment<'a>(to: IpAddr, node: &Node<'a>) -> Option<&'a Link> {
    if node.addresses.contains_key(&to) {
        return None;
    }
    let view = node.view;
    let mut on_link = view
        .addresses
        .iter()
        .filter(|own| own.address.contains(&to))
        .filter_map(|own| view.links.get(&own.ifindex));
    on_link.find(|link| node.settings.uplinks.contains(&link.name))
}

/// Only BGP knows two places at a time.
fn still_told(fact: &BindingFact, node: &Node<'_>) -> Option<Announce> {
    let by = fact.announce.unwrap_or(node.settings.announce);
    by.includes_bgp().then_some(Announce::Bgp)
}
