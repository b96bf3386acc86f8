//! Token buckets: how fast requests and items may be sent.

use std::time::{Duration, Instant};

/// A provider's limit: a burst, and how fast it is refilled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The most tokens at once; at least 1.
    pub burst: f64,
    /// Tokens a second; more than 0.
    pub per_second: f64,
}

/// The tokens that are left of a limit.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    /// The moment for which `tokens` holds.
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate, now: Instant) -> TokenBucket {
        TokenBucket { rate, tokens: rate.burst, at: now }
    }

    /// Takes tokens. More than the burst are taken from a full bucket, which then owes the rest.
    ///
    /// # Errors
    /// If there are too few tokens: how long to wait for them. None were taken.
    pub fn take(&mut self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate.per_second).min(self.rate.burst);
        self.at = self.at.max(now);
        let missing = tokens.min(self.rate.burst) - self.tokens;
        // Less than a thousandth of a token is rounding.
        if missing > 0.001 {
            return Err(Duration::from_secs_f64(missing / self.rate.per_second));
        }
        self.tokens -= tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let begin = Instant::now();
        let mut bucket = TokenBucket::new(Rate { burst: 20.0, per_second: 0.5 }, begin);
        for _ in 0..20 {
            assert_eq!(bucket.take(1.0, begin), Ok(()));
        }
        assert_eq!(bucket.take(1.0, begin), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(1.0, begin + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(1.0, begin + Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
        let begin = Instant::now();
        let mut bucket = TokenBucket::new(Rate { burst: 10.0, per_second: 1.0 }, begin);
        assert_eq!(bucket.take(30.0, begin), Ok(()));
        assert_eq!(bucket.take(1.0, begin), Err(Duration::from_secs(21)));
    }

    /// In a simulated hour no window of 10 s holds more than the burst and ten seconds of the rate.
    #[test]
    fn no_window_exceeds_the_limit() {
        let begin = Instant::now();
        let mut bucket = TokenBucket::new(Rate { burst: 25.0, per_second: 5.0 }, begin);
        let mut sent: Vec<Duration> = Vec::new();
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(3_600) {
            match bucket.take(1.0, begin + now) {
                Ok(()) => sent.push(now),
                Err(wait) => now += wait,
            }
        }
        let window = Duration::from_secs(10);
        for (number, at) in sent.iter().enumerate() {
            let within = sent[number..].iter().take_while(|other| **other < *at + window).count();
            assert!(within <= 25 + 50 + 1, "{within} from {at:?} on");
        }
        assert!(sent.len() >= 3_600 * 5);
    }
}
