//! The mark of the database in a target's manifest, and the witness of its history. The manifest is public, so both
//! consist of keyed hashes. Only a program that has the key, which is kept in the change log, can compare them with a
//! database.
//!
//! The witness is about the newest transactions in the change log that a snapshot sees. In the same history they stay
//! what they are: every transaction that the snapshot sees had ended, so none is added, and pruning keeps the newest.
//! If a database lost transactions that the snapshot sees, one of them was among the newest; if it went on without
//! them, transactions with the same numbers are there instead, at other times.
//!
//! A snapshot may show more than its cursor sees: on a standby whose primary runs a transaction, and after a refresh of
//! views. The next run looks for changes since the cursor; the witness is about everything that the snapshot shows.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::CommandError;
use crate::change_log::{Cursor, LogState, log_state};
use crate::hex::hex;
use crate::manifest::{DatabaseIdentity, DatabaseMark, KeyedIdentity, Witness};
use crate::postgis::Snapshot;

/// The most timelines that are tried to find the one with an old hash.
const MAX_TIMELINE: u32 = 10_000;

/// The key of a change log.
#[derive(Debug, Clone)]
pub(crate) struct IdentityKey(Hmac<Sha256>);

/// Whether a target shows this database. A target that is known to show another one is an error instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameDatabase {
    Yes,
    /// Its manifest does not name a database.
    Unsaid,
    /// Its mark was made with a key that is not the one of this database's change log.
    OtherKey,
}

/// What the change log says of this database.
#[derive(Debug, Clone)]
pub(crate) struct LogIdentity {
    key: IdentityKey,
    /// Entries of transactions up to this one may have been pruned.
    pruned: u64,
    /// The database state that the snapshot shows in which the log was read.
    now: Cursor,
    /// The witness of that state.
    own: Witness,
    /// The witnesses of the states that were asked for, as the log has them now.
    witnesses: Vec<Witness>,
}

impl LogIdentity {
    /// Reads the log in `schema`, and in it the transactions that the snapshot shows, and those that each of the states
    /// `seen` sees; `None` if there is no key that this role may read.
    pub(crate) async fn read<'a>(
        snapshot: &Snapshot,
        schema: &str,
        seen: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<LogIdentity>, CommandError> {
        let mut texts: Vec<&str> = seen.into_iter().collect();
        texts.sort_unstable();
        texts.dedup();
        let cursors = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Cursor>, _>>()?;
        let exported = snapshot.exported().seen().parse()?;
        let state = log_state(snapshot, schema, exported, &cursors).await?;
        let Some(LogState { key, pruned, shown: now, newest }) = state else { return Ok(None) };
        let Some(key) = IdentityKey::new(&key) else { return Ok(None) };
        let Some((own, newest)) = newest.split_first() else { return Ok(None) };
        let own = key.witness(&now.to_string(), own);
        let witnesses = texts.iter().zip(newest).map(|(snapshot, lines)| key.witness(snapshot, lines)).collect();
        Ok(Some(LogIdentity { key, pruned, now, own, witnesses }))
    }

    pub(crate) const fn key(&self) -> &IdentityKey {
        &self.key
    }

    pub(crate) fn mark(&self, identity: &DatabaseIdentity) -> DatabaseMark {
        self.key.mark(identity)
    }

    /// The witness of what the snapshot shows in which the log was read.
    pub(crate) const fn own(&self) -> &Witness {
        &self.own
    }

    pub(crate) fn witness(&self, snapshot: &str) -> Option<&Witness> {
        self.witnesses.iter().find(|own| own.snapshot == snapshot)
    }

    /// True if this database has everything that the snapshot of a witness has seen, false if its history is another
    /// one; `None` if that cannot be said: the log was pruned past that snapshot, or this database is behind it. Both
    /// are refused for other reasons.
    pub(crate) fn vouches(&self, witness: &Witness) -> Option<bool> {
        let seen: Cursor = witness.snapshot.parse().ok()?;
        if seen.xmin() <= self.pruned || !self.now.sees_all_of(&seen) {
            return None;
        }
        Some(self.witness(&witness.snapshot)? == witness)
    }

