//! The values in the shared cache: a mark, the database state that the tile shows, when it was rendered, a signature,
//! the tile.
//!
//! ```text
//! "oar3" · xmax of the state, 16 hexadecimal digits · time in milliseconds since 1970, 16 digits · length of the next text, 4 digits ·
//! the state as pg_current_snapshot() has it, a space, the newest transaction in the change log that it sees · 0 (empty) or 1 ·
//! 32 bytes of HMAC-SHA-256 · the tile as it is stored
//! ```
//!
//! Whoever can write to Redis must not decide what the map shows, so each value is signed with a key that Redis never
//! sees ([`SharedSecret`]). The signature also covers the name, so a value that was stored under another name is
//! refused. A script in Redis compares `xmax` as text, so it has a fixed number of digits. It compares database states
//! because they are ordered, while the clocks of servers may differ.
//!
//! A change of this form needs another [`VERSION`], which is part of every name: servers of two versions then share a
//! Redis and never read each other's values. Further fields can follow in the text, each after a space. A value that
//! names no transaction, as versions before 0.1.0 wrote it, is refused.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{MAX_CLOCK_SKEW, MAX_ENTRY_BYTES};
use crate::cursor::StateInHistory;
use crate::hex::hex;
use crate::setting::shows_its_name_alone;

/// The version of the form of values.
pub(crate) const VERSION: u32 = 3;

const MARK: &[u8] = b"oar3";
const DIGITS: usize = 16;
const LENGTH_DIGITS: usize = 4;
const SIGNATURE_BYTES: usize = 32;

/// The longest text of a database state, in bytes. A tile of a state with a longer text (more running transactions) is
/// not shared.
const MAX_STATE_BYTES: usize = 0xffff;

/// The longest value, in bytes. Nothing longer is read from Redis.
pub(crate) const MAX_VALUE_BYTES: usize =
    MARK.len() + 2 * DIGITS + LENGTH_DIGITS + MAX_STATE_BYTES + 1 + SIGNATURE_BYTES + MAX_ENTRY_BYTES;

/// The key with which servers sign the tiles that they share. `Debug` hides it.
#[derive(Clone)]
pub struct SharedSecret(Hmac<Sha256>);

shows_its_name_alone!(SharedSecret);

impl SharedSecret {
    /// The key that is derived from a secret of any length; `None` never happens, because HMAC takes keys of any
    /// length.
    pub fn new(secret: &[u8]) -> Option<SharedSecret> {
        Hmac::new_from_slice(secret).map_or(None, |hmac| Some(SharedSecret(hmac)))
    }

    /// A name of the key, by which servers with different keys do not read each other's values. It says nothing about
    /// the key.
    pub(crate) fn name(&self) -> String {
        hex(&self.signature(&[b"name"])[..8])
    }

    fn signature(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        self.signing(parts).finalize().into_bytes().into()
    }

    fn signing(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = self.0.clone();
        for part in parts {
            // With the lengths, two different lists of parts never give the same input.
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part);
        }
        hmac
    }
}

/// A tile of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisEntry {
    /// The tile as the target would store it; `None` if it is empty.
    pub(crate) stored: Option<Box<[u8]>>,
    /// The database state that it shows.
    pub(crate) shown: StateInHistory,
    /// When it was rendered, since 1970.
    pub(crate) rendered: Duration,
}

impl RedisEntry {
    /// The value of the tile under a name; `None` if the text of its database state is too long.
    pub(crate) fn value(&self, secret: &SharedSecret, name: &str) -> Option<Vec<u8>> {
        let StateInHistory { state, newest } = &self.shown;
        let xmax = state.xmax();
        let state = format!("{state} {newest}");
        if state.len() > MAX_STATE_BYTES {
            return None;
        }
        let mut value = MARK.to_vec();
        let time = self.rendered.as_millis();
        value.extend_from_slice(
            format!("{xmax:0DIGITS$x}{time:0DIGITS$x}{:0LENGTH_DIGITS$x}{state}", state.len()).as_bytes(),
        );
        value.push(self.stored.is_some().into());
        let stored = self.stored.as_deref().unwrap_or_default();
        let signature = secret.signature(&[name.as_bytes(), &value, stored]);
        value.extend_from_slice(&signature);
        value.extend_from_slice(stored);
        Some(value)
    }

