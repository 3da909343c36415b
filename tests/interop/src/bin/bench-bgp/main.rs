//! How fast BIRD learns and forgets host routes from this speaker, beside GoBGP, FRR and `ExaBGP`
//! and beside prebuilt bytes, which are the floor: what BIRD itself needs.
//!
//! The sender has its routes before the router lets it in. Time runs from the first UPDATE on the
//! wire, by tcpdump's clock, until BIRD says that it has, or has not, all of them. Nothing is
//! asserted.
#![forbid(unsafe_code)]

mod agent;
mod capture;
mod senders;

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use eip_interop_tests::{
    Bench, Kind as RouterKind, Router, RouterOptions, Shape, SpeakerProcess,
    hand::{Hand, open},
};
use eip_lab::wait::{pause, wait_until};

use crate::{
    capture::Capture,
    senders::{Kind, Sender, resident},
};

/// Measures announcing and withdrawing.
#[derive(Parser)]
struct Options {
    /// Rounds of each measurement; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of routes.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    routes: Vec<u32>,
    /// Elastic IPs that are bound one after the other.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u8).range(1..=200))]
    binds: u8,
}

/// One way of one round.
#[derive(Debug, Clone, Copy)]
struct Measured {
    took: Duration,
    updates: usize,
    bytes: usize,
}

/// One round.
struct Round {
    announce: Measured,
    withdraw: Option<Measured>,
    memory: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!(
        "{:<15} {:>7}  {:>11} {:>8} {:>8} {:>9}  {:>11} {:>8} {:>8} {:>9}  {:>8}",
        "sender",
        "routes",
        "announce",
        "x floor",
        "UPDATEs",
        "bytes",
        "withdraw",
        "x floor",
        "UPDATEs",
        "bytes",
        "RSS"
    );
    for count in &options.routes {
        let mut floor = None;
        for kind in Kind::ALL.into_iter().filter(|kind| kind.can(*count)) {
            if !kind.is_installed() {
                println!("{:<15} {count:>7}  not installed", kind.name());
                continue;
            }
            let rounds: anyhow::Result<Vec<Round>> =
                (0..options.rounds).map(|_| round(kind, *count)).collect();
            match rounds {
                Ok(rounds) => show(kind, *count, &rounds, &mut floor),
                Err(error) => println!("{:<15} {count:>7}  {error:#}", kind.name()),
            }
        }
    }
    agent::binds(options.binds)?;
    four_peers()?;
    agent::bfd_beside_bulk_work()
}

fn round(kind: Kind, count: u32) -> anyhow::Result<Round> {
    let bench = Bench::raise(Shape::Feeder)?;
    let options = RouterOptions {
        hold: 90,
        graceful_restart: false,
        ..RouterOptions::default()
    };
    let _router = Router::start(RouterKind::Bird, &bench, options)?;
    let mut bird = Bird::connect(&bench)?;
    bird.ask("disable speaker")?;
    let mut sender = Sender::load(kind, &bench, count)?;
    let capture = Capture::start(&bench)?;
    bird.ask("enable speaker")?;
    sender.announce(&bench)?;
    let announce = bird.measure(capture, count)?;
    let memory = sender.memory();
    let withdraw = if sender.can_withdraw() {
        // Whatever was still to be said, End-of-RIB for one.
        pause(Duration::from_millis(500));
        let capture = Capture::start(&bench)?;
        sender.withdraw()?;
        Some(bird.measure(capture, 0)?)
    } else {
        None
    };
    Ok(Round {
        announce,
        withdraw,
        memory,
    })
}

/// BIRD's control socket, which answers faster than `birdc` starts.
struct Bird(UnixStream);

impl Bird {
    fn connect(bench: &Bench) -> anyhow::Result<Self> {
        let mut bird = Self(UnixStream::connect(bench.dir().join("bird.ctl"))?);
        bird.0.set_read_timeout(Some(Duration::from_secs(30)))?;
        bird.answer()?;
        Ok(bird)
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.0, "{line}")?;
        self.answer()
    }

    /// Lines up to one whose code is followed by a blank.
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        loop {
            let len = self.0.read(&mut buffer)?;
            ensure!(len > 0, "BIRD has closed");
            answer.push_str(&String::from_utf8_lossy(&buffer[..len]));
            let last = answer.trim_end_matches('\n').rsplit('\n').next();
            let is_last = last.is_some_and(|line| {
                let code = line.as_bytes();
                code.len() >= 5 && code[..4].iter().all(u8::is_ascii_digit) && code[4] == b' '
            });
            if answer.ends_with('\n') && is_last {
                return Ok(answer);
            }
        }
    }

    /// Routes it has from the sender: its own counter, which costs it nothing to tell.
    fn imported(&mut self) -> anyhow::Result<u32> {
        let answer = self.ask("show protocols all speaker")?;
        let line = answer.lines().find(|line| line.contains("Routes:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.map_or(Ok(0), str::parse)?)
    }

    fn measure(&mut self, capture: Capture, count: u32) -> anyhow::Result<Measured> {
        let mut end = SystemTime::now();
        wait_until(Duration::from_mins(3), "BIRD has them all", || {
            for _ in 0..50 {
                let imported = self.imported().ok();
                end = SystemTime::now();
                if imported == Some(count) {
                    return true;
                }
                pause(Duration::from_millis(1));
            }
            false
        })?;
        let seen = capture.finish()?;
        Ok(Measured {
            took: end
                .duration_since(seen.first)
                .context("ends after it begins")?,
            updates: seen.updates,
            bytes: seen.bytes,
        })
    }
}

/// Announce and withdraw of the floor, in milliseconds.
type Floor = (f64, f64);

fn show(kind: Kind, count: u32, rounds: &[Round], floor: &mut Option<Floor>) {
    let ms = |measured: Measured| measured.took.as_secs_f64() * 1000.0;
    let announces: Vec<f64> = rounds.iter().map(|round| ms(round.announce)).collect();
    let withdraws: Vec<f64> = rounds
        .iter()
        .filter_map(|round| round.withdraw.map(ms))
        .collect();
    let (announce, withdraw) = (median(announces), median(withdraws));
    let base = *floor.get_or_insert((announce, withdraw));
    let cell = |time: f64, base: f64, measured: Option<Measured>| match measured {
        Some(Measured { updates, bytes, .. }) => format!(
            "{time:>8.1} ms {:>8.2} {updates:>8} {bytes:>9}",
            time / base
        ),
        None => format!("{:>11} {:>8} {:>8} {:>9}", "-", "-", "-", "-"),
    };
    let last = rounds.last();
    let memory = last.and_then(|round| round.memory);
    println!(
        "{:<15} {count:>7}  {}  {}  {:>8}",
        kind.name(),
        cell(announce, base.0, last.map(|round| round.announce)),
        cell(withdraw, base.1, last.and_then(|round| round.withdraw)),
        memory.map_or_else(|| "-".to_owned(), megabytes),
    );
}

fn megabytes(kib: u64) -> String {
    format!("{}.{} MB", kib / 1024, kib % 1024 * 10 / 1024)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Memory with 100 000 routes toward four peers that take everything.
fn four_peers() -> anyhow::Result<()> {
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
    let program = std::env::current_exe()?.with_file_name("eip-test-speaker");
    let peers: Vec<&str> = addresses.iter().flat_map(|a| ["--peer", *a]).collect();
    let program = program.to_str().context("a path in UTF-8")?;
    let mut speaker = SpeakerProcess::start(&bench, program, &peers)?;
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
    Ok(())
}
