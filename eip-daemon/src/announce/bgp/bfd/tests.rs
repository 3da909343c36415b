//! The state machine and the packet, each alone; then two machines over a network that loses,
//! delays and repeats.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{BfdSettings, Change, Control, Diagnostic, PACKET_LEN, Reaction, Role, Session, State};

const STATES: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

fn session(settings: BfdSettings, now: Instant) -> Session {
    Session::new(settings, 7, 42, now)
}

/// What a router sends.
fn packet(state: State) -> Control {
    Control {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        is_final: false,
        is_control_plane_independent: true,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 7,
        desired_min_tx: Duration::from_millis(300),
        required_min_rx: Duration::from_millis(300),
    }
}

fn brought_to(state: State, now: Instant) -> Session {
    let mut session = session(BfdSettings::default(), now);
    match state {
        State::AdminDown => {
            session.switch_off();
        }
        State::Down => {}
        State::Init => {
            session.receive(&packet(State::Down), now);
        }
        State::Up => {
            session.receive(&packet(State::Init), now);
        }
    }
    assert_eq!(session.state(), state);
    session
}

#[test]
fn every_state_heard_in_every_state_leads_where_the_rfc_says() {
    use State::{AdminDown, Down, Init, Up};
    // RFC 5880 §6.8.6; rows are our state, columns what is heard, in the order of STATES.
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    let now = Instant::now();
    for (before, row) in table {
        for (heard, expected) in STATES.into_iter().zip(row) {
            let mut session = brought_to(before, now);
            let reaction = session.receive(&packet(heard), now);
            assert_eq!(session.state(), expected, "{before:?} hears {heard:?}");
            let change = match (before, expected, heard) {
                (Down | Init, Up, _) => Some(Change::Up),
                (Up, Down, AdminDown) => Some(Change::SwitchedOff),
                (Up, Down, _) => Some(Change::Down(Diagnostic::NeighborSignaledDown)),
                _ => None,
            };
            assert_eq!(reaction.change, change, "{before:?} hears {heard:?}");
        }
    }
}

