//! A peer played by hand, byte by byte: what real routers do not do. It has a codec of its own,
//! as small as can be, so that a mistake in the speaker's cannot hide in both.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use eip_lab::wait::wait_until;
use socket2::{Domain, Socket, Type};

use crate::Bench;

/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the peer is, in the router's namespace.
pub const ADDRESS: &str = "10.99.0.1:179";
/// Where the speaker is.
pub const SPEAKER: &str = "10.99.0.2:179";

/// Longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;

/// A message taken apart no further than its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Type.
    pub kind: u8,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Hand {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

/// Listens where the speaker dials.
///
/// # Errors
/// When the address is taken.
pub fn listen(bench: &Bench) -> anyhow::Result<TcpListener> {
    listen_at(bench, ADDRESS)
}

/// Listens at another address of the router's namespace.
///
/// # Errors
/// When the address is taken.
pub fn listen_at(bench: &Bench, address: &str) -> anyhow::Result<TcpListener> {
    let mut listener = None;
    // Until it runs its own program, a process that another thread has just started holds what
    // was open at that moment: the listener before this one.
    wait_until(PATIENCE, "the address is free", || {
        listener = bench.router.run(|| TcpListener::bind(address)).ok();
        listener.is_some()
    })?;
    listener.with_context(|| format!("listen on {address}"))
}

impl Hand {
    /// The next connection the speaker opens.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn accept(listener: &TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((tcp, _)) => return Self::new(tcp),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ensure!(std::time::Instant::now() < until, "nobody dials");
                    eip_lab::wait::pause(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Dials the speaker.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn dial(bench: &Bench) -> anyhow::Result<Self> {
        Self::dial_at(bench, SPEAKER)
    }

    /// Dials another address of the speaker.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn dial_at(bench: &Bench, address: &str) -> anyhow::Result<Self> {
        Self::new(bench.router.run(|| TcpStream::connect(address))?)
    }

    /// The next connection the speaker opens, with room for hardly any byte unread.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn accept_narrow(bench: &Bench) -> anyhow::Result<Self> {
        let listener = bench.router.run(|| -> anyhow::Result<TcpListener> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_recv_buffer_size(4096)?;
            let address: SocketAddr = ADDRESS.parse()?;
            socket.bind(&address.into())?;
            socket.listen(4)?;
            Ok(socket.into())
        })?;
        Self::accept(&listener)
    }

    /// Over a connection that is there already.
    ///
    /// # Errors
    /// When it is gone.
    pub fn over(tcp: TcpStream) -> anyhow::Result<Self> {
        Self::new(tcp)
    }

    fn new(tcp: TcpStream) -> anyhow::Result<Self> {
        tcp.set_nonblocking(false)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            tcp,
            bytes: Vec::new(),
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the speaker has closed.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.write_all(bytes)
    }

    /// The next message, `None` when the speaker has closed.
    ///
    /// # Errors
    /// When nothing comes in time, or what comes is out of step.
    pub fn hear(&mut self) -> anyhow::Result<Option<Heard>> {
        loop {
            if let Some((header, rest)) = self.bytes.split_first_chunk::<19>() {
                let [marker @ .., high, low, kind] = *header;
                ensure!(marker == [0xff; 16], "out of step: {header:?}");
                let len = usize::from(u16::from_be_bytes([high, low])) - 19;
                if rest.len() >= len {
                    let body = rest.get(..len).unwrap_or_default().to_vec();
                    self.bytes.drain(..19 + len);
                    return Ok(Some(Heard { kind, body }));
                }
            }
            if !self.read(64 * 1024)? {
                return Ok(None);
            }
        }
    }

    /// Reads so many bytes at most; `false` at the end.
    ///
    /// # Errors
    /// When nothing comes in time.
    pub fn read(&mut self, most: usize) -> anyhow::Result<bool> {
        let mut buffer = vec![0; most];
        loop {
            return match self.tcp.read(&mut buffer) {
                Ok(0) => Ok(false),
                Ok(len) => {
                    self.bytes.extend_from_slice(&buffer[..len]);
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => bail!("nothing heard: {error}"),
            };
        }
    }

    /// The next NOTIFICATION as code, subcode and data; other messages before it are skipped.
    ///
    /// # Errors
    /// When the connection ends without one.
    pub fn notification(&mut self) -> anyhow::Result<(u8, u8, Vec<u8>)> {
        while let Some(Heard { kind, body }) = self.hear()? {
            if kind == 3 {
                let (head, data) = body.split_first_chunk::<2>().context("a whole one")?;
                return Ok((head[0], head[1], data.to_vec()));
            }
        }
        bail!("closed without a NOTIFICATION")
    }

    /// Everything up to the end of the connection.
    ///
    /// # Errors
    /// When it does not end.
    pub fn to_the_end(&mut self) -> anyhow::Result<Vec<Heard>> {
        let mut all = Vec::new();
        while let Some(heard) = self.hear()? {
            all.push(heard);
        }
        Ok(all)
    }

    /// Exchanges OPENs and KEEPALIVEs.
    ///
    /// # Errors
    /// When the speaker does not.
    pub fn establish(&mut self, open: &[u8]) -> anyhow::Result<()> {
        self.say(open)?;
        self.say(&message(4, &[]))?;
        for kind in [1, 4] {
            let heard = self.hear()?.context("closed")?;
            ensure!(heard.kind == kind, "{heard:?} in place of type {kind}");
        }
        Ok(())
    }

    /// Hears what the speaker announces of IPv4 until its End-of-RIB.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn hear_table(
        &mut self,
        table: &mut std::collections::BTreeSet<u32>,
    ) -> anyhow::Result<()> {
        loop {
            let heard = self.hear()?.context("closed")?;
            if heard.kind == 2 && note_hosts(&heard.body, table)? {
                return Ok(());
            }
        }
    }

    /// Closes the sending half.
    pub fn finish(&self) {
        // It may be closed already.
        let _ = self.tcp.shutdown(Shutdown::Write);
    }
}

