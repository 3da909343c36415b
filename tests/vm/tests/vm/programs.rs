//! The kernel of a Debian 12 node, whose verifier is older than that of the machine the tests run on.

use eip_lab::plan::{VM1, eip};
use eip_vm_tests::pod::Binding;

use crate::support::Stage;

#[test]
fn every_program_passes_the_verifier_of_debian_12() {
    let mut stage = Stage::raise(VM1, eip::VM1, Binding::Bridge, 1500);
    assert_eq!(stage.machine.ask("programs").unwrap(), "4");
}
