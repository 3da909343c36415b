//! The object as a whole.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test panics at the line that is wrong"
)]

use std::collections::BTreeSet;

use aya::Ebpf;
use eip_bpf_tests::World;
use eip_common::abi::{
    Binding, Config, EipReasonKey, FlowKey, FragmentKey, Lease, Net, Traffic, Uplink, Vm, map,
    program,
};

type V4 = [u8; 4];
type V6 = [u8; 16];

#[test]
fn every_program_passes_the_verifier() {
    let _ = World::new();
}

/// A kernel whose verifier knows less, or one change more, must not use up the million instructions there are; and
/// each start of the agent waits for them.
#[test]
fn no_program_is_near_the_end_of_the_verifiers_patience() {
    let world = World::new();
    for (name, instructions) in world.verified() {
        println!("{name}: {instructions} instructions verified");
        assert!(instructions < 250_000, "{name}: {instructions}");
    }
}

#[test]
fn the_object_has_exactly_the_programs_and_maps_of_the_abi() {
    let ebpf = Ebpf::load(eip_daemon::EBPF_OBJECT).expect("the object loads");
    let programs: BTreeSet<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(programs, program::ALL.map(str::to_owned).into());
    let maps: BTreeSet<_> = ebpf
        .maps()
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(maps, map::ALL.map(str::to_owned).into());
}

/// Key size, value size and type of every map, as the kernel has them. A difference is a new ABI
/// version, never an edit of this table.
#[test]
fn map_layout_matches_abi_version() {
    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    const PERCPU_ARRAY: u32 = 6;
    const LRU_HASH: u32 = 9;
    const LRU_PERCPU_HASH: u32 = 10;
    const LPM_TRIE: u32 = 11;
    let expected = [
        (map::EIP4, HASH, 4, 40),
        (map::EIP6, HASH, 16, 52),
        (map::VM4, HASH, 4, 20),
        (map::VM6, HASH, 16, 32),
        (map::NETS4, LPM_TRIE, 8, 4),
        (map::NETS6, LPM_TRIE, 20, 4),
        (map::FLOW4, LRU_HASH, 16, 4),
        (map::FLOW6, LRU_HASH, 40, 16),
        (map::FRAG4, LRU_HASH, 16, 4),
        (map::FRAG6, LRU_HASH, 40, 16),
        (map::UPLINKS, HASH, 4, 12),
        (map::STATIONS, HASH, 6, 4),
        (map::CONFIG, ARRAY, 4, 36),
        (map::TRAFFIC, PERCPU_ARRAY, 4, 32),
        (map::LEASES, ARRAY, 4, 8),
        (map::REASONS, PERCPU_ARRAY, 4, 8),
        (map::EIP_REASONS, LRU_PERCPU_HASH, 8, 8),
    ];
    let ebpf = Ebpf::load(eip_daemon::EBPF_OBJECT).expect("the object loads");
    for (name, kind, key, value) in expected {
        let info = map_info(&ebpf, name);
        assert_eq!(
            (
                info.map_type().expect("a known type") as u32,
                info.key_size(),
                info.value_size()
            ),
            (kind, key, value),
            "{name}"
        );
        assert_eq!(
            info.name_as_str(),
            Some(name),
            "the kernel keeps the name whole"
        );
    }
    assert_eq!(size_of::<Binding<V4>>(), 40);
    assert_eq!(size_of::<Binding<V6>>(), 52);
    assert_eq!(size_of::<Vm<V4>>(), 20);
    assert_eq!(size_of::<Vm<V6>>(), 32);
    assert_eq!(size_of::<FlowKey<V6>>(), 40);
    assert_eq!(size_of::<FragmentKey<V6>>(), 40);
    assert_eq!(size_of::<Net>(), 4);
    assert_eq!(size_of::<Uplink>(), 12);
    assert_eq!(size_of::<Config>(), 36);
    assert_eq!(size_of::<Traffic>(), 32);
    assert_eq!(size_of::<Lease>(), 8);
    assert_eq!(size_of::<EipReasonKey>(), 8);
}

fn map_info(ebpf: &Ebpf, name: &str) -> aya::maps::MapInfo {
    use aya::maps::Map;
    let map = ebpf.map(name).expect("the map exists");
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuLruHashMap(data) => data,
        other => panic!("{name} is {other:?}"),
    };
    data.info().expect("the kernel describes it")
}
