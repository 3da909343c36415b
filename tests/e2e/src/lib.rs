//! End-to-end tests: everything is in `tests/e2e`, one test program with a module for each subject.
#![forbid(unsafe_code)]
