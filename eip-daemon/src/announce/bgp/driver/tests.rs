//! Real sockets on loopback addresses: speakers against each other, and against a peer that the
//! test plays by hand.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use crate::announce::bgp::{
    AttributeSet, Exit, FamilySnapshot, Password, PeerAs, PeerConfig, Route, Speaker,
    SpeakerConfig, State,
    wire::{
        Capabilities, GracefulRestart, HEADER_LEN, Message, Open, Reason, SizeLimit, decode_body,
        decode_header, encode_keepalive,
    },
};

/// For what has to come, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);

/// Loopback addresses keep tests that run side by side apart.
fn host(test: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, test, number)
}

fn port() -> u16 {
    let probe = std::net::TcpListener::bind((host(0, 1), 0)).unwrap();
    probe.local_addr().unwrap().port()
}

fn config(address: Ipv4Addr, local_as: u32, port: u16) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(local_as, address);
    config.listen = vec![SocketAddr::from((address, port))];
    config
}

fn peer(address: Ipv4Addr, own: Ipv4Addr, asn: u32, port: u16) -> PeerConfig {
    let mut peer = PeerConfig::new("peer", address.into(), PeerAs::Number(asn));
    peer.transport.port = port;
    peer.transport.source = Some(own.into());
    peer
}

fn routes(count: u32) -> impl Iterator<Item = Route> {
    let address = |index: u32| std::net::IpAddr::V4((0x0a00_0000 + index).into());
    (0..count).map(move |index| Route {
        prefix: address(index).into(),
        attributes: AttributeSet::default(),
    })
}

fn state(speaker: &Speaker) -> Option<State> {
    speaker
        .status()
        .peers
        .first()
        .map(|peer| peer.session.state)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let polled = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(polled.await.is_ok(), "not in time: {what}");
}

/// Two speakers, each configured to dial the other.
fn pair(test: u8, password: [Option<&str>; 2]) -> [Speaker; 2] {
    let port = port();
    let ends = [(host(test, 1), 65010), (host(test, 2), 65001)];
    let start = |own: usize| {
        let ((address, asn), (other, other_as)) = (ends[own], ends[1 - own]);
        let speaker = Speaker::start(&config(address, asn, port)).unwrap();
        let mut peer = peer(other, address, other_as, port);
        peer.transport.password = password[own].map(|secret| Password::new(secret).unwrap());
        assert_eq!(speaker.set_peers([peer]), []);
        speaker
    };
    [start(0), start(1)]
}

#[tokio::test]
async fn two_speakers_that_dial_each_other_end_with_one_session() {
    let [left, right] = pair(1, [None, None]);
    let generation = left.set_routes(routes(5000), true);
    right.set_routes([], true);
    until("both established and settled", || {
        let settled = left
            .status()
            .peers
            .first()
            .and_then(|p| p.session.settled_generation);
        settled == Some(generation) && state(&right) == Some(State::Established)
    })
    .await;
    until("all routes arrived", || {
        right
            .status()
            .peers
            .iter()
            .all(|p| p.session.counters.prefixes_received >= 5000)
    })
    .await;
    left.shutdown(Exit::Withdraw { text: "test ends" }).await;
    until("the other side was told why", || {
        let status = right.status();
        let error = status
            .peers
            .first()
            .and_then(|peer| peer.session.last_received.clone());
        error.is_some_and(|error| {
            error.reason == Reason::AdministrativeShutdown
                && error.text.as_deref() == Some("test ends")
        })
    })
    .await;
}

#[tokio::test]
async fn sessions_wait_for_a_complete_table() {
    let [left, right] = pair(2, [None, None]);
    left.set_routes(routes(1), false);
    right.set_routes([], false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&left), Some(State::Idle));
    left.set_routes(routes(2), true);
    right.set_routes([], true);
    until("established", || state(&left) == Some(State::Established)).await;
}

#[tokio::test]
async fn a_password_has_to_be_the_same_at_both_ends() {
    let [left, right] = pair(3, [Some("correct horse"), Some("correct horse")]);
    left.set_routes([], true);
    right.set_routes([], true);
    until("established with a password", || {
        state(&left) == Some(State::Established)
    })
    .await;

    let [left, right] = pair(4, [Some("correct horse"), Some("battery staple")]);
    left.set_routes([], true);
    right.set_routes([], true);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(state(&left) < Some(State::OpenSent), "{:?}", state(&left));
}

