//! A small network on one machine, in namespaces: what the demo shows and the end-to-end tests use.
#![forbid(unsafe_code)]

pub mod binaries;
pub mod demo;
pub mod lab;
