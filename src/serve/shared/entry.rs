//! The values in the shared cache: a mark, the database state that the tile shows, when it was rendered, a checksum, the tile.
//!
//! ```text
//! "oar2" · xmax of the state, 16 hexadecimal digits · time in milliseconds since 1970, 16 digits · length of the state's text, 4 digits ·
//! the state as pg_current_snapshot() has it · 0 (empty) or 1 · 16 bytes of SHA-256 · the tile as it is stored
//! ```
//!
//! The checksum also covers the key, so a value that was stored under another key is refused. A script in Redis compares `xmax` as text, so it has a
//! fixed number of digits. It compares database states because they are ordered, while the clocks of servers may differ.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::MAX_CLOCK_SKEW;
use crate::cursor::Cursor;

const MARK: &[u8] = b"oar2";
const DIGITS: usize = 16;
const LENGTH_DIGITS: usize = 4;
const SUM_BYTES: usize = 16;

/// The longest text of a database state, in bytes. A tile of a state with a longer text (more running transactions) is not shared.
const MAX_STATE_BYTES: usize = 0xffff;

/// A tile of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedEntry {
    /// The tile as the target would store it; `None` if it is empty.
    pub(crate) stored: Option<Box<[u8]>>,
    /// The database state that it shows.
    pub(crate) snapshot: Cursor,
    /// When it was rendered, since 1970.
    pub(super) rendered: Duration,
}

impl SharedEntry {
    /// The value of the tile; `None` if the text of its database state is too long.
    pub(super) fn value(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.snapshot.to_string();
        if state.len() > MAX_STATE_BYTES {
            return None;
        }
        let mut value = MARK.to_vec();
        let (xmax, time) = (self.snapshot.xmax(), self.rendered.as_millis());
        value.extend_from_slice(
            format!("{xmax:0DIGITS$x}{time:0DIGITS$x}{:0LENGTH_DIGITS$x}{state}", state.len()).as_bytes(),
        );
        value.push(self.stored.is_some().into());
        let stored = self.stored.as_deref().unwrap_or_default();
        value.extend_from_slice(&sum(key, &value, stored));
        value.extend_from_slice(stored);
        Some(value)
    }

    /// The tile in a value; `None` if the value was not written for this key, or is damaged.
    pub(super) fn read(key: &str, value: &[u8]) -> Option<SharedEntry> {
        let number = |at: usize, digits: usize| {
            let digits = std::str::from_utf8(value.get(at..at + digits)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (time_at, length_at) = (MARK.len() + DIGITS, MARK.len() + 2 * DIGITS);
        let state_at = length_at + LENGTH_DIGITS;
        let length = usize::try_from(number(length_at, LENGTH_DIGITS)?).ok()?;
        let (head, rest) = value.split_at_checked(state_at + length + 1)?;
        let (found, tile) = rest.split_at_checked(SUM_BYTES)?;
        if !head.starts_with(MARK) || found != sum(key, head, tile) {
            return None;
        }
        let snapshot = std::str::from_utf8(head.get(state_at..state_at + length)?).ok()?.parse().ok()?;
        let rendered = Duration::from_millis(number(time_at, DIGITS)?);
        let stored = match head.last()? {
            0 if tile.is_empty() => None,
            1 => Some(tile.into()),
            _ => return None,
        };
        Some(SharedEntry { stored, snapshot, rendered })
    }

    /// Its age at the time `now` since 1970; `None` if it comes from a clock that is too far ahead.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        (self.rendered <= now + MAX_CLOCK_SKEW).then(|| now.saturating_sub(self.rendered))
    }
}

fn sum(key: &str, head: &[u8], tile: &[u8]) -> [u8; SUM_BYTES] {
    let mut hash = Sha256::new();
    for part in [key.as_bytes(), &[0], head, tile] {
        hash.update(part);
    }
    let mut sum = [0; SUM_BYTES];
    sum.iter_mut().zip(hash.finalize()).for_each(|(sum, byte)| *sum = byte);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Duration = Duration::from_millis(1_795_000_000_123);

    fn entry(stored: Option<&[u8]>, snapshot: &str, rendered: Duration) -> SharedEntry {
        SharedEntry { stored: stored.map(Into::into), snapshot: snapshot.parse().unwrap(), rendered }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        for stored in [None, Some(&b""[..]), Some(b"a tile")] {
            let entry = entry(stored, "1000:1010:1003,1007", THEN);
            let value = entry.value("k").unwrap();
            assert_eq!(SharedEntry::read("k", &value), Some(entry));
            assert_eq!(SharedEntry::read("another key", &value), None);
            for at in 0..value.len() {
                let mut damaged = value.clone();
                damaged[at] ^= 1;
                assert_eq!(SharedEntry::read("k", &damaged), None, "byte {at}");
                assert_eq!(SharedEntry::read("k", &value[..at]), None, "cut at {at}");
            }
            assert_eq!(SharedEntry::read("k", &[&value[..], b"x"].concat()), None);
        }
        assert_eq!(SharedEntry::read("k", b"a stranger's bytes, which are long enough to hold a head and a sum"), None);
        let running: Vec<String> = (10..20_000).map(|number| number.to_string()).collect();
        assert_eq!(entry(None, &format!("10:30000:{}", running.join(",")), THEN).value("k"), None, "it is too long");
    }

    #[test]
    fn states_compare_as_text_and_clocks_that_are_ahead_are_not_believed() {
        let digits = |xmax| entry(None, &format!("3:{xmax}:"), THEN).value("k").unwrap()[4..20].to_vec();
        assert!(digits(3) < digits(9) && digits(9) < digits(16) && digits(0xff_ffff) < digits(0x0100_0000));
        let entry = entry(None, "3:3:", THEN);
        assert_eq!(entry.age(THEN + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(1))), Some(Duration::ZERO));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(60))), None);
    }
}