#[tokio::test]
async fn a_stranger_is_shown_the_door_without_an_open() {
    let port = port();
    let speaker = Speaker::start(&config(host(5, 1), 65010, port)).unwrap();
    speaker.set_peers([peer(host(5, 2), host(5, 1), 65001, port)]);
    speaker.set_routes([], true);
    let mut stranger = connect(host(5, 3), host(5, 1), port).await;
    let mut bytes = Vec::new();
    // End of stream or reset, as long as not a byte comes.
    let _ = timeout(PATIENCE, stranger.read_to_end(&mut bytes))
        .await
        .expect("closed");
    assert!(bytes.is_empty(), "{bytes:?}");
}

async fn connect(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> TcpStream {
    let attempt = async {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            if let Ok(stream) = socket.connect((to, port).into()).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, attempt).await.expect("connected")
}

/// A peer played by hand.
struct Hand {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl Hand {
    fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            bytes: Vec::new(),
        }
    }

    /// The next message that is not a KEEPALIVE, by a description; `None` at the end.
    async fn hear(&mut self) -> Option<String> {
        loop {
            if let Some((kind, len)) = decode_header(&self.bytes, SizeLimit::Extended).unwrap()
                && self.bytes.len() >= len
            {
                let message: Vec<u8> = self.bytes.drain(..len).collect();
                match decode_body(kind, &message[HEADER_LEN..]).unwrap() {
                    Message::Keepalive => continue,
                    Message::Notification(notification) => {
                        return Some(format!("NOTIFICATION {:?}", notification.reason.to_wire()));
                    }
                    other => return Some(format!("{other:?}")),
                }
            }
            let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.bytes)).await;
            match read.expect("something in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
    }

    /// Exchanges OPEN and KEEPALIVE.
    async fn establish(&mut self, router_id: Ipv4Addr) {
        let mut bytes = Vec::new();
        open(router_id).encode("", &mut bytes);
        encode_keepalive(&mut bytes);
        self.say(&bytes).await;
        assert!(
            self.hear()
                .await
                .is_some_and(|message| message.starts_with("Open"))
        );
    }
}

fn open(router_id: Ipv4Addr) -> Open {
    let capabilities = Capabilities {
        multiprotocol: true,
        ipv4: true,
        four_octet_as: Some(65001),
        route_refresh: true,
        ..Capabilities::default()
    };
    Open {
        asn: 65001,
        // Longer than any test on a loaded machine: the hand sends no KEEPALIVE after the first.
        hold_time_s: 180,
        router_id,
        capabilities,
    }
}

