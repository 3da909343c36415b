//! What this kernel and these drivers can do. Reads only: sysctls are never set here, and no program
//! is attached to find out.

use std::{fs, path::Path};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::{sys::utsname::uname, unistd::geteuid};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    bpf::is_bpffs,
    maps::root_os_error,
    netlink::{Generic, RouteClient, XdpFeatures, links},
};

/// The oldest kernel whose helpers the programs use (`bpf_redirect_peer`, `bpf_redirect_neigh`).
const OLDEST_KERNEL: (u32, u32) = (5, 10);
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Capabilities by number: `CAP_NET_ADMIN`, and `CAP_BPF` or the older `CAP_SYS_ADMIN`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Whether something is there. `Unknown` where the kernel offers no way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// This kernel cannot be asked.
    Unknown,
}

impl From<bool> for Support {
    fn from(is_there: bool) -> Self {
        if is_there { Self::Yes } else { Self::No }
    }
}

/// A setting of the kernel that matters here, as it is and as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Name, as `sysctl` takes it.
    pub name: String,
    /// Present value; `None` where the kernel has no such setting.
    pub value: Option<String>,
    /// The value it should have.
    pub wanted: &'static str,
    /// What goes wrong otherwise.
    pub why: &'static str,
}

impl Sysctl {
    /// It is about IPv6, and not about IPv4.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.name.starts_with("net.ipv6.")
    }

    /// It is as it should be, or this kernel has no such setting.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.value
            .as_deref()
            .is_none_or(|value| value == self.wanted)
    }
}

/// What was found out about one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkFeatures {
    /// Name.
    pub interface: String,
    /// Such an interface exists.
    pub exists: bool,
    /// Its driver runs XDP programs.
    pub native_xdp: Support,
    /// Its driver takes VLAN tags off frames, so that XDP does not see them.
    pub strips_vlan_tags: Support,
}

/// Settings of one interface that decide about packets of elastic IPs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Reverse path filter in force: 0 off, 1 strict, 2 loose; `None` where there is none.
    pub rp_filter: Option<u8>,
    /// Whether it answers ARP for others.
    pub proxy_arp: Option<bool>,
    /// IPv6 is switched off on it.
    pub is_without_ipv6: bool,
    /// It takes a default route from router advertisements only while the node does not forward.
    pub is_deaf_when_forwarding: bool,
}

/// The findings.
#[expect(
    clippy::struct_excessive_bools,
    reason = "answers to independent questions"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub kernel_release: String,
    /// Old enough kernels cannot run the programs at all.
    pub is_kernel_supported: bool,
    /// The effective user may load programs and change routes.
    pub is_privileged: bool,
    /// `/sys/kernel/btf/vmlinux` is there. Not needed; `bpftool` shows more with it.
    pub has_btf: bool,
    /// A BPF file system is mounted at the configured place.
    pub has_bpffs: bool,
    /// tcx links (kernel 6.6).
    pub tcx: Support,
    /// Uplinks, in the order asked.
    pub uplinks: Vec<UplinkFeatures>,
    /// Settings that matter.
    pub sysctls: Vec<Sysctl>,
    /// The uplinks' own settings.
    pub devices: Vec<Device>,
}

/// Looks at the running kernel. Has to be called inside a tokio runtime.
pub async fn probe(bpffs: &Path, uplinks: &[String]) -> Features {
    let kernel_release = uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Features {
        is_kernel_supported: is_supported(&kernel_release),
        kernel_release,
        is_privileged: is_privileged(),
        has_btf: Path::new(VMLINUX_BTF).exists(),
        has_bpffs: is_bpffs(bpffs),
        tcx: probe_tcx(),
        uplinks: probe_uplinks(uplinks).await,
        sysctls: read_sysctls(),
        devices: uplinks.iter().map(|name| device(name)).collect(),
    }
}

/// Asks for the programs at a hook of the loopback interface, which every namespace has: a kernel
/// without tcx does not know the question.
fn probe_tcx() -> Support {
    use nix::libc::{EINVAL, EOPNOTSUPP};
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Support::Yes,
        Err(error) => match root_os_error(&error) {
            Some(EINVAL | EOPNOTSUPP) => Support::No,
            _ => Support::Unknown,
        },
    }
}

