//! `cargo xtask demo`: an elastic IP at work, told so that a newcomer understands it.
//!
//! Every line of the report is a claim that was just tried on the real kernel: what was sent, what
//! arrived from which address, and `ok` or what was expected instead. The chapters are functions
//! below, in the order they are told.

mod bgp;
mod report;

use std::{net::IpAddr, time::Instant};

use anyhow::{Context as _, ensure};

use self::report::Report;
use crate::{
    binaries::Binaries,
    daemon::{Daemon, DaemonOptions},
    echo::Echo,
    lab,
    packet::IpPacket,
    plan::{CLIENT, GuestPlan, POD1, POD2, VM1, VM2, eip},
    sniff::Way,
    traffic::{self, Answer, Bulk, PATIENCE, Pace, SILENCE, Session},
    wait,
    world::{World, WorldOptions},
};

/// Port of every echo server of the demo.
const PORT: u16 = 7000;

/// What to show and what to leave behind.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The programs to show.
    pub binaries: Binaries,
    /// Leave the lab and the daemon running, and print commands to try.
    pub keep: bool,
}

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Everything that was claimed was seen.
    Held,
    /// At least one step showed something else; the report says which.
    Failed,
}

/// Raises a lab, runs the daemon in it and prints the report.
///
/// # Errors
/// When the lab itself cannot be raised (no root, a tool is missing). A step that fails is no
/// error but [`Outcome::Failed`].
pub fn run(options: &DemoOptions) -> anyhow::Result<Outcome> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads programs into the kernel: run it as root"
    );
    let start = Instant::now();
    println!("\nkube-eip: an elastic IP at work\n\n{}", lab::picture());
    let (mut world, mut agent) = raise(options)?;
    println!(
        "The lab stands and the agent is ready after {:.1?}.",
        start.elapsed()
    );

    let mut report = Report::default();
    tell(&mut report, &world, &mut agent)?;

    let outcome = report.outcome();
    println!("\n{} It took {:.0?}.", report.verdict(), start.elapsed());
    if outcome == Outcome::Failed {
        println!("\nWhat the agent and the node know:\n{}", agent.dump());
    }
    if options.keep {
        // As `lab up` leaves it; what does not work was reported above.
        let _ = agent.eipctl(&["bind", &eip::VM2.v4.to_string(), "vm2"]);
        bgp::without_bgp(&world, &agent)?;
        agent.keep();
        world.keep();
        println!(
            "\nThe lab is left standing.\n\n{}",
            lab::commands(&options.binaries)
        );
    } else {
        drop(agent);
        world.forgive_leaks();
        drop(world);
        println!("Everything was removed again: namespaces, programs, maps, the agent.");
    }
    Ok(outcome)
}

/// A lab of its own, or the standing one when it is to be kept.
fn raise(options: &DemoOptions) -> anyhow::Result<(World, Daemon)> {
    if options.keep {
        lab::down().context("remove an older lab")?;
        return lab::raise(&options.binaries);
    }
    let world = World::new(WorldOptions::default())?;
    let programs = options.binaries.clone();
    let mut agent = Daemon::prepare_with(&world, DaemonOptions::default(), programs)?;
    agent.restart()?;
    Ok((world, agent))
}

/// The servers that say whom they saw.
struct Servers {
    client: Echo,
    pod: Echo,
}

fn tell(report: &mut Report, world: &World, agent: &mut Daemon) -> anyhow::Result<()> {
    let servers = Servers {
        client: Echo::start(&world.client, CLIENT.v4, PORT)?,
        pod: Echo::start(&world.guest(POD2).ns, POD2.address.v4, PORT)?,
    };
    let _vm1 = Echo::start(&world.guest(VM1).ns, VM1.address.v4, PORT)?;
    let _vm2 = Echo::start(&world.guest(VM2).ns, VM2.address.v4, PORT)?;
    before(report, world);
    bind(report, agent);
    network_to_vm(report, world);
    vm_to_network(report, world, &servers);
    both_families(report, world, agent)?;
    inside_stays_inside(report, world, &servers);
    node_and_pods_to_eip(report, world);
    hairpins(report, world);
    nobody_home(report, world);
    crash(report, world, agent);
    what_the_kernel_holds(report, agent);
    // From here on vm2 has no elastic IP, and leaves as any pod does.
    report.step(
        "leaks outside, so far",
        "no frame with an inside address of either family",
        || {
            let leaks = world.leaks().leaks();
            ensure!(leaks.is_empty(), "{}", leaks.join("; "));
            let count = world.router_frames().frames().len();
            Ok(format!("none among the last {count} frames at the router"))
        },
    );
    world.leaks().allow_node_traffic();
    unbind(report, world, agent, &servers);
    bgp::learnt(report, world, agent)
}

