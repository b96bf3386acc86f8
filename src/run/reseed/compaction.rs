//! When a reseed writes a PMTiles archive anew as a whole because of its dead bytes, and when a watch tries that again
//! after it has failed.

use std::time::{Duration, SystemTime};

use crate::backoff::Backoff;
use crate::setting::HoursOfDay;
use crate::target::{DeadBytes, MAX_DEAD_PERCENT};

/// When a reseed writes a PMTiles archive anew as a whole because of its dead bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// The share of dead bytes beyond which it does, in percent of the tile data; `None` if it never does.
    pub(crate) percent: Option<u64>,
    /// False for a look of a watch, which does it only if there is nothing else to publish.
    with_changes: bool,
    /// True in a watch if nobody has chosen this time for it, which has not been said yet.
    pub(crate) is_unasked: bool,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { percent: Some(MAX_DEAD_PERCENT), with_changes: true, is_unasked: false }
    }
}

/// The percentage of [`Compaction`] in a watch, at the hours for which its operator has not asked for it: then the
/// archive is twice as large as it has to be.
const MAX_DEAD_PERCENT_OF_WATCH: u64 = 50;

impl Compaction {
    /// The archive keeps its dead bytes.
    pub(crate) const NEVER: Compaction = Compaction { percent: None, with_changes: false, is_unasked: false };

    /// The same for a run that does what a look of a watch has put off.
    pub(crate) fn now(self) -> Compaction {
        Compaction { with_changes: true, ..self }
    }

    /// True if there are archives that this writes anew and the other one does not.
    pub(crate) fn does_more_than(self, other: Compaction) -> bool {
        self.percent.is_some_and(|percent| other.percent.is_none_or(|other| percent < other))
    }

    /// True if an archive has so many dead bytes that it should be rewritten.
    pub(crate) fn is_due(self, dead: Option<DeadBytes>) -> bool {
        dead.zip(self.percent).is_some_and(|(dead, percent)| dead.exceed(percent))
    }

    /// The share of dead bytes beyond which the sink of a run writes an archive anew; `None` if it does not.
    pub(crate) fn max_dead_percent(self, has_changes: bool) -> Option<u64> {
        self.percent.filter(|_| self.with_changes || !has_changes)
    }
}

/// The longest pause after an attempt that has failed.
const MAX_PAUSE: Duration = Duration::from_secs(60 * 60);

/// The pauses after attempts in a row that have failed.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(60), MAX_PAUSE);

/// The attempts of a watch to write its archives anew. After one that has failed, changes are published without another
/// one for a while.
#[derive(Debug)]
pub(crate) struct CompactionAttempts {
    hours: Option<HoursOfDay>,
    pauses: Backoff,
    /// When it is tried again; `None` if the last attempt has not failed.
    again: Option<SystemTime>,
    /// Why the last attempt has failed.
    said: String,
}

impl CompactionAttempts {
    /// `hours` are those that the operator has chosen.
    pub(crate) const fn new(hours: Option<HoursOfDay>) -> CompactionAttempts {
        CompactionAttempts { hours, pauses: PAUSES, again: None, said: String::new() }
    }

    /// What a look at this moment may do.
    pub(crate) fn at(&self, now: SystemTime, with_changes: bool) -> Compaction {
        if self.pause(now).is_some_and(|pause| pause > Duration::ZERO) {
            return Compaction::NEVER;
        }
        let is_asked_for = self.hours.is_some_and(|hours| hours.contain(now));
        let percent = Some(if is_asked_for { MAX_DEAD_PERCENT } else { MAX_DEAD_PERCENT_OF_WATCH });
        Compaction { percent, with_changes, is_unasked: !is_asked_for && self.again.is_none() }
    }

    /// The rest of the pause after an attempt that has failed; `None` if none has. A clock that was set back does not
    /// make it longer.
    fn pause(&self, now: SystemTime) -> Option<Duration> {
        Some(self.again?.duration_since(now).ok().filter(|pause| *pause <= MAX_PAUSE).unwrap_or_default())
    }

    /// How long the next look may wait before it would be late for an attempt.
    pub(crate) fn next(&self, now: SystemTime) -> Duration {
        let begin = self.hours.map(|hours| hours.begin_in(now));
        self.pause(now).into_iter().chain(begin).min().unwrap_or(Duration::MAX)
    }

    /// Notes that an attempt has failed. Returns a message, unless the one before has failed for the same reason.
    pub(crate) fn has_failed(&mut self, now: SystemTime, why: &str) -> Option<String> {
        let pause = self.pauses.next_pause();
        self.again = Some(now + pause);
        if self.said == why {
            return None;
        }
        why.clone_into(&mut self.said);
        let pause = humantime::format_duration(pause);
        Some(format!(
            "{why}. Its dead bytes stay until that works: it is tried again in {pause}, and then after pauses that grow to an hour. Changes are published meanwhile"
        ))
    }

    /// Notes that there is nothing to do any more.
    pub(crate) fn has_succeeded(&mut self) {
        *self = CompactionAttempts::new(self.hours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment of a day, in seconds after midnight.
    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + second)
    }

    #[test]
    fn an_attempt_that_fails_is_made_again_after_pauses_that_double_up_to_an_hour_and_is_told_once() {
        let mut attempts = CompactionAttempts::new(None);
        assert_eq!(attempts.next(at(0)), Duration::MAX);
        assert!(attempts.at(at(0), false).is_unasked);
        let mut now = at(0);
        for (number, minutes) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            let said = attempts.has_failed(now, "t.pmtiles cannot be written: the disk is full");
            assert_eq!(said.is_some(), number == 0, "{said:?}");
            if let Some(said) = said {
                assert!(said.starts_with("t.pmtiles cannot be written: the disk is full. Its dead"), "{said}");
                assert!(said.contains("it is tried again in 1m, "), "{said}");
            }
            let pause = Duration::from_secs(minutes * 60);
            assert_eq!(attempts.next(now), pause);
            assert_eq!(attempts.at(now + pause - Duration::from_secs(1), true), Compaction::NEVER);
            now += pause;
            let again = attempts.at(now, true);
            assert_eq!((again.percent, again.is_unasked), (Some(MAX_DEAD_PERCENT_OF_WATCH), false));
        }
        assert!(attempts.has_failed(now, "another reason").is_some());
        assert_ne!(attempts.at(now - Duration::from_secs(86_400), true), Compaction::NEVER, "the clock was set back");
        attempts.has_succeeded();
        assert!(attempts.has_failed(now, "another reason").is_some_and(|said| said.contains(" again in 1m, ")));
    }

    #[test]
    fn a_look_comes_when_the_hours_begin_however_seldom_the_log_is_polled() {
        let mut attempts = CompactionAttempts::new("02:00-05:00".parse().ok());
        let [dead, more] = [40, 60].map(|bytes| Some(DeadBytes { bytes, total: 100 }));
        let due = |second| [dead, more].map(|dead| attempts.at(at(second), false).is_due(dead));
        assert_eq!([7_195, 7_200, 18_000].map(due), [[false, true], [true, true], [false, true]]);
        assert_eq!([7_195, 7_200].map(|second| attempts.next(at(second)).as_secs()), [5, 86_400]);
        attempts.has_failed(at(7_195), "the disk is full");
        assert_eq!([7_195, 7_200].map(|second| attempts.next(at(second)).as_secs()), [5, 55]);
    }
}
