//! What the user sets for a provider. Defaults stand in `sample-config.toml`.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};

use super::{CloudflarePlan, ProviderError, ProviderOptions, PurgeProvider};
use crate::cdn::items::{CdnUrl, CdnUrlError, PurgeBy};
use crate::cdn::pace::PurgeBudget;
use crate::setting::{Named, Secret, TimeSpan, by_name, names_schema};

// `sample-config.toml` says what each key means. The keys of all providers stand side by side, because several
// providers share some, and because a reader of TOML knows the line of a mistake only if a key belongs to the section's
// own struct.
/// A section `[[purge]]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeSection {
    #[serde(deserialize_with = "provider_name")]
    pub provider: PurgeProvider,
    pub url: String,
    #[serde(default, deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<Option<PurgeBy>>")]
    pub by: Option<PurgeBy>,
    pub budget_per_month: Option<NonZeroU64>,
    pub min_interval: Option<TimeSpan>,
    pub wait: Option<TimeSpan>,
    pub required: Option<bool>,
    pub rebound: Option<TimeSpan>,
    pub settle: Option<TimeSpan>,
    pub soft: Option<bool>,
    pub distribution: Option<String>,
    pub profile: Option<String>,
    pub service: Option<String>,
    pub zone: Option<String>,
    pub plan: Option<CloudflarePlan>,
    pub origins: Option<Vec<String>>,
    pub caches: Option<Vec<String>>,
    pub wildcards: Option<bool>,
    pub program: Option<Vec<String>>,
    pub max_items: Option<usize>,
    pub token_file: Option<PathBuf>,
    pub token_variable: Option<String>,
    pub endpoint: Option<String>,
}

/// Reads the provider. CDNs that once were providers have programs now.
fn provider_name<'de, D: Deserializer<'de>>(given: D) -> Result<PurgeProvider, D::Error> {
    let name = String::deserialize(given)?;
    match &*name {
        "akamai" | "bunny" => Err(D::Error::custom(has_program(&name))),
        known => PurgeProvider::deserialize(known.into_deserializer()),
    }
}

pub(crate) fn has_program(name: &str) -> String {
    format!(
        "\"{name}\" is no provider any more: write provider = \"command\" and program = [\"/usr/local/bin/{name}\", …], with the program examples/purge/{name} of the repository, whose first lines show all keys"
    )
}

impl Named for Option<PurgeBy> {
    const NAMES: &'static [(&'static str, Option<PurgeBy>)] = &[
        ("auto", None),
        ("tag", Some(PurgeBy::Tag)),
        ("path", Some(PurgeBy::Path)),
        ("url", Some(PurgeBy::Url)),
        ("all", Some(PurgeBy::All)),
    ];
}

/// One `[[purge]]` of the configuration, checked.
#[derive(Debug, Clone)]
pub struct PurgeOptions {
    pub section: PurgeSection,
    /// Who is asked.
    pub provider: ProviderOptions,
    /// The URL under which the CDN serves the target's tiles.
    pub url: CdnUrl,
    /// What may be spent.
    pub budget: PurgeBudget,
    /// The time after which the same items are purged once more, for caches in two tiers; `None` for never.
    pub rebound: Option<Duration>,
}

/// A key of `[[purge]]` that cannot be used.
#[derive(Debug)]
pub(crate) struct PurgeKeyError {
    pub(crate) key: &'static str,
    /// What is wrong, and what to write instead.
    pub(crate) what: String,
}

/// What a provider reads of a section beyond the keys that all of them have.
pub(crate) struct ProviderKeys {
    pub(crate) own: &'static [ProviderKey],
    /// The environment variable that usually holds its token.
    pub(crate) token_variable: Option<&'static str>,
}

/// A key that only some providers have.
pub(crate) struct ProviderKey {
    pub(crate) name: &'static str,
    pub(crate) is_given: fn(&PurgeSection) -> bool,
}

/// The [`ProviderKey`]s of some fields of [`PurgeSection`].
macro_rules! provider_keys {
    ($($key:ident),+) => {
        &[$(crate::cdn::provider::options::ProviderKey {
            name: stringify!($key),
            is_given: |section| section.$key.is_some(),
        }),+]
    };
}
pub(crate) use provider_keys;

impl PurgeSection {
    /// Refuses keys of another provider, because the user expects them to have an effect.
    pub(crate) fn keys_fit(&self) -> Result<(), PurgeKeyError> {
        let has = |provider: PurgeProvider, name| provider.keys().own.iter().any(|key| key.name == name);
        let mut all = PurgeProvider::ALL.iter().flat_map(|provider| provider.keys().own);
        let odd = all.find(|key| (key.is_given)(self) && !has(self.provider, key.name));
        let Some(ProviderKey { name: key, .. }) = odd else { return Ok(()) };
        let fits = PurgeProvider::ALL.iter().filter(|provider| has(**provider, key)).map(|provider| provider.name());
        let fits: Vec<&str> = fits.collect();
        Err(PurgeKeyError { key, what: format!("is of provider = \"{}\": leave it out", fits.join("\" or \"")) })
    }

