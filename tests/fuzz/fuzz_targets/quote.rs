//! Packets quoted by ICMP errors: cut short by nature, and never read past their end.
#![no_main]

use eip_common::parse::{self, Quoted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((start, packet)) = data.split_first() else {
        return;
    };
    let l3 = usize::from(*start & 0x3f);
    let Some(available) = packet.len().checked_sub(l3) else {
        return;
    };
    let length = u32::try_from(available).unwrap();
    check(parse::ipv4_quoted(packet, l3, length), l3, available);
    check(parse::ipv6_quoted(packet, l3, length), l3, available);
});

fn check(quoted: Option<Quoted>, l3: usize, available: usize) {
    let Some(quoted) = quoted else { return };
    let before = quoted.l4 - l3;
    assert!(before <= available);
    if let Some(offset) = quoted.checksum.offset() {
        assert!(before + offset + 2 <= available);
    }
}