fn before(report: &mut Report, world: &World) {
    report.chapter("Before anything is bound");
    report.step(
        &format!("client pings {}", eip::VM1.v4),
        "silence: the address belongs to nobody",
        || {
            let answer = traffic::ping(&world.client, eip::VM1.v4.into(), 56, SILENCE);
            ensure!(answer.is_err(), "{answer:?} answered");
            Ok("silence".to_owned())
        },
    );
}

fn bind(report: &mut Report, agent: &mut Daemon) {
    report.chapter("Two elastic IPs are bound");
    report.step(
        "vm1: two documents appear in the agent's directory",
        "the binding is programmed",
        || {
            let start = Instant::now();
            agent.serve(&VM1, eip::VM1.v4)?;
            Ok(format!(
                "{} is served after {:.0?}",
                eip::VM1.v4,
                start.elapsed()
            ))
        },
    );
    report.step(
        &format!("vm2: eipctl bind {} vm2", eip::VM2.v4),
        "the binding is programmed",
        || {
            let start = Instant::now();
            agent.documents().put_vm(&VM2)?;
            // The agent may read the VM a moment later than it gets the request: it waits then.
            let output = agent.eipctl(&["bind", &eip::VM2.v4.to_string(), "vm2"])?;
            ensure!(output.status.success(), "eipctl: {}", output.stderr.trim());
            agent.wait_state(&eip::VM2.v4.to_string(), "programmed")?;
            Ok(format!(
                "{} is served after {:.0?}",
                eip::VM2.v4,
                start.elapsed()
            ))
        },
    );
    report.quote(
        "eipctl list",
        &agent.eipctl(&["list"]).map(|output| output.stdout),
    );
}

fn network_to_vm(report: &mut Report, world: &World) {
    report.chapter("From the network to a VM: the VM sees its own address and the real client");
    for (vm, eip) in [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)] {
        let to = (eip, PORT).into();
        let expected = format!(
            "{} sees {} -> {}, the answer comes from {eip}",
            vm.name, CLIENT.v4, vm.address.v4
        );
        let seen = |answer: &Answer| {
            ensure!(
                answer.server_saw.ip() == CLIENT.v4,
                "it saw {}",
                answer.server_saw
            );
            ensure!(
                answer.server_was.ip() == vm.address.v4,
                "it was {}",
                answer.server_was
            );
            ensure!(
                answer.came_from.ip() == eip,
                "answer from {}",
                answer.came_from
            );
            Ok(format!(
                "{} saw {} -> {}",
                vm.name, CLIENT.v4, vm.address.v4
            ))
        };
        let from = &world.client;
        report.step(&format!("client -> {eip} UDP"), &expected, || {
            seen(&traffic::udp(from, to, 200, PATIENCE)?)
        });
        report.step(
            &format!("client -> {eip} UDP, 8000 bytes"),
            &expected,
            || seen(&traffic::udp(from, to, 8000, PATIENCE)?),
        );
        report.step(&format!("client -> {eip} TCP"), &expected, || {
            seen(&traffic::tcp(from, to, PATIENCE)?)
        });
        report.step(
            &format!("client -> {eip} TCP, 8 MB each way"),
            &expected,
            || {
                let start = Instant::now();
                traffic::bulk(from, to, Bulk::Upload, 8_000_000)?;
                let answer = traffic::bulk(from, to, Bulk::Download, 8_000_000)?;
                Ok(format!(
                    "{}, every byte right, {:.0?}",
                    seen(&answer)?,
                    start.elapsed()
                ))
            },
        );
        for size in [56, 4000] {
            report.step(
                &format!("client pings {eip}, {size} bytes"),
                &format!("the answer comes from {eip}"),
                || pinged(world, eip.into(), size),
            );
        }
    }
}

