//! Capabilities of an OPEN (RFC 5492): those that matter here, in a struct of fixed size.

use super::{Family, SAFI_UNICAST, cursor::Cursor};

const MULTIPROTOCOL: u8 = 1; // RFC 4760 §8
const ROUTE_REFRESH: u8 = 2; // RFC 2918 §2
const EXTENDED_NEXT_HOP: u8 = 5; // RFC 8950 §4
const EXTENDED_MESSAGE: u8 = 6; // RFC 8654 §3
const GRACEFUL_RESTART: u8 = 64; // RFC 4724 §3
const FOUR_OCTET_AS: u8 = 65; // RFC 6793 §3
const ENHANCED_ROUTE_REFRESH: u8 = 70; // RFC 7313 §3.1
const FQDN: u8 = 73; // draft-walton-bgp-hostname-capability, as deployed

/// Longest host name that is sent.
const MAX_HOSTNAME_LEN: usize = 64;

/// Graceful restart (RFC 4724 §3, with the N bit of RFC 8538 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the sender has just restarted.
    pub has_restarted: bool,
    /// N: routes are kept over a NOTIFICATION as well.
    pub covers_notification: bool,
    /// How long to keep routes of a sender that is gone; 12 bits.
    pub restart_time_s: u16,
    /// F of IPv4 unicast; `None` when the family is not listed.
    pub keeps_ipv4: Option<bool>,
    /// F of IPv6 unicast; `None` when the family is not listed.
    pub keeps_ipv6: Option<bool>,
}

/// What one side of a session can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each capability, all independent"
)]
pub struct Capabilities {
    /// Multiprotocol was sent for any family at all. Without it IPv4 unicast is meant.
    pub multiprotocol: bool,
    /// IPv4 unicast.
    pub ipv4: bool,
    /// IPv6 unicast.
    pub ipv6: bool,
    /// Four-octet AS numbers, with the sender's own.
    pub four_octet_as: Option<u32>,
    /// Route refresh.
    pub route_refresh: bool,
    /// Enhanced route refresh.
    pub enhanced_route_refresh: bool,
    /// Messages above 4096 bytes.
    pub extended_message: bool,
    /// IPv4 unicast routes with an IPv6 next hop.
    pub extended_next_hop: bool,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// Capabilities that mean nothing here. They are no reason to complain (RFC 5492 §3).
    pub unknown: u16,
}

impl Capabilities {
    /// Whether the family is among them.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// Reads the capabilities of one optional parameter; `None` when a length overruns it.
    ///
    /// A known capability whose value has an unexpected length counts as unknown: one odd
    /// capability is no reason to do without the session.
    pub(super) fn decode_into(&mut self, parameter: &[u8]) -> Option<()> {
        let mut cursor = Cursor(parameter);
        while !cursor.is_empty() {
            let code = cursor.u8()?;
            let value = cursor.block8()?;
            if self.note(code, value).is_none() {
                self.unknown = self.unknown.saturating_add(1);
            }
        }
        Some(())
    }

    /// Takes note of one capability; `None` when it is unknown or its value is odd.
    fn note(&mut self, code: u8, mut value: Cursor<'_>) -> Option<()> {
        match code {
            MULTIPROTOCOL => {
                let [high, low, _reserved, safi] = value.array()?;
                self.multiprotocol = true;
                match Family::from_wire(u16::from_be_bytes([high, low]), safi)? {
                    Family::Ipv4 => self.ipv4 = true,
                    Family::Ipv6 => self.ipv6 = true,
                }
            }
            ROUTE_REFRESH => self.route_refresh = true,
            EXTENDED_NEXT_HOP => self.extended_next_hop |= lists_ipv4_over_ipv6(value),
            EXTENDED_MESSAGE => self.extended_message = true,
            GRACEFUL_RESTART => self.graceful_restart = Some(decode_graceful_restart(value)?),
            FOUR_OCTET_AS => self.four_octet_as = Some(value.u32()?),
            ENHANCED_ROUTE_REFRESH => self.enhanced_route_refresh = true,
            FQDN => {}
            _ => return None,
        }
        Some(())
    }

