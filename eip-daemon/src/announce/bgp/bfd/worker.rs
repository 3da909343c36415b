//! The thread that runs all sessions: the only I/O of BFD.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    BfdSettings, BfdStatus, Target, Verdict,
    session::{Change, Reaction, Session},
    socket::{PORT, Packet, listen, receive, scope_id, sender},
    wire::{Control, State},
};

/// Until a socket that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Packets taken in one turn, so that a flood does not keep the timers waiting.
const TURN: usize = 256;
/// Nice value of the thread: the lowest there is.
const FIRST: i32 = -20;

/// What the worker is told. Unbounded: one entry per session that starts or ends.
#[derive(Debug)]
pub(super) enum Command {
    Add {
        id: u64,
        target: Target,
        settings: BfdSettings,
        status: watch::Sender<BfdStatus>,
    },
    Remove {
        id: u64,
    },
}

/// The way to the worker. Without it the worker ends.
#[derive(Debug)]
pub(super) struct Wake {
    commands: mpsc::Sender<Command>,
    event: Arc<EventFd>,
    next_id: AtomicU64,
}

impl Wake {
    /// Hands over a command, made with a number that nobody else has.
    pub(super) fn tell(&self, command: impl FnOnce(u64) -> Command) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Only a worker that has died does not listen; its sessions' statuses say so.
        let _ = self.commands.send(command(id));
        let _ = self.event.write(1);
        id
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        // The channel closes after this: the worker looks twice a second at the latest.
        let _ = self.event.write(1);
    }
}

/// One session with what it needs of the world.
struct Running {
    session: Session,
    target: Target,
    settings: BfdSettings,
    scope_id: u32,
    socket: Option<UdpSocket>,
    retry_at: Instant,
    status: watch::Sender<BfdStatus>,
}

/// The thread's own state.
pub(super) struct Worker {
    commands: mpsc::Receiver<Command>,
    event: Arc<EventFd>,
    ipv4: Listener,
    ipv6: Listener,
    sessions: BTreeMap<u64, Running>,
    seeds: RandomState,
}

/// The socket that takes packets of one family.
struct Listener {
    address: IpAddr,
    socket: Option<UdpSocket>,
    error: Option<String>,
    retry_at: Instant,
}

impl Worker {
    pub(super) fn spawn() -> io::Result<Wake> {
        let (sender, commands) = mpsc::channel();
        let event = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
        )?);
        let listener = |address: IpAddr| Listener {
            address,
            socket: None,
            error: None,
            retry_at: Instant::now(),
        };
        let mut worker = Self {
            commands,
            event: Arc::clone(&event),
            ipv4: listener(Ipv4Addr::UNSPECIFIED.into()),
            ipv6: listener(Ipv6Addr::UNSPECIFIED.into()),
            sessions: BTreeMap::new(),
            seeds: RandomState::new(),
        };
        std::thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || {
                go_first();
                while worker.turn() {}
            })?;
        Ok(Wake {
            commands: sender,
            event,
            next_id: AtomicU64::new(1),
        })
    }

    /// One round; `false` when nobody holds the service any more.
    fn turn(&mut self) -> bool {
        if !self.take_commands() {
            self.sessions.values_mut().for_each(Running::say_goodbye);
            return false;
        }
        let has = |is_ipv4: bool| {
            self.sessions
                .values()
                .any(|running| running.target.address.is_ipv4() == is_ipv4)
        };
        let (has_ipv4, has_ipv6) = (has(true), has(false));
        let now = Instant::now();
        self.ipv4.keep(has_ipv4, now);
        self.ipv6.keep(has_ipv6, now);
        // What has already arrived counts before any timer does.
        self.receive_all();
        let now = Instant::now();
        for running in self.sessions.values_mut() {
            running.open(now);
            if running.session.next_deadline().is_some_and(|at| at <= now) {
                let reaction = running.session.timer(now);
                running.carry_out(reaction);
            }
            let listener = if running.target.address.is_ipv4() {
                &self.ipv4
            } else {
                &self.ipv6
            };
            running.publish(listener.error.as_ref());
        }
        self.wait();
        true
    }

    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add {
                    id,
                    target,
                    settings,
                    status,
                }) => {
                    let running = Running::new(&self.seeds, id, target, settings, status);
                    self.sessions.insert(id, running);
                }
                Ok(Command::Remove { id }) => {
                    if let Some(mut running) = self.sessions.remove(&id) {
                        running.say_goodbye();
                    }
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn receive_all(&mut self) {
        for _ in 0..TURN {
            let sockets = [&self.ipv4.socket, &self.ipv6.socket];
            let packets: Vec<Packet> = sockets
                .into_iter()
                .flatten()
                .filter_map(|socket| receive(socket).ok())
                .collect();
            if packets.is_empty() {
                return;
            }
            for packet in packets {
                self.hand_over(&packet);
            }
        }
    }

    /// RFC 5880 §6.8.6, RFC 5881 §3: by our discriminator, and by the source before it is known.
    fn hand_over(&mut self, packet: &Packet) {
        let Some(control) = Control::decode(packet.bytes()) else {
            return;
        };
        let session = self.sessions.values_mut().find(|running| {
            running.is_from(packet.source)
                && (control.your_discriminator == 0
                    || control.your_discriminator == running.discriminator())
        });
        if let Some(running) = session
            && packet
                .ttl
                .is_some_and(|ttl| ttl >= running.settings.min_ttl)
        {
            let reaction = running.session.receive(&control, Instant::now());
            running.carry_out(reaction);
        }
    }

    fn wait(&self) {
        let sessions = self.sessions.values();
        let retries = [&self.ipv4, &self.ipv6]
            .into_iter()
            .filter(|listener| listener.error.is_some())
            .map(|listener| listener.retry_at);
        let deadline = sessions
            .filter_map(Running::next_deadline)
            .chain(retries)
            .min();
        // Half a second at most: that is how late the end of the service may be noticed.
        let most = Duration::from_millis(500);
        let timeout = deadline.map_or(most, |at| {
            at.saturating_duration_since(Instant::now()).min(most)
        });
        let sockets = [&self.ipv4.socket, &self.ipv6.socket];
        let mut waited = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        let sockets = sockets.into_iter().flatten();
        waited.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        // A signal ends the wait early, which does no harm.
        let _ = ppoll(&mut waited, Some(TimeSpec::from_duration(timeout)), None);
        let _ = self.event.read();
    }
}

