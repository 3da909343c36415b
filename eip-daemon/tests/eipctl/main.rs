//! `eipctl`, the real binary, against the real control socket. Behind the socket are a canned report,
//! or the real directory source with a reconciler whose kernel is a report.
//!
//! `cfg(test)` marks the helpers as test code too.

#[cfg(test)]
mod agent;
// The fixture of the unit tests names the library's modules as its own crate's.
#[cfg(test)]
#[path = "../../src/ctl/fixture.rs"]
mod fixture;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod verbs;

#[cfg(test)]
use eip_daemon::{announce, config, ctl::follow, ctl::state, dataplane, model, report};
