//! Reading from a slice that a peer has sent: nothing is copied, nothing can run past the end.

/// The unread rest of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next `len` bytes, or nothing read when there are fewer.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A block that its own one-byte length precedes.
    pub(super) fn block8(&mut self) -> Option<Self> {
        let len = self.u8()?;
        self.bytes(usize::from(len)).map(Cursor)
    }

    /// A block that its own two-byte length precedes.
    pub(super) fn block16(&mut self) -> Option<Self> {
        let len = self.u16()?;
        self.bytes(usize::from(len)).map(Cursor)
    }
}
