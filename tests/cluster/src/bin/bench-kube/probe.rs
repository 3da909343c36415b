//! Looks at processes, kernel maps, metrics and BIRD.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use eip_cluster_tests::{control_plane::ControlPlane, process::Process};
use eip_common::{
    abi::{Binding, map},
    addr::Ipv4Wire,
};
use eip_lab::{bird::Console, netns::Ns, wait::pause};
use nix::unistd::{SysconfVar, sysconf};
use tokio::runtime::Builder;

/// How often a map and BIRD are asked.
const LOOK: Duration = Duration::from_micros(500);
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_mins(15);

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C ends what is waited for, so that everything is taken down again.
pub(crate) fn heed_interrupts() -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            IS_INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Says what goes on.
pub(crate) fn say(text: &str) {
    eprintln!("  {text}");
}

/// Says every few seconds how far something is.
pub(crate) struct Progress {
    what: String,
    all: usize,
    done: usize,
    began: Instant,
    said: Instant,
}

impl Progress {
    pub(crate) fn new(what: &str, all: usize) -> Self {
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            all,
            done: 0,
            began: now,
            said: now,
        }
    }

    pub(crate) fn step(&mut self) {
        self.reach(self.done + 1);
    }

    pub(crate) fn reach(&mut self, done: usize) {
        self.done = done;
        let is_all = done == self.all;
        if is_all || self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            let seconds = self.began.elapsed().as_secs();
            say(&format!(
                "{}: {done} of {}, {seconds} s",
                self.what, self.all
            ));
        }
    }
}

/// Looks until it is so; how long that took.
pub(crate) fn until(
    what: &str,
    began: Instant,
    every: Duration,
    mut look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    loop {
        if look()? {
            return Ok(began.elapsed());
        }
        ensure!(!IS_INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        if began.elapsed() > PATIENCE {
            bail!("waited in vain: {what}");
        }
        pause(every);
    }
}

/// As [`until`], as often as is right for milliseconds.
pub(crate) fn soon(
    what: &str,
    began: Instant,
    look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    until(what, began, LOOK, look)
}

/// A page of a program in a namespace: status and body. Nothing while nobody listens.
pub(crate) fn page(ns: &Ns, port: u16, path: &str) -> Option<(u16, String)> {
    ns.run(|| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    })
}

/// A value of a page of metrics.
pub(crate) fn metric(page: &str, name: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.split([' ', '{']).next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Memory of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Now, in bytes.
    pub(crate) now: u64,
    /// At most so far.
    pub(crate) peak: u64,
}

pub(crate) fn memory(process: &Process) -> anyhow::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid()?))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .with_context(|| format!("no {name} of a process"))
    };
    Ok(Memory {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// CPU time a process has used.
pub(crate) fn cpu(process: &Process) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.pid()?))?;
    let (_, fields) = text.rsplit_once(") ").context("an odd /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
    };
    // utime and stime, fields 14 and 15 of proc(5).
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let ticks = ticks.context("an odd /proc/PID/stat")?;
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(second)?))
}

/// Whether elastic IPs are in the kernel.
pub(crate) struct Kernel(HashMap<MapData, Ipv4Wire, Binding<Ipv4Wire>>);

impl Kernel {
    /// Opens the map an agent has pinned.
    pub(crate) fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let pin = bpffs.join("eip/maps").join(map::EIP4);
        let map = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        Ok(Self(HashMap::try_from(Map::from_map_data(map)?)?))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.keys().flatten().count()
    }

    pub(crate) fn has(&self, eip: Ipv4Addr) -> bool {
        self.0.get(&eip.octets(), 0).is_ok()
    }
}

/// Routes BIRD has taken from the measured node: its own counter, which costs it nothing to tell.
pub(crate) fn imported(bird: &mut Console) -> anyhow::Result<u32> {
    let answer = bird.ask("show protocols all n0")?;
    let line = answer.lines().find(|line| line.contains("Routes:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.map_or(Ok(0), str::parse)?)
}

/// Whether BIRD has a route to an elastic IP.
pub(crate) fn knows(bird: &mut Console, eip: Ipv4Addr) -> anyhow::Result<bool> {
    let answer = bird.ask(&format!("show route {eip}/32"))?;
    Ok(answer.contains(&format!("{eip}/32")))
}

/// Requests an API server has answered, by verb and resource. Leases are left out: they are renewed
/// whatever happens.
pub(crate) type Requests = BTreeMap<(String, String), f64>;

/// What it has counted so far.
pub(crate) fn requests(control: &ControlPlane) -> anyhow::Result<Requests> {
    let page = control.kubectl(&["get", "--raw", "/metrics"])?;
    let mut all = Requests::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let (Some(verb), Some(resource)) = (label("verb"), label(",resource")) else {
            continue;
        };
        // Watches count when they end, and end by themselves.
        if ["eipbindings", "events"].contains(&resource) && verb != "WATCH" {
            let what = match label("subresource") {
                None | Some("") => resource.to_owned(),
                Some(part) => format!("{resource}/{part}"),
            };
            *all.entry((verb.to_owned(), what)).or_default() += value.parse::<f64>()?;
        }
    }
    Ok(all)
}

/// Waits until nobody asks it anything about bindings any more.
pub(crate) fn settled(control: &ControlPlane) -> anyhow::Result<Requests> {
    let mut before = requests(control)?;
    until(
        "nothing is written",
        Instant::now(),
        Duration::from_secs(2),
        || {
            let now = requests(control)?;
            let is_quiet = now == before;
            before = now;
            Ok(is_quiet)
        },
    )?;
    Ok(before)
}
