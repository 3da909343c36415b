//! From evidence to findings. Pure.

use std::net::IpAddr;

use super::{Checkup, Evidence, Finding};
use crate::{
    config::NodeConfig,
    dataplane::features::{Features, Support, Sysctl, UplinkFeatures},
    model::{DeliveryChoice, Link, NetworkView, TcMode, XdpMode},
};

pub(super) fn gateways(node: &NodeConfig) -> impl Iterator<Item = IpAddr> {
    let v4 = node.settings.gateway4.map(IpAddr::from);
    v4.into_iter()
        .chain(node.settings.gateway6.map(IpAddr::from))
}

/// Turns evidence into findings.
#[must_use]
pub fn judge(node: &NodeConfig, evidence: &Evidence) -> Checkup {
    let Evidence {
        features,
        programs,
        view,
    } = evidence;
    let mut findings = vec![
        privileges(features),
        kernel(features),
        btf(features),
        bpffs(node, features),
        verifier(features, programs),
        tc(node.settings.tc_mode, features.tcx),
    ];
    for name in &node.settings.uplinks {
        let known = features
            .uplinks
            .iter()
            .find(|uplink| uplink.interface == *name);
        findings.extend(uplink(name, node.settings.xdp_mode, known, view));
    }
    findings.extend(gateways(node).map(|gateway| route_to(gateway, node, view)));
    findings.extend(features.sysctls.iter().map(sysctl));
    findings.extend(pod_mtu(node, view));
    findings.extend(stack_lane(node));
    findings.extend(node.notices.iter().map(|notice| {
        Finding::advice(
            notice.flag,
            notice.text.clone(),
            "see `eip-daemon agent --help`",
        )
    }));
    Checkup { findings }
}

fn privileges(features: &Features) -> Finding {
    if features.is_privileged {
        return Finding::good("privileges", "may load programs and change routes");
    }
    let cure = "run as root, or with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON";
    Finding::missing("privileges", "may not load programs or change routes", cure)
}

fn kernel(features: &Features) -> Finding {
    let release = features.kernel_release.clone();
    if features.is_kernel_supported {
        return Finding::good("kernel", release);
    }
    Finding::missing("kernel", release, "use a kernel from 5.10 on")
}

fn btf(features: &Features) -> Finding {
    if features.has_btf {
        return Finding::good("BTF", "/sys/kernel/btf/vmlinux");
    }
    let cure = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    Finding::missing("BTF", "the kernel does not describe its types", cure)
}

fn bpffs(node: &NodeConfig, features: &Features) -> Finding {
    let path = node.bpffs.display();
    if features.has_bpffs {
        return Finding::good("BPF file system", path.to_string());
    }
    let found = format!("none is mounted at {path}");
    Finding::missing("BPF file system", found, format!("mount -t bpf bpf {path}"))
}

fn verifier(features: &Features, programs: &Result<(), String>) -> Finding {
    match programs {
        Ok(()) => Finding::good("programs", "the kernel takes all of them"),
        Err(_) if !features.is_privileged => Finding::missing(
            "programs",
            "could not be tried",
            "run `eip-daemon check` as root",
        ),
        Err(error) => {
            let cure = "report this with the kernel's version: it should not happen";
            Finding::missing("programs", error.clone(), cure)
        }
    }
}

fn tc(mode: TcMode, tcx: Support) -> Finding {
    match (mode, tcx) {
        (TcMode::Clsact, _) => Finding::good("tc", "clsact, as asked for"),
        (_, Support::Yes) => Finding::good("tc", "tcx"),
        (TcMode::Tcx, Support::No) => {
            let cure = "use a kernel from 6.6 on, or --tc-mode auto";
            Finding::missing("tc", "this kernel has no tcx", cure)
        }
        (TcMode::Auto, Support::No) => Finding::good("tc", "clsact (tcx is there from 6.6 on)"),
        (TcMode::Auto | TcMode::Tcx, Support::Unknown) => {
            Finding::good("tc", "tcx or clsact: the kernel does not say which")
        }
    }
}

fn uplink(
    name: &str,
    mode: XdpMode,
    features: Option<&UplinkFeatures>,
    view: &NetworkView,
) -> Vec<Finding> {
    let subject = format!("uplink {name}");
    let Some(link) = view.links.values().find(|link| link.name == name) else {
        let cure = "name an interface that exists with --uplink; the agent waits for this one";
        return vec![Finding::missing(&subject, "no such interface", cure)];
    };
    let native = features.map_or(Support::Unknown, |features| features.native_xdp);
    vec![link_state(&subject, link), xdp(&subject, mode, native)]
}