#[test]
fn silence_is_noticed_after_the_detection_time_and_not_before() {
    let now = Instant::now();
    for state in [State::Init, State::Up] {
        let mut session = brought_to(state, now);
        let time = session.detection_time();
        assert_eq!(time, Duration::from_millis(900));
        session.timer(now + time.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(session.state(), state);
        let reaction = session.timer(now + time);
        assert_eq!(session.state(), State::Down);
        let down = Change::Down(Diagnostic::DetectionTimeExpired);
        assert_eq!(reaction.change, (state == State::Up).then_some(down));
        let sent = reaction.send.expect("the other side is told at once");
        assert_eq!(
            (sent.state, sent.diagnostic, sent.your_discriminator),
            (State::Down, Diagnostic::DetectionTimeExpired, 0)
        );
    }
}

#[test]
fn packets_are_slow_until_up_and_jittered_always() {
    let settings = BfdSettings {
        min_tx: Duration::from_millis(100),
        ..BfdSettings::default()
    };
    let mut now = Instant::now();
    let mut session = session(settings, now);
    let gaps = |session: &mut Session, now: &mut Instant| {
        let mut gaps = Vec::new();
        let mut last = None;
        while gaps.len() < 200 {
            *now = session.next_deadline().expect("it sends");
            // Something is heard often enough.
            if session.state() == State::Up {
                session.receive(&packet(State::Up), *now);
            }
            if session.timer(*now).send.is_some() {
                gaps.extend(last.map(|last| now.duration_since(last)));
                last = Some(*now);
            }
        }
        (*gaps.iter().min().unwrap(), *gaps.iter().max().unwrap())
    };
    let (least, most) = gaps(&mut session, &mut now);
    assert!(least >= Duration::from_millis(750) && most <= Duration::from_secs(1));
    assert!(
        most > least + Duration::from_millis(150),
        "that is no jitter"
    );
    session.receive(&packet(State::Init), now);
    assert_eq!(session.state(), State::Up);
    let (least, most) = gaps(&mut session, &mut now);
    // The other side takes no more than one in 300 ms.
    assert!(least >= Duration::from_millis(225) && most <= Duration::from_millis(300));
}

#[test]
fn with_a_multiplier_of_one_packets_come_before_their_time() {
    let settings = BfdSettings {
        detect_multiplier: 1,
        ..BfdSettings::default()
    };
    let mut now = Instant::now();
    let mut session = session(settings, now);
    session.timer(now);
    for _ in 0..100 {
        let next = session.next_deadline().unwrap();
        assert!(next - now <= Duration::from_millis(900));
        now = next;
        session.timer(now);
    }
}

#[test]
fn a_change_of_the_interval_is_polled_until_the_answer() {
    let now = Instant::now();
    let mut session = brought_to(State::Up, now);
    let next = |session: &mut Session| {
        let at = session.next_deadline().unwrap();
        session.timer(at).send.unwrap()
    };
    assert!(next(&mut session).poll);
    let mut answer = packet(State::Up);
    answer.is_final = true;
    session.receive(&answer, now);
    assert!(!next(&mut session).poll);
}

#[test]
fn a_poll_is_answered_at_once_whatever_the_timers() {
    let now = Instant::now();
    let mut session = brought_to(State::Up, now);
    let mut poll = packet(State::Up);
    poll.poll = true;
    let answer = session.receive(&poll, now).send.unwrap();
    assert!(answer.is_final && !answer.poll);
    assert_eq!(answer.your_discriminator, 9);
}

#[test]
fn the_passive_side_does_not_speak_first() {
    let now = Instant::now();
    let settings = BfdSettings {
        role: Role::Passive,
        ..BfdSettings::default()
    };
    let mut session = session(settings, now);
    for second in 0..10 {
        let reaction = session.timer(now + Duration::from_secs(second));
        assert_eq!(reaction, Reaction::default());
    }
    let now = now + Duration::from_secs(10);
    session.receive(&packet(State::Down), now);
    let at = session.next_deadline().unwrap();
    assert!(session.timer(at).send.is_some());
}

#[test]
fn nothing_is_sent_to_a_peer_that_takes_nothing() {
    let now = Instant::now();
    let mut session = brought_to(State::Up, now);
    let mut deaf = packet(State::Up);
    deaf.required_min_rx = Duration::ZERO;
    session.receive(&deaf, now);
    let reaction = session.timer(now + Duration::from_millis(899));
    assert_eq!(reaction, Reaction::default());
}

#[test]
fn a_peer_on_demand_hears_nothing_but_polls() {
    let now = Instant::now();
    let mut session = brought_to(State::Up, now);
    let mut demanding = packet(State::Up);
    demanding.demand = true;
    demanding.is_final = true;
    session.receive(&demanding, now);
    let at = session.next_deadline().unwrap();
    assert_eq!(session.timer(at).send, None);
}

#[test]
fn a_session_that_is_switched_off_says_so_and_stays_off() {
    let now = Instant::now();
    let mut session = brought_to(State::Up, now);
    let goodbye = session.switch_off();
    assert_eq!(
        (goodbye.state, goodbye.diagnostic),
        (State::AdminDown, Diagnostic::AdministrativelyDown)
    );
    assert_eq!(session.next_deadline(), None);
    session.receive(&packet(State::Down), now);
    assert_eq!(session.state(), State::AdminDown);
}

#[test]
fn packets_survive_the_wire() {
    let sent = Control {
        diagnostic: Diagnostic::DetectionTimeExpired,
        poll: true,
        demand: true,
        ..packet(State::Init)
    };
    let bytes = sent.encode();
    // RFC 5880 §4.1, by hand.
    let expected = [
        0x21, 0xaa, 3, 24, 0, 0, 0, 9, 0, 0, 0, 7, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
    assert_eq!(Control::decode(&bytes), Some(sent));
}

#[test]
fn packets_that_the_rfc_discards_are_discarded() {
    let good = packet(State::Up).encode();
    let broken = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        bytes
    };
    let rows = [
        ("version 2", broken(0, 0x40)),
        ("multipoint", broken(1, good[1] | 1)),
        ("authenticated", broken(1, good[1] | 4)),
        ("multiplier 0", broken(2, 0)),
        ("longer than it is", broken(3, 25)),
        ("shorter than it can be", broken(3, 23)),
        ("no discriminator of its own", broken(7, 0)),
        ("Up without ours", broken(11, 0)),
    ];
    assert!(Control::decode(&good).is_some());
    for (name, bytes) in rows {
        assert_eq!(Control::decode(&bytes), None, "{name}");
    }
    assert_eq!(Control::decode(&good[..23]), None, "cut short");
    let mut first = packet(State::Down);
    first.your_discriminator = 0;
    assert!(Control::decode(&first.encode()).is_some());
}

/// Two sides and what is on its way between them.
struct Network {
    sides: [Session; 2],
    in_flight: [Vec<(Instant, Control)>; 2],
    now: Instant,
    ups: [u32; 2],
}

impl Network {
    fn new(settings: [BfdSettings; 2]) -> Self {
        let now = Instant::now();
        let [left, right] = settings;
        Self {
            sides: [
                Session::new(left, 1, 11, now),
                Session::new(right, 2, 22, now),
            ],
            in_flight: [Vec::new(), Vec::new()],
            now,
            ups: [0; 2],
        }
    }

    /// Time passes in small steps. `lost` decides about each packet.
    fn pass(&mut self, time: Duration, delay: Duration, mut lost: impl FnMut() -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            for side in 0..2 {
                let now = self.now;
                let (due, later) = std::mem::take(&mut self.in_flight[side])
                    .into_iter()
                    .partition::<Vec<_>, _>(|(at, _)| *at <= now);
                self.in_flight[side] = later;
                let mut reactions: Vec<Reaction> = Vec::new();
                for (_, control) in due {
                    let decoded = Control::decode(&control.encode()).expect("ours is good");
                    let reaction = self.sides[side].receive(&decoded, now);
                    // As it was when it spoke: with a multiplier of one it may have given up since.
                    let is_heard = matches!(control.state, State::Init | State::Up);
                    assert!(
                        reaction.change != Some(Change::Up) || is_heard,
                        "up with one that hears nothing"
                    );
                    reactions.push(reaction);
                }
                if self.sides[side].next_deadline().is_some_and(|at| at <= now) {
                    reactions.push(self.sides[side].timer(now));
                }
                for Reaction { send, change } in reactions {
                    if change == Some(Change::Up) {
                        self.ups[side] += 1;
                    }
                    if let Some(packet) = send
                        && !lost()
                    {
                        self.in_flight[1 - side].push((now + delay, packet));
                    }
                }
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }
}

fn settings() -> impl Strategy<Value = BfdSettings> {
    (20_u64..2000, 20_u64..2000, 1_u8..6).prop_map(|(tx, rx, detect_multiplier)| BfdSettings {
        min_tx: Duration::from_millis(tx),
        min_rx: Duration::from_millis(rx),
        detect_multiplier,
        ..BfdSettings::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_sides_that_hear_each_other_are_up_and_stay_up(
        left in settings(), right in settings(), noise in prop::collection::vec(any::<bool>(), 0..200)
    ) {
        let mut network = Network::new([left, right]);
        let delay = Duration::from_millis(5);
        // First a network that loses as it likes.
        let mut noise = noise.into_iter();
        network.pass(Duration::from_secs(20), delay, || noise.next().unwrap_or(false));
        network.pass(Duration::from_secs(40), delay, || false);
        prop_assert_eq!(network.states(), [State::Up; 2]);
        let ups = network.ups;
        network.pass(Duration::from_mins(1), delay, || false);
        prop_assert_eq!(network.ups, ups, "no flap without loss");
        // Then it is cut: both sides know within their detection time.
        let time = network.sides[0].detection_time().max(network.sides[1].detection_time());
        network.pass(time + 2 * delay + Duration::from_millis(10), delay, || true);
        prop_assert!(network.states().iter().all(|state| *state != State::Up));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_what_it_takes_it_gives_back(
        bytes in prop::collection::vec(any::<u8>(), 0..64)
    ) {
        if let Some(control) = Control::decode(&bytes) {
            let again = control.encode();
            prop_assert_eq!(Control::decode(&again), Some(control));
            prop_assert_eq!(&again[4..20], &bytes[4..20]);
            prop_assert_eq!(again.len(), PACKET_LEN);
        }
    }
}
