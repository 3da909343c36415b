//! Packets nobody would send on purpose: whatever comes, each ends for exactly one reason, and nothing
//! is written where nothing may be.

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
    if reason.class() != Class::Drop {
        prop_assert_eq!(
            run.packet.len(),
            frame.len(),
            "no packet changes its length"
        );
        prop_assert_eq!(
            &run.packet[34..36],
            &frame[34..36],
            "what follows the header stays"
        );
    }
    Ok(())
}

#[test]
fn any_packet_ends_for_exactly_one_reason_at_every_hook() {
    for lane in Delivery::ALL {
        let mut world = World::node();
        world.bind(EIP, VM, lane);
        world.bind_second(EIP, SECOND, VM, lane);
        for hook in Hook::ALL {
            let mut runner =
                TestRunner::new(ProptestConfig::with_cases(if hook == Hook::UplinkXdp {
                    60
                } else {
                    400
                }));
            let world = std::cell::RefCell::new(&mut world);
            let result = runner.run(&frame(), |mut frame| {
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
