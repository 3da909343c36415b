//! `eip-daemon`, the real binary: what it says and how it ends when it cannot or shall not start.
//!
//! `cfg(test)` marks the helpers as test code too.

#[cfg(test)]
mod exits;
