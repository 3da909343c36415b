//! The measurements, in their order.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use eip_cluster_tests::{
    bird::{Bird, NODE_AS, ROUTER_AS},
    process::Process,
    world::Cluster,
};
use eip_lab::{bird::Console, wait::pause};
use serde_json::json;

use crate::{
    api::Server,
    plan::{Plan, Vm},
    probe::{self, Kernel, Progress, Requests, say, soon, until},
    results::{Number, Results},
    wires::Wires,
};

/// Where an agent serves its metrics.
const AGENT_HTTP: u16 = 9469;
/// Where the first controller does.
const CONTROLLER_HTTP: u16 = 9470;
/// How long CPU time is counted.
const SPAN: Duration = Duration::from_secs(20);
/// How often a start is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often what needs a list of objects is looked at.
const SELDOM: Duration = Duration::from_secs(1);

/// Everything that is asked.
struct Bench<'a> {
    cluster: &'a mut Cluster,
    plan: &'a Plan,
    server: Server,
    bird: Console,
    results: Results,
}

/// Measures all of it.
pub(crate) fn all(
    cluster: &mut Cluster,
    plan: &Plan,
    crowd: &[Ipv4Addr],
) -> anyhow::Result<Results> {
    let server = Server::connect(&cluster.control.administrator()?)?;
    let (bound, spares) = (plan.bound(), plan.spares());
    let here = usize::try_from(plan.here)?;
    let mut vms = bound.clone();
    vms.extend_from_slice(&spares);
    say("a veth for each VM of the measured node");
    let own: Vec<Vm> = bound.iter().take(here).chain(&spares).cloned().collect();
    let _wires = Wires::plug(cluster, &own)?;
    server.write_nodes(&plan.simulated_nodes().collect::<Vec<_>>())?;
    server.write_vms(&vms)?;
    server.write_bindings(&bound)?;
    let _router = Bird::start(&cluster.router, cluster.dir(), &cluster.uplinks())?;
    let bird = Console::connect(&cluster.dir().join("bird"))?;
    cluster.control.apply(&json!({
        "apiVersion": "virteip.github.com/v1", "kind": "BgpPeer",
        "metadata": {"name": "router"},
        "spec": {
            "peerAddress": "192.0.2.1", "peerAs": ROUTER_AS, "localAs": NODE_AS, "holdTimeSeconds": 90
        }
    }))?;
    let mut bench = Bench {
        cluster,
        plan,
        server,
        bird,
        results: Results::default(),
    };
    bench.results.title(&format!(
        "{} bindings on {} nodes, {} of them on the measured one",
        plan.bindings, plan.nodes, plan.here
    ));
    bench.start_controller()?;
    bench.start_agent("cold start")?;
    bench.use_of_memory("after the start")?;
    bench.use_of_cpu()?;
    bench.change(&spares)?;
    bench.restart()?;
    if !crowd.is_empty() {
        bench.crowd(crowd, &bound[0])?;
    }
    bench.use_of_memory("at the end")?;
    Ok(bench.results)
}

