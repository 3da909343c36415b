//! Packets, built and checked by etherparse.

use etherparse::{
    Ethernet2Header, Icmpv4Type, IpNumber, Ipv4Header, Ipv4HeaderSlice, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TransportSlice, UdpHeader, ip_number,
};

/// MAC of whoever sends in these tests.
pub const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// MAC of the interface the packet arrives on.
pub const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// An IPv4 address from its text.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn ip(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>()
        .expect("an IPv4 address")
        .octets()
}

/// Ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// TTL.
    pub ttl: u8,
}

/// Ends with a TTL of 64.
#[must_use]
pub fn ends(source: &str, destination: &str) -> Ends {
    Ends {
        source: ip(source),
        destination: ip(destination),
        ttl: 64,
    }
}

impl Ends {
    /// With another TTL.
    #[must_use]
    pub const fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    fn builder(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(SENDER_MAC, NODE_MAC).ipv4(self.source, self.destination, self.ttl)
    }

    /// A TCP segment with the given flags.
    #[must_use]
    pub fn tcp(self, source: u16, destination: u16, flags: &str, payload: &[u8]) -> Vec<u8> {
        let mut step = self.builder().tcp(source, destination, 1000, 4096);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(7),
                'F' => step.fin(),
                'R' => step.rst(),
                'P' => step.psh(),
                other => panic!("unknown TCP flag {other}"),
            };
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    /// A UDP datagram with its checksum.
    #[must_use]
    pub fn udp(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.builder()
            .udp(source, destination)
            .write(&mut bytes, payload)
            .expect("a packet");
        bytes
    }

    /// A UDP datagram whose sender computed no checksum.
    #[must_use]
    pub fn udp_without_checksum(self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.udp(source, destination, payload);
        bytes[40..42].copy_from_slice(&[0, 0]);
        bytes
    }

    /// An ICMP echo request.
    #[must_use]
    pub fn echo_request(self, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.builder()
            .icmpv4_echo_request(id, 1)
            .write(&mut bytes, payload)
            .expect("a packet");
        bytes
    }

    /// An ICMP echo reply.
    #[must_use]
    pub fn echo_reply(self, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.builder()
            .icmpv4_echo_reply(id, 1)
            .write(&mut bytes, payload)
            .expect("a packet");
        bytes
    }

    /// An ICMP error with this quote behind its 8-byte header.
    #[must_use]
    pub fn icmp_error(self, kind: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.builder()
            .icmpv4(kind)
            .write(&mut bytes, quote)
            .expect("a packet");
        bytes
    }

    /// Any other protocol.
    #[must_use]
    pub fn raw(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.raw_with(protocol, payload, |_| {})
    }

