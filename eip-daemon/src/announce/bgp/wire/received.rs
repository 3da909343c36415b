//! Received UPDATEs: checked, counted in place, forgotten.
//!
//! Nothing is imported, so a bad attribute can do no harm and is only counted (RFC 7606 §2 calls
//! it treat-as-withdraw). What remains an error is what RFC 7606 leaves as one: lengths that
//! overrun the message, and prefixes that cannot be read (§5.3).

use super::{Family, Notification, Reason, WireError, cursor::Cursor, path::EXTENDED_LENGTH};

const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;

/// What an UPDATE contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdateSummary {
    /// Prefixes announced, both families.
    pub announced: u32,
    /// Prefixes withdrawn, both families.
    pub withdrawn: u32,
    /// End-of-RIB of this family (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// The attributes cannot be read to their end, or the routes in them cannot.
    pub is_malformed: bool,
}

impl UpdateSummary {
    pub(super) fn decode(body: &[u8]) -> Result<Self, WireError> {
        let malformed = || Notification::new(Reason::MalformedAttributeList);
        let bad_network = || Notification::new(Reason::InvalidNetworkField);
        let mut cursor = Cursor(body);
        let withdrawn = cursor.block16().ok_or_else(malformed)?;
        let attributes = cursor.block16().ok_or_else(malformed)?;
        let mut summary = Self {
            withdrawn: count_prefixes(withdrawn, 32).ok_or_else(bad_network)?,
            announced: count_prefixes(cursor, 32).ok_or_else(bad_network)?,
            ..Self::default()
        };
        // RFC 4724 §2: an UPDATE without anything ends IPv4 unicast.
        if withdrawn.is_empty() && attributes.is_empty() && cursor.is_empty() {
            summary.end_of_rib = Some(Family::Ipv4);
        }
        summary.is_malformed = summary.note_attributes(attributes).is_none();
        Ok(summary)
    }

    fn note_attributes(&mut self, mut attributes: Cursor<'_>) -> Option<()> {
        while !attributes.is_empty() {
            let flags = attributes.u8()?;
            let kind = attributes.u8()?;
            let value = if flags & EXTENDED_LENGTH == 0 {
                attributes.block8()?
            } else {
                attributes.block16()?
            };
            match kind {
                MP_REACH_NLRI => self.note_mp_reach(value)?,
                MP_UNREACH_NLRI => self.note_mp_unreach(value)?,
                _ => {}
            }
        }
        Some(())
    }

    /// RFC 4760 §3: family, next hop, a reserved octet, prefixes.
    fn note_mp_reach(&mut self, mut value: Cursor<'_>) -> Option<()> {
        let family = Family::from_wire(value.u16()?, value.u8()?);
        value.block8()?;
        value.u8()?;
        let Some(family) = family else {
            return Some(());
        };
        let count = count_prefixes(value, family.max_prefix_len())?;
        self.announced = self.announced.saturating_add(count);
        Some(())
    }

    /// RFC 4760 §4: family, prefixes; without prefixes the end of the family (RFC 4724 §2).
    fn note_mp_unreach(&mut self, mut value: Cursor<'_>) -> Option<()> {
        let family = Family::from_wire(value.u16()?, value.u8()?);
        let Some(family) = family else {
            return Some(());
        };
        if value.is_empty() {
            self.end_of_rib = Some(family);
        }
        let count = count_prefixes(value, family.max_prefix_len())?;
        self.withdrawn = self.withdrawn.saturating_add(count);
        Some(())
    }
}

impl Family {
    fn max_prefix_len(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// Counts prefixes; `None` for one that is too long or overruns the block.
fn count_prefixes(mut block: Cursor<'_>, max_len: u8) -> Option<u32> {
    let mut count = 0;
    while !block.is_empty() {
        let len = block.u8().filter(|len| *len <= max_len)?;
        block.bytes(usize::from(len.div_ceil(8)))?;
        count += 1;
    }
    Some(count)
}
