//! The answer to a packet that is larger than the link behind this node and may not be cut up: ICMP
//! "fragmentation needed" (RFC 1191) and `ICMPv6` "packet too big" (RFC 4443 section 3.2).
//!
//! The answer comes from the EIP: the sender knows that address, every router on the way lets it pass,
//! and it says nothing about the node. It quotes the IP header and eight bytes behind it, which is what
//! a sender needs to find the connection. Frames are untagged Ethernet, packets without options or
//! extension headers.
//!
//! The answer is made where the packet stands, with room before it, and moves its own quote: no copy of it has
//! to fit a program's stack. Its last bytes stand where the transport header of the packet was, and are zero.
//! A packet from a virtual NIC, and what GRO has merged, has its transport checksum unfinished: whoever
//! sends the frame on will finish it, where that checksum stood, and no program can tell or change that. Of
//! zeros it is all ones, and that is zero too in the sum over the message: right before and after.

use core::hint::black_box;

use crate::{
    csum::Delta,
    neighbour::Sink,
    parse::{
        Bytes, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_FRAGMENT_LEN, IPV6_LEN,
        protocol,
    },
};

/// Length of an ICMP header.
const ICMP_LEN: usize = 8;
/// Bytes of the transport header that are quoted: ports, and the sequence number of TCP.
const QUOTED_TRANSPORT: usize = 8;
const QUOTE4: usize = IPV4_LEN + QUOTED_TRANSPORT;
const QUOTE6: usize = IPV6_LEN + QUOTED_TRANSPORT;
/// A fragment is quoted with its fragment header: the sender looks for its socket by the ports behind that.
const QUOTE6_FRAGMENT: usize = QUOTE6 + IPV6_FRAGMENT_LEN;

/// Bytes to have before a frame with an IPv4 packet.
pub const ROOM4: usize = ICMP_LEN + QUOTE4;
/// Bytes to have before a frame with an IPv6 packet.
pub const ROOM6: usize = ICMP_LEN + QUOTE6;
/// Bytes of the transport header to keep for the end of the answer: up to TCP's checksum field.
pub const REST: usize = 20;

/// Hops the answer may travel.
const TTL: u8 = 64;
/// Precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

#[expect(clippy::cast_possible_truncation, reason = "76 bytes")]
const TOTAL4: u8 = (IPV4_LEN + ICMP_LEN + QUOTE4 + REST) as u8;
/// Writes "fragmentation needed and DF set" at the beginning of `frame`, about the frame [`ROOM4`] bytes
/// further on.
#[inline(always)]
pub fn fragmentation_needed<F: Bytes + Sink + ?Sized>(frame: &mut F, mtu: u32) -> Option<()> {
    put_ethernet(frame, ROOM4, ETHERTYPE_IPV4)?;
    let quote = move_quote::<F, QUOTE4>(frame, ROOM4 + ETHERNET_LEN)?;

    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
    let icmp = [
        DESTINATION_UNREACHABLE,
        FRAGMENTATION_NEEDED,
        0,
        0,
        0,
        0,
        mtu[0],
        mtu[1],
    ];
    let sum = sum_of(&icmp).and(quote).applied_to(NOTHING);
    frame.put(ETHERNET_LEN + IPV4_LEN, icmp)?;
    frame.put(ETHERNET_LEN + IPV4_LEN + 2, sum)?;

    let quoted = ETHERNET_LEN + IPV4_LEN + ICMP_LEN;
    let sender: [u8; 4] = frame.read(quoted + 12)?;
    let eip: [u8; 4] = frame.read(quoted + 16)?;
    // Not to be fragmented, so it needs no identification (RFC 6864 section 4.1).
    let ip = [
        0x45,
        INTERNETWORK_CONTROL,
        0,
        TOTAL4,
        0,
        0,
        0x40,
        0,
        TTL,
        protocol::ICMP,
        0,
        0,
    ];
    let sum = sum_of(&ip)
        .and(sum_of(&eip))
        .and(sum_of(&sender))
        .applied_to(NOTHING);
    frame.put(ETHERNET_LEN, ip)?;
    frame.put(ETHERNET_LEN + 10, sum)?;
    frame.put(ETHERNET_LEN + 12, eip)?;
    frame.put(ETHERNET_LEN + 16, sender)
}

