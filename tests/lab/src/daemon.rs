//! The real agent in a lab's node, with a BPF file system, a socket and a directory of its own.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    binaries::Binaries,
    command,
    documents::Documents,
    netns::{self, Ns},
    plan::{self, Dual, Family, ROUTER_UPLINK},
    wait,
    world::World,
};

/// How long the agent may take to be ready, to follow an edit, to end.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Where the directories of agents are.
const RUN_DIR: &str = "/run/kube-eip-lab";

/// How to start the agent.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// `--delivery`.
    pub delivery: &'static str,
    /// `--xdp-mode`.
    pub xdp_mode: &'static str,
    /// `--tc-mode`.
    pub tc_mode: &'static str,
    /// `--uplink`.
    pub uplink: &'static str,
    /// `--gateway-ip` of both families, if it is to be told.
    pub gateway: Option<Dual>,
    /// `--internal-net`.
    pub internal_nets: Vec<&'static str>,
    /// `--resync`: short, so that tests see repairs soon.
    pub resync: &'static str,
    /// Port of `--http`, on loopback.
    pub http_port: Option<u16>,
    /// Whatever else.
    pub more: Vec<String>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            delivery: "auto",
            xdp_mode: "auto",
            tc_mode: "auto",
            uplink: "up0",
            gateway: Some(ROUTER_UPLINK),
            internal_nets: vec![
                plan::POD_CIDR,
                plan::POD_CIDR6,
                plan::SERVICE_CIDR,
                plan::SERVICE_CIDR6,
                plan::MANAGEMENT_CIDR,
                plan::MANAGEMENT_CIDR6,
            ],
            resync: "1s",
            http_port: None,
            more: Vec::new(),
        }
    }
}

/// What `eipctl` said.
#[derive(Debug, Clone)]
pub struct CtlOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CtlOutput {
    /// The answer, when `-o json` was asked for.
    ///
    /// # Errors
    /// When `eipctl` failed or answered with something else.
    pub fn json(&self) -> anyhow::Result<Value> {
        ensure!(
            self.status.success(),
            "eipctl: {}: {}",
            self.status,
            self.stderr.trim()
        );
        serde_json::from_str(&self.stdout).context("read the answer of eipctl")
    }
}

/// A BPF file system of a lab's own; unmounted and removed when dropped.
#[derive(Debug)]
struct BpfFs {
    path: PathBuf,
    is_kept: bool,
}

impl BpfFs {
    fn mount(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path)?;
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount a BPF file system on {}", path.display()))?;
        Ok(Self {
            path,
            is_kept: false,
        })
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH)
        {
            eprintln!("lab: unmount {}: {error}", self.path.display());
        }
    }
}

/// The agent's directory: documents, socket, log, BPF file system.
#[derive(Debug)]
struct Home {
    dir: PathBuf,
    bpffs: BpfFs,
}

impl Home {
    fn create(dir: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(dir.join("source"))
            .with_context(|| format!("create {}", dir.display()))?;
        let bpffs = BpfFs::mount(dir.join("bpf"))?;
        Ok(Self { dir, bpffs })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.bpffs.is_kept {
            return;
        }
        // Unmounted here and not by its own drop, which comes after this and too late.
        let _ = umount2(&self.bpffs.path, MntFlags::MNT_DETACH);
        self.bpffs.is_kept = true;
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("lab: remove {}: {error}", self.dir.display());
        }
        // Succeeds for the last one only.
        let _ = fs::remove_dir(RUN_DIR);
    }
}

/// Removes directories and mounts of dead processes. Returns their paths.
#[must_use]
pub fn sweep() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(RUN_DIR) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            netns::owner_of(&name.to_string_lossy())
                .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        })
        .map(|entry| entry.path())
        .filter(|path| remove_home(path).is_ok())
        .collect()
}

/// Unmounts and removes an agent's directory.
///
/// # Errors
/// When something in it is still in use.
pub fn remove_home(dir: &Path) -> anyhow::Result<()> {
    // Not mounted is fine: the process may have died before or after.
    let _ = umount2(&dir.join("bpf"), MntFlags::MNT_DETACH);
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    let _ = fs::remove_dir(RUN_DIR);
    Ok(())
}

/// The directory of the standing lab.
#[must_use]
pub fn standing_home() -> PathBuf {
    Path::new(RUN_DIR).join("standing")
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The agent in a lab's node. Killed, with all it left, when dropped; a failing test sees its state.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    binaries: Binaries,
    options: DaemonOptions,
    node: Ns,
    home: Home,
    documents: Documents,
}

impl Daemon {
    /// Starts the agent with an empty directory and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the error carries its log.
    pub fn start(world: &World, options: DaemonOptions) -> anyhow::Result<Self> {
        let daemon = Self::prepare(world, options)?;
        daemon.launched()
    }

