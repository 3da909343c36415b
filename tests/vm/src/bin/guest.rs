//! What runs in the VM: a server that says whom it saw, and a client that does as it is told.
//!
//! One request a line on the second serial port, one answer each: `ok VALUE` or `error WHY`.
//!
//! - `udp ADDRESS SIZE`, `tcp ADDRESS`: the address the server saw.
//! - `ping ADDRESS SIZE`: who answered.
//! - `programs`: whether this kernel takes the programs of the agent.
//! - `upload ADDRESS BYTES`, `download ADDRESS BYTES`: the address the server saw; every byte is checked.
#![forbid(unsafe_code)]

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aya::{Ebpf, programs::Program};
use eip_lab::{
    echo::Echo,
    netns::Ns,
    traffic::{self, Bulk},
};
use eip_vm_tests::{PORT, PORT6, PROGRAMS};

/// A guest without KVM is slow.
const PATIENCE: Duration = Duration::from_secs(15);

fn main() -> anyhow::Result<()> {
    let ns = Ns::open("vm")?;
    let _servers = [
        Echo::start(&ns, Ipv4Addr::UNSPECIFIED, PORT)?,
        Echo::start(&ns, Ipv6Addr::UNSPECIFIED, PORT6)?,
    ];
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ttyS1")
        .context("open the control port")?;
    let mut answers = port.try_clone()?;
    writeln!(answers, "ok ready")?;
    for line in BufReader::new(port).lines() {
        match obey(&ns, &line?) {
            Ok(value) => writeln!(answers, "ok {value}")?,
            Err(error) => writeln!(
                answers,
                "error {}",
                format!("{error:#}").replace('\n', "; ")
            )?,
        }
    }
    Ok(())
}

/// Loads the agent's programs; says how many there are.
fn programs() -> anyhow::Result<String> {
    let mut ebpf = Ebpf::load_file(PROGRAMS)?;
    let mut count = 0;
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => bail!("{name} is of another kind"),
        };
        loaded.with_context(|| format!("load {name}"))?;
        count += 1;
    }
    Ok(count.to_string())
}

fn obey(ns: &Ns, line: &str) -> anyhow::Result<String> {
    if line == "programs" {
        return programs();
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, to, count] = words[..] else {
        bail!("`{line}` is no request");
    };
    let count: u64 = count.parse().context("read a count")?;
    let size = usize::try_from(count)?;
    if verb == "ping" {
        let to: IpAddr = to.parse().context("read an address")?;
        return Ok(traffic::ping(ns, to, size, PATIENCE)?.to_string());
    }
    let to = to.parse().context("read an address with its port")?;
    let answer = match verb {
        "udp" => traffic::udp(ns, to, size, PATIENCE)?,
        "tcp" => traffic::tcp(ns, to, PATIENCE)?,
        "upload" => traffic::bulk(ns, to, Bulk::Upload, count)?,
        "download" => traffic::bulk(ns, to, Bulk::Download, count)?,
        _ => bail!("`{verb}` is no request"),
    };
    Ok(answer.server_saw.ip().to_string())
}
