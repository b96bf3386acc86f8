//! How fast and how much: token buckets by providers' limits, budgets, pauses after a refusal. Pure values; the time is
//! given.

use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::clock::since_1970;

// Pauses after a provider has refused for the moment.

/// `Retry-After` may ask for longer ones.
pub(crate) const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The longest `Retry-After` that is obeyed: a wrong clock at the other end must not stop purging for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// The pause after another refusal: between half and all of the next pause, so that several senders do not come back
/// together, and no shorter than the provider asked for. `jitter` is a random number from 0 to 1.
pub(crate) fn pause(pauses: &mut Backoff, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let pause = pauses.next_pause().mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    pause.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// The time that a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

// Token buckets: how fast requests and items may be sent.

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
    pub const fn new(rate: Rate, now: Instant) -> TokenBucket {
        TokenBucket { rate, tokens: rate.burst, at: now }
    }

    /// Takes tokens. More than the burst are taken from a full bucket, which then owes the rest.
    /// Fails if there are too few tokens: how long to wait for them. None were taken.
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

// Budgets: items cost money, so a month's items are spread over the month.

/// What may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeBudget {
    /// Items in a calendar month (UTC), as providers bill; `None` for no limit.
    pub items_per_month: Option<NonZeroU64>,
    /// The least time between two purges. What changes meanwhile is merged.
    pub min_interval: Duration,
}

/// What was spent: kept with the target, so that the runs of a month share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpentItems {
    /// The month of `items`, counted from the year 0.
    pub month: u64,
    /// The items sent in that month.
    pub items: u64,
    /// When items were last sent, in seconds since 1970 (UTC).
    pub last_sent: u64,
}

/// What a budget allows at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeAllowance {
    /// This many items, 1 or more. A purge that would need more must use fewer items that each hit more tiles.
    Items(usize),
    /// Nothing for this long.
    Wait(Duration),
}

/// The share of a month's items that may be spent in advance is 1 / `ADVANCE`, so that single edits are purged at once
/// and exactly.
const ADVANCE: u64 = 30;

impl PurgeBudget {
    /// What may be sent now. A thirtieth of a month's items (a day's worth) may be spent in advance, and the rest
    /// accrues evenly over the month. Users who edit less than the budget never wait. Users who edit more purge fewer
    /// and larger items until the month's end.
    pub fn allowance(&self, spent: &SpentItems, now: SystemTime) -> PurgeAllowance {
        let now = since_1970(now);
        let since_last = now.saturating_sub(Duration::from_secs(spent.last_sent));
        // A clock that was set back must not hold purges up for long.
        if spent.last_sent <= now.as_secs() && since_last < self.min_interval {
            return PurgeAllowance::Wait(self.min_interval.saturating_sub(since_last));
        }
        let Some(budget) = self.items_per_month.map(NonZeroU64::get) else { return PurgeAllowance::Items(usize::MAX) };
        let month = MonthPosition::of(now);
        let spent = if spent.month == month.month { spent.items } else { 0 };
        let advance = (budget / ADVANCE).max(1);
        let spread = budget - advance;
        let allowed = advance + spread.saturating_mul(month.elapsed.as_secs()) / month.length.as_secs();
        match allowed.checked_sub(spent) {
            Some(items) if items > 0 => PurgeAllowance::Items(usize::try_from(items).unwrap_or(usize::MAX)),
            _ if spent >= budget => PurgeAllowance::Wait(month.length.saturating_sub(month.elapsed)),
            _ => {
                // The moment at which one more item than those already spent has accrued.
                let accrued = (spent + 1).saturating_sub(advance);
                let at = Duration::from_secs(accrued.saturating_mul(month.length.as_secs()).div_ceil(spread.max(1)));
                PurgeAllowance::Wait(at.saturating_sub(month.elapsed).max(Duration::from_secs(1)))
            }
        }
    }

    /// What is spent after some more items were sent.
    pub fn after(spent: &SpentItems, items: usize, now: SystemTime) -> SpentItems {
        let now = since_1970(now);
        let month = MonthPosition::of(now).month;
        let before = if spent.month == month { spent.items } else { 0 };
        SpentItems { month, items: before.saturating_add(items as u64), last_sent: now.as_secs() }
    }
}

/// A moment within its calendar month (UTC, proleptic Gregorian calendar).
struct MonthPosition {
    /// The month, counted from the year 0.
    month: u64,
    elapsed: Duration,
    length: Duration,
}

const DAY: u64 = 86_400;

impl MonthPosition {
    /// The month of a time since 1970.
    fn of(since_1970: Duration) -> MonthPosition {
        let day = since_1970.as_secs() / DAY;
        let (mut month, mut first) = (1970 * 12, 0);
        while first + days(month) <= day {
            first += days(month);
            month += 1;
        }
        let elapsed = since_1970.saturating_sub(Duration::from_secs(first * DAY));
        MonthPosition { month, elapsed, length: Duration::from_secs(days(month) * DAY) }
    }
}

