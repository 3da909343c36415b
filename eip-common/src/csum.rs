//! Incremental Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! A change to checksummed bytes is collected in a [`Delta`] and applied to a checksum field in one
//! step. One's complement sums do not care about byte order as long as all words are read alike, so
//! words are read in native order: what the kernel's helpers expect, and no swap anywhere.

/// Difference between new and old bytes, as an unfolded one's complement sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Adds the replacement of `old` by `new`. Both start at an even offset of what is summed.
    ///
    /// `N` is even and at most a few thousand, so the sum cannot overflow.
    #[inline(always)]
    #[must_use]
    pub fn replaced<const N: usize>(mut self, old: [u8; N], new: [u8; N]) -> Self {
        const { assert!(N.is_multiple_of(2)) };
        // RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). 32 bits at a time where there are as many: the
        // carries are folded in at the end (RFC 1071 section 2).
        let (old_words, old_rest) = old.as_chunks::<4>();
        let (new_words, new_rest) = new.as_chunks::<4>();
        for (old, new) in old_words.iter().zip(new_words) {
            self.0 += u64::from(!u32::from_ne_bytes(*old));
            self.0 += u64::from(u32::from_ne_bytes(*new));
        }
        for (old, new) in old_rest
            .as_chunks::<2>()
            .0
            .iter()
            .zip(new_rest.as_chunks::<2>().0)
        {
            self.0 += u64::from(!u16::from_ne_bytes(*old));
            self.0 += u64::from(u16::from_ne_bytes(*new));
        }
        self
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum field after the change.
    #[inline(always)]
    #[must_use]
    pub fn applied_to(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = fold(u64::from(!u16::from_ne_bytes(checksum)) + self.0);
        (!sum).to_ne_bytes()
    }

    /// As [`Self::applied_to`] for UDP and UDP-Lite (RFC 768, RFC 3828 section 3.1): a checksum of
    /// zero says "none" and stays, a computed zero is sent as all ones.
    #[inline(always)]
    #[must_use]
    pub fn applied_to_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0, 0] {
            return checksum;
        }
        match self.applied_to(checksum) {
            [0, 0] => [0xff, 0xff],
            computed => computed,
        }
    }

    /// The form `bpf_l4_csum_replace` takes with a size of zero: a 32-bit sum.
    #[inline(always)]
    #[must_use]
    pub fn as_wsum(self) -> u64 {
        u64::from(fold(self.0))
    }
}

/// Folds a sum to 16 bits, carries added back.
#[inline(always)]
fn fold(mut sum: u64) -> u16 {
    // A sum of a few thousand words needs two rounds; four are right for any u64.
    let mut round = 0;
    while round < 4 {
        sum = (sum & 0xffff) + (sum >> 16);
        round += 1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    folded
}

#[cfg(test)]
mod tests {
    use super::Delta;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The whole checksum of RFC 1071, the slow and obvious way, in network order.
    fn full(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
        let sum = sum as u16;
        (!sum).to_be_bytes()
    }

    /// 0x0000 and 0xffff are the same sum; which of the two comes out depends on the way taken.
    fn canonical(checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0xff, 0xff] {
            [0, 0]
        } else {
            checksum
        }
    }

    proptest! {
        #[test]
        fn replacing_an_address_equals_summing_again(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..64),
            new in any::<[u8; 4]>(),
            word in 0_usize..4,
        ) {
            let at = word * 4;
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let before = full(&bytes);
            bytes[at..at + 4].copy_from_slice(&new);
            let after = full(&bytes);
            let got = Delta::none().replaced(old, new).applied_to(before);
            prop_assert_eq!(canonical(got), canonical(after));
        }

        #[test]
        fn changes_add_up(
            bytes in proptest::collection::vec(any::<u8>(), 40),
            first in any::<[u8; 16]>(),
            second in any::<[u8; 2]>(),
        ) {
            let mut changed: Vec<u8> = bytes.clone();
            changed[0..16].copy_from_slice(&first);
            changed[20..22].copy_from_slice(&second);
            let delta = Delta::none()
                .replaced(bytes[0..16].try_into().unwrap(), first)
                .replaced(bytes[20..22].try_into().unwrap(), second);
            prop_assert_eq!(
                canonical(delta.applied_to(full(&bytes))),
                canonical(full(&changed))
            );
        }

        #[test]
        fn undoing_a_change_gives_the_old_checksum(
            checksum in any::<[u8; 2]>(), old in any::<[u8; 4]>(), new in any::<[u8; 4]>(),
        ) {
            let there = Delta::none().replaced(old, new).applied_to(checksum);
            let back = Delta::none().replaced(new, old).applied_to(there);
            prop_assert_eq!(canonical(back), canonical(checksum));
        }
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let delta = Delta::none().replaced([10, 0, 0, 1], [203, 0, 113, 9]);
        assert_eq!(delta.applied_to_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn a_computed_udp_checksum_of_zero_is_sent_as_all_ones() {
        // ~0x1234 replaced by nothing but itself plus 0x1234 sums to all ones, hence checksum zero.
        let delta = Delta::none().replaced([0, 0], 0x1234_u16.to_ne_bytes());
        assert_eq!(delta.applied_to(0x1234_u16.to_ne_bytes()), [0, 0]);
        assert_eq!(delta.applied_to_udp(0x1234_u16.to_ne_bytes()), [0xff, 0xff]);
    }
}
