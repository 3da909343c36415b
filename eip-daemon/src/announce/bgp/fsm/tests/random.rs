//! Two of our sessions against each other, in any order of events: at the end there is one
//! connection, and each has the other's routes.

use std::collections::{BTreeSet, VecDeque};

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;

/// What a connection carries in one direction.
#[derive(Debug, Default)]
struct Wire {
    messages: VecDeque<Vec<u8>>,
    is_closed: bool,
}

/// One TCP connection. Side 0 or 1 has dialled it.
#[derive(Debug)]
struct Link {
    dialler: usize,
    /// To side 0, to side 1.
    wires: [Wire; 2],
    /// The accepting side knows of it.
    is_accepted: bool,
}

impl Link {
    fn origin(&self, side: usize) -> Origin {
        if side == self.dialler {
            Origin::Dialled
        } else {
            Origin::Accepted
        }
    }
}

/// Two sides and what is between them.
struct Network {
    sides: [World; 2],
    /// Links that a side has in its slot for an origin.
    links: Vec<Link>,
    slots: [[Option<usize>; 2]; 2],
    dialling: [bool; 2],
    heard: [BTreeSet<Ipv4Net>; 2],
}

/// Something that can happen next.
type Event = Box<dyn FnOnce(&mut Network)>;

fn slot(origin: Origin) -> usize {
    match origin {
        Origin::Dialled => 0,
        Origin::Accepted => 1,
    }
}

impl Network {
    fn new() -> Self {
        let side = |local_as: u32, id: Ipv4Addr, peer_as: u32, table: RouteTable| {
            let mut config = peer_config();
            config.session.peer_as = PeerAs::Number(peer_as);
            let identity = Identity {
                local_as,
                router_id: id,
                ..identity()
            };
            let session = Session::new(identity, config, table, u64::from(local_as));
            World {
                session,
                now: Instant::now(),
            }
        };
        let mut network = Self {
            sides: [
                side(65010, OUR_ID, 65001, hosts(5)),
                side(65001, LOWER_ID, 65010, hosts(3)),
            ],
            links: Vec::new(),
            slots: [[None; 2]; 2],
            dialling: [false; 2],
            heard: Default::default(),
        };
        network.sides[1].now = network.sides[0].now;
        network.feed(0, Input::Start, None);
        network.feed(1, Input::Start, None);
        network
    }

    fn feed(&mut self, side: usize, input: Input<'_>, arriving: Option<usize>) {
        let World { session, now } = &mut self.sides[side];
        let outputs = session.process(input, *now);
        let mut arriving = arriving;
        for output in outputs {
            match output {
                Output::Dial => self.dialling[side] = true,
                Output::CancelDial => self.dialling[side] = false,
                Output::Send(origin, bytes) => {
                    if self.slots[side][slot(origin)].is_none() {
                        self.slots[side][slot(origin)] = arriving.take();
                    }
                    let link = self.slots[side][slot(origin)].expect("a connection to send on");
                    self.links[link].wires[1 - side].messages.push_back(bytes);
                }
                Output::Close(origin) => {
                    let link = self.slots[side][slot(origin)].take().expect("one to close");
                    self.links[link].wires[1 - side].is_closed = true;
                }
                Output::Reject(_, bytes) => {
                    let link = arriving.take().expect("one to reject");
                    if !bytes.is_empty() {
                        self.links[link].wires[1 - side].messages.push_back(bytes);
                    }
                    self.links[link].wires[1 - side].is_closed = true;
                }
                Output::Up(_) => {}
                Output::Down => self.heard[1 - side].clear(),
            }
        }
        // What was heard belongs to a session: without one it is forgotten.
        if self.sides[side].state() != State::Established {
            self.heard[side].clear();
        }
    }

    /// Lets the `choice`-th thing happen that can happen; `false` when nothing can.
    fn happen(&mut self, choice: usize) -> bool {
        let mut events: Vec<Event> = Vec::new();
        for side in 0..2 {
            if self.dialling[side] {
                events.push(Box::new(move |network| network.connect(side)));
            }
        }
        for (index, link) in self.links.iter().enumerate() {
            if !link.is_accepted {
                events.push(Box::new(move |network| network.accept(index)));
            }
            for side in 0..2 {
                let is_mine = self.slots[side][slot(link.origin(side))] == Some(index);
                let wire = &link.wires[side];
                if is_mine && (!wire.messages.is_empty() || wire.is_closed) {
                    events.push(Box::new(move |network| network.deliver(side, index)));
                }
            }
        }
        for side in 0..2 {
            if !self.sides[side].session.is_settled() {
                events.push(Box::new(move |network| network.speak(side)));
            }
        }
        let count = events.len();
        match events.into_iter().nth(choice % count.max(1)) {
            Some(event) => event(self),
            None => return false,
        }
        true
    }

