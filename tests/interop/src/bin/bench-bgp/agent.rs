//! The whole agent: from `eipctl bind` to the UPDATE at its router, which is played by hand. And its BFD
//! beside bulk work.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use eip_interop_tests::{
    Bench, Kind, Router, RouterOptions, Shape, SpeakerProcess,
    hand::{Hand, open},
};
use eip_lab::{
    bird::{NODE_AS, ROUTER_AS},
    daemon::{Daemon, DaemonOptions},
    documents,
    plan::{VM1, eip},
    wait::{pause, wait_until},
    world::{World, WorldOptions},
};

use crate::{
    Options,
    goals::{Goals, percentile},
    one::{PATIENCE, arrival, watch},
    senders::{set_as, test_speaker},
};

/// Elastic IPs of the lab that nobody else has.
const FIRST: [u8; 4] = [203, 0, 113, 40];

/// Binds one elastic IP after the other, and says how long each took to the router.
pub(crate) fn binds(options: &Options, goals: &mut Goals) -> anyhow::Result<()> {
    let count = options.binds;
    let world = World::new(WorldOptions::default())?;
    world.leaks().allow_node_traffic();
    let listener = world.router.run(|| TcpListener::bind("192.0.2.1:179"))?;
    let options = DaemonOptions {
        more: vec![format!("--bgp-local-as={NODE_AS}")],
        ..DaemonOptions::default()
    };
    let mut daemon = Daemon::start(&world, options)?;
    daemon.serve(&VM1, eip::VM1.v4)?;
    let peer = documents::peer("tor", "");
    daemon.documents().write("peer.yaml", &peer)?;
    let mut hand = Hand::accept(&listener)?;
    let mut open = open();
    set_as(&mut open, u16::try_from(ROUTER_AS)?);
    hand.establish(&open)?;
    let mut table = BTreeSet::new();
    hand.hear_table(&mut table)?;
    let heard = watch(hand, table);
    let (mut at_router, mut answered) = (Vec::new(), Vec::new());
    for index in 0..count {
        let mut octets = FIRST;
        octets[3] += index;
        let eip = Ipv4Addr::from(octets);
        let start = Instant::now();
        let output = daemon.eipctl(&["bind", &eip.to_string(), "vm1"])?;
        answered.push(start.elapsed());
        ensure!(output.status.success(), "eipctl bind: {}", output.stderr);
        at_router.push(arrival(&heard, eip.to_bits())? - start);
    }
    println!("\n{count} x `eipctl bind`, from the start of the command:");
    for (what, times) in [
        ("UPDATE at the router", &mut at_router),
        ("answer", &mut answered),
    ] {
        let [half, most] = [50, 99].map(|part| percentile(times, part));
        println!("  {what:<21} p50 {half:>6.1?}  p99 {most:>6.1?}");
    }
    let limit = Duration::from_millis(20);
    let half = percentile(&mut at_router, 50);
    goals.within("`eipctl bind` to UPDATE at the router, p50", half, limit);
    Ok(())
}

/// Whether BFD at a tight interval bears with a hundred thousand routes that come and go beside it.
pub(crate) fn bfd_beside_bulk_work(_options: &Options, goals: &mut Goals) -> anyhow::Result<()> {
    const INTERVAL: u32 = 50;
    let bench = Bench::raise(Shape::Wire)?;
    let options = RouterOptions {
        bfd: Some(INTERVAL),
        hold: 600,
        ..RouterOptions::default()
    };
    let router = Router::start(Kind::Bird, &bench, options)?;
    let interval = INTERVAL.to_string();
    let flags = ["--bfd", &interval, "--hold", "600"];
    let mut speaker = SpeakerProcess::start(&bench, &test_speaker()?, &flags)?;
    speaker.ask("routes 1")?;
    let detection = u64::from(INTERVAL) * 3;
    wait_until(PATIENCE, "BFD is up", || {
        speaker.peer().is_ok_and(|peer| {
            peer["bfd"]["verdict"] == "alive" && peer["bfd"]["detectionTimeMs"] == detection
        })
    })
    .with_context(|| format!("{:#}", speaker.peer().unwrap_or_default()))?;
    for _ in 0..5 {
        for count in [100_000, 1] {
            speaker.ask(&format!("routes {count}"))?;
            let known = router.wait_known(count, count, PATIENCE);
            known.with_context(|| format!("{:#}", speaker.peer().unwrap_or_default()))?;
        }
    }
    pause(Duration::from_secs(1));
    let lost = speaker.peer()?["bfd"]["lost"].as_u64();
    let lost = lost.context("how often BFD was lost")?;
    println!(
        "\nBFD at {INTERVAL} ms x 3 while 100000 routes of each family come and go five times: lost {lost} \
         times"
    );
    let what = format!("BFD at {INTERVAL} ms x 3 beside bulk work, times lost");
    goals.at_most(what, f64::from(u32::try_from(lost)?), 0.0);
    Ok(())
}
