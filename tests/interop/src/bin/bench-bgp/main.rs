//! How fast BIRD learns and forgets host routes from this speaker, beside GoBGP, FRR and `ExaBGP`
//! and beside prebuilt bytes, which are the floor: what BIRD itself needs. Then how long one route
//! takes, from the speaker's own API and from `eipctl bind`, what many cost in memory, and whether
//! BFD bears with them.
//!
//! Many routes: the sender has its routes before the router lets it in. Time runs from the first
//! UPDATE on the wire, by tcpdump's clock, until BIRD says that it has, or has not, all of them.
//! Nothing is asserted; the last table has the goals.
#![forbid(unsafe_code)]

mod agent;
mod capture;
mod goals;
mod one;
mod rounds;
mod senders;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use eip_interop_tests::{
    Bench, Shape, SpeakerProcess,
    hand::{Hand, open},
};
use eip_lab::wait::pause;

use crate::{goals::Goals, senders::resident};

/// Measures announcing and withdrawing.
#[derive(Parser)]
struct Options {
    /// Rounds of prebuilt bytes and of this speaker; medians are shown.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Rounds of the other speakers.
    #[arg(long, default_value_t = 3)]
    rounds_of_others: usize,
    /// Numbers of routes.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    routes: Vec<u32>,
    /// Elastic IPs that are bound one after the other, and routes that are added so.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u8).range(1..=200))]
    binds: u8,
    /// Only the parts whose name has this in it: many, one, bind, memory, bfd.
    #[arg(long, default_value = "")]
    only: String,
}

type Part = fn(&Options, &mut Goals) -> anyhow::Result<()>;

const PARTS: [(&str, Part); 5] = [
    ("many", rounds::run),
    ("one", one::run),
    ("bind", agent::binds),
    ("memory", four_peers),
    ("bfd", agent::bfd_beside_bulk_work),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let mut goals = Goals::default();
    let mut outcome = ExitCode::SUCCESS;
    for (name, part) in PARTS {
        if !name.contains(&options.only) {
            continue;
        }
        // What one part lacks is no reason to do without the others.
        if let Err(error) = part(&options, &mut goals) {
            println!("\n{name}: not measured: {error:#}");
            outcome = ExitCode::FAILURE;
        }
    }
    goals.print();
    outcome
}

fn megabytes(kib: u64) -> String {
    format!("{}.{} MB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// Memory with 100 000 routes toward four peers that take everything.
fn four_peers(_options: &Options, goals: &mut Goals) -> anyhow::Result<()> {
    let bench = Bench::raise(Shape::Wire)?;
    let addresses = ["10.99.0.1", "10.99.0.3", "10.99.0.4", "10.99.0.5"];
    for address in &addresses[1..] {
        bench
            .router
            .ip(&format!("addr add {address}/24 dev v0\n"))?;
    }
    let bind = |address: &&str| {
        let at = (*address, 179);
        bench.router.run(|| std::net::TcpListener::bind(at))
    };
    let listeners: Vec<_> = addresses.iter().map(bind).collect::<Result<_, _>>()?;
    let peers: Vec<&str> = addresses.iter().flat_map(|a| ["--peer", *a]).collect();
    let mut speaker = SpeakerProcess::start(&bench, &senders::test_speaker()?, &peers)?;
    let pid = u32::try_from(speaker.pid().as_raw())?;
    pause(Duration::from_millis(200));
    let empty = resident(pid).context("its memory")?;
    speaker.ask("routes4 100000")?;
    let mut readers = Vec::new();
    for listener in &listeners {
        let mut hand = Hand::accept(listener)?;
        hand.establish(&open())?;
        readers.push(std::thread::spawn(move || {
            let mut table = std::collections::BTreeSet::new();
            hand.hear_table(&mut table).map(|()| (table.len(), hand))
        }));
    }
    let mut hands = Vec::new();
    for reader in readers {
        let outcome = reader
            .join()
            .map_err(|_| anyhow::anyhow!("a reader died"))?;
        let (count, hand) = outcome?;
        ensure!(count == 100_000, "{count} routes arrived");
        hands.push(hand);
    }
    let full = resident(pid).context("its memory")?;
    println!(
        "\nmemory, 100000 routes x 4 peers: {}, of which {} without any",
        megabytes(full),
        megabytes(empty)
    );
    let what = "memory with 100000 routes toward four peers, MB";
    goals.at_most(what, f64::from(u32::try_from(full)?) / 1024.0, 30.0);
    Ok(())
}
