//! The options of a server: the keys of the section `[serve]`, and what checks make of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::http::accept::AddressLimits;
use super::http::address::{AddressRange, ListenAddress};
use super::http::origin::PageOrigin;
use super::http::route::TileAddress;
use super::parameters::UndeclaredNames;
use super::queue::WorkerShares;
use super::redis::{RedisUrl, SharedSecret};
use super::target::watch::POLL;
use super::write_back::WriteBackLimits;
use crate::setting::{Named, Secret, TextByZoom, TimeSpan, by_name, names_schema, no_key_is_required};
use crate::target::CacheRule;
use crate::tile::{TileText, TileTextNames};

// `sample-config.toml` says what each key means. Where a check makes something else of a key, such as an address of a
// text, the result stands in `ServeOptions`.
/// The section `[serve]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct ServeSection {
    pub(crate) listen: String,
    pub(crate) admin: Option<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) base_path: String,
    pub(crate) template: Option<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    pub(crate) cache_mb: u64,
    pub(crate) unread_mb: u64,
    pub(crate) empty_status: u16,
    pub(crate) cache_control: Option<TextByZoom>,
    pub(crate) cdn_cache_control: Option<TextByZoom>,
    pub(crate) cdn_headers: Vec<CdnHeader>,
    pub(crate) outage_cdn_max_age: TimeSpan,
    pub(crate) tag_headers: Vec<TagHeader>,
    pub(crate) headers: Option<BTreeMap<String, String>>,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_of_address: usize,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) drain: TimeSpan,
    pub(crate) changes: bool,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) signing_keys_file: Option<PathBuf>,
    pub(crate) signed_for: TimeSpan,
    pub(crate) preview: bool,
    pub(crate) assets: Option<PathBuf>,
    pub(crate) basemap: Option<String>,
    #[serde(deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<Option<AccessLogStyle>>")]
    pub(crate) access_log: Option<AccessLogStyle>,
    pub(crate) server_timing: bool,
    pub(crate) workers: usize,
    pub(crate) live_reserved: Option<usize>,
    pub(crate) background_guaranteed: Option<usize>,
    pub(crate) live: bool,
    pub(crate) live_queue: usize,
    pub(crate) live_timeout: TimeSpan,
    pub(crate) writer: WriterMode,
    pub(crate) write_back: bool,
    pub(crate) write_back_rate: u32,
    pub(crate) write_back_mb: u64,
    pub(crate) writer_lease: TimeSpan,
    pub(crate) live_ttl: TimeSpan,
    pub(crate) answer_within: Option<TimeSpan>,
    pub(crate) expires: Option<TextByZoom>,
    pub(crate) refresh: RefreshMode,
    pub(crate) neighbours: bool,
    pub(crate) explain_after: Option<TimeSpan>,
    pub(crate) undeclared_parameters: UndeclaredNames,
    pub(crate) parameter_keys: usize,
    pub(crate) redis_url: Option<Secret>,
    pub(crate) redis_url_file: Option<PathBuf>,
    pub(crate) redis_secret_file: Option<PathBuf>,
}

/// Whether a server writes the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WriterMode {
    #[default]
    Never,
    Always,
    Auto,
}

/// What a client gets where the stored tile is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RefreshMode {
    /// The stale tile, at once.
    #[default]
    Background,
    /// The fresh tile, if it is there soon.
    Patient,
}

/// A header in which a CDN expects tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum TagHeader {
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

/// The status of the answer for an empty tile in the scope. The texts are the help of `--empty-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EmptyStatus {
    /// No Content
    #[default]
    #[value(name = "204")]
    NoContent,
    /// OK: a tile of 0 bytes, which is valid
    #[value(name = "200")]
    Ok,
    /// Not Found: some clients then enlarge the tile of the next lower zoom
    #[value(name = "404")]
    NotFound,
}

