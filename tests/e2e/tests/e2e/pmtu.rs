//! Path MTU discovery with the small link everywhere it can be: in front of the node, on it and behind it.
//! Most of them are a route's MTU, which the ends do not see: what they negotiate fits the large links, so
//! TCP too has to be told.

use std::{net::IpAddr, time::Duration};

use eip_lab::{
    daemon::DaemonOptions,
    netns::Ns,
    plan::{
        Attachment, CLIENT, Dual, EIP_CIDR, EIP_CIDR6, Family, GuestPlan, NODE_UPLINK,
        ROUTER_CLIENT, ROUTER_UPLINK, VM1, VM2, eip,
    },
    traffic::{self, Bulk, SILENCE},
    wait::wait_until,
    world::WorldOptions,
};

use crate::support::{Stage, at};

/// Long enough for any machine.
const LONG: Duration = Duration::from_mins(1);
const WHOLE: u32 = 1500;
const SERVED: [(GuestPlan, Dual); 2] = [(VM1, eip::VM1), (VM2, eip::VM2)];

/// Who says how large packets may be.
#[derive(Debug, Clone, Copy)]
enum By {
    /// A router or host with this address.
    Host(Dual),
    /// The node or the pod, which the VM knows by more than one address.
    Inside,
    /// The asker's own link: nobody has to.
    Itself,
}

/// What `ping` was told: by whom, if not by its own kernel, and how much.
fn told(said: &str) -> Option<(Option<IpAddr>, u32)> {
    said.lines().find_map(|line| {
        let (_, after) = line.split_once("mtu")?;
        let digits = after.trim_start_matches([' ', '=', ':']);
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
        let by = line.strip_prefix("From ");
        let by = by.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Some((by, digits.parse().ok()?))
    })
}

/// What was learned about paths until now is forgotten.
fn forget(ends: &[&Ns]) {
    for ns in ends {
        for family in ["-4", "-6"] {
            ns.sh(&format!("ip {family} route flush cache")).unwrap();
        }
    }
}

/// `asker` finds out by ICMP, UDP and TCP that its packets to `to` may have `mtu` bytes, and not by losing
/// them. `ends` know nothing about the path before.
fn discovers(asker: &Ns, to: IpAddr, mtu: u32, by: By, ends: &[&Ns]) {
    let (headers, family) = match to {
        IpAddr::V4(_) => (28, Family::V4),
        IpAddr::V6(_) => (48, Family::V6),
    };
    let what = format!(
        "{} learns the MTU {mtu} toward {to} from {by:?}",
        asker.name()
    );
    let ping = |size: u32| format!("ping -n -M do -c 1 -W 2 -s {} {to}", size - headers);
    let mut said = String::new();
    let learned = wait_until(LONG, &what, || {
        forget(ends);
        said = asker.report(&ping(WHOLE));
        told(&said).is_some_and(|(teller, limit)| {
            let is_right = match by {
                By::Host(host) => teller == Some(host.of(family)),
                By::Inside => teller.is_some(),
                By::Itself => teller.is_none(),
            };
            is_right && limit == mtu
        })
    });
    assert!(learned.is_ok(), "{what}; last: {said}");
    wait_until(LONG, &format!("{what}, and it is right"), || {
        asker.sh(&ping(mtu)).is_ok()
    })
    .unwrap();

    for way in [Bulk::Upload, Bulk::Download] {
        forget(ends);
        traffic::bulk(asker, at(to), way, 500_000)
            .unwrap_or_else(|error| panic!("{what}, {way:?}: {error:#}"));
    }
    // The answer is larger still. Who sends it knows the path by now: where that is larger than the uplink's, a
    // datagram that may be cut on its way is, if the node's firewall allows that.
    forget(&[asker]);
    wait_until(LONG, &format!("{what}, by UDP"), || {
        traffic::udp(asker, at(to), (WHOLE - headers) as usize, SILENCE).is_ok()
    })
    .unwrap();
}

/// From the client to both VMs.
fn client_discovers(stage: &Stage, mtu: u32, by: impl Fn(Dual) -> By) {
    let client = &stage.world.client;
    for (vm, eip) in SERVED {
        for family in Family::BOTH {
            let ends = [client, stage.ns(vm)];
            discovers(client, eip.of(family), mtu, by(eip), &ends);
        }
    }
}

/// From both VMs to the client.
fn vms_discover(stage: &Stage, mtu: u32, by: By) {
    let client = &stage.world.client;
    for (vm, _) in SERVED {
        for family in Family::BOTH {
            let ends = [client, stage.ns(vm)];
            discovers(stage.ns(vm), CLIENT.of(family), mtu, by, &ends);
        }
    }
}

