//! IPv6 packets, built and checksummed by etherparse. What a packet has to look like after translation is
//! built from scratch in the same way, with the other addresses.

use etherparse::{
    Ethernet2Header, Icmpv6Type, IpNumber, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};

use crate::packet::{NODE_MAC, SENDER_MAC};

/// An IPv6 address from its text.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn ip6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>()
        .expect("an IPv6 address")
        .octets()
}

/// An extension header, without its first byte's meaning: the chain fills in what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    kind: u8,
    bytes: Vec<u8>,
}

/// Hop-by-hop options of `units` times 8 bytes: padding.
#[must_use]
pub fn hop_by_hop(units: u8) -> Extension {
    options(0, units)
}

/// Destination options of `units` times 8 bytes: padding.
#[must_use]
pub fn destination_options(units: u8) -> Extension {
    options(60, units)
}

fn options(kind: u8, units: u8) -> Extension {
    let mut bytes = vec![0; usize::from(units) * 8];
    bytes[1] = units - 1;
    let mut at = 2;
    while at < bytes.len() {
        let room = bytes.len() - at;
        // PadN (RFC 8200 section 4.2); Pad1 where only a byte is left.
        if room >= 2 {
            let len = room.min(257);
            bytes[at] = 1;
            bytes[at + 1] = u8::try_from(len - 2).unwrap();
            at += len;
        } else {
            at += 1;
        }
    }
    Extension { kind, bytes }
}

/// A routing header with that many segments left.
#[must_use]
pub fn routing(segments_left: u8) -> Extension {
    let bytes = vec![0, 0, 253, segments_left, 0, 0, 0, 0];
    Extension { kind: 43, bytes }
}

/// A fragment header; `offset` in bytes.
#[must_use]
pub fn fragment_header(offset: usize, more: bool, id: u32) -> Extension {
    let field = u16::try_from(offset).unwrap() | u16::from(more);
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&field.to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    Extension { kind: 44, bytes }
}

/// An authentication header (RFC 4302) with 12 bytes of integrity check.
#[must_use]
pub fn authentication() -> Extension {
    let mut bytes = vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    bytes.extend_from_slice(&[0xaa; 12]);
    Extension { kind: 51, bytes }
}

/// Ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Hop limit.
    pub hops: u8,
}

/// Ends with a hop limit of 64.
#[must_use]
pub fn ends6(source: &str, destination: &str) -> Ends6 {
    Ends6 {
        source: ip6(source),
        destination: ip6(destination),
        hops: 64,
    }
}

impl Ends6 {
    /// With another hop limit.
    #[must_use]
    pub const fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    /// A frame with any transport behind any extension headers.
    #[must_use]
    pub fn frame(self, chain: &[Extension], protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut bytes = Ethernet2Header {
            source: SENDER_MAC,
            destination: NODE_MAC,
            ether_type: etherparse::EtherType::IPV6,
        }
        .to_bytes()
        .to_vec();
        bytes.extend_from_slice(&self.packet(chain, protocol, transport));
        bytes
    }

    /// As [`Self::frame`], without the Ethernet header: what an ICMP error quotes.
    #[must_use]
    pub fn packet(self, chain: &[Extension], protocol: u8, transport: &[u8]) -> Vec<u8> {
        let next = |index: usize| chain.get(index).map_or(protocol, |header| header.kind);
        let length: usize = chain.iter().map(|header| header.bytes.len()).sum();
        let header = Ipv6Header {
            traffic_class: 0x12,
            flow_label: Ipv6FlowLabel::try_new(0x1_2345).unwrap(),
            payload_length: u16::try_from(length + transport.len()).unwrap(),
            next_header: IpNumber(next(0)),
            hop_limit: self.hops,
            source: self.source,
            destination: self.destination,
        };
        let mut bytes = header.to_bytes().to_vec();
        for (index, extension) in chain.iter().enumerate() {
            let start = bytes.len();
            bytes.extend_from_slice(&extension.bytes);
            bytes[start] = next(index + 1);
        }
        bytes.extend_from_slice(transport);
        bytes
    }

    /// A TCP segment with SYN, ACK or both.
    #[must_use]
    pub fn tcp_bytes(self, source: u16, destination: u16, flags: &str, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(source, destination, 1000, 4096);
        header.syn = flags.contains('S');
        header.ack = flags.contains('A');
        header.checksum = header
            .calc_checksum_ipv6_raw(self.source, self.destination, payload)
            .unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp_bytes(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = UdpHeader {
            source_port: source,
            destination_port: destination,
            length: u16::try_from(8 + payload.len()).unwrap(),
            checksum: 0,
        };
        header.checksum = header
            .calc_checksum_ipv6_raw(self.source, self.destination, payload)
            .unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// An ICMPv6 message.
    #[must_use]
    pub fn icmp_bytes(self, kind: &Icmpv6Type, payload: &[u8]) -> Vec<u8> {
        let header = kind
            .to_header(self.source, self.destination, payload)
            .unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A frame with a TCP segment.
    #[must_use]
    pub fn tcp(self, source: u16, destination: u16, flags: &str, payload: &[u8]) -> Vec<u8> {
        self.frame(&[], 6, &self.tcp_bytes(source, destination, flags, payload))
    }

    /// A frame with a UDP datagram.
    #[must_use]
    pub fn udp(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        self.frame(&[], 17, &self.udp_bytes(source, destination, payload))
    }

    /// A frame with a UDP datagram without checksum, as tunnels may send it (RFC 6935).
    #[must_use]
    pub fn udp_without_checksum(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = self.udp_bytes(source, destination, payload);
        datagram[6..8].copy_from_slice(&[0, 0]);
        self.frame(&[], 17, &datagram)
    }

    /// A frame with an ICMPv6 message.
    #[must_use]
    pub fn icmp(self, kind: &Icmpv6Type, payload: &[u8]) -> Vec<u8> {
        self.frame(&[], 58, &self.icmp_bytes(kind, payload))
    }

    /// A frame with an ICMPv6 message of a type etherparse has no name for.
    #[must_use]
    pub fn icmp_raw(self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let kind = Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        self.icmp(&kind, payload)
    }

    /// A frame with an ICMPv6 echo request.
    #[must_use]
    pub fn echo_request(self, id: u16, payload: &[u8]) -> Vec<u8> {
        let echo = etherparse::IcmpEchoHeader { id, seq: 1 };
        self.icmp(&Icmpv6Type::EchoRequest(echo), payload)
    }

    /// A frame with an ICMPv6 echo reply.
    #[must_use]
    pub fn echo_reply(self, id: u16, payload: &[u8]) -> Vec<u8> {
        let echo = etherparse::IcmpEchoHeader { id, seq: 1 };
        self.icmp(&Icmpv6Type::EchoReply(echo), payload)
    }

    /// Frames with the fragments of a transport's bytes, of at most `size` bytes each (a multiple of
    /// eight).
    #[must_use]
    pub fn fragments(self, protocol: u8, transport: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = transport.len().div_ceil(size);
        transport
            .chunks(size)
            .enumerate()
            .map(|(index, chunk)| {
                let header = fragment_header(index * size, index + 1 < count, 0x4242_4242);
                self.frame(&[header], protocol, chunk)
            })
            .collect()
    }
}
