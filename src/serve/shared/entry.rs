//! The values in the shared cache: a mark, the time at which the tile was rendered, a checksum, the tile.
//!
//! ```text
//! "oar1" · time in milliseconds since 1970, 16 hexadecimal digits · 0 (empty) or 1 · 16 bytes of SHA-256 · the tile as it is stored
//! ```
//!
//! The checksum covers the key, too: a value under another key is not taken for its tile. The time has digits that compare as text, because
//! a script in Redis compares it.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::MAX_CLOCK_SKEW;

const MARK: &[u8] = b"oar1";
const TIME_DIGITS: usize = 16;
const SUM_BYTES: usize = 16;

/// A tile of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedEntry {
    /// The tile as the target would store it; `None` if it is empty.
    pub(crate) stored: Option<Box<[u8]>>,
    /// When it was rendered, since 1970.
    rendered: Duration,
}

impl SharedEntry {
    /// The value of a tile that was rendered at a time since 1970.
    pub(super) fn written(key: &str, stored: Option<&[u8]>, rendered: Duration) -> Vec<u8> {
        let mut value = MARK.to_vec();
        value.extend_from_slice(format!("{:0width$x}", rendered.as_millis(), width = TIME_DIGITS).as_bytes());
        value.push(stored.is_some().into());
        let tile = stored.unwrap_or_default();
        value.extend_from_slice(&sum(key, &value, tile));
        value.extend_from_slice(tile);
        value
    }

    /// The tile of a value; `None` if the value was not written for this key, or was damaged since.
    pub(super) fn read(key: &str, value: &[u8]) -> Option<SharedEntry> {
        let (head, rest) = value.split_at_checked(MARK.len() + TIME_DIGITS + 1)?;
        let (found, tile) = rest.split_at_checked(SUM_BYTES)?;
        if found != sum(key, head, tile) {
            return None;
        }
        let digits = std::str::from_utf8(head.strip_prefix(MARK)?.get(..TIME_DIGITS)?).ok()?;
        let rendered = Duration::from_millis(u64::from_str_radix(digits, 16).ok()?);
        let stored = match head.last()? {
            0 if tile.is_empty() => None,
            1 => Some(tile.into()),
            _ => return None,
        };
        Some(SharedEntry { stored, rendered })
    }

    /// How old it is at a time since 1970; `None` if it comes from a clock that is too far ahead to tell.
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

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        for stored in [None, Some(&b""[..]), Some(b"a tile")] {
            let value = SharedEntry::written("k", stored, THEN);
            let entry = SharedEntry::read("k", &value).unwrap();
            assert_eq!((entry.stored.as_deref(), entry.rendered), (stored, THEN));
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
    }

    #[test]
    fn times_compare_as_text_and_clocks_that_are_ahead_are_not_believed() {
        let digits = |millis| SharedEntry::written("k", None, Duration::from_millis(millis))[4..20].to_vec();
        assert!(digits(0) < digits(9) && digits(9) < digits(16) && digits(0xff_ffff) < digits(0x0100_0000));
        let entry = SharedEntry::read("k", &SharedEntry::written("k", None, THEN)).unwrap();
        assert_eq!(entry.age(THEN + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(1))), Some(Duration::ZERO));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(60))), None);
    }
}
