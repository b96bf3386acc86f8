//! The target over HTTP: tiles, TileJSON, a map to look at them, and what a supervisor wants to know.
//!
//! ```text
//! listener ─► accept ─► route ─► memory ─ has it ──────────────────────────► 200 / 304
//! (http)     limits              (tiles)  └ asks the target ─ has it ──────► memory, 200
//!                                                           └ has it not: in its scope empty, otherwise 404
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `http` | addresses, the accept loop and its limits, paths, content negotiation, answers; nothing of tilesets but names of tiles |
//! | `tileset` | the target: opened, watched for replacement, read by several readers at once |
//! | `tiles` | tiles as they are sent, the most wanted of them in memory |
//! | `public`, `admin` | what the two listeners answer |
//! | `tilejson`, `preview`, `metrics` | documents, the page with the map, Prometheus |
//!
//! A target is never written here, and no lock of it is kept from one read to the next: any other process may seed, reseed or switch it
//! while it is served. A request that comes after such a change is answered from the new state, because the system's facts about the
//! target's files are asked at each request (S3: once a second).

mod admin;
mod http;
mod metrics;
mod options;
mod preview;
mod public;
mod tilejson;
mod tiles;
mod tileset;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use tokio::sync::watch;

pub use self::http::address::{ListenAddress, ListenAddressError};
pub use options::{EmptyStatus, ServeOptions};
pub use tileset::{POLL, TargetOpener, TargetWatch, files_of_archive, files_of_directory};

use self::admin::Admin;
use self::http::accept::{ConnectionLimits, serve as accept};
use self::http::address::HttpListener;
use self::http::answer::Freshness;
use self::metrics::Metrics;
use self::preview::PreviewPage;
use self::public::{Public, Site};
use self::tiles::ServedTiles;
use self::tileset::ServedTarget;
use crate::error::ErrorKind;
use crate::sink::ReadError;
use crate::stop::{Signal, Stop};

/// How long requests in flight may take after the server accepts no more connections.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// How long documents (TileJSON) may be kept: their entity tag is asked for each time.
const DOCUMENT_CACHE_CONTROL: &str = "no-cache";

/// Why a server could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The target.
    #[error(transparent)]
    Target(#[from] ReadError),
    /// An address.
    #[error("cannot listen on {address}: choose another address, or end the program that uses it")]
    Listen {
        /// The address.
        address: ListenAddress,
        /// The cause.
        source: std::io::Error,
    },
    /// Clients cannot be told where the tiles are.
    #[error(
        "{address} is no address that clients can name, and the TileJSON has to say where the tiles are: give --public-url https://…"
    )]
    NoPublicUrl {
        /// The address.
        address: ListenAddress,
    },
    /// A value that is no header.
    #[error("{value:?} cannot be sent as {header}: it has characters that no header may have")]
    Header {
        /// The header.
        header: &'static str,
        /// The value.
        value: String,
    },
    /// A thread died.
    #[error("a thread died ({0}): please report this")]
    Died(String),
}

impl ServeError {
    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ServeError::Target(error) => error.kind(),
            ServeError::Listen { .. } | ServeError::NoPublicUrl { .. } | ServeError::Header { .. } => ErrorKind::Usage,
            ServeError::Died(_) => ErrorKind::Failed,
        }
    }
}

/// A server that listens.
pub struct TileServer {
    site: Arc<Site>,
    target: Arc<ServedTarget>,
    public: HttpListener,
    admin: Option<HttpListener>,
    options: ServeOptions,
}

impl TileServer {
    /// Opens the target and begins to listen. The first connection is accepted by [`TileServer::run`].
    ///
    /// # Errors
    /// If the target cannot be read, an address cannot be used, or clients could not be told where the tiles are.
    pub async fn start(
        options: ServeOptions,
        open: TargetOpener,
        watched: TargetWatch,
    ) -> Result<TileServer, ServeError> {
        let tile_freshness = Freshness {
            cache_control: header("Cache-Control", &options.cache_control)?,
            cdn_cache_control: options
                .cdn_cache_control
                .as_deref()
                .map(|value| header("CDN-Cache-Control", value))
                .transpose()?,
        };
        let opened = tokio::task::spawn_blocking(move || ServedTarget::open(open, watched)).await;
        let target = Arc::new(opened.map_err(|error| ServeError::Died(error.to_string()))??);
        let public = bound(&options.listen).await?;
        let admin = match &options.admin {
            Some(address) => Some(bound(address).await?),
            None => None,
        };
        let public_url = match &options.public_url {
            Some(url) => format!("{}/", url.trim_end_matches('/')),
            None => public.url().ok_or_else(|| ServeError::NoPublicUrl { address: options.listen.clone() })?,
        };
        let site = Site {
            tiles: ServedTiles::new(Arc::clone(&target), options.cache_bytes),
            public_url,
            tile_freshness,
            document_freshness: Freshness {
                cache_control: HeaderValue::from_static(DOCUMENT_CACHE_CONTROL),
                cdn_cache_control: None,
            },
            empty_status: options.empty_status,
            preview: options.preview.then(|| PreviewPage { assets: options.assets.clone() }),
            metrics: Metrics::new(),
        };
        Ok(TileServer { site: Arc::new(site), target, public, admin, options })
    }

    /// Where clients find the public listener; ends with a slash.
    #[must_use]
    pub fn public_url(&self) -> &str {
        &self.site.public_url
    }

    /// Where the admin listener is, if there is one that a URL can name.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        self.admin.as_ref().and_then(HttpListener::url)
    }

    /// Serves until a stop is asked for and requests in flight are answered: `/readyz` says 503 at once, connections are accepted for
    /// `drain` more, then the last answers are given. Returns the signal.
    pub async fn run(self, stop: &Stop) -> Signal {
        let (close, closing) = watch::channel(false);
        let draining = Arc::new(AtomicBool::new(false));
        let limits = ConnectionLimits { by_address: !self.options.behind_proxy };
        let public =
            tokio::spawn(accept(self.public, Public(Arc::clone(&self.site)), limits, closing.clone(), LAST_ANSWERS));
        let admin = Admin { site: Arc::clone(&self.site), draining: Arc::clone(&draining) };
        let admin = self.admin.map(|listener| tokio::spawn(accept(listener, admin, limits, closing, LAST_ANSWERS)));
        let polling = self.target.needs_polling().then(|| tokio::spawn(poll(Arc::clone(&self.target))));
        // The program ends soon after a stop, unless work in hand has asked for more time.
        let _grace = stop.grant(self.options.drain + LAST_ANSWERS);
        let signal = stop.wait().await;
        draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.options.drain).await;
        close.send_replace(true);
        for task in [Some(public), admin].into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::warn!("a listener ended early ({error})");
            }
        }
        if let Some(polling) = polling {
            polling.abort();
        }
        signal
    }
}

/// Asks a target in a bucket again and again what it says about itself.
async fn poll(target: Arc<ServedTarget>) {
    loop {
        tokio::time::sleep(POLL).await;
        let target = Arc::clone(&target);
        match tokio::task::spawn_blocking(move || target.poll()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the target cannot be read ({error}): what is in memory is answered"),
            Err(error) => tracing::warn!("a thread died ({error})"),
        }
    }
}

async fn bound(address: &ListenAddress) -> Result<HttpListener, ServeError> {
    HttpListener::bind(address).await.map_err(|source| ServeError::Listen { address: address.clone(), source })
}

fn header(header: &'static str, value: &str) -> Result<HeaderValue, ServeError> {
    HeaderValue::from_str(value).map_err(|_invalid| ServeError::Header { header, value: value.to_owned() })
}