impl EmptyStatus {
    /// The status with this number; `None` if it is not one of these.
    pub const fn of(number: u16) -> Option<EmptyStatus> {
        match number {
            204 => Some(EmptyStatus::NoContent),
            200 => Some(EmptyStatus::Ok),
            404 => Some(EmptyStatus::NotFound),
            _ => None,
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            EmptyStatus::NoContent => StatusCode::NO_CONTENT,
            EmptyStatus::Ok => StatusCode::OK,
            EmptyStatus::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// The header that tells CDNs how long they may keep a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CdnHeader {
    /// `CDN-Cache-Control` (RFC 9213): Cloudflare, Akamai.
    #[serde(rename = "CDN-Cache-Control")]
    CdnCacheControl,
    /// `Surrogate-Control` (Edge Architecture Specification 1.0): Fastly.
    #[serde(rename = "Surrogate-Control")]
    SurrogateControl,
    /// `s-maxage` in `Cache-Control` (RFC 9111, section 5.2.2.10), with the seconds from `max-age` of the CDN's rule:
    /// for `CloudFront`, and every other shared cache.
    #[serde(rename = "s-maxage")]
    SharedMaxAge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogStyle {
    /// Time, client, request, status, bytes, seconds, source.
    Text,
    /// The same as a JSON object.
    Json,
}

impl Named for Option<AccessLogStyle> {
    const NAMES: &'static [(&'static str, Option<AccessLogStyle>)] =
        &[("none", None), ("text", Some(AccessLogStyle::Text)), ("json", Some(AccessLogStyle::Json))];
}

/// How tiles are rendered on request.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// The most tiles that may wait for a worker; requests for further tiles are refused.
    pub queue: usize,
    /// The most time that a tile may wait for a worker, and the most time that its rendering may then take.
    pub timeout: Duration,
    /// How long a rendered tile is fresh. Changes in the database show only after that.
    pub ttl: Duration,
    /// After this time a client gets the content of the nearest stored ancestor; `None` to let the client wait.
    pub answer_within: Option<Duration>,
    /// By zoom: how old a stored tile may become before it is rendered again, for layers without a change log.
    pub expires: Vec<Option<Duration>>,
    /// How long a client waits for the fresh tile if the stored one is stale; `None` to send the stale one at once.
    pub refresh_patience: Option<Duration>,
    /// True to render the tiles around one that was asked for, while nothing else waits.
    pub neighbours: bool,
    /// The plans of statements that take longer than this are logged; `None` to log none.
    pub explain_after: Option<Duration>,
}

/// How a server keeps its target up to date.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// True if this server stands by while another server writes; otherwise it reports that as a failure.
    pub stands_by: bool,
    /// How long the lease lasts after a renewal: after this time without a renewal, a standby takes over.
    pub lease: Duration,
    /// How many live tiles are stored in the target; `None` to store none.
    pub write_back: Option<WriteBackLimits>,
}

