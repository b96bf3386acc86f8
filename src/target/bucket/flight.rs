//! Counts requests in flight, so that a run can report whether it kept as many in flight as the user allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A count of requests in flight over time. Clones share one count.
#[derive(Debug, Clone, Default)]
pub struct Flights(Arc<Mutex<Count>>);

#[derive(Debug, Default)]
struct Count {
    now: u32,
    peak: u32,
    requests: u64,
    /// The integral of the requests in flight over time, in request-seconds.
    area: f64,
    begun: Option<Instant>,
    last: Option<Instant>,
}

/// The requests of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct InFlight {
    /// The mean number in flight, from the first request to the last.
    pub mean: f64,
    /// The largest number in flight at one moment.
    pub peak: u32,
    /// How many requests there were; one that was tried again counts once.
    pub requests: u64,
    /// The time from the first request to the last.
    pub time: Duration,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub struct Flight(Flights);

impl Flights {
    /// Counts a request as in flight until the returned value is dropped.
    #[must_use]
    pub fn begin(&self) -> Flight {
        self.change(|count| {
            count.now += 1;
            count.requests += 1;
            count.peak = count.peak.max(count.now);
        });
        Flight(self.clone())
    }

    /// The figures until now.
    #[must_use]
    pub fn seen(&self) -> InFlight {
        let mut seen = InFlight::default();
        self.change(|count| {
            let time = count.begun.zip(count.last).map_or(Duration::ZERO, |(begun, last)| last - begun);
            let mean = if time.is_zero() { 0.0 } else { count.area / time.as_secs_f64() };
            seen = InFlight { mean, peak: count.peak, requests: count.requests, time };
        });
        seen
    }

    fn change(&self, change: impl FnOnce(&mut Count)) {
        let mut count = self.0.lock();
        // Time without a request counts if another request follows.
        if count.now > 0 || count.begun.is_none() {
            let now = Instant::now();
            let passed = count.last.map_or(0.0, |last| (now - last).as_secs_f64());
            count.area += passed * f64::from(count.now);
            count.last = Some(now);
            count.begun.get_or_insert(now);
        } else {
            count.last = Some(Instant::now());
        }
        change(&mut count);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.change(|count| count.now -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_peak_are_weighted_by_time() {
        let flights = Flights::default();
        assert_eq!(flights.seen().requests, 0);
        let flights = Flights::default();
        let one = flights.begin();
        std::thread::sleep(Duration::from_millis(40));
        let two = flights.begin();
        std::thread::sleep(Duration::from_millis(40));
        drop((one, two));
        let seen = flights.seen();
        assert_eq!((seen.peak, seen.requests), (2, 2));
        assert!((1.3..1.7).contains(&seen.mean), "{seen:?}");
    }
}
