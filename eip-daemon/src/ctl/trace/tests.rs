use std::net::IpAddr;

use eip_common::reason::{Hook, Reason};

use super::{Sighting, TraceBody, Walk};
use crate::{
    ctl::{api::TraceWay, fixture, frame},
    dataplane::trace::{Ran, TraceAction, TraceError, Tracer},
    model::{Link, Vlan},
};

/// Passes what has a tag, and delivers everything else.
struct Programs;

impl Tracer for Programs {
    fn run(&mut self, hook: Hook, _ifindex: u32, frame: &[u8]) -> Result<Ran, TraceError> {
        let is_tagged = frame::untagged(frame).is_some();
        let (action, reason) = match hook {
            _ if is_tagged => (TraceAction::Pass, Reason::Tagged),
            Hook::UplinkTc => (TraceAction::Redirect, Reason::DeliveredPeer),
            Hook::DoorOut => (TraceAction::Redirect, Reason::SentToUplink),
            _ => (TraceAction::Pass, Reason::LeftToTc),
        };
        Ok(Ran {
            action,
            reason: Some(reason),
            frame: frame.to_vec(),
        })
    }

    fn is_same_code(&mut self, _hook: Hook, _attached: u32) -> Result<bool, TraceError> {
        Ok(true)
    }
}

/// `eth0.200` above the card, and in it `inner`, VLAN 100.
fn node() -> Sighting {
    let mut now = fixture::sighting();
    let card = now.view.links[&2].clone();
    for (ifindex, name, below, id, is_service) in [
        (30, "eth0.200", 2, 200, true),
        (31, "inner", 30, 100, false),
    ] {
        let vlan = Link {
            ifindex,
            name: name.into(),
            kind: "vlan".into(),
            vlan: Some(Vlan {
                below,
                id,
                is_service,
            }),
            ..card.clone()
        };
        now.view.links.insert(ifindex, vlan);
    }
    now
}

/// The programs of the card are at another interface as well, or at that one only.
fn attach(now: &mut Sighting, ifindex: u32, is_only: bool) {
    let card = |hook: Hook| matches!(hook, Hook::UplinkXdp | Hook::UplinkTc);
    let of_card = now.attachments.iter().filter(|at| card(at.hook)).cloned();
    let mut more: Vec<_> = of_card.collect();
    for at in &mut more {
        at.ifindex = ifindex;
    }
    if is_only {
        now.attachments.retain(|at| !card(at.hook));
        now.uplink_map.clear();
    }
    now.attachments.extend(more);
    now.uplink_map.insert(ifindex);
}

fn trace(now: &Sighting, vlan: &[u16]) -> TraceWay {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let body = TraceBody {
        from: ip("198.51.100.7"),
        to: ip("203.0.113.10"),
        protocol: 17,
        source_port: 4000,
        destination_port: 53,
        size: None,
        dont_fragment: false,
        ttl: 64,
        syn: false,
        vlan: vlan.to_vec(),
        fragment: None,
        icmp_error: None,
        interface: None,
    };
    let mut walk = Walk {
        tracer: &mut Programs,
        now,
        bypass: &|_| false,
    };
    walk.both_ways(&body).unwrap().forward
}

fn hops(way: &TraceWay) -> Vec<(&str, &str, &str)> {
    let hops = way.hops.iter();
    hops.map(|hop| {
        let reason = hop.reason.as_deref().unwrap_or(&hop.action);
        (hop.hook.as_str(), hop.interface.as_str(), reason)
    })
    .collect()
}

#[test]
fn a_frame_with_tags_is_handed_from_interface_to_interface() {
    let mut now = node();
    attach(&mut now, 31, true);
    let inside = [
        ("kernel", "eth0.200", "untag"),
        ("kernel", "inner", "untag"),
        ("uplink-xdp", "inner", "left-to-tc"),
        ("uplink-tc", "inner", "delivered-peer"),
    ];
    let way = trace(&now, &[200, 100]);
    assert_eq!(hops(&way), inside);
    assert!(
        way.packet.summary.starts_with("vlan 200 vlan 100 "),
        "{}",
        way.packet.summary
    );
    assert_eq!(way.arrives, Some(true));

    attach(&mut now, 2, false);
    let card = [
        ("uplink-xdp", "eth0", "tagged"),
        ("uplink-tc", "eth0", "tagged"),
    ];
    assert_eq!(
        hops(&trace(&now, &[200, 100])),
        [&card[..], &inside].concat()
    );
}

#[test]
fn a_vlan_without_an_interface_ends_in_the_kernel() {
    let way = trace(&node(), &[7]);
    assert_eq!(way.end, "dropped by the kernel: eth0 has no VLAN 7");
    assert_eq!(way.arrives, Some(false));
    assert_eq!(hops(&way).last(), Some(&("kernel", "eth0", "drop")));
}

#[test]
fn a_vlan_that_is_no_uplink_is_left_to_the_kernel() {
    let way = trace(&node(), &[200]);
    let last = hops(&way)[2..4].to_vec();
    assert_eq!(last[0], ("kernel", "eth0.200", "untag"));
    assert_eq!(last[1].0, "kernel", "{last:?}");
}
