//! Asking questions through the network under test: one function per kind of traffic, each bounded
//! in time and each returning what was seen rather than judging it.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt},
        time::TimeSpec,
    },
};

use crate::{
    echo::{STREAM_MAGIC, digest_of, send_content},
    netns::Ns,
};

/// How long an answer may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long is waited for an answer that must not come.
pub const SILENCE: Duration = Duration::from_millis(400);

/// What an [`Echo`](crate::echo::Echo) answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Address and port the server saw the request come from.
    pub server_saw: SocketAddr,
    /// Address and port the request had reached the server on.
    pub server_was: SocketAddr,
    /// Where the answer came from, as the asker saw it.
    pub came_from: SocketAddr,
}

/// Bytes that show where they were cut or swapped: the period is a prime.
fn pattern(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Splits `<peer> <local>\n<payload>`.
fn split_answer(bytes: &[u8]) -> anyhow::Result<(SocketAddr, SocketAddr, &[u8])> {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .context("an answer without its line")?;
    let (line, rest) = bytes.split_at(end);
    let line = std::str::from_utf8(line).context("an answer that is no text")?;
    let (peer, local) = line
        .split_once(' ')
        .context("an answer that names one address")?;
    Ok((
        peer.parse()?,
        local.parse()?,
        rest.get(1..).unwrap_or_default(),
    ))
}

/// Sends one datagram of `size` bytes and waits for its echo. Neither is repeated. The socket is
/// not connected, so an answer from a wrong address is seen and not hidden by the kernel.
///
/// # Errors
/// When no answer comes or its content is not what was sent.
pub fn udp(ns: &Ns, to: SocketAddr, size: usize, limit: Duration) -> anyhow::Result<Answer> {
    ns.run(|| {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        udp_on(&socket, to, size, limit)
    })
}

/// As [`udp`], on a socket that is there already.
///
/// # Errors
/// As [`udp`].
pub fn udp_on(
    socket: &UdpSocket,
    to: SocketAddr,
    size: usize,
    limit: Duration,
) -> anyhow::Result<Answer> {
    socket.set_read_timeout(Some(limit))?;
    let payload = pattern(size);
    socket
        .send_to(&payload, to)
        .with_context(|| format!("send {size} bytes to {to}"))?;
    let mut buffer = vec![0; 65_536];
    let (length, came_from) = socket
        .recv_from(&mut buffer)
        .with_context(|| format!("no answer from {to} to a datagram of {size} bytes"))?;
    let (server_saw, server_was, echoed) = split_answer(buffer.get(..length).unwrap_or_default())?;
    ensure!(echoed == payload, "the datagram to {to} came back changed");
    Ok(Answer {
        server_saw,
        server_was,
        came_from,
    })
}

fn connect(to: SocketAddr, limit: Duration) -> anyhow::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&to, limit).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

fn read_answer_line(reader: &mut impl io::BufRead) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .context("read the server's first line")?;
    let (server_saw, server_was, _) = split_answer(line.as_bytes())?;
    Ok((server_saw, server_was))
}

/// Opens a connection, exchanges a few bytes and closes it.
///
/// # Errors
/// When any of it does not work within `limit`.
pub fn tcp(ns: &Ns, to: SocketAddr, limit: Duration) -> anyhow::Result<Answer> {
    ns.run(|| {
        let stream = connect(to, limit)?;
        let came_from = stream.peer_addr()?;
        let mut writer = stream.try_clone()?;
        writer.write_all(b"echo\nhello\n")?;
        let mut reader = BufReader::new(stream);
        let (server_saw, server_was) = read_answer_line(&mut reader)?;
        let mut echoed = String::new();
        reader
            .read_line(&mut echoed)
            .with_context(|| format!("read the echo of {to}"))?;
        ensure!(echoed == "hello\n", "{to} echoed {echoed:?}");
        Ok(Answer {
            server_saw,
            server_was,
            came_from,
        })
    })
}

/// Whose content a bulk transfer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// From the asker to the server.
    Upload,
    /// From the server to the asker.
    Download,
}

