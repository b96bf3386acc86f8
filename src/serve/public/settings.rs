//! The settings of the public listener that may change while the server runs.

use std::sync::Arc;
use std::time::Duration;

use crate::serve::error::ServeError;
use crate::serve::http::peers::AddressRange;
use crate::serve::jobs::AdminToken;
use crate::serve::options::{AccessLogStyle, EmptyStatus, ServeOptions, TileHeaders};
use crate::serve::parameters::UndeclaredNames;
use crate::serve::preview::{MapClient, PreviewPage};
use crate::serve::public::freshness::TileFreshness;

/// The further headers of a tileset's tiles.
#[derive(Debug, Clone)]
pub struct TilesetHeaders {
    /// The name of the tileset.
    pub tileset: Arc<str>,
    /// The headers.
    pub headers: TileHeaders,
}

/// The settings that are read again at SIGHUP.
#[derive(Debug, Clone)]
pub(crate) struct SiteSettings {
    /// How long caches may keep a tile, by its zoom.
    pub(crate) tile_freshness: TileFreshness,
    /// Further headers of tiles.
    tile_headers: Vec<TilesetHeaders>,
    /// If the last look at the target is older than this, no cache may keep the answer.
    pub(crate) settle: Duration,
    /// The status of the answer for an empty tile.
    pub(crate) empty_status: EmptyStatus,
    /// What is done with names in a tile's query that its tileset does not declare.
    pub(crate) undeclared: UndeclaredNames,
    /// True if each answer says how long it took.
    pub(crate) server_timing: bool,
    /// The URL under which clients find the server; ends with a slash.
    pub(crate) public_url: String,
    /// The page with the map, if there is one.
    pub(crate) preview: Option<Arc<PreviewPage>>,
    /// The format of the access log; `None` for no log.
    pub(crate) access_log: Option<AccessLogStyle>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub(crate) trusted_proxies: Vec<AddressRange>,
    /// The token that clients of the admin listener need to change something; `None` if nobody may.
    pub(crate) token: Option<AdminToken>,
}

impl SiteSettings {
    /// The part of a server's options that may change. `own_url` is the address of the public listener as a URL without a path; `None` if
    /// clients cannot name it.
    ///
    /// # Errors
    /// If a value cannot be sent as a header, no URL for clients is known, or the token or the files of the map cannot be read.
    pub(crate) fn new(
        options: &ServeOptions,
        tile_headers: Vec<TilesetHeaders>,
        own_url: Option<&str>,
    ) -> Result<SiteSettings, ServeError> {
        let public_url = match (&options.public_url, own_url) {
            (Some(url), _) => format!("{}/", url.trim_end_matches('/')),
            (None, Some(own)) => format!("{own}{}/", options.base_path),
            (None, None) => return Err(ServeError::NoPublicUrl { address: options.listen.clone() }),
        };
        let preview = if options.preview {
            let client = MapClient::of(options.assets.clone())?;
            Some(Arc::new(PreviewPage { client, has_changes: options.changes }))
        } else {
            None
        };
        Ok(SiteSettings {
            tile_freshness: TileFreshness::new(options)?,
            tile_headers,
            settle: options.settle,
            empty_status: options.empty_status,
            undeclared: options.undeclared,
            server_timing: options.server_timing,
            public_url,
            preview,
            access_log: options.access_log,
            trusted_proxies: options.trusted_proxies.clone(),
            token: AdminToken::find(options.token_file.as_deref())?,
        })
    }

    /// The further headers of a tileset's tiles.
    pub(crate) fn headers_of(&self, tileset: &str) -> Option<&TileHeaders> {
        self.tile_headers.iter().find(|of| *of.tileset == *tileset).map(|of| &of.headers)
    }
}
