//! One task per peer: carries events to the [`Session`] and out what it decides.
//!
//! Cancel safe at its one `select!`: everything that is waited for keeps its state outside of the
//! future. The task ends by itself when its peer is no longer wanted or the speaker shuts down.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tracing::{debug, info, warn};

use super::{
    Board, Exit, Intent, PeerStatus,
    faults::Faults,
    path::Path,
    socket,
    stream::{Arrived, Stream},
    wanted::{Ending, seed},
};
use crate::announce::bgp::{
    bfd::Service,
    config::{PeerAs, PeerConfig},
    fsm::{Identity, Input, LastError, Loss, Origin, Output, Session, SessionSnapshot, State},
    wire::{Message, SizeLimit},
};

/// Reads of one connection in one turn.
const READS_PER_TURN: usize = 32;

type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// The task of one peer.
pub(super) struct PeerTask {
    pub(super) identity: Identity,
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) dialled: Option<Stream>,
    pub(super) accepted: Option<Stream>,
    dial: Option<Dial>,
    /// A connection that the session has not taken or refused yet.
    arriving: Option<TcpStream>,
    closing: JoinSet<()>,
    pub(super) intent: watch::Receiver<Intent>,
    incoming: mpsc::Receiver<TcpStream>,
    status: watch::Sender<PeerStatus>,
    board: Arc<Board>,
    /// Sessions start then even when the table is not complete.
    pub(super) start_by: Instant,
    /// The session is wanted; a strict BFD may still hold it back.
    pub(super) is_started: bool,
    pub(super) path: Path,
    pub(super) transport_error: Option<String>,
    faults: Faults,
}

/// What woke the task.
enum Event {
    Intent,
    Incoming(TcpStream),
    Dialled(io::Result<TcpStream>),
    Ready(Origin),
    Path,
    Timer,
}

impl PeerTask {
    #[expect(clippy::too_many_arguments, reason = "its surroundings, once")]
    pub(super) fn new(
        identity: Identity,
        config: PeerConfig,
        intent: watch::Receiver<Intent>,
        incoming: mpsc::Receiver<TcpStream>,
        status: watch::Sender<PeerStatus>,
        board: Arc<Board>,
        start_by: Instant,
        bfd: Service,
    ) -> Self {
        let table = intent.borrow().table_of(&config).clone();
        let session = Session::new(identity.clone(), config.clone(), table, seed(&config.name));
        Self {
            identity,
            config,
            session,
            dialled: None,
            accepted: None,
            dial: None,
            arriving: None,
            closing: JoinSet::new(),
            intent,
            incoming,
            status,
            board,
            start_by,
            is_started: false,
            path: Path::new(bfd),
            transport_error: None,
            faults: Faults::default(),
        }
    }

    /// Runs until the peer is removed or the speaker shuts down, then closes in good order.
    pub(super) async fn run(mut self) {
        let ending = loop {
            if let Some(ending) = self.take_intent() {
                break ending;
            }
            self.flush();
            self.publish();
            match self.next_event().await {
                None => break Ending::Exit(Exit::Keep),
                Some(event) => self.note(event),
            }
            // Not in the select: a busy connection must not keep timers waiting.
            self.run_timers();
        };
        self.end(ending).await;
        while self.closing.join_next().await.is_some() {}
        // Last, so that the peer has dealt with the end of the session before that of BFD.
        self.path.close().await;
    }

    async fn next_event(&mut self) -> Option<Event> {
        let deadline = self.next_deadline();
        tokio::select! {
            biased;
            changed = self.intent.changed() => changed.ok().map(|()| Event::Intent),
            Some(stream) = self.incoming.recv() => Some(Event::Incoming(stream)),
            result = outcome(&mut self.dial) => Some(Event::Dialled(result)),
            () = self.path.changed() => Some(Event::Path),
            () = ready(self.dialled.as_ref()) => Some(Event::Ready(Origin::Dialled)),
            () = ready(self.accepted.as_ref()) => Some(Event::Ready(Origin::Accepted)),
            Some(_) = self.closing.join_next() => Some(Event::Timer),
            () = wait_until(deadline) => Some(Event::Timer),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let start = (!self.is_started).then_some(self.start_by);
        let drain = self.intent.borrow().drain.map(|drain| drain.withdraw_at);
        let drain = drain.filter(|at| *at > Instant::now());
        [self.session.next_deadline(), start, drain]
            .into_iter()
            .flatten()
            .min()
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Intent | Event::Timer => {}
            Event::Path => self.note_path(),
            Event::Incoming(stream) => self.note_incoming(stream),
            Event::Dialled(result) => self.note_dialled(result),
            Event::Ready(origin) => self.read(origin),
        }
    }

