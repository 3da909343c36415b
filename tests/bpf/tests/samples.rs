//! Samples of packets: written only while somebody looks, only of what was asked for, and never too many.

use eip_bpf_tests::{
    Action, World,
    netns::in_own_netns,
    packet::ends,
    world::{OTHER_PORT, PORT},
};
use eip_common::{
    abi::{BY_PORT, Delivery, NO_SLOT, SAMPLE_HEAD, Watch},
    reason::{Hook, Reason},
};

const CLIENT: &str = "198.51.100.7";
const EIP: &str = "203.0.113.10";
const OTHER_EIP: &str = "203.0.113.11";
const VM: &str = "10.244.1.10";
const OTHER_VM: &str = "10.244.1.11";

/// Everything of everybody.
fn everything() -> Watch {
    Watch {
        until: u64::MAX,
        reasons: u64::MAX,
        hooks: u32::MAX,
        slot: NO_SLOT,
        port: 0,
        rate: 1000,
    }
}

fn bound() -> World {
    let mut world = World::node();
    world.bind(EIP, VM, Delivery::Peer);
    world
}

#[test]
fn nothing_is_written_while_nobody_looks() {
    in_own_netns(|| {
        let mut world = bound();
        let packet = ends(VM, CLIENT).udp(1, 2, b"x");
        world.send(Hook::DoorOut, &packet);
        world.watch(Watch {
            until: 1,
            ..everything()
        });
        world.send(Hook::DoorOut, &packet);
        assert_eq!(world.samples(), []);
        assert_eq!(world.lost_samples(), 0);
    });
}

#[test]
fn a_sample_holds_the_packet_as_the_program_left_it() {
    in_own_netns(|| {
        let mut world = bound();
        world.watch(everything());
        let sent = ends(VM, CLIENT).udp(1, 2, &[7; 200]);
        let run = world.send(Hook::DoorOut, &sent);
        let frame = ends(CLIENT, EIP).udp(1, 2, b"1");
        world.send(Hook::UplinkXdp, &frame);
        let samples = world.samples();
        let [out, xdp] = samples.as_slice() else {
            panic!("two packets, not {samples:?}");
        };
        assert_eq!(out.hook, Hook::DoorOut as u8);
        assert_eq!(out.reason, Reason::SentToUplink as u8);
        assert_eq!((out.ifindex, out.slot), (PORT, 0));
        assert_eq!(out.len as usize, sent.len());
        assert_eq!(out.frame(), &run.packet[..SAMPLE_HEAD]);
        assert_eq!(xdp.hook, Hook::UplinkXdp as u8);
        assert_eq!(xdp.reason, Reason::LeftToTc as u8);
        assert_eq!(xdp.len as usize, frame.len());
        assert_eq!(xdp.frame(), &frame[..frame.len() / 2 * 2]);
        assert!(out.time <= xdp.time);
    });
}

#[test]
fn only_what_was_asked_for_is_written() {
    in_own_netns(|| {
        let mut world = bound();
        let other = world.bind_at(OTHER_EIP, OTHER_VM, Delivery::Peer, PORT);
        let mut ends_seen = |watch: Watch| {
            world.watch(watch);
            world.send(Hook::DoorOut, &ends(VM, CLIENT).udp(1, 2, b"x"));
            world.send(Hook::DoorOut, &ends(OTHER_VM, CLIENT).udp(1, 2, b"x"));
            world.send(Hook::UplinkTc, &ends(CLIENT, EIP).ttl(1).udp(1, 2, b"x"));
            let samples = world.samples();
            samples
                .iter()
                .map(|sample| (sample.hook, sample.reason, sample.slot))
                .collect::<Vec<_>>()
        };
        let out = |slot| (Hook::DoorOut as u8, Reason::SentToUplink as u8, slot);
        let ttl = (Hook::UplinkTc as u8, Reason::TtlExceeded as u8, 0);
        assert_eq!(ends_seen(everything()), [out(0), out(other), ttl]);
        let reasons = 1 << Reason::TtlExceeded as u64;
        assert_eq!(
            ends_seen(Watch {
                reasons,
                ..everything()
            }),
            [ttl]
        );
        let hooks = 1 << Hook::DoorOut as u32;
        assert_eq!(
            ends_seen(Watch {
                hooks,
                ..everything()
            }),
            [out(0), out(other)]
        );
        let slot = other;
        assert_eq!(
            ends_seen(Watch {
                slot,
                ..everything()
            }),
            [out(other)]
        );
        let port = PORT;
        assert_eq!(
            ends_seen(Watch {
                slot,
                port,
                ..everything()
            })
            .len(),
            3
        );
        let port = OTHER_PORT;
        assert_eq!(
            ends_seen(Watch {
                slot,
                port,
                ..everything()
            }),
            [out(other)]
        );
    });
}

#[test]
fn what_is_over_the_rate_or_finds_no_room_is_counted_as_lost() {
    in_own_netns(|| {
        let mut world = bound();
        let packet = ends(VM, CLIENT).udp(1, 2, b"x");
        world.watch(Watch {
            rate: 3,
            ..everything()
        });
        for _ in 0..50 {
            world.send(Hook::DoorOut, &packet);
        }
        let written = world.samples().len() as u64;
        assert!((3..50).contains(&written), "{written}");
        assert_eq!(written + world.lost_samples(), 50);

        let lost = world.lost_samples();
        world.watch(Watch {
            rate: u32::MAX,
            ..everything()
        });
        for _ in 0..3000 {
            world.send(Hook::DoorOut, &packet);
        }
        let written = world.samples().len() as u64;
        assert!(written < 3000, "the ring buffer is bounded");
        assert_eq!(written + world.lost_samples() - lost, 3000);
    });
}

#[test]
fn a_spoofed_packet_is_counted_for_who_was_pretended_and_for_the_port_it_came_from() {
    in_own_netns(|| {
        let mut world = bound();
        let slot = world.bind_at(OTHER_EIP, OTHER_VM, Delivery::Peer, OTHER_PORT);
        let sender = BY_PORT | PORT;
        for (source, reason, victims) in [
            (OTHER_EIP, Reason::SpoofedEip, vec![slot]),
            ("203.0.113.99", Reason::SpoofedEip, vec![]),
            (OTHER_VM, Reason::SpoofedVm, vec![slot]),
        ] {
            let run = world.send(Hook::DoorOut, &ends(source, CLIENT).udp(1, 2, b"x"));
            run.ended(reason).with(Action::Drop).carried(&[]);
            let blamed: Vec<_> = run.moved_for.keys().map(|key| key.0).collect();
            let expected: Vec<_> = victims.into_iter().chain([sender]).collect();
            assert_eq!(blamed, expected, "{source}");
        }
    });
}
