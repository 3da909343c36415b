//! `cargo xtask lab up|down|status`: one standing lab to explore by hand, also what `cargo xtask
//! demo --keep` leaves behind.
//!
//! Its state is what stands: namespaces `eip-lab-*` and the agent's directory. No file describes it
//! that could be wrong.

use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::{
    binaries::Binaries,
    command,
    daemon::{self, Daemon, DaemonOptions},
    netns::{self, Ns},
    plan::{self, CLIENT, VM1, VM2, eip},
    world::{World, WorldOptions},
};

/// Beginning of the names of its namespaces.
pub(crate) const PREFIX: &str = "eip-lab-";

/// Raises the standing lab with the daemon in it, or leaves it alone when it stands already.
/// Returns what to tell the user: where things are and what to try.
///
/// # Errors
/// When a namespace, a firewall or the daemon cannot be set up; nothing is left behind then.
pub fn up(binaries: &Binaries) -> anyhow::Result<String> {
    if is_whole() {
        return status();
    }
    down().context("remove what is left of an older lab")?;
    let (mut world, mut agent) = raise(binaries)?;
    agent.serve(&VM1, eip::VM1.v4)?;
    agent.documents().put_vm(&VM2)?;
    // By command and not by document, so that it can be released by command.
    let output = agent.eipctl(&["bind", &eip::VM2.v4.to_string(), VM2.name])?;
    ensure!(
        output.status.success(),
        "eipctl bind: {}",
        output.stderr.trim()
    );
    agent.keep();
    world.keep();
    Ok(format!("{}\n{}", picture(), commands(binaries)))
}

/// The standing world with an agent that serves nothing yet.
pub(crate) fn raise(binaries: &Binaries) -> anyhow::Result<(World, Daemon)> {
    let world = World::named(PREFIX, WorldOptions::default())?;
    let dir = daemon::standing_home();
    let mut agent = Daemon::prepare_in(&world, DaemonOptions::default(), dir, binaries.clone())?;
    agent.restart()?;
    Ok((world, agent))
}

/// Removes the standing lab and what killed runs left behind. Says what was removed.
///
/// # Errors
/// When something refuses to go away; the error says what.
pub fn down() -> anyhow::Result<String> {
    let mut removed = Vec::new();
    for name in netns::list(PREFIX) {
        // The agent runs in one of them and ends with it.
        netns::remove(&name)?;
        removed.push(name);
    }
    let home = daemon::standing_home();
    if home.exists() {
        daemon::remove_home(&home)?;
        removed.push(home.display().to_string());
    }
    removed.extend(netns::sweep());
    removed.extend(
        daemon::sweep()
            .iter()
            .map(|path| path.display().to_string()),
    );
    if removed.is_empty() {
        return Ok("nothing to remove\n".to_owned());
    }
    Ok(format!("removed {}\n", removed.join("\nremoved ")))
}

/// Describes the standing lab: namespaces, addresses, daemon, commands to try.
///
/// # Errors
/// When its state cannot be read.
pub fn status() -> anyhow::Result<String> {
    let names = netns::list(PREFIX);
    if names.is_empty() {
        return Ok("no lab stands; `cargo xtask lab up` raises one\n".to_owned());
    }
    let binaries = Binaries::find()?;
    let agent = match agent_process()? {
        Some(pid) => format!("the agent runs as process {pid}\n"),
        None => "the agent does not run: `cargo xtask lab down`, then `up`\n".to_owned(),
    };
    let list = command::report(
        Command::new(&binaries.eipctl)
            .arg("--socket")
            .arg(socket())
            .arg("list"),
    );
    Ok(format!(
        "{}\nnamespaces: {}\n{agent}\n{list}\n{}",
        picture(),
        names.join(" "),
        commands(&binaries)
    ))
}

fn socket() -> std::path::PathBuf {
    daemon::standing_home().join("eip.sock")
}

/// Every namespace is there, and the agent runs.
fn is_whole() -> bool {
    World::open(PREFIX, WorldOptions::default()).is_ok()
        && agent_process().is_ok_and(|process| process.is_some())
}

fn agent_process() -> anyhow::Result<Option<i32>> {
    let node = format!("{PREFIX}hv");
    if !netns::list(PREFIX).contains(&node) {
        return Ok(None);
    }
    Ok(Ns::open(&node)?.processes().first().map(|pid| pid.as_raw()))
}

/// The lab, drawn.
pub(crate) fn picture() -> String {
    format!(
        "  client ────────── router ─────────────────── node                       elastic IP
  {client:<18}│ {cidr:<25}│ up0 {up}
                    │ via {up:<21}├─ cali1 ─ vm1 {vm1}  {eip1}
                    │                          │    a routed veth, as with Calico
                    └── management network ────┤ mg0 {mg}
                                               └─ cni0 ┬─ veth2 ─ vm2 {vm2}  {eip2}
                                                       │  a bridge, as with flannel
                                                       └─ veth4 ─ pod2; pod1 is on cali2

  The node drops whatever its firewall does not know (FORWARD policy drop, INVALID drop), hides
  pods behind its own address, checks sources strictly, and its default route leads out of mg0.
",
        client = CLIENT.v4,
        cidr = plan::EIP_CIDR,
        up = plan::NODE_UPLINK.v4,
        mg = plan::NODE_MANAGEMENT.v4,
        vm1 = VM1.address.v4,
        vm2 = VM2.address.v4,
        eip1 = eip::VM1.v4,
        eip2 = eip::VM2.v4,
    )
}

/// What to try, ready to be pasted.
pub(crate) fn commands(binaries: &Binaries) -> String {
    let home = daemon::standing_home();
    let inside = |role: &str| format!("nsenter --net=/run/netns/{PREFIX}{role}");
    format!(
        "\
Try:
  alias eipctl='{eipctl} --socket {socket}'

  {client} ping -c 3 {eip1}     # the client reaches vm1
  {vm1} ping -c 3 {client_address}         # vm1 leaves with its elastic IP ...
  {router} tcpdump -ni ru0 icmp     # ... as seen here
  {node} ip rule
  {node} nft list ruleset
  bpftool map dump pinned {home}/bpf/eip/maps/EIP4_V1
  eipctl status
  eipctl get {eip1}
  eipctl drops --all
  eipctl unbind {eip2}; eipctl bind {eip2} vm2

Edit the documents in {home}/source and watch {home}/agent.log.
Kill the agent with -9 while pings run: none is lost.
Remove everything: cargo xtask lab down
",
        eipctl = binaries.eipctl.display(),
        socket = socket().display(),
        client = inside("client"),
        vm1 = inside("vm1"),
        router = inside("router"),
        node = inside("hv"),
        eip1 = eip::VM1.v4,
        eip2 = eip::VM2.v4,
        client_address = CLIENT.v4,
        home = home.display(),
    )
}
