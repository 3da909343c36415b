//! The node agent of kube-eip as a library; `main.rs` and `eipctl` are thin shells around it.
#![forbid(unsafe_code)]

pub mod dataplane;
pub mod model;

/// The kernel programs, as built by this crate's build script.
pub static EBPF_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/eip"));
