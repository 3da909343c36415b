//! One function per kind of value: text in, value or "what is wrong and what would be right" out.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::SourceSpec;
use crate::model::DefaultRoute;

/// Linux keeps interface names in 16 bytes with the final zero.
const INTERFACE_NAME_MAX: usize = 15;

pub(super) fn node_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("the node has no host name: say which name VMs' objects use for it".into());
    }
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    if name.len() > 253 || !name.bytes().all(is_name_byte) {
        return Err(format!(
            "{name:?} is no node name: letters, digits, '-' and '.' only"
        ));
    }
    Ok(name.to_owned())
}

pub(super) fn interface(name: &str) -> Result<String, String> {
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.len() > INTERFACE_NAME_MAX || name == "." || name == ".." || name.contains(is_bad) {
        let rule = "at most 15 bytes without '/', ':' or blanks, as `ip link` shows it";
        return Err(format!("{name:?} is no interface name: {rule}"));
    }
    if name == "lo" {
        return Err("lo leads to no router: name the interface toward the network".into());
    }
    Ok(name.to_owned())
}

pub(super) fn gateway(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!("{text:?} is no IP address: write the router's address without a prefix length")
    })?;
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_broadcast {
        return Err(format!("{ip} can be no router: name a unicast address"));
    }
    Ok(ip)
}

/// A prefix as the operator must have meant it: a slipped digit must not become another network.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let host = IpNet::from(ip);
        return Err(format!(
            "{ip} has no prefix length: write {host} for this address alone"
        ));
    }
    let net: IpNet = text.parse().map_err(|_| {
        format!("{text:?} is no prefix: write for example 203.0.113.0/24 or 2001:db8:1::/64")
    })?;
    let whole = net.trunc();
    if whole != net {
        let host = IpNet::from(net.addr());
        return Err(format!(
            "{net} has bits set behind its prefix length: write {whole}, or {host} for that \
             address alone"
        ));
    }
    usable_network(net)
}

fn usable_network(net: IpNet) -> Result<IpNet, String> {
    let ip = net.network();
    if net.prefix_len() == 0 {
        return Err(format!(
            "{net} is every address there is: name the networks one by one"
        ));
    }
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_multicast() || ip.is_loopback() || ip.is_unspecified() || is_link_local {
        return Err(format!("{net} holds no addresses that could be routed to"));
    }
    Ok(net)
}

pub(super) fn without_networks(flag: &str) -> &'static str {
    match flag {
        "--eip-cidr" => "none given: every binding is refused until one is",
        _ => "none given: VMs with an elastic IP reach pods, services and nodes with it, too",
    }
}

/// RFC 7607 and RFC 6793: 0 and 23456 are nobody's.
pub(super) fn asn(asn: u32) -> Result<u32, String> {
    match asn {
        0 | 23456 => Err(format!("{asn} is a reserved AS: name your own")),
        _ => Ok(asn),
    }
}

pub(super) fn router_id(text: &str) -> Result<Ipv4Addr, String> {
    let id: Option<Ipv4Addr> = text.parse().ok();
    id.filter(|id| !id.is_unspecified())
        .ok_or_else(|| format!("{text:?} is no router id: write an IPv4 address"))
}

/// Twelve bits of seconds (RFC 4724 §3).
pub(super) fn restart_time(text: &str) -> Result<Duration, String> {
    let time = duration(text.trim());
    let time = time.filter(|time| time.subsec_nanos() == 0 && time.as_secs() <= 4095);
    time.ok_or_else(|| format!("{text:?} does not work: write whole seconds up to 4095s"))
}

pub(super) fn route_table(table: u32) -> Result<u32, String> {
    match table {
        0 | 253..=255 => Err(format!(
            "{table} is a table of the kernel's own: choose another"
        )),
        _ => Ok(table),
    }
}

pub(super) fn source(text: Option<&str>) -> Result<SourceSpec, String> {
    const RIGHT: &str =
        "write dir:/etc/kube-eip, the directory with your bindings and VMs, or kube";
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Err(format!("not given: {RIGHT}"));
    };
    if text == "kube" {
        return Ok(SourceSpec::Kube(None));
    }
    let (kind, path) = match text.split_once(':') {
        Some((kind @ ("dir" | "kube"), path)) => (kind, PathBuf::from(path)),
        _ => return Err(format!("{text:?} is no source this version knows: {RIGHT}")),
    };
    if !path.is_absolute() {
        return Err(format!("{text:?} has no absolute path: {RIGHT}"));
    }
    Ok(match kind {
        "dir" => SourceSpec::Dir(path),
        _ => SourceSpec::Kube(Some(path)),
    })
}

/// How long a Lease is valid. Shorter ones would change hands whenever a machine is busy.
pub(super) fn lease(text: &str) -> Result<Duration, String> {
    const RIGHT: &str = "write a duration from 3s to 10m, such as 15s";
    let limits = Duration::from_secs(3)..=Duration::from_mins(10);
    duration(text.trim())
        .filter(|duration| limits.contains(duration))
        .ok_or_else(|| format!("{text:?} does not work: {RIGHT}"))
}