/// As [`fragmentation_needed`], for IPv6 and with [`ROOM6`]. A fragment header may follow the fixed one.
#[inline(always)]
pub fn packet_too_big<F: Bytes + Sink + ?Sized>(frame: &mut F, mtu: u32) -> Option<()> {
    let [next] = frame.read(ROOM6 + ETHERNET_LEN + 6)?;
    if next == protocol::FRAGMENT {
        too_big::<F, QUOTE6_FRAGMENT>(frame, mtu)
    } else {
        too_big::<F, QUOTE6>(frame, mtu)
    }
}

/// About a packet of which `N` bytes are quoted.
#[inline(always)]
fn too_big<F: Bytes + Sink + ?Sized, const N: usize>(frame: &mut F, mtu: u32) -> Option<()> {
    put_ethernet(frame, ROOM6, ETHERTYPE_IPV6)?;
    let quote = move_quote::<F, N>(frame, ROOM6 + ETHERNET_LEN)?;

    #[expect(clippy::cast_possible_truncation, reason = "84 bytes at most")]
    let payload = const { (ICMP_LEN + N + REST) as u8 };
    frame.put(
        ETHERNET_LEN,
        [0x60, 0, 0, 0, 0, payload, protocol::ICMPV6, TTL],
    )?;
    let quoted = ETHERNET_LEN + IPV6_LEN + ICMP_LEN;
    let sender: [u8; 16] = frame.read(quoted + 8)?;
    let eip: [u8; 16] = frame.read(quoted + 24)?;
    frame.put(ETHERNET_LEN + 8, eip)?;
    frame.put(ETHERNET_LEN + 24, sender)?;

    let mtu = mtu.to_be_bytes();
    let icmp = [PACKET_TOO_BIG, 0, 0, 0, mtu[0], mtu[1], mtu[2], mtu[3]];
    // The pseudo header (RFC 8200 section 8.1).
    let pseudo = sum_of(&eip)
        .and(sum_of(&sender))
        .and(sum_of(&[0, payload, 0, protocol::ICMPV6]));
    let sum = sum_of(&icmp).and(pseudo).and(quote).applied_to(NOTHING);
    frame.put(ETHERNET_LEN + IPV6_LEN, icmp)?;
    frame.put(ETHERNET_LEN + IPV6_LEN + 2, sum)
}

/// Moves the `N` bytes at `from` eight bytes to the front, where the answer quotes them, and gives their sum.
/// What was behind the IP header becomes zero.
#[inline(always)]
fn move_quote<F: Bytes + Sink + ?Sized, const N: usize>(
    frame: &mut F,
    from: usize,
) -> Option<Delta> {
    let mut sum = Delta::none();
    let mut at = from;
    while at < from + N {
        let word: [u8; 4] = frame.read(at)?;
        frame.put(at - QUOTED_TRANSPORT, word)?;
        // One after the other: the optimiser would read all of them first, and has no stack for that.
        sum = black_box(sum.and(sum_of(&word)));
        at += 4;
    }
    frame.put(from + N - QUOTED_TRANSPORT, [0; REST])?;
    Some(sum)
}

/// The checksum of no bytes.
const NOTHING: [u8; 2] = [0xff; 2];

#[inline(always)]
fn sum_of<const N: usize>(bytes: &[u8; N]) -> Delta {
    Delta::none().replaced([0; N], *bytes)
}

/// Back to where the frame at `from` came from.
#[inline(always)]
fn put_ethernet<F: Bytes + Sink + ?Sized>(
    frame: &mut F,
    from: usize,
    ethertype: [u8; 2],
) -> Option<()> {
    let destination: [u8; 6] = frame.read(from)?;
    let source: [u8; 6] = frame.read(from + 6)?;
    frame.put(0, source)?;
    frame.put(6, destination)?;
    frame.put(12, ethertype)
}

#[cfg(test)]
mod tests {
    use super::{REST, ROOM4, ROOM6, fragmentation_needed, packet_too_big};
    use etherparse::{Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder};
    use proptest::prelude::*;
    use std::vec::Vec;

    const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// The frame as it is when the answer is written: cut behind the transport header, with room before it.
    fn prepared(asked: &[u8], room: usize, l4: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.resize(room, 0xee);
        frame.extend_from_slice(&asked[..l4 + REST]);
        frame
    }

