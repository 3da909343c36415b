//! Who announces: prebuilt bytes, this speaker, and others that are fed by hand beforehand.

use std::{
    fs::File,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use eip_interop_tests::{
    Bench, SpeakerProcess,
    hand::{self, Hand, message, open_with},
};
use eip_lab::{
    command,
    wait::{pause, wait_until},
};

/// Long enough for the slowest.
const LOADING: Duration = Duration::from_mins(3);
const ROUTER: &str = "10.99.0.1:179";

/// The speaker's program, beside this one.
pub(crate) fn test_speaker() -> anyhow::Result<String> {
    let program = std::env::current_exe()?.with_file_name("eip-test-speaker");
    let program = program.to_str().context("a path in UTF-8")?;
    Ok(program.to_owned())
}

/// Kinds of senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Floor,
    Ours,
    Gobgp,
    Frr,
    Exabgp,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Floor,
        Self::Ours,
        Self::Gobgp,
        Self::Frr,
        Self::Exabgp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "prebuilt bytes",
            Self::Ours => "kube-eip",
            Self::Gobgp => "GoBGP",
            Self::Frr => "FRR",
            Self::Exabgp => "ExaBGP",
        }
    }

    /// `ExaBGP` takes minutes for more.
    pub(crate) fn can(self, count: u32) -> bool {
        self != Self::Exabgp || count <= 10_000
    }

    pub(crate) fn is_installed(self) -> bool {
        let program = match self {
            Self::Floor | Self::Ours => return true,
            Self::Gobgp => "gobgpd",
            Self::Frr => "/usr/lib/frr/bgpd",
            Self::Exabgp => "exabgp",
        };
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        found.is_ok_and(|found| found.status.success())
    }
}

/// A sender with its routes, not yet connected to the router.
pub(crate) struct Sender {
    kind: Kind,
    count: u32,
    ours: Option<SpeakerProcess>,
    floor: Option<Hand>,
    feeder: Option<Hand>,
    daemons: Vec<Child>,
}

impl Sender {
    pub(crate) fn load(kind: Kind, bench: &Bench, count: u32) -> anyhow::Result<Self> {
        let mut sender = Self {
            kind,
            count,
            ours: None,
            floor: None,
            feeder: None,
            daemons: Vec::new(),
        };
        match kind {
            Kind::Floor => {}
            Kind::Ours => {
                let mut speaker = SpeakerProcess::start(bench, &test_speaker()?, &[])?;
                speaker.ask(&format!("routes4 {count}"))?;
                sender.ours = Some(speaker);
            }
            Kind::Gobgp => sender.load_gobgp(bench)?,
            Kind::Frr => sender.load_frr(bench)?,
            Kind::Exabgp => sender.load_exabgp(bench)?,
        }
        Ok(sender)
    }

    /// The router lets us in from now on; all but the prebuilt bytes dial by themselves.
    pub(crate) fn announce(&mut self, bench: &Bench) -> anyhow::Result<()> {
        if self.kind == Kind::Floor {
            let address: SocketAddr = ROUTER.parse()?;
            let mut tcp = None;
            // BIRD listens some time after it was told to.
            wait_until(Duration::from_secs(10), "BIRD listens", || {
                tcp = bench.speaker.run(|| TcpStream::connect(address)).ok();
                tcp.is_some()
            })?;
            let mut hand = Hand::over(tcp.context("a connection")?)?;
            let mut open = open_with([10, 99, 0, 2], 0, &[0]);
            set_as(&mut open, 65010);
            hand.establish(&open)?;
            let bytes = updates(self.count, 65010, [10, 99, 0, 2]);
            hand.say(&bytes)?;
            self.floor = Some(hand);
        }
        Ok(())
    }

