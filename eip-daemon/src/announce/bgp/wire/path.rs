//! Path attributes of an UPDATE, all but the two that carry routes (RFC 4271 §4.3).

use std::net::Ipv4Addr;

use super::open::AS_TRANS;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const MULTI_EXIT_DISC: u8 = 4;
const LOCAL_PREF: u8 = 5;
const COMMUNITIES: u8 = 8; // RFC 1997
const EXTENDED_COMMUNITIES: u8 = 16; // RFC 4360 §2
const AS4_PATH: u8 = 17; // RFC 6793 §3
const LARGE_COMMUNITIES: u8 = 32; // RFC 8092 §3

const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const OPTIONAL_TRANSITIVE: u8 = 0xc0;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

const AS_SEQUENCE: u8 = 2;

/// How AS numbers are written on one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsNumberWidth {
    /// The peer lacks the capability (RFC 6793 §4.2.2).
    Two,
    /// Both sides have it.
    Four,
}

/// The attributes of one group of routes on one session, everything decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathAttributes {
    /// Our AS as often as it shall appear; empty inside the AS.
    pub as_path: Vec<u32>,
    /// `NEXT_HOP`, for routes that travel outside `MP_REACH_NLRI`.
    pub next_hop: Option<Ipv4Addr>,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    pub local_pref: Option<u32>,
    /// Standard communities, sorted.
    pub communities: Vec<u32>,
    /// Extended communities, sorted.
    pub extended_communities: Vec<[u8; 8]>,
    /// Large communities, sorted.
    pub large_communities: Vec<[u32; 3]>,
}

impl PathAttributes {
    /// Appends all attributes, ascending by type (RFC 4271 §5).
    pub fn encode(&self, width: AsNumberWidth, out: &mut Vec<u8>) {
        put(out, WELL_KNOWN, ORIGIN, &[0]); // IGP
        put(out, WELL_KNOWN, AS_PATH, &self.as_path_value(width));
        if let Some(next_hop) = self.next_hop {
            put(out, WELL_KNOWN, NEXT_HOP, &next_hop.octets());
        }
        if let Some(med) = self.med {
            put(out, OPTIONAL, MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        if let Some(local_pref) = self.local_pref {
            put(out, WELL_KNOWN, LOCAL_PREF, &local_pref.to_be_bytes());
        }
        self.encode_communities(out);
        if width == AsNumberWidth::Two && self.as_path.iter().any(|asn| *asn > 0xffff) {
            let value = self.as_path_value(AsNumberWidth::Four);
            put(out, OPTIONAL_TRANSITIVE, AS4_PATH, &value);
        }
        if !self.large_communities.is_empty() {
            let words = self.large_communities.iter().flatten();
            let value: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
            put(out, OPTIONAL_TRANSITIVE, LARGE_COMMUNITIES, &value);
        }
    }

    fn encode_communities(&self, out: &mut Vec<u8>) {
        if !self.communities.is_empty() {
            let value: Vec<u8> = self
                .communities
                .iter()
                .flat_map(|c| c.to_be_bytes())
                .collect();
            put(out, OPTIONAL_TRANSITIVE, COMMUNITIES, &value);
        }
        if !self.extended_communities.is_empty() {
            let value = self.extended_communities.concat();
            put(out, OPTIONAL_TRANSITIVE, EXTENDED_COMMUNITIES, &value);
        }
    }

    /// One `AS_SEQUENCE`, or nothing (RFC 4271 §5.1.2). A path is our own AS a few times over:
    /// the configuration keeps it far below the 255 a segment holds.
    fn as_path_value(&self, width: AsNumberWidth) -> Vec<u8> {
        let Some(count) = u8::try_from(self.as_path.len())
            .ok()
            .filter(|count| *count > 0)
        else {
            return Vec::new();
        };
        let mut value = vec![AS_SEQUENCE, count];
        for asn in &self.as_path {
            match width {
                AsNumberWidth::Four => value.extend_from_slice(&asn.to_be_bytes()),
                AsNumberWidth::Two => {
                    let short = u16::try_from(*asn).unwrap_or(AS_TRANS);
                    value.extend_from_slice(&short.to_be_bytes());
                }
            }
        }
        value
    }
}

/// Appends one attribute, with the extended length only where it is needed.
fn put(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    if let Ok(len) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, kind, len]);
    } else {
        let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind, high, low]);
    }
    out.extend_from_slice(value);
}