    proptest! {
        #[test]
        fn an_ipv4_answer_is_right_whatever_it_is_about(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(),
            ports in any::<(u16, u16)>(), mtu in 68_u16..,
        ) {
            let mut asked = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC)
                .ipv4(source, destination, 9)
                .udp(ports.0, ports.1)
                .write(&mut asked, &[7; 100])
                .unwrap();
            let mut frame = prepared(&asked, ROOM4, 34);
            fragmentation_needed(&mut frame[..], u32::from(mtu)).unwrap();

            prop_assert_eq!(&frame[..6], &CLIENT_MAC);
            prop_assert_eq!(&frame[6..12], &UPLINK_MAC);
            let ip = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
            prop_assert_eq!((ip.source, ip.destination), (destination, source));
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let end = 14 + usize::from(ip.total_len);
            prop_assert_eq!(end, frame.len());
            let icmp = Icmpv4Slice::from_slice(&frame[34..end]).unwrap();
            let header = icmp.header();
            prop_assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 4));
            prop_assert_eq!(&icmp.bytes5to8()[2..], &mtu.to_be_bytes());
            prop_assert_eq!(&icmp.payload()[..28], &asked[14..42]);
            prop_assert_eq!(&icmp.payload()[28..], &[0; REST]);
            // As a device leaves it that finishes the checksum of a TCP segment.
            frame[34 + 36 + 16..34 + 36 + 18].fill(0xff);
            let icmp = Icmpv4Slice::from_slice(&frame[34..end]).unwrap();
            let right = icmp.header().icmp_type.calc_checksum(icmp.payload());
            prop_assert_eq!(icmp.header().checksum, right);
        }

        #[test]
        fn an_ipv6_answer_is_right_whatever_it_is_about(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            ports in any::<(u16, u16)>(), mtu in 1280_u32..,
        ) {
            let mut asked = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC)
                .ipv6(source, destination, 9)
                .udp(ports.0, ports.1)
                .write(&mut asked, &[7; 100])
                .unwrap();
            let mut frame = prepared(&asked, ROOM6, 54);
            packet_too_big(&mut frame[..], mtu).unwrap();

            let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
            prop_assert_eq!((ip.source, ip.destination), (destination, source));
            let end = 54 + usize::from(ip.payload_length);
            prop_assert_eq!(end, frame.len());
            let icmp = Icmpv6Slice::from_slice(&frame[54..end]).unwrap();
            prop_assert!(icmp.is_checksum_valid(destination, source));
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
            prop_assert_eq!(icmp.bytes5to8(), mtu.to_be_bytes());
            prop_assert_eq!(&icmp.payload()[..48], &asked[14..62]);
            prop_assert_eq!(&icmp.payload()[48..], &[0; REST]);
            frame[54 + 56 + 6..54 + 56 + 8].fill(0xff);
            let icmp = Icmpv6Slice::from_slice(&frame[54..end]).unwrap();
            prop_assert!(icmp.is_checksum_valid(destination, source));
        }

        #[test]
        fn an_answer_about_a_fragment_quotes_what_is_behind_the_fragment_header(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            fragment in any::<[u8; 8]>(), behind in any::<[u8; 40]>(), mtu in 1280_u32..,
        ) {
            let mut asked = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC)
                .ipv6(source, destination, 9)
                .write(&mut asked, etherparse::IpNumber(44), &[fragment.as_slice(), &behind].concat())
                .unwrap();
            let mut frame = prepared(&asked, ROOM6, 62);
            packet_too_big(&mut frame[..], mtu).unwrap();

            let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
            prop_assert_eq!((ip.source, ip.destination), (destination, source));
            let end = 54 + usize::from(ip.payload_length);
            prop_assert_eq!(end, frame.len());
            let icmp = Icmpv6Slice::from_slice(&frame[54..end]).unwrap();
            prop_assert!(icmp.is_checksum_valid(destination, source));
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
            prop_assert_eq!(icmp.bytes5to8(), mtu.to_be_bytes());
            prop_assert_eq!(&icmp.payload()[..56], &asked[14..70]);
            prop_assert_eq!(&icmp.payload()[56..], &[0; REST]);
        }
    }
}
