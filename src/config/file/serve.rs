//! The section `[serve]` as it is written: every key may be missing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::s3::CacheControl;
use super::{Secret, duration};

/// The section `[serve]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ServeSection {
    pub(in crate::config) listen: Option<String>,
    pub(in crate::config) admin: Option<String>,
    pub(in crate::config) public_url: Option<String>,
    pub(in crate::config) base_path: Option<String>,
    pub(in crate::config) hosts: Option<Vec<String>>,
    pub(in crate::config) cache_mb: Option<u64>,
    pub(in crate::config) unread_mb: Option<u64>,
    pub(in crate::config) empty_status: Option<u16>,
    pub(in crate::config) cache_control: Option<CacheControl>,
    pub(in crate::config) cdn_cache_control: Option<CacheControl>,
    pub(in crate::config) cdn_headers: Option<Vec<CdnHeaderName>>,
    pub(in crate::config) tag_headers: Option<Vec<TagHeaderName>>,
    pub(in crate::config) headers: Option<BTreeMap<String, String>>,
    pub(in crate::config) max_connections: Option<usize>,
    pub(in crate::config) max_connections_of_address: Option<usize>,
    pub(in crate::config) trusted_proxies: Option<Vec<String>>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) drain: Option<Duration>,
    pub(in crate::config) changes: Option<bool>,
    pub(in crate::config) token_file: Option<PathBuf>,
    pub(in crate::config) preview: Option<bool>,
    pub(in crate::config) assets: Option<PathBuf>,
    pub(in crate::config) access_log: Option<AccessLogName>,
    pub(in crate::config) server_timing: Option<bool>,
    pub(in crate::config) workers: Option<usize>,
    pub(in crate::config) live_reserved: Option<usize>,
    pub(in crate::config) background_guaranteed: Option<usize>,
    pub(in crate::config) live: Option<bool>,
    pub(in crate::config) live_queue: Option<usize>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) live_timeout: Option<Duration>,
    pub(in crate::config) writer: Option<WriterName>,
    pub(in crate::config) write_back: Option<bool>,
    pub(in crate::config) write_back_rate: Option<u32>,
    pub(in crate::config) write_back_mb: Option<u64>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) writer_lease: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) live_ttl: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) answer_within: Option<Duration>,
    pub(in crate::config) expires: Option<CacheControl>,
    pub(in crate::config) refresh: Option<RefreshName>,
    pub(in crate::config) neighbours: Option<bool>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) explain_after: Option<Duration>,
    pub(in crate::config) undeclared_parameters: Option<UndeclaredName>,
    pub(in crate::config) parameter_keys: Option<usize>,
    pub(in crate::config) redis_url: Option<Secret>,
    pub(in crate::config) redis_url_file: Option<PathBuf>,
    pub(in crate::config) redis_secret_file: Option<PathBuf>,
}

/// A header by which CDNs learn how long they may keep a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in crate::config) enum CdnHeaderName {
    #[serde(rename = "CDN-Cache-Control")]
    CdnCacheControl,
    #[serde(rename = "Surrogate-Control")]
    SurrogateControl,
    #[serde(rename = "s-maxage")]
    SharedMaxAge,
}

/// Whether a server writes the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum WriterName {
    Never,
    Always,
    Auto,
}

/// What a client gets where the stored tile is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum RefreshName {
    /// The stale tile, at once.
    Background,
    /// The fresh tile, if it is there soon.
    Patient,
}

/// What becomes of names in a query that a tileset does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum UndeclaredName {
    Drop,
    Refuse,
}

/// A header in which a CDN expects tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in crate::config) enum TagHeaderName {
    #[serde(rename = "Cache-Tag")]
    CacheTag,
    #[serde(rename = "Surrogate-Key")]
    SurrogateKey,
    #[serde(rename = "CDN-Tag")]
    CdnTag,
    #[serde(rename = "Edge-Cache-Tag")]
    EdgeCacheTag,
    #[serde(rename = "xkey")]
    Xkey,
}

/// Whether and how requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum AccessLogName {
    None,
    Text,
    Json,
}
