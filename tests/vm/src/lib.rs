//! A VM that is one: a Debian kernel in qemu, behind a tap in a pod's namespace, wired the two ways
//! KubeVirt does it.
//!
//! ```text
//!  bridge binding                              masquerade binding
//!  ── veth ──┬─ eth0 ─┐ pod                    ── veth ──┬─ eth0 10.244.2.12 ─ nft ─┐ pod
//!            │   k6t-eth0 ── tap0 ── VM                  │   k6t-eth0 10.0.2.1 ── tap0 ── VM
//!            │        (MAC and IP of the pod)            │                        10.0.2.2
//! ```
//!
//! In IPv6 both are wired alike; the hidden VM is `fd10:0:2::2`, as with KubeVirt.
//!
//! [`kernel`] fetches a kernel and takes it apart, [`initramfs`] packs what the guest runs, [`machine`]
//! boots it and asks it things, [`pod`] wires its pod. Nothing is installed: a package is only unpacked,
//! in the cache directory. Without KVM qemu translates the guest's instructions: it boots in seconds all
//! the same.
#![forbid(unsafe_code)]

pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod pod;

/// Port of every echo server.
pub const PORT: u16 = 7000;
/// Port of the guest's server for IPv6: it has one for every address of a family, and a socket for every
/// IPv6 address takes IPv4 as well.
pub const PORT6: u16 = 7001;
/// Where the guest finds the agent's kernel programs.
pub const PROGRAMS: &str = "/programs";
