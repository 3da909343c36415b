//! How long to wait before the next attempt, and jitter for every timer. Pure: the seed comes
//! from outside.

use std::time::Duration;

/// First wait after a session was lost that had been up.
const AFTER_LOSS: Duration = Duration::from_secs(1);
/// First wait after an attempt that came to nothing; doubles from there.
const FIRST: Duration = Duration::from_secs(2);
/// Longest wait while nobody answers. The peer can still reach us in the meantime.
const MAX_UNREACHABLE: Duration = Duration::from_secs(30);
/// Longest wait while the peer, or we, answer with NOTIFICATION.
const MAX_REFUSED: Duration = Duration::from_mins(2);

/// Why another attempt is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or one that vanished before the session was up.
    Unreachable,
    /// A session that was up has lost its connection.
    Lost,
    /// A NOTIFICATION ended it, sent or received.
    Refused,
}

/// Pseudo-random numbers for jitter (xorshift64*); nothing depends on their quality.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Any seed will do.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Between 75 % and 100 % of `duration` (RFC 4271 §10).
    pub fn apply(&mut self, duration: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 54; // 10 bits
        let thousandths = 750 + u32::try_from(random).unwrap_or(0) % 251;
        duration * thousandths / 1000
    }
}

/// Exponential back-off that is forgotten only after a session has proved itself.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt, before jitter.
    pub fn next(&mut self, failure: Failure) -> Duration {
        if failure == Failure::Lost && self.failures == 0 {
            self.failures = 1;
            return AFTER_LOSS;
        }
        let max = match failure {
            Failure::Refused => MAX_REFUSED,
            Failure::Unreachable | Failure::Lost => MAX_UNREACHABLE,
        };
        let wait = FIRST * 2_u32.pow(self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        wait.min(max)
    }

    /// A session has been up for its hold time: whatever went wrong before is history.
    ///
    /// Not earlier: a peer that accepts every OPEN and refuses the first UPDATE would be called
    /// without end.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_two_minutes_when_the_peer_refuses() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| backoff.next(Failure::Refused).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120]);
    }

    #[test]
    fn waits_grow_to_thirty_seconds_when_nobody_answers() {
        let mut backoff = Backoff::default();
        let waits = (0..6).map(|_| backoff.next(Failure::Unreachable).as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_lost_session_is_called_again_within_a_second_but_not_over_and_over() {
        let mut backoff = Backoff::default();
        let waits = (0..4).map(|_| backoff.next(Failure::Lost).as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [1, 4, 8, 16]);
        backoff.reset();
        assert_eq!(backoff.next(Failure::Lost), AFTER_LOSS);
    }

    #[test]
    fn jitter_takes_off_up_to_a_quarter() {
        let mut jitter = Jitter::new(42);
        let second = Duration::from_secs(1);
        let values: Vec<Duration> = (0..1000).map(|_| jitter.apply(second)).collect();
        assert!(
            values
                .iter()
                .all(|value| (second * 3 / 4..=second).contains(value))
        );
        assert!(values.iter().any(|value| *value < second * 80 / 100));
        assert!(values.iter().any(|value| *value > second * 95 / 100));
    }
}
