//! Bounded waiting for a condition: the only place of the lab that sleeps.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks at `condition` until it yields a value, for at most `limit`.
///
/// # Errors
/// When the time is up; the error names `what` was waited for.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain: {what}");
        }
        pause(INTERVAL);
    }
}

/// Looks at `condition` until it holds, for at most `limit`.
///
/// # Errors
/// When the time is up; the error names `what` was waited for.
pub fn wait_until(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    wait_for(limit, what, || condition().then_some(()))
}

/// Lets time pass where time itself is the matter: pacing a stream, or giving something that must
/// *not* happen the time to happen.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that does; everybody else waits for conditions"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