    fn note_incoming(&mut self, stream: TcpStream) {
        let is_internal = self.is_internal();
        let prepared = socket::prepare_accepted(&stream, &self.config, is_internal);
        match prepared.and_then(|()| socket::endpoints(&stream)) {
            Ok(endpoints) => {
                self.arriving = Some(stream);
                self.step(Input::Accepted(endpoints));
            }
            Err(error) => debug!(%error, "accepted connection is unusable"),
        }
    }

    fn note_dialled(&mut self, result: io::Result<TcpStream>) {
        self.dial = None;
        let result = result.and_then(|stream| Ok((socket::endpoints(&stream)?, stream)));
        match result {
            Ok((endpoints, stream)) => {
                self.transport_error = None;
                self.arriving = Some(stream);
                self.step(Input::Dialled(endpoints));
            }
            Err(error) => {
                self.note_unreachable(error.to_string());
                self.step(Input::DialFailed);
            }
        }
    }

    fn note_unreachable(&mut self, text: String) {
        if self.faults.note_unreachable(&text) {
            warn!(error = %text, "cannot connect");
        }
        self.transport_error = Some(text);
    }

    /// A segment with a wrong key is dropped without an answer (RFC 2385 §2).
    fn unanswered(&self) -> String {
        let seconds = self.config.session.connect_timeout.as_secs();
        let hint = match self.config.transport.password {
            Some(_) => "; the password may not be the peer's",
            None => "; the peer may want a password, or not know this address",
        };
        format!("no answer within {seconds} s{hint}")
    }

    fn is_internal(&self) -> bool {
        let session = &self.config.session;
        let local_as = session.local_as.unwrap_or(self.identity.local_as);
        match session.peer_as {
            PeerAs::Internal => true,
            PeerAs::External => false,
            PeerAs::Number(asn) => asn == local_as,
        }
    }

    pub(super) fn run_timers(&mut self) {
        let now = Instant::now();
        if self
            .session
            .next_deadline()
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        // What has already arrived counts before any timer does.
        self.read(Origin::Dialled);
        self.read(Origin::Accepted);
        let outputs = self.session.process(Input::Timer, Instant::now());
        if outputs
            .iter()
            .any(|output| matches!(output, Output::CancelDial))
        {
            self.note_unreachable(self.unanswered());
        }
        self.carry_out(outputs);
    }

    /// Hands over all messages that are there, up to a turn's worth.
    pub(super) fn read(&mut self, origin: Origin) {
        for _ in 0..READS_PER_TURN {
            let Some(stream) = self.stream(origin) else {
                return;
            };
            match stream.read() {
                Arrived::Nothing => return,
                Arrived::End => return self.note_end(origin),
                Arrived::Bytes => self.take_messages(origin),
            }
        }
    }

    fn note_end(&mut self, origin: Origin) {
        // Who closes without a word has said nothing that could be shown instead.
        if self.session.state() != State::Established {
            self.note_unreachable(
                "the peer closed the connection before it was a session".to_owned(),
            );
        }
        self.step(Input::Closed(origin));
    }

    fn take_messages(&mut self, origin: Origin) {
        loop {
            let stream = match origin {
                Origin::Dialled => self.dialled.as_mut(),
                Origin::Accepted => self.accepted.as_mut(),
            };
            let Some(stream) = stream else { return };
            let now = Instant::now();
            let outputs = match stream.framer.next_message() {
                Ok(None) => return,
                Ok(Some(message)) => {
                    let is_open = matches!(message, Message::Open(_));
                    let outputs = self.session.process(Input::Message(origin, message), now);
                    if is_open && self.session.limit(origin) == SizeLimit::Extended {
                        stream.framer.allow_extended();
                    }
                    outputs
                }
                Err(error) => self.session.process(Input::BadMessage(origin, error), now),
            };
            self.carry_out(outputs);
        }
    }

    pub(super) fn flush(&mut self) {
        let now = Instant::now();
        let streams = [
            (Origin::Dialled, &mut self.dialled),
            (Origin::Accepted, &mut self.accepted),
        ];
        for (origin, stream) in streams {
            if let Some(stream) = stream
                && stream.flush(origin, &mut self.session)
            {
                // The answer to this input is empty: it only moves a timer.
                let _ = self.session.process(Input::Taken(origin), now);
            }
        }
    }

