//! The server: its start, its listeners and tasks, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;

use crate::serve::admin::Admin;
use crate::serve::change_log::KnownChanges;
use crate::serve::error::ServeError;
use crate::serve::http::accept::{ConnectionLimits, serve as accept};
use crate::serve::http::address::{HttpListener, ListenAddress};
use crate::serve::http::answer::Freshness;
use crate::serve::jobs::{JobDesk, JobRoutes};
use crate::serve::live::{FlightParts, LiveFlights, LiveSource};
use crate::serve::observe::access_log::AccessLog;
use crate::serve::observe::metrics::Metrics;
use crate::serve::observe::notify::{ServerState, tell};
use crate::serve::options::ServeOptions;
use crate::serve::public::changes::ChangeEvents;
use crate::serve::public::freshness::TileFreshness;
use crate::serve::public::{Public, Site, SiteSettings};
use crate::serve::queue::WorkQueue;
use crate::serve::settings::{Rereader, Rereading, reread_at_hangup};
use crate::serve::shared::SharedCache;
use crate::serve::target::listing::keep_listed;
use crate::serve::target::served::{ServedSource, ServedTarget};
use crate::serve::target::watch::POLL;
use crate::serve::tiles::cache::TileCache;
use crate::serve::tiles::served::ServedTiles;
use crate::serve::writer::{TargetWriter, WriterDesk};
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
    live: Option<Arc<dyn LiveSource>>,
    writer: Option<Arc<dyn TargetWriter>>,
    public: HttpListener,
    admin: Option<HttpListener>,
    /// The address of the public listener as a URL without a path; `None` if clients cannot name it.
    own_url: Option<String>,
    jobs: JobDesk,
    options: ServeOptions,
}

impl TileServer {
    /// Opens the target and starts to listen. With `live`, tiles outside of the target's scope are rendered on request, by the workers of
    /// `queue`; `writer` keeps the target up to date while the server runs. [`TileServer::run`] accepts the first connection.
    ///
    /// # Errors
    /// If the target cannot be read, an address cannot be used, or the URL for clients is not known.
    pub async fn start(
        options: ServeOptions,
        source: ServedSource,
        live: Option<Arc<dyn LiveSource>>,
        queue: WorkQueue,
        writer: Option<Arc<dyn TargetWriter>>,
    ) -> Result<TileServer, ServeError> {
        // Before anything is opened: a value may be wrong.
        TileFreshness::new(&options)?;
        let jobs = JobDesk::new(Arc::clone(&source.notes));
        let lists_tiles = options.lists_tiles;
        let known = KnownChanges::default();
        let of_target = known.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let target = ServedTarget::open(source, of_target)?;
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
        let own_url = public.url();
        let settings = SiteSettings::new(&options, own_url.as_deref())?;
        let cache = TileCache::new(options.cache_bytes);
        let metrics = Arc::new(Metrics::new());
        let of_waits = Arc::clone(&metrics);
        queue.observe_waits(Box::new(move |class, waited| of_waits.waited(class, waited)));
        let shared = options.redis.as_ref().map(|url| SharedCache::new(url, Arc::clone(&metrics))).transpose();
        let shared = shared.map_err(ServeError::Redis)?;
        let live_source = live.clone();
        let live = match live.zip(options.live.clone()) {
            Some((source, options)) => {
                let (shared, metrics) = (shared.clone(), Arc::clone(&metrics));
                let (cache, queue) = (cache.clone(), queue.clone());
                Some(LiveFlights::new(FlightParts { source, cache, metrics, options, queue, shared, known }))
            }
            None => None,
        };
        let access_log = AccessLog::start().map_err(|error| ServeError::Died(error.to_string()))?;
        let tiles = ServedTiles::new(Arc::clone(&target), cache, live);
        let site = Site {
            writer: writer.is_some().then(|| WriterDesk {
                tiles: tiles.clone(),
                queue: queue.clone(),
                jobs: jobs.clone(),
                shared: shared.clone(),
                status: Arc::default(),
            }),
            shared,
            changes: options.changes.then(ChangeEvents::default),
            tiles,
            queue,
            settings: RwLock::new(Arc::new(settings)),
            document_freshness: Freshness::of(HeaderValue::from_static(DOCUMENT_CACHE_CONTROL)),
            base_path: options.base_path.clone(),
            metrics,
            access_log,
        };
        Ok(TileServer {
            site: Arc::new(site),
            target,
            live: live_source,
            writer,
            public,
            admin,
            own_url,
            jobs,
            options,
        })
    }

