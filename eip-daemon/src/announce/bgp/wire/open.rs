//! OPEN (RFC 4271 §4.2).

use std::net::Ipv4Addr;

use super::{
    Capabilities, MessageType, Notification, Reason, WireError, begin_message, cursor::Cursor,
    finish_message,
};

/// Stands for an AS number that does not fit two octets (RFC 6793 §9).
pub const AS_TRANS: u16 = 23456;

const VERSION: u8 = 4;
const CAPABILITIES_PARAMETER: u8 = 2; // RFC 5492 §4
const EXTENDED_PARAMETERS: u8 = 255; // RFC 9072 §2

/// An OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS, from the capability where there is one.
    pub asn: u32,
    /// Proposed hold time in seconds; 0 for none.
    pub hold_time_s: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Capabilities.
    pub capabilities: Capabilities,
}

impl Open {
    /// The AS number as two octets.
    fn two_octet_as(asn: u32) -> u16 {
        u16::try_from(asn).unwrap_or(AS_TRANS)
    }

    /// Appends the message with all capabilities in one parameter; `hostname` may be empty.
    pub fn encode(&self, hostname: &str, out: &mut Vec<u8>) {
        let start = begin_message(out, MessageType::Open);
        out.push(VERSION);
        out.extend_from_slice(&Self::two_octet_as(self.asn).to_be_bytes());
        out.extend_from_slice(&self.hold_time_s.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        let mut capabilities = Vec::with_capacity(128);
        self.capabilities.encode(hostname, &mut capabilities);
        // All of them together stay below 140 bytes: the host name is cut at 64.
        match u8::try_from(capabilities.len()) {
            Ok(len @ 1..=253) => {
                out.extend_from_slice(&[len + 2, CAPABILITIES_PARAMETER, len]);
                out.extend_from_slice(&capabilities);
            }
            _ => out.push(0),
        }
        finish_message(out, start);
    }

    /// Reads a body of at least 10 bytes. AS number and identifier are judged by the session,
    /// which knows what is configured.
    pub(super) fn decode(body: &[u8]) -> Result<Self, WireError> {
        let malformed = || Notification::new(Reason::OpenMessageError);
        let mut cursor = Cursor(body);
        if cursor.u8().ok_or_else(malformed)? != VERSION {
            // RFC 4271 §6.2: data is the largest version spoken here, in two octets.
            let data = u16::from(VERSION).to_be_bytes();
            return Err(Notification::with_data(Reason::UnsupportedVersion, &data));
        }
        let two_octet_as = cursor.u16().ok_or_else(malformed)?;
        let hold_time_s = cursor.u16().ok_or_else(malformed)?;
        let router_id = cursor
            .u32()
            .map(Ipv4Addr::from_bits)
            .ok_or_else(malformed)?;
        if matches!(hold_time_s, 1 | 2) {
            return Err(Notification::new(Reason::UnacceptableHoldTime));
        }
        let capabilities = decode_parameters(cursor)?;
        let asn = capabilities
            .four_octet_as
            .unwrap_or(u32::from(two_octet_as));
        Ok(Self {
            asn,
            hold_time_s,
            router_id,
            capabilities,
        })
    }
}

/// How the length of one parameter is written.
#[derive(Clone, Copy)]
enum ParameterLength {
    OneOctet,
    TwoOctets,
}

fn decode_parameters(mut cursor: Cursor<'_>) -> Result<Capabilities, WireError> {
    let malformed = || Notification::new(Reason::OpenMessageError);
    let (mut parameters, width) = parameters(&mut cursor).ok_or_else(malformed)?;
    let mut capabilities = Capabilities::default();
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(malformed)?;
        let value = match width {
            ParameterLength::OneOctet => parameters.block8(),
            ParameterLength::TwoOctets => parameters.block16(),
        };
        let value = value.ok_or_else(malformed)?;
        if kind != CAPABILITIES_PARAMETER {
            return Err(Notification::new(Reason::UnsupportedOptionalParameter));
        }
        capabilities
            .decode_into(value.rest())
            .ok_or_else(malformed)?;
    }
    Ok(capabilities)
}

/// The block of parameters: RFC 9072 §2 when the first parameter's type says so, whatever the
/// one-octet length before it is.
fn parameters<'a>(cursor: &mut Cursor<'a>) -> Option<(Cursor<'a>, ParameterLength)> {
    let len = cursor.u8()?;
    let is_extended = len != 0 && cursor.rest().first() == Some(&EXTENDED_PARAMETERS);
    let (block, width) = if is_extended {
        cursor.u8()?;
        (cursor.block16()?, ParameterLength::TwoOctets)
    } else {
        (
            Cursor(cursor.bytes(usize::from(len))?),
            ParameterLength::OneOctet,
        )
    };
    cursor.is_empty().then_some((block, width))
}