impl Running {
    fn new(
        seeds: &RandomState,
        id: u64,
        target: Target,
        settings: BfdSettings,
        status: watch::Sender<BfdStatus>,
    ) -> Self {
        let now = Instant::now();
        let seed = seeds.hash_one(id);
        // The low half counts, so that no two are equal; the high half is new with each process.
        let number = u32::try_from(id & 0xffff).unwrap_or(1).max(1);
        let process = u32::try_from(seeds.hash_one(0_u64) >> 32).unwrap_or(0) & 0xffff_0000;
        Self {
            session: Session::new(settings, process | number, seed, now),
            scope_id: scope_id(&target),
            target,
            settings,
            socket: None,
            retry_at: now,
            status,
        }
    }

    fn discriminator(&self) -> u32 {
        self.session.discriminator()
    }

    fn is_from(&self, source: SocketAddr) -> bool {
        let is_there = match source {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id() == self.scope_id,
            SocketAddr::V4(_) | SocketAddr::V6(_) => true,
        };
        source.ip() == self.target.address && is_there
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.socket {
            Some(_) => self.session.next_deadline(),
            None => Some(self.retry_at),
        }
    }

    fn open(&mut self, now: Instant) {
        if self.socket.is_some() || now < self.retry_at {
            return;
        }
        self.retry_at = now + RETRY;
        self.scope_id = scope_id(&self.target);
        let opened = sender(&self.target, self.scope_id, self.discriminator());
        let error = opened.as_ref().err().map(ToString::to_string);
        self.socket = opened.ok();
        let peer = self.target.address;
        self.status.send_if_modified(|status| {
            let is_new = status.error != error;
            match &error {
                Some(error) if is_new => warn!(%peer, %error, "BFD cannot send"),
                None if is_new => info!(%peer, "BFD can send"),
                Some(_) | None => {}
            }
            status.error = error;
            is_new
        });
    }

    fn carry_out(&mut self, reaction: Reaction) {
        let Reaction { send, change } = reaction;
        if let Some(packet) = send {
            self.send(&packet);
        }
        let peer = self.target.address;
        match change {
            None => {}
            Some(Change::Up) => {
                info!(%peer, "BFD up");
                self.judge(Verdict::Alive);
            }
            Some(Change::SwitchedOff) => {
                info!(%peer, "BFD switched off by the peer");
                self.judge(Verdict::Unknown);
            }
            Some(Change::Down(diagnostic)) => {
                warn!(%peer, reason = ?diagnostic, "BFD down");
                let is_certain = self.session.is_remote_independent();
                self.judge(Verdict::Dead { is_certain });
            }
        }
    }

    fn judge(&self, verdict: Verdict) {
        self.status.send_modify(|status| {
            if matches!(verdict, Verdict::Dead { .. }) {
                status.lost += 1;
            }
            status.verdict = verdict;
        });
    }

    fn send(&mut self, packet: &Control) {
        let Some(socket) = &self.socket else { return };
        match socket.send(&packet.encode()) {
            // Nobody listens there; that is for the session to find out.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // The interface or the address has gone, and may come back with another index.
            Err(_) => self.socket = None,
        }
    }

    /// On purpose: the other side is told until it must have heard.
    fn say_goodbye(&mut self) {
        let packet = self.session.switch_off();
        for _ in 0..3 {
            self.send(&packet);
        }
    }

    fn publish(&self, listener_error: Option<&String>) {
        let session = &self.session;
        let detection = session.detection_time().as_millis();
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.state = session.state();
            status.remote_state = session.remote_state();
            status.diagnostic = session.diagnostic();
            if status.remote_state == State::AdminDown {
                status.verdict = Verdict::Unknown;
            }
            status.detection_time_ms = u64::try_from(detection).unwrap_or(u64::MAX);
            if let Some(error) = listener_error {
                status.error = Some(error.clone());
            } else if self.socket.is_some() {
                status.error = None;
            }
            *status != before
        });
    }
}

/// Before every ordinary thread of the machine, with this process' own work on routes. On Linux a nice
/// value is one thread's. Not a real-time class: this thread decodes what anybody sends to the port.
fn go_first() {
    if let Err(error) = rustix::process::setpriority_process(None, FIRST) {
        info!(%error, "BFD runs with no priority: CAP_SYS_NICE is missing");
    }
}

impl Listener {
    /// Open while it is needed.
    fn keep(&mut self, is_needed: bool, now: Instant) {
        if !is_needed {
            self.socket = None;
            self.error = None;
        } else if self.socket.is_none() && now >= self.retry_at {
            self.retry_at = now + RETRY;
            let opened = listen(self.address);
            let error = opened.as_ref().err().map(|error| {
                format!("listen on UDP port {PORT}: {error}; is another BFD daemon running?")
            });
            if let (Some(error), None) = (&error, &self.error) {
                warn!(%error, "BFD hears nothing");
            }
            self.error = error;
            self.socket = opened.ok();
        }
    }
}
