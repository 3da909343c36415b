//! Packets of many segments, whose checksums nobody has finished: what the kernel of a node or of a VM makes
//! when nobody stops it, and what GRO makes of a stream.

use eip_lab::{
    plan::Family,
    world::{WireFrames, World},
};
use eip_oracle_tests::{
    Path, Place,
    chain::{Build, Chain},
    compare::{L2, checksums},
    layout,
};

use crate::support::Pair;

/// Payload bytes of a segment, and of all of them; the last one is shorter.
const SEGMENT: u16 = 1200;
const ALL: usize = 20 * 1200 + 700;

fn pair(lane: &'static str) -> Pair {
    let build = Build {
        frames: WireFrames::Partial,
        ..Build::default()
    };
    Pair::build(lane, build)
}

/// What arrived, without what two senders choose at random: identification with its checksum, flow label.
fn arrived(pair: &mut Pair, family: Family, path: Path, is_cut: bool) -> [Vec<Vec<u8>>; 2] {
    let payload: Vec<u8> = (0..=250).cycle().take(ALL).collect();
    pair.each(|chain: &mut Chain| {
        chain
            .send_segments(family, path, &payload, SEGMENT)
            .unwrap();
        let mut outcome = chain.outcome(family, path).unwrap();
        assert!(outcome.returned.is_empty(), "{outcome:?}");
        for frame in &mut outcome.arrived {
            let packet = &mut frame[L2..];
            if is_cut {
                checksums(packet).unwrap();
            }
            let own = match family {
                Family::V4 => [4..6, 10..12],
                Family::V6 => [1..4, 0..0],
            };
            for range in own {
                packet[range].fill(0);
            }
        }
        outcome.arrived
    })
}

#[test]
fn a_packet_of_many_segments_arrives_whole_as_with_netfilter() {
    for lane in ["peer", "neigh", "stack"] {
        let mut pair = pair(lane);
        for family in Family::BOTH {
            for path in Path::everywhere() {
                let [theirs, ours] = arrived(&mut pair, family, path, false);
                assert_eq!(ours.len(), 1, "{lane} {family} {path:?}: one packet");
                assert_eq!(ours[0].len(), L2 + layout::fixed(family) + 8 + ALL);
                // To the byte: a checksum that nobody has finished starts from the addresses.
                assert_eq!(ours, theirs, "{lane} {family} {path:?}");
            }
        }
    }
}

#[test]
fn a_packet_of_many_segments_leaves_in_pieces_with_right_checksums() {
    let off = |world: &World| world.node.sh("ethtool -K up0 tx off").map(drop).unwrap();
    for lane in ["peer", "stack"] {
        let mut pair = pair(lane);
        pair.each(|chain| off(&chain.world));
        for family in Family::BOTH {
            for vm in Place::VMS {
                let path = Path::outward(vm);
                let [theirs, ours] = arrived(&mut pair, family, path, true);
                let count = ALL.div_ceil(SEGMENT.into());
                assert_eq!(ours.len(), count, "{lane} {family} {path:?}");
                assert_eq!(ours, theirs, "{lane} {family} {path:?}");
            }
        }
    }
}
