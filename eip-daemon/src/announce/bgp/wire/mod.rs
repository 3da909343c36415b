//! BGP-4 messages to and from bytes. No sockets, no clock, no state.
//!
//! Not a general codec: it writes what this speaker says and reads what it has to understand.
//! Received routes are checked for framing and counted in place, never stored.
//!
//! Invariants
//! - Decoding never panics and allocates nothing; what it returns is of fixed size or borrows.
//! - Nothing written exceeds the limit the session negotiated (4096, or 65535 by RFC 8654).

mod capability;
mod cursor;
mod framer;
mod notification;
mod open;
mod path;
mod reason;
mod received;
mod refresh;
mod update;

#[cfg(test)]
mod tests;

pub use capability::{Capabilities, GracefulRestart};
pub use framer::Framer;
pub use notification::{MAX_COMMUNICATION_LEN, Notification};
pub use open::{AS_TRANS, Open};
pub use path::{AsNumberWidth, PathAttributes};
pub use reason::Reason;
pub use received::UpdateSummary;
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::{NextHop, UpdateWriter, WirePrefix, encode_end_of_rib};

use serde::Serialize;

/// Marker, length, type (RFC 4271 §4.1).
pub const HEADER_LEN: usize = 19;
/// Longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;
/// Longest message with it.
pub const MAX_EXTENDED_LEN: usize = 65_535;

/// Address families this speaker announces; unicast in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in the order they are announced.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Address family identifier.
    #[must_use]
    pub fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of an AFI and SAFI, when it is one of ours.
    #[must_use]
    pub fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, SAFI_UNICAST) => Some(Self::Ipv4),
            (2, SAFI_UNICAST) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// Stable name, also used as metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

const SAFI_UNICAST: u8 = 1;

/// How long a message may be on one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SizeLimit {
    /// 4096 bytes.
    Standard,
    /// 65535 bytes; both sides sent the capability (RFC 8654 §4).
    Extended,
}

impl SizeLimit {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Standard => MAX_LEN,
            Self::Extended => MAX_EXTENDED_LEN,
        }
    }
}

/// Type of a message (RFC 4271 §4.1, RFC 2918 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// 1
    Open,
    /// 2
    Update,
    /// 3
    Notification,
    /// 4
    Keepalive,
    /// 5
    RouteRefresh,
}

impl MessageType {
    fn to_wire(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// Lengths a message of this type may have: RFC 4271 §6.1; OPEN and KEEPALIVE stay at 4096
    /// whatever was negotiated (RFC 8654 §4).
    fn accepts_length(self, len: usize, limit: SizeLimit) -> bool {
        match self {
            Self::Open => (29..=MAX_LEN).contains(&len),
            Self::Keepalive => len == HEADER_LEN,
            Self::Update | Self::RouteRefresh => (23..=limit.bytes()).contains(&len),
            Self::Notification => (21..=limit.bytes()).contains(&len),
        }
    }
}

/// One received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// OPEN.
    Open(Open),
    /// UPDATE, checked and counted.
    Update(UpdateSummary),
    /// NOTIFICATION.
    Notification(Notification<'a>),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH; `None` for a family or subtype that means nothing here (RFC 7313 §5).
    RouteRefresh(Option<RouteRefresh>),
}

/// The NOTIFICATION a message deserves that cannot be accepted.
pub type WireError = Notification<'static>;

/// The checked header of a message: its type and whole length.
///
/// Returns `None` while fewer than 19 bytes are there.
///
/// # Errors
/// 1/1, 1/2 with the length, 1/3 with the type, in the order of RFC 4271 §6.1.
pub fn decode_header(
    bytes: &[u8],
    limit: SizeLimit,
) -> Result<Option<(MessageType, usize)>, WireError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [marker @ .., high, low, kind] = header;
    if marker.iter().any(|byte| *byte != 0xff) {
        return Err(Notification::new(Reason::ConnectionNotSynchronized));
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let bad_length = || Notification::with_data(Reason::BadMessageLength, &[*high, *low]);
    if !(HEADER_LEN..=limit.bytes()).contains(&len) {
        return Err(bad_length());
    }
    let Some(message_type) = MessageType::from_wire(*kind) else {
        return Err(Notification::with_data(Reason::BadMessageType, &[*kind]));
    };
    if !message_type.accepts_length(len, limit) {
        return Err(bad_length());
    }
    Ok(Some((message_type, len)))
}

/// Decodes the body of a message whose header has been accepted.
///
/// # Errors
/// The NOTIFICATION to answer with.
pub fn decode_body(message_type: MessageType, body: &[u8]) -> Result<Message<'_>, WireError> {
    match message_type {
        MessageType::Open => Open::decode(body).map(Message::Open),
        MessageType::Update => UpdateSummary::decode(body).map(Message::Update),
        MessageType::Notification => Ok(Message::Notification(Notification::decode(body))),
        MessageType::Keepalive => Ok(Message::Keepalive),
        MessageType::RouteRefresh => RouteRefresh::decode(body).map(Message::RouteRefresh),
    }
}

/// Appends a KEEPALIVE (RFC 4271 §4.4).
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let start = begin_message(out, MessageType::Keepalive);
    finish_message(out, start);
}

/// Appends a header with a length still to be filled in and returns where the message starts.
fn begin_message(out: &mut Vec<u8>, message_type: MessageType) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, message_type.to_wire()]);
    start
}

/// Fills in the length of the message that starts at `start` and ends with `out`.
fn finish_message(out: &mut [u8], start: usize) {
    let len = out.len() - start;
    put_length(out, start + 16, len);
}

/// Writes a two-byte length. Every caller bounds `len` by a message's length beforehand.
fn put_length(out: &mut [u8], at: usize, len: usize) {
    debug_assert!(
        len <= MAX_EXTENDED_LEN,
        "length {len} does not fit a message"
    );
    let bytes = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&bytes);
    }
}
