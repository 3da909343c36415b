//! The object as a whole.

use eip_bpf_tests::World;

#[test]
fn every_program_passes_the_verifier() {
    let _ = World::new();
}
