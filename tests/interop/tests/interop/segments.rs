//! What each segment of ours has in its IP header, from the first SYN to the last ACK: the class of network
//! control (DSCP CS6), and under hop limit security the hop limit that the router wants to see (RFC 5082),
//! also on connections that lose.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
};

use eip_interop_tests::{
    Bench, Shape,
    hand::{self, Hand, message, open},
};
use eip_lab::{
    needs,
    sniff::{Frame, Sniffer, Way},
};

use crate::{SOON, start};

/// CS6 in the upper six bits.
const NETWORK_CONTROL: u8 = 48 << 2;
const TCP: u8 = 6;

/// Class and hop limit of a TCP segment that this namespace has sent.
fn sent(frame: &Frame) -> Option<(u8, u8)> {
    let ip = frame.bytes.get(14..).filter(|_| frame.way == Way::Out)?;
    let at = |index: usize| ip.get(index).copied();
    let (class, hops, protocol) = match at(0)? >> 4 {
        4 => (at(1)?, at(8)?, at(9)?),
        6 => (at(0)? << 4 | at(1)? >> 4, at(7)?, at(6)?),
        _ => return None,
    };
    // The lower two bits are for congestion (RFC 3168).
    (protocol == TCP).then_some((class & 0xfc, hops))
}

/// Both sides dial, the router's connection loses, and so does a second one; then the speaker leaves.
fn story(ours: &str, theirs: &str, options: &[&str]) -> Vec<Frame> {
    let bench = Bench::raise(Shape::Wire).unwrap();
    let far = "ipv4/ip_default_ttl=255\nipv6/conf/all/hop_limit=255\nipv6/conf/v0/hop_limit=255\n";
    bench.router.sysctl(far).unwrap();
    let at = |host: &str| {
        let host: IpAddr = host.parse().unwrap();
        SocketAddr::new(host, 179).to_string()
    };
    let sniffer = Sniffer::start(&bench.speaker).unwrap();
    let listener = hand::listen_at(&bench, &at(theirs)).unwrap();
    let own = ["--peer", theirs, "--listen", &at(ours)];
    let mut speaker = start(&bench, &[&own[..], options].concat());
    speaker.ask("routes4 3").unwrap();
    let mut dialled = Hand::accept(&listener).unwrap();
    let mut loser = Hand::dial_at(&bench, &at(ours)).unwrap();
    for hand in [&mut dialled, &mut loser] {
        assert_eq!(hand.hear().unwrap().expect("an OPEN").kind, 1);
        hand.say(&open()).unwrap();
    }
    assert_eq!(loser.notification().unwrap(), (6, 7, vec![]));
    assert_eq!(loser.to_the_end().unwrap(), []);
    drop(loser);
    dialled.say(&message(4, &[])).unwrap();
    dialled.hear_table(&mut BTreeSet::new()).unwrap();
    speaker.wait_state("Established", SOON).unwrap();
    let mut late = Hand::dial_at(&bench, &at(ours)).unwrap();
    assert_eq!(late.notification().unwrap(), (6, 7, vec![]));
    assert_eq!(late.to_the_end().unwrap(), []);
    drop(late);
    // It waits a second for the end of the other side; what comes later meets no socket of ours.
    thread::scope(|scope| {
        scope.spawn(|| speaker.ask("leave").unwrap());
        dialled.notification().unwrap();
        assert_eq!(dialled.to_the_end().unwrap(), []);
        drop(dialled);
    });
    drop(speaker);
    sniffer.finish()
}

#[test]
fn every_segment_is_network_control_and_has_the_hop_limit_the_router_wants() {
    needs::root().unwrap();
    for (ours, theirs) in [("10.99.0.2", "10.99.0.1"), ("fd99::2", "fd99::1")] {
        let frames = story(ours, theirs, &["--ttl-security"]);
        let segments: Vec<_> = frames.iter().filter_map(|f| Some((f, sent(f)?))).collect();
        // Three connections, each opened, used and closed.
        assert!(segments.len() > 12, "{} segments", segments.len());
        for (frame, segment) in segments {
            assert_eq!(segment, (NETWORK_CONTROL, 255), "{}", frame.line());
        }
    }
}

/// What is meant for the link cannot leave it. The SYN-ACK, sent before anybody knows for whom, has 255.
#[test]
fn without_hop_limit_security_a_neighbour_gets_one_hop_after_the_handshake() {
    needs::root().unwrap();
    let frames = story("10.99.0.2", "10.99.0.1", &[]);
    let is_syn = |frame: &Frame| {
        frame
            .bytes
            .get(47)
            .is_some_and(|flags| flags & 0x12 == 0x12)
    };
    let segments = frames
        .iter()
        .filter(|frame| !is_syn(frame))
        .filter_map(sent);
    let segments: BTreeSet<_> = segments.collect();
    assert_eq!(segments, [(NETWORK_CONTROL, 1)].into());
}
