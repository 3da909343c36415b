//! Communities as people write them.

use std::net::Ipv4Addr;

use super::ObjectError;
use crate::model::Community;

/// Names of the IANA registry "BGP Well-known Communities", as routers know them.
const WELL_KNOWN: [(&str, u32); 6] = [
    ("graceful-shutdown", 0xffff_0000),
    ("accept-own", 0xffff_0001),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];
/// Sub-types of RFC 4360 §4 and §5.
const ROUTE_TARGET: u8 = 2;
const ROUTE_ORIGIN: u8 = 3;

const EXPECTED: &str = "a community: 64512:100, a well-known name such as no-export, 64512:1:2 \
                        (large), rt:64512:100 or soo:192.0.2.1:5 (extended), or 16 hex digits \
                        after 0x (extended)";

/// Reads one community of any kind.
pub(super) fn community(field: &str, text: &str) -> Result<Community, ObjectError> {
    parse(text.trim()).ok_or_else(|| ObjectError::invalid(field, text, EXPECTED))
}

fn parse(text: &str) -> Option<Community> {
    if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
        return Some(Community::Standard(*value));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let is_whole = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u64::from_str_radix(digits, 16).ok().filter(|_| is_whole)?;
        return Some(Community::Extended(value.to_be_bytes()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        ["rt" | "target", administrator, number] => extended(ROUTE_TARGET, administrator, number),
        ["soo" | "origin", administrator, number] => extended(ROUTE_ORIGIN, administrator, number),
        [high, low] => {
            let (high, low): (u16, u16) = (decimal(high)?, decimal(low)?);
            Some(Community::Standard(u32::from(high) << 16 | u32::from(low)))
        }
        [global, one, two] => Some(Community::Large([
            decimal(global)?,
            decimal(one)?,
            decimal(two)?,
        ])),
        _ => None,
    }
}

/// RFC 4360 §3.1 and §3.2, RFC 5668: the type says how wide the administrator is.
fn extended(subtype: u8, administrator: &str, number: &str) -> Option<Community> {
    let mut bytes = [0; 8];
    bytes[1] = subtype;
    if let Ok(address) = administrator.parse::<Ipv4Addr>() {
        bytes[0] = 1;
        bytes[2..6].copy_from_slice(&address.octets());
        bytes[6..].copy_from_slice(&decimal::<u16>(number)?.to_be_bytes());
    } else if let Some(asn) = decimal::<u16>(administrator) {
        bytes[2..4].copy_from_slice(&asn.to_be_bytes());
        bytes[4..].copy_from_slice(&decimal::<u32>(number)?.to_be_bytes());
    } else {
        bytes[0] = 2;
        bytes[2..6].copy_from_slice(&decimal::<u32>(administrator)?.to_be_bytes());
        bytes[6..].copy_from_slice(&decimal::<u16>(number)?.to_be_bytes());
    }
    Some(Community::Extended(bytes))
}

/// Digits and nothing else: `parse` alone would take a sign.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Community, community, parse};

    #[test]
    fn communities_are_read_as_routers_write_them() {
        for (text, expected) in [
            ("64512:100", Community::Standard(0xfc00_0064)),
            ("no-export", Community::Standard(0xffff_ff01)),
            ("65535:0", Community::Standard(0xffff_0000)),
            ("4200000000:1:2", Community::Large([4_200_000_000, 1, 2])),
            (
                "rt:64512:100",
                Community::Extended([0, 2, 0xfc, 0, 0, 0, 0, 100]),
            ),
            (
                "target:4200000000:7",
                Community::Extended([2, 2, 0xfa, 0x56, 0xea, 0, 0, 7]),
            ),
            (
                "soo:192.0.2.1:5",
                Community::Extended([1, 3, 192, 0, 2, 1, 0, 5]),
            ),
            (
                "0x0003000000000001",
                Community::Extended([0, 3, 0, 0, 0, 0, 0, 1]),
            ),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_community_is_refused_with_its_field() {
        for text in [
            "",
            "1",
            "65536:1",
            "1:65536",
            "-1:1",
            "+1:1",
            "1:2:3:4",
            "rt:1",
            "rt:65536:65536",
            "soo:192.0.2.1:65536",
            "0x1",
            "0x00030000000000011",
            "no-exports",
            "a:b",
        ] {
            let error = community("spec.communities", text).unwrap_err();
            assert_eq!(error.field(), "spec.communities", "{text}");
        }
    }
}
