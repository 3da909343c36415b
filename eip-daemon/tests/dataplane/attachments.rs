//! Attaching, adopting, repairing, taking off.

use eip_daemon::{
    dataplane::{
        DataPlane as _, KernelDataPlane,
        cleanup::{CleanupOptions, cleanup},
        inspect::{AttachMode, Attachment},
    },
    model::{Action, TcMode, XdpMode},
};

use crate::world::{
    World, apply, attach_uplink, foreign_filter, ifindex, observe, on_a_node, pinned_anything,
    refused, run, veth,
};

/// Uplink and port attached, by a process that then ended.
async fn attached(world: &World, mut plane: KernelDataPlane) -> (u32, u32, Vec<Attachment>) {
    let uplink = ifindex("up0");
    let port = ifindex("port0");
    apply(&mut plane, attach_uplink(uplink)).await;
    apply(&mut plane, Action::AttachPort(port)).await;
    let observed = observe(&mut plane).await;
    assert!(observed.uplinks.contains_key(&uplink), "{observed:?}");
    assert!(observed.ports.contains(&port), "{observed:?}");
    assert!(observed.leftovers.is_empty(), "{observed:?}");
    assert!(pinned_anything(&world.bpffs.join("eip/maps")));
    (uplink, port, plane.attachments())
}

fn two_links() {
    veth("up0");
    veth("port0");
}

