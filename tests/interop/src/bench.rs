//! Two namespaces, one wire, one directory.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use eip_lab::netns::{self, Ns};
use tempfile::TempDir;

/// What is between the router and the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// One wire.
    #[default]
    Wire,
    /// One wire without addresses but those of the link.
    Unnumbered,
    /// Another router: 10.98.0.1 -- 10.98.0.254, 10.99.0.254 -- 10.99.0.2.
    Hop,
    /// One wire each to two speakers; the second one has 10.99.1.1 -- 10.99.1.2.
    TwoSpeakers,
    /// One wire, and behind the speaker somebody who feeds it: 10.99.2.2 -- 10.99.2.9.
    Feeder,
}

/// Router and speaker, and what is between them.
#[derive(Debug)]
pub struct Bench {
    /// Where the router runs.
    pub router: Ns,
    /// Where the speaker runs.
    pub speaker: Ns,
    /// The router between, the second speaker, or the feeder.
    pub third: Option<Ns>,
    dir: TempDir,
}

impl Bench {
    /// Raises both namespaces and removes what killed runs have left.
    ///
    /// # Errors
    /// Without root.
    pub fn raise(shape: Shape) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let create = |role: &str| -> anyhow::Result<Ns> {
            let ns = Ns::create(&format!("bgp-{}-{number}-{role}", std::process::id()))?;
            ns.sysctl("ipv6/conf/all/accept_dad=0\nipv6/conf/default/accept_dad=0")?;
            Ok(ns)
        };
        let (router, speaker) = (create("r")?, create("s")?);
        let mut third = None;
        match shape {
            Shape::Wire => {
                wire(
                    "v0",
                    (&router, &["10.99.0.1/24", "fd99::1/64"]),
                    (&speaker, SPEAKER),
                )?;
            }
            Shape::Unnumbered => wire("v0", (&router, &[]), (&speaker, &[]))?,
            Shape::Hop => {
                let hop = create("h")?;
                hop.sysctl("ipv4/ip_forward=1")?;
                wire("v0", (&hop, &["10.99.0.254/24"]), (&speaker, SPEAKER))?;
                wire(
                    "v1",
                    (&hop, &["10.98.0.254/24"]),
                    (&router, &["10.98.0.1/24"]),
                )?;
                router.ip("route add default via 10.98.0.254\n")?;
                speaker.ip("route add default via 10.99.0.254\n")?;
                third = Some(hop);
            }
            Shape::Feeder => {
                let feeder = create("f")?;
                wire("v0", (&router, &["10.99.0.1/24"]), (&speaker, SPEAKER))?;
                wire(
                    "v1",
                    (&speaker, &["10.99.2.2/24"]),
                    (&feeder, &["10.99.2.9/24"]),
                )?;
                third = Some(feeder);
            }
            Shape::TwoSpeakers => {
                let second = create("t")?;
                wire(
                    "v0",
                    (&router, &["10.99.0.1/24", "fd99::1/64"]),
                    (&speaker, SPEAKER),
                )?;
                wire(
                    "v1",
                    (&router, &["10.99.1.1/24"]),
                    (&second, &["10.99.1.2/24"]),
                )?;
                third = Some(second);
            }
        }
        // Readable for the unprivileged user that FRR runs as.
        let dir = tempfile::Builder::new().prefix("bgp-interop-").tempdir()?;
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )?;
        Ok(Self {
            router,
            speaker,
            third,
            dir,
        })
    }

    /// Directory for configuration, sockets and logs; gone with the bench.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

const SPEAKER: &[&str] = &["10.99.0.2/24", "fd99::2/64"];

/// A wire with an interface of the same name at both ends.
fn wire(name: &str, left: (&Ns, &[&str]), right: (&Ns, &[&str])) -> anyhow::Result<()> {
    left.0.ip(&format!(
        "link add {name} type veth peer name {name} netns {}\n",
        right.0.name()
    ))?;
    for (ns, addresses) in [left, right] {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            ns.ip(&format!("addr add {address} dev {name}{nodad}\n"))?;
        }
        ns.ip(&format!("link set {name} up\n"))?;
    }
    Ok(())
}

/// Removes namespaces whose maker is dead.
fn sweep() {
    for name in netns::list("bgp-") {
        let owner = name
            .strip_prefix("bgp-")
            .and_then(|rest| rest.split('-').next());
        let is_orphan = owner
            .and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if is_orphan && let Err(error) = netns::remove(&name) {
            eprintln!("interop: {error:#}");
        }
    }
}