pub(super) fn http(text: &str) -> Result<Option<SocketAddr>, String> {
    match text.trim() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("{text:?} is no address with a port: write 127.0.0.1:9469, [::1]:9469 or off")
        }),
    }
}

pub(super) fn resync(text: &str) -> Result<Duration, String> {
    const RIGHT: &str = "write a duration from 500ms to 1h, such as 10s or 2m";
    let wrong = || format!("{text:?} does not work: {RIGHT}");
    let duration = duration(text.trim()).ok_or_else(wrong)?;
    let limits = Duration::from_millis(500)..=Duration::from_hours(1);
    if limits.contains(&duration) {
        Ok(duration)
    } else {
        Err(wrong())
    }
}

pub(super) fn l2_refresh(text: &str) -> Result<Option<Duration>, String> {
    const RIGHT: &str = "write a duration from 1s to 1h, such as 30s or 2m, or off";
    if text.trim() == "off" {
        return Ok(None);
    }
    let limits = Duration::from_secs(1)..=Duration::from_hours(1);
    let duration = duration(text.trim()).filter(|duration| limits.contains(duration));
    duration
        .map(Some)
        .ok_or_else(|| format!("{text:?} does not work: {RIGHT}"))
}

pub(super) fn hand_over(text: &str) -> Result<Option<Duration>, String> {
    const RIGHT: &str = "write a duration from 1s to 10m, such as 10s, or off";
    if text.trim() == "off" {
        return Ok(None);
    }
    let limits = Duration::from_secs(1)..=Duration::from_mins(10);
    duration(text.trim())
        .filter(|duration| limits.contains(duration))
        .map(Some)
        .ok_or_else(|| format!("{text:?} does not work: {RIGHT}"))
}

/// The agent looks at leases every `resync`: three looks have to fit into one.
pub(super) fn fence_after(text: &str, resync: Duration) -> Result<Option<Duration>, String> {
    const RIGHT: &str = "write a duration from 3s to 24h, such as 30s or 5m, never or auto";
    if text == "never" {
        return Ok(None);
    }
    let limits = Duration::from_secs(3)..=Duration::from_hours(24);
    let after = duration(text)
        .filter(|after| limits.contains(after))
        .ok_or_else(|| format!("{text:?} does not work: {RIGHT}"))?;
    if after < resync * 3 {
        return Err(format!("{text:?} is less than three times --resync"));
    }
    Ok(Some(after))
}

/// `500ms`, `10s`, `2m`, `1h`; a whole number and one unit.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

pub(super) fn log_level(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|cause| {
        format!("{text:?}: {cause}; write error, warn, info, debug or trace, or directives")
    })
}

/// The family of a default route shows only in its next hop; without one it counts for IPv4.
pub(super) fn is_v4_route(route: &DefaultRoute, wanted: bool) -> bool {
    route.gateway.is_none_or(|gateway| gateway.is_ipv4()) == wanted
}

#[cfg(test)]
mod tests {
    use super::{duration, gateway, http, interface, network, node_name, resync, source};

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("500ms").unwrap().as_millis(), 500);
        assert_eq!(duration("10s").unwrap().as_secs(), 10);
        assert_eq!(duration("2m").unwrap().as_secs(), 120);
        for wrong in [
            "",
            "s",
            "10",
            "1.5s",
            "-1s",
            "10 s",
            "10d",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert!(resync("1ms").unwrap_err().contains("500ms to 1h"));
    }

    #[test]
    fn a_prefix_with_host_bits_is_refused_with_both_things_it_could_mean() {
        let text = network("203.0.113.10/24").unwrap_err();
        assert!(
            text.contains("write 203.0.113.0/24, or 203.0.113.10/32"),
            "{text}"
        );
        let text = network("203.0.113.10").unwrap_err();
        assert!(text.contains("write 203.0.113.10/32"), "{text}");
        assert!(network("2001:db8::/64").is_ok());
    }

    #[test]
    fn networks_nobody_routes_are_refused() {
        for wrong in [
            "0.0.0.0/0",
            "::/0",
            "224.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "fe80::/64",
        ] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_and_addresses_that_cannot_be_are_refused() {
        assert!(interface("lo").is_err());
        assert!(interface("a-name-of-16-byt").is_err());
        assert!(interface("a b").is_err());
        assert!(node_name("").is_err());
        assert!(node_name("two words").is_err());
        assert!(
            gateway("192.0.2.1/24")
                .unwrap_err()
                .contains("without a prefix length")
        );
        assert!(gateway("255.255.255.255").is_err());
        assert!(http("9469").unwrap_err().contains("127.0.0.1:9469"));
        assert_eq!(http("off").unwrap(), None);
        assert_eq!(source(Some("kube")).unwrap(), super::SourceSpec::Kube(None));
        assert!(source(Some("etcd")).unwrap_err().contains("this version"));
        assert!(source(Some("kube:x")).unwrap_err().contains("absolute"));
        assert!(super::lease("1s").unwrap_err().contains("3s"));
        assert!(
            source(Some("dir:relative"))
                .unwrap_err()
                .contains("absolute")
        );
        assert!(source(None).unwrap_err().contains("not given"));
    }
}
