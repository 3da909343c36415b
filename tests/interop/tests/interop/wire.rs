//! The speaker against a peer that the test plays by hand: what no router does, or not on demand.

use std::{
    collections::BTreeSet,
    io::Write as _,
    time::{Duration, Instant},
};

use eip_interop_tests::{
    Bench, Shape, SpeakerProcess,
    hand::{self, Hand, message, note_hosts, open, open_with},
};
use eip_lab::needs;
use eip_lab::wait::{pause, wait_until};

use crate::{SOON, start};

/// What the speaker answered, and what came after that: nothing.
type Answer = (u8, u8, Vec<u8>);

fn bench() -> Bench {
    needs::root().unwrap();
    Bench::raise(Shape::Wire).unwrap()
}

/// A speaker that has dialled us and said its OPEN.
fn dialled(bench: &Bench, options: &[&str]) -> (SpeakerProcess, Hand) {
    let listener = hand::listen(bench).unwrap();
    let mut speaker = start(bench, options);
    speaker.ask("routes4 3").unwrap();
    let hand = Hand::accept(&listener).unwrap();
    (speaker, hand)
}

fn established(bench: &Bench, options: &[&str]) -> (SpeakerProcess, Hand) {
    let (speaker, mut hand) = dialled(bench, options);
    hand.establish(&open()).unwrap();
    let mut table = BTreeSet::new();
    hand.hear_table(&mut table).unwrap();
    assert_eq!(table.len(), 3);
    (speaker, hand)
}

/// The NOTIFICATION, which has to arrive before the connection ends in good order.
fn answer(hand: &mut Hand) -> Answer {
    let answer = hand.notification().unwrap();
    assert_eq!(hand.to_the_end().unwrap(), [], "nothing after it");
    answer
}

