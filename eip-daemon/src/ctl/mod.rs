//! The control socket: what `eipctl` asks, and what the agent answers.
//!
//! ```text
//! eipctl: command ─> client ──HTTP/JSON over a unix socket──> server ─> view    ─> report
//!         render  <──────────────── api ─────────────────────┘      └> binding ─> source::local
//! ```
//!
//! The server reads the reports the reconciler publishes and the kernel's counters; it writes
//! nothing but binding objects, and those into the source, from where they take the way of every
//! other object. It owns no task: the supervisor runs it.

pub mod api;
mod bgp;
mod binding;
pub mod client;
pub mod command;
mod dump;
mod error;
mod explain;
pub mod follow;
mod frame;
pub mod grpc;
mod lookup;
mod operate;
mod render;
pub mod server;
pub mod socket;
pub mod state;
mod status;
mod trace;
mod view;

pub use dump::on_signal as dump_on_signal;
pub use view::{phase, phases};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kube-eip/eip.sock";

#[cfg(test)]
pub(crate) mod fixture;
