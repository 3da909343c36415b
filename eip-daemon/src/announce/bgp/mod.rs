//! A BGP speaker for host routes: everything out, nothing in.
//!
//! Small in scope, complete in behaviour: what routers and the people who run them expect of a
//! neighbour (RFC 4271 and what grew around it), for the one purpose of telling them which
//! addresses are served here.
//!
//! ```text
//!   Speaker ──> driver ──> fsm ──> rib      driver: sockets, timers, tasks; the only I/O
//!   (handle)       │        │               fsm:    the session, process(input, now) -> outputs
//!                  └──────> wire <──────────rib:    what the peer shall have against what it has
//!                                           wire:   bytes
//!                                           bfd:    whether packets get through, on its own thread
//! ```
//!
//! Left imports right. `config` and `route` hold the types that callers hand over.
//!
//! Invariants
//! - After an interruption of any kind, a settled peer has exactly the desired set.
//! - End-of-RIB is sent only when the desired set is complete.
//! - Memory does not depend on what a peer sends, nor on how long it takes nothing.
//! - A change to one peer touches no other peer's session.

pub mod backoff;
pub mod bfd;
pub mod config;
mod driver;
pub mod fsm;
pub mod rib;
pub mod route;
mod speaker;
pub mod wire;

pub use config::{
    ConfigError, ExportPolicy, GracefulRestartMode, Initiative, Neighbour, Password, PeerAs,
    PeerConfig, PeerName, Reach, RefusedCapabilities, SessionSettings, SpeakerConfig, Transport,
};
pub use driver::{Exit, ListenerStatus, PeerStatus};
pub use fsm::{Counters, FamilySnapshot, LastError, Loss, SessionSnapshot, Silence, State};
pub use route::{AttributeError, AttributeSet, Communities, Route, RouteAttributes};
pub use speaker::{RefusedPeer, Speaker, SpeakerStatus};
pub use wire::Family;
