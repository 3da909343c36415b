//! Checksums the slow and obvious way. Nothing here is shared with the programs under test.

/// One's complement sum over big-endian words, an odd byte padded with zero (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// The Internet checksum of some bytes.
pub fn internet(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The checksum of a transport packet behind its pseudo header, which sums up alike in both families.
pub fn transport(source: &[u8], destination: &[u8], protocol: u8, bytes: &[u8]) -> u16 {
    let length = u32::try_from(bytes.len()).expect("a packet");
    !fold(sum(source) + sum(destination) + u32::from(protocol) + length + sum(bytes))
}

/// A checksum after some of the bytes under it were replaced (RFC 1624, equation 3). A wrong one stays
/// wrong by the same amount. An odd byte at the end is padded with zero before its complement is taken.
pub fn replaced(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let mut complement: Vec<u8> = old.iter().map(|byte| !byte).collect();
    if old.len() % 2 == 1 {
        complement.push(0xff);
    }
    !fold(u32::from(!checksum) + sum(&complement) + sum(new))
}

/// `CRC32c` as SCTP has it (RFC 9260 appendix A), with the checksum field taken as zero.
pub fn sctp(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        let byte = if (8..12).contains(&at) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let is_odd = crc & 1 == 1;
            crc >>= 1;
            if is_odd {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::{internet, replaced, sctp};

    #[test]
    fn known_values() {
        // RFC 1071 section 3.
        assert_eq!(internet(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        // RFC 1624 section 5, the example that its predecessor got wrong.
        assert_eq!(replaced(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
        // RFC 3720 appendix B.4: CRC32c of 32 bytes of zero.
        assert_eq!(sctp(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    }
}