#[test]
fn every_bad_header_is_answered_before_the_connection_ends() {
    let bench = bench();
    let damaged = |at: usize, value: &[u8]| {
        let mut bytes = message(4, &[]);
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let rows: &[(&str, Vec<u8>, Answer)] = &[
        ("marker", damaged(0, &[0]), (1, 1, vec![])),
        ("length 18", damaged(16, &[0, 18]), (1, 2, vec![0, 18])),
        ("length 0", damaged(16, &[0, 0]), (1, 2, vec![0, 0])),
        ("length 4097", damaged(16, &[16, 1]), (1, 2, vec![16, 1])),
        (
            "KEEPALIVE of 20",
            damaged(16, &[0, 20]),
            (1, 2, vec![0, 20]),
        ),
        ("type 0", damaged(18, &[0]), (1, 3, vec![0])),
        ("type 6", damaged(18, &[6]), (1, 3, vec![6])),
        ("type 255", damaged(18, &[255]), (1, 3, vec![255])),
        ("short UPDATE", message(2, &[0, 0, 0]), (1, 2, vec![0, 22])),
        ("short NOTIFICATION", message(3, &[6]), (1, 2, vec![0, 20])),
    ];
    for (name, bytes, expected) in rows {
        let (_speaker, mut hand) = established(&bench, &[]);
        hand.say(bytes).unwrap();
        assert_eq!(answer(&mut hand), *expected, "{name}");
    }
}

#[test]
fn every_bad_open_is_answered_before_the_connection_ends() {
    let bench = bench();
    let id = [10, 99, 0, 1];
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = open();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let rows: &[(&str, Vec<u8>, Answer)] = &[
        ("version 3", changed(19, &[3]), (2, 1, vec![0, 4])),
        ("AS 65002", changed(20, &[0xfd, 0xea]), (2, 2, vec![])),
        ("AS 0", changed(20, &[0, 0]), (2, 2, vec![])),
        ("identifier 0", changed(24, &[0; 4]), (2, 3, vec![])),
        ("hold time 1", open_with(id, 1, &[0]), (2, 6, vec![])),
        ("hold time 2", open_with(id, 2, &[0]), (2, 6, vec![])),
        (
            "authentication",
            open_with(id, 90, &[3, 1, 1, 0]),
            (2, 4, vec![]),
        ),
        (
            "parameters overrun",
            open_with(id, 90, &[9, 2, 0]),
            (2, 0, vec![]),
        ),
        (
            "a capability overruns",
            open_with(id, 90, &[4, 2, 2, 1, 4]),
            (2, 0, vec![]),
        ),
        ("UPDATE in its place", message(2, &[0; 4]), (5, 1, vec![])),
        ("KEEPALIVE in its place", message(4, &[]), (5, 1, vec![])),
    ];
    for (name, bytes, expected) in rows {
        let (_speaker, mut hand) = dialled(&bench, &[]);
        hand.say(bytes).unwrap();
        assert_eq!(answer(&mut hand), *expected, "{name}");
    }
}

#[test]
fn messages_out_of_their_turn_are_answered_with_the_state_they_met() {
    let bench = bench();
    let rows = [("OPEN", open()), ("UPDATE", message(2, &[0; 4]))];
    for (name, bytes) in &rows {
        let (_speaker, mut hand) = dialled(&bench, &[]);
        hand.say(&[open(), bytes.clone()].concat()).unwrap();
        assert_eq!(answer(&mut hand), (5, 2, vec![]), "{name} in OpenConfirm");
    }
    let (_speaker, mut hand) = established(&bench, &[]);
    hand.say(&open()).unwrap();
    assert_eq!(answer(&mut hand), (5, 3, vec![]), "OPEN in Established");
}

#[test]
fn odd_capabilities_are_no_obstacle() {
    let bench = bench();
    let id = [10, 99, 0, 1];
    // Unknown ones, known ones of the wrong length, the same one again and again.
    let odd: &[u8] = &[
        128, 0, 200, 3, 1, 2, 3, 1, 3, 0, 1, 0, 2, 1, 9, 65, 2, 0, 1, 64, 1, 0, 73, 0, 5, 5, 0, 1,
        0, 1, 0, 6, 2, 1, 1, 70, 0, 70, 0, 1, 4, 0, 1, 0, 1,
    ];
    let len = u8::try_from(odd.len()).unwrap();
    let one_parameter = [&[len + 2, 2, len], odd].concat();
    let mut each_its_own = vec![0];
    let mut rest = odd;
    while let [_code, len, ..] = *rest {
        let (one, others) = rest.split_at(usize::from(len) + 2);
        each_its_own.extend_from_slice(&[2, len + 2]);
        each_its_own.extend_from_slice(one);
        rest = others;
    }
    each_its_own[0] = u8::try_from(each_its_own.len() - 1).unwrap();
    let wide = u16::from(len).to_be_bytes();
    let whole = u16::from(len + 3).to_be_bytes();
    let extended = [&[255, 255], &whole[..], &[2], &wide, odd].concat();
    let rows = [
        ("in one parameter", one_parameter),
        ("in one each", each_its_own),
        ("in extended parameters (RFC 9072)", extended),
    ];
    for (name, parameters) in rows {
        let (_speaker, mut hand) = dialled(&bench, &[]);
        hand.establish(&open_with(id, 90, &parameters))
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        hand.hear_table(&mut BTreeSet::new()).unwrap();
    }
}

#[test]
fn messages_may_come_one_byte_at_a_time_or_all_at_once() {
    let bench = bench();
    let update = [0, 0, 0, 0, 32, 192, 0, 2, 1];
    let stream = [
        open(),
        message(4, &[]),
        message(2, &update),
        message(4, &[]),
    ]
    .concat();
    for size in [1, 7, stream.len()] {
        let (mut speaker, mut hand) = dialled(&bench, &[]);
        for part in stream.chunks(size) {
            hand.say(part).unwrap();
        }
        hand.hear_table(&mut BTreeSet::new()).unwrap();
        wait_until(SOON, "the UPDATE is counted", || {
            speaker.peer().unwrap()["counters"]["prefixesReceived"] == 1
        })
        .unwrap();
    }
}

#[test]
fn bad_attributes_cost_no_session_but_bad_framing_does() {
    let bench = bench();
    let (mut speaker, mut hand) = established(&bench, &[]);
    let forgiven: [&[u8]; 5] = [
        &[0, 0, 0, 4, 0x40, 1, 1, 9, 32, 192, 0, 2, 1], // ORIGIN 9
        &[0, 0, 0, 3, 0x40, 1, 0],                      // empty ORIGIN
        &[0, 0, 0, 4, 0x40, 2, 9, 0],                   // AS_PATH overruns
        &[0, 0, 0, 3, 0xff, 0xff, 0xff],                // unknown, well-known, cut short
        &[0, 0, 0, 6, 0x80, 14, 3, 0, 9, 9],            // MP_REACH of a strange family
    ];
    for update in forgiven {
        hand.say(&message(2, update)).unwrap();
    }
    wait_until(SOON, "all are counted", || {
        let counters = &speaker.peer().unwrap()["counters"];
        counters["updatesReceived"] == 5 && counters["malformedReceived"] != 0
    })
    .unwrap();
    assert_eq!(speaker.peer().unwrap()["state"], "Established");
    let rows: [(&str, &[u8], Answer); 3] = [
        ("withdrawn routes overrun", &[0, 9, 0, 0], (3, 1, vec![])),
        ("attributes overrun", &[0, 0, 0, 9], (3, 1, vec![])),
        (
            "a prefix of 33 bits",
            &[0, 0, 0, 0, 33, 1, 2, 3, 4, 5],
            (3, 10, vec![]),
        ),
    ];
    drop((speaker, hand));
    for (name, update, expected) in rows {
        let (_speaker, mut hand) = established(&bench, &[]);
        hand.say(&message(2, update)).unwrap();
        assert_eq!(answer(&mut hand), expected, "{name}");
    }
}

/// Resident memory in KiB.
fn memory(speaker: &SpeakerProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", speaker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

#[test]
fn a_full_table_of_a_million_routes_leaves_no_trace() {
    let bench = bench();
    let (mut speaker, mut hand) = established(&bench, &[]);
    // ORIGIN, AS_PATH of AS 65001 in two octets, NEXT_HOP.
    let attributes = [
        0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0xfd, 0xe9, 0x40, 3, 4, 10, 99, 0, 1,
    ];
    let head = [&[0, 0, 0, 18], &attributes[..]].concat();
    let mut send = |from: u32, to: u32| {
        let hosts: Vec<u32> = (from..to).collect();
        for group in hosts.chunks(800) {
            let mut body = head.clone();
            for host in group {
                body.push(32);
                body.extend_from_slice(&host.to_be_bytes());
            }
            hand.say(&message(2, &body)).unwrap();
        }
    };
    let wait_for = |speaker: &mut SpeakerProcess, count: u64| {
        wait_until(Duration::from_mins(1), "all are counted", || {
            speaker.peer().unwrap()["counters"]["prefixesReceived"] == count
        })
        .unwrap();
    };
    // The first ones bring the buffers into being.
    send(0, 10_000);
    wait_for(&mut speaker, 10_000);
    let before = memory(&speaker);
    send(10_000, 1_000_000);
    wait_for(&mut speaker, 1_000_000);
    let grown = memory(&speaker).saturating_sub(before);
    eprintln!("resident memory grew by {grown} KiB over a million routes");
    assert!(grown < 1024, "{grown} KiB");
    assert_eq!(speaker.peer().unwrap()["state"], "Established");
}

#[test]
fn a_slow_reader_gets_the_final_state_and_not_the_history() {
    let bench = bench();
    let mut speaker = start(&bench, &[]);
    speaker.ask("routes4 20000").unwrap();
    let mut hand = Hand::accept_narrow(&bench).unwrap();
    hand.establish(&open()).unwrap();
    let mut read = 0;
    for round in 0..100 {
        // Every round changes every route, so there is always more to read than is read here.
        speaker
            .ask(&format!("community 65010:{}", round % 7))
            .unwrap();
        hand.read(2048).unwrap();
        read += 2048;
        // On a busy machine all this takes longer than the hold time.
        hand.say(&message(4, &[])).unwrap();
    }
    speaker.ask("routes4 11").unwrap();
    let mut table = BTreeSet::new();
    let mut updates = 0;
    // Withdrawals leave first: whatever comes after them is the last word on what is left.
    while table.len() != 11 {
        hand.say(&message(4, &[])).unwrap();
        let heard = hand.hear().unwrap().expect("it stays");
        if heard.kind == 2 {
            note_hosts(&heard.body, &mut table).unwrap();
            updates += 1;
        }
    }
    eprintln!(
        "{updates} UPDATEs after {read} bytes of {} changes",
        100 * 20_000
    );
    assert!(updates < 1000, "{updates} UPDATEs");
}

#[test]
fn a_peer_that_lives_but_reads_nothing_is_given_up() {
    let bench = bench();
    let mut speaker = start(&bench, &["--hold", "9", "--send-hold", "9"]);
    speaker.ask("routes4 100000").unwrap();
    let mut hand = Hand::accept_narrow(&bench).unwrap();
    hand.establish(&open()).unwrap();
    let before = memory(&speaker);
    wait_until(SOON, "it is given up", || {
        // It lives.
        hand.say(&message(4, &[])).unwrap();
        speaker.ask("community 65010:1").unwrap();
        speaker.peer().unwrap()["lastSent"]["code"] == 8
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#}", speaker.peer().unwrap()));
    let grown = memory(&speaker).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for what nobody took");
}

/// Which of two connections stays (RFC 4271 §6.8): our identifier is 10.99.0.2.
fn collide(bench: &Bench, id: [u8; 4], dialled_first: bool) -> (bool, Answer) {
    let listener = hand::listen(bench).unwrap();
    let mut speaker = start(bench, &["--listen", "10.99.0.2:179"]);
    speaker.ask("routes4 3").unwrap();
    // Both connections are there before any OPEN of ours is.
    let mut theirs = Hand::accept(&listener).unwrap();
    let mut ours = Hand::dial(bench).unwrap();
    for hand in [&mut theirs, &mut ours] {
        assert_eq!(hand.hear().unwrap().expect("an OPEN").kind, 1);
    }
    let open = open_with(id, 90, &[0]);
    let pair = if dialled_first {
        [&mut ours, &mut theirs]
    } else {
        [&mut theirs, &mut ours]
    };
    for hand in pair {
        // The second one may be closed already.
        let _ = hand.say(&open);
        pause(Duration::from_millis(100));
    }
    let theirs_wins = u32::from_be_bytes(id) < u32::from_be_bytes([10, 99, 0, 2]);
    let (winner, loser) = if theirs_wins {
        (&mut theirs, &mut ours)
    } else {
        (&mut ours, &mut theirs)
    };
    let said = answer(loser);
    winner.say(&message(4, &[])).unwrap();
    let mut table = BTreeSet::new();
    winner.hear_table(&mut table).unwrap();
    speaker.wait_state("Established", SOON).unwrap();
    let origin = speaker.peer().unwrap()["origin"].clone();
    let dialled_by_speaker = origin == "dialled";
    assert_eq!(table.len(), 3);
    (dialled_by_speaker, said)
}

#[test]
fn of_two_connections_the_one_of_the_higher_identifier_stays() {
    let bench = bench();
    for dialled_first in [false, true] {
        for (id, speakers_stays) in [([10, 99, 0, 1], true), ([10, 99, 0, 3], false)] {
            let (is_speakers, said) = collide(&bench, id, dialled_first);
            assert_eq!(is_speakers, speakers_stays, "{id:?}, {dialled_first}");
            assert_eq!(said, (6, 7, vec![]));
        }
    }
}

#[test]
fn a_session_that_is_up_wins_whatever_the_identifiers_say() {
    let bench = bench();
    let (mut speaker, mut hand) = dialled(&bench, &["--listen", "10.99.0.2:179"]);
    hand.establish(&open_with([10, 99, 0, 9], 90, &[0]))
        .unwrap();
    hand.hear_table(&mut BTreeSet::new()).unwrap();
    let mut second = Hand::dial(&bench).unwrap();
    assert_eq!(answer(&mut second), (6, 7, vec![]));
    assert_eq!(speaker.peer().unwrap()["counters"]["lost"], 0);
}

#[test]
fn peers_that_flap_are_not_pestered() {
    let bench = bench();
    let notification = message(3, &[6, 2]);
    let rows: [(&str, &[u8], usize, &str); 3] = [
        ("closes at once", &[], 8, "cannot connect"),
        (
            "refuses every OPEN",
            &message(3, &[2, 2]),
            5,
            "session refused",
        ),
        ("comes up and leaves", &notification, 5, "session lost"),
    ];
    for (name, last_words, most, line) in rows {
        let listener = hand::listen(&bench).unwrap();
        let mut speaker = start(&bench, &[]);
        speaker.ask("routes4 3").unwrap();
        listener.set_nonblocking(true).unwrap();
        let until = Instant::now() + Duration::from_secs(15);
        let mut tries = 0;
        let end = until + SOON;
        while Instant::now() < until || (tries < 2 && Instant::now() < end) {
            let Ok((mut tcp, _)) = listener.accept() else {
                pause(Duration::from_millis(20));
                continue;
            };
            tries += 1;
            tcp.set_nonblocking(false).unwrap();
            if name == "comes up and leaves" {
                tcp.write_all(&[open(), message(4, &[])].concat()).unwrap();
                pause(Duration::from_millis(200));
            }
            // It may be gone already.
            let _ = tcp.write_all(last_words);
            pause(Duration::from_millis(50));
        }
        assert!((2..=most).contains(&tries), "{name}: {tries} tries in 15 s");
        // Nor is whoever reads the log: one line for all the tries, or for each session that was lost.
        drop(speaker);
        let log = std::fs::read_to_string(bench.dir().join("speaker.log")).unwrap();
        let expected = if line == "session lost" {
            1..=tries
        } else {
            1..=1
        };
        let told = log.matches(line).count();
        assert!(expected.contains(&told), "{name}: {log}");
    }
}
