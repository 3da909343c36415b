//! What a BFD neighbour sends: read or discarded, and what is read is written the same.
#![no_main]

#[allow(dead_code)]
#[path = "../../../eip-daemon/src/announce/bgp/bfd/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;
use wire::Control;

fuzz_target!(|data: &[u8]| {
    if let Some(control) = Control::decode(data) {
        assert_ne!(
            (control.my_discriminator, control.detect_multiplier),
            (0, 0)
        );
        assert_eq!(Control::decode(&control.encode()), Some(control));
    }
});
