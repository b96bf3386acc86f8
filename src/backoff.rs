//! Pauses between attempts that double while something keeps failing.

use std::time::Duration;

/// The pauses after failures in a row: the first, then each twice as long as the one before, up to the longest.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    /// The pauses since the last success.
    pauses: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, pauses: 0 }
    }

    /// The pause after another failure.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.first.saturating_mul(1 << self.pauses.min(31)).min(self.longest);
        self.pauses = self.pauses.saturating_add(1);
        pause
    }

    /// Begins anew, after a success.
    pub(crate) const fn reset(&mut self) {
        self.pauses = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!([0; 8].map(|_| backoff.next_pause().as_secs()), [1, 2, 4, 8, 16, 32, 60, 60]);
        for _ in 0..100 {
            assert_eq!(backoff.next_pause(), Duration::from_secs(60));
        }
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::from_secs(1));
    }
}
