//! Packets of both families: read or refused, and whatever is read lies inside the packet. The frame may
//! be longer than what is directly readable, as in the kernel.
#![no_main]

use eip_common::parse::{
    self, ETHERNET_LEN, Fragment, Headers, Kind, ParseError, Transport,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((hidden, frame)) = data.split_first() else {
        return;
    };
    let Some(linear) = frame.len().checked_sub(ETHERNET_LEN) else {
        return;
    };
    let available = u32::try_from(linear).unwrap() + u32::from(*hidden) * 8;
    check(parse::ipv4(frame, ETHERNET_LEN, available), available, 20);
    check(parse::ipv6(frame, ETHERNET_LEN, available), available, 40);
    for plain in [
        parse::ipv6_plain(frame, ETHERNET_LEN, available),
        parse::ipv6_plain_or_fragment(frame, ETHERNET_LEN, available),
    ] {
        check(plain, available, 40);
        if plain.is_ok() {
            assert_eq!(plain, parse::ipv6(frame, ETHERNET_LEN, available));
        }
    }
});

fn check<A>(read: Result<Headers<A>, ParseError>, available: u32, least: usize) {
    let Ok(headers) = read else { return };
    assert!(headers.len <= available);
    assert!(headers.len as usize >= least);
    let l3 = usize::from(headers.l3);
    assert_eq!(l3, ETHERNET_LEN);
    let before = headers.l4 - l3;
    assert!(before >= least && before <= headers.len as usize);
    let left = headers.len as usize - before;
    let Transport { checksum, kind, .. } = headers.transport;
    if let Some(offset) = checksum.offset() {
        assert!(offset + 2 <= left, "a checksum outside the packet");
        assert_ne!(headers.fragment, Fragment::Later);
    }
    if kind == Kind::IcmpError {
        assert!(left >= 8);
    }
}