fn link_state(subject: &str, link: &Link) -> Finding {
    let kind = if link.kind.is_empty() {
        "hardware"
    } else {
        &link.kind
    };
    let found = format!("{kind}, MTU {}", link.mtu);
    if link.is_up {
        return Finding::good(subject, format!("{found}, up"));
    }
    let cure = format!("ip link set {} up", link.name);
    Finding::missing(subject, format!("{found}, down"), cure)
}

fn xdp(subject: &str, mode: XdpMode, native: Support) -> Finding {
    let subject = format!("{subject} XDP");
    match (mode, native) {
        (XdpMode::Off, _) => Finding::good(subject, "off, as asked for"),
        (XdpMode::Generic, _) => Finding::good(subject, "generic, as asked for"),
        (_, Support::Yes) => Finding::good(subject, "native"),
        (XdpMode::Native, Support::No) => {
            let cure = "use --xdp-mode auto";
            Finding::missing(&subject, "the driver has no native XDP", cure)
        }
        (XdpMode::Auto, Support::No) => {
            let cure = "nothing has to be done; a driver with native XDP drops unwanted packets \
                        earlier";
            Finding::advice(&subject, "generic: the driver has no native XDP", cure)
        }
        (XdpMode::Auto | XdpMode::Native, Support::Unknown) => Finding::good(
            subject,
            "native or generic: the kernel does not say before it is tried",
        ),
    }
}

fn route_to(gateway: IpAddr, node: &NodeConfig, view: &NetworkView) -> Finding {
    let subject = format!("gateway {gateway}");
    let cure = "give the uplink an address in the gateway's network, or correct --gateway-ip";
    let Some(route) = view.routes.get(&gateway) else {
        return Finding::missing(&subject, "no route to it", cure);
    };
    let name = view
        .links
        .get(&route.ifindex)
        .map_or("?", |link| link.name.as_str());
    let is_uplink = node.settings.uplinks.iter().any(|uplink| uplink == name);
    match (route.is_unicast && route.gateway.is_none(), is_uplink) {
        (true, true) => Finding::good(subject, format!("directly on {name}")),
        (true, false) => {
            let found = format!("on {name}, which is no uplink");
            Finding::missing(&subject, found, format!("add --uplink {name}, or {cure}"))
        }
        (false, _) => Finding::missing(&subject, "behind another router, not on the link", cure),
    }
}

fn sysctl(setting: &Sysctl) -> Finding {
    let subject = format!("sysctl {}", setting.name);
    match (&setting.value, setting.is_right()) {
        (None, _) => Finding::good(subject, "not in this kernel"),
        (Some(value), true) => Finding::good(subject, value.clone()),
        (Some(value), false) => {
            let found = format!("{value}: {}", setting.why);
            let cure = format!("sysctl -w {}={}", setting.name, setting.wanted);
            Finding::advice(&subject, found, cure)
        }
    }
}

/// A packet that fits a VM's link but not the uplink costs an ICMP error, or a fragment.
fn pod_mtu(node: &NodeConfig, view: &NetworkView) -> Option<Finding> {
    let is_uplink = |link: &&Link| node.settings.uplinks.contains(&link.name);
    let uplink = view
        .links
        .values()
        .filter(is_uplink)
        .min_by_key(|link| link.mtu)?;
    let ports = view
        .links
        .values()
        .filter(|link| link.kind == "veth" && !is_uplink(link));
    let port = ports.max_by_key(|link| link.mtu)?;
    if uplink.mtu >= port.mtu {
        return Some(Finding::good(
            "MTU",
            "every uplink takes what the pods send",
        ));
    }
    let found = format!(
        "{} takes {}, {} sends up to {}",
        uplink.name, uplink.mtu, port.name, port.mtu
    );
    let cure = format!("ip link set {} mtu {}", uplink.name, port.mtu);
    Some(Finding::advice("MTU", found, cure))
}

fn stack_lane(node: &NodeConfig) -> Option<Finding> {
    if node.settings.delivery != DeliveryChoice::Stack {
        return None;
    }
    let cidrs = node
        .settings
        .eip_cidrs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let found = "packets of elastic IPs pass the FORWARD chain, whose policy may drop them";
    let cure = format!(
        "accept {} there, as source and as destination",
        cidrs.join(", ")
    );
    Some(Finding::advice("delivery stack", found, cure))
}
