//! The pinned maps: adopted, refused, filled, read back.

use std::{net::IpAddr, time::Duration};

use aya::maps::{Array, Map, MapData};
use eip_common::{
    abi::{Watch, map},
    reason::{Hook, Reason},
};
use eip_daemon::{
    dataplane::{
        DataPlane as _, DataPlaneError, DataPlaneOptions, KernelDataPlane, OpenError,
        examine::Question, samples::Wanted, trace::TraceAction,
    },
    model::{Action, BindingState, GatewayState, Lane, NetState, VmState},
};

use crate::world::{World, apply, chain, observe, on_a_node, pinned_anything, run};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn binding(vm: &str) -> BindingState {
    BindingState {
        vm: ip(vm),
        port: 11,
        l3: 10,
        mtu: 1400,
        vm_mac: [2, 0, 0, 0, 0, 1],
        node_mac: [2, 0, 0, 0, 0, 2],
        delivery: Lane::Peer,
        is_primary: true,
        shares_vm: false,
        answers_l2: false,
        generation: 3,
    }
}

fn put(eip: &str, vm: &str, slot: u32) -> Action {
    Action::PutBinding {
        eip: ip(eip),
        state: binding(vm),
        slot,
        is_new_slot: true,
    }
}

fn vm(eip: &str) -> VmState {
    VmState {
        eip: ip(eip),
        port: 11,
        l3: 10,
        has_many: true,
        uses_stack: false,
    }
}

