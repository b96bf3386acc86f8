//! The section `[s3]` as it is written: every key may be missing.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::duration;

/// The section `[s3]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct S3Section {
    pub(in crate::config) endpoint: Option<String>,
    pub(in crate::config) region: Option<String>,
    pub(in crate::config) profile: Option<String>,
    pub(in crate::config) path_style: Option<bool>,
    pub(in crate::config) in_flight: Option<NonZeroUsize>,
    pub(in crate::config) attempts: Option<u32>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) backoff: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) attempt_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) request_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) lease: Option<Duration>,
    pub(in crate::config) conditional_writes: Option<bool>,
    pub(in crate::config) checksums: Option<bool>,
    pub(in crate::config) part_size_mb: Option<u64>,
    pub(in crate::config) cache_control: Option<CacheControl>,
    pub(in crate::config) notes_cache_control: Option<String>,
    pub(in crate::config) metadata: Option<BTreeMap<String, String>>,
    pub(in crate::config) storage_class: Option<String>,
    pub(in crate::config) encryption: Option<EncryptionName>,
    pub(in crate::config) kms_key: Option<String>,
}

/// One value, or one for each list of zooms.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a table of zooms and texts")]
pub(in crate::config) enum CacheControl {
    All(String),
    ByZoom(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

/// How the server encrypts objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in crate::config) enum EncryptionName {
    #[serde(rename = "bucket")]
    Bucket,
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
}
