//! What can be seen of a session from outside.

use std::{fmt, net::Ipv4Addr};

use serde::Serialize;

use super::{Origin, Session, Silence, State};
use crate::announce::bgp::wire::{Family, Message, Reason, UpdateSummary};

/// Messages and changes since the session object was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it all")]
pub struct Counters {
    pub opens_sent: u64,
    pub opens_received: u64,
    pub updates_sent: u64,
    pub updates_received: u64,
    pub notifications_sent: u64,
    pub notifications_received: u64,
    pub keepalives_sent: u64,
    pub keepalives_received: u64,
    pub refreshes_sent: u64,
    pub refreshes_received: u64,
    /// Prefixes the peer announced; all were dropped.
    pub prefixes_received: u64,
    /// UPDATEs whose attributes could not be read to their end (RFC 7606).
    pub malformed_received: u64,
    /// Times the session has come up.
    pub established: u64,
    /// Times it has gone down again.
    pub lost: u64,
}

impl Counters {
    pub(super) fn count_received(&mut self, message: &Message<'_>) {
        let counter = match message {
            Message::Open(_) => &mut self.opens_received,
            Message::Update(_) => &mut self.updates_received,
            Message::Notification(_) => &mut self.notifications_received,
            Message::Keepalive => &mut self.keepalives_received,
            Message::RouteRefresh(_) => &mut self.refreshes_received,
        };
        *counter += 1;
    }

    pub(super) fn count_update(&mut self, summary: UpdateSummary) {
        self.prefixes_received += u64::from(summary.announced);
        self.malformed_received += u64::from(summary.is_malformed);
    }
}

/// The last NOTIFICATION in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// Code and subcode; of a hard reset what it stands for.
    pub reason: Reason,
    /// The peer's text, escaped, or the data in hex.
    pub text: Option<String>,
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.reason.to_wire();
        write!(f, "{code}/{subcode} {}", self.reason.name())?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl Serialize for LastError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let (code, subcode) = self.reason.to_wire();
        let mut object = serializer.serialize_struct("LastError", 4)?;
        object.serialize_field("code", &code)?;
        object.serialize_field("subcode", &subcode)?;
        object.serialize_field("reason", self.reason.name())?;
        object.serialize_field("text", &self.text)?;
        object.end()
    }
}

/// Why a session that was up is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// We ended it with a NOTIFICATION.
    Sent(Reason),
    /// The peer did.
    Received(Reason),
    /// The connection ended without one.
    Closed,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, reason) = match self {
            Self::Sent(reason) => ("sent", reason),
            Self::Received(reason) => ("received", reason),
            Self::Closed => return f.write_str("the connection was closed without a NOTIFICATION"),
        };
        let (code, subcode) = reason.to_wire();
        write!(f, "{who} {code}/{subcode} {}", reason.name())
    }
}

impl Serialize for Loss {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One family of an established session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum FamilySnapshot {
    /// It is announced.
    Announced {
        /// Routes the peer has.
        advertised: usize,
        /// Routes it has still to be told about.
        pending: usize,
    },
    /// It is not.
    Silent {
        /// Why.
        reason: Silence,
    },
}

/// A session at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionSnapshot {
    /// State.
    pub state: State,
    /// Who opened the established connection.
    pub origin: Option<Origin>,
    /// The peer's AS, once agreed.
    pub peer_as: Option<u32>,
    /// The peer's BGP identifier, once agreed.
    pub peer_id: Option<Ipv4Addr>,
    /// Hold time in seconds, once agreed; 0 for none.
    pub hold_time_s: Option<u64>,
    /// IPv4, while established.
    pub ipv4: Option<FamilySnapshot>,
    /// IPv6, while established.
    pub ipv6: Option<FamilySnapshot>,
    /// The newest table of which everything has been written to the peer's connection.
    pub settled_generation: Option<u64>,
    /// Why it went down the last time it was up.
    pub last_loss: Option<Loss>,
    /// Last NOTIFICATION sent.
    pub last_sent: Option<LastError>,
    /// Last NOTIFICATION received.
    pub last_received: Option<LastError>,
    /// Counters.
    pub counters: Counters,
}

impl Session {
    /// What can be seen now.
    #[must_use]
    pub fn snapshot(&self) -> SessionSnapshot {
        let connection = self.connections.established();
        let agreement = connection.and_then(super::Connection::agreement);
        let export = connection.and_then(super::Connection::export);
        let family = |family: Family| {
            export.map(|export| match export.progress(family) {
                Ok((advertised, pending)) => FamilySnapshot::Announced {
                    advertised,
                    pending,
                },
                Err(reason) => FamilySnapshot::Silent { reason },
            })
        };
        SessionSnapshot {
            state: self.state(),
            origin: Origin::ALL
                .into_iter()
                .find(|o| self.connections.is_established(*o)),
            peer_as: agreement.map(|agreement| agreement.peer_as),
            peer_id: agreement.map(|agreement| agreement.peer_id),
            hold_time_s: agreement.map(|agreement| agreement.hold_time.as_secs()),
            ipv4: family(Family::Ipv4),
            ipv6: family(Family::Ipv6),
            settled_generation: export
                .filter(|export| export.is_settled())
                .map(super::Export::generation),
            last_loss: self.last_loss,
            last_sent: self.last_sent.clone(),
            last_received: self.last_received.clone(),
            counters: self.counters,
        }
    }
}
