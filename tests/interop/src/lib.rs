//! The BGP speaker against real routers, in network namespaces of the tests' own.
//!
//! ```text
//!   router  10.99.0.1  fd99::1  AS 65001 ──veth── speaker  10.99.0.2  fd99::2  AS 65010
//! ```
//!
//! [`Bench`] is that picture raised; [`router::Router`] is BIRD, FRR or GoBGP in one half of it,
//! [`speaker::SpeakerProcess`] the speaker under test in the other. Namespaces are named
//! `bgp-<pid>-<n>-<role>` and removed, with every process in them, when a test ends.
#![forbid(unsafe_code)]

pub mod bench;
pub mod hand;
pub mod router;
pub mod speaker;

pub use bench::{Bench, Shape};
pub use router::{Kind, Known, Router, RouterOptions};
pub use speaker::SpeakerProcess;
