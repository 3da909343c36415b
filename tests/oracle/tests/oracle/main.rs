//! The oracle at work: generated packets, named differences, recorded traffic.
//!
//! Needs root, as the end-to-end tests do.
#![cfg(test)]
#![forbid(unsafe_code)]
mod corpus;
mod generate;
mod generated;
mod named;
mod named6;
mod segments;
mod support;