impl Bench<'_> {
    fn here(&self) -> usize {
        self.plan.here as usize
    }

    /// From the start of the process until nothing is left to be written.
    fn start_controller(&mut self) -> anyhow::Result<()> {
        let (all, name) = (self.plan.bindings as usize, "controller, cold start");
        say(name);
        let (began, number) = (Instant::now(), self.cluster.start_controller()?);
        let read = self.controller_reads(number, began)?;
        let mut progress = Progress::new("granted", all);
        let mut seen = 0;
        until("everything is granted", began, SELDOM, || {
            // The queue says when it is worth to look.
            if self.waiting(number).is_none_or(|waiting| waiting > 0) {
                return Ok(false);
            }
            seen = self.server.count(None)?.granted;
            progress.reach(seen);
            Ok(seen == all)
        })?;
        // Lists of objects and the second between two looks are the bench's own time.
        let done = began.elapsed();
        self.results.row(
            name,
            &[
                ("read", Number::Time(read)),
                ("all granted", Number::Time(done)),
            ],
        );
        Ok(())
    }

    fn controller_reads(&self, number: usize, began: Instant) -> anyhow::Result<Duration> {
        let port = CONTROLLER_HTTP + u16::try_from(number)?;
        until("the controller has read everything", began, LOOK, || {
            let page = probe::page(self.cluster.place(), port, "/readyz");
            Ok(page.is_some_and(|(code, _)| code == 200))
        })
    }

    /// Bindings a leading controller has still to look at.
    fn waiting(&self, number: usize) -> Option<u64> {
        let port = CONTROLLER_HTTP + u16::try_from(number).ok()?;
        let (_, page) = probe::page(self.cluster.place(), port, "/metrics")?;
        let leads = probe::metric(&page, "eip_controller_leading")? > 0.0;
        let depth = probe::metric(&page, "eip_controller_queue_depth")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a length"
        )]
        leads.then_some(depth as u64)
    }

    /// From the start of the process until the kernel, the router and the API server know.
    fn start_agent(&mut self, how: &str) -> anyhow::Result<()> {
        let (here, name) = (self.here(), format!("agent, {how}"));
        say(&name);
        let began = Instant::now();
        self.cluster.start_agent(0)?;
        let ns = &self.cluster.nodes[0].ns;
        let in_sync = until("the agent is in sync", began, LOOK, || {
            let page = probe::page(ns, AGENT_HTTP, "/readyz");
            Ok(page.is_some_and(|(code, _)| code == 200))
        })?;
        let programmed = Kernel::open(&self.cluster.bpffs(0))?.count();
        ensure!(programmed == here, "{programmed} of {here} are programmed");
        let bird = &mut self.bird;
        let told = until("BIRD knows all", began, LOOK, || {
            Ok(probe::imported(bird)? as usize == here)
        })?;
        let mut progress = Progress::new("ready", here);
        let ready = until("all are ready", began, SELDOM, || {
            let ready = self.server.count(Some(&Plan::node(0)))?.ready;
            progress.reach(ready);
            Ok(ready == here)
        })?;
        self.results.row(
            &name,
            &[
                ("in sync", Number::Time(in_sync)),
                ("BIRD", Number::Time(told)),
                ("all Ready", Number::Time(ready)),
            ],
        );
        Ok(())
    }

    fn controller(&mut self) -> &Process {
        self.cluster.controller(0)
    }

    fn use_of_memory(&mut self, when: &str) -> anyhow::Result<()> {
        let agent = probe::memory(self.cluster.agent(0)?)?;
        let last = self.cluster.controllers() - 1;
        let controller = probe::memory(self.cluster.controller(last))?;
        for (name, memory) in [("agent", agent), ("controller", controller)] {
            self.results.row(
                &format!("{name}, memory {when}"),
                &[
                    ("RSS", Number::Bytes(memory.now)),
                    ("peak", Number::Bytes(memory.peak)),
                ],
            );
        }
        Ok(())
    }

    /// What both use when nothing happens, and when kubelets write their nodes' status, as they do at least
    /// every five minutes: here all of them in ten seconds.
    fn use_of_cpu(&mut self) -> anyhow::Result<()> {
        say("CPU at rest");
        let rest = self.cpu_during(|_| {
            pause(SPAN);
            Ok(())
        })?;
        say("CPU while nodes write their status");
        let beats = self.plan.nodes * 2;
        let beating = self.cpu_during(|bench| {
            for number in 0..beats {
                let node = Plan::node(number % bench.plan.nodes);
                let due = Instant::now() + SPAN / beats;
                bench.server.beat(&node, number)?;
                pause(due.saturating_duration_since(Instant::now()));
            }
            Ok(())
        })?;
        let rows = [
            ("at rest", rest),
            ("every node written once in 10 s", beating),
        ];
        for (name, (agent, controller)) in rows {
            self.results.row(
                &format!("CPU {name}"),
                &[
                    ("agent", Number::Cpu(agent)),
                    ("controller", Number::Cpu(controller)),
                ],
            );
        }
        Ok(())
    }

    fn cpu_during(
        &mut self,
        what: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<(f64, f64)> {
        let both = |bench: &mut Self| -> anyhow::Result<(Duration, Duration)> {
            let agent = probe::cpu(bench.cluster.agent(0)?)?;
            Ok((agent, probe::cpu(bench.controller())?))
        };
        let (began, before) = (Instant::now(), both(self)?);
        what(self)?;
        let (took, after) = (began.elapsed(), both(self)?);
        let part = |before: Duration, after: Duration| {
            (after.saturating_sub(before)).as_secs_f64() / took.as_secs_f64()
        };
        Ok((part(before.0, after.0), part(before.1, after.1)))
    }

    /// Bindings that come and go, one after the other.
    fn change(&mut self, spares: &[Vm]) -> anyhow::Result<()> {
        let kernel = Kernel::open(&self.cluster.bpffs(0))?;
        let (mut binds, mut unbinds) = (Course::default(), Course::default());
        let mut left = self.plan.changes as usize;
        let mut progress = Progress::new("changes", left);
        while left > 0 {
            let vms = spares.get(..left.min(spares.len())).unwrap_or(spares);
            let before = probe::settled(&self.cluster.control)?;
            for vm in vms {
                self.bind(vm, &kernel, &mut binds)?;
            }
            let between = probe::settled(&self.cluster.control)?;
            for vm in vms {
                self.unbind(vm, &kernel, &mut unbinds)?;
            }
            let after = probe::settled(&self.cluster.control)?;
            binds.asked(&before, &between);
            unbinds.asked(&between, &after);
            left -= vms.len();
            progress.reach(self.plan.changes as usize - left);
        }
        let changes = self.plan.changes;
        self.results.title(&format!(
            "{changes} bindings, one after the other: stored ..."
        ));
        self.results.times("by the API server", &binds.stored);
        self.results.times("and in the kernel", &binds.kernel);
        self.results.times("and known to BIRD", &binds.bird);
        self.results.times("and Ready", &binds.ready);
        self.results.title("the same deleted ...");
        self.results.times("by the API server", &unbinds.stored);
        self.results.times("and forgotten by BIRD", &unbinds.bird);
        self.results
            .times("and gone from the kernel", &unbinds.kernel);
        // This program's own questions whether a binding is ready.
        let own = ("GET".to_owned(), "eipbindings".to_owned());
        *binds.requests.entry(own).or_default() -= binds.questions;
        for (title, course) in [("binding", binds), ("deleted binding", unbinds)] {
            self.results
                .title(&format!("requests per {title}, the user's own included"));
            for ((verb, what), number) in &course.requests {
                let each = number / f64::from(changes);
                if each > 0.0 {
                    let name = format!("{verb} {what}");
                    self.results.row(&name, &[("", Number::Count(each))]);
                }
            }
        }
        Ok(())
    }

    fn bind(&mut self, vm: &Vm, kernel: &Kernel, course: &mut Course) -> anyhow::Result<()> {
        let began = Instant::now();
        self.server.bind(vm)?;
        course.stored.push(began.elapsed());
        let in_kernel = soon("it is programmed", began, || Ok(kernel.has(vm.eip)))?;
        course.kernel.push(in_kernel);
        let bird = &mut self.bird;
        let known = soon("BIRD knows it", began, || probe::knows(bird, vm.eip))?;
        course.bird.push(known);
        let ready = soon("it is ready", began, || {
            course.questions += 1.0;
            self.server.is_ready(vm)
        })?;
        course.ready.push(ready);
        Ok(())
    }

    fn unbind(&mut self, vm: &Vm, kernel: &Kernel, course: &mut Course) -> anyhow::Result<()> {
        let began = Instant::now();
        self.server.unbind(vm)?;
        course.stored.push(began.elapsed());
        let bird = &mut self.bird;
        let gone = soon("BIRD forgets it", began, || {
            Ok(!probe::knows(bird, vm.eip)?)
        })?;
        course.bird.push(gone);
        let gone = soon("it is unprogrammed", began, || Ok(!kernel.has(vm.eip)))?;
        course.kernel.push(gone);
        Ok(())
    }

    /// A tenant that has lost all measure.
    fn crowd(&mut self, eips: &[Ipv4Addr], vm: &Vm) -> anyhow::Result<()> {
        let title = format!("{} bindings for one VM", eips.len());
        say(&title);
        let began = Instant::now();
        self.server.write_crowd(eips, vm)?;
        let mut progress = Progress::new("told", eips.len());
        let mut reasons = BTreeMap::new();
        let took = until("each is told", began, SELDOM * 5, || {
            reasons = self.server.reasons_of_crowd()?;
            let undecided = ["", "Pending"].map(|reason| reasons.get(reason).copied());
            let told = eips.len() - undecided.into_iter().flatten().sum::<usize>();
            progress.reach(told);
            Ok(told == eips.len())
        })?;
        // Whatever was said last is said for good.
        probe::settled(&self.cluster.control)?;
        self.results.title(&title);
        self.results
            .row("each is told why or served", &[("", Number::Time(took))]);
        for (reason, count) in self.server.reasons_of_crowd()? {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let count = Number::Count(count as f64);
            self.results.row(&reason, &[("", count)]);
        }
        Ok(())
    }

    /// Starts in what was left: pins, the file of facts, statuses.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.results.title("starts with what was there before");
        self.cluster.agent(0)?.kill()?;
        self.start_agent("start after a kill")?;
        let facts = std::fs::metadata(self.cluster.state_file(0)).context("the file of facts")?;
        self.results.row(
            "agent, facts for the next start",
            &[("", Number::Bytes(facts.len()))],
        );
        let name = "controller, start after a stop";
        say(name);
        self.cluster.controller(0).stop()?;
        let (began, number) = (Instant::now(), self.cluster.start_controller()?);
        let read = self.controller_reads(number, began)?;
        let done = until("nothing is left to do", began, LOOK, || {
            Ok(self.waiting(number) == Some(0) && began.elapsed() > read)
        })?;
        self.results.row(
            name,
            &[
                ("read", Number::Time(read)),
                ("all looked at", Number::Time(done)),
            ],
        );
        Ok(())
    }
}

/// Times of many changes, and what was asked for them.
#[derive(Debug, Default)]
struct Course {
    stored: Vec<Duration>,
    kernel: Vec<Duration>,
    bird: Vec<Duration>,
    ready: Vec<Duration>,
    requests: Requests,
    questions: f64,
}

impl Course {
    fn asked(&mut self, before: &Requests, after: &Requests) {
        for (what, number) in after {
            let new = number - before.get(what).copied().unwrap_or_default();
            *self.requests.entry(what.clone()).or_default() += new;
        }
    }
}
