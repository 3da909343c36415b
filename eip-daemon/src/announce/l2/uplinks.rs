//! The uplinks as they are now, and the sockets on them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use eip_common::addr::Mac;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, sendto},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::Interest, net::UnixDatagram};

/// In network order, as the kernel takes protocols of packet sockets.
const ETH_P_ARP: u16 = 0x0806_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();

/// An uplink that exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uplink {
    /// Its packet address, which also names it to the kernel.
    address: LinkAddr,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// Up, and with a carrier.
    pub(super) is_running: bool,
}

/// The uplinks among the interfaces of this namespace, by index.
pub(super) fn look(names: &[String]) -> io::Result<BTreeMap<u32, (String, Uplink)>> {
    let mut found = BTreeMap::new();
    for entry in getifaddrs()? {
        let address = entry.address.as_ref();
        let Some(address) = address.and_then(|address| address.as_link_addr()).copied() else {
            continue;
        };
        let Some((mac, ifindex)) = address.addr().zip(u32::try_from(address.ifindex()).ok()) else {
            continue;
        };
        if names.contains(&entry.interface_name) {
            let running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            let uplink = Uplink {
                address,
                mac,
                is_running: entry.flags.contains(running),
            };
            found.insert(ifindex, (entry.interface_name, uplink));
        }
    }
    Ok(found)
}

/// Sends whole frames; hears none.
#[derive(Debug)]
pub(super) struct Mouth(OwnedFd);

impl Mouth {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(packet_socket(0)?.into()))
    }

    /// Sends without waiting.
    pub(super) fn send(&self, uplink: &Uplink, frame: &[u8]) -> io::Result<()> {
        let to = &uplink.address;
        sendto(self.0.as_raw_fd(), frame, to, MsgFlags::empty())?;
        Ok(())
    }
}

/// Hears what claims of others may be in: ARP, or neighbour advertisements. Both kinds of socket are
/// behind tc, so traffic of EIPs does not come by.
#[derive(Debug)]
pub(super) struct Ear {
    /// Not of the Unix family: the type lends its place in the event loop, which it has for any socket.
    socket: UnixDatagram,
    ifindex: usize,
}

impl Ear {
    pub(super) fn for_arp(uplink: &Uplink) -> io::Result<Self> {
        Self::open(uplink, ETH_P_ARP, None)
    }

    pub(super) fn for_advertisements(uplink: &Uplink) -> io::Result<Self> {
        const LOAD_BYTE: u16 = 0x30;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        // Next header ICMPv6, type advertisement.
        let filter = [
            SockFilter::new(LOAD_BYTE, 0, 0, 20),
            SockFilter::new(JUMP_IF_EQUAL, 0, 3, 58),
            SockFilter::new(LOAD_BYTE, 0, 0, 54),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, 136),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ];
        Self::open(uplink, ETH_P_IPV6, Some(&filter))
    }

    fn open(uplink: &Uplink, protocol: u16, filter: Option<&[SockFilter]>) -> io::Result<Self> {
        let socket = packet_socket(protocol)?;
        if let Some(filter) = filter {
            socket.attach_filter(filter)?;
        }
        let socket: OwnedFd = socket.into();
        bind(socket.as_raw_fd(), &uplink.address)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket.into())?,
            ifindex: uplink.address.ifindex(),
        })
    }

    /// The next frame, cut to the buffer. What came before the socket was bound to its interface may be
    /// another one's: `None`.
    pub(super) async fn hear<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let receive = || Ok(recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer)?);
        let (length, from) = self.socket.async_io(Interest::READABLE, receive).await?;
        let is_ours = from.is_some_and(|from| from.ifindex() == self.ifindex);
        Ok(buffer.get(..length).filter(|_| is_ours))
    }
}

fn packet_socket(protocol: u16) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(protocol))),
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