#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The keys that need no more than their type and range.
    pub(crate) section: Box<ServeSection>,
    /// The address of the public listener.
    pub listen: ListenAddress,
    /// The address of the admin listener (metrics, health, status); `None` for no such listener.
    pub admin: Option<ListenAddress>,
    /// The URL of the public listener as clients see it, for TileJSON; `None` for the listener's own address with the
    /// base path.
    pub public_url: Option<String>,
    /// The path under which the public listener answers: empty, or with a slash at its start and none at its end.
    pub base_path: String,
    /// The form of the addresses, below the base path, that tiles have beside their own; `None` for none.
    pub template: Option<TileAddress>,
    /// True if only pages of this server may read its answers, and clients have to ask by a known name, as of a
    /// preview.
    pub is_private: bool,
    /// The origins whose pages may read answers; `None` for all.
    pub allowed_origins: Option<Vec<PageOrigin>>,
    /// `Cache-Control` of tiles (RFC 9111): the first rule that covers the tile's zoom applies. Without such a rule it
    /// is `no-cache`.
    pub cache_control: Vec<CacheRule>,
    /// The same for CDNs; empty if they may keep tiles as long as browsers.
    pub cdn_cache_control: Vec<CacheRule>,
    pub tile_headers: TileHeaders,
    /// If the last look at the target is older than this, no cache may keep the answer: the CDN may have been purged
    /// since.
    pub settle: Duration,
    /// The status of the answer for an empty tile.
    pub empty_status: EmptyStatus,
    /// The size of the tile cache in memory, in bytes.
    pub cache_bytes: u64,
    /// The most memory that answers may take which clients are slow to read, in bytes.
    pub unread_bytes: u64,
    /// True to list the tiles that the target holds, so that missing ones are known without a lookup.
    pub lists_tiles: bool,
    /// Trusted proxies: connections from them are not counted by address, and their `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<AddressRange>,
    /// The Redis in which servers share rendered tiles, and through which they notify each other of publications;
    /// `None` to do neither.
    pub redis: Option<RedisUrl>,
    /// The key with which tiles in Redis are signed; `None` for one that is derived from the change log's key.
    pub redis_secret: Option<SharedSecret>,
    /// How the workers, each with a database session of its own, are shared between live requests and background work.
    pub shares: WorkerShares,
    /// How to render tiles outside of the target's scope on request; `None` to answer 404.
    pub live: Option<LiveOptions>,
    /// How to keep the target up to date; `None` to leave that to others.
    pub writer: Option<WriterOptions>,
}

/// Further headers of tiles, such as the tags by which CDNs purge them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TileHeaders {
    pub headers: Vec<TileHeader>,
    /// What their placeholders stand for.
    pub names: TileTextNames,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileHeader {
    pub name: HeaderName,
    pub text: TileText,
}

/// The default of [`ServeOptions::settle`]: twice the time between two polls of a target in a bucket.
pub const SETTLE: Duration = Duration::from_secs(2 * POLL.as_secs());

/// The size of a preview's tile cache in bytes; a preview has one user.
const PREVIEW_CACHE_BYTES: u64 = 64 << 20;

/// The most connections of a preview at once, enough for several browser windows.
const PREVIEW_CONNECTIONS: usize = 64;

impl ServeOptions {
    /// The limits for the connections of client addresses.
    pub(crate) fn address_limits(&self) -> AddressLimits {
        AddressLimits { most: self.section.max_connections_of_address, trusted_proxies: self.trusted_proxies.clone() }
    }

    /// The options of a preview: a map at `/`, and tiles that browsers ask for again each time, because the user may
    /// look at a target that is still being written and wants to see its present state. It ends at once. What is not
    /// said here is as in `defaults`, the section of the sample.
    pub(crate) fn of_preview(
        defaults: ServeSection,
        listen: ListenAddress,
        assets: Option<PathBuf>,
        basemap: Option<String>,
    ) -> ServeOptions {
        let section = ServeSection {
            drain: TimeSpan(Duration::ZERO),
            max_connections: PREVIEW_CONNECTIONS,
            changes: true,
            preview: true,
            assets,
            basemap,
            ..defaults
        };
        ServeOptions {
            unread_bytes: section.unread_mb << 20,
            section: Box::new(section),
            listen,
            admin: None,
            public_url: None,
            base_path: String::new(),
            template: None,
            is_private: true,
            allowed_origins: None,
            cache_control: Vec::new(),
            cdn_cache_control: Vec::new(),
            tile_headers: TileHeaders::default(),
            settle: SETTLE,
            empty_status: EmptyStatus::NoContent,
            cache_bytes: PREVIEW_CACHE_BYTES,
            lists_tiles: false,
            trusted_proxies: Vec::new(),
            redis: None,
            redis_secret: None,
            shares: WorkerShares::SINGLE,
            live: None,
            writer: None,
        }
    }
}