async fn probe_uplinks(names: &[String]) -> Vec<UplinkFeatures> {
    let interfaces = links::list(&RouteClient::new(NETLINK_ROUTE))
        .await
        .unwrap_or_default();
    let generic = Generic::new();
    let features = generic.xdp_features().await.ok().flatten();
    let mut uplinks = Vec::new();
    for name in names {
        let found = interfaces
            .values()
            .find(|interface| interface.link.name == *name);
        let strips_vlan_tags = match found {
            Some(found) => generic.strips_vlan_tags(found.link.ifindex).await,
            None => Ok(None),
        };
        uplinks.push(UplinkFeatures {
            interface: name.clone(),
            exists: found.is_some(),
            native_xdp: found.map_or(Support::Unknown, |interface| {
                native_xdp(features.as_ref(), interface.link.ifindex)
            }),
            strips_vlan_tags: strips_vlan_tags
                .ok()
                .flatten()
                .map_or(Support::Unknown, Support::from),
        });
    }
    uplinks
}

fn native_xdp(features: Option<&XdpFeatures>, ifindex: u32) -> Support {
    features.map_or(Support::Unknown, |features| {
        Support::from(features.is_native(ifindex))
    })
}

fn is_supported(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || {
        numbers
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    (next(), next()) >= OLDEST_KERNEL
}

fn is_privileged() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status).map_or_else(
        || geteuid().is_root(),
        |capabilities| {
            let has = |capability: u32| capabilities & (1 << capability) != 0;
            has(CAP_NET_ADMIN) && (has(CAP_BPF) || has(CAP_SYS_ADMIN))
        },
    )
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Name, value it should have, and what goes wrong otherwise.
const SYSCTLS: [(&str, &str, &str); 4] = [
    (
        "net.ipv4.ip_forward",
        "1",
        "the node does not forward IPv4: the stack lane does not work, and no ICMP errors are sent",
    ),
    (
        "net.ipv6.conf.all.forwarding",
        "1",
        "the node does not forward IPv6: the stack lane does not work, and no ICMP errors are sent",
    ),
    (
        "net.ipv4.icmp_errors_use_inbound_ifaddr",
        "1",
        "ICMP errors about elastic IPs carry an address the outside may not accept",
    ),
    (
        "net.ipv4.conf.all.send_redirects",
        "0",
        "the node tells VMs to send traffic for elastic IPs elsewhere",
    ),
];

fn read_sysctls() -> Vec<Sysctl> {
    SYSCTLS
        .into_iter()
        .map(|(name, wanted, why)| Sysctl {
            name: name.to_owned(),
            value: read_sysctl(name),
            wanted,
            why,
        })
        .collect()
}

/// The kernel takes the larger of what is set for all and for the interface.
fn device(name: &str) -> Device {
    let read_of = |family: &str, of: &str, key: &str| {
        let conf = Path::new("/proc/sys/net").join(family).join("conf");
        let text = fs::read_to_string(conf.join(of).join(key)).ok()?;
        text.trim().parse::<u8>().ok()
    };
    let read = |of: &str, key: &str| read_of("ipv4", of, key);
    let either = |key: &str| read(name, key).map(|own| own.max(read("all", key).unwrap_or(0)));
    let read6 = |key: &str| read_of("ipv6", name, key);
    Device {
        name: name.to_owned(),
        rp_filter: either("rp_filter"),
        proxy_arp: either("proxy_arp").map(|value| value != 0),
        is_without_ipv6: read6("disable_ipv6") == Some(1),
        is_deaf_when_forwarding: read6("accept_ra") == Some(1),
    }
}

fn read_sysctl(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let value = fs::read_to_string(path).ok()?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Sysctl, effective_capabilities, is_supported};

    #[test]
    fn kernels_are_judged_by_their_release() {
        for release in ["5.10.0-33-amd64", "6.1.0", "6.18.44-fc", "10.0"] {
            assert!(is_supported(release), "{release}");
        }
        for release in ["5.9.16", "4.19.0", "", "unknown"] {
            assert!(!is_supported(release), "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000201000\n";
        assert_eq!(effective_capabilities(status), Some(0x20_1000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn a_setting_the_kernel_does_not_have_is_right() {
        let mut sysctl = Sysctl {
            name: "x".to_owned(),
            value: None,
            wanted: "1",
            why: "",
        };
        assert!(sysctl.is_right());
        sysctl.value = Some("0".to_owned());
        assert!(!sysctl.is_right());
    }
}
