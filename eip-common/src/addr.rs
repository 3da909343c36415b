//! Address types in wire order.
//!
//! These are aliases and not newtypes on purpose: BTF describes them as plain byte arrays, which is
//! what makes a map dump readable.

/// An IPv4 address as it stands in the header.
pub type Ipv4Wire = [u8; 4];
/// An IPv6 address as it stands in the header.
pub type Ipv6Wire = [u8; 16];
/// An Ethernet address.
pub type Mac = [u8; 6];
/// A 16-bit port, ICMP identifier or IP identification in wire order.
pub type Port = [u8; 2];