    pub(crate) fn withdraw(&mut self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Floor => {
                let hand = self.floor.as_mut().context("announced before")?;
                hand.say(&withdrawals(self.count))?;
            }
            Kind::Ours => {
                let speaker = self.ours.as_mut().context("loaded before")?;
                speaker.ask("routes4 0")?;
            }
            Kind::Gobgp | Kind::Frr => {
                let feeder = self.feeder.as_mut().context("loaded before")?;
                feeder.say(&withdrawals(self.count))?;
            }
            Kind::Exabgp => bail!("its routes are in its configuration"),
        }
        Ok(())
    }

    pub(crate) fn can_withdraw(&self) -> bool {
        self.kind != Kind::Exabgp
    }

    /// Feeds a router from 10.99.2.9, AS 65100.
    fn feed(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let feeder = bench.third.as_ref().context("a feeder's namespace")?;
        let address: SocketAddr = "10.99.2.2:179".parse()?;
        let connect = || -> anyhow::Result<TcpStream> { Ok(TcpStream::connect(address)?) };
        let mut open = open_with([10, 99, 2, 9], 0, &[0]);
        set_as(&mut open, 65100);
        let mut fed = None;
        wait_until(Duration::from_secs(30), "the feeder's session", || {
            let hand = feeder.run(connect).and_then(Hand::over);
            let Ok(mut hand) = hand else { return false };
            if hand.establish(&open).is_err() {
                return false;
            }
            fed = Some(hand);
            true
        })?;
        let mut hand = fed.context("a session")?;
        hand.say(&updates(self.count, 65100, [10, 99, 2, 9]))?;
        self.feeder = Some(hand);
        Ok(())
    }

    fn load_gobgp(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let neighbour = |address: &str, asn: u32, passive: bool| {
            format!(
                "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
                 [neighbors.transport.config]\npassive-mode = {passive}\n\
                 [neighbors.timers.config]\nconnect-retry = 5\nidle-hold-time-after-reset = 1\n"
            )
        };
        let config = format!(
            "[global.config]\nas = 65010\nrouter-id = \"10.99.0.2\"\n{}{}",
            neighbour("10.99.0.1", 65001, false),
            neighbour("10.99.2.9", 65100, true),
        );
        let file = bench.dir().join("sender-gobgpd.toml");
        std::fs::write(&file, config)?;
        let socket = bench.dir().join("sender-gobgp.sock");
        let arguments = ["-f", &file.display().to_string(), "-l", "fatal", "-p"].map(str::to_owned);
        let api = format!("--api-hosts=unix://{}", socket.display());
        self.launch(bench, "gobgpd", &[&arguments[..], &[api]].concat())?;
        self.feed(bench)?;
        let (target, count) = (format!("unix:{}", socket.display()), self.count);
        wait_until(LOADING, "GoBGP is loaded", || {
            let mut ask = Command::new("gobgp");
            ask.args(["--target", &target, "global", "rib", "summary"]);
            let answer = command::output(&mut ask).unwrap_or_default();
            answer.contains(&format!("Destination: {count},"))
        })
    }

    fn load_frr(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let dir = bench.dir().join("sender-frr");
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let config = "router bgp 65010
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.99.0.1 remote-as 65001
 neighbor 10.99.0.1 timers connect 2
 neighbor 10.99.2.9 remote-as 65100
 neighbor 10.99.2.9 passive
";
        std::fs::write(dir.join("bgpd.conf"), config)?;
        std::fs::write(dir.join("zebra.conf"), "hostname sender\n")?;
        let path = |name: &str| dir.join(name).display().to_string();
        for daemon in ["zebra", "bgpd"] {
            let arguments = [
                "-u",
                "frr",
                "-g",
                "frr",
                "-A",
                "127.0.0.1",
                "-P",
                "0",
                "--vty_socket",
                &path(""),
                "-z",
                &path("zserv.api"),
                "-f",
                &path(&format!("{daemon}.conf")),
                "-i",
                &path(&format!("{daemon}.pid")),
            ]
            .map(str::to_owned);
            self.launch(bench, &format!("/usr/lib/frr/{daemon}"), &arguments)?;
            pause(Duration::from_secs(1));
        }
        self.feed(bench)?;
        let count = self.count;
        wait_until(LOADING, "FRR is loaded", || {
            let mut ask = Command::new("vtysh");
            ask.args([
                "--vty_socket",
                &path(""),
                "-c",
                "show bgp ipv4 unicast summary json",
            ]);
            let answer = command::output(&mut ask).unwrap_or_default();
            let compact: String = answer.split_whitespace().collect();
            compact.contains(&format!("\"pfxRcd\":{count},"))
        })
    }

    /// All routes stand in its configuration.
    fn load_exabgp(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let file = bench.dir().join("exabgp.conf");
        let mut config = File::create(&file)?;
        let mut text = "neighbor 10.99.0.1 {\n router-id 10.99.0.2;\n local-address 10.99.0.2;\n \
                        local-as 65010;\n peer-as 65001;\n static {\n"
            .to_owned();
        for host in hosts(self.count) {
            let address = std::net::Ipv4Addr::from_bits(host);
            text.push_str("  route ");
            text.push_str(&address.to_string());
            text.push_str("/32 next-hop self;\n");
        }
        text.push_str(" }\n}\n");
        config.write_all(text.as_bytes())?;
        let arguments = [
            "exabgp.daemon.user=root".to_owned(),
            "exabgp.api.cli=false".to_owned(),
            "exabgp".to_owned(),
            file.display().to_string(),
        ];
        self.launch(bench, "env", &arguments)?;
        pause(Duration::from_secs(2));
        Ok(())
    }

    fn launch(&mut self, bench: &Bench, program: &str, arguments: &[String]) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(bench.dir().join("sender.log"))?;
        let child = bench
            .speaker
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

    /// Resident memory in KiB of the process that announces.
    pub(crate) fn memory(&self) -> Option<u64> {
        let pid = match (&self.ours, self.daemons.last()) {
            (Some(speaker), _) => u32::try_from(speaker.pid().as_raw()).ok()?,
            (None, Some(daemon)) => daemon.id(),
            (None, None) => return None,
        };
        resident(pid)
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Drop for Sender {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn hosts(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| 0x6440_0000 + index)
}

fn put(body: &mut Vec<u8>, host: u32) {
    body.push(32);
    body.extend_from_slice(&host.to_be_bytes());
}

/// Packed to the limit of a message.
fn updates(count: u32, asn: u16, next_hop: [u8; 4]) -> Vec<u8> {
    let [high, low] = asn.to_be_bytes();
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, high, low, 0x40, 3, 4];
    attributes.extend_from_slice(&next_hop);
    let all: Vec<u32> = hosts(count).collect();
    let fitting = (hand::MAX_LEN - 23 - attributes.len()) / 5;
    let mut bytes = Vec::new();
    for group in all.chunks(fitting) {
        let mut body = vec![0, 0, 0, 18];
        body.extend_from_slice(&attributes);
        for host in group {
            put(&mut body, *host);
        }
        bytes.extend(message(2, &body));
    }
    bytes
}

fn withdrawals(count: u32) -> Vec<u8> {
    let all: Vec<u32> = hosts(count).collect();
    let mut bytes = Vec::new();
    for group in all.chunks((hand::MAX_LEN - 23) / 5) {
        let mut routes = Vec::new();
        for host in group {
            put(&mut routes, *host);
        }
        let len = u16::try_from(routes.len()).unwrap_or(0).to_be_bytes();
        bytes.extend(message(2, &[&len[..], &routes, &[0, 0]].concat()));
    }
    bytes
}

pub(crate) fn set_as(open: &mut [u8], asn: u16) {
    if let Some(field) = open.get_mut(20..22) {
        field.copy_from_slice(&asn.to_be_bytes());
    }
}