    /// The next transaction of this database, and the next one at the snapshot of a witness, if this database has not
    /// ended every transaction that the snapshot sees.
    pub(crate) fn is_behind<'a>(&self, witnesses: impl IntoIterator<Item = &'a Witness>) -> Option<(u64, u64)> {
        let mut cursors = witnesses.into_iter().filter_map(|witness| witness.snapshot.parse::<Cursor>().ok());
        let ahead = cursors.find(|seen| !self.now.sees_all_of(seen))?;
        Some((self.now.xmax(), ahead.xmax()))
    }

    /// True if a witness is of another history.
    pub(crate) fn contradicts<'a>(&self, witnesses: impl IntoIterator<Item = &'a Witness>) -> bool {
        witnesses.into_iter().any(|witness| self.vouches(witness) == Some(false))
    }
}

impl IdentityKey {
    fn witness(&self, snapshot: &str, lines: &str) -> Witness {
        Witness {
            snapshot: snapshot.to_owned(),
            transactions: u32::try_from(lines.lines().count()).unwrap_or(u32::MAX),
            hash: self.hash("witness", &[snapshot, lines]),
        }
    }

    fn new(text: &str) -> Option<IdentityKey> {
        // HMAC takes keys of any length, so this never fails.
        Hmac::new_from_slice(text.as_bytes()).map_or(None, |hmac| Some(IdentityKey(hmac)))
    }

    /// A key for another purpose, from which nobody learns this one.
    pub(crate) fn derived(&self, purpose: &str) -> String {
        self.hash("derived", &[purpose])
    }

    fn hash(&self, what: &str, parts: &[&str]) -> String {
        let mut hmac = self.0.clone();
        for part in std::iter::once(&what).chain(parts) {
            // With the lengths, two different lists of parts never give the same input.
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part.as_bytes());
        }
        hex(hmac.finalize().into_bytes())
    }

    fn timeline(&self, number: u32) -> String {
        self.hash("timeline", &[&number.to_string()])
    }

    fn keyed(&self, identity: &DatabaseIdentity) -> KeyedIdentity {
        KeyedIdentity {
            key: self.hash("key", &[]),
            cluster: identity.system_identifier.as_ref().map(|cluster| self.hash("cluster", &[cluster])),
            timeline: identity.timeline.map(|number| self.timeline(number)),
            database: self.hash("database", &[&identity.name, &identity.oid.to_string()]),
            postgis: self.hash("postgis", &[&identity.postgis]),
        }
    }

    fn mark(&self, identity: &DatabaseIdentity) -> DatabaseMark {
        DatabaseMark::Keyed(self.keyed(identity))
    }
}

/// Compares the mark in a manifest with this database. Fails if the target cannot be brought up to date: it shows
/// another database or another history, or another PostGIS rendered it.
pub(crate) fn compare(
    then: Option<&DatabaseMark>,
    now: &DatabaseIdentity,
    key: Option<&IdentityKey>,
) -> Result<SameDatabase, String> {
    match (then, key) {
        (None, _) => Ok(SameDatabase::Unsaid),
        (Some(DatabaseMark::Plain(then)), _) => compare_plain(then, now).map(|()| SameDatabase::Yes),
        (Some(DatabaseMark::Keyed(then)), Some(key)) if then.key == key.hash("key", &[]) => {
            compare_keyed(then, now, key).map(|()| SameDatabase::Yes)
        }
        (Some(DatabaseMark::Keyed(_)), _) => Ok(SameDatabase::OtherKey),
    }
}

fn shown(identity: &DatabaseIdentity) -> String {
    let cluster = identity.system_identifier.as_deref().unwrap_or("unknown");
    format!("\"{}\", OID {}, system {cluster}", identity.name, identity.oid)
}

fn other_history(then: &str, now: u32) -> String {
    format!(
        "the database was restored, or failed over to a standby, since then (it is on timeline {now}, and was on {then}): what the target shows may never have happened there"
    )
}

fn compare_plain(then: &DatabaseIdentity, now: &DatabaseIdentity) -> Result<(), String> {
    if differ(then.system_identifier.as_ref(), now.system_identifier.as_ref())
        || (&then.name, then.oid) != (&now.name, now.oid)
    {
        let (then, now) = (shown(then), shown(now));
        return Err(format!(
            "it shows another database ({then}) than this one ({now}): its snapshot says nothing here"
        ));
    }
    if let (Some(then), Some(now)) = (then.timeline, now.timeline)
        && then != now
    {
        return Err(other_history(&then.to_string(), now));
    }
    if then.postgis != now.postgis {
        return Err(format!(
            "PostGIS {} rendered it, and the database has {} now, which may draw tiles differently",
            then.postgis, now.postgis
        ));
    }
    Ok(())
}

