//! Servers that real programs talk to: as little of HTTP and DNS as curl and dig ask for.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use eip_lab::{netns::Ns, wait};

/// Ports of the two.
pub const HTTP: u16 = 8080;
/// As [`HTTP`].
pub const DNS: u16 = 5353;
/// How long before a server looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);

/// Servers that are up until dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Serves HTTP and DNS on every address of a namespace.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(ns: &Ns) -> anyhow::Result<Self> {
        // Both families: an IPv4 client is shown as a mapped address.
        let any = Ipv6Addr::UNSPECIFIED;
        let (http, dns, dns_tcp) = ns.run(|| -> anyhow::Result<_> {
            let http = TcpListener::bind((any, HTTP))?;
            let dns_tcp = TcpListener::bind((any, DNS))?;
            let dns = UdpSocket::bind((any, DNS))?;
            http.set_nonblocking(true)?;
            dns_tcp.set_nonblocking(true)?;
            dns.set_read_timeout(Some(TICK))?;
            Ok((http, dns, dns_tcp))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let [one, two, three] = [(); 3].map(|()| Arc::clone(&stop));
        let threads = vec![
            ns.spawn(move || accept(&http, &one, serve_http))?,
            ns.spawn(move || accept(&dns_tcp, &two, serve_dns_tcp))?,
            ns.spawn(move || serve_dns(&dns, &three))?,
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, serve: fn(TcpStream) -> std::io::Result<()>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                // The asker notices what went wrong.
                let _ = stream.set_nonblocking(false).and_then(|()| serve(stream));
            }
            Err(_) => wait::pause(TICK),
        }
    }
}

/// Answers any request with as many bytes as its path says.
fn serve_http(stream: TcpStream) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::from("more");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let size = path.trim_start_matches('/').parse().unwrap_or(0);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    writer.write_all(head.as_bytes())?;
    writer.write_all(&vec![b'x'; size])
}

fn serve_dns(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(answer) = buffer.get(..length).and_then(answer) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_dns_tcp(mut stream: TcpStream) -> std::io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    let answer = answer(&query).unwrap_or_default();
    let length = u16::try_from(answer.len()).unwrap_or(0);
    stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())
}

/// Any name has as many addresses as its first label is long (RFC 1035 section 4): a long one makes an
/// answer that has to be cut into fragments.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let name = question.iter().position(|byte| *byte == 0)?;
    let question = question.get(..name + 5)?;
    let count = u16::from(*question.first()?) * 10;
    let mut message = query.get(..2)?.to_vec();
    // Response, recursion desired and available; one question, some answers.
    message.extend([0x81, 0x80, 0, 1]);
    message.extend(count.to_be_bytes());
    message.extend([0; 4]);
    message.extend(question);
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        // A pointer to the name, A, IN, a minute, four bytes.
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, high, low]);
    }
    Some(message)
}
