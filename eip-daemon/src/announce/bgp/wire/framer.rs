//! Cuts a byte stream into messages inside one buffer of fixed size.

use super::{HEADER_LEN, Message, MessageType, SizeLimit, WireError, decode_body, decode_header};

/// Room for a few messages, so that one read serves many small ones.
const STANDARD_CAPACITY: usize = 16 * 1024;
/// As above, where one message may take 65535 bytes.
const EXTENDED_CAPACITY: usize = 128 * 1024;

/// The receive buffer of one connection.
///
/// Memory is constant: the buffer is allocated once, and once more when the peer's OPEN has
/// allowed long messages. A peer that sends a million routes makes it no larger.
#[derive(Debug)]
pub struct Framer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    limit: SizeLimit,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            buffer: vec![0; STANDARD_CAPACITY].into_boxed_slice(),
            start: 0,
            end: 0,
            limit: SizeLimit::Standard,
        }
    }
}

impl Framer {
    /// Where the next read puts its bytes; never empty after [`Framer::next_message`] has
    /// returned `None`. [`Framer::advance`] tells how many there were.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `len` bytes have been put into [`Framer::space`].
    pub fn advance(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end + len);
    }

    /// Allows messages of up to 65535 bytes from here on (RFC 8654 §4).
    pub fn allow_extended(&mut self) {
        if self.limit == SizeLimit::Extended {
            return;
        }
        self.limit = SizeLimit::Extended;
        let mut larger = vec![0; EXTENDED_CAPACITY].into_boxed_slice();
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        if let Some(room) = larger.get_mut(..unread.len()) {
            room.copy_from_slice(unread);
        }
        self.end = unread.len();
        self.start = 0;
        self.buffer = larger;
    }

    /// The next complete message, `None` until more bytes arrive.
    ///
    /// # Errors
    /// The NOTIFICATION to answer with. The stream is out of step then and must not be read on.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, WireError> {
        let Some((message_type, len)) = self.complete()? else {
            return Ok(None);
        };
        let from = self.start + HEADER_LEN;
        let to = self.start + len;
        self.start = to;
        let body = self.buffer.get(from..to).unwrap_or_default();
        decode_body(message_type, body).map(Some)
    }

    fn complete(&self) -> Result<Option<(MessageType, usize)>, WireError> {
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        let header = decode_header(unread, self.limit)?;
        Ok(header.filter(|(_, len)| unread.len() >= *len))
    }
}