fn pinged(world: &World, to: IpAddr, size: usize) -> anyhow::Result<String> {
    let from = traffic::ping(&world.client, to, size, PATIENCE)?;
    ensure!(from == to, "{from} answered");
    Ok(format!(
        "{from} answered{}",
        if size > 1480 { ", in fragments" } else { "" }
    ))
}

fn vm_to_network(report: &mut Report, world: &World, servers: &Servers) {
    report.chapter("From a VM to the network: it leaves with its elastic IP");
    for (vm, eip) in [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)] {
        let ns = &world.guest(vm).ns;
        let to = servers.client.address();
        let expected = format!("the client sees {eip}");
        let seen = |answer: &Answer| {
            ensure!(
                answer.server_saw.ip() == eip,
                "the client saw {}",
                answer.server_saw
            );
            Ok(format!("the client saw {}", answer.server_saw.ip()))
        };
        report.step(&format!("{} -> client UDP", vm.name), &expected, || {
            seen(&traffic::udp(ns, to, 200, PATIENCE)?)
        });
        report.step(
            &format!("{} -> client TCP, 8 MB", vm.name),
            &expected,
            || seen(&traffic::bulk(ns, to, Bulk::Upload, 8_000_000)?),
        );
        report.step(
            &format!("{} pings client, 4000 bytes", vm.name),
            &expected,
            || {
                let client = world.client_frames();
                client.clear();
                traffic::ping(ns, CLIENT.v4.into(), 4000, PATIENCE)?;
                client.wait_for(PATIENCE, &expected, |frame, packet| {
                    frame.way == Way::In && packet.source == eip && packet.is_fragment
                })?;
                Ok(format!("the client saw {eip}, in fragments"))
            },
        );
    }
}

/// What was shown so far, in short, for an IPv6 EIP of the same VM.
fn both_families(report: &mut Report, world: &World, agent: &mut Daemon) -> anyhow::Result<()> {
    report.chapter("IPv6 too: vm1 gets a second elastic IP, of the other family");
    let (eip, own, client) = (eip::VM1.v6, VM1.address.v6, CLIENT.v6);
    let at_client = Echo::start(&world.client, client, PORT)?;
    let at_vm = Echo::start(&world.guest(VM1).ns, own, PORT)?;
    report.step(
        "vm1: a document names it",
        "the binding is programmed",
        || {
            let start = Instant::now();
            agent.serve(&VM1, eip)?;
            Ok(format!("{eip} is served after {:.0?}", start.elapsed()))
        },
    );
    report.step(
        &format!("client pings {eip}"),
        &format!("the answer comes from {eip}"),
        || pinged(world, eip.into(), 56),
    );
    report.step(
        &format!("client -> {eip} TCP, 8 MB"),
        &format!("vm1 sees {client} -> {own}, the answer comes from {eip}"),
        || {
            let to = at_vm.address();
            let answer = traffic::bulk(&world.client, (eip, PORT).into(), Bulk::Upload, 8_000_000)?;
            let (saw, was) = (answer.server_saw.ip(), answer.server_was);
            ensure!(saw == client && was == to, "it saw {saw} -> {was}");
            ensure!(
                answer.came_from.ip() == eip,
                "answer from {}",
                answer.came_from
            );
            Ok(format!("vm1 saw {saw} -> {}", was.ip()))
        },
    );
    let vm = &world.guest(VM1).ns;
    report.step(
        "vm1 pings the client, 4000 bytes",
        &format!("the client sees {eip}"),
        || {
            let frames = world.client_frames();
            frames.clear();
            traffic::ping(vm, client.into(), 4000, PATIENCE)?;
            frames.wait_for(PATIENCE, "the ping", |frame, packet| {
                frame.way == Way::In && packet.source == eip && packet.is_fragment
            })?;
            Ok(format!("the client saw {eip}, in fragments"))
        },
    );
    report.step(
        "vm1 -> client TCP, 8 MB",
        &format!("the client sees {eip}"),
        || {
            let to = at_client.address();
            let saw = traffic::bulk(vm, to, Bulk::Upload, 8_000_000)?
                .server_saw
                .ip();
            ensure!(saw == eip, "it saw {saw}");
            Ok(format!("the client saw {saw}"))
        },
    );
    Ok(())
}

