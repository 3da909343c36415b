//! Announcing many routes to BIRD and withdrawing them again: every sender in its turn, round by
//! round, so that whatever else the machine does meets all of them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use eip_interop_tests::{Bench, Kind as RouterKind, Router, RouterOptions, Shape};
use eip_lab::{
    bird::Console,
    wait::{pause, wait_until},
};

use crate::{
    Options,
    capture::Capture,
    goals::{Goals, median},
    senders::{Kind, Sender},
};

/// One way of one round.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// From the first UPDATE on the wire until BIRD has, or has not, all routes.
    took_ms: f64,
    /// From the first to the last UPDATE on the wire.
    sent_ms: f64,
    updates: f64,
    bytes: f64,
}

/// One round of one sender.
#[derive(Debug)]
struct Round {
    announce: Measured,
    withdraw: Option<Measured>,
    memory: Option<u64>,
}

/// What became of a sender's rounds.
#[derive(Debug, Default)]
struct Rounds {
    rounds: Vec<Round>,
    error: Option<String>,
}

pub(crate) fn run(options: &Options, goals: &mut Goals) -> anyhow::Result<()> {
    println!(
        "Medians of {} rounds ({} of the other speakers), taken in turns; times end when BIRD shows the \
         number.\n",
        options.rounds, options.rounds_of_others
    );
    println!(
        "| sender | routes | announced, ms | x floor | sent in, ms | UPDATEs | bytes | withdrawn, ms | \
         x floor | sent in, ms | UPDATEs | bytes | RSS |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for count in &options.routes {
        let results = measure(options, *count);
        let floor = results.get(&Kind::Floor).context("the floor")?;
        for (kind, rounds) in &results {
            show(*kind, *count, rounds, floor);
        }
        if let Some(ours) = results.get(&Kind::Ours).filter(|_| *count == 100_000) {
            judge(ours, floor, goals);
        }
    }
    Ok(())
}

fn measure(options: &Options, count: u32) -> BTreeMap<Kind, Rounds> {
    let mut results: BTreeMap<Kind, Rounds> = BTreeMap::new();
    for number in 0..options.rounds {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.can(count)) {
            let is_other = !matches!(kind, Kind::Floor | Kind::Ours);
            let result = results.entry(kind).or_default();
            if result.error.is_some() || (is_other && number >= options.rounds_of_others) {
                continue;
            }
            if !kind.is_installed() {
                result.error = Some("not installed".to_owned());
                continue;
            }
            eprintln!(
                "{count} routes, round {} of {}: {}",
                number + 1,
                options.rounds,
                kind.name()
            );
            match round(kind, count) {
                Ok(round) => result.rounds.push(round),
                Err(error) => result.error = Some(format!("{error:#}")),
            }
        }
    }
    results
}

fn round(kind: Kind, count: u32) -> anyhow::Result<Round> {
    let bench = Bench::raise(Shape::Feeder)?;
    let options = RouterOptions {
        hold: 90,
        graceful_restart: false,
        ..RouterOptions::default()
    };
    let _router = Router::start(RouterKind::Bird, &bench, options)?;
    let mut bird = Console::connect(bench.dir())?;
    bird.ask("disable speaker")?;
    let mut sender = Sender::load(kind, &bench, count)?;
    let capture = Capture::start(&bench)?;
    bird.ask("enable speaker")?;
    sender.announce(&bench)?;
    let announce = until(&mut bird, capture, count)?;
    let memory = sender.memory();
    let withdraw = if sender.can_withdraw() {
        // Whatever was still to be said, End-of-RIB for one.
        pause(Duration::from_millis(500));
        let capture = Capture::start(&bench)?;
        sender.withdraw()?;
        Some(until(&mut bird, capture, 0)?)
    } else {
        None
    };
    Ok(Round {
        announce,
        withdraw,
        memory,
    })
}

/// Routes BIRD has from the sender: its own counter, which costs it nothing to tell.
fn imported(bird: &mut Console) -> anyhow::Result<u32> {
    let answer = bird.ask("show protocols all speaker")?;
    let line = answer.lines().find(|line| line.contains("Routes:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.map_or(Ok(0), str::parse)?)
}

fn until(bird: &mut Console, capture: Capture, count: u32) -> anyhow::Result<Measured> {
    let mut end = SystemTime::now();
    wait_until(Duration::from_mins(3), "BIRD has them all", || {
        for _ in 0..50 {
            let imported = imported(bird).ok();
            end = SystemTime::now();
            if imported == Some(count) {
                return true;
            }
            pause(Duration::from_millis(1));
        }
        false
    })?;
    let seen = capture.finish()?;
    let ms = |end: SystemTime| -> anyhow::Result<f64> {
        let took = end.duration_since(seen.first);
        Ok(took.context("ends after it begins")?.as_secs_f64() * 1000.0)
    };
    Ok(Measured {
        took_ms: ms(end)?,
        sent_ms: ms(seen.last)?,
        updates: f64::from(seen.updates),
        bytes: f64::from(seen.bytes),
    })
}

/// Which of the two ways.
type Way = fn(&Round) -> Option<Measured>;

const ANNOUNCE: Way = |round| Some(round.announce);
const WITHDRAW: Way = |round| round.withdraw;

impl Rounds {
    fn median(&self, way: Way, field: fn(Measured) -> f64) -> f64 {
        median(self.rounds.iter().filter_map(way).map(field).collect())
    }

    fn ratio(&self, way: Way, floor: &Self) -> f64 {
        self.median(way, |m| m.took_ms) / floor.median(way, |m| m.took_ms)
    }
}

fn show(kind: Kind, count: u32, rounds: &Rounds, floor: &Rounds) {
    let name = kind.name();
    if let Some(error) = &rounds.error {
        println!("| {name} | {count} | {error} |");
        return;
    }
    let cells = |way: Way| {
        if rounds.rounds.iter().all(|round| way(round).is_none()) {
            return "- | - | - | - | -".to_owned();
        }
        format!(
            "{:.1} | {:.2} | {:.1} | {:.0} | {:.0}",
            rounds.median(way, |m| m.took_ms),
            rounds.ratio(way, floor),
            rounds.median(way, |m| m.sent_ms),
            rounds.median(way, |m| m.updates),
            rounds.median(way, |m| m.bytes),
        )
    };
    let memory = rounds.rounds.last().and_then(|round| round.memory);
    println!(
        "| {name} | {count} | {} | {} | {} |",
        cells(ANNOUNCE),
        cells(WITHDRAW),
        memory.map_or_else(|| "-".to_owned(), crate::megabytes),
    );
}

fn judge(ours: &Rounds, floor: &Rounds, goals: &mut Goals) {
    let what = "100000 routes announced, x prebuilt bytes";
    goals.at_most(what, ours.ratio(ANNOUNCE, floor), 1.3);
    let updates = ours.median(ANNOUNCE, |m| m.updates);
    goals.at_most("the same, UPDATEs", updates, 130.0);
    let bytes = ours.median(ANNOUNCE, |m| m.bytes);
    goals.at_most("the same, kB", bytes / 1000.0, 515.0);
    let what = "100000 routes withdrawn, x prebuilt bytes";
    goals.at_most(what, ours.ratio(WITHDRAW, floor), 2.0);
    let updates = ours.median(WITHDRAW, |m| m.updates);
    goals.at_most("the same, UPDATEs", updates, 130.0);
}
