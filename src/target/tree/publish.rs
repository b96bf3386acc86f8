//! Versions of a tileset: the current one, which clients see, and those that can be switched back to.

use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::seconds;

/// `latest.json`: the current version, and all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latest {
    /// The current version, which clients see.
    #[serde(deserialize_with = "version_name")]
    pub version: String,
    /// Every complete version, the newest first.
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    #[serde(deserialize_with = "version_name")]
    pub version: String,
    /// When it was published, in seconds since 1970 (UTC).
    pub published: u64,
}

/// Why clients cannot be switched to a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    #[error("there is no version {wanted} (there is {}): name one of these with --to", known.join(", "))]
    Unknown { wanted: String, known: Vec<String> },
    #[error("version {0} is the oldest: there is nothing to switch back to")]
    Oldest(String),
}

/// Parses the name of a version. It becomes a part of paths, so a note that others wrote must not lead out of the
/// target.
fn version_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_version_name(&name) { Ok(name) } else { Err(D::Error::custom(format!("{name:?} is no name of a version"))) }
}

/// True if a text can be the name of a version.
pub(crate) fn is_version_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}

impl Latest {
    /// Adds a new version and makes it the current one.
    pub fn published(before: Option<Latest>, version: &str, now: SystemTime) -> Latest {
        let mut versions = before.map_or_else(Vec::new, |before| before.versions);
        versions.retain(|old| old.version != version);
        versions.insert(0, Version { version: version.to_owned(), published: seconds(now) });
        Latest { version: version.to_owned(), versions }
    }

    /// Makes `to` the current version; if `to` is `None`, the next older version.
    pub fn switched(mut self, to: Option<&str>) -> Result<Latest, SwitchError> {
        let at = |wanted: &str| self.versions.iter().position(|version| version.version == wanted);
        let goal = match to {
            Some(wanted) => at(wanted).ok_or_else(|| SwitchError::Unknown {
                wanted: wanted.to_owned(),
                known: self.versions.iter().map(|version| version.version.clone()).collect(),
            })?,
            None => at(&self.version).map_or(0, |at| at + 1),
        };
        let Some(goal) = self.versions.get(goal) else { return Err(SwitchError::Oldest(self.version)) };
        self.version.clone_from(&goal.version);
        Ok(self)
    }

    /// Removes the expired versions and returns their names. A version is expired if it is not among the newest `keep`
    /// old versions and was published longer than `keep_for` ago. The current version and the newest version always
    /// stay.
    pub fn take_expired(&mut self, keep: usize, keep_for: Duration, now: SystemTime) -> Vec<String> {
        let mut old = 0;
        let mut expired = Vec::new();
        for (place, version) in std::mem::take(&mut self.versions).into_iter().enumerate() {
            let stays = place == 0 || version.version == self.version || {
                old += 1;
                old <= keep || seconds(now).saturating_sub(version.published) < keep_for.as_secs()
            };
            if stays {
                self.versions.push(version);
            } else {
                expired.push(version.version);
            }
        }
        expired
    }
}

/// The name of a version that begins now. It differs from the names of published versions, and of the versions `left`,
/// which were begun or are being removed: their notes say how their tiles are named.
pub(crate) fn unused_version(published: Option<&Latest>, left: impl IntoIterator<Item = String>) -> String {
    let left = left.into_iter().map(|version| Version { version, published: 0 });
    let published = published.map_or_else(Vec::new, |latest| latest.versions.clone());
    let taken = Latest { version: String::new(), versions: published.into_iter().chain(left).collect() };
    new_version(SystemTime::now(), Some(&taken))
}

/// The name of a version that begins now, such as `20261121T131500Z`: names sort by time. Differs from all names in
/// `latest`.
pub fn new_version(now: SystemTime, latest: Option<&Latest>) -> String {
    let name: String = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    let taken = |name: &str| latest.is_some_and(|latest| latest.versions.iter().any(|other| other.version == name));
    if !taken(&name) {
        return name;
    }
    (2..=u32::MAX).map(|number| format!("{name}-{number}")).find(|name| !taken(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn three() -> Latest {
        let latest = Latest::published(None, "a", at(100));
        let latest = Latest::published(Some(latest), "b", at(200));
        Latest::published(Some(latest), "c", at(300))
    }

    #[test]
    fn the_map_is_switched_forth_and_back() {
        let latest = three();
        assert_eq!(latest.version, "c");
        let back = latest.clone().switched(None).unwrap();
        assert_eq!((back.version.as_str(), back.versions.len()), ("b", 3));
        let further = back.switched(None).unwrap();
        assert_eq!(
            further.clone().switched(None).unwrap_err().to_string(),
            "version a is the oldest: there is nothing to switch back to"
        );
        assert_eq!(further.switched(Some("c")).unwrap(), latest);
        assert_eq!(
            latest.switched(Some("x")).unwrap_err().to_string(),
            "there is no version x (there is c, b, a): name one of these with --to"
        );
    }

    #[test]
    fn a_version_that_leads_out_of_the_target_is_none() {
        let read = |version: &str| {
            let version = serde_json::json!(version);
            let one = serde_json::json!({ "version": version, "versions": [] });
            let other = serde_json::json!({ "version": "a", "versions": [{ "version": version, "published": 1 }] });
            [one, other].map(|json| serde_json::from_value::<Latest>(json).is_ok())
        };
        for version in ["", ".", "..", "../../etc", "a/b", "/etc", "a\\b", "a\0b"] {
            assert_eq!(read(version), [false, false], "{version:?}");
        }
        assert_eq!(read("20261121T131500Z-2"), [true, true]);
    }

    #[test]
    fn old_versions_stay_by_count_or_by_age() {
        for (keep, keep_for, expired) in
            [(0, 0, vec!["b", "a"]), (1, 0, vec!["a"]), (9, 0, vec![]), (0, 150, vec!["a"]), (0, 999, vec![])]
        {
            let mut latest = three();
            assert_eq!(latest.take_expired(keep, Duration::from_secs(keep_for), at(300)), expired, "{keep} {keep_for}");
            assert_eq!(latest.versions.len() + expired.len(), 3);
        }
        let mut back = three().switched(Some("a")).unwrap();
        assert_eq!(back.take_expired(0, Duration::ZERO, at(300)), ["b"], "the one shown stays");
    }

    #[test]
    fn versions_are_named_by_time_and_never_twice() {
        let now = at(1_795_266_900);
        assert_eq!(new_version(now, None), "20261121T131500Z");
        let latest = Latest::published(None, "20261121T131500Z", now);
        assert_eq!(new_version(now, Some(&latest)), "20261121T131500Z-2");
    }
}