    fn connect(&mut self, side: usize) {
        self.dialling[side] = false;
        let link = Link {
            dialler: side,
            wires: Default::default(),
            is_accepted: false,
        };
        self.links.push(link);
        self.feed(
            side,
            Input::Dialled(endpoints()),
            Some(self.links.len() - 1),
        );
    }

    fn accept(&mut self, link: usize) {
        self.links[link].is_accepted = true;
        let side = 1 - self.links[link].dialler;
        self.feed(side, Input::Accepted(endpoints()), Some(link));
    }

    fn deliver(&mut self, side: usize, link: usize) {
        let origin = self.links[link].origin(side);
        let Some(bytes) = self.links[link].wires[side].messages.pop_front() else {
            return self.feed(side, Input::Closed(origin), None);
        };
        let (kind, len) = decode_header(&bytes, SizeLimit::Standard).unwrap().unwrap();
        let message = decode_body(kind, &bytes[HEADER_LEN..len]).unwrap();
        self.feed(1 - side, Input::Taken(origin.other()), None);
        if let Message::Update(_) = message {
            self.take_routes(side, &bytes);
        }
        self.feed(side, Input::Message(origin, message), None);
    }

    /// Host routes of an UPDATE of ours: withdrawn ones, or those after the attributes.
    fn take_routes(&mut self, side: usize, bytes: &[u8]) {
        let u16_at = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let withdrawn = u16_at(19);
        let attributes = u16_at(21 + withdrawn);
        let hosts = |bytes: &[u8]| -> Vec<Ipv4Net> {
            let host = |host: &[u8]| [host[1], host[2], host[3], host[4]];
            let hosts = bytes.chunks(5).map(host);
            hosts
                .map(|host| Ipv4Net::new_assert(host.into(), 32))
                .collect()
        };
        for host in hosts(&bytes[21..21 + withdrawn]) {
            self.heard[side].remove(&host);
        }
        self.heard[side].extend(hosts(&bytes[23 + withdrawn + attributes..]));
    }

    fn speak(&mut self, side: usize) {
        for origin in Origin::ALL {
            let mut bytes = Vec::new();
            self.sides[side].session.write_routes(origin, &mut bytes, 1);
            if let (Some(link), false) = (self.slots[side][slot(origin)], bytes.is_empty()) {
                self.links[link].wires[1 - side]
                    .messages
                    .extend(split(&bytes));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        for side in 0..2 {
            self.sides[side].now += time;
            self.feed(side, Input::Timer, None);
        }
    }

    /// The network breaks a connection.
    fn cut(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            for wire in &mut link.wires {
                wire.messages.clear();
                wire.is_closed = true;
            }
        }
    }

    fn table(&self, side: usize) -> BTreeSet<Ipv4Net> {
        let ours = self.sides[1 - side].session.table.ipv4.iter();
        ours.map(|(prefix, _)| *prefix).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Happen(usize),
    Pass(u64),
    Routes(usize, u32),
    Cut(usize),
    Serve(usize, Serving),
}

fn step() -> impl Strategy<Value = Step> {
    let serving = prop_oneof![
        Just(Serving::Normally),
        Just(Serving::Reluctantly),
        Just(Serving::Nothing)
    ];
    prop_oneof![
        30 => (0..64_usize).prop_map(Step::Happen),
        3 => (0..4000_u64).prop_map(Step::Pass),
        3 => (0..2_usize, 0..20_u32).prop_map(|(side, count)| Step::Routes(side, count)),
        1 => (0..6_usize).prop_map(Step::Cut),
        1 => (0..2_usize, serving).prop_map(|(side, serving)| Step::Serve(side, serving)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn at_rest_one_connection_is_left_and_each_side_knows_the_others_routes(
        steps in prop::collection::vec(step(), 0..200)
    ) {
        let mut network = Network::new();
        for step in steps {
            match step {
                Step::Happen(choice) => { network.happen(choice); }
                Step::Pass(ms) => network.pass(Duration::from_millis(ms)),
                Step::Routes(side, count) => {
                    network.sides[side].session.set_table(hosts(count));
                }
                Step::Cut(link) => network.cut(link),
                Step::Serve(side, serving) => network.sides[side].session.set_serving(serving),
            }
        }
        for side in &mut network.sides {
            side.session.set_serving(Serving::Normally);
        }
        // Everything in flight arrives at once from here on. Ten minutes are enough for any
        // back-off to end.
        for _ in 0..1200 {
            while network.happen(0) {}
            network.pass(Duration::from_millis(500));
        }
        while network.happen(0) {}
        for side in 0..2 {
            prop_assert_eq!(network.sides[side].state(), State::Established);
            prop_assert_eq!(&network.heard[side], &network.table(side));
            let up = network.slots[side].iter().flatten().count();
            prop_assert_eq!(up, 1);
        }
    }
}
