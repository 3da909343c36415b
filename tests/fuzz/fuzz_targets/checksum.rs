//! A checksum brought up to date equals one computed anew, whatever was under it.
#![no_main]

use eip_common::csum::Delta;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((new, packet)) = data.split_first_chunk::<16>() else {
        return;
    };
    let Some(old) = packet.first_chunk::<16>() else {
        return;
    };
    let before = whole(packet);
    let mut changed = packet.to_vec();
    changed[..16].copy_from_slice(new);
    let delta = Delta::none().replaced(*old, *new);
    let after = delta.applied_to(before);
    assert_eq!(canonical(after), canonical(whole(&changed)));
    let udp = delta.applied_to_udp(before);
    if before == [0, 0] {
        assert_eq!(udp, before, "no checksum stays none");
    } else {
        assert_ne!(udp, [0, 0], "a computed zero would say that there is none");
    }
});

/// RFC 1071, in network order.
fn whole(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// Both zeros are one.
fn canonical(sum: [u8; 2]) -> [u8; 2] {
    if sum == [0xff, 0xff] { [0, 0] } else { sum }
}
