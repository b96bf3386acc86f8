//! The sections `[[purge]]` as they are written.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};

use super::duration;

/// A section `[[purge]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PurgeSection {
    #[serde(deserialize_with = "provider_name")]
    pub(in crate::config) provider: PurgeProviderName,
    pub(in crate::config) url: String,
    pub(in crate::config) by: Option<PurgeByName>,
    pub(in crate::config) budget_per_month: Option<NonZeroU64>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) min_interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) wait: Option<Duration>,
    pub(in crate::config) required: Option<bool>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) rebound: Option<Duration>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) settle: Option<Duration>,
    pub(in crate::config) soft: Option<bool>,
    pub(in crate::config) distribution: Option<String>,
    pub(in crate::config) profile: Option<String>,
    pub(in crate::config) service: Option<String>,
    pub(in crate::config) zone: Option<String>,
    pub(in crate::config) plan: Option<CloudflarePlanName>,
    pub(in crate::config) origins: Option<Vec<String>>,
    pub(in crate::config) caches: Option<Vec<String>>,
    pub(in crate::config) wildcards: Option<bool>,
    pub(in crate::config) program: Option<Vec<String>>,
    pub(in crate::config) max_items: Option<usize>,
    pub(in crate::config) token_file: Option<PathBuf>,
    pub(in crate::config) token_variable: Option<String>,
    pub(in crate::config) endpoint: Option<String>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum PurgeProviderName {
    CloudFront,
    Fastly,
    Cloudflare,
    Varnish,
    Nginx,
    Command,
}

/// Reads the provider. CDNs that once were providers have programs now.
fn provider_name<'de, D: Deserializer<'de>>(given: D) -> Result<PurgeProviderName, D::Error> {
    let name = String::deserialize(given)?;
    match &*name {
        "akamai" | "bunny" => Err(D::Error::custom(has_program(&name))),
        known => PurgeProviderName::deserialize(known.into_deserializer()),
    }
}

/// What to write instead of a provider that has become a program, if `key` was one of its keys.
pub(in crate::config) fn former_key(key: &str) -> Option<String> {
    match key {
        "pull_zone" => Some(has_program("bunny")),
        "network" | "cp_code" | "edgerc" | "edgerc_section" => Some(has_program("akamai")),
        _ => None,
    }
}

fn has_program(name: &str) -> String {
    format!(
        "\"{name}\" is no provider any more: write provider = \"command\" and program = [\"/usr/local/bin/{name}\", …], with the program examples/purge/{name} of the repository, whose first lines show all keys"
    )
}

/// By what tiles are purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum PurgeByName {
    Auto,
    Tag,
    Path,
    Url,
    All,
}

/// Cloudflare's plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum CloudflarePlanName {
    Free,
    Pro,
    Business,
    Enterprise,
}
