//! Traceroute, the real one, from both ends and by every kind of probe. The node is a router and shows as a
//! hop, like a pod that routes to its VM; no address from inside shows outside.

use std::{net::IpAddr, time::Duration};

use eip_lab::{
    daemon::DaemonOptions,
    firewall::ForwardAccept,
    netns::Ns,
    plan::{
        self, CLIENT, Dual, Family, GuestPlan, NODE_UPLINK, ROUTER_CLIENT, ROUTER_UPLINK, VM1, VM2,
        eip,
    },
    wait::wait_until,
    world::WorldOptions,
};

use crate::support::{PORT, Stage};

/// Long enough for any machine.
const LONG: Duration = Duration::from_mins(1);
const SERVED: [(GuestPlan, Dual); 2] = [(VM1, eip::VM1), (VM2, eip::VM2)];

/// What answered at each hop; `None` for one that was silent.
fn hops(ns: &Ns, probe: &str, to: IpAddr) -> Vec<Option<IpAddr>> {
    let said = ns.report(&format!("traceroute -n -q 1 -w 2 -m 8 {probe} {to}"));
    let lines = said.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next()?.parse::<u8>().ok()?;
        Some(words.next()?.parse().ok())
    });
    lines.collect()
}

/// By UDP, ICMP and TCP. A probe may be lost on a busy machine, so there are more tries than one.
fn shows(ns: &Ns, to: IpAddr, is_expected: impl Fn(&[Option<IpAddr>]) -> bool) {
    for probe in ["", "-I", &format!("-T -p {PORT}")] {
        let mut seen = Vec::new();
        let shown = wait_until(LONG, "the hops one expects", || {
            seen = hops(ns, probe, to);
            is_expected(&seen)
        });
        assert!(
            shown.is_ok(),
            "traceroute {probe} {to} in {}: {seen:?}",
            ns.name()
        );
    }
}

fn hops_are_shown_to_both_ends(world: WorldOptions, daemon: DaemonOptions) {
    let mut stage = Stage::dual(world, daemon);
    let client = &stage.world.client;
    for family in Family::BOTH {
        let of = |address: Dual| Some(address.of(family));
        for (vm, eip) in SERVED {
            let inward = [of(ROUTER_CLIENT), of(NODE_UPLINK), of(eip)];
            shows(client, eip.of(family), |seen| seen == inward);
            // The node has many addresses, and the VM's port none.
            shows(stage.ns(vm), CLIENT.of(family), |seen| {
                seen.split_first().is_some_and(|(first, others)| {
                    first.is_some_and(plan::is_node) && others == [of(ROUTER_UPLINK), of(CLIENT)]
                })
            });
        }
    }
    // A pod that routes to its VM is a hop, too: with the EIP, which is the only address it has outside.
    for (pod, eip) in SERVED {
        let inner = stage.put_vm_behind(pod);
        let client = &stage.world.client;
        for family in Family::BOTH {
            let of = |address: Dual| Some(address.of(family));
            let inward = [of(ROUTER_CLIENT), of(NODE_UPLINK), of(eip), of(eip)];
            shows(client, eip.of(family), |seen| seen == inward);
            shows(&inner, CLIENT.of(family), |seen| {
                seen.len() == 4
                    && seen.first() == Some(&of(plan::HIDDEN_GATEWAY))
                    && seen.ends_with(&[of(ROUTER_UPLINK), of(CLIENT)])
            });
        }
    }
}

#[test]
fn traceroute_shows_the_hops_one_expects() {
    hops_are_shown_to_both_ends(WorldOptions::default(), DaemonOptions::default());
}

#[test]
fn traceroute_shows_the_same_hops_on_the_stack_lane_on_clsact_without_xdp() {
    let world = WorldOptions {
        forward_accept: ForwardAccept::Present,
        ..WorldOptions::default()
    };
    let daemon = DaemonOptions {
        delivery: "stack",
        xdp_mode: "off",
        tc_mode: "clsact",
        ..DaemonOptions::default()
    };
    hops_are_shown_to_both_ends(world, daemon);
}
