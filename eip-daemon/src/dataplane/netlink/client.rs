//! Requests over one netlink socket that is opened when needed and again when it dies.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST,
        NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    proto::{self, ConnectionHandle},
    sys::{AsyncSocket as _, SocketAddr, TokioSocket},
};

/// The kernel answers at once; what takes this long does not come any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A dump during which the kernel's tables changed is taken again, this often at most.
const DUMP_ATTEMPTS: usize = 4;

/// The kernel acknowledges no dump, it ends it. Asking for the acknowledgement makes netlink-proto wait
/// for that end: the family `netdev` does not mark its messages as parts of a dump (seen on 6.18), and
/// the first of them would count as the whole answer.
const DUMP: u16 = NLM_F_DUMP | NLM_F_ACK;

/// A netlink protocol to speak. Cancel safe: an abandoned request is forgotten by the connection.
pub(crate) struct Client<T: fmt::Debug> {
    protocol: isize,
    connection: Mutex<Option<ConnectionHandle<T>>>,
}

impl<T: fmt::Debug> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl<T> Client<T>
where
    T: NetlinkSerializable + NetlinkDeserializable + fmt::Debug + Clone + Send + Unpin + 'static,
{
    /// A client that opens its socket with the first request, in the network namespace of the thread
    /// that makes it.
    pub(crate) const fn new(protocol: isize) -> Self {
        Self {
            protocol,
            connection: Mutex::new(None),
        }
    }

    /// Everything of a kind. Taken again when it changed meanwhile.
    pub(crate) async fn dump(&self, request: T) -> io::Result<Vec<T>> {
        for _ in 1..DUMP_ATTEMPTS {
            let answer = self.exchange(request.clone(), DUMP).await?;
            if !answer.is_interrupted {
                return Ok(answer.messages);
            }
        }
        // The table changes faster than it can be read: an event wakes us again after this look.
        Ok(self.exchange(request, DUMP).await?.messages)
    }

    /// One object.
    pub(crate) async fn get(&self, request: T) -> io::Result<Option<T>> {
        Ok(self.exchange(request, 0).await?.messages.into_iter().next())
    }

    /// A change, acknowledged by the kernel.
    pub(crate) async fn change(&self, request: T, flags: u16) -> io::Result<()> {
        self.exchange(request, flags | NLM_F_ACK).await.map(|_| ())
    }

    async fn exchange(&self, request: T, flags: u16) -> io::Result<Answer<T>> {
        match self.try_exchange(request.clone(), flags).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.forget_connection();
                self.try_exchange(request, flags).await
            }
            answer => answer,
        }
    }

    async fn try_exchange(&self, request: T, flags: u16) -> io::Result<Answer<T>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        let answers = self
            .connection()?
            .request(message, SocketAddr::new(0, 0))
            .map_err(|_closed| io::Error::from(io::ErrorKind::ConnectionReset))?;
        tokio::time::timeout(ANSWER_TIMEOUT, collect(answers)).await?
    }

    fn connection(&self) -> io::Result<ConnectionHandle<T>> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = connection.as_ref() {
            return Ok(handle.clone());
        }
        let handle = connect(self.protocol)?;
        *connection = Some(handle.clone());
        Ok(handle)
    }

    fn forget_connection(&self) {
        *self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Opens a socket and leaves it to a task that ends with the last handle.
fn connect<T>(protocol: isize) -> io::Result<ConnectionHandle<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable + fmt::Debug + Send + Unpin + 'static,
{
    let (mut connection, handle, _unsolicited) =
        proto::new_connection_with_socket::<T, TokioSocket>(protocol)?;
    // Without the acknowledgement a request that was lost looks like one that was granted.
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    // The kernel filters dumps as asked and refuses what it does not understand (kernel 4.20).
    connection
        .socket_mut()
        .socket_mut()
        .set_netlink_get_strict_chk(true)?;
    tokio::spawn(connection);
    Ok(handle)
}

struct Answer<T> {
    messages: Vec<T>,
    is_interrupted: bool,
}

async fn collect<T>(answers: impl Stream<Item = NetlinkMessage<T>>) -> io::Result<Answer<T>> {
    let mut answers = std::pin::pin!(answers);
    let mut answer = Answer {
        messages: Vec::new(),
        is_interrupted: false,
    };
    let mut is_complete = false;
    while let Some(message) = answers.next().await {
        answer.is_interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                is_complete |= message.header.flags & NLM_F_MULTIPART == 0;
                answer.messages.push(inner);
            }
            NetlinkPayload::Error(error) if error.code.is_none() => is_complete = true,
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            NetlinkPayload::Done(_) => is_complete = true,
            _ => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
    if is_complete {
        Ok(answer)
    } else {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}
