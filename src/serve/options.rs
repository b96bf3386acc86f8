//! The options of a server.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use super::http::address::ListenAddress;
use super::http::peers::AddressRange;
use crate::sink::CacheRule;

/// The status of a tile of the scope in which nothing is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyStatus {
    /// 204: nothing, and no error in a browser's console.
    #[default]
    NoContent,
    /// 200 without a byte, which is a valid tile, for clients that take nothing else.
    Ok,
    /// 404, by which some clients draw the tile above instead.
    NotFound,
}

impl EmptyStatus {
    /// The status with this number, if it is one of these.
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

/// How CDNs are told for how long they may keep a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CdnHeader {
    /// `CDN-Cache-Control` (RFC 9213): Cloudflare, Akamai.
    CdnCacheControl,
    /// `Surrogate-Control` (Edge Architecture Specification 1.0): Fastly.
    SurrogateControl,
    /// `s-maxage` in `Cache-Control` (RFC 9111, section 5.2.2.10), with the seconds of `max-age`: `CloudFront`, and every other shared cache.
    SharedMaxAge,
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogStyle {
    /// Time, client, request, status, bytes, seconds, source.
    Text,
    /// The same as a JSON object.
    Json,
}

/// How tiles are rendered on request.
#[derive(Debug, Clone, Copy)]
pub struct LiveOptions {
    /// Tiles that are rendered at once, each in a database session of its own.
    pub workers: NonZeroUsize,
    /// Tiles that may wait for a worker; requests for more are turned away.
    pub queue: usize,
    /// How long a tile may wait for a worker, and how long it may take then.
    pub timeout: Duration,
    /// How long a tile is kept in memory. Changes in the database are not noticed before.
    pub ttl: Duration,
}

/// The options of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where the public listener waits.
    pub listen: ListenAddress,
    /// Where the admin listener waits (metrics, health, status), if there is to be one.
    pub admin: Option<ListenAddress>,
    /// Where clients find the public listener, for TileJSON; without it, its own address and the base path.
    pub public_url: Option<String>,
    /// The path below which the public listener answers: empty, or beginning with a slash and not ending with one.
    pub base_path: String,
    /// `Cache-Control` of tiles (RFC 9111): the first rule that fits a tile's zoom. At a zoom without one it is `no-cache`.
    pub cache_control: Vec<CacheRule>,
    /// The same for CDNs, if they may keep tiles for another time than browsers.
    pub cdn_cache_control: Vec<CacheRule>,
    /// How CDNs are told.
    pub cdn_headers: Vec<CdnHeader>,
    /// The status of a tile in which nothing is drawn.
    pub empty_status: EmptyStatus,
    /// The most bytes of tiles in memory.
    pub cache_bytes: u64,
    /// Whether the tiles that the target holds are listed, so that missing ones are known without a lookup.
    pub lists_tiles: bool,
    /// The most connections that a listener serves at once.
    pub max_connections: usize,
    /// The most connections of one client address.
    pub max_connections_of_address: usize,
    /// Proxies: the connections that come from them are not counted by address.
    pub trusted_proxies: Vec<AddressRange>,
    /// Whether `/` shows a map.
    pub preview: bool,
    /// The folder with the map client's files; without it the page loads them from a public CDN.
    pub assets: Option<PathBuf>,
    /// Whether and how tiles that the target does not know are rendered on request.
    pub live: Option<LiveOptions>,
    /// Whether and how requests are logged on standard output.
    pub access_log: Option<AccessLogStyle>,
    /// Whether answers say how long they took (`Server-Timing`).
    pub server_timing: bool,
    /// How long the server goes on after SIGTERM before it accepts no more connections, so that a balancer notices `/readyz`.
    pub drain: Duration,
}

/// Bytes of tiles that a preview keeps in memory: one person looks at it.
const PREVIEW_CACHE_BYTES: u64 = 64 << 20;

/// Connections that a preview serves: several windows of a browser.
const PREVIEW_CONNECTIONS: usize = 64;

impl ServeOptions {
    /// The options of a preview: a map at `/`, every tile asked for again each time, because whoever looks at a target that is being made
    /// wants to see it as it is.
    #[must_use]
    pub fn of_preview(listen: ListenAddress, assets: Option<PathBuf>) -> ServeOptions {
        ServeOptions {
            listen,
            admin: None,
            public_url: None,
            base_path: String::new(),
            cache_control: Vec::new(),
            cdn_cache_control: Vec::new(),
            cdn_headers: Vec::new(),
            empty_status: EmptyStatus::NoContent,
            cache_bytes: PREVIEW_CACHE_BYTES,
            lists_tiles: false,
            max_connections: PREVIEW_CONNECTIONS,
            max_connections_of_address: PREVIEW_CONNECTIONS,
            trusted_proxies: Vec::new(),
            preview: true,
            assets,
            live: None,
            access_log: None,
            server_timing: false,
            drain: Duration::ZERO,
        }
    }
}
