//! The kernel side on a real kernel: namespaces, veth pairs, bridges, a BPF file system.
//!
//! `cfg(test)` marks the helpers as test code too.

#[cfg(test)]
#[path = "attachments.rs"]
mod attachments;
#[cfg(test)]
#[path = "maps.rs"]
mod maps;
#[cfg(test)]
#[path = "network.rs"]
mod network;
#[cfg(test)]
#[path = "world.rs"]
mod world;
