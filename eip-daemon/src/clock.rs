//! The clock that leases are counted by.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`: nobody sets it, it goes on while the machine sleeps, and the kernel
/// programs read the same one. Starts again with the machine, as do the maps.
#[must_use]
pub fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
    // The clock exists since Linux 2.6.39. A reading that failed would be the beginning of time, at which
    // nothing is renewed.
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
