//! What goes into a session and what comes out of it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{Agreement, Origin};
use crate::announce::bgp::{
    config::SpeakerConfig,
    wire::{Message, Reason, WireError},
};

/// State of a session as RFC 4271 §8.2.2 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
pub enum State {
    /// Stopped, or waiting after an error; connections are refused.
    #[default]
    Idle,
    /// We are dialling.
    Connect,
    /// Waiting for the peer or for the next time to dial.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// OPENs agree.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// Stable name, also used as metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// What all sessions of a speaker have in common.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Our AS.
    pub local_as: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Host name, may be empty.
    pub hostname: String,
    /// Restart time of RFC 4724.
    pub restart_time: Duration,
}

impl From<&SpeakerConfig> for Identity {
    fn from(config: &SpeakerConfig) -> Self {
        Self {
            local_as: config.local_as,
            router_id: config.router_id,
            hostname: config.hostname.clone(),
            restart_time: config.restart_time,
        }
    }
}

/// Our end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// Our address of the connection.
    pub local: IpAddr,
    /// An IPv4 address of the same interface, for a connection over IPv6.
    pub other_ipv4: Option<Ipv4Addr>,
    /// A global IPv6 address of the same interface, for a connection over IPv4.
    pub other_ipv6: Option<Ipv6Addr>,
    /// The interface's link-local address, when the peer is on the same link.
    pub link_local: Option<Ipv6Addr>,
}

/// What becomes of our routes at the peer when a session is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteFate {
    /// The peer may keep them as graceful restart allows.
    Kept,
    /// The peer drops them: a hard reset where a plain NOTIFICATION would keep them (RFC 8538).
    Dropped,
}

/// How a session is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// The connection is closed without a word: what a crash looks like. The peer keeps routes if
    /// graceful restart was agreed.
    Silent,
    /// A Cease NOTIFICATION.
    Cease {
        /// Subcode.
        reason: Reason,
        /// For the operator at the other end, where the reason carries a text.
        text: String,
        /// What shall become of the routes.
        routes: RouteFate,
    },
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// `ManualStart` or `AutomaticStart`.
    Start,
    /// `ManualStop`.
    Stop(Farewell),
    /// The connection we dialled is there.
    Dialled(Endpoints),
    /// It is not, and will not be.
    DialFailed,
    /// The peer has connected.
    Accepted(Endpoints),
    /// A message arrived.
    Message(Origin, Message<'a>),
    /// Bytes arrived that are no message; the NOTIFICATION to answer with.
    BadMessage(Origin, WireError),
    /// The connection is gone.
    Closed(Origin),
    /// The peer's TCP has taken bytes.
    Taken(Origin),
    /// Packets do not get through to the peer (RFC 5882 §4.1); what shall become of the routes.
    PathDead(RouteFate),
    /// The time of `Session::next_deadline` has come.
    Timer,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a connection.
    Dial,
    /// Give up opening it.
    CancelDial,
    /// Send these bytes.
    Send(Origin, Vec<u8>),
    /// Send what is left, then close.
    Close(Origin),
    /// Close the connection that was just reported, after these bytes: it never was a part of
    /// the session.
    Reject(Origin, Vec<u8>),
    /// The session is up.
    Up(Agreement),
    /// The session was up and is not any more.
    Down,
}
