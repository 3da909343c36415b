//! What the verbs need of the machine: how to look, who needs it, and the cure.
//!
//! [`NEEDS`] is the one list; `doctor` shows it, and every verb has its part of it met or refused
//! before it starts.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    apt, cluster,
    command::{Line, find_program},
    setup,
    toolchain::{Compiler, Toolchain},
};

/// A verb, as far as its needs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Build,
    Check,
    TestUnit,
    TestBpf,
    TestE2e,
    TestOracle,
    TestVm,
    TestInterop,
    TestCluster,
    Lab,
    Demo,
    Bench,
    BenchBgp,
    Fuzz,
}

impl User {
    pub(crate) const ALL: [Self; 14] = [
        Self::Build,
        Self::Check,
        Self::TestUnit,
        Self::TestBpf,
        Self::TestE2e,
        Self::TestOracle,
        Self::TestVm,
        Self::TestInterop,
        Self::TestCluster,
        Self::Lab,
        Self::Demo,
        Self::Bench,
        Self::BenchBgp,
        Self::Fuzz,
    ];

    /// What to type for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Check => "check",
            Self::TestUnit => "test unit",
            Self::TestBpf => "test bpf",
            Self::TestE2e => "test e2e",
            Self::TestOracle => "test oracle",
            Self::TestVm => "test vm",
            Self::TestInterop => "test interop",
            Self::TestCluster => "test cluster",
            Self::Lab => "lab",
            Self::Demo => "demo",
            Self::Bench => "bench",
            Self::BenchBgp => "bench bgp",
            Self::Fuzz => "fuzz",
        }
    }
}

/// Who compiles.
const COMPILING: &[User] = &User::ALL;
/// Who loads programs into the kernel.
const LOADING: &[User] = &[
    User::TestBpf,
    User::TestE2e,
    User::TestOracle,
    User::TestVm,
    User::TestCluster,
    User::Lab,
    User::Demo,
    User::Bench,
];
/// Who needs root.
const PRIVILEGED: &[User] = &[
    User::TestBpf,
    User::TestE2e,
    User::TestOracle,
    User::TestVm,
    User::TestInterop,
    User::TestCluster,
    User::Lab,
    User::Demo,
    User::Bench,
];
/// Who raises namespaces with nodes in them.
const NETWORKING: &[User] = &[
    User::TestE2e,
    User::TestOracle,
    User::TestVm,
    User::TestCluster,
    User::Lab,
    User::Demo,
];
/// Who raises namespaces at all.
const NAMESPACES: &[User] = &[
    User::TestE2e,
    User::TestOracle,
    User::TestVm,
    User::TestInterop,
    User::TestCluster,
    User::Lab,
    User::Demo,
];
/// Who runs routers.
const ROUTING: &[User] = &[User::TestInterop];

/// Who puts a router beside the agent as well.
const ROUTERS: &[User] = &[User::TestInterop, User::TestE2e];
/// Who shows one.
const BESIDE_BIRD: &[User] = &[
    User::TestInterop,
    User::TestE2e,
    User::TestCluster,
    User::Demo,
];

/// Who meets the older agent: its callers, and what it leaves on a node.
const CALLING: &[User] = &[User::TestE2e];

/// Who runs the programs that people test a network with.
const TALKING: &[User] = &[User::TestOracle];
/// Who looks at the hops.
const TRACING: &[User] = &[User::TestOracle, User::TestE2e];
/// Who boots a VM.
const BOOTING: &[User] = &[User::TestVm];

/// Something the machine must have.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) users: &'static [User],
    /// The value is a detail for people; the error says what is missing.
    look: fn() -> Result<String, String>,
    cure: Cure,
}

