//! Incremental checksum arithmetic.
