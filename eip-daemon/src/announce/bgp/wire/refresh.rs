//! ROUTE-REFRESH (RFC 2918) and its begin and end markers (RFC 7313).

use super::{
    Family, MessageType, Notification, Reason, SAFI_UNICAST, WireError, begin_message,
    cursor::Cursor, finish_message,
};

/// What a ROUTE-REFRESH says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshKind {
    /// Please send everything again (RFC 2918 §3).
    Request,
    /// `BoRR`: what follows is everything (RFC 7313 §4).
    Begin,
    /// `EoRR`: that was everything (RFC 7313 §4).
    End,
}

/// A ROUTE-REFRESH about a family of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Family.
    pub family: Family,
    /// Request or marker.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// RFC 7313 §5: unknown subtypes are ignored, a marker of the wrong length is an error. A
    /// request may carry filters (RFC 5291), which nobody has negotiated and which are ignored.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor(body);
        let (Some(afi), Some(subtype), Some(safi)) = (cursor.u16(), cursor.u8(), cursor.u8())
        else {
            return Err(Notification::new(Reason::InvalidRefreshLength));
        };
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 | 2 if !cursor.is_empty() => {
                // RFC 7313 §5: data is the complete message; its own header is rebuilt here.
                let mut message = Vec::with_capacity(19 + body.len());
                let start = begin_message(&mut message, MessageType::RouteRefresh);
                message.extend_from_slice(body);
                finish_message(&mut message, start);
                return Err(Notification::with_data(
                    Reason::InvalidRefreshLength,
                    &message,
                ));
            }
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            _ => return Ok(None),
        };
        Ok(Family::from_wire(afi, safi).map(|family| Self { family, kind }))
    }

    /// Appends the message.
    pub fn encode(self, out: &mut Vec<u8>) {
        let start = begin_message(out, MessageType::RouteRefresh);
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        };
        out.extend_from_slice(&self.family.afi().to_be_bytes());
        out.extend_from_slice(&[subtype, SAFI_UNICAST]);
        finish_message(out, start);
    }
}
