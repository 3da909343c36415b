//! Telling the network which addresses are served here.

pub mod bgp;