fn inside_stays_inside(report: &mut Report, world: &World, servers: &Servers) {
    report.chapter("Inside the cluster nothing changes: VMs and pods use their own addresses");
    for vm in [VM1, VM2] {
        report.step(
            &format!("{} -> pod2 TCP", vm.name),
            &format!("pod2 sees {}", vm.address.v4),
            || {
                let ns = &world.guest(vm).ns;
                let answer = traffic::tcp(ns, servers.pod.address(), PATIENCE)?;
                ensure!(
                    answer.server_saw.ip() == vm.address.v4,
                    "pod2 saw {}",
                    answer.server_saw.ip()
                );
                Ok(format!("pod2 saw {}", answer.server_saw.ip()))
            },
        );
    }
    report.step(
        &format!("pod1 -> {} UDP, vm1's own address", VM1.address.v4),
        &format!("vm1 sees {}", POD1.address.v4),
        || {
            let to = (VM1.address.v4, PORT).into();
            let answer = traffic::udp(&world.guest(POD1).ns, to, 200, PATIENCE)?;
            ensure!(
                answer.server_saw.ip() == POD1.address.v4,
                "it saw {}",
                answer.server_saw
            );
            Ok(format!("vm1 saw {}", answer.server_saw.ip()))
        },
    );
}

fn node_and_pods_to_eip(report: &mut Report, world: &World) {
    report.chapter("The node and its pods reach elastic IPs too");
    for (vm, eip) in [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)] {
        for (name, ns) in [
            ("node", &world.node),
            ("pod1", &world.guest(POD1).ns),
            ("pod2", &world.guest(POD2).ns),
        ] {
            report.step(
                &format!("{name} -> {eip} TCP, UDP, ping"),
                &format!("{} answers from {eip}", vm.name),
                || {
                    let to = (eip, PORT).into();
                    let tcp = traffic::tcp(ns, to, PATIENCE)?;
                    ensure!(
                        tcp.server_was.ip() == vm.address.v4,
                        "reached {}",
                        tcp.server_was
                    );
                    let udp = traffic::udp(ns, to, 200, PATIENCE)?;
                    ensure!(udp.came_from == to, "answer from {}", udp.came_from);
                    let from = traffic::ping(ns, eip.into(), 56, PATIENCE)?;
                    ensure!(from == eip, "{from} answered the ping");
                    Ok(format!("{} answered from {eip}", vm.name))
                },
            );
        }
    }
}

fn hairpins(report: &mut Report, world: &World) {
    report.chapter("VMs reach each other's elastic IPs, and their own");
    let pairs: [(GuestPlan, _, GuestPlan, _); 4] = [
        (VM1, eip::VM1.v4, VM2, eip::VM2.v4),
        (VM2, eip::VM2.v4, VM1, eip::VM1.v4),
        (VM1, eip::VM1.v4, VM1, eip::VM1.v4),
        (VM2, eip::VM2.v4, VM2, eip::VM2.v4),
    ];
    for (from, from_eip, to, to_eip) in pairs {
        report.step(
            &format!("{} -> {to_eip} ({}) TCP", from.name, to.name),
            &format!("{} sees {from_eip}", to.name),
            || {
                let ns = &world.guest(from).ns;
                let answer = traffic::tcp(ns, (to_eip, PORT).into(), PATIENCE)?;
                ensure!(
                    answer.server_saw.ip() == from_eip,
                    "it saw {}",
                    answer.server_saw
                );
                Ok(format!("{} saw {}", to.name, answer.server_saw.ip()))
            },
        );
    }
}

fn nobody_home(report: &mut Report, world: &World) {
    report.chapter("An elastic IP nobody has does not loop between router and node");
    let address = eip::UNASSIGNED.v4;
    report.step(
        &format!("client pings {address}"),
        "one frame goes to the node, none comes back with that destination",
        || {
            let answer = traffic::ping(&world.client, address.into(), 56, SILENCE);
            ensure!(answer.is_err(), "{answer:?} answered");
            let is_ours = |packet: &IpPacket| packet.destination == address;
            let frames = world.router_frames().packets(|frame, packet| {
                (frame.interface == "ru0" || frame.interface == "rm0") && is_ours(packet)
            });
            ensure!(frames.len() == 1, "{} frames", frames.len());
            Ok("1 frame, no loop".to_owned())
        },
    );
}

