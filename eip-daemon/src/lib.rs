//! The node agent of kube-eip as a library; `main.rs` and `eipctl` are thin shells around it.
//!
//! Data flows one way:
//!
//! ```text
//! source ─> Facts ─┐
//! node  ─> View ───┼─> desired ─> Desired ─> reconcile ─┬─> dataplane (maps, links, routes)
//! flags ─> Settings┘                 ▲                  └─> report ─> ctl, metrics, readiness
//!                                 Observed (read back)
//! ```
//!
//! [`agent`] puts them together under a [`supervisor`]; [`ctl`] and [`http`] show what the report says.
//! A module imports only what stands left of it here, plus [`model`] and `eip_common`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod announce;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod conditions;
pub mod config;
pub mod controller;
pub mod ctl;
pub mod dataplane;
pub mod desired;
pub mod feedback;
pub mod http;
pub mod import;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod reconcile;
pub mod report;
pub mod source;
pub mod supervisor;

/// The kernel programs, as built by this crate's build script.
pub static EBPF_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/eip"));

/// Programs that do nothing, for benchmarks to compare with. The daemon does not load them.
pub static BASELINE_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/eip-baseline"));