/// Transfers `bytes` over one connection and checks every one of them.
///
/// # Errors
/// When the transfer stalls, breaks off or changes a byte.
pub fn bulk(ns: &Ns, to: SocketAddr, way: Bulk, bytes: u64) -> anyhow::Result<Answer> {
    ns.run(|| {
        let stream = connect(to, Duration::from_secs(20))?;
        let came_from = stream.peer_addr()?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let (answer, sent, received) = match way {
            Bulk::Upload => {
                writeln!(writer, "upload {bytes}")?;
                let answer = read_answer_line(&mut reader)?;
                let sent = send_content(&mut writer, bytes).context("upload")?;
                let mut line = String::new();
                reader.read_line(&mut line).context("read the digest")?;
                (answer, sent.to_string(), line.trim().to_owned())
            }
            Bulk::Download => {
                writeln!(writer, "download {bytes}")?;
                let answer = read_answer_line(&mut reader)?;
                let received = digest_of(&mut reader, bytes).context("download")?;
                let expected = send_content(&mut io::sink(), bytes)?;
                (answer, expected.to_string(), received.to_string())
            }
        };
        ensure!(
            sent == received,
            "{way:?} of {bytes} bytes with {to} changed its content"
        );
        Ok(Answer {
            server_saw: answer.0,
            server_was: answer.1,
            came_from,
        })
    })
}

/// A TCP connection that stays open while the test does something to the network.
#[derive(Debug)]
pub struct Session {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// What the server said when it opened.
    pub answer: Answer,
}

impl Session {
    /// Opens a connection to an [`Echo`](crate::echo::Echo).
    ///
    /// # Errors
    /// When it cannot be opened within [`PATIENCE`].
    pub fn open(ns: &Ns, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = ns.run(|| connect(to, PATIENCE))?;
        let came_from = stream.peer_addr()?;
        let mut writer = stream.try_clone()?;
        writer.write_all(b"echo\n")?;
        let mut reader = BufReader::new(stream);
        let (server_saw, server_was) = read_answer_line(&mut reader)?;
        Ok(Self {
            reader,
            writer,
            answer: Answer {
                server_saw,
                server_was,
                came_from,
            },
        })
    }

    /// Sends a line and reads its echo.
    ///
    /// # Errors
    /// When the echo does not come within [`PATIENCE`] or differs.
    pub fn exchange(&mut self) -> anyhow::Result<()> {
        self.writer.write_all(b"still here\n")?;
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("read the echo of an open connection")?;
        ensure!(line == "still here\n", "the echo was {line:?}");
        Ok(())
    }
}

/// Sends one ICMP echo request with `size` bytes of payload. Returns who answered.
///
/// # Errors
/// When no answer comes within `limit`, or with other content.
pub fn ping(ns: &Ns, to: IpAddr, size: usize, limit: Duration) -> anyhow::Result<IpAddr> {
    ns.run(|| {
        let socket = ping_socket(to)?;
        socket.set_read_timeout(Some(limit))?;
        let request = echo_request(to, size);
        socket
            .send_to(&request, (to, 0))
            .with_context(|| format!("ping {to}"))?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = socket
            .recv_from(&mut buffer)
            .with_context(|| format!("no answer from {to} to a ping of {size} bytes"))?;
        let content = buffer.get(8..length).unwrap_or_default();
        ensure!(
            Some(content) == request.get(8..),
            "the ping of {to} came back changed"
        );
        Ok(from.ip())
    })
}

fn ping_socket(to: IpAddr) -> anyhow::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let fd = socket(
        family,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        Some(protocol),
    )
    .context("open a ping socket")?;
    Ok(UdpSocket::from(fd))
}

/// The kernel fills in identifier and checksum.
fn echo_request(to: IpAddr, size: usize) -> Vec<u8> {
    let kind = match to {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    request.extend(pattern(size));
    request
}

/// What became of a numbered stream of datagrams and their echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Different ones whose echo came back.
    pub answered: u64,
    /// Echoes beyond the first of a datagram.
    pub duplicates: u64,
    /// Echoes that came after one with a higher number.
    pub reordered: u64,
    /// Echoes that came from another address than was asked.
    pub strangers: u64,
    /// Longest time between two echoes.
    pub longest_gap: Duration,
}

impl StreamReport {
    /// Datagrams whose echo never came.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

/// How a stream is paced.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Datagrams a second.
    pub per_second: u32,
    /// How many.
    pub count: u32,
}

