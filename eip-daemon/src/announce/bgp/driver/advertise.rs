//! Learning the address of a router on an interface, and letting it learn ours: router
//! advertisements (RFC 4861 §4.2), as routers do it for "unnumbered" peers.
//!
//! What we send offers nothing: lifetime 0, no prefix. A host on the link does not route by us.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt::Ipv6RecvHopLimit,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, warn};

const ROUTER_ADVERTISEMENT: u8 = 134;
/// RFC 4861 §6.1.2: whatever has passed a router is not believed.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 4861 §4.2: type, code, checksum (the kernel's), hop limit, flags, lifetime 0, two timers.
const ADVERTISEMENT: [u8; 16] = [
    ROUTER_ADVERTISEMENT,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// First advertisements, quickly; then the rest.
const FIRST: u32 = 3;
const QUICKLY: Duration = Duration::from_secs(1);
/// As often as routers do on such links.
const INTERVAL: Duration = Duration::from_secs(10);
/// Until an interface that is not there is looked for again.
const RETRY: Duration = Duration::from_secs(2);
/// Advertisements nobody has looked at; one that does not fit comes again.
const HEARD: usize = 16;

/// A router has advertised itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) interface: String,
    pub(super) router: Ipv6Addr,
}

/// One task per interface with an unnumbered peer.
pub(super) struct Advertisers {
    tasks: JoinSet<()>,
    running: BTreeMap<String, AbortHandle>,
    heard: mpsc::Receiver<Heard>,
    sender: mpsc::Sender<Heard>,
}

impl Advertisers {
    pub(super) fn new() -> Self {
        let (sender, heard) = mpsc::channel(HEARD);
        Self {
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            heard,
            sender,
        }
    }

    /// Starts and stops tasks so that there is one for each of these.
    pub(super) fn set_interfaces<'a>(&mut self, wanted: impl Iterator<Item = &'a str> + Clone) {
        self.running.retain(|name, task| {
            let is_wanted = wanted.clone().any(|wanted| wanted == name) && !task.is_finished();
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for name in wanted {
            if !self.running.contains_key(name) {
                let task = advertise(name.to_owned(), self.sender.clone());
                self.running.insert(name.to_owned(), self.tasks.spawn(task));
            }
        }
        // What has ended is of no interest.
        while self.tasks.try_join_next().is_some() {}
    }

    /// The next advertisement of a router.
    pub(super) async fn heard(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

/// Runs until it is stopped, also while the interface is not there.
async fn advertise(interface: String, heard: mpsc::Sender<Heard>) {
    let mut is_faulty = false;
    loop {
        let result = match open(&interface) {
            Ok(socket) => {
                is_faulty = false;
                talk(&socket, &interface, &heard).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return,
            Err(error) if !is_faulty => {
                warn!(interface, %error, "cannot advertise");
                is_faulty = true;
            }
            Err(error) => debug!(interface, %error, "still cannot advertise"),
        }
        sleep(RETRY).await;
    }
}

/// Sends and listens; `Ok` when nobody listens to us any more.
async fn talk(socket: &UdpSocket, interface: &str, heard: &mpsc::Sender<Heard>) -> io::Result<()> {
    let mut sent = 0;
    let mut next = Instant::now();
    let mut last_router = None;
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                send(socket, interface)?;
                sent += 1;
                next = Instant::now() + if sent < FIRST { QUICKLY } else { INTERVAL };
            }
            ready = socket.readable() => {
                ready?;
                match socket.try_io(Interest::READABLE, || receive(socket)) {
                    Ok(Some(router)) => {
                        if last_router != Some(router) {
                            // It may not have heard ours; RFC 4861 §6.2.6 bounds how soon.
                            next = next.min(Instant::now() + QUICKLY);
                            last_router = Some(router);
                        }
                        let interface = interface.to_owned();
                        match heard.try_send(Heard { interface, router }) {
                            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
                        }
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A raw socket in the guise of a datagram socket, which is what the runtime can wait for.
fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
    socket.set_multicast_loop_v6(false)?;
    setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
    UdpSocket::from_std(OwnedFd::from(socket).into())
}

fn send(socket: &UdpSocket, interface: &str) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let everybody = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    match socket.try_send_to(&ADVERTISEMENT, everybody.into()) {
        // The interface has no address yet, or no carrier.
        Err(error) if error.raw_os_error() != Some(nix::libc::ENODEV) => {
            debug!(interface, %error, "advertisement not sent");
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// The router whose advertisement is next, `None` for anything else.
fn receive(socket: &UdpSocket) -> io::Result<Option<Ipv6Addr>> {
    let mut bytes = [0; 256];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(i32);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let hop_limit = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
        _ => None,
    });
    let source = message.address.map(|address| address.ip());
    let len = message.bytes;
    let packet = bytes.get(..len).unwrap_or_default();
    Ok(source.filter(|source| is_advertisement(packet, *source, hop_limit)))
}

/// RFC 4861 §6.1.2, as far as it matters for who is there.
fn is_advertisement(packet: &[u8], source: Ipv6Addr, hop_limit: Option<u8>) -> bool {
    packet.len() >= ADVERTISEMENT.len()
        && packet.starts_with(&[ROUTER_ADVERTISEMENT, 0])
        && source.is_unicast_link_local()
        && hop_limit == Some(HOP_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_advertisements_from_the_link_itself_are_believed() {
        let neighbour: Ipv6Addr = "fe80::1".parse().unwrap();
        let stranger: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert!(is_advertisement(&ADVERTISEMENT, neighbour, Some(255)));
        assert!(!is_advertisement(&ADVERTISEMENT, stranger, Some(255)));
        assert!(!is_advertisement(&ADVERTISEMENT, neighbour, Some(254)));
        assert!(!is_advertisement(&ADVERTISEMENT, neighbour, None));
        assert!(!is_advertisement(
            &ADVERTISEMENT[..15],
            neighbour,
            Some(255)
        ));
        let mut solicitation = ADVERTISEMENT;
        solicitation[0] = 133;
        assert!(!is_advertisement(&solicitation, neighbour, Some(255)));
    }
}
