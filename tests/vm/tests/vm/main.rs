//! A real VM behind its EIP, both ways, for both of KubeVirt's bindings.
//!
//! Needs root and qemu; see `eip_vm_tests`.
#![cfg(test)]
#![forbid(unsafe_code)]

mod support;

mod programs;
mod traffic;
