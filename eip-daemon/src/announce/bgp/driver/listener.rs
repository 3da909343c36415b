//! Listening sockets and the keys on them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

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
    keys: Keys,
}

/// The keys of connections that peers dial, by whose segments have to carry them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Keys {
    by_source: BTreeMap<IpNet, (Transport, Password)>,
    /// Sources with two passwords: the kernel keeps one for an address, whatever the interface.
    ambiguous: BTreeSet<IpNet>,
}

impl Keys {
    fn of<'a>(peers: impl Iterator<Item = &'a PeerConfig>) -> Self {
        let mut keys = Self::default();
        for (source, (transport, password)) in peers.filter_map(key) {
            match keys.by_source.entry(source) {
                Entry::Vacant(place) => {
                    place.insert((transport, password));
                }
                Entry::Occupied(known) if known.get().1 != password => {
                    keys.ambiguous.insert(source);
                }
                Entry::Occupied(_) => {}
            }
        }
        keys
    }

    /// The interface of the peer whose key is in force.
    fn place_of(&self, source: &IpNet) -> String {
        let interface = self.by_source.get(source);
        let interface = interface.and_then(|(transport, _)| transport.interface.clone());
        interface.unwrap_or_else(|| "no interface".to_owned())
    }

    fn of_family(&self, is_ipv4: bool) -> Self {
        let is_of_it = |source: &IpNet| source.addr().is_ipv4() == is_ipv4;
        let mut keys = self.clone();
        keys.by_source.retain(|source, _| is_of_it(source));
        keys.ambiguous.retain(is_of_it);
        keys
    }
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
            keys: Keys::default(),
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
        let wanted = Keys::of(known.values().chain(configured.values()));
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

    fn set_keys(&mut self, keys: &Keys) {
        let Some(socket) = &self.socket else { return };
        let wanted = keys.of_family(self.address.is_ipv4());
        if wanted == self.keys {
            return;
        }
        let mut error = wanted.ambiguous.first().map(|source| {
            format!(
                "peers at {} have different passwords: connections from there need the one of {}",
                source.addr(),
                wanted.place_of(source)
            )
        });
        let mut set = |source: &IpNet, transport: &Transport, password: Option<&Password>| {
            let result = socket::set_listener_key(socket, *source, transport, password);
            if let Err(failed) = result {
                error = Some(failed.to_string());
            }
        };
        for (source, (transport, _)) in &self.keys.by_source {
            if !wanted.by_source.contains_key(source) {
                set(source, transport, None);
            }
        }
        for (source, (transport, password)) in &wanted.by_source {
            set(source, transport, Some(password));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::bgp::config::PeerAs;

    fn peer(name: &str, address: &str, interface: &str, password: &str) -> PeerConfig {
        let mut peer = PeerConfig::new(name, address.parse().unwrap(), PeerAs::External);
        peer.transport.interface = Some(interface.to_owned());
        peer.transport.password = Password::new(password).ok();
        peer
    }

    #[test]
    fn two_passwords_of_one_address_are_told_apart_from_one_said_twice() {
        let same = [
            peer("left", "fe80::1", "eth1", "secret"),
            peer("right", "fe80::1", "eth2", "secret"),
            peer("other", "192.0.2.1", "eth1", "other"),
        ];
        let keys = Keys::of(same.iter());
        assert_eq!((keys.by_source.len(), keys.ambiguous.len()), (2, 0));
        assert_eq!(keys.of_family(true).by_source.len(), 1);
        let mut different = same;
        different[1].transport.password = Password::new("another").ok();
        let keys = Keys::of(different.iter());
        let source = *keys.ambiguous.first().unwrap();
        assert_eq!(source.addr().to_string(), "fe80::1");
        assert_eq!(keys.place_of(&source), "eth1");
        assert_eq!(keys.of_family(true).ambiguous.len(), 0);
    }
}
