//! Sockets with everything set that has to be set before the first byte: source, interface, hop
//! limits, key.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

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
        set_key(&socket, &transport, password.bytes())?;
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
        SocketAddr::V4(_) => socket.set_ttl_v4(LISTENER_TTL)?,
        SocketAddr::V6(_) => {
            // IPv4 has a listener of its own: keys and hop limits are per family.
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(LISTENER_TTL)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets or, with `None`, removes the key of a peer on a listener of its family.
///
/// # Errors
/// Those of the system call.
pub(super) fn set_listener_key(
    listener: &TcpListener,
    transport: &Transport,
    password: Option<&Password>,
) -> io::Result<()> {
    match password {
        Some(password) => set_key(listener, transport, password.bytes()),
        None => match set_key(listener, transport, &[]) {
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
            std::net::SocketAddrV6::new(v6, 0, 0, scope_id(transport)?).into()
        }
        source => SocketAddr::new(source, 0),
    };
    socket.bind(&address.into())
}

fn set_key(socket: &impl std::os::fd::AsFd, transport: &Transport, key: &[u8]) -> io::Result<()> {
    let result = eip_tcp_options::set_md5_key(socket, transport.address, scope_id(transport)?, key);
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
            std::net::SocketAddrV6::new(v6, transport.port, 0, scope_id(transport)?).into()
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

/// Our end of a connection, with the addresses of the interface that its local address is on.
///
/// # Errors
/// When the connection is gone already.
pub(super) fn endpoints(stream: &TcpStream) -> io::Result<Endpoints> {
    let local = stream.local_addr()?.ip();
    let mut endpoints = Endpoints {
        local,
        other_ipv4: None,
        other_ipv6: None,
        link_local: None,
    };
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Ok(endpoints);
    };
    let addresses: Vec<(String, IpAddr)> = interfaces
        .filter_map(|entry| {
            let address = entry.address?;
            let ip = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some((entry.interface_name, ip))
        })
        .collect();
    let Some((own, _)) = addresses.iter().find(|(_, ip)| *ip == local) else {
        return Ok(endpoints);
    };
    let of_interface = || {
        addresses
            .iter()
            .filter(|(name, _)| name == own)
            .map(|(_, ip)| *ip)
    };
    endpoints.other_ipv4 = of_interface().find_map(usable_ipv4);
    endpoints.other_ipv6 = of_interface().find_map(usable_ipv6);
    Ok(endpoints)
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
