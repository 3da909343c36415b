//! The sockets of BFD: one that hears everything, one to speak from for each session.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::Target;

/// RFC 5881 §4.
pub(super) const PORT: u16 = 3784;
/// RFC 5881 §4: source ports are taken from here.
const FIRST_SOURCE_PORT: u16 = 49152;
/// RFC 5881 §5.
const TTL: u32 = 255;
/// Network control, as BGP has it.
const DSCP_CS6: u32 = 48 << 2;

/// A packet with where it came from.
pub(super) struct Packet {
    bytes: [u8; 64],
    len: usize,
    pub(super) source: SocketAddr,
    pub(super) ttl: Option<u8>,
}

impl Packet {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

pub(super) fn receive(socket: &UdpSocket) -> io::Result<Packet> {
    let mut bytes = [0; 64];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(i32);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let ttl = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
            u8::try_from(ttl).ok()
        }
        _ => None,
    });
    let source = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in();
        let v4 = v4.map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        v4.or_else(|| {
            let v6 = address.as_sockaddr_in6()?;
            Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
        })
    });
    let len = message.bytes;
    let source = source.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Packet {
        bytes,
        len,
        source,
        ttl,
    })
}

pub(super) fn listen(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = new_socket(address)?;
    match address {
        IpAddr::V4(_) => setsockopt(&socket, Ipv4RecvTtl, &true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        }
    }
    socket.bind(&SocketAddr::new(address, PORT).into())?;
    Ok(socket.into())
}

/// A socket from which packets of one session leave.
pub(super) fn sender(target: &Target, scope_id: u32, discriminator: u32) -> io::Result<UdpSocket> {
    let socket = new_socket(target.address)?;
    match target.address {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(DSCP_CS6)?;
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(DSCP_CS6)?;
        }
    }
    if let Some(interface) = &target.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    let unspecified = match target.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let source = target.source.unwrap_or(unspecified);
    bind_source_port(&socket, with_scope(source, 0, scope_id), discriminator)?;
    socket.connect(&with_scope(target.address, PORT, scope_id).into())?;
    Ok(socket.into())
}

/// The first free port of those the RFC allows, from one that differs from session to session.
fn bind_source_port(socket: &Socket, mut source: SocketAddr, seed: u32) -> io::Result<()> {
    let ports = u32::from(u16::MAX - FIRST_SOURCE_PORT) + 1;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for attempt in 0..64 {
        let offset = seed.wrapping_add(attempt) % ports;
        source.set_port(FIRST_SOURCE_PORT + u16::try_from(offset).unwrap_or(0));
        match socket.bind(&source.into()) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn new_socket(address: IpAddr) -> io::Result<Socket> {
    let domain = if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn with_scope(address: IpAddr, port: u16, scope_id: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, scope_id).into()
        }
        address => SocketAddr::new(address, port),
    }
}

/// Interface index of a link-local target, else 0.
pub(super) fn scope_id(target: &Target) -> u32 {
    match (target.address, &target.interface) {
        (IpAddr::V6(v6), Some(interface)) if v6.is_unicast_link_local() => {
            nix::net::if_::if_nametoindex(interface.as_str()).unwrap_or(0)
        }
        _ => 0,
    }
}
