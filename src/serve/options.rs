//! The options of a server.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::http::accept::AddressLimits;
use super::http::address::{AddressRange, ListenAddress};
use super::parameters::UndeclaredNames;
use super::queue::WorkerShares;
use super::redis::{RedisUrl, SharedSecret};
use super::target::watch::POLL;
use super::write_back::WriteBackLimits;
use crate::target::CacheRule;
use crate::tile::{TileText, TileTextNames};

/// The status of the answer for an empty tile in the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyStatus {
    /// 204: nothing, and no error in a browser's console.
    #[default]
    NoContent,
    /// 200 with an empty body, which is a valid tile, for clients that accept no other status.
    Ok,
    /// 404, on which some clients draw the tile of a lower zoom instead.
    NotFound,
}

impl EmptyStatus {
    /// The status with this number; `None` if it is not one of these.
    #[must_use]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CdnHeader {
    /// `CDN-Cache-Control` (RFC 9213): Cloudflare, Akamai.
    CdnCacheControl,
    /// `Surrogate-Control` (Edge Architecture Specification 1.0): Fastly.
    SurrogateControl,
    /// `s-maxage` in `Cache-Control` (RFC 9111, section 5.2.2.10), with the seconds from `max-age` of the CDN's rule:
    /// for `CloudFront`, and every other shared cache.
    SharedMaxAge,
}

/// The format of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogStyle {
    /// Time, client, request, status, bytes, seconds, source.
    Text,
    /// The same as a JSON object.
    Json,
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

/// The options of a server.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the configuration")]
pub struct ServeOptions {
    /// The address of the public listener.
    pub listen: ListenAddress,
    /// The address of the admin listener (metrics, health, status); `None` for no such listener.
    pub admin: Option<ListenAddress>,
    /// The URL of the public listener as clients see it, for TileJSON; `None` for the listener's own address with the
    /// base path.
    pub public_url: Option<String>,
    /// The path under which the public listener answers: empty, or with a slash at its start and none at its end.
    pub base_path: String,
    /// Names, besides `localhost` and the host of `public_url`, by which clients may ask listeners that only programs
    /// of this machine reach.
    pub hosts: Vec<String>,
    /// True if only pages of this server may read its answers, and clients have to ask by a known name, as of a
    /// preview.
    pub is_private: bool,
    /// `Cache-Control` of tiles (RFC 9111): the first rule that covers the tile's zoom applies. Without such a rule it
    /// is `no-cache`.
    pub cache_control: Vec<CacheRule>,
    /// The same for CDNs; empty if they may keep tiles as long as browsers.
    pub cdn_cache_control: Vec<CacheRule>,
    /// The headers that carry these rules to CDNs.
    pub cdn_headers: Vec<CdnHeader>,
    /// How long CDNs may keep a tile once the change log could not be read for longer than a minute.
    pub outage_cdn_max_age: Duration,
    /// Further headers of tiles.
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
    /// The most connections that a listener serves at once.
    pub max_connections: usize,
    /// The most connections of one client address at once.
    pub max_connections_of_address: usize,
    /// Trusted proxies: connections from them are not counted by address, and their `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<AddressRange>,
    /// The Redis in which servers share rendered tiles, and through which they notify each other of publications;
    /// `None` to do neither.
    pub redis: Option<RedisUrl>,
    /// The key with which tiles in Redis are signed; `None` for one that is derived from the change log's key.
    pub redis_secret: Option<SharedSecret>,
    /// True to notify clients at `/changes` of tiles that change.
    pub changes: bool,
    /// The file with the token that clients of the admin listener need to submit jobs or evict tiles. Without a file,
    /// the token is in the variable [`TOKEN_VARIABLE`](super::TOKEN_VARIABLE); without both, nobody may.
    pub token_file: Option<PathBuf>,
    /// True to show a map at `/`.
    pub preview: bool,
    /// The folder with the map client's files; `None` to use those in the program.
    pub assets: Option<PathBuf>,
    /// The URL of a MapLibre style that the map draws below the tiles; `None` for the base map of the program.
    pub basemap: Option<String>,
    /// How the workers, each with a database session of its own, are shared between live requests and background work.
    pub shares: WorkerShares,
    /// How to render tiles outside of the target's scope on request; `None` to answer 404.
    pub live: Option<LiveOptions>,
    /// What is done with names in a tile's query that its tileset does not declare.
    pub undeclared: UndeclaredNames,
    /// The most new sets of parameter values within a minute, for each tileset.
    pub parameter_keys: usize,
    /// How to keep the target up to date; `None` to leave that to others.
    pub writer: Option<WriterOptions>,
    /// The format of the access log on standard output; `None` for no log.
    pub access_log: Option<AccessLogStyle>,
    /// True to say in each answer how long it took (`Server-Timing`).
    pub server_timing: bool,
    /// How long the server still accepts connections after SIGTERM, so that a load balancer can notice the 503 of
    /// `/readyz` first.
    pub drain: Duration,
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
    /// Its value.
    pub text: TileText,
}

/// The default of [`ServeOptions::settle`]: twice the time between two polls of a target in a bucket.
pub const SETTLE: Duration = Duration::from_secs(2 * POLL.as_secs());

/// The size of a preview's tile cache in bytes; a preview has one user.
const PREVIEW_CACHE_BYTES: u64 = 64 << 20;

/// The most memory of answers that are read slowly in a preview, in bytes.
const PREVIEW_UNREAD_BYTES: u64 = 256 << 20;

/// How long CDNs keep the tiles of a preview in an outage; there are no CDNs before it.
const PREVIEW_OUTAGE: Duration = Duration::from_secs(300);

/// The most new sets of parameter values within a minute in a preview.
const PREVIEW_PARAMETER_KEYS: usize = 1_000;

/// The most connections of a preview at once, enough for several browser windows.
const PREVIEW_CONNECTIONS: usize = 64;

impl ServeOptions {
    /// The limits for the connections of client addresses.
    pub(crate) fn address_limits(&self) -> AddressLimits {
        AddressLimits { most: self.max_connections_of_address, trusted_proxies: self.trusted_proxies.clone() }
    }

    /// The options of a preview: a map at `/`, and tiles that browsers ask for again each time, because the user may
    /// look at a target that is still being written and wants to see its present state.
    #[must_use]
    pub fn of_preview(listen: ListenAddress, assets: Option<PathBuf>) -> ServeOptions {
        ServeOptions {
            listen,
            admin: None,
            public_url: None,
            base_path: String::new(),
            hosts: Vec::new(),
            is_private: true,
            cache_control: Vec::new(),
            cdn_cache_control: Vec::new(),
            cdn_headers: Vec::new(),
            outage_cdn_max_age: PREVIEW_OUTAGE,
            tile_headers: TileHeaders::default(),
            settle: SETTLE,
            empty_status: EmptyStatus::NoContent,
            cache_bytes: PREVIEW_CACHE_BYTES,
            unread_bytes: PREVIEW_UNREAD_BYTES,
            lists_tiles: false,
            max_connections: PREVIEW_CONNECTIONS,
            max_connections_of_address: PREVIEW_CONNECTIONS,
            trusted_proxies: Vec::new(),
            redis: None,
            redis_secret: None,
            changes: true,
            token_file: None,
            preview: true,
            assets,
            basemap: None,
            shares: WorkerShares::SINGLE,
            live: None,
            undeclared: UndeclaredNames::Drop,
            parameter_keys: PREVIEW_PARAMETER_KEYS,
            writer: None,
            access_log: None,
            server_timing: false,
            drain: Duration::ZERO,
        }
    }
}