    /// The tile in a value; `None` if the value was not signed for this name with this key, or is damaged.
    pub(crate) fn read(secret: &SharedSecret, name: &str, value: &[u8]) -> Option<RedisEntry> {
        let number = |at: usize, digits: usize| {
            let digits = std::str::from_utf8(value.get(at..at + digits)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (time_at, length_at) = (MARK.len() + DIGITS, MARK.len() + 2 * DIGITS);
        let state_at = length_at + LENGTH_DIGITS;
        let length = usize::try_from(number(length_at, LENGTH_DIGITS)?).ok()?;
        let (head, rest) = value.split_at_checked(state_at + length + 1)?;
        let (signature, tile) = rest.split_at_checked(SIGNATURE_BYTES)?;
        let is_signed = secret.signing(&[name.as_bytes(), head, tile]).verify_slice(signature).is_ok();
        if !head.starts_with(MARK) || !is_signed {
            return None;
        }
        let text = std::str::from_utf8(head.get(state_at..state_at + length)?).ok()?;
        let mut fields = text.split(' ');
        let shown = StateInHistory { state: fields.next()?.parse().ok()?, newest: fields.next()?.parse().ok()? };
        let rendered = Duration::from_millis(number(time_at, DIGITS)?);
        let stored = match head.last()? {
            0 if tile.is_empty() => None,
            1 => Some(tile.into()),
            _ => return None,
        };
        Some(RedisEntry { stored, shown, rendered })
    }

    /// Its age at the time `now` since 1970; `None` if it comes from a clock that is too far ahead.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        (self.rendered <= now + MAX_CLOCK_SKEW).then(|| now.saturating_sub(self.rendered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::NewestLogged;

    const THEN: Duration = Duration::from_millis(1_795_000_000_123);

    fn entry(stored: Option<&[u8]>, snapshot: &str, rendered: Duration) -> RedisEntry {
        let newest = NewestLogged::Transaction { xid: 998, at: 0x0002_a1f3_57b9_dce0, digest: 7 };
        let shown = StateInHistory { state: snapshot.parse().unwrap(), newest };
        RedisEntry { stored: stored.map(Into::into), shown, rendered }
    }

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_signed_is_read_and_nothing_else() {
        let own = secret("a secret");
        for stored in [None, Some(&b""[..]), Some(b"a tile")] {
            let entry = entry(stored, "1000:1010:1003,1007", THEN);
            let value = entry.value(&own, "k").unwrap();
            assert_eq!(RedisEntry::read(&own, "k", &value), Some(entry));
            assert_eq!(RedisEntry::read(&own, "another name", &value), None);
            assert_eq!(RedisEntry::read(&secret("another"), "k", &value), None);
            for at in 0..value.len() {
                let mut damaged = value.clone();
                damaged[at] ^= 1;
                assert_eq!(RedisEntry::read(&own, "k", &damaged), None, "byte {at}");
                assert_eq!(RedisEntry::read(&own, "k", &value[..at]), None, "cut at {at}");
            }
            assert_eq!(RedisEntry::read(&own, "k", &[&value[..], b"x"].concat()), None);
        }
        assert_eq!(
            RedisEntry::read(&own, "k", b"a stranger's bytes, which are long enough to hold a head and a sum"),
            None
        );
        let running: Vec<String> = (10..20_000).map(|number| number.to_string()).collect();
        let too_long = entry(None, &format!("10:30000:{}", running.join(",")), THEN);
        assert_eq!(too_long.value(&own, "k"), None);
        assert!(own.name() != secret("another").name() && !format!("{own:?}").contains("secret"));
    }

    #[test]
    fn states_compare_as_text_and_clocks_that_are_ahead_are_not_believed() {
        let digits = |xmax| entry(None, &format!("3:{xmax}:"), THEN).value(&secret("s"), "k").unwrap()[4..20].to_vec();
        assert!(digits(3) < digits(9) && digits(9) < digits(16) && digits(0xff_ffff) < digits(0x0100_0000));
        let entry = entry(None, "3:3:", THEN);
        assert_eq!(entry.age(THEN + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(1))), Some(Duration::ZERO));
        assert_eq!(entry.age(THEN.saturating_sub(Duration::from_secs(60))), None);
    }
}
