//! From evidence to findings. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Checkup, Evidence, Finding, forward::DroppingChain};
use crate::{
    config::NodeConfig,
    dataplane::features::{Device, Features, Support, Sysctl, UplinkFeatures},
    model::{DeliveryChoice, Link, NetworkView, TcMode, Vlan, XdpMode},
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
        forward,
        before_the_door,
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
    let families = Families::of(node);
    let needed = features.sysctls.iter();
    let needed = needed.filter(|setting| families.includes(setting.is_ipv6()));
    findings.extend(needed.map(sysctl));
    findings.extend(pod_mtu(node, view));
    findings.extend(
        features
            .devices
            .iter()
            .filter_map(|device| reverse_path(node, device)),
    );
    findings.extend(features.devices.iter().filter_map(proxy_arp));
    if families.has_v6 {
        let devices = features.devices.iter();
        findings.extend(devices.clone().filter_map(without_ipv6));
        findings.extend(devices.filter_map(|device| router_advertisements(node, view, device)));
    }
    findings.extend(cni_programs(before_the_door));
    findings.extend(stack_lane(node, forward.as_deref()));
    findings.extend(node.notices.iter().map(|notice| {
        Finding::advice(
            notice.flag,
            notice.text.clone(),
            "see `eip-daemon agent --help`",
        )
    }));
    Checkup { findings }
}

/// The families of the EIP ranges. Without any, nothing is known to be left out.
struct Families {
    has_v4: bool,
    has_v6: bool,
}

impl Families {
    fn of(node: &NodeConfig) -> Self {
        let ranges = || node.settings.eip_cidrs.iter();
        let has = |is_v4: bool| ranges().any(|range| range.addr().is_ipv4() == is_v4);
        let is_unknown = ranges().len() == 0;
        Self {
            has_v4: is_unknown || has(true),
            has_v6: is_unknown || has(false),
        }
    }

    const fn includes(&self, is_v6: bool) -> bool {
        if is_v6 { self.has_v6 } else { self.has_v4 }
    }
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
    let strips = features.map_or(Support::Unknown, |features| features.strips_vlan_tags);
    let mut findings = vec![link_state(&subject, link, view)];
    findings.push(match link.vlan {
        Some(_) if matches!(mode, XdpMode::Auto) => Finding::good(
            format!("{subject} XDP"),
            "generic: a VLAN interface has no other",
        ),
        _ => xdp(&subject, mode, native),
    });
    findings.extend(vlans_above(&subject, mode, strips, link, view));
    findings
}

/// XDP runs before VLAN interfaces get their frames. A tag that the driver has taken off is beside the frame then, and
/// a program cannot tell whose frame it is.
fn vlans_above(
    subject: &str,
    mode: XdpMode,
    strips: Support,
    link: &Link,
    view: &NetworkView,
) -> Option<Finding> {
    let is_above = |other: &&Link| other.vlan.is_some_and(|vlan| vlan.below == link.ifindex);
    let above: Vec<_> = view.links.values().filter(is_above).collect();
    let first = above.first()?;
    let others = match above.len() {
        1 => String::new(),
        number => format!(" and {} more", number - 1),
    };
    let subject = format!("{subject} VLANs");
    let name = &first.name;
    let may = match (mode, strips) {
        (XdpMode::Off, _) | (_, Support::No) => {
            let found = format!("{name}{others}: their frames are left to them");
            return Some(Finding::good(subject, found));
        }
        (_, Support::Yes) => "takes",
        (_, Support::Unknown) => "may take",
    };
    let found = format!(
        "{name}{others}; the card {may} tags off before XDP sees a frame: the lane xdp would serve elastic IPs to \
         every VLAN, and answers to packets too large for a VM would leave without their tag"
    );
    let cure = format!(
        "ethtool -K {} rx-vlan-hw-parse off rx-vlan-stag-hw-parse off, or --xdp-mode off",
        link.name
    );
    Some(Finding::advice(&subject, found, cure))
}