/// As `ip route` wants to be told; a route without one takes that of its link, whatever that is then.
fn limit(mtu: Option<u32>) -> String {
    mtu.map_or(String::new(), |mtu| format!(" mtu {mtu}"))
}

/// The router's way to the node.
fn toward_eips(stage: &Stage, mtu: Option<u32>) {
    let (v4, v6, limit) = (NODE_UPLINK.v4, NODE_UPLINK.v6, limit(mtu));
    stage
        .world
        .router
        .ip(&format!(
            "route replace {EIP_CIDR} via {v4}{limit}\nroute replace {EIP_CIDR6} via {v6}{limit}\n"
        ))
        .unwrap();
}

/// The router's way to the client.
fn toward_client(stage: &Stage, mtu: Option<u32>) {
    let (v4, v6, limit) = (CLIENT.v4, CLIENT.v6, limit(mtu));
    stage
        .world
        .router
        .ip(&format!(
            "route replace {v4}/32 dev rc0{limit}\nroute replace {v6}/128 dev rc0{limit}\n"
        ))
        .unwrap();
}

/// The node, as a guest of the lab knows it.
const fn gateway_of(guest: GuestPlan) -> (&'static str, &'static str) {
    match guest.attachment {
        Attachment::Routed => ("169.254.1.1", "fe80::1"),
        Attachment::BridgePort => ("10.244.2.1", "fd00:10:244:2::1"),
    }
}

fn set_mtu(ns: &Ns, device: &str, mtu: u32) {
    ns.ip(&format!("link set {device} mtu {mtu}\n")).unwrap();
}

/// The links of both VMs.
fn vm_links(stage: &Stage, mtu: u32) {
    for (vm, _) in SERVED {
        set_mtu(&stage.world.node, vm.port, mtu);
        set_mtu(stage.ns(vm), "eth0", mtu);
    }
    set_mtu(&stage.world.node, "cni0", mtu);
}

/// Every small link has an MTU of its own: nobody passes with what was learned about another one.
fn wherever_the_small_link_is(daemon: DaemonOptions) {
    let mut stage = Stage::dual(WorldOptions::default(), daemon);

    // In front of the node.
    toward_eips(&stage, Some(1400));
    client_discovers(&stage, 1400, |_| By::Host(ROUTER_CLIENT));
    toward_eips(&stage, None);
    toward_client(&stage, Some(1390));
    vms_discover(&stage, 1390, By::Host(ROUTER_UPLINK));
    toward_client(&stage, None);

    // The node's uplink.
    set_mtu(&stage.world.router, "ru0", 1380);
    set_mtu(&stage.world.node, "up0", 1380);
    vms_discover(&stage, 1380, By::Inside);
    client_discovers(&stage, 1380, |_| By::Host(ROUTER_CLIENT));
    set_mtu(&stage.world.router, "ru0", WHOLE);
    set_mtu(&stage.world.node, "up0", WHOLE);

    // The VM's link.
    vm_links(&stage, 1370);
    client_discovers(&stage, 1370, By::Host);
    vms_discover(&stage, 1370, By::Itself);
    vm_links(&stage, WHOLE);

    // Behind the VM's link: the pod that stands between it and the VM says it, and the client hears it from the
    // EIP.
    for (pod, eip) in SERVED {
        let inner = stage.put_vm_behind(pod);
        let hidden = eip_lab::plan::HIDDEN;
        stage
            .ns(pod)
            .ip(&format!(
                "route replace {}/32 dev k6t0 mtu 1360\nroute replace {}/128 dev k6t0 mtu 1360\n",
                hidden.v4, hidden.v6
            ))
            .unwrap();
        let client = &stage.world.client;
        for family in Family::BOTH {
            let ends = [client, &inner];
            discovers(client, eip.of(family), 1360, By::Host(eip), &ends);
        }
        // The other way, it tells the VM.
        let (v4, v6) = gateway_of(pod);
        stage
            .ns(pod)
            .ip(&format!(
                "route replace default via {v4} dev eth0 mtu 1350\n\
                 route replace ::/0 via {v6} dev eth0 mtu 1350\n"
            ))
            .unwrap();
        for family in Family::BOTH {
            let (to, ends) = (CLIENT.of(family), [client, &inner]);
            discovers(&inner, to, 1350, By::Inside, &ends);
        }
    }
}

#[test]
fn path_mtus_are_discovered_wherever_the_small_link_is() {
    wherever_the_small_link_is(DaemonOptions::default());
}

#[test]
fn path_mtus_are_discovered_wherever_the_small_link_is_on_clsact_without_xdp() {
    wherever_the_small_link_is(DaemonOptions {
        xdp_mode: "off",
        tc_mode: "clsact",
        ..DaemonOptions::default()
    });
}
