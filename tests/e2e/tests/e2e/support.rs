//! What every test begins with.

use eip_lab::world::{World, WorldOptions};

/// A world of the test's own, or `None` after saying that the test is skipped.
pub(crate) fn raise(options: WorldOptions) -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        assert!(
            std::env::var_os("EIP_E2E_REQUIRED").is_none(),
            "{name} needs root, and EIP_E2E_REQUIRED forbids to skip it"
        );
        eprintln!("SKIPPED {name}: needs root");
        return None;
    }
    Some(World::new(options).unwrap())
}
