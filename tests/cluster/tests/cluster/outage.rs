//! The API server, controllers and agents go away and come back.

use std::{net::Ipv4Addr, time::Duration};

use eip_cluster_tests::{
    kubevirt,
    world::{Cluster, PATIENCE, Pod},
};
use eip_lab::{
    echo::Echo,
    traffic::{self, Pace},
    wait,
};
use nix::sys::signal::Signal;

use crate::{EIP, ON_N1, ON_N2, cluster, raised};

fn served(cluster: &Cluster) -> (Pod, Echo) {
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    let echo = Echo::start(&pod.ns, ON_N1, 7000).unwrap();
    cluster.run_vm("vm1", &pod).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    cluster.route(EIP, 0).unwrap();
    (pod, echo)
}

fn answers(cluster: &Cluster) -> bool {
    traffic::udp(
        &cluster.client,
        (EIP, 7000).into(),
        64,
        Duration::from_secs(2),
    )
    .is_ok()
}

fn has(cluster: &Cluster, node: usize, eip: Ipv4Addr) -> bool {
    cluster.serves(node, eip)
}

#[test]
fn without_the_api_server_forwarding_goes_on_and_an_agent_restarts_into_the_same_state() {
    let mut cluster = cluster();
    let (_pod, _echo) = served(&cluster);
    // What was known is written down a moment later.
    wait::pause(Duration::from_secs(2));
    cluster.control.kill_api().unwrap();
    assert!(answers(&cluster));
    let stream = std::thread::scope(|scope| {
        let client = &cluster.client;
        let stream =
            scope.spawn(move || traffic::stream(client, (EIP, 7000).into(), Pace::kilohertz(6)));
        stream.join().unwrap().unwrap()
    });
    assert_eq!(stream.lost(), 0, "{stream:?}");

    cluster.agent(0).unwrap().kill().unwrap();
    cluster.start_agent(0).unwrap();
    cluster.wait_agent(0).unwrap();
    wait::wait_until(PATIENCE, "the file knows it", || has(&cluster, 0, EIP)).unwrap();
    assert!(answers(&cluster));
    // Somebody damages the kernel state; the agent repairs it without asking anybody.
    let node = &cluster.nodes[0].ns;
    node.ip(&format!("route del {EIP}/32\n")).unwrap();
    wait::wait_until(PATIENCE, "the route is repaired", || {
        node.sh(&format!("ip route show {EIP}/32"))
            .is_ok_and(|text| !text.is_empty())
    })
    .unwrap();

    cluster.control.start_api().unwrap();
    let new = "203.0.113.20".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("c", new, "vm1"))
        .unwrap();
    cluster.wait_reason("c", "Serving").unwrap();
    assert!(answers(&cluster));
}

#[test]
fn an_agent_that_missed_everything_lists_again_and_touches_only_what_changed() {
    let mut cluster = cluster();
    let (pod, _echo) = served(&cluster);
    let gone = "203.0.113.20".parse().unwrap();
    let new = "203.0.113.21".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("gone", gone, "vm1"))
        .unwrap();
    cluster.wait_reason("gone", "Serving").unwrap();
    cluster.agent(0).unwrap().signal(Signal::SIGSTOP).unwrap();
    // A restarted server does not know the versions the agent knows: its watch has expired.
    cluster.control.kill_api().unwrap();
    cluster.control.start_api().unwrap();
    cluster
        .control
        .kubectl(&["delete", "eipb", "gone"])
        .unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("new", new, "vm1"))
        .unwrap();
    cluster.wait_reason("new", "Pending").unwrap();
    assert!(
        answers(&cluster),
        "what is in the kernel works without the agent"
    );
    cluster.agent(0).unwrap().signal(Signal::SIGCONT).unwrap();
    cluster.wait_reason("new", "Serving").unwrap();
    wait::wait_until(PATIENCE, "what was deleted meanwhile is gone", || {
        !has(&cluster, 0, gone)
    })
    .unwrap();
    assert!(has(&cluster, 0, EIP) && answers(&cluster));
    drop(pod);
}

#[test]
fn of_two_controllers_one_writes_and_the_other_takes_over_when_it_is_killed() {
    let mut cluster = raised();
    let (first, second) = (
        cluster.start_controller().unwrap(),
        cluster.start_controller().unwrap(),
    );
    for node in 0..2 {
        cluster.start_agent(node).unwrap();
        cluster.wait_agent(node).unwrap();
    }
    let (_pod, _echo) = served(&cluster);
    let leads = |cluster: &mut Cluster, number: usize| {
        let log = cluster.controller(number).log();
        log.matches("leading").count() > log.matches("not leading any more").count() * 2
    };
    let (leader, standby) = if leads(&mut cluster, first) {
        (first, second)
    } else {
        (second, first)
    };
    assert!(!leads(&mut cluster, standby));
    cluster.controller(leader).kill().unwrap();
    // A killed leader and a change at the same time: nothing is lost, nothing is done twice.
    let new = "203.0.113.20".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("c", new, "vm1"))
        .unwrap();
    cluster.wait_reason("c", "Serving").unwrap();
    assert!(leads(&mut cluster, standby));
    assert!(answers(&cluster));
}

#[test]
fn a_controller_that_is_killed_over_and_over_leaves_a_state_the_next_one_finishes() {
    let mut cluster = raised();
    for node in 0..2 {
        cluster.start_agent(node).unwrap();
        cluster.wait_agent(node).unwrap();
    }
    let first = cluster.plug("vm1", 0, ON_N1).unwrap();
    let second = cluster.plug("vm2", 1, ON_N2).unwrap();
    cluster.run_vm("vm1", &first).unwrap();
    cluster.run_vm("vm2", &second).unwrap();
    for round in 0..4_u8 {
        let number = cluster.start_controller().unwrap();
        for binding in 0..5_u8 {
            let name = format!("b{binding}");
            let eip = Ipv4Addr::new(203, 0, 113, 100 + binding);
            let vm = if (round + binding) % 2 == 0 {
                "vm1"
            } else {
                "vm2"
            };
            cluster
                .control
                .apply(&kubevirt::binding(&name, eip, vm))
                .unwrap();
        }
        wait::pause(Duration::from_millis(137 * u64::from(round)));
        cluster.controller(number).kill().unwrap();
    }
    cluster.start_controller().unwrap();
    for binding in 0..5_u8 {
        cluster
            .wait_reason(&format!("b{binding}"), "Serving")
            .unwrap();
        let eip = Ipv4Addr::new(203, 0, 113, 100 + binding);
        // The last round was number 3.
        let node = usize::from((3 + binding) % 2 != 0);
        wait::wait_until(PATIENCE, "the elastic IP is where its VM is", || {
            has(&cluster, node, eip) && !has(&cluster, 1 - node, eip)
        })
        .unwrap();
    }
}

#[test]
fn nothing_is_taken_away_before_everything_has_been_read_once() {
    let mut cluster = cluster();
    let (_pod, _echo) = served(&cluster);
    wait::pause(Duration::from_secs(2));
    cluster.agent(0).unwrap().kill().unwrap();
    cluster.control.kill_api().unwrap();
    // Without its file, too, an agent that cannot read anything removes nothing.
    std::fs::remove_file(cluster.state_file(0)).unwrap();
    cluster.start_agent(0).unwrap();
    cluster.wait_agent(0).unwrap();
    wait::pause(Duration::from_secs(3));
    assert!(answers(&cluster));
    cluster.control.start_api().unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    wait::wait_until(PATIENCE, "the agent knows it again", || {
        has(&cluster, 0, EIP)
    })
    .unwrap();
    assert!(answers(&cluster));
}
