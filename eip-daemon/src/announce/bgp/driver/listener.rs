//! Listening sockets and the keys on them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{ListenerStatus, roster::Peers, socket};
use crate::announce::bgp::config::{Neighbour, Password, PeerConfig, Transport};

/// Accepted connections nobody has looked at.
const ACCEPTED: usize = 16;
/// Until an address that cannot be bound is tried again: another speaker may hold the port.
const RETRY: Duration = Duration::from_secs(5);

/// One listening address.
struct Listener {
    address: SocketAddr,
    socket: Option<Arc<TcpListener>>,
    error: Option<String>,
    /// Keys that are on the socket.
    keys: BTreeMap<IpNet, (Transport, Password)>,
}

/// All listening addresses.
pub(super) struct Listeners {
    sockets: Vec<Listener>,
    accepted: mpsc::Receiver<(TcpStream, SocketAddr)>,
    sender: mpsc::Sender<(TcpStream, SocketAddr)>,
    tasks: JoinSet<()>,
    retry_at: Instant,
}

impl Listeners {
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let (sender, accepted) = mpsc::channel(ACCEPTED);
        let listener = |address: &SocketAddr| Listener {
            address: *address,
            socket: None,
            error: None,
            keys: BTreeMap::new(),
        };
        Self {
            sockets: addresses.iter().map(listener).collect(),
            accepted,
            sender,
            tasks: JoinSet::new(),
            retry_at: Instant::now(),
        }
    }

    /// Opens what is closed and brings the keys in line: of the peers whose address is known, and
    /// of the ranges that are configured. Sockets that are open stay open.
    pub(super) fn set_peers(&mut self, configured: &Peers, known: &Peers) {
        let wanted: BTreeMap<IpNet, (Transport, Password)> = known
            .values()
            .chain(configured.values())
            .filter_map(key)
            .collect();
        let now = Instant::now();
        let is_due = now >= self.retry_at;
        if is_due {
            self.retry_at = now + RETRY;
        }
        for listener in &mut self.sockets {
            if listener.socket.is_none()
                && is_due
                && let Some(socket) = listener.open()
            {
                // Keys first: a peer's SYN must not arrive before its key.
                listener.set_keys(&wanted);
                self.tasks.spawn(accept_all(socket, self.sender.clone()));
            } else {
                listener.set_keys(&wanted);
            }
        }
    }

    /// The next connection; `None` when it is time for [`Listeners::set_peers`] to try again.
    pub(super) async fn accept(&mut self) -> Option<(TcpStream, SocketAddr)> {
        let is_waiting = self
            .sockets
            .iter()
            .any(|listener| listener.socket.is_none());
        tokio::select! {
            accepted = self.accepted.recv() => accepted,
            () = sleep_until(self.retry_at), if is_waiting => None,
        }
    }

    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let status = |listener: &Listener| ListenerStatus {
            address: listener.address,
            error: listener.error.clone(),
        };
        self.sockets.iter().map(status).collect()
    }

    /// Stops listening.
    pub(super) fn close(&mut self) {
        self.tasks.abort_all();
        self.sockets.clear();
    }
}

impl Listener {
    fn open(&mut self) -> Option<Arc<TcpListener>> {
        match socket::listen(self.address) {
            Ok(listener) => {
                let listener = Arc::new(listener);
                if self.error.take().is_some() {
                    info!(address = %self.address, "listening");
                }
                self.socket = Some(Arc::clone(&listener));
                Some(listener)
            }
            Err(error) => {
                let text = error.to_string();
                if self.error.as_ref() != Some(&text) {
                    warn!(address = %self.address, error = %text, "cannot listen");
                    self.error = Some(text);
                }
                None
            }
        }
    }

    fn set_keys(&mut self, keys: &BTreeMap<IpNet, (Transport, Password)>) {
        let Some(socket) = &self.socket else { return };
        let is_ipv4 = self.address.is_ipv4();
        let wanted: BTreeMap<IpNet, (Transport, Password)> = keys
            .iter()
            .filter(|(net, _)| net.addr().is_ipv4() == is_ipv4)
            .map(|(net, key)| (*net, key.clone()))
            .collect();
        if wanted == self.keys {
            return;
        }
        let mut error = None;
        for (net, (transport, _)) in &self.keys {
            if !wanted.contains_key(net) {
                error = socket::set_listener_key(socket, *net, transport, None)
                    .err()
                    .or(error);
            }
        }
        for (net, (transport, password)) in &wanted {
            error = socket::set_listener_key(socket, *net, transport, Some(password))
                .err()
                .or(error);
        }
        let error = error.map(|error| error.to_string());
        if let Some(text) = &error
            && self.error != error
        {
            warn!(address = %self.address, error = %text, "not all keys are set");
        }
        self.error = error;
        self.keys = wanted;
    }
}

/// Whose segments have to carry which key; nobody's where the address is not known yet.
fn key(peer: &PeerConfig) -> Option<(IpNet, (Transport, Password))> {
    let transport = &peer.transport;
    let password = transport.password.clone()?;
    let whose = match transport.neighbour {
        // Guests have the key of their range.
        Neighbour::Range(range) => range,
        Neighbour::Advertised if transport.address.is_unspecified() => return None,
        Neighbour::Address | Neighbour::Advertised => IpNet::from(transport.address),
    };
    Some((whose, (transport.clone(), password)))
}

async fn accept_all(
    listener: Arc<TcpListener>,
    connections: mpsc::Sender<(TcpStream, SocketAddr)>,
) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if connections.send(connection).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, or a connection that was reset while it waited.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
