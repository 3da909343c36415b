//! Two namespaces, one wire, one directory.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use eip_lab::netns::{self, Ns};
use tempfile::TempDir;

/// Router and speaker, one hop apart.
#[derive(Debug)]
pub struct Bench {
    /// Where the router runs.
    pub router: Ns,
    /// Where the speaker runs.
    pub speaker: Ns,
    dir: TempDir,
}

impl Bench {
    /// Raises both namespaces and removes what killed runs have left.
    ///
    /// # Errors
    /// Without root.
    pub fn raise() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |role: &str| format!("bgp-{}-{number}-{role}", std::process::id());
        let router = Ns::create(&name("r"))?;
        let speaker = Ns::create(&name("s"))?;
        for ns in [&router, &speaker] {
            ns.sysctl("ipv6/conf/all/accept_dad=0\nipv6/conf/default/accept_dad=0")?;
        }
        router.ip(&format!(
            "link add v0 type veth peer name v0 netns {}\n",
            speaker.name()
        ))?;
        router.ip(
            "addr add 10.99.0.1/24 dev v0\naddr add fd99::1/64 dev v0 nodad\nlink set v0 up\n",
        )?;
        speaker.ip(
            "addr add 10.99.0.2/24 dev v0\naddr add fd99::2/64 dev v0 nodad\nlink set v0 up\n",
        )?;
        // Readable for the unprivileged user that FRR runs as.
        let dir = tempfile::Builder::new().prefix("bgp-interop-").tempdir()?;
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )?;
        Ok(Self {
            router,
            speaker,
            dir,
        })
    }

    /// Directory for configuration, sockets and logs; gone with the bench.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
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
