//! The real daemon, real programs, real packets: one set of namespaces for each test.
//!
//! Needs root and the programs of `eip-daemon` (see `eip_lab::binaries`). Without root every test
//! fails and says so. Each test has the leak
//! detector on: a packet outside the node with an inside address fails it.
#![cfg(test)]
#![forbid(unsafe_code)]

mod support;

mod addresses;
mod bgp;
mod discovery;
mod documents;
mod explain;
mod ground;
mod hops;
mod lanes;
mod layer2;
mod lifecycle;
mod older_api;
mod pmtu;
mod several_uplinks;
mod spoofing;
mod surface;
mod takeover;
mod trace;
mod uplinks;
mod wire;
