//! The only `unsafe impl Pod` lines: user space may copy these types to and from maps as bytes.
//!
//! [`crate::abi`] asserts what makes this true: `repr(C)`, no padding, and only integers and byte
//! arrays inside.
#![expect(unsafe_code, reason = "aya asks for the promise in this form")]

use aya::Pod;

use crate::abi::{
    Binding, Config, EipReasonKey, FlowKey, FragmentKey, Lease, Net, Quota, Traffic, Uplink, Vm,
    Watch,
};

// SAFETY: integers and byte arrays in repr(C) without padding, sizes asserted in `abi`.
unsafe impl<A: Pod> Pod for Binding<A> {}
// SAFETY: as above.
unsafe impl<A: Pod> Pod for Vm<A> {}
// SAFETY: as above.
unsafe impl<A: Pod> Pod for FlowKey<A> {}
// SAFETY: as above.
unsafe impl<A: Pod> Pod for FragmentKey<A> {}
// SAFETY: as above.
unsafe impl Pod for Net {}
// SAFETY: as above.
unsafe impl Pod for Uplink {}
// SAFETY: as above.
unsafe impl Pod for Config {}
// SAFETY: as above.
unsafe impl Pod for Traffic {}
// SAFETY: as above.
unsafe impl Pod for Lease {}
// SAFETY: as above.
unsafe impl Pod for EipReasonKey {}
// SAFETY: as above.
unsafe impl Pod for Watch {}
// SAFETY: as above.
unsafe impl Pod for Quota {}
