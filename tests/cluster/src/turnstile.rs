//! A proxy in front of the API server that lets a set number of writes through and holds the next one:
//! so a controller can be killed between any two of its writes, and not about there.
//!
//! `kubectl proxy` ends TLS and has the token; what is counted is plain HTTP/1.1. Only writes of bindings
//! count: Leases and Events say nothing about what is served.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use eip_lab::wait;

use crate::{control_plane::ControlPlane, process::Process};

/// Where `kubectl proxy` listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8001);
/// Where the turnstile does.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8002);
/// Time the proxy has to listen.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longest body that is taken.
const BODY_MAX: usize = 4 << 20;

/// The proxy; gone when dropped.
#[derive(Debug)]
pub struct Turnstile {
    _proxy: Process,
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Gate {
    left: AtomicU32,
    is_holding: AtomicBool,
    is_over: AtomicBool,
}

impl Gate {
    /// Whether one more write may pass.
    fn passes(&self) -> bool {
        let taken = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        taken.is_ok()
    }
}

impl Turnstile {
    /// Starts it with the rights of a service account. Nothing passes that writes.
    ///
    /// # Errors
    /// The proxy does not come up.
    pub fn start(control: &ControlPlane, account: &str) -> anyhow::Result<Self> {
        let proxy = control.proxy(account, PROXY.port())?;
        let gate = Arc::new(Gate::default());
        let ns = control.ns();
        let listens = || ns.run(|| TcpStream::connect(PROXY)).is_ok();
        wait::wait_until(PATIENCE, "kubectl proxy listens", listens)?;
        let listener = ns.run(|| TcpListener::bind(ADDRESS))?;
        listener.set_nonblocking(true)?;
        let inside = Arc::clone(&gate);
        let thread = ns.spawn(move || accept(&listener, &inside))?;
        Ok(Self {
            _proxy: proxy,
            gate,
            thread: Some(thread),
        })
    }

    /// Its address as that of an API server.
    #[must_use]
    pub fn server(&self) -> String {
        format!("http://{ADDRESS}")
    }

    /// Lets some writes through, and holds the one after them.
    pub fn allow(&self, writes: u32) {
        self.gate.is_holding.store(false, Ordering::SeqCst);
        self.gate.left.store(writes, Ordering::SeqCst);
    }

    /// Whether a write is held. It never arrives.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.gate.is_holding.load(Ordering::SeqCst)
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.gate.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, gate: &Arc<Gate>) {
    while !gate.is_over.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            wait::pause(Duration::from_millis(2));
            continue;
        };
        let gate = Arc::clone(gate);
        // Ends with its connection, which ends with the client or the proxy.
        thread::spawn(move || {
            if let Err(error) = carry(client, &gate) {
                eprintln!("turnstile: {error:#}");
            }
        });
    }
}

/// Carries a connection, request by request; answers go back as they come.
fn carry(client: TcpStream, gate: &Gate) -> anyhow::Result<()> {
    client.set_nonblocking(false)?;
    let mut server = TcpStream::connect(PROXY).context("connect to kubectl proxy")?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    let copying = thread::spawn(move || {
        // A killed client is no error here.
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut requests = BufReader::new(client);
    while let Some(request) = read_request(&mut requests)? {
        if request.is_write && !gate.passes() {
            gate.is_holding.store(true, Ordering::SeqCst);
            // Until the client is gone.
            let _ = io::copy(&mut requests, &mut io::sink());
            break;
        }
        if server.write_all(&request.bytes).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = copying.join();
    Ok(())
}

struct Request {
    bytes: Vec<u8>,
    is_write: bool,
}

/// A whole request; nothing at the end of the connection.
fn read_request(from: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Request>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        // A connection that breaks is a client that was killed.
        if !matches!(from.read_line(&mut head), Ok(1..)) {
            return Ok(None);
        }
        if head[before..].trim_end().is_empty() {
            break;
        }
    }
    let lower = head.to_ascii_lowercase();
    let mut words = lower.split_whitespace();
    let (method, path) = (words.next(), words.next());
    let is_write = method != Some("get") && path.is_some_and(|path| path.contains("/eipbindings"));
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
    anyhow::ensure!(
        length <= BODY_MAX && !lower.contains("\ntransfer-encoding:"),
        "cannot carry {head}"
    );
    let mut bytes = head.into_bytes();
    let start = bytes.len();
    bytes.resize(start + length, 0);
    Ok(from
        .read_exact(&mut bytes[start..])
        .ok()
        .map(|()| Request { bytes, is_write }))
}
