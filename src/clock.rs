//! Times since 1970 (UTC), as notes, manifests and metrics store them, and their text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 can write: that of the year 9999.
pub(crate) const LAST_SECOND: u64 = 253_402_300_799;

/// The time from 1970 until `time`; zero for times before 1970.
pub(crate) fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The present time in seconds since 1970.
pub(crate) fn seconds_now() -> u64 {
    seconds(SystemTime::now())
}

/// The present time in milliseconds since 1970.
pub(crate) fn milliseconds_now() -> u64 {
    milliseconds(SystemTime::now())
}

/// A time in seconds since 1970; 0 for times before it.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    since_1970(time).as_secs()
}

/// A time in milliseconds since 1970; 0 for times before it.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX)
}

/// A moment in seconds since 1970 as a text of RFC 3339, UTC, such as `2026-11-23T15:04:05Z`. Moments after the year
/// 9999 become its last second.
pub(crate) fn moment(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_no_text_can_name_is_the_last_second() {
        assert_eq!(moment(1_795_370_400), "2026-11-22T18:00:00Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(5)), 0);
        assert_eq!(milliseconds(UNIX_EPOCH + Duration::from_millis(1_500)), 1_500);
    }
}
