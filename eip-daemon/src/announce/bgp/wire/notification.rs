//! NOTIFICATION (RFC 4271 §4.5) with the text of RFC 9003 and the hard reset of RFC 8538.

use std::{borrow::Cow, fmt::Write as _};

use super::{MessageType, Reason, begin_message, finish_message};

/// Longest text of RFC 9003 §2, in bytes.
pub const MAX_COMMUNICATION_LEN: usize = 255;

/// A NOTIFICATION, borrowed when it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Code and subcode.
    pub reason: Reason,
    /// What follows them.
    pub data: Cow<'a, [u8]>,
}

impl Notification<'static> {
    /// A reason without data.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            data: Cow::Borrowed(&[]),
        }
    }

    /// A reason with the data its RFC asks for.
    #[must_use]
    pub fn with_data(reason: Reason, data: &[u8]) -> Self {
        Self {
            reason,
            data: Cow::Owned(data.to_vec()),
        }
    }

    /// A reason with a text for the operator at the other end, cut at a character boundary when
    /// it is longer than RFC 9003 allows. Reasons that carry no text, and an empty text, get none.
    #[must_use]
    pub fn with_communication(reason: Reason, text: &str) -> Self {
        let text = text
            .get(..text.floor_char_boundary(MAX_COMMUNICATION_LEN))
            .unwrap_or_default();
        let (true, Ok(len @ 1..)) = (reason.carries_communication(), u8::try_from(text.len()))
        else {
            return Self::new(reason);
        };
        let mut data = Vec::with_capacity(1 + text.len());
        data.push(len);
        data.extend_from_slice(text.as_bytes());
        Self {
            reason,
            data: Cow::Owned(data),
        }
    }

    /// RFC 8538 §3: wrapped so that a peer that would keep our routes over a NOTIFICATION drops
    /// them.
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let (code, subcode) = self.reason.to_wire();
        let mut data = Vec::with_capacity(2 + self.data.len());
        data.extend_from_slice(&[code, subcode]);
        data.extend_from_slice(&self.data);
        Self {
            reason: Reason::HardReset,
            data: Cow::Owned(data),
        }
    }
}

impl<'a> Notification<'a> {
    /// Reads the body of a message whose length the header check has accepted.
    pub(super) fn decode(body: &'a [u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self {
                reason: Reason::from_wire(*code, *subcode),
                data: Cow::Borrowed(data),
            },
            _ => Self {
                reason: Reason::from_wire(0, 0),
                data: Cow::Borrowed(&[]),
            },
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_message(out, MessageType::Notification);
        let (code, subcode) = self.reason.to_wire();
        out.extend_from_slice(&[code, subcode]);
        out.extend_from_slice(&self.data);
        finish_message(out, start);
    }

    /// What a hard reset stands for, else the reason itself.
    #[must_use]
    pub fn true_reason(&self) -> Reason {
        match (self.reason, self.data.as_ref()) {
            (Reason::HardReset, [code, subcode, ..]) => Reason::from_wire(*code, *subcode),
            _ => self.reason,
        }
    }

    /// The peer's text, escaped so that it can be logged (RFC 9003 §4), or the data in hex.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let data = match (self.reason, self.data.as_ref()) {
            (Reason::HardReset, [_, _, rest @ ..]) => rest,
            (_, data) => data,
        };
        match data {
            [] => None,
            [len, text @ ..] if self.true_reason().carries_communication() => {
                let text = text.get(..usize::from(*len)).unwrap_or(text);
                let text = String::from_utf8_lossy(text).escape_debug().to_string();
                (!text.is_empty()).then_some(text)
            }
            data => Some(hex(data.get(..32).unwrap_or(data))),
        }
    }
}

fn hex(data: &[u8]) -> String {
    let mut text = String::with_capacity(2 * data.len());
    for byte in data {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