fn crash(report: &mut Report, world: &World, agent: &mut Daemon) {
    report.chapter("The agent is killed and started again under traffic");
    let pace = Pace {
        per_second: 1000,
        count: 4000,
    };
    let mut session = Session::open(&world.client, (eip::VM1.v4, PORT).into());
    report.step(
        "kill -9 and restart, 8000 datagrams meanwhile",
        "of 4000 from the client to vm1 and 4000 from vm2 to the client, none is lost",
        || {
            let result = std::thread::scope(|scope| {
                let inbound = scope
                    .spawn(|| traffic::stream(&world.client, (eip::VM1.v4, PORT).into(), pace));
                let outbound = scope.spawn(|| {
                    traffic::stream(&world.guest(VM2).ns, (CLIENT.v4, PORT).into(), pace)
                });
                wait::pause(std::time::Duration::from_millis(700));
                let restarted = agent.kill9().and_then(|()| {
                    wait::pause(std::time::Duration::from_millis(500));
                    agent.restart()
                });
                (inbound.join(), outbound.join(), restarted)
            });
            let (Ok(inbound), Ok(outbound), restarted) = result else {
                anyhow::bail!("a stream broke off");
            };
            restarted.context("restart")?;
            let (inbound, outbound) = (inbound?, outbound?);
            ensure!(
                inbound.lost() == 0 && outbound.lost() == 0,
                "lost {} of {} inbound, {} of {} outbound",
                inbound.lost(),
                inbound.sent,
                outbound.lost(),
                outbound.sent
            );
            ensure!(
                inbound.strangers + outbound.strangers == 0,
                "answers from a wrong address"
            );
            Ok(format!("{} sent, 0 lost", inbound.sent + outbound.sent))
        },
    );
    report.step(
        "a TCP connection opened before the kill",
        "it still works",
        || {
            match &mut session {
                Ok(session) => session.exchange()?,
                Err(error) => anyhow::bail!("it never opened: {error:#}"),
            }
            Ok("it still works".to_owned())
        },
    );
}

fn what_the_kernel_holds(report: &mut Report, agent: &Daemon) {
    report.chapter("What the kernel holds");
    let map = agent.map("EIP4_V1");
    let line = format!("map dump pinned {}", map.display());
    report.quote(&format!("bpftool {line}"), &agent.bpftool(&line));
    report.quote(
        "eipctl drops --all",
        &agent
            .eipctl(&["drops", "--all"])
            .map(|output| output.stdout),
    );
    report.quote(
        "eipctl status",
        &agent.eipctl(&["status"]).map(|output| output.stdout),
    );
}

fn unbind(report: &mut Report, world: &World, agent: &Daemon, servers: &Servers) {
    report.chapter("An elastic IP is released");
    let address = eip::VM2.v4;
    report.step(
        &format!("eipctl unbind {address}"),
        "nobody answers there any more",
        || {
            let output = agent.eipctl(&["unbind", &address.to_string()])?;
            ensure!(output.status.success(), "eipctl: {}", output.stderr.trim());
            wait::wait_until(PATIENCE, "the EIP falls silent", || {
                traffic::ping(&world.client, address.into(), 56, SILENCE).is_err()
            })?;
            Ok("silence".to_owned())
        },
    );
    report.step(
        "vm2 -> client UDP",
        "it leaves like any pod, behind the node's address",
        || {
            let ns = &world.guest(VM2).ns;
            let answer = traffic::udp(ns, servers.client.address(), 200, PATIENCE)?;
            ensure!(
                answer.server_saw.ip() != address,
                "the client saw {address}"
            );
            Ok(format!("the client saw {}", answer.server_saw.ip()))
        },
    );
    report.step(
        &format!("client pings {}", eip::VM1.v4),
        "vm1 is not affected",
        || pinged(world, eip::VM1.v4.into(), 56),
    );
}
