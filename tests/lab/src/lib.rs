//! A small network on one machine, in namespaces: what the demo shows and the end-to-end tests use.
//!
//! ```text
//!  client ──────────── router ───────────────── node (hypervisor)
//!  198.51.100.2        │ 203.0.113.0/24         │ up0 192.0.2.10    uplink: EIPs come this way
//!                      │ via 192.0.2.10         │ mg0 172.16.0.10   management, main default route
//!                      └── 172.16.0.1 ──────────┤
//!                                               ├─ cali1 ── vm1  10.244.1.11  routed veth
//!                                               ├─ cali2 ── pod1 10.244.1.20  routed veth, no EIP
//!                                               └─ cni0 10.244.2.1, a bridge
//!                                                    ├─ veth2 ── vm2  10.244.2.12
//!                                                    ├─ veth3 ── vm3  10.244.2.13  (when asked for)
//!                                                    └─ veth4 ── pod2 10.244.2.20  no EIP
//! ```
//!
//! The node is as hostile as real ones are: `FORWARD` drops, `INVALID` drops, pods are masqueraded,
//! `rp_filter` is strict, bridged frames meet the firewall too, and its default route leads away
//! from the uplink. A VM or a pod is a namespace at the other end of a veth: to the node it looks
//! like the virt-launcher pod it is.
//!
//! Built from the bottom: [`netns`] (namespaces that always go away), [`plan`] (every address),
//! [`uplink`] (a cable, or VLANs on one), [`firewall`], [`world`] (all of it raised), [`hidden`] (a VM behind a pod that translates), [`echo`] and [`traffic`] (questions and answers),
//! [`sniff`], [`packet`] and [`leak`] (what was on the wire), [`documents`] and [`daemon`] (the real
//! agent in it), [`lab`] and [`demo`] (what people run). Nothing outside the namespaces is changed,
//! except that each running agent has a BPF file system of its own mounted in its directory.
#![forbid(unsafe_code)]

pub mod binaries;
pub mod bird;
pub mod command;
pub mod daemon;
pub mod demo;
pub mod documents;
pub mod echo;
pub mod firewall;
pub mod hidden;
pub mod lab;
pub mod leak;
pub mod needs;
pub mod netns;
pub mod packet;
pub mod plan;
pub mod sniff;
pub mod traffic;
pub mod uplink;
mod vlan;
pub mod wait;
pub mod world;