    /// Any protocol, with the IP header as `edit` leaves it (its checksum comes after).
    #[must_use]
    pub fn raw_with(
        self,
        protocol: u8,
        payload: &[u8],
        edit: impl FnOnce(&mut Ipv4Header),
    ) -> Vec<u8> {
        let len = u16::try_from(payload.len()).expect("a payload that fits");
        let mut header = Ipv4Header::new(
            len,
            self.ttl,
            IpNumber(protocol),
            self.source,
            self.destination,
        )
        .expect("a header");
        edit(&mut header);
        header.header_checksum = header.calc_header_checksum();
        let ethernet = Ethernet2Header {
            source: SENDER_MAC,
            destination: NODE_MAC,
            ether_type: etherparse::EtherType::IPV4,
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        header.write(&mut bytes).expect("a header");
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// The same packet as it looks after translation: other addresses, TTL and MACs, everything
/// recomputed from scratch.
#[must_use]
pub fn translated(packet: &[u8], source: [u8; 4], destination: [u8; 4], hops: u8) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let header_len = usize::from(bytes[14] & 0xf) * 4;
    bytes[26..30].copy_from_slice(&source);
    bytes[30..34].copy_from_slice(&destination);
    bytes[22] -= hops;
    let header = Ipv4HeaderSlice::from_slice(&bytes[14..])
        .expect("a header")
        .to_header();
    bytes[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let is_later = u16::from_be_bytes([bytes[20], bytes[21]]) & 0x1fff != 0;
    let is_fragment = u16::from_be_bytes([bytes[20], bytes[21]]) & 0x3fff != 0;
    assert!(
        !is_fragment || is_later,
        "first fragments need the whole datagram: see `fragment`"
    );
    if !is_later {
        let l4 = 14 + header_len;
        recompute_transport(&mut bytes, l4, header.protocol, &header);
    }
    bytes
}

/// With other MACs.
#[must_use]
pub fn with_macs(mut packet: Vec<u8>, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    packet[..6].copy_from_slice(&destination);
    packet[6..12].copy_from_slice(&source);
    packet
}

fn recompute_transport(bytes: &mut [u8], l4: usize, protocol: IpNumber, header: &Ipv4Header) {
    let end = 14 + usize::from(header.total_len);
    match protocol {
        ip_number::TCP => {
            let slice = etherparse::TcpSlice::from_slice(&bytes[l4..end]).expect("TCP");
            let sum = slice
                .calc_checksum_ipv4(header.source, header.destination)
                .expect("a length that fits");
            bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        }
        ip_number::UDP if bytes[l4 + 6..l4 + 8] != [0, 0] => {
            let udp = UdpHeader::from_slice(&bytes[l4..end]).expect("UDP").0;
            let sum = udp
                .calc_checksum_ipv4_raw(header.source, header.destination, &bytes[l4 + 8..end])
                .expect("a length that fits");
            bytes[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
}

/// Whether every checksum of an unfragmented packet is right, by etherparse's own arithmetic. ICMP
/// errors are checked around and inside their quote.
///
/// # Errors
/// Which checksum is wrong, and what would be right.
pub fn checksums_are_right(packet: &[u8]) -> Result<(), String> {
    let sliced = SlicedPacket::from_ethernet(packet).map_err(|e| format!("not a packet: {e}"))?;
    let header = Ipv4HeaderSlice::from_slice(&packet[14..])
        .map_err(|e| e.to_string())?
        .to_header();
    if header.header_checksum != header.calc_header_checksum() {
        return Err(format!(
            "IP header checksum is {:#06x}",
            header.header_checksum
        ));
    }
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let right = tcp
                .calc_checksum_ipv4(header.source, header.destination)
                .unwrap();
            equal("TCP", tcp.checksum(), right)
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let right = udp
                .to_header()
                .calc_checksum_ipv4_raw(header.source, header.destination, udp.payload())
                .unwrap();
            equal("UDP", udp.checksum(), right)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let right = icmp.header().icmp_type.calc_checksum(icmp.payload());
            equal("ICMP", icmp.header().checksum, right)?;
            quoted_checksums_are_right(&icmp.header().icmp_type, icmp.payload())
        }
        _ => Ok(()),
    }
}

fn quoted_checksums_are_right(kind: &Icmpv4Type, quote: &[u8]) -> Result<(), String> {
    if matches!(kind, Icmpv4Type::EchoReply(_) | Icmpv4Type::EchoRequest(_)) {
        return Ok(());
    }
    let Ok(inner) = Ipv4HeaderSlice::from_slice(quote) else {
        return Ok(());
    };
    let inner = inner.to_header();
    equal(
        "quoted IP",
        inner.header_checksum,
        inner.calc_header_checksum(),
    )?;
    if quote.len() < usize::from(inner.total_len) {
        return Ok(());
    }
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(quote);
    checksums_are_right(&frame).map_err(|e| format!("quoted {e}"))
}

fn equal(what: &str, got: u16, right: u16) -> Result<(), String> {
    if got == right {
        Ok(())
    } else {
        Err(format!(
            "{what} checksum is {got:#06x}, right would be {right:#06x}"
        ))
    }
}

/// Cuts a packet without options into IPv4 fragments of at most `size` payload bytes (a multiple of
/// eight).
#[must_use]
pub fn fragment(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &packet[34..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(index, chunk)| {
            let mut header = Ipv4HeaderSlice::from_slice(&packet[14..])
                .unwrap()
                .to_header();
            header.set_payload_len(chunk.len()).unwrap();
            header.identification = 0x4242;
            header.more_fragments = index + 1 < count;
            let offset = u16::try_from(index * size / 8).unwrap();
            header.fragment_offset = offset.try_into().unwrap();
            header.header_checksum = header.calc_header_checksum();
            let mut bytes = packet[..14].to_vec();
            header.write(&mut bytes).unwrap();
            bytes.extend_from_slice(chunk);
            bytes
        })
        .collect()
}