fn link_state(subject: &str, link: &Link, view: &NetworkView) -> Finding {
    let kind = match link.vlan {
        _ if link.kind.is_empty() => "hardware".to_owned(),
        Some(Vlan { below, id, .. }) => {
            let below = view.links.get(&below);
            format!("VLAN {id} of {}", below.map_or("?", |below| &below.name))
        }
        None => link.kind.clone(),
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
    if is_link_local(gateway) {
        let uplinks = node.settings.uplinks.join(", ");
        return Finding::good(subject, format!("link-local, so on the link of {uplinks}"));
    }
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

/// Every interface has a route to it, which tells nothing.
const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
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

/// Strict reverse path filtering is fine while what belongs together uses one uplink.
fn reverse_path(node: &NodeConfig, device: &Device) -> Option<Finding> {
    let subject = format!("rp_filter {}", device.name);
    match device.rp_filter? {
        0 => Some(Finding::good(subject, "0: off")),
        2 => Some(Finding::good(subject, "2: loose, any route back will do")),
        _ if node.settings.uplinks.len() < 2 => Some(Finding::good(
            subject,
            "1: strict, fine with one uplink: the agent's rules send elastic IPs back the way they came",
        )),
        _ => Some(Finding::advice(
            &subject,
            "1: strict; what comes in on another uplink than answers would leave by is dropped where the \
             kernel forwards it (lane stack, packets to pods, ICMP errors)",
            format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", device.name),
        )),
    }
}

fn proxy_arp(device: &Device) -> Option<Finding> {
    if device.proxy_arp != Some(true) {
        return None;
    }
    let subject = format!("proxy_arp {}", device.name);
    let cure = format!("sysctl -w net.ipv4.conf.{}.proxy_arp=0", device.name);
    let found = "1: the node answers ARP for every address it has a route to, elastic IPs of other nodes too";
    Some(Finding::advice(&subject, found, cure))
}

fn without_ipv6(device: &Device) -> Option<Finding> {
    if !device.is_without_ipv6 {
        return None;
    }
    let subject = format!("IPv6 on {}", device.name);
    let cure = format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=0", device.name);
    let found = "switched off: the node finds no router there, and no IPv6 elastic IP gets out";
    Some(Finding::missing(&subject, found, cure))
}

/// A node that forwards does not listen to routers unless it is told to (`accept_ra=2`).
fn router_advertisements(
    node: &NodeConfig,
    view: &NetworkView,
    device: &Device,
) -> Option<Finding> {
    let has_route = view
        .default_routes
        .iter()
        .any(|route| route.gateway.is_some_and(|gateway| gateway.is_ipv6()));
    if !device.is_deaf_when_forwarding || has_route || node.settings.gateway6.is_some() {
        return None;
    }
    let subject = format!("accept_ra {}", device.name);
    let cure = format!(
        "sysctl -w net.ipv6.conf.{}.accept_ra=2, or set --gateway-ip",
        device.name
    );
    let found =
        "1, and there is no IPv6 default route: a node that forwards ignores router advertisements";
    Some(Finding::advice(&subject, found, cure))
}

/// Ours run last on a VM's way out, so that a CNI sees the VM's own address.
fn cni_programs(before: &BTreeMap<String, Vec<String>>) -> Option<Finding> {
    let (interface, programs) = before.first_key_value()?;
    let others = match before.len() {
        1 => String::new(),
        number => format!(", and on {} more", number - 1),
    };
    let found = format!(
        "on {interface}{others} a VM's packets meet {} before the door",
        programs.join(", ")
    );
    let cure = "nothing, if it lets packets go on to the next program (TC_ACT_UNSPEC); where it ends the chain, door-out \
                counts nothing in `eipctl drops --all`, and packets leave without their elastic IP";
    Some(Finding::advice("programs of a CNI", found, cure))
}

/// What FORWARD chains do to elastic IPs, which matters in the lane `stack` alone.
fn stack_lane(node: &NodeConfig, forward: Option<&[DroppingChain]>) -> Option<Finding> {
    const SUBJECT: &str = "delivery stack";
    let is_stack = node.settings.delivery == DeliveryChoice::Stack;
    let ranges = &node.settings.eip_cidrs;
    let Some(chains) = forward else {
        let found = "packets of elastic IPs pass the FORWARD chain; neither nft nor iptables-legacy-save could be \
                     asked whether it drops them";
        return is_stack.then(|| Finding::advice(SUBJECT, found, accept(ranges.iter())));
    };
    let dropped = |range: &&IpNet| chains.iter().any(|chain| chain.drops(range));
    let dropped: Vec<_> = ranges.iter().filter(dropped).collect();
    if dropped.is_empty() {
        let found = "no FORWARD chain drops elastic IPs by its policy";
        return is_stack.then(|| Finding::good(SUBJECT, found));
    }
    let names = chains
        .iter()
        .filter(|chain| dropped.iter().any(|range| chain.drops(range)));
    let names: Vec<_> = names.map(|chain| chain.name.clone()).collect();
    let found = format!("{} drops elastic IPs", names.join(", "));
    let cure = accept(dropped.into_iter());
    Some(if is_stack {
        Finding::missing(SUBJECT, found, cure)
    } else {
        let found = format!("{found}; the lane in use does not pass it");
        Finding::good(SUBJECT, found)
    })
}

/// The rules, to be pasted once the devices are put in.
fn accept<'a>(ranges: impl Iterator<Item = &'a IpNet>) -> String {
    let rules = ranges.map(|range| {
        let tool = if range.addr().is_ipv4() { "iptables" } else { "ip6tables" };
        format!(
            "{tool} -I FORWARD -d {range} -o <VM device> -j ACCEPT; {tool} -I FORWARD -s {range} -i <VM device> -j ACCEPT"
        )
    });
    rules.collect::<Vec<_>>().join("; ")
}
