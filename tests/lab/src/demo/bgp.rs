//! The chapter with a router that learns.

use std::{net::IpAddr, time::Instant};

use anyhow::ensure;

use super::{PORT, report::Report};
use crate::{
    bird::{Bird, BirdOptions, NODE_AS},
    daemon::Daemon,
    documents,
    plan::{CLIENT, EIP_CIDR, EIP_CIDR6, NODE_UPLINK, VM1, eip},
    traffic::{self, PATIENCE, SILENCE},
    world::World,
};

/// The rest of the demo has static routes to the node; here the router knows what it is told.
///
/// # Errors
/// When BIRD does not start.
pub(super) fn learnt(report: &mut Report, world: &World, agent: &mut Daemon) -> anyhow::Result<()> {
    report.chapter("A router learns by BGP where an elastic IP is: a real BIRD, no static routes");
    let (address, prefix) = (eip::VM1.v4, format!("{}/32", eip::VM1.v4));
    let prefix6 = format!("{}/128", eip::VM1.v6);
    let dir = agent.dir().join("bird");
    let bird = Bird::start(&world.router, &dir, &BirdOptions::default())?;
    report.step(
        &format!("client pings {address}"),
        "silence: the router has been told nothing",
        || {
            let answer = traffic::ping(&world.client, address.into(), 56, SILENCE);
            ensure!(answer.is_err(), "{answer:?} answered");
            let routes = bird.routes()?;
            ensure!(routes.is_empty(), "it knows {}", routes.join(", "));
            Ok("silence, and no route in BIRD".to_owned())
        },
    );
    report.step(
        "a BgpPeer document names the router",
        &format!("it learns {prefix} and {prefix6} from the agent"),
        || {
            let start = Instant::now();
            let peer = documents::peer("tor", &format!("  localAs: {NODE_AS}\n"));
            agent.documents().write("peer.yaml", &peer)?;
            bird.wait_routes(&[&prefix6, &prefix])?;
            let route = bird.describe(&prefix)?;
            let next_hop = NODE_UPLINK.v4.to_string();
            ensure!(route.contains(&next_hop), "{route}");
            Ok(format!(
                "{prefix} via {next_hop}, and {prefix6}, after {:.1?}",
                start.elapsed()
            ))
        },
    );
    report.step(
        &format!("client -> {address} TCP"),
        &format!("vm1 sees {}, by the route that was learnt", CLIENT.v4),
        || {
            let answer = traffic::tcp(&world.client, (address, PORT).into(), PATIENCE)?;
            let saw = answer.server_saw.ip();
            ensure!(saw == CLIENT.v4, "it saw {saw}");
            Ok(format!("vm1 saw {saw}"))
        },
    );
    report.quote(
        "eipctl bgp",
        &agent.eipctl(&["bgp"]).map(|output| output.stdout),
    );
    report.quote(
        &format!("birdc show route for {prefix}"),
        &bird.ask(&["show", "route", "for", &prefix]),
    );
    report.step(
        "the document of vm1's IPv4 binding is removed",
        "the router forgets that one, and the client meets silence",
        || {
            agent.documents().remove_binding("vm1")?;
            bird.wait_routes(&[&prefix6])?;
            let answer = traffic::ping(&world.client, address.into(), 56, SILENCE);
            ensure!(answer.is_err(), "{answer:?} answered");
            Ok("withdrawn, silence".to_owned())
        },
    );
    Ok(())
}

/// Puts back what [`learnt`] took away: `vm1`'s elastic IP, and the router's static routes.
///
/// # Errors
/// When the documents or the router do not take it.
pub(super) fn without_bgp(world: &World, agent: &Daemon) -> anyhow::Result<()> {
    agent.documents().remove("peer.yaml")?;
    let ranges: [(&str, IpAddr); 2] = [
        (EIP_CIDR, NODE_UPLINK.v4.into()),
        (EIP_CIDR6, NODE_UPLINK.v6.into()),
    ];
    for (range, node) in ranges {
        let route = format!("route replace {range} via {node}\n");
        world.router.ip(&route)?;
    }
    agent.documents().put_binding("vm1", eip::VM1.v4, VM1.name)
}
