//! The server: its start, its listeners and tasks, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;

use crate::serve::admin::Admin;
use crate::serve::error::ServeError;
use crate::serve::http::accept::{ConnectionLimits, serve as accept};
use crate::serve::http::address::{HttpListener, ListenAddress};
use crate::serve::http::answer::Freshness;
use crate::serve::live::{LiveFlights, LiveSource};
use crate::serve::observe::access_log::AccessLog;
use crate::serve::observe::metrics::Metrics;
use crate::serve::observe::notify::{ServerState, tell};
use crate::serve::options::ServeOptions;
use crate::serve::preview::{MapClient, PreviewPage};
use crate::serve::public::freshness::TileFreshness;
use crate::serve::public::{Public, Site, SiteSettings};
use crate::serve::settings::{SettingsReader, reread_at_hangup};
use crate::serve::target::listing::keep_listed;
use crate::serve::target::served::{POLL, ServedTarget, TargetOpener, TargetWatch};
use crate::serve::tiles::cache::TileCache;
use crate::serve::tiles::served::ServedTiles;
use crate::sink::ReadError;
use crate::stop::{Signal, Stop};

/// The time for requests in flight after the server has stopped accepting connections.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// `Cache-Control` of documents (TileJSON): caches may keep them, but must validate the entity tag each time.
const DOCUMENT_CACHE_CONTROL: &str = "no-cache";

/// A server that listens on its addresses.
pub struct TileServer {
    site: Arc<Site>,
    target: Arc<ServedTarget>,
    public: HttpListener,
    admin: Option<HttpListener>,
    options: ServeOptions,
}

impl TileServer {
    /// Opens the target and starts to listen. With `live`, tiles outside of the target's scope are rendered on request. [`TileServer::run`]
    /// accepts the first connection.
    ///
    /// # Errors
    /// If the target cannot be read, an address cannot be used, or the URL for clients is not known.
    pub async fn start(
        options: ServeOptions,
        open: TargetOpener,
        watched: TargetWatch,
        live: Option<Arc<dyn LiveSource>>,
    ) -> Result<TileServer, ServeError> {
        let settings = SiteSettings::new(&options)?;
        let lists_tiles = options.lists_tiles;
        let opening = tokio::task::spawn_blocking(move || {
            let target = ServedTarget::open(open, watched)?;
            if lists_tiles {
                target.can_list()?;
            }
            Ok::<_, ReadError>(target)
        });
        let opened = opening.await;
        let target = Arc::new(opened.map_err(|error| ServeError::Died(error.to_string()))??);
        if TileFreshness::is_immutable(&options) && !target.last().template.is_versioned() {
            return Err(ServeError::Immutable);
        }
        if let Some(live) = &live {
            target.last().is_of(live.fingerprint()).map_err(ServeError::Live)?;
        }
        let public = bound(&options.listen).await?;
        let admin = match &options.admin {
            Some(address) => Some(bound(address).await?),
            None => None,
        };
        let public_url = public_url(&options, &public)?;
        let cache = TileCache::new(options.cache_bytes);
        let metrics = Arc::new(Metrics::new());
        let flights = |(source, options)| LiveFlights::new(source, cache.clone(), Arc::clone(&metrics), options);
        let live = live.zip(options.live).map(flights);
        let access_log = options.access_log.map(AccessLog::start).transpose();
        let site = Site {
            tiles: ServedTiles::new(Arc::clone(&target), cache, live),
            public_url,
            settings: RwLock::new(Arc::new(settings)),
            document_freshness: Freshness::of(HeaderValue::from_static(DOCUMENT_CACHE_CONTROL)),
            base_path: options.base_path.clone(),
            preview: options.preview.then(|| PreviewPage { client: MapClient::of(options.assets.clone()) }),
            metrics,
            access_log: access_log.map_err(|error| ServeError::Died(error.to_string()))?,
            trusted_proxies: options.trusted_proxies.clone(),
        };
        Ok(TileServer { site: Arc::new(site), target, public, admin, options })
    }

    /// The URL under which clients find the public listener; ends with a slash.
    #[must_use]
    pub fn public_url(&self) -> &str {
        &self.site.public_url
    }

    /// The URL of the admin listener; `None` if there is none, or a URL cannot name it.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        Some(format!("{}/", self.admin.as_ref()?.url()?))
    }

    /// Serves until a stop is requested and the requests in flight are answered. After the request `/readyz` answers 503 at once,
    /// connections are accepted for another `drain`, and then the last answers are sent. A second request to stop cuts both short. SIGHUP
    /// makes the server read its settings again. Returns the signal that stopped it.
    pub async fn run(self, stop: &Stop, reread: Option<SettingsReader>) -> Signal {
        let (close, closing) = watch::channel(false);
        let draining = Arc::new(AtomicBool::new(false));
        let limits = ConnectionLimits {
            all: self.options.max_connections,
            of_address: self.options.max_connections_of_address,
            trusted_proxies: self.options.trusted_proxies.clone(),
        };
        let public = Public(Arc::clone(&self.site));
        let public = tokio::spawn(accept(self.public, public, limits.clone(), closing.clone(), LAST_ANSWERS));
        let admin = Admin { site: Arc::clone(&self.site), draining: Arc::clone(&draining) };
        let admin = self.admin.map(|listener| tokio::spawn(accept(listener, admin, limits, closing, LAST_ANSWERS)));
        let polling = self.target.needs_polling().then(|| tokio::spawn(poll(Arc::clone(&self.site))));
        let rereading = reread.map(|reread| tokio::spawn(reread_at_hangup(Arc::clone(&self.site), reread)));
        let listing = self.options.lists_tiles.then(|| tokio::spawn(keep_listed(Arc::clone(&self.target))));
        // The program ends soon after a stop, unless work in flight has asked for more time.
        let _grace = stop.grant(self.options.drain + LAST_ANSWERS);
        tell(ServerState::Ready);
        let signal = stop.wait().await;
        draining.store(true, Ordering::Relaxed);
        tell(ServerState::Stopping);
        let parting = async {
            tokio::time::sleep(self.options.drain).await;
            close.send_replace(true);
            for task in [Some(public), admin].into_iter().flatten() {
                if let Err(error) = task.await {
                    tracing::warn!("a listener ended early ({error})");
                }
            }
        };
        tokio::select! {
            () = parting => {}
            () = stop.wait_again() => tracing::warn!("asked to end again: requests in flight are cut off"),
        }
        self.site.tiles.end().await;
        if let Some(log) = &self.site.access_log {
            log.end();
        }
        for task in [polling, listing, rereading].into_iter().flatten() {
            task.abort();
        }
        signal
    }
}

/// The URL under which clients find the public listener; ends with a slash.
fn public_url(options: &ServeOptions, listener: &HttpListener) -> Result<String, ServeError> {
    if let Some(url) = &options.public_url {
        return Ok(format!("{}/", url.trim_end_matches('/')));
    }
    let own = listener.url().ok_or_else(|| ServeError::NoPublicUrl { address: options.listen.clone() })?;
    Ok(format!("{own}{}/", options.base_path))
}

/// Polls a target in a bucket for what it says about itself.
async fn poll(site: Arc<Site>) {
    loop {
        tokio::time::sleep(POLL).await;
        site.tiles.poll().await;
    }
}

async fn bound(address: &ListenAddress) -> Result<HttpListener, ServeError> {
    HttpListener::bind(address).await.map_err(|source| ServeError::Listen { address: address.clone(), source })
}