    /// The URL under which clients find the public listener; ends with a slash.
    #[must_use]
    pub fn public_url(&self) -> String {
        self.site.settings().public_url.clone()
    }

    /// The URL of the admin listener; `None` if there is none, or a URL cannot name it.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        Some(format!("{}/", self.admin.as_ref()?.url()?))
    }

    /// Serves until a stop is requested and the requests in flight are answered. After the request `/readyz` answers 503 at once,
    /// connections are accepted for another `drain`, and then the last answers are sent. A second request to stop cuts both short. SIGHUP
    /// makes the server read its settings again. Returns the signal that stopped it.
    pub async fn run(self, stop: &Stop, rereader: Option<Rereader>) -> Signal {
        let (close, closing) = watch::channel(false);
        let draining = Arc::new(AtomicBool::new(false));
        let (address_limits, by_address) = watch::channel(self.options.address_limits());
        let limits = ConnectionLimits { all: self.options.max_connections, by_address };
        let public = Public(Arc::clone(&self.site));
        let public = tokio::spawn(accept(self.public, public, limits.clone(), closing.clone(), LAST_ANSWERS));
        let jobs = JobRoutes::new(self.jobs, self.site.tiles.clone(), Arc::clone(&draining));
        let admin = Admin { site: Arc::clone(&self.site), draining: Arc::clone(&draining), jobs };
        let admin = self.admin.map(|listener| tokio::spawn(accept(listener, admin, limits, closing, LAST_ANSWERS)));
        let polling = self.target.needs_polling().then(|| tokio::spawn(poll(Arc::clone(&self.site))));
        let rereading = Rereading {
            site: Arc::clone(&self.site),
            address_limits,
            own_url: self.own_url.clone(),
            base_path: self.options.base_path.clone(),
        };
        let rereading = rereader.map(|rereader| tokio::spawn(reread_at_hangup(rereader, rereading)));
        let listing = self.options.lists_tiles.then(|| tokio::spawn(keep_listed(Arc::clone(&self.target))));
        let telling = self.site.changes.clone();
        let telling = telling.map(|events| tokio::spawn(events.run(self.site.tiles.clone())));
        let listening = self.site.shared.clone();
        let listening = listening.map(|shared| tokio::spawn(shared.follow(self.site.tiles.clone())));
        let following = self.live.map(|live| tokio::spawn(live.follow(self.target.known().clone())));
        let writing = self.writer.zip(self.site.writer.clone());
        let writing = writing.map(|(writer, desk)| tokio::spawn(writer.run(desk, stop.clone())));
        // The program ends soon after a stop, unless work in flight has asked for more time.
        let _grace = stop.grant(self.options.drain + LAST_ANSWERS);
        tell(ServerState::Ready);
        let signal = stop.wait().await;
        draining.store(true, Ordering::Relaxed);
        tell(ServerState::Stopping);
        let parting = async {
            tokio::time::sleep(self.options.drain).await;
            // Otherwise they would never be done.
            self.site.changes.iter().for_each(ChangeEvents::end);
            close.send_replace(true);
            for task in [Some(public), admin, writing].into_iter().flatten() {
                if let Err(error) = task.await {
                    tracing::warn!("a listener or the writer ended early ({error})");
                }
            }
        };
        tokio::select! {
            () = parting => {}
            () = stop.wait_again() => tracing::warn!("asked to end again: requests in flight are cut off"),
        }
        self.site.tiles.end().await;
        self.site.access_log.end();
        for task in [polling, listing, rereading, telling, listening, following].into_iter().flatten() {
            task.abort();
        }
        signal
    }
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