fn compare_keyed(then: &KeyedIdentity, now: &DatabaseIdentity, key: &IdentityKey) -> Result<(), String> {
    let here = key.keyed(now);
    if differ(then.cluster.as_ref(), here.cluster.as_ref()) || then.database != here.database {
        return Err(format!(
            "it shows another database than this one ({}): its snapshot says nothing here",
            shown(now)
        ));
    }
    if let (Some(hash), Some(number)) = (&then.timeline, now.timeline)
        && *hash != key.timeline(number)
    {
        // The old number is found by trying all timelines with the key.
        let before = (1..MAX_TIMELINE).find(|number| *hash == key.timeline(*number));
        let before = before.map_or_else(|| "another one".to_owned(), |number| number.to_string());
        return Err(other_history(&before, number));
    }
    if then.postgis != here.postgis {
        return Err(format!(
            "another version of PostGIS rendered it, and the database has {} now, which may draw tiles differently",
            now.postgis
        ));
    }
    Ok(())
}

/// True if both are known and differ.
fn differ<T: PartialEq>(then: Option<&T>, now: Option<&T>) -> bool {
    then.zip(now).is_some_and(|(then, now)| then != now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> DatabaseIdentity {
        DatabaseIdentity {
            system_identifier: Some("7571".to_owned()),
            timeline: Some(3),
            name: "registry".to_owned(),
            oid: 16_384,
            postgresql: "15.20".to_owned(),
            postgis: "3.3.2".to_owned(),
        }
    }

    #[test]
    fn hashes_are_hmacs_by_rfc_2104() {
        // printf '\3\0\0\0\0\0\0\0key' | openssl dgst -sha256 -hmac secret
        let key = IdentityKey::new("secret").unwrap();
        assert_eq!(key.keyed(&identity()).key, "d5c428690394ee6ccbf43dc0337aed5691678896ef5a60d3eb6ce350f05afd49");
    }

    #[test]
    fn what_differs_is_told_by_hashes_as_well() {
        let (key, now) = (IdentityKey::new("secret").unwrap(), identity());
        let against = |then: &DatabaseIdentity| compare(Some(&key.mark(then)), &now, Some(&key));
        assert_eq!(against(&now), Ok(SameDatabase::Yes));
        let unknown = DatabaseIdentity { system_identifier: None, timeline: None, ..identity() };
        assert_eq!(against(&unknown), Ok(SameDatabase::Yes));
        let newer = DatabaseIdentity { postgresql: "16.1".to_owned(), ..identity() };
        assert_eq!(against(&newer), Ok(SameDatabase::Yes));
        let another = "it shows another database than this one (\"registry\", OID 16384, system 7571): its snapshot says nothing here";
        for other in [
            DatabaseIdentity { system_identifier: Some("7572".to_owned()), ..identity() },
            DatabaseIdentity { name: "copy".to_owned(), ..identity() },
            DatabaseIdentity { oid: 5, ..identity() },
        ] {
            assert_eq!(against(&other), Err(another.to_owned()));
        }
        let of_history = against(&DatabaseIdentity { timeline: Some(2), ..identity() }).unwrap_err();
        assert!(of_history.contains("(it is on timeline 3, and was on 2)"), "{of_history}");
        let older = against(&DatabaseIdentity { postgis: "3.2.0".to_owned(), ..identity() });
        let rendered =
            "another version of PostGIS rendered it, and the database has 3.3.2 now, which may draw tiles differently";
        assert_eq!(older, Err(rendered.to_owned()));
        let other_key = IdentityKey::new("another").unwrap();
        assert_eq!(compare(Some(&other_key.mark(&now)), &now, Some(&key)), Ok(SameDatabase::OtherKey));
        assert_eq!(compare(Some(&key.mark(&now)), &now, None), Ok(SameDatabase::OtherKey));
        assert_eq!(compare(None, &now, Some(&key)), Ok(SameDatabase::Unsaid));
    }

    #[test]
    fn a_manifest_says_it_by_hashes_and_old_ones_are_read() {
        let key = IdentityKey::new("secret").unwrap();
        let text = serde_json::to_string(&key.mark(&identity())).unwrap();
        for secret in ["registry", "16384", "7571", "15.20", "3.3.2"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(serde_json::from_str::<DatabaseMark>(&text).unwrap(), key.mark(&identity()));
        let plain = serde_json::to_string(&identity()).unwrap();
        assert_eq!(serde_json::from_str::<DatabaseMark>(&plain).unwrap(), DatabaseMark::Plain(identity()));
    }
}
