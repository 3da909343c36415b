//! Sockets with everything set that has to be set before the first byte: source, interface, hop
//! limits, key.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::roster::Source;
use crate::announce::bgp::{
    config::{Password, PeerConfig, Transport},
    fsm::Endpoints,
};

/// Network control (RFC 4594 §3.1): CS6 in the upper six bits.
const DSCP_CS6: u8 = 48 << 2;
/// Unsent bytes the kernel may hold. Small, because what the kernel holds can no longer be
/// coalesced.
const NOT_SENT_LOW_WATER: u32 = 64 * 1024;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;
/// The kernel sends SYN-ACK and RST with this before a peer is known: any peer that checks hop
/// limits (RFC 5082 §3) has to see 255.
const LISTENER_TTL: u32 = 255;

/// Opens the connection to a peer.
///
/// # Errors
/// Those of the system calls; the text names the option that cannot be set.
pub(super) async fn dial(transport: Transport, is_internal: bool) -> io::Result<TcpStream> {
    let socket = new_socket(transport.address)?;
    prepare(&socket, &transport, is_internal)?;
    if let Some(interface) = &transport.interface {
        named(
            "bind to interface",
            socket.bind_device(Some(interface.as_bytes())),
        )?;
    }
    if let Some(source) = transport.source {
        named(
            "bind to source address",
            bind_source(&socket, source, &transport),
        )?;
    }
    if let Some(password) = &transport.password {
        set_key(
            &socket,
            transport.address.into(),
            &transport,
            password.bytes(),
        )?;
    }
    let peer = peer_address(&transport)?;
    TcpSocket::from_std_stream(socket.into())
        .connect(peer)
        .await
}

/// Sets on an accepted connection what a dialled one has. Nothing has been sent on it yet but the
/// SYN-ACK.
///
/// # Errors
/// Those of the system calls.
pub(super) fn prepare_accepted(
    stream: &TcpStream,
    peer: &PeerConfig,
    is_internal: bool,
) -> io::Result<()> {
    prepare(
        &socket2::SockRef::from(stream),
        &peer.transport,
        is_internal,
    )
}

/// Accepts connections at an address.
///
/// # Errors
/// Those of the system calls.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address.ip())?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(LISTENER_TTL)?;
            socket.set_tos_v4(DSCP_CS6.into())?;
        }
        SocketAddr::V6(_) => {
            // IPv4 has a listener of its own: keys and hop limits are per family.
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(LISTENER_TTL)?;
            socket.set_tclass_v6(DSCP_CS6.into())?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets or, with `None`, removes the key of a peer or a range on a listener of its family.
///
/// # Errors
/// Those of the system call.
pub(super) fn set_listener_key(
    listener: &TcpListener,
    whose: IpNet,
    transport: &Transport,
    password: Option<&Password>,
) -> io::Result<()> {
    match password {
        Some(password) => set_key(listener, whose, transport, password.bytes()),
        None => match set_key(listener, whose, transport, &[]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
    }
}

fn new_socket(peer: IpAddr) -> io::Result<Socket> {
    let domain = if peer.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn prepare(socket: &Socket, transport: &Transport, is_internal: bool) -> io::Result<()> {
    let (hop_limit, lowest) = transport.hop_limits(is_internal);
    if transport.address.is_ipv4() {
        named("set TTL", socket.set_ttl_v4(hop_limit.into()))?;
        named("set DSCP", socket.set_tos_v4(DSCP_CS6.into()))?;
    } else {
        named(
            "set hop limit",
            socket.set_unicast_hops_v6(hop_limit.into()),
        )?;
        named("set DSCP", socket.set_tclass_v6(DSCP_CS6.into()))?;
    }
    if let Some(lowest) = lowest {
        let result = if transport.address.is_ipv4() {
            eip_tcp_options::set_min_ttl(socket, lowest)
        } else {
            eip_tcp_options::set_min_hop_limit(socket, lowest)
        };
        named("set lowest TTL accepted", result)?;
    }
    named("set TCP_NODELAY", socket.set_tcp_nodelay(true))?;
    named(
        "set TCP_NOTSENT_LOWAT",
        socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER),
    )
}

fn bind_source(socket: &Socket, source: IpAddr, transport: &Transport) -> io::Result<()> {
    let address = match source {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, 0, 0, scope_id(transport)?).into()
        }
        source => SocketAddr::new(source, 0),
    };
    socket.bind(&address.into())
}

fn set_key(
    socket: &impl std::os::fd::AsFd,
    whose: IpNet,
    transport: &Transport,
    key: &[u8],
) -> io::Result<()> {
    let peer = eip_tcp_options::Md5Peer {
        address: whose.network(),
        prefix_len: whose.prefix_len(),
        scope_id: scope_id(transport)?,
    };
    let result = eip_tcp_options::set_md5_key(socket, peer, key);
    result.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ENOPROTOOPT) => io::Error::new(
            io::ErrorKind::Unsupported,
            "set TCP MD5 key: the kernel was built without CONFIG_TCP_MD5SIG",
        ),
        _ => io::Error::new(error.kind(), format!("set TCP MD5 key: {error}")),
    })
}

