//! One route more: from the speaker's API to the UPDATE at a peer that is played by hand.

use std::{
    collections::BTreeSet,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use eip_interop_tests::{
    Bench, Shape, SpeakerProcess,
    hand::{self, Hand, message, note_hosts, open},
};

use crate::{
    Options,
    goals::{Goals, percentile},
    senders::test_speaker,
};

/// How long anything may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Routes that are there before.
const BEFORE: u32 = 1000;

/// What a peer has from a moment on.
type Heard = (Instant, BTreeSet<u32>);

/// Listens on its own thread and says KEEPALIVE in answer to one.
pub(crate) fn watch(mut hand: Hand, mut table: BTreeSet<u32>) -> Receiver<Heard> {
    let (sender, heard) = mpsc::channel();
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
    heard
}

/// When a host was first heard of.
pub(crate) fn arrival(heard: &Receiver<Heard>, host: u32) -> anyhow::Result<Instant> {
    loop {
        let (time, table) = heard.recv_timeout(PATIENCE).context("no UPDATE")?;
        if table.contains(&host) {
            return Ok(time);
        }
    }
}

pub(crate) fn run(options: &Options, goals: &mut Goals) -> anyhow::Result<()> {
    let bench = Bench::raise(Shape::Wire)?;
    let listener = hand::listen(&bench)?;
    let mut speaker = SpeakerProcess::start(&bench, &test_speaker()?, &[])?;
    speaker.ask(&format!("routes4 {BEFORE}"))?;
    let mut hand = Hand::accept(&listener)?;
    hand.establish(&open())?;
    let mut table = BTreeSet::new();
    hand.hear_table(&mut table)?;
    let last = *table.last().context("routes")?;
    let heard = watch(hand, table);
    let mut times = Vec::new();
    for index in 1..=u32::from(options.binds) {
        let start = Instant::now();
        speaker.ask(&format!("routes4 {}", BEFORE + index))?;
        times.push(arrival(&heard, last + index)? - start);
    }
    let [half, most] = [50, 99].map(|part| percentile(&mut times, part));
    println!(
        "\none route more than {BEFORE} and up, set to UPDATE at the peer: p50 {half:.2?}, p99 {most:.2?}"
    );
    goals.within(
        "one route set to UPDATE, p50",
        half,
        Duration::from_millis(1),
    );
    goals.within(
        "one route set to UPDATE, p99",
        most,
        Duration::from_millis(5),
    );
    Ok(())
}