    pub(super) fn step(&mut self, input: Input<'_>) {
        let outputs = self.session.process(input, Instant::now());
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Dial => {
                    let dial = socket::dial(self.config.transport.clone(), self.is_internal());
                    self.dial = Some(Box::pin(dial));
                }
                Output::CancelDial => self.dial = None,
                Output::Send(origin, message) => self.send(origin, &message),
                Output::Close(origin) => {
                    if let Some(stream) = self.stream_slot(origin).take() {
                        self.closing.spawn(stream.close());
                    }
                }
                Output::Reject(_, message) => {
                    if let Some(tcp) = self.arriving.take() {
                        let mut stream = Stream::new(tcp);
                        stream.push(&message);
                        self.closing.spawn(stream.close());
                    }
                }
                Output::Up(agreement) => {
                    info!(asn = agreement.peer_as, "session established");
                    self.transport_error = None;
                    self.faults.end();
                }
                Output::Down => {
                    let session = self.session.snapshot();
                    let reason = session.last_loss.map(|loss| loss.to_string());
                    warn!(reason, text = last_text(&session), "session lost");
                    self.faults.note_loss(&session);
                }
            }
        }
    }

    /// The first message on a connection that has just come makes it a part of the session.
    fn send(&mut self, origin: Origin, message: &[u8]) {
        let arriving = self
            .stream(origin)
            .is_none()
            .then(|| self.arriving.take())
            .flatten();
        let slot = self.stream_slot(origin);
        if let Some(tcp) = arriving {
            *slot = Some(Stream::new(tcp));
        }
        if let Some(stream) = slot {
            stream.push(message);
        }
    }

    fn stream_slot(&mut self, origin: Origin) -> &mut Option<Stream> {
        match origin {
            Origin::Dialled => &mut self.dialled,
            Origin::Accepted => &mut self.accepted,
        }
    }

    fn stream(&mut self, origin: Origin) -> Option<&mut Stream> {
        self.stream_slot(origin).as_mut()
    }

    pub(super) fn is_flushed(&self) -> bool {
        [&self.dialled, &self.accepted]
            .into_iter()
            .flatten()
            .all(Stream::is_flushed)
    }

    pub(super) fn publish(&mut self) {
        let snapshot = self.session.snapshot();
        if self.faults.note_errors(&snapshot) {
            let show = |error: &Option<LastError>| match error {
                Some(error) => error.to_string(),
                None => "none".to_owned(),
            };
            let (sent, received) = (show(&snapshot.last_sent), show(&snapshot.last_received));
            warn!(
                last_sent = sent,
                last_received = received,
                "session refused"
            );
        }
        let is_flushed = self.is_flushed();
        let is_new = self.status.send_if_modified(|status| {
            let before: State = status.session.state;
            // What an earlier look has seen written stays written for as long as the session lasts.
            let known = status.session.settled_generation;
            let known = known.filter(|_| is_same_session(&status.session, &snapshot));
            let written = snapshot.settled_generation.filter(|_| is_flushed);
            let settled_generation = written.or(known);
            let session = SessionSnapshot {
                settled_generation,
                ..snapshot.clone()
            };
            let bfd = self.path.status();
            if status.session == session
                && status.bfd == bfd
                && status.transport_error == self.transport_error
                && status.address == self.config.transport.address
            {
                return false;
            }
            if before != session.state {
                status.since = SystemTime::now();
            }
            status.address = self.config.transport.address;
            status.session = session;
            status.bfd = bfd;
            status.transport_error.clone_from(&self.transport_error);
            true
        });
        if is_new {
            self.board.changes.send_replace(());
        }
    }
}

/// What the operator at the other end had to say about the end of the session, escaped (RFC 9003).
fn last_text(session: &SessionSnapshot) -> Option<&str> {
    match session.last_loss {
        Some(Loss::Received(_)) => session.last_received.as_ref()?.text.as_deref(),
        Some(Loss::Sent(_) | Loss::Closed) | None => None,
    }
}

pub(super) async fn ready(stream: Option<&Stream>) {
    match stream {
        // An error is met again, and dealt with, by the read that follows.
        Some(stream) => stream.ready().await.unwrap_or_default(),
        None => pending().await,
    }
}

async fn outcome(dial: &mut Option<Dial>) -> io::Result<TcpStream> {
    match dial {
        Some(dial) => dial.await,
        None => pending().await,
    }
}

pub(super) async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

fn is_same_session(before: &SessionSnapshot, now: &SessionSnapshot) -> bool {
    let is_up = [before.state, now.state] == [State::Established; 2];
    is_up && before.counters.established == now.counters.established
}