/// A speaker and the connection that it has dialled to the test.
async fn dialled_by_speaker(test: u8) -> (Speaker, Hand) {
    let listener = TcpListener::bind((host(test, 2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let speaker = Speaker::start(&SpeakerConfig::new(65010, host(test, 1))).unwrap();
    speaker.set_peers([peer(host(test, 2), host(test, 1), 65001, port)]);
    speaker.set_routes(routes(3), true);
    let (tcp, _) = timeout(PATIENCE, listener.accept())
        .await
        .expect("dialled")
        .unwrap();
    (speaker, Hand::new(tcp))
}

#[tokio::test]
async fn every_malformed_message_is_answered_before_the_connection_closes() {
    let keepalive = |at: usize, value: u8| {
        let mut bytes = Vec::new();
        encode_keepalive(&mut bytes);
        bytes[at] = value;
        bytes
    };
    let mut old = Vec::new();
    open(host(6, 2)).encode("", &mut old);
    old[HEADER_LEN] = 3;
    let rows = [
        ("marker", keepalive(3, 0), (1, 1)),
        ("length", keepalive(17, 18), (1, 2)),
        ("type", keepalive(18, 9), (1, 3)),
        ("version", old, (2, 1)),
        ("KEEPALIVE before OPEN", keepalive(0, 0xff), (5, 1)),
    ];
    for (name, bytes, expected) in rows {
        let (_speaker, mut hand) = dialled_by_speaker(6).await;
        assert!(
            hand.hear()
                .await
                .is_some_and(|message| message.starts_with("Open")),
            "{name}"
        );
        hand.say(&bytes).await;
        assert_eq!(
            hand.hear().await,
            Some(format!("NOTIFICATION {expected:?}")),
            "{name}"
        );
        assert_eq!(hand.hear().await, None, "{name}");
    }
}

#[tokio::test]
async fn a_shutdown_withdraws_before_it_says_goodbye() {
    let (speaker, mut hand) = dialled_by_speaker(7).await;
    hand.establish(host(7, 2)).await;
    assert!(
        hand.hear()
            .await
            .is_some_and(|message| message.contains("announced: 3"))
    );
    assert!(
        hand.hear()
            .await
            .is_some_and(|message| message.contains("end_of_rib: Some(Ipv4)"))
    );
    tokio::spawn(speaker.shutdown(Exit::Withdraw { text: "" }));
    assert!(
        hand.hear()
            .await
            .is_some_and(|message| message.contains("withdrawn: 3"))
    );
    assert_eq!(hand.hear().await.as_deref(), Some("NOTIFICATION (6, 2)"));
    assert_eq!(hand.hear().await, None);
}

#[tokio::test]
async fn a_shutdown_that_keeps_says_nothing() {
    let (speaker, mut hand) = dialled_by_speaker(8).await;
    hand.establish(host(8, 2)).await;
    while hand
        .hear()
        .await
        .is_some_and(|message| !message.contains("Some(Ipv4)"))
    {}
    speaker.shutdown(Exit::Keep).await;
    assert_eq!(hand.hear().await, None);
}

#[tokio::test]
async fn a_removed_peer_is_told_and_the_others_are_left_alone() {
    let (speaker, mut hand) = dialled_by_speaker(9).await;
    hand.establish(host(9, 2)).await;
    while hand
        .hear()
        .await
        .is_some_and(|message| !message.contains("Some(Ipv4)"))
    {}
    let bystander = PeerConfig::new("bystander", host(9, 9).into(), PeerAs::External);
    let status = speaker.status();
    let kept = status.peers[0].clone();
    assert_eq!(kept.session.state, State::Established);
    let mut first = peer(
        host(9, 2),
        host(9, 1),
        65001,
        hand.tcp.local_addr().unwrap().port(),
    );
    speaker.set_peers([first.clone(), bystander.clone()]);
    until("the second peer is there", || {
        speaker.status().peers.len() == 2
    })
    .await;
    first.export.med = Some(5);
    speaker.set_peers([first, bystander.clone()]);
    assert!(
        hand.hear()
            .await
            .is_some_and(|message| message.contains("announced: 3"))
    );
    speaker.set_peers([bystander]);
    assert_eq!(hand.hear().await.as_deref(), Some("NOTIFICATION (6, 3)"));
    until("it is gone", || speaker.status().peers.len() == 1).await;
}

/// RFC 4486 section 4, and RFC 8538: the router that nobody will come back to drops what it has.
#[tokio::test]
async fn a_changed_peer_hears_whether_it_is_still_the_peer() {
    for (test, change, expected) in [
        (13, 0, "NOTIFICATION (6, 6)"),
        (14, 1, "NOTIFICATION (6, 9)"),
    ] {
        let (speaker, mut hand) = dialled_by_speaker(test).await;
        let mut bytes = Vec::new();
        let mut open = open(host(test, 2));
        open.capabilities.graceful_restart = Some(GracefulRestart {
            has_restarted: false,
            covers_notification: true,
            restart_time_s: 120,
            keeps_ipv4: Some(true),
            keeps_ipv6: None,
        });
        open.encode("", &mut bytes);
        encode_keepalive(&mut bytes);
        hand.say(&bytes).await;
        while hand
            .hear()
            .await
            .is_some_and(|message| !message.contains("Some(Ipv4)"))
        {}
        let port = hand.tcp.local_addr().unwrap().port();
        let mut changed = peer(host(test, 2 + change), host(test, 1), 65001, port);
        changed.session.hold_time = Duration::from_secs(30);
        assert_eq!(speaker.set_peers([changed]), []);
        assert_eq!(hand.hear().await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_bad_peer_is_refused_by_field_and_the_good_ones_go_on() {
    let (speaker, mut hand) = dialled_by_speaker(10).await;
    hand.establish(host(10, 2)).await;
    until("established", || {
        state(&speaker) == Some(State::Established)
    })
    .await;
    let port = hand.tcp.local_addr().unwrap().port();
    let mut worse = peer(host(10, 2), host(10, 1), 65001, port);
    worse.session.hold_time = Duration::from_secs(1);
    let refused = speaker.set_peers([worse]);
    assert_eq!(refused[0].to_string(), "peer peer: holdTime: less than 3");
    assert_eq!(
        state(&speaker),
        Some(State::Established),
        "it keeps its settings"
    );
}

#[tokio::test]
async fn a_peer_that_reads_nothing_gets_the_final_state_and_not_the_history() {
    let (speaker, mut hand) = dialled_by_speaker(11).await;
    hand.establish(host(11, 2)).await;
    for count in 0..60 {
        speaker.set_routes(routes(if count % 2 == 0 { 20_000 } else { 0 }), true);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let generation = speaker.set_routes(routes(7), true);
    let mut have: i64 = 0;
    let mut messages = 0;
    let counted = timeout(PATIENCE, async {
        loop {
            let Some(message) = hand.hear().await else {
                panic!("closed")
            };
            messages += 1;
            let number = |field: &str| -> i64 {
                let (_, rest) = message.split_once(field).unwrap();
                rest[..rest.find(',').unwrap()].trim().parse().unwrap()
            };
            if message.starts_with("Update") {
                have += number("announced:") - number("withdrawn:");
            }
            let settled = speaker.status().peers[0].session.settled_generation;
            if settled == Some(generation) && have == 7 {
                return;
            }
        }
    });
    assert!(
        counted.await.is_ok(),
        "{have} routes after {messages} messages"
    );
    assert_eq!(
        speaker.status().peers[0].session.ipv4,
        Some(FamilySnapshot::Announced {
            advertised: 7,
            pending: 0
        })
    );
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_and_used_once_it_is_free() {
    let taken = std::net::TcpListener::bind((host(12, 1), 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let speaker = Speaker::start(&config(host(12, 1), 65010, port)).unwrap();
    until("reported", || {
        speaker.status().listeners.iter().any(|l| l.error.is_some())
    })
    .await;
    speaker.set_peers([peer(host(12, 2), host(12, 1), 65001, port)]);
    speaker.set_routes([], true);
    drop(taken);
    // Nothing else happens meanwhile that would have it tried again.
    until("it listens", || {
        let status = speaker.status();
        status.listeners.iter().all(|l| l.error.is_none())
    })
    .await;
    let mut hand = Hand::new(connect(host(12, 2), host(12, 1), port).await);
    let open = hand.hear().await.unwrap();
    assert!(open.starts_with("Open"), "{open}");
}

#[tokio::test]
async fn a_peer_that_changes_its_table_loses_no_route_in_between() {
    let (speaker, mut hand) = dialled_by_speaker(15).await;
    hand.establish(host(15, 2)).await;
    while hand
        .hear()
        .await
        .is_some_and(|message| !message.contains("Some(Ipv4)"))
    {}
    let port = hand.tcp.local_addr().unwrap().port();
    let plain = peer(host(15, 2), host(15, 1), 65001, port);
    let mut with_rules = plain.clone();
    with_rules.export.table = Some("own".to_owned());
    for round in 0..20 {
        // As when the last peer without a table of its own gets one, and back.
        let (refused, _) = if round % 2 == 0 {
            let own = [("own".to_owned(), routes(3).collect())].into();
            speaker.set_peers_and_tables([with_rules.clone()], [], own, true)
        } else {
            speaker.set_peers_and_tables([plain.clone()], routes(3), [].into(), true)
        };
        assert_eq!(refused, []);
        tokio::task::yield_now().await;
    }
    speaker.set_peers_and_tables([plain], routes(4), [].into(), true);
    // The same routes under another name are no news.
    let message = hand.hear().await.expect("the session stays");
    assert!(message.contains("announced: 1, withdrawn: 0"), "{message}");
}

#[tokio::test]
async fn a_peer_with_a_table_of_its_own_gets_that_one() {
    let [left, right] = pair(12, [None, None]);
    right.set_routes([], true);
    let named = [("few".to_owned(), routes(3).collect())].into();
    left.set_tables(routes(5), named, true);
    let arrived = |count: u64| {
        let status = right.status();
        let peers = status.peers.iter();
        peers
            .map(|p| p.session.counters.prefixes_received)
            .sum::<u64>()
            == count
    };
    until("the common table", || arrived(5)).await;
    let mut few = peer(host(12, 2), host(12, 1), 65001, 0);
    few.transport.port = match left.status().listeners.first() {
        Some(listener) => listener.address.port(),
        None => 0,
    };
    few.export.table = Some("few".to_owned());
    assert_eq!(left.set_peers([few]), []);
    until("two of them are taken back, the session stays", || {
        let status = left.status();
        let session = &status.peers[0].session;
        let advertised = matches!(
            session.ipv4,
            Some(FamilySnapshot::Announced {
                advertised: 3,
                pending: 0
            })
        );
        advertised && session.counters.lost == 0
    })
    .await;
    left.shutdown(Exit::Keep).await;
}