/// What makes a missing thing be there.
#[derive(Debug)]
enum Cure {
    /// A Debian package brings it.
    Package(&'static str),
    /// A Debian package brings it, and a service with it that shall stay off.
    Daemon {
        package: &'static str,
        unit: &'static str,
    },
    /// rustup brings these components of the toolchain in use.
    Components,
    /// `cargo xtask setup` brings it.
    Setup,
    /// Built by `cargo xtask test cluster` itself, once.
    ApiServer,
    /// Somebody has to do this.
    Advice(&'static str),
}

/// Everything any verb needs.
pub(crate) static NEEDS: &[Need] = &[
    Need {
        name: "rust",
        users: COMPILING,
        look: rust,
        cure: Cure::Advice("rustup update stable (Rust 1.95 or later)"),
    },
    Need {
        name: "rustfmt, clippy",
        users: &[User::Check],
        look: rust_components,
        cure: Cure::Components,
    },
    Need {
        name: "eBPF toolchain",
        users: COMPILING,
        look: ebpf_toolchain,
        cure: Cure::Setup,
    },
    Need {
        name: "root",
        users: PRIVILEGED,
        look: root,
        cure: Cure::Advice(
            "run it as root, in a container with --privileged (CAP_SYS_ADMIN, CAP_NET_ADMIN, \
             CAP_BPF)",
        ),
    },
    Need {
        name: "kernel",
        users: LOADING,
        look: kernel,
        cure: Cure::Advice("use Linux 5.10 or later (tcx from 6.6, clsact before)"),
    },
    Need {
        name: "kernel BTF",
        users: LOADING,
        look: btf,
        cure: Cure::Advice("use a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
    },
    Need {
        name: "bpffs",
        users: LOADING,
        look: bpffs,
        cure: Cure::Advice("use a kernel built with CONFIG_BPF_SYSCALL=y"),
    },
    Need {
        name: "API server",
        users: &[User::TestCluster],
        look: || match cluster::find() {
            Ok(dir) => Ok(dir.display().to_string()),
            Err(error) => Err(error.to_string()),
        },
        cure: Cure::ApiServer,
    },
    Need {
        name: "openssl",
        users: &[User::TestCluster],
        look: || program("openssl"),
        cure: Cure::Package("openssl"),
    },
    Need {
        name: "libfaketime",
        users: &[User::TestCluster],
        look: || {
            let arch = std::env::consts::ARCH;
            file(&format!(
                "/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"
            ))
        },
        cure: Cure::Package("libfaketime"),
    },
    Need {
        name: "ip",
        users: NAMESPACES,
        look: || program("ip"),
        cure: Cure::Package("iproute2"),
    },
    Need {
        name: "nft",
        users: NAMESPACES,
        look: || program("nft"),
        cure: Cure::Package("nftables"),
    },
    Need {
        name: "bpftool",
        users: NETWORKING,
        look: || program("bpftool"),
        cure: Cure::Package("bpftool"),
    },
    Need {
        name: "tcpdump",
        users: NETWORKING,
        look: || program("tcpdump"),
        cure: Cure::Package("tcpdump"),
    },
    Need {
        name: "ethtool",
        users: NETWORKING,
        look: || program("ethtool"),
        cure: Cure::Package("ethtool"),
    },
    Need {
        name: "ping",
        users: NETWORKING,
        look: || program("ping"),
        cure: Cure::Package("iputils-ping"),
    },
    Need {
        name: "arping",
        users: NETWORKING,
        look: || program("arping"),
        cure: Cure::Package("iputils-arping"),
    },
    Need {
        name: "ndisc6",
        users: NETWORKING,
        look: || program("ndisc6"),
        cure: Cure::Package("ndisc6"),
    },
    Need {
        name: "sysctl",
        users: NETWORKING,
        look: || program("sysctl"),
        cure: Cure::Package("procps"),
    },
    Need {
        name: "C++ compiler",
        users: &[User::Fuzz],
        look: || program("c++"),
        cure: Cure::Package("g++"),
    },
    Need {
        name: "curl",
        users: TALKING,
        look: || program("curl"),
        cure: Cure::Package("curl"),
    },
    Need {
        name: "dig",
        users: TALKING,
        look: || program("dig"),
        cure: Cure::Package("bind9-dnsutils"),
    },
    Need {
        name: "iperf3",
        users: TALKING,
        look: || program("iperf3"),
        cure: Cure::Package("iperf3"),
    },
    Need {
        name: "traceroute",
        users: TRACING,
        look: || program("traceroute"),
        cure: Cure::Package("traceroute"),
    },
    Need {
        name: "mtr",
        users: TALKING,
        look: || program("mtr"),
        cure: Cure::Package("mtr-tiny"),
    },
    Need {
        name: "qemu",
        users: BOOTING,
        look: || program("qemu-system-x86_64"),
        cure: Cure::Package("qemu-system-x86"),
    },
    Need {
        name: "busybox",
        users: BOOTING,
        look: || program("busybox"),
        cure: Cure::Package("busybox-static"),
    },
    Need {
        name: "guest kernel",
        users: BOOTING,
        look: || program("apt-get"),
        cure: Cure::Advice(
            "use a Debian: the guest's kernel is a package of it, unpacked in the cache",
        ),
    },
    Need {
        name: "namespaces",
        users: NAMESPACES,
        look: || in_new_namespace("ip link add eip0 type veth peer name eip1"),
        cure: Cure::Advice("use a kernel with CONFIG_NET_NS=y and CONFIG_VETH (modprobe veth)"),
    },
    Need {
        name: "bridge",
        users: NETWORKING,
        look: || in_new_namespace("ip link add eip0 type bridge"),
        cure: Cure::Advice("use a kernel with CONFIG_BRIDGE (modprobe bridge)"),
    },
    Need {
        name: "nf_tables",
        users: NETWORKING,
        look: || {
            in_new_namespace(
                "nft add table ip eip && \
                 nft 'add chain ip eip c { type nat hook postrouting priority 100; }' && \
                 nft add rule ip eip c ct state new masquerade",
            )
        },
        cure: Cure::Advice("use a kernel with CONFIG_NF_TABLES, NFT_NAT, NFT_CT and NFT_MASQ"),
    },
    Need {
        name: "BIRD 2",
        users: BESIDE_BIRD,
        look: || program("bird"),
        cure: Cure::Daemon {
            package: "bird2",
            unit: "bird",
        },
    },
    Need {
        name: "FRR",
        users: ROUTERS,
        look: || file("/usr/lib/frr/bgpd"),
        cure: Cure::Daemon {
            package: "frr",
            unit: "frr",
        },
    },
    Need {
        name: "iptables",
        users: CALLING,
        look: || program("iptables-nft-save"),
        cure: Cure::Package("iptables"),
    },
    Need {
        name: "ipset",
        users: CALLING,
        look: || program("ipset"),
        cure: Cure::Package("ipset"),
    },
    Need {
        name: "sets in netfilter",
        users: CALLING,
        look: || {
            in_new_namespace(
                "ipset create eip hash:ip && iptables-nft -t nat -N EIP && \
                 iptables-nft -t nat -A EIP -m set --match-set eip src -j RETURN",
            )
        },
        cure: Cure::Advice("use a kernel with CONFIG_IP_SET_HASH_IP and CONFIG_NETFILTER_XT_SET"),
    },
    Need {
        name: "gRPC for Python",
        users: CALLING,
        look: || file("/usr/lib/python3/dist-packages/grpc/__init__.py"),
        cure: Cure::Package("python3-grpcio"),
    },
    Need {
        name: "GoBGP",
        users: ROUTING,
        look: || program("gobgpd"),
        cure: Cure::Daemon {
            package: "gobgpd",
            unit: "gobgpd",
        },
    },
    Need {
        name: "ExaBGP",
        users: &[User::BenchBgp],
        look: || program("exabgp"),
        cure: Cure::Daemon {
            package: "exabgp",
            unit: "exabgp",
        },
    },
    Need {
        name: "TCP MD5",
        users: ROUTING,
        look: tcp_md5,
        cure: Cure::Advice("use a kernel built with CONFIG_TCP_MD5SIG=y"),
    },
];

impl Need {
    /// Looks whether it is there.
    pub(crate) fn look(&self) -> Result<String, String> {
        (self.look)()
    }

    /// What to type or do when it is missing.
    pub(crate) fn cure(&self) -> String {
        match self.cure {
            Cure::Package(package) | Cure::Daemon { package, .. } => apt::advice(&[package]),
            Cure::Components => component_line().to_string(),
            Cure::Setup => "cargo xtask setup".to_owned(),
            Cure::ApiServer => format!(
                "cargo xtask test cluster (with Go 1.25 or later, or network), or set {}",
                cluster::VARIABLE
            ),
            Cure::Advice(advice) => advice.to_owned(),
        }
    }

    fn is_of(&self, users: &[User]) -> bool {
        self.users.iter().any(|user| users.contains(user))
    }
}

/// Has everything these verbs need be there: installs what it can, and refuses with the cures of
/// the rest.
pub(crate) fn require(users: &[User]) -> Result<()> {
    let missing = || {
        NEEDS
            .iter()
            .filter(|need| need.is_of(users) && need.look().is_err())
    };
    let first: Vec<&Need> = missing().collect();
    if first.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = first
        .iter()
        .filter_map(|need| match need.cure {
            Cure::Package(package) | Cure::Daemon { package, .. } => Some(package),
            Cure::Components | Cure::Setup | Cure::ApiServer | Cure::Advice(_) => None,
        })
        .collect();
    if !packages.is_empty() && apt::is_usable() {
        apt::install(&packages, "programs this verb runs, a few seconds")?;
        for need in &first {
            if let Cure::Daemon { unit, .. } = need.cure {
                apt::leave_off(unit)?;
            }
        }
    }
    if first
        .iter()
        .any(|need| matches!(need.cure, Cure::Components))
    {
        // If that cannot be, the list below says what is missing.
        let _added = component_line().run();
    }
    if first.iter().any(|need| matches!(need.cure, Cure::Setup)) {
        setup::ensure(false)?;
    }
    if first
        .iter()
        .any(|need| matches!(need.cure, Cure::ApiServer))
    {
        cluster::ensure()?;
    }
    let mut left = Vec::new();
    for need in missing() {
        if let Err(what) = need.look() {
            left.push(format!(
                "\n  {}: {what}\n    cure: {}",
                need.name,
                need.cure()
            ));
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks{}", left.concat());
}

fn rust() -> Result<String, String> {
    let compiler = Compiler::of(&Line::new("rustc").arg("-vV")).ok_or("rustc does not run")?;
    if compiler
        .version()
        .is_some_and(|version| version >= setup::OLDEST_RUST)
    {
        return Ok(compiler.release);
    }
    Err(format!("{} is too old", compiler.release))
}

fn component_line() -> Line {
    Line::new("rustup").args(["component", "add", "rustfmt", "clippy"])
}

fn rust_components() -> Result<String, String> {
    for component in ["fmt", "clippy"] {
        if Line::new("cargo")
            .args([component, "--version"])
            .probe()
            .is_none()
        {
            return Err(format!("cargo {component} does not run"));
        }
    }
    Ok("both run".to_owned())
}

fn ebpf_toolchain() -> Result<String, String> {
    Toolchain::require()
        .and_then(|toolchain| toolchain.describe())
        .map_err(|error| format!("{error:#}"))
}

fn program(name: &str) -> Result<String, String> {
    find_program(name)
        .map(|file| file.display().to_string())
        .ok_or_else(|| "not installed".to_owned())
}

fn file(path: &str) -> Result<String, String> {
    if Path::new(path).exists() {
        Ok(path.to_owned())
    } else {
        Err("not installed".to_owned())
    }
}

/// The kernel offers no other way to ask than to open a socket, which is the speaker's business;
/// its configuration says it where it is shown.
fn tcp_md5() -> Result<String, String> {
    let config = Line::new("sh")
        .args([
            "-c",
            "zcat /proc/config.gz || cat /boot/config-\"$(uname -r)\"",
        ])
        .probe();
    judge_tcp_md5(config.as_deref())
}

fn judge_tcp_md5(config: Option<&str>) -> Result<String, String> {
    match config {
        None => Ok("not known: the kernel does not show its configuration".to_owned()),
        Some(config) if config.lines().any(|line| line == "CONFIG_TCP_MD5SIG=y") => {
            Ok("yes".to_owned())
        }
        Some(_) => Err("the kernel has none".to_owned()),
    }
}

/// Capabilities that loading programs and raising namespaces takes, by bit.
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

fn root() -> Result<String, String> {
    if !apt::is_root() {
        return Err("not root".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match missing_capabilities(&status).as_slice() {
        [] => Ok("yes, with its capabilities".to_owned()),
        missing => Err(format!("root without {}", missing.join(", "))),
    }
}

/// Reads `/proc/PID/status`.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let is_missing = |bit: u32| set & (1 << bit) == 0;
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| is_missing(*bit))
        .map(|(_, name)| *name)
        .collect()
}

fn kernel() -> Result<String, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_kernel(release.trim())
}

fn judge_kernel(release: &str) -> Result<String, String> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(format!("cannot tell the version of `{release}`"));
    };
    match (major, minor) {
        (6, 6..) | (7.., _) => Ok(format!("{release}, has tcx")),
        (5, 10..) | (6, _) => Ok(format!("{release}, clsact in place of tcx")),
        _ => Err(format!("{release} is too old")),
    }
}

fn btf() -> Result<String, String> {
    let file = "/sys/kernel/btf/vmlinux";
    if Path::new(file).exists() {
        Ok(file.to_owned())
    } else {
        Err(format!("no {file}"))
    }
}

fn bpffs() -> Result<String, String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if let Some(dir) = mount_of("bpf", &mounts) {
        return Ok(format!("mounted on {dir}"));
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("bpf"))
    {
        return Ok("can be mounted".to_owned());
    }
    Err("the kernel has no bpf file system".to_owned())
}

/// Where a file system of a type is mounted, by `/proc/mounts`.
fn mount_of<'a>(kind: &str, mounts: &'a str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, dir, its_kind) = (fields.next()?, fields.next()?, fields.next()?);
        (its_kind == kind).then_some(dir)
    })
}