#[test]
#[ignore = "needs root"]
fn a_second_process_takes_over_the_same_links_with_its_own_programs() {
    on_a_node(async |world| {
        two_links();
        let (uplink, port, before) = attached(&world, world.open()).await;
        assert_eq!(before.len(), 4);
        assert!(before.iter().all(|attachment| attachment.link_id.is_some()));

        let mut plane = world.open();
        let observed = observe(&mut plane).await;
        assert!(
            observed.uplinks.is_empty() && observed.ports.is_empty(),
            "not its programs yet"
        );
        assert_eq!(observed.leftovers, [uplink, port].into());
        assert_eq!(
            plane.attachments().len(),
            4,
            "the earlier programs still run"
        );

        let (_, _, after) = attached(&world, plane).await;
        let links = |list: &[Attachment]| -> Vec<_> {
            list.iter()
                .map(|attachment| (attachment.hook, attachment.link_id))
                .collect()
        };
        assert_eq!(links(&before), links(&after));
        for (old, new) in before.iter().zip(&after) {
            assert_ne!(old.program_id, new.program_id);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_renamed_interface_keeps_its_links() {
    on_a_node(async |world| {
        two_links();
        let (_, port, before) = attached(&world, world.open()).await;
        run("ip link set port0 down");
        run("ip link set port0 name renamed");
        run("ip link set renamed up");
        let mut plane = world.open();
        apply(&mut plane, Action::AttachPort(port)).await;
        assert!(observe(&mut plane).await.ports.contains(&port));
        let door = |list: &[Attachment]| -> Vec<_> {
            let door = list.iter().filter(|attachment| attachment.ifindex == port);
            door.map(|attachment| attachment.link_id).collect()
        };
        assert_eq!(door(&before), door(&plane.attachments()));
    });
}

#[test]
#[ignore = "needs root"]
fn a_program_somebody_detached_is_missed_and_attached_again() {
    on_a_node(async |world| {
        two_links();
        let mut plane = world.open();
        let uplink = ifindex("up0");
        let port = ifindex("port0");
        apply(&mut plane, attach_uplink(uplink)).await;
        apply(&mut plane, Action::AttachPort(port)).await;
        observe(&mut plane).await;
        for attachment in plane.attachments() {
            run(&format!(
                "bpftool link detach id {}",
                attachment.link_id.unwrap()
            ));
            let observed = observe(&mut plane).await;
            let is_uplink = attachment.ifindex == uplink;
            assert_eq!(
                observed.uplinks.contains_key(&uplink),
                !is_uplink,
                "{attachment:?}"
            );
            assert_eq!(observed.ports.contains(&port), is_uplink, "{attachment:?}");
            assert_eq!(observed.leftovers, [attachment.ifindex].into());
            let again = if is_uplink {
                attach_uplink(uplink)
            } else {
                Action::AttachPort(port)
            };
            apply(&mut plane, again).await;
            let observed = observe(&mut plane).await;
            assert!(observed.leftovers.is_empty(), "{attachment:?} {observed:?}");
            assert!(observed.uplinks.contains_key(&uplink) && observed.ports.contains(&port));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_look_at_own_changes_sees_those_and_vanished_interfaces_and_a_whole_one_sees_the_rest() {
    on_a_node(async |world| {
        two_links();
        let mut plane = world.open();
        let (uplink, port) = (ifindex("up0"), ifindex("port0"));
        apply(&mut plane, attach_uplink(uplink)).await;
        let observed = plane.observe_own_changes().await.unwrap();
        assert!(observed.uplinks.contains_key(&uplink) && observed.ports.is_empty());
        apply(&mut plane, Action::AttachPort(port)).await;
        let observed = plane.observe_own_changes().await.unwrap();
        assert!(observed.uplinks.contains_key(&uplink) && observed.ports.contains(&port));
        assert_eq!(plane.attachments().len(), 4);

        let attachments = plane.attachments();
        let door = attachments.iter().find(|one| one.ifindex == port).unwrap();
        run(&format!("bpftool link detach id {}", door.link_id.unwrap()));
        let observed = plane.observe_own_changes().await.unwrap();
        assert!(observed.ports.contains(&port), "nobody has looked there");
        assert!(!observe(&mut plane).await.ports.contains(&port));
        let observed = plane.observe_own_changes().await.unwrap();
        assert!(
            !observed.ports.contains(&port),
            "what was found is remembered"
        );
        assert_eq!(observed.leftovers, [port].into());

        apply(&mut plane, Action::AttachPort(port)).await;
        run("ip link del port0");
        let observed = plane.observe_own_changes().await.unwrap();
        assert!(observed.ports.is_empty() && observed.uplinks.contains_key(&uplink));
        assert_eq!(observed.leftovers, [port].into());
    });
}

#[test]
#[ignore = "needs root"]
fn what_a_deleted_interface_leaves_is_a_leftover_until_removed() {
    on_a_node(async |world| {
        two_links();
        let mut plane = world.open();
        let (uplink, port) = (ifindex("up0"), ifindex("port0"));
        apply(&mut plane, attach_uplink(uplink)).await;
        apply(&mut plane, Action::AttachPort(port)).await;
        run("ip link del up0");
        run("ip link del port0");
        let observed = observe(&mut plane).await;
        assert_eq!(observed.leftovers, [uplink, port].into());
        for ifindex in observed.leftovers {
            apply(&mut plane, Action::RemoveLeftover(ifindex)).await;
        }
        let observed = observe(&mut plane).await;
        assert!(observed.leftovers.is_empty(), "{observed:?}");
        assert!(world.pins("links").is_empty());
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_got_the_index_of_a_deleted_one_gets_links_of_its_own() {
    on_a_node(async |world| {
        two_links();
        let (_, port, before) = attached(&world, world.open()).await;
        run("ip link del port0");
        run(&format!(
            "ip link add other index {port} type veth peer name otherp"
        ));
        let mut plane = world.open();
        assert!(!observe(&mut plane).await.ports.contains(&port));
        apply(&mut plane, Action::AttachPort(port)).await;
        assert!(observe(&mut plane).await.ports.contains(&port));
        for attachment in plane
            .attachments()
            .iter()
            .filter(|found| found.ifindex == port)
        {
            assert!(before.iter().all(|old| old.link_id != attachment.link_id));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn removing_a_leftover_leaves_what_is_complete_on_the_same_interface() {
    on_a_node(async |world| {
        two_links();
        let mut plane = world.open();
        let port = ifindex("port0");
        apply(&mut plane, attach_uplink(port)).await;
        apply(&mut plane, Action::AttachPort(port)).await;
        observe(&mut plane).await;
        let tc = plane
            .attachments()
            .into_iter()
            .find(|found| found.hook.name() == "uplink-tc");
        run(&format!(
            "bpftool link detach id {}",
            tc.unwrap().link_id.unwrap()
        ));
        assert_eq!(observe(&mut plane).await.leftovers, [port].into());
        apply(&mut plane, Action::RemoveLeftover(port)).await;
        let observed = observe(&mut plane).await;
        assert!(
            observed.ports.contains(&port) && observed.uplinks.is_empty(),
            "{observed:?}"
        );
        assert!(observed.leftovers.is_empty(), "{observed:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn detaching_takes_both_programs_off() {
    on_a_node(async |world| {
        two_links();
        let mut plane = world.open();
        let (uplink, port) = (ifindex("up0"), ifindex("port0"));
        apply(&mut plane, attach_uplink(uplink)).await;
        apply(&mut plane, Action::AttachPort(port)).await;
        apply(&mut plane, Action::DetachPort(port)).await;
        apply(&mut plane, Action::DetachUplink(uplink)).await;
        apply(&mut plane, Action::DetachUplink(uplink)).await;
        let observed = observe(&mut plane).await;
        assert!(observed.ports.is_empty() && observed.uplinks.is_empty());
        assert!(observed.leftovers.is_empty() && plane.attachments().is_empty());
        assert!(!run("ip -details link show up0").contains("xdp"));
    });
}

#[test]
#[ignore = "needs root"]
fn clsact_filters_survive_the_process_and_are_replaced_in_place() {
    on_a_node(async |world| {
        two_links();
        let options = eip_daemon::dataplane::DataPlaneOptions {
            tc_mode: TcMode::Clsact,
            ..world.options()
        };
        let open = || KernelDataPlane::open(options.clone()).unwrap();
        let (_, _, before) = attached(&world, open()).await;
        let modes: Vec<_> = before.iter().map(|found| found.mode).collect();
        assert_eq!(
            modes
                .iter()
                .filter(|mode| **mode == AttachMode::Clsact)
                .count(),
            3
        );
        let filters = || {
            let show = |side| run(&format!("tc filter show dev port0 {side}"));
            (show("ingress"), show("egress"))
        };
        let (ingress, egress) = filters();
        assert!(ingress.contains("eip_door_out"), "{ingress}");
        assert!(egress.contains("eip_door_in"), "{egress}");

        let (_, _, after) = attached(&world, open()).await;
        let (ingress, egress) = filters();
        assert_eq!(ingress.matches("direct-action").count(), 1, "{ingress}");
        assert_eq!(egress.matches("direct-action").count(), 1, "{egress}");
        for (old, new) in before.iter().zip(&after) {
            assert_ne!(old.program_id, new.program_id);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_change_of_the_tc_mode_leaves_one_program_per_hook() {
    on_a_node(async |world| {
        two_links();
        let open = |tc_mode| {
            let options = eip_daemon::dataplane::DataPlaneOptions {
                tc_mode,
                ..world.options()
            };
            KernelDataPlane::open(options).unwrap()
        };
        for mode in [TcMode::Clsact, TcMode::Tcx, TcMode::Clsact, TcMode::Auto] {
            let (_, _, attachments) = attached(&world, open(mode)).await;
            assert_eq!(attachments.len(), 4, "{mode:?} {attachments:?}");
        }
        assert!(
            !run("tc qdisc show dev port0").contains("clsact"),
            "an unused qdisc stayed"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_foreign_filter_at_our_place_is_left_alone_and_reported() {
    on_a_node(async |world| {
        two_links();
        run("tc qdisc add dev port0 clsact");
        foreign_filter("port0", "egress prio 7 handle 0xe1b");
        let options = eip_daemon::dataplane::DataPlaneOptions {
            tc_mode: TcMode::Clsact,
            ..world.options()
        };
        let mut plane = KernelDataPlane::open(options).unwrap();
        let error = refused(&mut plane, Action::AttachPort(ifindex("port0"))).await;
        assert!(error.contains("foreign filter at priority 7"), "{error}");
        assert!(run("tc filter show dev port0 egress").contains("bytecode"));
    });
}

#[test]
#[ignore = "needs root"]
fn xdp_runs_in_the_mode_that_was_asked_for() {
    on_a_node(async |world| {
        two_links();
        let uplink = ifindex("up0");
        for (mode, expected) in [
            (XdpMode::Auto, Some(AttachMode::XdpNative)),
            (XdpMode::Generic, Some(AttachMode::XdpGeneric)),
            (XdpMode::Native, Some(AttachMode::XdpNative)),
            (XdpMode::Off, None),
            (XdpMode::Generic, Some(AttachMode::XdpGeneric)),
            (XdpMode::Auto, Some(AttachMode::XdpGeneric)),
        ] {
            let options = eip_daemon::dataplane::DataPlaneOptions {
                xdp_mode: mode,
                ..world.options()
            };
            let mut plane = KernelDataPlane::open(options).unwrap();
            apply(&mut plane, attach_uplink(uplink)).await;
            assert!(
                observe(&mut plane).await.uplinks.contains_key(&uplink),
                "{mode:?}"
            );
            let attachments = plane.attachments();
            let xdp = attachments
                .iter()
                .find(|found| found.hook.name() == "uplink-xdp");
            assert_eq!(xdp.map(|found| found.mode), expected, "{mode:?}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn an_uplink_without_native_xdp_falls_back_and_native_alone_is_refused() {
    on_a_node(async |world| {
        run("ip link add up0 type bridge");
        run("ip link set up0 up");
        let uplink = ifindex("up0");
        let mut plane = world.open();
        apply(&mut plane, attach_uplink(uplink)).await;
        let mode = plane.attachments();
        assert!(mode.is_empty(), "nothing was looked at yet");
        observe(&mut plane).await;
        let attachments = plane.attachments();
        assert!(
            attachments
                .iter()
                .any(|found| found.mode == AttachMode::XdpGeneric)
        );

        let options = eip_daemon::dataplane::DataPlaneOptions {
            xdp_mode: XdpMode::Native,
            ..world.options()
        };
        let mut plane = KernelDataPlane::open(options).unwrap();
        let error = refused(&mut plane, attach_uplink(uplink)).await;
        assert!(error.contains("attach eip_uplink_xdp to up0"), "{error}");
    });
}

/// An XDP program of somebody else: one of ours under another name would be taken for ours, so it is
/// loaded by another instance on a file system of its own and never pinned by this one.
#[test]
#[ignore = "needs root"]
fn a_foreign_xdp_program_is_left_alone_and_reported() {
    on_a_node(async |world| {
        two_links();
        let uplink = ifindex("up0");
        let other = world.bpffs.join("other");
        std::fs::create_dir(&other).unwrap();
        let options = eip_daemon::dataplane::DataPlaneOptions {
            bpffs: other,
            ..world.options()
        };
        let mut foreign = KernelDataPlane::open(options).unwrap();
        apply(&mut foreign, attach_uplink(uplink)).await;
        observe(&mut foreign).await;
        let theirs = foreign.attachments();
        let theirs = theirs
            .iter()
            .find(|found| found.hook.name() == "uplink-xdp")
            .unwrap();

        let mut plane = world.open();
        apply(&mut plane, attach_uplink(uplink)).await;
        let notices = plane.inspector().notices();
        assert!(
            notices
                .iter()
                .any(|notice| notice.contains("somebody else")),
            "{notices:?}"
        );
        let shown = run("ip -details link show up0");
        assert!(
            shown.contains(&format!("id {}", theirs.program_id)),
            "{shown}"
        );

        run(&format!(
            "bpftool link detach id {}",
            theirs.link_id.unwrap()
        ));
        let observed = observe(&mut plane).await;
        assert!(
            !observed.uplinks.contains_key(&uplink),
            "it is our turn now"
        );
        apply(&mut plane, attach_uplink(uplink)).await;
        assert!(plane.inspector().notices().is_empty());
    });
}

#[test]
#[ignore = "needs root"]
fn attaching_to_an_interface_that_does_not_exist_names_it() {
    on_a_node(async |world| {
        let mut plane = world.open();
        let error = refused(&mut plane, Action::AttachPort(4711)).await;
        assert!(error.contains("interface 4711"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn cleanup_leaves_nothing_and_finds_nothing_the_second_time() {
    on_a_node(async |world| {
        for tc_mode in [TcMode::Auto, TcMode::Clsact] {
            two_links();
            let options = eip_daemon::dataplane::DataPlaneOptions {
                tc_mode,
                ..world.options()
            };
            let plane = KernelDataPlane::open(options).unwrap();
            attached(&world, plane).await;
            run("ip rule add from 203.0.113.0/24 lookup 201 priority 1180 protocol 201");
            run("ip rule add from 198.51.100.0/24 lookup 201 priority 1190");
            run("ip route add 203.0.113.9/32 via 10.244.1.7 dev port0 onlink proto 201");
            run("ip route add default via 192.0.2.1 dev up0 onlink table 201 proto 201");
            run("ip route add 198.51.100.9/32 dev port0");

            let options = CleanupOptions {
                bpffs: world.bpffs.clone(),
            };
            let report = cleanup(options.clone()).await.unwrap();
            assert_eq!(report.failures, Vec::<String>::new());
            assert_eq!(report.programs.len(), 4, "{report:?}");
            assert_eq!(
                (report.routes.len(), report.rules.len()),
                (2, 1),
                "{report:?}"
            );
            assert!(!world.bpffs.join("eip").exists());
            for name in ["up0", "port0"] {
                assert!(!run(&format!("ip -details link show {name}")).contains("xdp"));
                assert!(!run(&format!("tc qdisc show dev {name}")).contains("clsact"));
            }
            assert!(
                !run("ip rule").contains("203.0.113"),
                "a rule of ours stayed"
            );
            assert!(run("ip rule").contains("198.51.100"), "a foreign rule went");
            assert!(
                run("ip route").contains("198.51.100.9"),
                "a foreign route went"
            );
            assert!(
                cleanup(options).await.unwrap().is_empty(),
                "the second time"
            );
            run("ip rule del priority 1190");
            run("ip link del up0");
            run("ip link del port0");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn cleanup_works_when_the_interfaces_are_gone() {
    on_a_node(async |world| {
        two_links();
        attached(&world, world.open()).await;
        run("ip link del up0");
        run("ip link del port0");
        let report = cleanup(CleanupOptions {
            bpffs: world.bpffs.clone(),
        })
        .await
        .unwrap();
        assert_eq!(report.failures, Vec::<String>::new());
        assert!(!world.bpffs.join("eip").exists());
    });
}
