//! Seeing and sending whole frames: `AF_PACKET` sockets inside a namespace.
//!
//! A [`Sniffer`] hears every interface of its namespace, in both directions. Frames a local sender
//! hands over may be super-packets with unfinished checksums; assertions about checksums belong to
//! frames sent with an [`Injector`], which arrive as they were made.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::{if_indextoname, if_nametoindex},
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use crate::{netns::Ns, packet, wait};

/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const PACKET_OUTGOING: u8 = 4;
/// Larger than any super-packet.
pub(crate) const FRAME_MAX: usize = 128 * 1024;
/// Kernel buffer: room for a burst while the reader waits for a CPU.
const SOCKET_BUFFER: usize = 32 * 1024 * 1024;
/// Frames a sniffer remembers; older ones go first.
const KEPT_FRAMES: usize = 20_000;

/// How long a sniffer that was stopped still reads what the kernel has kept for it.
const LAST_CALL: Duration = Duration::from_secs(2);

/// Which way a frame passed an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// A frame as it passed an interface.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When, after the sniffer started.
    pub at: Duration,
    /// Name of the interface.
    pub interface: String,
    /// Received or sent.
    pub way: Way,
    /// The frame.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The IP packet in it.
    #[must_use]
    pub fn ip(&self) -> Option<packet::IpPacket> {
        packet::IpPacket::parse(&self.bytes)
    }

    /// One line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let way = match self.way {
            Way::In => "in ",
            Way::Out => "out",
        };
        format!(
            "{:9.4} {:6} {way} {}",
            self.at.as_secs_f64(),
            self.interface,
            packet::describe(&self.bytes)
        )
    }
}

/// Hears everything in a namespace until dropped, and then to the end of what was sent before.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<VecDeque<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts to listen; every frame from this moment on is heard.
    ///
    /// # Errors
    /// Without the right to open packet sockets.
    pub fn start(ns: &Ns) -> anyhow::Result<Self> {
        Self::watch(ns, |_| {})
    }

    /// As [`Sniffer::start`], and shows each frame to `watcher` as it is heard.
    ///
    /// # Errors
    /// As [`Sniffer::start`].
    pub fn watch(
        ns: &Ns,
        mut watcher: impl FnMut(&Frame) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let socket = ns
            .run(packet_socket)
            .context("open a packet socket to listen on")?;
        let frames = Arc::new(Mutex::new(VecDeque::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            ns.spawn(move || {
                listen(&socket, &stop, |frame| {
                    watcher(&frame);
                    let mut frames = lock(&frames);
                    if frames.len() == KEPT_FRAMES {
                        frames.pop_front();
                    }
                    frames.push_back(frame);
                });
            })?
        };
        Ok(Self {
            frames,
            stop,
            thread: Some(thread),
        })
    }

    /// What was heard so far, oldest first.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.frames).iter().cloned().collect()
    }

    /// IP packets heard so far that satisfy a condition.
    #[must_use]
    pub fn packets(
        &self,
        mut condition: impl FnMut(&Frame, &packet::IpPacket) -> bool,
    ) -> Vec<packet::IpPacket> {
        lock(&self.frames)
            .iter()
            .filter_map(|frame| frame.ip().filter(|packet| condition(frame, packet)))
            .collect()
    }

    /// Waits until an IP packet that satisfies a condition was heard.
    ///
    /// # Errors
    /// When none was within `limit`.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Frame, &packet::IpPacket) -> bool,
    ) -> anyhow::Result<packet::IpPacket> {
        wait::wait_for(limit, what, || {
            self.packets(&mut condition).into_iter().next()
        })
    }

    /// Stops to listen, and returns all that was heard, oldest first: whatever was sent before is in it.
    #[must_use]
    pub fn finish(mut self) -> Vec<Frame> {
        self.end();
        self.frames()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the watcher was printed when it happened.
            let _ = thread.join();
        }
    }

    /// Forgets what was heard.
    pub fn clear(&self) {
        lock(&self.frames).clear();
    }

    /// The last `count` frames, one a line.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let frames = lock(&self.frames);
        let skipped = frames.len().saturating_sub(count);
        frames
            .iter()
            .skip(skipped)
            .map(|frame| frame.line() + "\n")
            .collect()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn packet_socket() -> anyhow::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::EthAll),
    )?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, stop: &AtomicBool, mut heard: impl FnMut(Frame)) {
    let start = Instant::now();
    let mut names: HashMap<usize, String> = HashMap::new();
    let mut buffer = vec![0; FRAME_MAX];
    let mut last_call = None;
    loop {
        if last_call.is_none() && stop.load(Ordering::Relaxed) {
            last_call = Some(Instant::now() + LAST_CALL);
        }
        let received = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer);
        let Ok((length, Some(from))) = received else {
            // Nothing is left in the buffer.
            if last_call.is_some() {
                return;
            }
            continue;
        };
        let Some(bytes) = buffer.get(..length) else {
            continue;
        };
        let interface = names
            .entry(from.ifindex())
            .or_insert_with(|| name_of(from.ifindex()))
            .clone();
        let way = if from.pkttype() == PACKET_OUTGOING {
            Way::Out
        } else {
            Way::In
        };
        heard(Frame {
            at: start.elapsed(),
            interface,
            way,
            bytes: bytes.to_vec(),
        });
        if last_call.is_some_and(|end| Instant::now() > end) {
            return;
        }
    }
}

fn name_of(index: usize) -> String {
    u32::try_from(index)
        .ok()
        .and_then(|index| if_indextoname(index).ok())
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| format!("if{index}"))
}

/// Hears what one interface receives, one frame after the other, in the caller's own thread.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    ifindex: usize,
}

impl Tap {
    /// Starts to listen at an interface of a namespace.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(ns: &Ns, interface: &str) -> anyhow::Result<Self> {
        ns.run(|| {
            let ifindex =
                if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
            Ok(Self {
                socket: packet_socket()?,
                ifindex: usize::try_from(ifindex)?,
            })
        })
    }

    /// The next frame that is received; `None` when there was none for a moment.
    ///
    /// # Errors
    /// When frames were lost because nobody fetched them.
    pub fn next(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from)))
                    if from.ifindex() == self.ifindex && from.pkttype() != PACKET_OUTGOING =>
                {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
    }
}

/// Sends whole frames out of one interface.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    address: LinkAddr,
    /// Hardware address of the interface.
    pub mac: [u8; 6],
}

impl Injector {
    /// Opens an interface of a namespace.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(ns: &Ns, interface: &str) -> anyhow::Result<Self> {
        ns.run(|| {
            let address = getifaddrs()
                .context("list interfaces")?
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| entry.address.as_ref()?.as_link_addr().copied())
                .with_context(|| format!("no interface {interface}"))?;
            let mac = address
                .addr()
                .context("an interface without hardware address")?;
            Ok(Self {
                socket: packet_socket()?,
                address,
                mac,
            })
        })
    }

    /// Sends one frame as it is.
    ///
    /// # Errors
    /// When the kernel refuses it: too long for the interface, say.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.address,
            MsgFlags::empty(),
        )
        .with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        Ok(())
    }
}
