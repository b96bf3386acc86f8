//! Pauses after a provider has refused for the moment.

use std::time::{Duration, SystemTime};

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that is chosen here; `Retry-After` may ask for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is obeyed: a wrong clock at the other end must not stop purging for days.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Pauses that double, with jitter.
#[derive(Debug, Clone, Default)]
pub struct PurgeBackoff {
    refusals: u32,
}

impl PurgeBackoff {
    /// The pause after another refusal: between half and all of the doubled pause, so that several senders do not come back together, and
    /// no shorter than the provider asked for. `jitter` is a random number from 0 to 1.
    pub fn pause(&mut self, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.refusals.min(6)).min(LONGEST_PAUSE);
        self.refusals += 1;
        let pause = pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        pause.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
    }

    /// A request was taken.
    pub fn succeeded(&mut self) {
        self.refusals = 0;
    }
}

/// The time that a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3).
#[must_use]
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew() {
        let mut backoff = PurgeBackoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.pause(None, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeded();
        assert_eq!(backoff.pause(None, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn the_provider_may_ask_for_more() {
        let mut backoff = PurgeBackoff::default();
        assert_eq!(backoff.pause(Some(Duration::from_secs(7)), 0.5), Duration::from_secs(7));
        assert_eq!(backoff.pause(Some(Duration::from_secs(u64::MAX)), 0.5), LONGEST_RETRY_AFTER);
        assert_eq!(backoff.pause(Some(Duration::ZERO), 1.0), Duration::from_secs(4));
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now = humantime::parse_rfc3339("2015-10-21T07:27:00Z").unwrap();
        for (text, expected) in [
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