/// The days of a month that is counted from the year 0.
const fn days(month: u64) -> u64 {
    let year = month / 12;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month % 12 {
        1 if is_leap => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_at_least_half_of_the_next_one_and_the_provider_may_ask_for_more() {
        let mut pauses = PAUSES;
        assert_eq!(pause(&mut pauses, None, 0.0), Duration::from_millis(500));
        assert_eq!(pause(&mut pauses, Some(Duration::from_secs(7)), 0.5), Duration::from_secs(7));
        assert_eq!(pause(&mut pauses, Some(Duration::from_secs(u64::MAX)), 0.5), MAX_RETRY_AFTER);
        assert_eq!(pause(&mut pauses, Some(Duration::ZERO), 1.0), Duration::from_secs(8));
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

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    fn budget(items: u64, min_interval: u64) -> PurgeBudget {
        PurgeBudget { items_per_month: NonZeroU64::new(items), min_interval: Duration::from_secs(min_interval) }
    }

    #[test]
    fn months_have_their_calendar_lengths() {
        for (text, month, elapsed, length) in [
            ("1970-01-01T00:00:00Z", 1970 * 12, 0, 31),
            ("2024-02-29T23:59:59Z", 2024 * 12 + 1, 29 * DAY - 1, 29),
            ("2026-02-28T12:00:00Z", 2026 * 12 + 1, 27 * DAY + DAY / 2, 28),
            ("2026-11-30T00:00:00Z", 2026 * 12 + 10, 29 * DAY, 30),
            ("2100-02-28T00:00:00Z", 2100 * 12 + 1, 27 * DAY, 28),
        ] {
            let position = MonthPosition::of(since_1970(at(text)));
            assert_eq!(
                (position.month, position.elapsed.as_secs(), position.length.as_secs()),
                (month, elapsed, length * DAY),
                "{text}"
            );
        }
    }

    #[test]
    fn items_accrue_over_the_month_a_day_in_advance() {
        let budget = budget(3_000, 0);
        let spent = SpentItems::default();
        assert_eq!(budget.allowance(&spent, at("2026-11-01T00:00:00Z")), PurgeAllowance::Items(100));
        assert_eq!(budget.allowance(&spent, at("2026-11-11T00:00:00Z")), PurgeAllowance::Items(1_066));
        let spent = PurgeBudget::after(&spent, 1_066, at("2026-11-11T00:00:00Z"));
        assert_eq!(
            budget.allowance(&spent, at("2026-11-11T00:00:00Z")),
            PurgeAllowance::Wait(Duration::from_secs(298))
        );
        assert_eq!(budget.allowance(&spent, at("2026-11-11T00:04:58Z")), PurgeAllowance::Items(1));
        assert_eq!(budget.allowance(&spent, at("2026-12-01T00:00:00Z")), PurgeAllowance::Items(100));
    }

    #[test]
    fn a_spent_budget_waits_for_the_next_month() {
        let spent = PurgeBudget::after(&SpentItems::default(), 10, at("2026-11-29T00:00:00Z"));
        assert_eq!(
            budget(10, 0).allowance(&spent, at("2026-11-30T00:00:00Z")),
            PurgeAllowance::Wait(Duration::from_secs(DAY))
        );
        assert_eq!(budget(10, 0).allowance(&spent, at("2026-12-01T00:00:00Z")), PurgeAllowance::Items(1));
    }

    #[test]
    fn purges_keep_their_distance() {
        let spent = PurgeBudget::after(&SpentItems::default(), 1, at("2026-11-01T00:00:00Z"));
        let budget = PurgeBudget { items_per_month: None, min_interval: Duration::from_secs(60) };
        assert_eq!(budget.allowance(&spent, at("2026-11-01T00:00:20Z")), PurgeAllowance::Wait(Duration::from_secs(40)));
        assert_eq!(budget.allowance(&spent, at("2026-11-01T00:01:00Z")), PurgeAllowance::Items(usize::MAX));
        // The clock was set back.
        assert_eq!(budget.allowance(&spent, at("2026-10-01T00:00:00Z")), PurgeAllowance::Items(usize::MAX));
    }

    /// If items are sent as soon as they are allowed, no month exceeds the budget, and each returned wait is long
    /// enough.
    #[test]
    fn no_month_exceeds_its_budget() {
        for items in [1, 7, 29, 30, 31, 1_000] {
            let (budget, mut spent) = (budget(items, 60), SpentItems::default());
            let (mut now, end) = (at("2026-01-15T00:00:00Z"), at("2026-04-01T00:00:00Z"));
            while now < end {
                match budget.allowance(&spent, now) {
                    PurgeAllowance::Items(allowed) => {
                        spent = PurgeBudget::after(&spent, allowed, now);
                        assert!(spent.items <= items, "{spent:?}");
                    }
                    PurgeAllowance::Wait(wait) => {
                        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(31 * DAY));
                        now += wait;
                    }
                }
            }
        }
    }
}