    /// Appends all capabilities, ascending by code, with the host name last (none when empty).
    pub(super) fn encode(&self, hostname: &str, out: &mut Vec<u8>) {
        for family in Family::ALL.into_iter().filter(|family| self.has(*family)) {
            let [high, low] = family.afi().to_be_bytes();
            put(out, MULTIPROTOCOL, &[high, low, 0, SAFI_UNICAST]);
        }
        if self.route_refresh {
            put(out, ROUTE_REFRESH, &[]);
        }
        if self.extended_next_hop {
            // NLRI AFI 1, SAFI 1 (two octets here), next hop AFI 2.
            put(out, EXTENDED_NEXT_HOP, &[0, 1, 0, SAFI_UNICAST, 0, 2]);
        }
        if self.extended_message {
            put(out, EXTENDED_MESSAGE, &[]);
        }
        if let Some(restart) = self.graceful_restart {
            encode_graceful_restart(restart, out);
        }
        if let Some(asn) = self.four_octet_as {
            put(out, FOUR_OCTET_AS, &asn.to_be_bytes());
        }
        if self.enhanced_route_refresh {
            put(out, ENHANCED_ROUTE_REFRESH, &[]);
        }
        encode_hostname(hostname, out);
    }
}

fn put(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    // Every value written here is bounded by MAX_HOSTNAME_LEN + 2.
    out.extend_from_slice(&[code, u8::try_from(value.len()).unwrap_or(0)]);
    out.extend_from_slice(value);
}

fn lists_ipv4_over_ipv6(mut value: Cursor<'_>) -> bool {
    while let Some(entry) = value.array::<6>() {
        if entry == [0, 1, 0, SAFI_UNICAST, 0, 2] {
            return true;
        }
    }
    false
}

fn decode_graceful_restart(mut value: Cursor<'_>) -> Option<GracefulRestart> {
    let first = value.u16()?;
    let mut restart = GracefulRestart {
        has_restarted: first & 0x8000 != 0,
        covers_notification: first & 0x4000 != 0,
        restart_time_s: first & 0x0fff,
        keeps_ipv4: None,
        keeps_ipv6: None,
    };
    while let Some([high, low, safi, flags]) = value.array() {
        let keeps = Some(flags & 0x80 != 0);
        match Family::from_wire(u16::from_be_bytes([high, low]), safi) {
            Some(Family::Ipv4) => restart.keeps_ipv4 = keeps,
            Some(Family::Ipv6) => restart.keeps_ipv6 = keeps,
            None => {}
        }
    }
    Some(restart)
}

fn encode_graceful_restart(restart: GracefulRestart, out: &mut Vec<u8>) {
    let mut first = restart.restart_time_s & 0x0fff;
    if restart.has_restarted {
        first |= 0x8000;
    }
    if restart.covers_notification {
        first |= 0x4000;
    }
    let mut value = Vec::with_capacity(10);
    value.extend_from_slice(&first.to_be_bytes());
    let families = [
        (Family::Ipv4, restart.keeps_ipv4),
        (Family::Ipv6, restart.keeps_ipv6),
    ];
    for (family, keeps) in families {
        if let Some(keeps) = keeps {
            value.extend_from_slice(&family.afi().to_be_bytes());
            value.extend_from_slice(&[SAFI_UNICAST, if keeps { 0x80 } else { 0 }]);
        }
    }
    put(out, GRACEFUL_RESTART, &value);
}

fn encode_hostname(hostname: &str, out: &mut Vec<u8>) {
    let hostname = hostname.get(..hostname.floor_char_boundary(MAX_HOSTNAME_LEN));
    let Some(hostname) = hostname.filter(|name| !name.is_empty()) else {
        return;
    };
    let mut value = Vec::with_capacity(2 + hostname.len());
    value.push(u8::try_from(hostname.len()).unwrap_or(0));
    value.extend_from_slice(hostname.as_bytes());
    value.push(0); // no domain name
    put(out, FQDN, &value);
}
