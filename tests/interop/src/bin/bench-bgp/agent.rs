//! The whole agent: from `eipctl bind` to the UPDATE at its router, which is played by hand. And its BFD
//! beside bulk work.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use eip_interop_tests::{
    Bench, Kind, Router, RouterOptions, Shape, SpeakerProcess,
    hand::{Hand, message, note_hosts, open},
};
use eip_lab::{
    bird::{NODE_AS, ROUTER_AS},
    daemon::{Daemon, DaemonOptions},
    documents,
    plan::{VM1, eip},
    wait::{pause, wait_until},
    world::{World, WorldOptions},
};

use crate::senders::set_as;

const PATIENCE: Duration = Duration::from_mins(1);
/// Elastic IPs of the lab that nobody else has.
const FIRST: [u8; 4] = [203, 0, 113, 40];

/// Binds one elastic IP after the other, and says how long each took to the router.
pub(crate) fn binds(count: u8) -> anyhow::Result<()> {
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
    let (sender, heard) = mpsc::channel::<(Instant, BTreeSet<u32>)>();
    std::thread::spawn(move || -> anyhow::Result<()> {
        while let Some(heard) = hand.hear()? {
            let now = Instant::now();
            match heard.kind {
                2 => {
                    note_hosts(&heard.body, &mut table)?;
                    sender.send((now, table.clone()))?;
                }
                4 => hand.say(&message(4, &[]))?,
                _ => {}
            }
        }
        Ok(())
    });
    let (mut at_router, mut answered) = (Vec::new(), Vec::new());
    for index in 0..count {
        let mut octets = FIRST;
        octets[3] += index;
        let eip = Ipv4Addr::from(octets);
        let start = Instant::now();
        let output = daemon.eipctl(&["bind", &eip.to_string(), "vm1"])?;
        answered.push(start.elapsed());
        ensure!(output.status.success(), "eipctl bind: {}", output.stderr);
        loop {
            let (time, table) = heard.recv_timeout(PATIENCE).context("no UPDATE")?;
            if table.contains(&eip.to_bits()) {
                at_router.push(time - start);
                break;
            }
        }
    }
    println!("\n{count} x `eipctl bind`, from the start of the command:");
    for (what, mut times) in [("UPDATE at the router", at_router), ("answer", answered)] {
        times.sort();
        let at = |part: usize| {
            times
                .get(times.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        println!("  {what:<21} p50 {:>6.1?}  p99 {:>6.1?}", at(50), at(99));
    }
    Ok(())
}

/// Whether BFD at a tight interval bears with a hundred thousand routes that come and go beside it.
pub(crate) fn bfd_beside_bulk_work() -> anyhow::Result<()> {
    const INTERVAL: u32 = 50;
    let bench = Bench::raise(Shape::Wire)?;
    let options = RouterOptions {
        bfd: Some(INTERVAL),
        hold: 600,
        ..RouterOptions::default()
    };
    let router = Router::start(Kind::Bird, &bench, options)?;
    let program = std::env::current_exe()?.with_file_name("eip-test-speaker");
    let program = program.to_str().context("a path in UTF-8")?;
    let interval = INTERVAL.to_string();
    let flags = ["--bfd", &interval, "--hold", "600"];
    let mut speaker = SpeakerProcess::start(&bench, program, &flags)?;
    speaker.ask("routes 1")?;
    wait_until(PATIENCE, "BFD is up", || {
        let detection = u64::from(INTERVAL) * 3;
        speaker.peer().is_ok_and(|peer| {
            peer["bfd"]["verdict"] == "alive" && peer["bfd"]["detectionTimeMs"] == detection
        })
    })?;
    for _ in 0..5 {
        for count in [100_000, 1] {
            speaker.ask(&format!("routes {count}"))?;
            router.wait_known(count, count, PATIENCE)?;
        }
    }
    pause(Duration::from_secs(1));
    println!(
        "\nBFD at {INTERVAL} ms x 3 while 100000 routes of each family come and go five times: lost {} times",
        speaker.peer()?["bfd"]["lost"]
    );
    Ok(())
}