/// Bytes as `bpftool` takes them.
fn bytes(values: &[u8]) -> String {
    values
        .iter()
        .map(u8::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

fn update(world: &World, map: &str, key: &[u8], value: &[u8]) {
    let path = world.map(map);
    let (key, value) = (bytes(key), bytes(value));
    run(&format!(
        "bpftool map update pinned {} key {key} value {value}",
        path.display()
    ));
}

#[test]
#[ignore = "needs root"]
fn everything_written_is_read_back_by_the_next_process() {
    on_a_node(async |world| {
        let mut plane = world.open();
        let gateway = GatewayState {
            gateway4: "192.0.2.1".parse().ok(),
            gateway6: "2001:db8::1".parse().ok(),
            ifindex: 3,
            mtu: 1500,
        };
        assert_eq!(observe(&mut plane).await.gateway, None, "never written");
        let net = NetState {
            is_bypass: true,
            is_eip_range: false,
        };
        apply(&mut plane, Action::PutGateway(gateway.clone())).await;
        apply(&mut plane, put("203.0.113.9", "10.244.1.7", 5)).await;
        apply(&mut plane, put("2001:db8::9", "fd00::7", 6)).await;
        for (address, eip, slot) in [
            ("10.244.1.7", "203.0.113.9", 5),
            ("fd00::7", "2001:db8::9", 6),
        ] {
            apply(
                &mut plane,
                Action::PutVm {
                    vm: ip(address),
                    state: vm(eip),
                    slot,
                },
            )
            .await;
        }
        for prefix in ["10.244.0.0/16", "fd00::/8", "0.0.0.0/0"] {
            apply(&mut plane, Action::PutNet(prefix.parse().unwrap(), net)).await;
        }

        let mut plane = world.open();
        let observed = observe(&mut plane).await;
        assert_eq!(observed.gateway, Some(gateway));
        assert_eq!(
            observed.bindings[&ip("203.0.113.9")],
            (binding("10.244.1.7"), 5)
        );
        assert_eq!(
            observed.bindings[&ip("2001:db8::9")],
            (binding("fd00::7"), 6)
        );
        assert_eq!(observed.vms[&ip("10.244.1.7")], (vm("203.0.113.9"), 5));
        assert_eq!(observed.vms[&ip("fd00::7")], (vm("2001:db8::9"), 6));
        assert_eq!(observed.nets.len(), 3);
        assert!(observed.nets.values().all(|state| *state == net));

        for eip in ["203.0.113.9", "2001:db8::9"] {
            apply(&mut plane, Action::RemoveBinding { eip: ip(eip) }).await;
            apply(&mut plane, Action::RemoveBinding { eip: ip(eip) }).await;
        }
        for address in ["10.244.1.7", "fd00::7"] {
            apply(&mut plane, Action::RemoveVm { vm: ip(address) }).await;
        }
        for prefix in ["10.244.0.0/16", "fd00::/8", "0.0.0.0/0", "0.0.0.0/0"] {
            apply(&mut plane, Action::RemoveNet(prefix.parse().unwrap())).await;
        }
        let observed = observe(&mut plane).await;
        assert!(
            observed.bindings.is_empty() && observed.vms.is_empty() && observed.nets.is_empty()
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_full_map_is_named_and_what_is_in_it_stays() {
    on_a_node(async |world| {
        let options = DataPlaneOptions {
            max_bindings: 2,
            ..world.options()
        };
        let mut plane = KernelDataPlane::open(options).unwrap();
        apply(&mut plane, put("203.0.113.1", "10.244.1.1", 0)).await;
        apply(&mut plane, put("203.0.113.2", "10.244.1.2", 1)).await;
        let error = plane
            .apply(&put("203.0.113.3", "10.244.1.3", 2))
            .await
            .unwrap_err();
        assert!(
            matches!(error, DataPlaneError::MapFull { map: "EIP4_V1" }),
            "{}",
            chain(&error)
        );
        let error = plane
            .apply(&put("203.0.113.3", "10.244.1.3", 4))
            .await
            .unwrap_err();
        assert!(
            matches!(error, DataPlaneError::MapFull { map: "TRAFFIC_V1" }),
            "no such slot"
        );
        assert_eq!(observe(&mut plane).await.bindings.len(), 2);
        let fill = plane.inspector().map_fill().unwrap();
        let eips = fill.iter().find(|fill| fill.map == "EIP4_V1").unwrap();
        assert_eq!((eips.entries, eips.capacity), (2, 2));
    });
}

#[test]
#[ignore = "needs root"]
fn a_full_prefix_map_is_named() {
    on_a_node(async |world| {
        let mut plane = world.open();
        let net = |index: u32| ipnet::IpNet::new(std::net::Ipv4Addr::from(index << 8).into(), 24);
        let mut error = None;
        for index in 0..=eip_common::abi::MAX_NETS {
            let action = Action::PutNet(net(index).unwrap(), NetState::default());
            error = plane.apply(&action).await.err();
        }
        assert!(
            matches!(error, Some(DataPlaneError::MapFull { map: "NETS4_V1" })),
            "{error:?}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn another_configured_size_keeps_the_map_and_says_so() {
    on_a_node(async |world| {
        let mut plane = world.open();
        apply(&mut plane, put("203.0.113.1", "10.244.1.1", 0)).await;
        drop(plane);
        let options = DataPlaneOptions {
            max_bindings: 128,
            ..world.options()
        };
        let mut plane = KernelDataPlane::open(options).unwrap();
        assert_eq!(observe(&mut plane).await.bindings.len(), 1);
        let notices = plane.inspector().notices();
        let notice = notices
            .iter()
            .find(|notice| notice.contains("EIP4_V1"))
            .unwrap();
        assert!(notice.contains("64") && notice.contains("128"), "{notice}");
        assert!(notice.contains("eip-daemon cleanup"), "{notice}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_map_of_another_layout_is_refused_and_nothing_is_touched() {
    on_a_node(async |world| {
        std::fs::create_dir_all(world.map("")).unwrap();
        let path = world.map("VM4_V1");
        let shape = "type hash key 4 value 24 entries 64 name VM4_V1";
        run(&format!("bpftool map create {} {shape}", path.display()));
        let error = KernelDataPlane::open(world.options()).unwrap_err();
        assert!(matches!(error, OpenError::BadPin { .. }));
        let text = chain(&error);
        for part in [
            "VM4_V1",
            "eip-daemon cleanup",
            "values of 24",
            "values of 20",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(world.pins("maps"), ["VM4_V1"]);
        assert!(!pinned_anything(&world.bpffs.join("eip/links")));
    });
}

#[test]
#[ignore = "needs root"]
fn a_pin_that_is_no_map_is_refused() {
    on_a_node(async |world| {
        world.open();
        std::fs::remove_file(world.map("EIP4_V1")).unwrap();
        std::fs::create_dir(world.map("EIP4_V1")).unwrap();
        let error = KernelDataPlane::open(world.options()).unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains("EIP4_V1") && text.contains("cannot be opened as a map"),
            "{text}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_map_of_another_version_is_mentioned() {
    on_a_node(async |world| {
        std::fs::create_dir_all(world.map("")).unwrap();
        let path = world.map("EIP4_V0");
        run(&format!(
            "bpftool map create {} type hash key 4 value 4 entries 1 name x",
            path.display()
        ));
        let notices = world.open().inspector().notices();
        assert!(
            notices.iter().any(|notice| notice.contains("EIP4_V0")),
            "{notices:?}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_the_cure() {
    on_a_node(async |world| {
        let directory = tempfile::tempdir().unwrap();
        let bpffs = directory.path().to_owned();
        let options = DataPlaneOptions {
            bpffs: bpffs.clone(),
            ..world.options()
        };
        let error = KernelDataPlane::open(options).unwrap_err().to_string();
        assert!(
            error.contains(&format!("mount -t bpf bpf {}", bpffs.display())),
            "{error}"
        );
        assert!(!pinned_anything(&bpffs));
    });
}

#[test]
#[ignore = "needs root"]
fn bytes_nobody_meant_are_read_without_harm() {
    on_a_node(async |world| {
        let mut plane = world.open();
        update(&world, "EIP4_V1", &[203, 0, 113, 9], &[0xff; 40]);
        update(&world, "VM4_V1", &[10, 244, 1, 7], &[0xff; 20]);
        update(&world, "NETS4_V1", &[8, 0, 0, 0, 10, 0, 0, 0], &[0xff; 4]);
        update(&world, "CONFIG_V1", &[0; 4], &[0xff; 36]);
        let observed = observe(&mut plane).await;
        assert_eq!(observed.bindings.len(), 1);
        assert_eq!(observed.vms.len(), 1);
        assert_eq!(observed.nets.len(), 1);
        assert_eq!(observed.gateway, None, "of another ABI version");
        apply(&mut plane, put("203.0.113.9", "10.244.1.7", 0)).await;
        let (state, _) = &observe(&mut plane).await.bindings[&ip("203.0.113.9")];
        assert_eq!(*state, binding("10.244.1.7"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_new_slot_starts_at_zero_and_a_known_one_goes_on() {
    on_a_node(async |world| {
        let mut plane = world.open();
        let counters = plane.counters();
        apply(&mut plane, put("203.0.113.9", "10.244.1.7", 5)).await;
        let cpus = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
        let expected: u64 = cpus
            .trim()
            .rsplit('-')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            + 1;
        // bpftool writes one value for every CPU.
        update(
            &world,
            "TRAFFIC_V1",
            &[5, 0, 0, 0],
            &[1_u64.to_ne_bytes(); 4].concat(),
        );
        let malformed = [5, 0, 0, 0, 3, 19, 0, 0];
        update(&world, "EIP_REASONS_V1", &malformed, &1_u64.to_ne_bytes());

        let again = Action::PutBinding {
            eip: ip("203.0.113.9"),
            state: binding("10.244.1.8"),
            slot: 5,
            is_new_slot: false,
        };
        apply(&mut plane, again).await;
        assert_eq!(counters.traffic(5).unwrap().in_packets, expected);
        assert_eq!(counters.binding_reasons(5).unwrap()[0].packets, expected);

        apply(&mut plane, put("203.0.113.10", "10.244.1.7", 5)).await;
        assert_eq!(
            counters.traffic(5).unwrap(),
            eip_common::abi::Traffic::default()
        );
        assert_eq!(counters.binding_reasons(5).unwrap(), []);
        assert_eq!(counters.reasons().unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn a_removed_vm_takes_its_flows_and_fragments_along_and_no_others() {
    on_a_node(async |world| {
        let mut plane = world.open();
        let flow = |last: u8, port: u8| {
            let addresses = [10, 244, 1, last, 10, 0, 0, 1];
            [&addresses[..], &[0, port, 0, 80, 6, 0, 0, 0]].concat()
        };
        let eip = [203, 0, 113, 9];
        for port in 0..20 {
            update(&world, "FLOW4_V1", &flow(7, port), &eip);
            update(&world, "FLOW4_V1", &flow(8, port), &eip);
        }
        let fragment = [10, 244, 1, 7, 10, 0, 0, 1, 0, 0, 0, 1, 17, 0, 0, 0];
        update(&world, "FRAG4_V1", &fragment, &eip);
        apply(
            &mut plane,
            Action::RemoveVm {
                vm: ip("10.244.1.7"),
            },
        )
        .await;
        let flows = run(&format!(
            "bpftool map dump pinned {}",
            world.map("FLOW4_V1").display()
        ));
        assert!(!flows.contains("10,244,1,7"), "{flows}");
        let fill = plane.inspector().map_fill().unwrap();
        let left = fill
            .iter()
            .find(|fill| fill.map == "FLOW4_V1")
            .unwrap()
            .entries;
        assert_eq!(left, 20);
        let fragments = run(&format!(
            "bpftool map dump pinned {}",
            world.map("FRAG4_V1").display()
        ));
        assert!(!fragments.contains("10,244,1,7"), "{fragments}");
    });
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_entries_are_read_back_quickly() {
    on_a_node(async |world| {
        let options = DataPlaneOptions {
            max_bindings: 10_000,
            ..world.options()
        };
        let mut plane = KernelDataPlane::open(options).unwrap();
        for index in 0..10_000_u32 {
            let eip = IpAddr::V4(std::net::Ipv4Addr::from(0xcb00_0000 + index));
            let state = binding("10.244.1.7");
            let action = Action::PutBinding {
                eip,
                state,
                slot: index,
                is_new_slot: false,
            };
            apply(&mut plane, action).await;
        }
        let start = std::time::Instant::now();
        let observed = observe(&mut plane).await;
        println!(
            "read back {} bindings in {:?}",
            observed.bindings.len(),
            start.elapsed()
        );
        assert_eq!(observed.bindings.len(), 10_000);
    });
}

#[test]
#[ignore = "needs root"]
fn samples_are_off_until_somebody_wants_them_whatever_an_earlier_process_wanted() {
    on_a_node(async |world| {
        let wanted = Wanted {
            reasons: u64::MAX,
            hooks: u32::MAX,
            only: Some((3, 7)),
            rate: 5,
        };
        let first = world.open();
        let read = || {
            let data = MapData::from_pin(world.map(map::WATCH)).unwrap();
            let map = Map::from_map_data(data).unwrap();
            let map: Array<MapData, Watch> = map.try_into().unwrap();
            map.get(&0, 0).unwrap()
        };
        assert_eq!(read(), Watch::default());
        let sampler = first.sampler();
        sampler.want(Some(wanted), Duration::from_mins(1)).unwrap();
        let Watch {
            until,
            slot,
            port,
            rate,
            ..
        } = read();
        assert!(until > sampler.clock());
        assert_eq!((slot, port, rate), (3, 7, 5));
        assert_eq!(sampler.lost().unwrap(), 0);
        drop(first);
        let _second = world.open();
        assert_eq!(read(), Watch::default());
    });
}

#[test]
#[ignore = "needs root"]
fn a_trace_runs_the_code_of_this_process_on_its_maps_and_leaves_nothing() {
    on_a_node(async |world| {
        let mut plane = world.open();
        apply(&mut plane, put("203.0.113.9", "10.0.0.9", 3)).await;
        // To the EIP, from outside; UDP without checksum.
        let mut frame = vec![0_u8; 14 + 20 + 8 + 10];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 38, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7, 203, 0, 113, 9,
        ]);
        frame[34..42].copy_from_slice(&[0, 1, 0, 2, 0, 18, 0, 0]);
        let mut tracer = plane.examiner().tracer().unwrap();
        let ran = tracer.run(Hook::UplinkTc, 1, &frame).unwrap();
        assert_eq!(ran.reason, Some(Reason::DeliveredPeer));
        assert_eq!(ran.action, TraceAction::Redirect);
        assert_eq!(ran.frame[30..34], [10, 0, 0, 9]);
        let ran = tracer.run(Hook::UplinkTc, 1, &frame).unwrap();
        assert_eq!(ran.reason, Some(Reason::DeliveredPeer), "again");
        assert_eq!(plane.counters().reasons().unwrap(), []);
        assert_eq!(plane.counters().traffic(3).unwrap().in_packets, 0);

        let ids = plane
            .examiner()
            .look(Question::default())
            .await
            .unwrap()
            .programs;
        for (hook, id) in ids {
            assert!(tracer.is_same_code(hook, id).unwrap(), "{}", hook.name());
            assert!(!tracer.is_same_code(hook, 0).unwrap());
        }
    });
}
