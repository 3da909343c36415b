//! BIRD, FRR and GoBGP: start, stop, and what they know.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use eip_lab::{command, wait::wait_until};
use serde_json::Value;

use crate::Bench;

mod bird;
mod frr;
mod gobgp;

/// Which router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// BIRD 2.
    Bird,
    /// FRR: zebra and bgpd.
    Frr,
    /// GoBGP 3.
    Gobgp,
}

/// How the router is set up toward the speaker.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each feature of a router, all independent"
)]
pub struct RouterOptions {
    /// Its AS.
    pub local_as: u32,
    /// The speaker's AS.
    pub peer_as: u32,
    /// The speaker's address.
    pub peer: &'static str,
    /// Its own address on the session.
    pub local: &'static str,
    /// Key of TCP MD5.
    pub password: Option<&'static str>,
    /// GTSM.
    pub ttl_security: bool,
    /// It waits for the speaker to dial.
    pub passive: bool,
    /// Hold time in seconds.
    pub hold: u32,
    /// Keeps routes over a restart of the speaker.
    pub graceful_restart: bool,
    /// It knows the speaker by the prefix it is in.
    pub range: Option<&'static str>,
    /// It knows the speaker by the interface it is on: IPv6 link-local, found by router
    /// advertisements, IPv4 routes by RFC 8950.
    pub unnumbered: bool,
    /// The speaker is so many hops away.
    pub multihop: Option<u8>,
    /// It takes so many routes of a family and no more.
    pub limit: Option<u32>,
    /// A second speaker, at 10.99.1.2; its routes are equal to the first one's.
    pub second: bool,
    /// Sessions are watched by BFD, at so many milliseconds, three lost.
    pub bfd: Option<u32>,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            local_as: 65001,
            peer_as: 65010,
            peer: "10.99.0.2",
            local: "10.99.0.1",
            password: None,
            ttl_security: false,
            passive: true,
            hold: 9,
            graceful_restart: true,
            range: None,
            unnumbered: false,
            multihop: None,
            limit: None,
            second: false,
            bfd: None,
        }
    }
}

/// A running router.
#[derive(Debug)]
pub struct Router<'a> {
    kind: Kind,
    bench: &'a Bench,
    options: RouterOptions,
    daemons: Vec<Child>,
}

/// What a router knows from the speaker, both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// IPv4 routes.
    pub ipv4: usize,
    /// IPv6 routes.
    pub ipv6: usize,
}

impl<'a> Router<'a> {
    /// Starts a router in its namespace.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(kind: Kind, bench: &'a Bench, options: RouterOptions) -> anyhow::Result<Self> {
        let mut router = Self {
            kind,
            bench,
            options,
            daemons: Vec::new(),
        };
        match kind {
            Kind::Bird => router.start_bird()?,
            Kind::Frr => router.start_frr()?,
            Kind::Gobgp => router.start_gobgp()?,
        }
        wait_until(Duration::from_mins(1), "the router answers", || {
            router.known().is_ok()
        })
        .with_context(|| router.log())?;
        Ok(router)
    }

    /// Routes it has from the speaker.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn known(&self) -> anyhow::Result<Known> {
        match self.kind {
            Kind::Bird => self.bird_known(),
            Kind::Frr => self.frr_known(),
            Kind::Gobgp => self.gobgp_known(),
        }
    }

    /// Waits until it knows so many routes of each family.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_known(&self, ipv4: usize, ipv6: usize, limit: Duration) -> anyhow::Result<()> {
        let expected = Known { ipv4, ipv6 };
        let what = format!("{:?} knows {expected:?}", self.kind);
        wait_until(limit, &what, || {
            self.known().is_ok_and(|known| known == expected)
        })
        .with_context(|| format!("it knows {:?}", self.known()))
    }

    /// Routes it keeps although the session that brought them is gone.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn stale(&self) -> anyhow::Result<usize> {
        match self.kind {
            Kind::Bird => self.bird_stale(),
            Kind::Frr => self.frr_stale(),
            Kind::Gobgp => self.gobgp_stale(),
        }
    }

    /// One IPv4 route with all that is known of it, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn describe(&self, host: &str) -> anyhow::Result<String> {
        match self.kind {
            Kind::Bird => self.birdc(&["show", "route", "for", host, "all"]),
            Kind::Frr => self.vtysh(&format!("show bgp ipv4 unicast {host}/32 json")),
            Kind::Gobgp => self.gobgp(&["global", "rib", &format!("{host}/32"), "-j"]),
        }
    }

    /// How many ways it has to the first route: in the kernel where the router puts them there.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ways(&self, host: &str) -> anyhow::Result<usize> {
        if self.kind == Kind::Gobgp {
            return Ok(self.describe(host)?.matches("\"nlri\"").count());
        }
        let mut command = self.bench.router.command("ip");
        let routes = run(command.args(["-o", "route", "show", host]))?;
        Ok(routes.matches("via 10.99.").count())
    }

    /// What it says of its BFD sessions; nothing where it has no BFD.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn bfd(&self) -> anyhow::Result<String> {
        match self.kind {
            Kind::Bird => self.bird_bfd(),
            Kind::Frr => self.vtysh("show bfd peers brief"),
            Kind::Gobgp => Ok(String::new()),
        }
    }

    /// Has BIRD watch a neighbour whether there is a BGP session or not.
    ///
    /// # Errors
    /// When it does not answer, or is another router.
    pub fn watch(&self, neighbour: &str) -> anyhow::Result<()> {
        ensure!(self.kind == Kind::Bird, "{:?} cannot", self.kind);
        self.bird_watch(neighbour)
    }

    /// Gives the speaker another chance after it was shut out, as an operator would.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn forgive(&self) -> anyhow::Result<()> {
        let answer = match self.kind {
            Kind::Bird => self.birdc(&["restart", "speaker"]),
            Kind::Frr => self.vtysh("clear bgp *"),
            Kind::Gobgp => self.gobgp(&["neighbor", self.options.peer, "enable"]),
        };
        answer.map(|_| ())
    }

    /// Processes of the router, to be stopped and continued.
    pub fn pids(&self) -> impl Iterator<Item = nix::unistd::Pid> {
        let pids = self
            .daemons
            .iter()
            .filter_map(|child| i32::try_from(child.id()).ok());
        pids.map(nix::unistd::Pid::from_raw)
    }

    /// Everything it has logged, for a test that fails.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.bench.dir().join(name)).unwrap_or_default();
        ["bird.log", "bgpd.log", "gobgpd.log", "speaker.log"]
            .map(read)
            .join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.dir().join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Starts a daemon of the router in the foreground.
    fn launch(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{}.out", base_name(program))))?;
        let child = self
            .bench
            .router
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        self.daemons.push(child);
        Ok(())
    }
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn base_name(program: &str) -> &str {
    Path::new(program)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or(program)
}

fn json(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}

fn run(command: &mut std::process::Command) -> anyhow::Result<String> {
    command::output(command)
}
