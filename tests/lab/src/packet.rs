//! What a frame is about, for assertions and for people. Parsed by a library that shares no code
//! with the programs under test.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use etherparse::{IpFragOffset, LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// The transport part of a packet, as far as assertions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// UDP: ports and the checksum as it stands in the packet.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Checksum field.
        checksum: u16,
    },
    /// TCP: ports.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of either family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Anything else, and later fragments.
    Other,
}

/// An IP packet inside a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPacket {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Byte offset of the fragment; 0 for a first or only one.
    pub fragment_offset: u16,
    /// A fragment, first or later.
    pub is_fragment: bool,
    /// Transport header.
    pub transport: Transport,
    /// What follows the IP header.
    pub payload: Vec<u8>,
}

impl IpPacket {
    /// The IP packet a frame carries, if any.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        Self::of(&LaxSlicedPacket::from_ethernet(frame).ok()?)
    }

    /// The IP packet a buffer without link header holds: the quote of an ICMP error, say.
    #[must_use]
    pub fn parse_ip(bytes: &[u8]) -> Option<Self> {
        Self::of(&LaxSlicedPacket::from_ip(bytes).ok()?)
    }

    fn of(sliced: &LaxSlicedPacket<'_>) -> Option<Self> {
        let payload = sliced.ip_payload()?;
        let (source, destination, ttl, offset) = match sliced.net.as_ref()? {
            LaxNetSlice::Ipv4(slice) => {
                let header = slice.header();
                (
                    IpAddr::from(header.source_addr()),
                    IpAddr::from(header.destination_addr()),
                    header.ttl(),
                    header.fragments_offset(),
                )
            }
            LaxNetSlice::Ipv6(slice) => {
                let header = slice.header();
                (
                    IpAddr::from(header.source_addr()),
                    IpAddr::from(header.destination_addr()),
                    header.hop_limit(),
                    IpFragOffset::ZERO,
                )
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let transport = match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => Transport::Udp {
                source: udp.source_port(),
                destination: udp.destination_port(),
                checksum: udp.checksum(),
            },
            Some(TransportSlice::Tcp(tcp)) => Transport::Tcp {
                source: tcp.source_port(),
                destination: tcp.destination_port(),
            },
            Some(TransportSlice::Icmpv4(icmp)) => Transport::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            Some(TransportSlice::Icmpv6(icmp)) => Transport::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            _ => Transport::Other,
        };
        Some(Self {
            source,
            destination,
            protocol: payload.ip_number.0,
            ttl,
            fragment_offset: offset.byte_offset(),
            is_fragment: payload.fragmented,
            transport,
            payload: payload.payload.to_vec(),
        })
    }

    /// An ICMP error (not an echo): the only thing a router on the way may send in its own name.
    #[must_use]
    pub fn is_icmp_error(&self) -> bool {
        matches!(
            (self.source, &self.transport),
            (
                IpAddr::V4(_),
                Transport::Icmp {
                    kind: 3 | 4 | 5 | 11 | 12,
                    ..
                }
            ) | (IpAddr::V6(_), Transport::Icmp { kind: 1..=4, .. })
        )
    }

    /// The packet an ICMP error quotes.
    #[must_use]
    pub fn quoted(&self) -> Option<Self> {
        if !self.is_icmp_error() {
            return None;
        }
        Self::parse_ip(self.payload.get(8..)?)
    }
}

impl fmt::Display for IpPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} > {} ttl {} ",
            self.source, self.destination, self.ttl
        )?;
        match &self.transport {
            Transport::Udp {
                source,
                destination,
                ..
            } => write!(f, "udp {source} > {destination}")?,
            Transport::Tcp {
                source,
                destination,
            } => write!(f, "tcp {source} > {destination}")?,
            Transport::Icmp { kind, code } => write!(f, "icmp type {kind} code {code}")?,
            Transport::Other => write!(f, "protocol {}", self.protocol)?,
        }
        if self.is_fragment {
            write!(f, " fragment at {}", self.fragment_offset)?;
        }
        write!(f, ", {} bytes", self.payload.len())?;
        if let Some(quoted) = self.quoted() {
            write!(f, ", quotes [{quoted}]")?;
        }
        Ok(())
    }
}

/// An ARP packet inside a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arp {
    /// 1 for a request, 2 for a reply.
    pub operation: u16,
    /// Who sends it.
    pub sender: Ipv4Addr,
    /// Whom it is about.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The ARP packet a frame carries, if any.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let sliced = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let LaxNetSlice::Arp(arp) = sliced.net? else {
            return None;
        };
        Some(Self {
            operation: arp.operation().0,
            sender: address(arp.sender_protocol_addr())?,
            target: address(arp.target_protocol_addr())?,
        })
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// One line about a frame, for people.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    if let Some(packet) = IpPacket::parse(frame) {
        return packet.to_string();
    }
    match Arp::parse(frame) {
        Some(arp) if arp.operation == 1 => {
            format!("arp who has {}? tell {}", arp.target, arp.sender)
        }
        Some(arp) => format!("arp {} is here, to {}", arp.sender, arp.target),
        None => format!("{} bytes that are neither IP nor ARP", frame.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::PacketBuilder;

    use super::{IpPacket, Transport, describe};

    #[test]
    fn a_datagram_is_described_by_addresses_and_ports() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 2], [203, 0, 113, 11], 64)
            .udp(40_000, 7)
            .write(&mut frame, b"hello")
            .unwrap();
        let packet = IpPacket::parse(&frame).unwrap();
        assert_eq!(packet.source, IpAddr::from([198, 51, 100, 2]));
        assert!(matches!(
            packet.transport,
            Transport::Udp {
                source: 40_000,
                destination: 7,
                ..
            }
        ));
        assert_eq!(
            describe(&frame),
            "198.51.100.2 > 203.0.113.11 ttl 64 udp 40000 > 7, 13 bytes"
        );
    }
}
