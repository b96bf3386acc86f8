//! A rate limit for new sets of values. Each new set is a tile that was not rendered yet and takes room in the caches, so a client that makes up
//! values could fill the caches with useless tiles.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::given::ParametersKey;

/// The time within which the sets are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// A set of values was not seen within the last minutes, and too many others were seen in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyKeys {
    /// The time after which there is room.
    pub(crate) retry_after: Duration,
}

#[derive(Debug)]
struct SeenKeys {
    begun: Instant,
    now: HashSet<ParametersKey>,
    before: HashSet<ParametersKey>,
}

/// Admits sets of values that were seen a short while ago, and a limited number of new sets in each minute.
#[derive(Debug)]
pub(crate) struct KeyGate {
    most: usize,
    seen: Mutex<SeenKeys>,
}

impl KeyGate {
    /// A gate that lets `most` new sets pass in a minute.
    pub(crate) fn new(most: usize) -> KeyGate {
        let seen = SeenKeys { begun: Instant::now(), now: HashSet::new(), before: HashSet::new() };
        KeyGate { most, seen: Mutex::new(seen) }
    }

    /// Lets a set pass.
    ///
    /// # Errors
    /// If the set is new, and too many others were seen within the minute.
    pub(crate) fn pass(&self, key: ParametersKey) -> Result<(), TooManyKeys> {
        self.pass_at(key, Instant::now())
    }

    fn pass_at(&self, key: ParametersKey, now: Instant) -> Result<(), TooManyKeys> {
        // Each update leaves consistent values.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(seen.begun);
        if age >= WINDOW {
            let last = std::mem::take(&mut seen.now);
            seen.before = if age < 2 * WINDOW { last } else { HashSet::new() };
            seen.begun = now;
        }
        if seen.now.contains(&key) {
            return Ok(());
        }
        // A set of the previous minute stays known as long as clients ask for it.
        if seen.before.remove(&key) || seen.now.len() < self.most {
            seen.now.insert(key);
            return Ok(());
        }
        Err(TooManyKeys { retry_after: WINDOW.saturating_sub(now.saturating_duration_since(seen.begun)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_sets_are_counted_by_the_minute_and_known_ones_pass() {
        let (gate, begun) = (KeyGate::new(3), Instant::now());
        let at = |key: u128, seconds| gate.pass_at(ParametersKey(key), begun + Duration::from_secs(seconds));
        for key in [1, 2, 3, 1, 2, 3] {
            assert_eq!(at(key, 0), Ok(()));
        }
        let refused = at(4, 10).unwrap_err();
        assert!((49..=50).contains(&refused.retry_after.as_secs()), "{refused:?}");
        assert_eq!(at(1, 20), Ok(()));
        // The next minute: the sets of the last minute are known, and make room for others only when clients no longer ask for them.
        assert_eq!((at(4, 61), at(1, 62), at(2, 63)), (Ok(()), Ok(()), Ok(())));
        assert!(at(5, 64).is_err());
        assert_eq!(at(3, 65), Ok(()), "known from the minute before");
        // Nobody has asked for any of them for two minutes.
        assert_eq!((at(6, 300), at(7, 300), at(8, 300)), (Ok(()), Ok(()), Ok(())));
        assert!(at(1, 300).is_err());
    }
}
