//! The kernel side on a real kernel: namespaces, veth pairs, bridges, a BPF file system.

#[path = "attachments.rs"]
mod attachments;
#[path = "maps.rs"]
mod maps;
#[path = "network.rs"]
mod network;
#[path = "world.rs"]
mod world;
