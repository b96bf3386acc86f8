//! The options of a server.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use super::http::address::ListenAddress;

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
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            EmptyStatus::NoContent => StatusCode::NO_CONTENT,
            EmptyStatus::Ok => StatusCode::OK,
            EmptyStatus::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// The options of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where the public listener waits.
    pub listen: ListenAddress,
    /// Where the admin listener waits (metrics, health, status), if there is to be one.
    pub admin: Option<ListenAddress>,
    /// Where clients find the public listener, for TileJSON; without it, its own address.
    pub public_url: Option<String>,
    /// `Cache-Control` of tiles (RFC 9111).
    pub cache_control: String,
    /// `CDN-Cache-Control` of tiles (RFC 9213), if CDNs may keep them for another time than browsers.
    pub cdn_cache_control: Option<String>,
    /// The status of a tile in which nothing is drawn.
    pub empty_status: EmptyStatus,
    /// The most bytes of tiles in memory.
    pub cache_bytes: u64,
    /// Whether `/` shows a map.
    pub preview: bool,
    /// The folder with the map client's files; without it the page loads them from a public CDN.
    pub assets: Option<PathBuf>,
    /// How long the server goes on after SIGTERM before it accepts no more connections, so that a balancer notices `/readyz`.
    pub drain: Duration,
    /// Whether connections come through a proxy, so that their number is not limited by address.
    pub behind_proxy: bool,
}
