//! What the kernel programs and the daemon share.
//!
//! - [`abi`]: keys and values of the pinned BPF maps, their names and the ABI version;
//! - [`reason`]: every way a packet can end, and at which hook;
//! - [`parse`]: from bytes to [`parse::Headers`], the same code in the kernel and in host tests;
//! - [`neighbour`]: ARP and neighbour discovery, read and written;
//! - [`too_large`]: the answer to a packet that does not fit the VM's link;
//! - [`csum`]: incremental checksum arithmetic (RFC 1624);
//! - [`addr`]: address types in wire order.
//!
//! Nothing here allocates, does I/O or depends on a clock. Addresses and ports are kept in wire
//! order (`[u8; N]`) everywhere, so that `bpftool map dump` shows `[203,0,113,10]` and no function
//! has to say which order it expects.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod addr;
pub mod csum;
pub mod neighbour;
pub mod parse;
#[cfg(feature = "user")]
mod pod;
pub mod reason;
pub mod too_large;
