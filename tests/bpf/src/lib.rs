//! The compiled kernel programs, run on single packets by the kernel itself (`BPF_PROG_TEST_RUN`).
//!
//! A test is the life of one packet: build a [`World`], [`World::send`] a packet through a hook, look at
//! what came out and at the counters that moved, and use the output as the input of the next hook.
//! Expected packets are written and checksummed by an independent library, never by the code under
//! test.
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support panics at the line that is wrong"
)]

pub mod netns;
pub mod packet;
pub mod packet6;
pub mod world;

pub use packet::{checksums_are_right, ip};
pub use world::{Action, Run, World};
