//! The oracle's IPv6: packets as values, what a stateless 1:1 NAT has to make of them, and who is right.

pub mod compare;
pub mod model;
pub mod packet;

/// Length of the fixed header.
const FIXED: usize = 40;
/// Where both addresses stand in it, source first.
const ADDRESSES: std::ops::Range<usize> = 8..40;
