//! A circuit breaker: after some failures in a row a server is not asked for a pause, which gets longer each time; then one try shows whether it is
//! back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The failures in a row after which the server is not asked for a while.
const MAX_FAILURES: u32 = 3;

/// The first pause, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct BreakerState {
    /// Failures since the last success.
    failures: u32,
    /// The moment before which the server may not be asked.
    open_until: Option<Instant>,
    pause: Duration,
}

/// The breaker of one server.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<BreakerState>);

impl CircuitBreaker {
    /// True if the server may be asked. After a pause it is true once, until that try has ended or another pause has passed.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + state.pause);
                true
            }
        }
    }

    /// Notes that the server has answered.
    pub(super) fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = BreakerState::default();
    }

    /// Notes that the server has not answered.
    pub(super) fn failed(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if state.failures >= MAX_FAILURES {
            state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            state.open_until = Some(now + state.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_once_after_each_pause() {
        let (breaker, begun) = (CircuitBreaker::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        for _ in 0..2 {
            breaker.failed(begun);
            assert!(breaker.may_try(begun));
        }
        breaker.failed(begun);
        assert!(!breaker.may_try(begun) && !breaker.may_try(at(499)));
        assert!(breaker.may_try(at(500)) && !breaker.may_try(at(501)), "one try after the pause");
        breaker.failed(at(510));
        assert!(!breaker.may_try(at(1_509)) && breaker.may_try(at(1_510)), "the second pause is twice as long");
        for _ in 0..20 {
            breaker.failed(at(2_000));
        }
        assert!(breaker.may_try(at(12_000)), "no pause is longer than ten seconds");
        breaker.succeeded();
        assert!(breaker.may_try(at(12_001)) && breaker.may_try(at(12_002)));
        breaker.failed(at(12_003));
        assert!(breaker.may_try(at(12_004)), "failures are counted anew");
    }
}
