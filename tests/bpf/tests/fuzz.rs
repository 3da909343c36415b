//! Packets nobody would send on purpose: whatever comes, each ends for exactly one reason, and nothing
//! is written where nothing may be.

use std::{cell::RefCell, ops::Range};

use eip_bpf_tests::{
    Action, Run, World,
    packet::{NODE_MAC, SENDER_MAC, ip},
};
use eip_common::{
    abi::Delivery,
    reason::{Class, Hook},
};
use proptest::{prelude::*, test_runner::TestRunner};

const EIP: &str = "203.0.113.10";
const SECOND: &str = "203.0.113.20";
const VM: &str = "10.244.1.10";

/// An IPv4 frame that is right in nothing but its addresses, which are the interesting ones.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let address = || {
        prop_oneof![
            Just(ip(EIP)),
            Just(ip(SECOND)),
            Just(ip(VM)),
            Just(ip("10.244.9.9")),
            Just(ip("198.51.100.7")),
            any::<[u8; 4]>(),
        ]
    };
    let protocol = prop_oneof![
        Just(1_u8),
        Just(6),
        Just(17),
        Just(33),
        Just(132),
        Just(136),
        any::<u8>()
    ];
    let version = prop_oneof![8 => Just(0x45_u8), 1 => 0x40_u8..=0x4f, 1 => any::<u8>()];
    let fragment = prop_oneof![4 => Just([0_u8, 0]), 1 => any::<[u8; 2]>()];
    let body = proptest::collection::vec(any::<u8>(), 0..120);
    let right_length = prop_oneof![4 => Just(true), 1 => Just(false)];
    (
        version,
        any::<[u8; 8]>(),
        fragment,
        protocol,
        address(),
        address(),
        body,
        right_length,
    )
        .prop_map(
            |(version, noise, fragment, protocol, source, destination, body, right)| {
                let mut frame = [NODE_MAC, SENDER_MAC].concat();
                frame.extend_from_slice(&[8, 0, version, noise[0]]);
                let length = u16::try_from(20 + body.len())
                    .unwrap_or(u16::MAX)
                    .to_be_bytes();
                frame.extend_from_slice(if right { &length } else { &noise[1..3] });
                frame.extend_from_slice(&noise[3..5]);
                frame.extend_from_slice(&fragment);
                frame.extend_from_slice(&[noise[5], protocol, noise[6], noise[7]]);
                frame.extend_from_slice(&source);
                frame.extend_from_slice(&destination);
                frame.extend_from_slice(&body);
                frame
            },
        )
}

/// Bytes a translation of an IPv4 packet may change: hardware addresses, TTL, the header's checksum,
/// addresses, the checksum of the transport, and in an ICMP error those of the packet it quotes.
fn may_change(frame: &[u8]) -> Vec<Range<usize>> {
    let l4 = 14 + usize::from(frame[14] & 0xf) * 4;
    let mut ranges = vec![0..12, 22..23, 24..26, 26..34];
    let is_later = u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0;
    match frame[23] {
        _ if is_later => {}
        6 => ranges.push(l4 + 16..l4 + 18),
        17 | 33 | 136 => ranges.push(l4 + 6..l4 + 8),
        1 if matches!(frame.get(l4), Some(3 | 4 | 5 | 11 | 12)) => {
            let quote = l4 + 8;
            ranges.extend([l4 + 2..l4 + 4, quote + 10..quote + 20]);
            let first = frame.get(quote).copied().unwrap_or(0);
            let inner = quote + usize::from(first & 0xf) * 4;
            match frame.get(quote + 9) {
                Some(6) => ranges.push(inner + 16..inner + 18),
                Some(17 | 33 | 136) => ranges.push(inner + 6..inner + 8),
                _ => {}
            }
        }
        _ => {}
    }
    ranges
}