    /// As [`Daemon::start`], after writing documents: what stands there at its first reading.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(
        world: &World,
        options: DaemonOptions,
        write: impl FnOnce(&Documents) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let daemon = Self::prepare(world, options)?;
        write(&daemon.documents)?;
        daemon.launched()
    }

    /// Everything but the process: for a first start that is to be watched.
    ///
    /// # Errors
    /// When there is no program, or no BPF file system can be mounted.
    pub fn prepare(world: &World, options: DaemonOptions) -> anyhow::Result<Self> {
        Self::prepare_with(world, options, Binaries::find()?)
    }

    /// As [`Daemon::prepare`], with given programs.
    ///
    /// # Errors
    /// As [`Daemon::prepare`].
    pub fn prepare_with(
        world: &World,
        options: DaemonOptions,
        binaries: Binaries,
    ) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            let _ = sweep();
        }
        let name = format!("eip-{}-{number}", std::process::id());
        Self::prepare_in(world, options, Path::new(RUN_DIR).join(name), binaries)
    }

    /// As [`Daemon::prepare`], in a given directory with given programs.
    ///
    /// # Errors
    /// As [`Daemon::prepare`].
    pub fn prepare_in(
        world: &World,
        options: DaemonOptions,
        dir: PathBuf,
        binaries: Binaries,
    ) -> anyhow::Result<Self> {
        let home = Home::create(dir)?;
        let documents = Documents::new(home.dir.join("source"));
        let node = Ns::open(world.node.name())?;
        Ok(Self {
            child: None,
            binaries,
            options,
            node,
            home,
            documents,
        })
    }

    fn launched(mut self) -> anyhow::Result<Self> {
        self.launch()?;
        self.wait_ready()?;
        Ok(self)
    }

    /// The directory it reads.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// Its mount of the BPF file system.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.home.bpffs.path
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        let pins = self.bpffs().join("eip");
        [pins.join("maps").join(name), pins.join(name)]
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| pins.join(name))
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.dir.join("eip.sock")
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it logged since its directory was made, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.dir.join("agent.log")
    }

    /// The command line of the agent.
    #[must_use]
    pub fn command(&self) -> Command {
        let Self {
            options,
            home,
            binaries,
            ..
        } = self;
        let mut command = self.node.command(&binaries.daemon);
        command
            .arg("agent")
            .args(["--node-name", plan::NODE_NAME])
            .args(["--uplink", options.uplink])
            .args(["--eip-cidr", plan::EIP_CIDR])
            .args(["--eip-cidr", plan::EIP_CIDR6])
            .args(["--delivery", options.delivery])
            .args(["--xdp-mode", options.xdp_mode])
            .args(["--tc-mode", options.tc_mode])
            .args(["--resync", options.resync]);
        if let Some(gateway) = options.gateway {
            for family in Family::BOTH {
                let address = gateway.of(family).to_string();
                command.arg("--gateway-ip").arg(address);
            }
        }
        for net in &options.internal_nets {
            command.args(["--internal-net", net]);
        }
        let http = options
            .http_port
            .map_or("off".to_owned(), |port| format!("127.0.0.1:{port}"));
        command
            .args(["--http", &http])
            .arg("--source")
            .arg(format!("dir:{}", self.documents.dir().display()))
            .arg("--bpffs")
            .arg(&home.bpffs.path)
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(home.dir.join("state"))
            .args(["--log-level", "info,eip_daemon=debug"])
            .args(&options.more);
        command
    }

    /// Starts the process, without waiting for anything.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the agent runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let line = command::display(&command);
        self.child = Some(command.spawn().with_context(|| format!("start `{line}`"))?);
        Ok(())
    }

    /// Waits until the agent says that the node serves what it should.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the error carries its log.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.settle("the agent is ready and in sync", |daemon| {
            daemon
                .eipctl(&["status", "--check"])
                .is_ok_and(|output| output.status.success())
        })
    }

    /// Waits for a condition as long as the agent runs.
    ///
    /// # Errors
    /// When the agent ends or the time is up; the error carries the log.
    pub fn settle(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let mut ended = None;
        let result = wait::wait_until(PATIENCE, what, || {
            ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            ended.is_some() || condition(self)
        });
        if let Some(status) = ended {
            self.child = None;
            bail!(
                "the agent ended with {status} before this: {what}\n{}",
                self.log()
            );
        }
        result.with_context(|| format!("agent's log:\n{}", self.log()))
    }

    /// Asks the agent.
    ///
    /// # Errors
    /// When `eipctl` cannot be started at all; a failure of it is in the output.
    pub fn eipctl(&self, arguments: &[&str]) -> anyhow::Result<CtlOutput> {
        let output = Command::new(&self.binaries.eipctl)
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("start eipctl")?;
        Ok(CtlOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Asks the agent for JSON.
    ///
    /// # Errors
    /// When it does not answer with any.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        self.eipctl(&arguments)?.json()
    }

    /// Runs another verb of `eip-daemon` in the node: `check`, `cleanup`.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn run_verb(&self, arguments: &[&str]) -> anyhow::Result<CtlOutput> {
        let output = self
            .node
            .command(&self.binaries.daemon)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("start eip-daemon")?;
        Ok(CtlOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What `eipctl get` knows about a binding; `None` when it knows none.
    #[must_use]
    pub fn binding(&self, key: &str) -> Option<Value> {
        self.ask(&["get", key]).ok()
    }

    /// Waits until a binding is in a state (`programmed`, `waiting`, `refused`, ...).
    ///
    /// # Errors
    /// When it is not in time, or the agent ends.
    pub fn wait_state(&mut self, key: &str, state: &str) -> anyhow::Result<()> {
        self.settle(&format!("{key} is {state}"), |daemon| {
            daemon
                .binding(key)
                .is_some_and(|binding| binding["state"] == state)
        })
        .with_context(|| format!("last seen: {:?}", self.binding(key)))
    }

    /// Waits until a binding is served by a lane: it may begin with a humbler one while the VM's hardware
    /// address is not known yet.
    ///
    /// # Errors
    /// As [`Daemon::wait_state`].
    pub fn wait_delivery(&mut self, key: &str, delivery: &str) -> anyhow::Result<()> {
        self.settle(&format!("{key} is delivered by {delivery}"), |daemon| {
            daemon
                .binding(key)
                .is_some_and(|binding| binding["delivery"] == delivery)
        })
        .with_context(|| format!("last seen: {:?}", self.binding(key)))
    }

    /// Binds by document and waits until it works. The binding has the VM's name; one of an IPv6 address
    /// ends with `-v6`, so that a VM can have one of each family.
    ///
    /// # Errors
    /// As [`Daemon::wait_state`].
    pub fn serve(
        &mut self,
        guest: &plan::GuestPlan,
        eip: impl Into<IpAddr>,
    ) -> anyhow::Result<IpAddr> {
        let eip = eip.into();
        self.documents.put_vm(guest)?;
        let name = match eip {
            IpAddr::V4(_) => guest.name.to_owned(),
            IpAddr::V6(_) => format!("{}-v6", guest.name),
        };
        self.documents.put_binding(&name, eip, guest.name)?;
        self.wait_state(&eip.to_string(), "programmed")?;
        Ok(eip)
    }

    /// How often a reason was counted at a hook, over the whole node.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn count(&self, hook: &str, reason: &str) -> anyhow::Result<u64> {
        let answer = self.ask(&["drops", "--all"])?;
        let rows = answer["reasons"]
            .as_array()
            .context("an answer without reasons")?;
        Ok(rows
            .iter()
            .filter(|row| row["hook"] == hook && row["reason"] == reason)
            .filter_map(|row| row["packets"].as_u64())
            .sum())
    }

    /// Kills the process as a crash would. What it left in the kernel stays.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        child.kill().context("kill the agent")?;
        child.wait().context("wait for the killed agent")?;
        Ok(())
    }

    /// Asks the process to end and returns how it did.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("the agent does not run")?;
        let pid = i32::try_from(child.id()).map(Pid::from_raw)?;
        kill(pid, Signal::SIGTERM).context("send SIGTERM to the agent")?;
        let status = wait::wait_for(PATIENCE, "the agent ends on SIGTERM", || {
            child.try_wait().ok().flatten()
        });
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        status
    }

    /// Starts it again over what it left, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Changes how it is started next time.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut DaemonOptions)) {
        change(&mut self.options);
    }

    /// Leaves process, directory and mount standing when this value is dropped.
    pub fn keep(&mut self) {
        self.home.bpffs.is_kept = true;
        self.child = None;
    }

    /// Runs `bpftool` in the node.
    ///
    /// # Errors
    /// With what it said.
    pub fn bpftool(&self, line: &str) -> anyhow::Result<String> {
        self.node.sh(&format!("bpftool {line}"))
    }

    /// Every pin of the agent, relative to its mount. What the kernel itself puts into a new BPF file
    /// system is not among them.
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_files(self.bpffs(), self.bpffs(), &mut found);
        found.retain(|pin| !["maps.debug", "progs.debug"].contains(&pin.as_str()));
        found.sort();
        found
    }

    /// Everything that helps to understand a failure.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::from("==== the agent ====\n");
        for arguments in [&["status"][..], &["list"], &["drops", "--all"]] {
            if let Ok(output) = self.eipctl(arguments) {
                text += &[&output.stdout, &*output.stderr].concat();
            }
        }
        for name in [
            "EIP4_V1",
            "VM4_V1",
            "NETS4_V1",
            "FLOW4_V1",
            "EIP6_V1",
            "VM6_V1",
            "NETS6_V1",
            "FLOW6_V1",
            "UPLINKS_V1",
            "CONFIG_V1",
        ] {
            text += &self.node.report(&format!(
                "bpftool map dump pinned {}",
                self.map(name).display()
            ));
        }
        text += &[
            "pins: ",
            &self.pins().join(" "),
            "\n---- log ----\n",
            &self.log(),
        ]
        .concat();
        text
    }
}

fn collect_files(root: &Path, dir: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect_files(root, &path, found);
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.push(relative.display().to_string());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.dump());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _: io::Result<_> = child.wait();
        }
    }
}