/// Puts the operation before the error of a system call.
fn named<T>(operation: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{operation}: {error}")))
}

fn peer_address(transport: &Transport) -> io::Result<SocketAddr> {
    Ok(match transport.address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, transport.port, 0, scope_id(transport)?).into()
        }
        address => SocketAddr::new(address, transport.port),
    })
}

/// Interface index of a link-local peer, else 0.
fn scope_id(transport: &Transport) -> io::Result<u32> {
    match (transport.address, &transport.interface) {
        (IpAddr::V6(v6), Some(interface)) if v6.is_unicast_link_local() => {
            Ok(nix::net::if_::if_nametoindex(interface.as_str())?)
        }
        _ => Ok(0),
    }
}

/// Where a connection comes from.
pub(super) fn source(address: SocketAddr) -> Source {
    let scope_id = match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
    };
    let name = (scope_id != 0).then(|| nix::net::if_::if_indextoname(scope_id));
    let name = name.and_then(Result::ok);
    Source {
        address: address.ip(),
        interface: name.and_then(|name| name.into_string().ok()),
    }
}

/// Our end of a connection, with the addresses of the interface that its local address is on.
///
/// # Errors
/// When the connection is gone already.
pub(super) fn endpoints(stream: &TcpStream) -> io::Result<Endpoints> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?.ip());
    let interface = source(local).interface;
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Ok(ends(local.ip(), peer, None, &[]));
    };
    let addresses: Vec<(String, IpNet)> = interfaces
        .filter_map(|entry| {
            let address = ip(entry.address?)?;
            let mask = entry.netmask.and_then(ip);
            let mask = mask.and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok());
            let prefix_len = mask.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
            let net = IpNet::new(address, prefix_len).ok()?;
            Some((entry.interface_name, net))
        })
        .collect();
    Ok(ends(local.ip(), peer, interface.as_deref(), &addresses))
}

/// What the addresses of this machine make of the two ends of a connection. The interface is
/// known by itself only for a link-local connection, whose address may be on several.
fn ends(
    local: IpAddr,
    peer: IpAddr,
    interface: Option<&str>,
    addresses: &[(String, IpNet)],
) -> Endpoints {
    let mut endpoints = Endpoints {
        local,
        other_ipv4: None,
        other_ipv6: None,
        link_local: None,
    };
    let is_own = |(name, net): &&(String, IpNet)| {
        net.addr() == local && interface.is_none_or(|interface| interface == name)
    };
    let Some((own, subnet)) = addresses.iter().find(is_own) else {
        return endpoints;
    };
    let of_interface = || {
        addresses
            .iter()
            .filter(|(name, _)| name == own)
            .map(|(_, net)| net.addr())
    };
    endpoints.other_ipv4 = of_interface().find_map(usable_ipv4);
    endpoints.other_ipv6 = of_interface().find_map(usable_ipv6);
    // RFC 2545 §3: only to a peer on the same link.
    if local.is_ipv6() && subnet.contains(&peer) {
        endpoints.link_local = of_interface().find_map(|address| match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
    }
    endpoints
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn usable_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) if !v4.is_loopback() => Some(v4),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn usable_ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local() => Some(v6),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<(String, IpNet)> {
        [
            ("lo", "127.0.0.1/8"),
            ("eth0", "10.99.0.2/24"),
            ("eth0", "fd99::2/64"),
            ("eth0", "fe80::2/64"),
            ("eth1", "fe80::2/64"),
        ]
        .map(|(name, net)| (name.to_owned(), net.parse().unwrap()))
        .to_vec()
    }

    fn of(local: &str, peer: &str, interface: Option<&str>) -> Endpoints {
        let [local, peer] = [local, peer].map(|address| address.parse().unwrap());
        ends(local, peer, interface, &addresses())
    }

    #[test]
    fn the_link_local_address_is_offered_to_a_peer_on_the_link_only() {
        let link_local: Option<Ipv6Addr> = "fe80::2".parse().ok();
        assert_eq!(of("fd99::2", "fd99::1", None).link_local, link_local);
        assert_eq!(of("fd99::2", "2001:db8::1", None).link_local, None);
        assert_eq!(of("10.99.0.2", "10.99.0.1", None).link_local, None);
    }

    #[test]
    fn a_link_local_session_has_the_other_addresses_of_its_own_interface() {
        let on_eth0 = of("fe80::2", "fe80::1", Some("eth0"));
        assert_eq!(on_eth0.other_ipv4, "10.99.0.2".parse().ok());
        assert_eq!(on_eth0.other_ipv6, "fd99::2".parse().ok());
        let on_eth1 = of("fe80::2", "fe80::1", Some("eth1"));
        assert_eq!((on_eth1.other_ipv4, on_eth1.other_ipv6), (None, None));
        assert_eq!(on_eth1.link_local, "fe80::2".parse().ok());
    }
}