/// What has to be true of any run.
fn judge(frame: &[u8], run: &Run) -> Result<(), TestCaseError> {
    let ended: Vec<_> = run.moved.iter().collect();
    prop_assert_eq!(ended.len(), 1, "one reason, not {:?}", ended);
    let ((_, reason), count) = ended[0];
    prop_assert_eq!(*count, 1);
    let expected = match reason.class() {
        Class::Drop => run.action == Action::Drop,
        Class::Pass => run.action == Action::Pass,
        Class::Carry => run.action != Action::Drop,
    };
    prop_assert!(expected, "{} with {:?}", reason.name(), run.action);
    for (slot, traffic) in &run.traffic {
        // A packet is counted once at most for each end, and with bytes.
        prop_assert!(
            traffic.in_packets <= 1 && traffic.out_packets <= 1,
            "slot {slot}"
        );
        prop_assert_eq!(traffic.in_packets == 0, traffic.in_bytes == 0);
        prop_assert_eq!(traffic.out_packets == 0, traffic.out_bytes == 0);
        prop_assert!(
            reason.class() != Class::Drop,
            "counted as carried, and dropped"
        );
    }
    if reason.class() == Class::Drop || frame[12..14] != [8, 0] {
        return Ok(());
    }
    prop_assert_eq!(
        run.packet.len(),
        frame.len(),
        "no packet changes its length"
    );
    let allowed = may_change(frame);
    for (at, (before, after)) in frame.iter().zip(&run.packet).enumerate() {
        let is_allowed = allowed.iter().any(|range| range.contains(&at));
        prop_assert!(
            before == after || is_allowed,
            "{}: byte {at} was {before:#04x} and is {after:#04x}",
            reason.name()
        );
    }
    Ok(())
}

/// Both EIPs of one VM, on one lane.
fn world(lane: Delivery) -> World {
    let mut world = World::node();
    world.bind(EIP, VM, lane);
    world.bind_second(EIP, SECOND, VM, lane);
    world
}

fn any_frame_is_judged(cases: u32, frames: &BoxedStrategy<Vec<u8>>) {
    for lane in Delivery::ALL {
        let world = RefCell::new(world(lane));
        for hook in Hook::ALL {
            // XDP test runs are slow.
            let cases = if hook == Hook::UplinkXdp {
                cases / 6
            } else {
                cases
            };
            let mut runner = TestRunner::new(ProptestConfig {
                cases,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            let result = runner.run(frames, |mut frame| {
                // The kernel takes no shorter packets than this for a test run.
                frame.resize(frame.len().max(60), 0);
                let run = world.borrow_mut().send(hook, &frame);
                judge(&frame, &run)
            });
            assert!(
                result.is_ok(),
                "{} {}: {result:?}",
                hook.name(),
                lane.name()
            );
        }
    }
}

#[test]
fn any_packet_ends_for_exactly_one_reason_at_every_hook() {
    any_frame_is_judged(400, &frame().boxed());
}

/// Errors about packets of the right addresses, whatever else they are.
#[test]
fn any_error_ends_for_exactly_one_reason_and_changes_its_quote_alone() {
    let quoting = (frame(), frame(), 0_usize..140).prop_map(|(outer, inner, quoted)| {
        let mut error = outer;
        error.truncate(34);
        error[14] = 0x45;
        error[20..22].fill(0);
        error[23] = 1;
        let kind = [3, 4, 5, 11, 12][quoted % 5];
        error.extend([kind, 0, 1, 2, 3, 4, 5, 6]);
        error.extend(inner[14..].iter().take(quoted));
        let length = u16::try_from(error.len() - 14).unwrap_or(0);
        error[16..18].copy_from_slice(&length.to_be_bytes());
        error
    });
    any_frame_is_judged(400, &quoting.boxed());
}

/// No header at all that anybody agreed on.
#[test]
fn noise_of_any_ethertype_ends_for_exactly_one_reason() {
    let ethertype = prop_oneof![
        Just([0x08_u8, 0x00]),
        Just([0x86, 0xdd]),
        Just([0x08, 0x06]),
        Just([0x81, 0x00]),
        Just([0x88, 0xa8]),
        any::<[u8; 2]>(),
    ];
    let noise = (ethertype, proptest::collection::vec(any::<u8>(), 14..200)).prop_map(
        |(ethertype, mut frame)| {
            frame[12..14].copy_from_slice(&ethertype);
            frame
        },
    );
    any_frame_is_judged(400, &noise.boxed());
}
