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
        let interest = if self.is_flushed() {
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