/// Host routes of an UPDATE of the speaker; `true` for an End-of-RIB.
///
/// # Errors
/// When lengths do not fit together or a prefix is no host.
pub fn note_hosts(
    body: &[u8],
    table: &mut std::collections::BTreeSet<u32>,
) -> anyhow::Result<bool> {
    let block = |at: usize| -> anyhow::Result<(usize, usize)> {
        let len = body.get(at..at + 2).context("a length")?;
        Ok((
            at + 2,
            at + 2 + usize::from(u16::from_be_bytes([len[0], len[1]])),
        ))
    };
    let hosts = |bytes: &[u8]| -> anyhow::Result<Vec<u32>> {
        ensure!(
            bytes.len().is_multiple_of(5),
            "{} bytes of /32",
            bytes.len()
        );
        let host = |host: &[u8]| u32::from_be_bytes([host[1], host[2], host[3], host[4]]);
        Ok(bytes.chunks(5).map(host).collect())
    };
    let (start, end) = block(0)?;
    for host in hosts(body.get(start..end).context("withdrawn routes")?)? {
        ensure!(table.remove(&host), "{host:x} was withdrawn and not there");
    }
    let (_, after) = block(end)?;
    let announced = hosts(body.get(after..).context("announced routes")?)?;
    table.extend(announced);
    Ok(body.len() == 4)
}

/// A whole message.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// An OPEN of AS 65001 without parameters but these, with the length before them.
#[must_use]
pub fn open_with(id: [u8; 4], hold: u16, parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4];
    body.extend_from_slice(&65001_u16.to_be_bytes());
    body.extend_from_slice(&hold.to_be_bytes());
    body.extend_from_slice(&id);
    body.extend_from_slice(parameters);
    message(1, &body)
}

/// A plain OPEN: IPv4 only, no capability at all.
#[must_use]
pub fn open() -> Vec<u8> {
    open_with([10, 99, 0, 1], 90, &[0])
}
