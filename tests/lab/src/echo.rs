//! Servers inside the lab that say whom they saw: the proof of what a VM or a client gets to see.
//!
//! An [`Echo`] answers UDP datagrams and TCP connections on one port. Every answer begins with a
//! line `<peer> <local>`: the address the request came from and the one it came to.
//!
//! TCP requests are one line: `echo`, `upload N` (then N bytes; answered with their [`Digest`]) or
//! `download N` (answered with N bytes).

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Ns;

/// Bytes of datagrams that wait for an [`Echo`]: some seconds of any stream.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// How long a server waits before it looks whether it shall stop.
const TICK: Duration = Duration::from_millis(50);
/// How long one TCP conversation may stall: some stay open and silent while an agent restarts on a busy
/// machine.
const STALL: Duration = Duration::from_mins(2);
/// Begins a datagram of a numbered stream, which is answered as it came.
pub(crate) const STREAM_MAGIC: &[u8; 4] = b"STRM";

/// A sum over content: a byte that is wrong, missing or in the wrong place changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in more content (FNV-1a).
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Content that repeats nowhere near a segment's length.
#[derive(Debug, Clone)]
pub(crate) struct Content(u64);

impl Content {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(self.0.to_le_bytes().get(..chunk.len()).unwrap_or_default());
        }
    }
}

/// A server that is up until dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Serves UDP and TCP on an address of a namespace.
    ///
    /// # Errors
    /// When the address is not there or the port is taken.
    pub fn start(ns: &Ns, address: impl Into<IpAddr>, port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::new(address.into(), port);
        let (udp, tcp) = ns
            .run(|| {
                let udp = UdpSocket::bind(address)?;
                // Streams come at a thousand a second, and this thread may have to wait for a CPU: what
                // finds no room here would look like a packet lost on its way.
                setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
                udp.set_read_timeout(Some(TICK))?;
                let tcp = TcpListener::bind(address)?;
                tcp.set_nonblocking(true)?;
                io::Result::Ok((udp, tcp))
            })
            .with_context(|| format!("serve on {address} in {}", ns.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let threads = vec![
            {
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                ns.spawn(move || serve_udp(&udp, address, &stop, &seen))?
            },
            {
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                ns.spawn(move || serve_tcp(&tcp, &stop, &seen))?
            },
        ];
        Ok(Self {
            address,
            seen,
            stop,
            threads,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who asked so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<SocketAddr> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn remember(seen: &Mutex<Vec<SocketAddr>>, peer: SocketAddr) {
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(peer);
}

fn serve_udp(
    socket: &UdpSocket,
    local: SocketAddr,
    stop: &AtomicBool,
    seen: &Mutex<Vec<SocketAddr>>,
) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some(payload) = buffer.get(..length) else {
            continue;
        };
        if payload.starts_with(STREAM_MAGIC) {
            let _ = socket.send_to(payload, peer);
            continue;
        }
        remember(seen, peer);
        let mut answer = format!("{peer} {local}\n").into_bytes();
        answer.extend_from_slice(payload);
        // The asker notices a lost answer.
        let _ = socket.send_to(&answer, peer);
    }
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool, seen: &Mutex<Vec<SocketAddr>>) {
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    remember(seen, peer);
                    scope.spawn(move || converse(stream, peer));
                }
                Err(_) => crate::wait::pause(Duration::from_millis(2)),
            }
        }
    });
}

/// The asker notices a conversation that breaks off.
fn converse(stream: TcpStream, peer: SocketAddr) {
    let _ = try_converse(stream, peer);
}

fn try_converse(stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let local = stream.local_addr()?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    writeln!(writer, "{peer} {local}")?;
    let mut words = request.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let count = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match verb {
        "upload" => writeln!(writer, "{}", digest_of(&mut reader, count)?),
        "download" => send_content(&mut writer, count).map(drop),
        _ => io::copy(&mut reader, &mut writer).map(drop),
    }
}

/// Reads exactly `count` bytes.
pub(crate) fn digest_of(reader: &mut impl Read, count: u64) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut reader = reader.take(count);
    let mut received = 0;
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        received += length as u64;
        digest.update(buffer.get(..length).unwrap_or_default());
    }
    if received != count {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{received} of {count} bytes"),
        ));
    }
    Ok(digest)
}

/// Writes `count` bytes of [`Content`] and returns their digest.
pub(crate) fn send_content(writer: &mut impl Write, count: u64) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let mut content = Content::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = count;
    while left > 0 {
        content.fill(&mut buffer);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let chunk = buffer.get(..length).unwrap_or_default();
        digest.update(chunk);
        writer.write_all(chunk)?;
        left -= length as u64;
    }
    writer.flush()?;
    Ok(digest)
}
