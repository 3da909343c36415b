//! One TCP connection with its two buffers, both of bounded size.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use crate::announce::bgp::{
    fsm::{Origin, Session},
    wire::Framer,
};

/// Bytes written ahead of the socket. What is not in here yet can still be coalesced.
const WRITE_AHEAD: usize = 32 * 1024;
/// Bytes written in one turn, so that timers and the other connection get theirs.
const WRITE_TURN: usize = 512 * 1024;
/// How long the last bytes of a connection may take to leave.
const LINGER: Duration = Duration::from_secs(2);
/// How long to wait for the peer's end of a closed connection.
const FIN_WAIT: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) tcp: TcpStream,
    pub(super) framer: Framer,
    out: Vec<u8>,
    written: usize,
    /// The last turn ended before the session had nothing more to say.
    is_turn_over: bool,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Bytes, in the framer.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The end.
    End,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            framer: Framer::default(),
            out: Vec::new(),
            written: 0,
            is_turn_over: false,
        }
    }

    /// Queues a message of the session itself. There are few and small ones.
    pub(super) fn push(&mut self, message: &[u8]) {
        self.out.extend_from_slice(message);
    }

    /// Everything queued is in the kernel's hands.
    pub(super) fn is_flushed(&self) -> bool {
        self.written == self.out.len()
    }

    /// Waits until something can be done: reading always, writing when something waits.
    pub(super) async fn ready(&self) -> io::Result<()> {
        let interest = if self.is_flushed() && !self.is_turn_over {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        self.tcp.ready(interest).await.map(|_| ())
    }

    /// Reads what is there into the framer.
    pub(super) fn read(&mut self) -> Arrived {
        match self.tcp.try_read(self.framer.space()) {
            Ok(0) => Arrived::End,
            Ok(len) => {
                self.framer.advance(len);
                Arrived::Bytes
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::Nothing,
            Err(_) => Arrived::End,
        }
    }

    /// Lets the session write its routes as long as the socket takes bytes. Says whether it took
    /// any; an error is left to the next read, which meets it too.
    pub(super) fn flush(&mut self, origin: Origin, session: &mut Session) -> bool {
        let mut total = 0;
        while total < WRITE_TURN {
            if self.is_flushed() {
                self.out.clear();
                self.written = 0;
                session.write_routes(origin, &mut self.out, WRITE_AHEAD);
            }
            let waiting = self.out.get(self.written..).unwrap_or_default();
            if waiting.is_empty() {
                break;
            }
            match self.tcp.try_write(waiting) {
                Ok(len) => {
                    self.written += len;
                    total += len;
                }
                Err(_) => break,
            }
        }
        self.is_turn_over = total >= WRITE_TURN;
        total > 0
    }

    /// Sends what is queued, ends the stream and waits for the peer to do the same, all within
    /// bounds. A NOTIFICATION that a reset overtakes has been sent for nothing.
    pub(super) async fn close(self) {
        let Self {
            mut tcp,
            framer: _,
            out,
            written,
            is_turn_over: _,
        } = self;
        let waiting = out.get(written..).unwrap_or_default();
        let sent = timeout(LINGER, async {
            tcp.write_all(waiting).await?;
            tcp.shutdown().await
        });
        if let Ok(Ok(())) = sent.await {
            // Until the peer has read it; its bytes are of no interest any more.
            let _ = timeout(FIN_WAIT, async {
                let mut scrap = [0; 4096];
                while tcp.read(&mut scrap).await.is_ok_and(|len| len > 0) {}
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use tokio::net::TcpListener;

    use super::*;
    use crate::announce::bgp::{
        AttributeSet, PeerAs, PeerConfig, Route,
        fsm::{Endpoints, Identity, Input},
        route::RouteTable,
        wire::{Capabilities, Message, Open},
    };

    const PATIENCE: Duration = Duration::from_mins(1);

    fn established(routes: u32) -> Session {
        let identity = Identity {
            local_as: 65010,
            router_id: Ipv4Addr::new(10, 99, 0, 2),
            hostname: String::new(),
            restart_time: Duration::ZERO,
        };
        let peer = PeerConfig::new("peer", Ipv4Addr::LOCALHOST.into(), PeerAs::External);
        let route = |index: u32| Route {
            prefix: std::net::IpAddr::V4((0x6440_0000 + index).into()).into(),
            attributes: AttributeSet::default(),
        };
        let table = RouteTable::new((0..routes).map(route), true);
        let mut session = Session::new(identity, peer, table, 1);
        let endpoints = Endpoints {
            local: Ipv4Addr::LOCALHOST.into(),
            other_ipv4: None,
            other_ipv6: None,
            link_local: None,
        };
        let open = Open {
            asn: 65001,
            hold_time_s: 90,
            router_id: Ipv4Addr::new(10, 99, 0, 1),
            capabilities: Capabilities::default(),
        };
        for input in [
            Input::Start,
            Input::Dialled(endpoints),
            Input::Message(Origin::Dialled, Message::Open(open)),
            Input::Message(Origin::Dialled, Message::Keepalive),
        ] {
            session.process(input, Instant::now());
        }
        session
    }

    /// The peer takes everything at once: the socket never says that it can be written to again.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_left_after_a_turn_waits_for_nothing_else() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let reader = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 1 << 20];
            let mut total = 0;
            while let Ok(len @ 1..) = tcp.read(&mut bytes).await {
                total += len;
            }
            total
        });
        let mut stream = Stream::new(TcpStream::connect(address).await.unwrap());
        let mut session = established(500_000);
        let mut turns = 0;
        loop {
            turns += usize::from(stream.flush(Origin::Dialled, &mut session));
            if session.is_settled() && stream.is_flushed() {
                break;
            }
            let ready = timeout(PATIENCE, stream.ready()).await;
            ready.expect("it goes on by itself").unwrap();
        }
        assert!(turns > 1, "{turns} turns");
        drop(stream);
        assert!(reader.await.unwrap() > 4 * WRITE_TURN);
    }
}