    /// The address of the provider's API, if it is elsewhere.
    pub(crate) fn api(&self) -> Result<Option<String>, PurgeKeyError> {
        self.endpoint.as_deref().map(|url| server("endpoint", url)).transpose()
    }

    /// The addresses of the user's own caches.
    pub(crate) fn servers(&self) -> Result<Vec<String>, PurgeKeyError> {
        let caches = required("caches", self.caches.as_deref())?;
        if caches.is_empty() {
            let what = "names no server: write [\"http://127.0.0.1:6081\"]".to_owned();
            return Err(PurgeKeyError { key: "caches", what });
        }
        caches.iter().map(|url| server("caches", url)).collect()
    }

    /// Where the token is, if it is not in the usual variable.
    pub(crate) fn token(&self) -> Result<Option<SecretSource>, PurgeKeyError> {
        match (&self.token_file, &self.token_variable) {
            (Some(_), Some(_)) => Err(PurgeKeyError {
                key: "token_file",
                what: "and token_variable are given: write one of them".to_owned(),
            }),
            (Some(path), None) => Ok(Some(SecretSource::File(path.clone()))),
            (None, variable) => Ok(variable.clone().map(SecretSource::Variable)),
        }
    }

    /// Where the token is, of a provider that cannot do without one.
    pub(crate) fn needed_token(&self) -> Result<SecretSource, PurgeKeyError> {
        let usual = self.provider.keys().token_variable.unwrap_or_default();
        Ok(self.token()?.unwrap_or_else(|| SecretSource::Variable(usual.to_owned())))
    }
}

/// The value of a key that the provider needs.
pub(crate) fn required<T>(key: &'static str, value: Option<T>) -> Result<T, PurgeKeyError> {
    value.ok_or_else(|| PurgeKeyError { key, what: "has no value: write one".to_owned() })
}

/// A name that becomes a part of a URL's path.
pub(crate) fn name_in_path(key: &'static str, given: Option<&str>) -> Result<String, PurgeKeyError> {
    let name = required(key, given)?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return Err(PurgeKeyError { key, what: format!("{name:?} is no id: write letters and digits") });
    }
    Ok(name.to_owned())
}

/// The address of a server to which requests are sent.
fn server(key: &'static str, url: &str) -> Result<String, PurgeKeyError> {
    let what = match url.parse::<CdnUrl>() {
        Ok(_) => return Ok(url.trim_end_matches('/').to_owned()),
        // A URL with a user contains a password, so the message does not repeat it.
        Err(error @ CdnUrlError::User) => error.to_string(),
        Err(error) => format!("{url:?} {error}"),
    };
    Err(PurgeKeyError { key, what })
}

// Keys and tokens: read from a file or the environment, never shown.

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that holds only the secret.
    File(PathBuf),
    Variable(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "the file {}", path.display()),
            SecretSource::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// The shortest secret, in bytes: hiding a shorter one in other texts would make these unreadable.
const MIN_SECRET: usize = 8;

impl SecretSource {
    /// Reads the secret. Fails if the secret is missing, too short, or no header can carry it.
    pub(crate) fn read(&self) -> Result<Secret, ProviderError> {
        let wrong = |what: String| ProviderError::Secret { place: self.to_string(), what };
        let text = match self {
            SecretSource::File(path) => std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?,
            SecretSource::Variable(name) => std::env::var(name).map_err(|_unset| wrong("it is not set".to_owned()))?,
        };
        let text = text.trim();
        if text.len() < MIN_SECRET || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong(format!("it holds no token: {MIN_SECRET} characters at least, without spaces")));
        }
        Ok(Secret(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abcdef-0123456789\n").unwrap();
        let secret = SecretSource::File(path.clone()).read().unwrap();
        assert_eq!(secret.0, "abcdef-0123456789");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert_eq!(secret.hide_in("bad token abcdef-0123456789!"), "bad token (hidden)!");
        for text in ["", "short", "with a space inside"] {
            std::fs::write(&path, text).unwrap();
            let error = SecretSource::File(path.clone()).read().unwrap_err().to_string();
            assert!(error.contains("it holds no token") && !error.contains("inside"), "{error}");
        }
        let error = SecretSource::Variable("OAR_NO_SUCH_TOKEN".to_owned()).read().unwrap_err().to_string();
        assert!(error.contains("OAR_NO_SUCH_TOKEN") && error.contains("it is not set"), "{error}");
    }
}