impl Pace {
    /// A thousand a second, for as long as something takes.
    #[must_use]
    pub const fn kilohertz(seconds: u32) -> Self {
        Self {
            per_second: 1000,
            count: 1000 * seconds,
        }
    }
}

/// Longest wait for echoes after the last datagram: only a stream that lost some takes it, and
/// it has to be long enough for whoever answers on a busy machine.
const LAST_ECHO: Duration = Duration::from_secs(5);

/// Runs a stream to an [`Echo`](crate::echo::Echo) to its end. Both ways count: an echo that does
/// not come back was lost on the way there or back.
///
/// # Errors
/// When the kernel refuses to send at all.
pub fn stream(ns: &Ns, to: SocketAddr, pace: Pace) -> anyhow::Result<StreamReport> {
    ns.run(|| {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(8 * 1024 * 1024))?;
        socket.set_nonblocking(true)?;
        run_stream(&socket, to, pace)
    })
}

fn run_stream(socket: &UdpSocket, to: SocketAddr, pace: Pace) -> anyhow::Result<StreamReport> {
    let interval = Duration::from_secs(1) / pace.per_second;
    let mut report = StreamReport::default();
    let mut seen = vec![false; pace.count as usize];
    let mut highest = 0;
    let start = Instant::now();
    let mut last_echo = start;
    let mut last_sent = start;
    loop {
        let now = Instant::now();
        // Catch up after having been scheduled away: the number of datagrams is what counts.
        while report.sent < u64::from(pace.count)
            && now >= start + interval * u32::try_from(report.sent).unwrap_or(u32::MAX)
        {
            if !send_numbered(socket, to, report.sent)? {
                break;
            }
            report.sent += 1;
            last_sent = now;
        }
        let is_done = report.sent == u64::from(pace.count);
        let is_over = report.answered == report.sent || now >= last_sent + LAST_ECHO;
        if is_done && is_over {
            return Ok(report);
        }
        let next = if is_done {
            Duration::from_millis(20)
        } else {
            (start + interval * u32::try_from(report.sent).unwrap_or(u32::MAX))
                .saturating_duration_since(now)
                .max(Duration::from_micros(200))
        };
        wait_readable(socket, next)?;
        while let Some((number, from)) = receive_numbered(socket)? {
            report.longest_gap = report.longest_gap.max(last_echo.elapsed());
            last_echo = Instant::now();
            report.strangers += u64::from(from != to);
            report.reordered += u64::from(number < highest);
            highest = highest.max(number);
            match usize::try_from(number)
                .ok()
                .and_then(|index| seen.get_mut(index))
            {
                Some(first) if !*first => {
                    *first = true;
                    report.answered += 1;
                }
                _ => report.duplicates += 1,
            }
        }
    }
}

/// `false` if there is no room for it now: so many are still on their way.
fn send_numbered(socket: &UdpSocket, to: SocketAddr, number: u64) -> anyhow::Result<bool> {
    let mut datagram = [0; 12];
    let (magic, rest) = datagram.split_at_mut(4);
    magic.copy_from_slice(STREAM_MAGIC);
    rest.copy_from_slice(&number.to_be_bytes());
    match socket.send_to(&datagram, to) {
        // An ICMP error for an earlier datagram: that one is lost, and counted as such.
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).with_context(|| format!("send datagram {number} to {to}")),
    }
}

fn receive_numbered(socket: &UdpSocket) -> anyhow::Result<Option<(u64, SocketAddr)>> {
    let mut datagram = [0; 64];
    match socket.recv_from(&mut datagram) {
        Ok((12, from)) => {
            let number = datagram.get(4..12).and_then(|bytes| bytes.try_into().ok());
            Ok(number.map(|bytes| (u64::from_be_bytes(bytes), from)))
        }
        Ok((length, from)) => bail!("{from} sent {length} bytes that are not of the stream"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error).context("receive an echo"),
    }
}

fn wait_readable(socket: &UdpSocket, limit: Duration) -> anyhow::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut fds, Some(TimeSpec::from_duration(limit)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("wait for an echo"),
    }
}

/// Reads what is left of a connection: used by tests that talk to plain servers.
///
/// # Errors
/// When it cannot be connected or read within `limit`.
pub fn read_all(ns: &Ns, to: SocketAddr, limit: Duration) -> anyhow::Result<String> {
    ns.run(|| {
        let mut stream = connect(to, limit)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}
