//! What the user sets for a provider. Defaults stand in `sample-config.toml`.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};

use super::{ItemPrice, ProviderError, ProviderFacts};
use crate::cdn::items::{CdnUrl, PurgeBy};
use crate::cdn::pace::PurgeBudget;
use crate::setting::{Named, TimeSpan, by_name, names_schema};

// `sample-config.toml` says what each key means.
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

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PurgeProvider {
    #[default]
    CloudFront,
    Fastly,
    Cloudflare,
    Varnish,
    Nginx,
    Command,
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

/// A provider and what it needs.
#[derive(Debug, Clone)]
pub enum ProviderOptions {
    /// Amazon CloudFront.
    CloudFront(CloudFrontOptions),
    Fastly(FastlyOptions),
    Cloudflare(CloudflareOptions),
    Varnish(VarnishOptions),
    /// nginx with `ngx_cache_purge`.
    Nginx(NginxOptions),
    /// A program.
    Command(CommandOptions),
}

impl ProviderOptions {
    /// Its name in the configuration, in metrics and in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// What the provider takes, and what it costs.
    #[must_use]
    pub fn facts(&self) -> ProviderFacts {
        match self {
            ProviderOptions::CloudFront(_) => CloudFrontOptions::facts(),
            ProviderOptions::Fastly(_) => FastlyOptions::facts(),
            ProviderOptions::Cloudflare(_) => CloudflareOptions::facts(),
            ProviderOptions::Varnish(_) => VarnishOptions::facts(),
            ProviderOptions::Nginx(options) => options.facts(),
            ProviderOptions::Command(options) => options.facts(),
        }
    }
}

/// The most paths and tags of invalidations in progress (Developer Guide, "Concurrent invalidation request maximum").
pub(crate) const MAX_CLOUDFRONT_PATHS: usize = 3_000;

/// A distribution of CloudFront; credentials come from the AWS SDK's chain.
#[derive(Debug, Clone)]
pub struct CloudFrontOptions {
    /// The distribution's id.
    pub distribution: String,
    /// The profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// The API, if it is not Amazon's.
    pub endpoint: Option<String>,
}

impl CloudFrontOptions {
    /// What the provider takes, and what it costs.
    pub(crate) fn facts() -> ProviderFacts {
        ProviderFacts {
            name: "cloudfront",
            // Tags need CacheTagConfig in the distribution, so they are not the default.
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            max_items: MAX_CLOUDFRONT_PATHS,
            price: ItemPrice { free_per_month: 1_000, dollars: 0.005 },
        }
    }
}

/// A service of Fastly.
#[derive(Debug, Clone)]
pub struct FastlyOptions {
    /// The service's id.
    pub service: String,
    /// An API token with the scope `purge_select` (and `purge_all`).
    pub token: SecretSource,
    /// True to mark tiles as stale rather than remove them.
    pub soft: bool,
    /// The API, if it is not Fastly's.
    pub endpoint: Option<String>,
}

/// A zone of Cloudflare.
#[derive(Debug, Clone)]
pub struct CloudflareOptions {
    /// The zone's id.
    pub zone: String,
    /// An API token with the permission "Cache Purge".
    pub token: SecretSource,
    /// The plan, which decides the rates.
    pub plan: CloudflarePlan,
    /// Sites on which maps show these tiles. If there are any, exact addresses are purged as files, once for each site.
    pub origins: Vec<String>,
    /// The API, if it is not Cloudflare's.
    pub endpoint: Option<String>,
}

/// Cloudflare's plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloudflarePlan {
    #[default]
    Free,
    Pro,
    Business,
    Enterprise,
}

/// Varnish servers.
#[derive(Debug, Clone)]
pub struct VarnishOptions {
    /// Their addresses, such as `http://10.0.0.5:6081`.
    pub caches: Vec<String>,
    /// The token by which they know who may purge; `None` if they go by addresses alone.
    pub token: Option<SecretSource>,
    /// True to mark tiles as stale rather than remove them.
    pub soft: bool,
}

/// nginx servers.
#[derive(Debug, Clone)]
pub struct NginxOptions {
    /// Their addresses.
    pub caches: Vec<String>,
    /// The token, as of [`VarnishOptions`].
    pub token: Option<SecretSource>,
    /// True if the purge module takes `*` at the end of a key.
    pub wildcards: bool,
}

/// A program.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// The program and its arguments.
    pub program: Vec<String>,
    /// The most lines of a list.
    pub max_items: usize,
    /// The environment variable with its own secret, which it gets though it is known as a secret.
    pub token_variable: Option<String>,
    /// The environment variables with the secrets of other providers, which it does not get.
    pub others_variables: Vec<String>,
}

// Keys and tokens: read from a file or the environment, never shown.

/// A secret; its `Debug` text hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PurgeSecret(String);

impl fmt::Debug for PurgeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl PurgeSecret {
    /// The secret itself, for the header that carries it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Replaces the secret in a text: a server may repeat the secret that it was sent.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "(hidden)")
    }
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that holds only the secret.
    File(PathBuf),
    /// An environment variable.
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
    /// Reads the secret.
    ///
    /// # Errors
    /// If the secret is missing, too short, or no header can carry it.
    pub fn read(&self) -> Result<PurgeSecret, ProviderError> {
        let wrong = |what: String| ProviderError::Secret { place: self.to_string(), what };
        let text = match self {
            SecretSource::File(path) => std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?,
            SecretSource::Variable(name) => std::env::var(name).map_err(|_unset| wrong("it is not set".to_owned()))?,
        };
        let text = text.trim();
        if text.len() < MIN_SECRET || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong(format!("it holds no token: {MIN_SECRET} characters at least, without spaces")));
        }
        Ok(PurgeSecret(text.to_owned()))
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
        assert_eq!(secret.reveal(), "abcdef-0123456789");
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