/// Tries it for real, in a network namespace that goes with the process.
fn in_new_namespace(script: &str) -> Result<String, String> {
    if !apt::is_root() {
        return Err("needs root to look".to_owned());
    }
    let path = "PATH=$PATH:/usr/sbin:/sbin; ";
    match Line::new("unshare")
        .args(["--net", "sh", "-c", &format!("{path}{script}")])
        .probe()
    {
        Some(_) => Ok("works".to_owned()),
        None => Err("the kernel refuses".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{NEEDS, judge_kernel, judge_tcp_md5, missing_capabilities, mount_of};

    #[test]
    fn kernels_are_judged_by_what_they_can_attach() {
        for (release, verdict) in [
            ("5.10.0-32-cloud-amd64", "clsact"),
            ("6.1.0-28-amd64", "clsact"),
            ("6.6.1", "has tcx"),
            ("6.18.44-x", "has tcx"),
            ("7.0.0", "has tcx"),
        ] {
            assert!(
                judge_kernel(release).unwrap().contains(verdict),
                "{release}"
            );
        }
        for release in ["5.4.0", "4.19.1", "", "what"] {
            assert!(judge_kernel(release).is_err(), "{release}");
        }
    }

    #[test]
    fn root_of_a_container_lacks_capabilities() {
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        let docker = missing_capabilities("CapEff:\t00000000a80425fb\n");
        assert_eq!(docker, ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }

    #[test]
    fn a_kernel_that_shows_nothing_is_not_said_to_lack_tcp_md5() {
        assert!(judge_tcp_md5(Some("CONFIG_TCP_MD5SIG=y\n")).is_ok());
        assert!(judge_tcp_md5(Some("# CONFIG_TCP_MD5SIG is not set\n")).is_err());
        assert!(judge_tcp_md5(None).is_ok());
    }

    #[test]
    fn mount_is_found_by_type_and_not_by_device() {
        let mounts = "bpf /elsewhere tmpfs rw 0 0\nnone /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(mount_of("bpf", mounts), Some("/sys/fs/bpf"));
        assert_eq!(mount_of("bpf", ""), None);
    }

    #[test]
    fn every_need_has_a_name_of_its_own_and_a_user() {
        let names: BTreeSet<_> = NEEDS.iter().map(|need| need.name).collect();
        assert_eq!(names.len(), NEEDS.len());
        assert!(
            NEEDS
                .iter()
                .all(|need| !need.users.is_empty() && !need.cure().is_empty())
        );
    }
}
