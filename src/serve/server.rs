//! The server: its start, its listeners and tasks, and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderValue;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin::Admin;
use super::error::ServeError;
use super::http::accept::{ADMIN_CONNECTIONS, AddressLimits, ConnectionLimits, raise_descriptors, serve as accept};
use super::http::address::{HttpListener, ListenAddress};
use super::http::answer::Freshness;
use super::http::connection::{ConnectionTimes, KnownHosts};
use super::http::unread::UnreadAnswers;
use super::known_changes::last_changed::TargetMemory;
use super::observe::access_log::AccessLog;
use super::observe::metrics::Metrics;
use super::observe::{ServerState, tell};
use super::options::ServeOptions;
use super::parameters::PostedFilters;
use super::public::changes::ChangeEvents;
use super::public::freshness::TileFreshness;
use super::public::{FilterPosts, Public, Site, SiteSettings, TilesetHeaders};
use super::queue::WorkQueue;
use super::redis::RedisCache;
use super::target::served::keep_listed;
use super::target::watch::POLL;
use super::tiles::cache::TileCache;
use super::tilesets::family::{FamilyParts, SiteFamily, WrittenVariants};
use super::tilesets::opening::{OpenedTarget, SiteParts, TilesetParts};
use super::tilesets::{Addressing, SiteTileset, SiteTilesets};
use super::writer::WriterHandle;
use crate::error::with_causes;
use crate::stop::{Signal, Stop};

/// The time for requests in flight after the server has stopped accepting connections.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// `Cache-Control` of documents (TileJSON): caches may keep them, but must validate the entity tag each time.
const DOCUMENT_CACHE_CONTROL: &str = "no-cache";

/// A server that listens on its addresses.
pub struct TileServer {
    site: Arc<Site>,
    public: HttpListener,
    admin: Option<HttpListener>,
    /// The address of the public listener as a URL without a path; `None` if clients cannot name it.
    own_url: Option<String>,
    options: ServeOptions,
}

impl TileServer {
    /// Opens the targets of some tilesets and starts to listen. Live tiles are rendered by the workers of `queue`. All
    /// tilesets and the variants of all families share the cache in memory. A variant is opened when it is requested.
    /// [`TileServer::run`] accepts the first connection. With [`Addressing::Root`] there must be one tileset.
    /// Fails if a target cannot be read, an address cannot be used, or the URL for clients is not known.
    pub async fn start(
        options: ServeOptions,
        tilesets: Vec<TilesetParts>,
        families: Vec<(FamilyParts, TilesetHeaders)>,
        addressing: Addressing,
        queue: WorkQueue,
    ) -> Result<TileServer, ServeError> {
        // Checks the values before anything is opened.
        TileFreshness::new(&options)?;
        let mut opened = Vec::new();
        for parts in tilesets {
            let name = parts.name.clone();
            let headers = TilesetHeaders { tileset: name.as_str().into(), headers: parts.headers.clone() };
            let target =
                OpenedTarget::open(parts, &options, TargetMemory::Usual).await.map_err(|error| match addressing {
                    Addressing::Root => error,
                    Addressing::ByName => named(&name, error),
                })?;
            opened.push((headers, target));
        }
        let public = bound(&options.listen).await?;
        let admin = match &options.admin {
            Some(address) => Some(bound(address).await?),
            None => None,
        };
        let own_url = public.url();
        let of_families = families.iter().map(|(_, headers)| headers.clone());
        let headers = opened.iter().map(|(headers, _)| headers.clone()).chain(of_families).collect();
        let settings = SiteSettings::new(&options, headers, own_url.as_deref())?;
        let metrics = Metrics::new();
        let (of_waits, of_redis) = (metrics.clone(), Arc::new(metrics.clone()));
        queue.observe_waits(Box::new(move |class, waited| of_waits.count_wait(class, waited)));
        let redis = options.redis.as_ref().map(|url| RedisCache::new(url, of_redis)).transpose();
        let shared = SiteParts {
            cache: TileCache::new(options.cache_bytes),
            unread: UnreadAnswers::new(options.unread_bytes),
            queue,
            redis: redis.map_err(ServeError::Redis)?,
            options: options.clone(),
            posted: PostedFilters::default(),
        };
        let mut all_families = Vec::new();
        for (parts, TilesetHeaders { tileset: name, .. }) in families {
            let family = SiteFamily::open(parts, metrics.of_tileset(&name), shared.clone()).await;
            all_families.push(Arc::new(family.map_err(|error| named(&name, error))?));
        }
        let access_log = AccessLog::start().map_err(|error| ServeError::Died(error.to_string()))?;
        let all = opened.into_iter().map(|(headers, target)| {
            let name = &headers.tileset;
            let (path, metrics) = match addressing {
                Addressing::Root => (String::new(), metrics.clone()),
                Addressing::ByName => (SiteTileset::path_of(name), metrics.of_tileset(name)),
            };
            Arc::new(target.served(path, None, metrics, &shared))
        });
        let tilesets = SiteTilesets::new(addressing, all.collect(), all_families);
        tilesets.can_have(&options)?;
        let site = Site {
            tilesets,
            unread: shared.unread,
            shared: shared.redis,
            cache: shared.cache,
            queue: shared.queue,
            posts: FilterPosts::default(),
            settings: RwLock::new(Arc::new(settings)),
            document_freshness: Freshness::of(HeaderValue::from_static(DOCUMENT_CACHE_CONTROL)),
            base_path: options.base_path.clone(),
            is_private: options.is_private,
            hosts: if options.is_private { known_hosts(&public, &options) } else { KnownHosts::ALL },
            metrics,
            access_log,
        };
        Ok(TileServer { site: Arc::new(site), public, admin, own_url, options })
    }

    /// The URL under which clients find the public listener; ends with a slash.
    pub fn public_url(&self) -> String {
        self.site.settings().public_url.clone()
    }

    /// The URL of the admin listener; `None` if there is none, or a URL cannot name it.
    pub fn admin_url(&self) -> Option<String> {
        Some(format!("{}/", self.admin.as_ref()?.url()?))
    }

    /// Serves until a stop is requested and the requests in flight are answered. After the request to stop, `/readyz`
    /// answers 503 at once, connections are accepted for another `drain`, and then the last answers are sent. A second
    /// request to stop cuts off both phases. SIGHUP makes the server read its settings again. Returns the signal that
    /// stopped it.
    pub async fn run(self, stop: &Stop, rereader: Option<Rereader>) -> Signal {
        let site = self.site;
        for tileset in site.tilesets.all.iter().filter(|tileset| tileset.live.is_some()) {
            // Without a target there is nothing whose changes the log could tell.
            if !tileset.tiles.last().is_live_only() {
                tileset.tiles.known().expect_log();
            }
        }
        let (close, closing) = watch::channel(false);
        let draining = Arc::new(AtomicBool::new(false));
        let (address_limits, by_address) = watch::channel(self.options.address_limits());
        let all = raise_descriptors(self.options.section.max_connections);
        let (times, unread) = (ConnectionTimes::default(), site.unread.clone());
        let limits = ConnectionLimits { all, by_address, times, unread };
        let public = Public(Arc::clone(&site));
        let public = tokio::spawn(accept(self.public, public, limits.clone(), closing.clone(), LAST_ANSWERS));
        let of_admin = ConnectionLimits { all: ADMIN_CONNECTIONS, ..limits };
        let admin = self.admin.map(|listener| {
            let hosts = known_hosts(&listener, &self.options);
            let admin = Admin::new(Arc::clone(&site), Arc::clone(&draining), hosts);
            tokio::spawn(accept(listener, admin, of_admin, closing, LAST_ANSWERS))
        });
        let rereading = Rereading {
            site: Arc::clone(&site),
            address_limits,
            own_url: self.own_url.clone(),
            base_path: self.options.base_path.clone(),
        };
        let rereading = rereader.map(|rereader| tokio::spawn(reread_at_hangup(rereader, rereading)));
        let lists_tiles = self.options.lists_tiles;
        let tasks: Vec<_> = site.tilesets.all.iter().flat_map(|tileset| tasks(&site, tileset, lists_tiles)).collect();
        let families = site.tilesets.families.iter().map(|family| tokio::spawn(Arc::clone(family).follow()));
        let tasks: Vec<_> = tasks.into_iter().chain(families).collect();
        let writers = site.tilesets.all.iter().filter_map(|tileset| tileset.writer.as_ref());
        let writers = writers.map(|writer| Arc::clone(&writer.writer).run(writer.handle.clone(), stop.clone()));
        let of_families = site.tilesets.families.iter().filter_map(|family| {
            let written = WrittenVariants(Arc::clone(family));
            let handle = WriterHandle { written, queue: site.queue.clone(), status: family.status.clone() };
            Some(Arc::clone(family.writer.as_ref()?).run(handle, stop.clone()))
        });
        let writers: Vec<_> = writers.chain(of_families).map(tokio::spawn).collect();
        // The program ends soon after a stop, unless work in flight has asked for more time.
        let _grace = stop.grant(*self.options.section.drain + LAST_ANSWERS);
        tell(ServerState::Ready);
        let signal = stop.wait().await;
        draining.store(true, Ordering::Relaxed);
        tell(ServerState::Stopping);
        let parting = async {
            tokio::time::sleep(*self.options.section.drain).await;
            // Subscriptions would otherwise never end.
            site.tilesets.all.iter().filter_map(|tileset| tileset.changes.as_ref()).for_each(ChangeEvents::end);
            join_all(site.tilesets.families.iter().map(|family| family.close())).await;
            close.send_replace(true);
            for task in [Some(public), admin].into_iter().flatten().chain(writers) {
                if let Err(error) = task.await {
                    tracing::warn!("a listener or the writer ended early ({error})");
                }
            }
        };
        tokio::select! {
            () = parting => {}
            () = stop.wait_again() => tracing::warn!("asked to end again: requests in flight are cut off"),
        }
        join_all(site.tilesets.all.iter().map(|tileset| tileset.tiles.end())).await;
        site.access_log.end();
        for task in tasks.into_iter().chain(rereading) {
            task.abort();
        }
        signal
    }
}

/// The names by which clients may ask a listener: all, unless only programs of this machine reach it.
fn known_hosts(listener: &HttpListener, options: &ServeOptions) -> KnownHosts {
    if listener.is_loopback() {
        return KnownHosts::of(options.public_url.as_deref(), &options.section.hosts);
    }
    KnownHosts::ALL
}

/// The error of one of several tilesets.
fn named(name: &str, error: ServeError) -> ServeError {
    ServeError::Tileset { name: name.to_owned(), kind: error.kind(), source: Box::new(error) }
}

/// Starts the tasks of a tileset that run as long as the server.
fn tasks(site: &Site, tileset: &Arc<SiteTileset>, lists_tiles: bool) -> Vec<JoinHandle<()>> {
    let tiles = &tileset.tiles;
    let polling = tileset.target.needs_polling().then(|| tokio::spawn(poll(Arc::clone(tileset))));
    let listing = lists_tiles.then(|| tokio::spawn(keep_listed(Arc::clone(&tileset.target))));
    let telling = tileset.changes.clone().map(|events| tokio::spawn(events.run(tiles.clone())));
    let listening = site.shared.clone().map(|shared| tokio::spawn(shared.follow(tiles.clone())));
    let following = tileset.live.clone().map(|live| tokio::spawn(live.follow(tiles.known().clone())));
    [polling, listing, telling, listening, following].into_iter().flatten().collect()
}

/// Polls the description of a target in a bucket.
async fn poll(tileset: Arc<SiteTileset>) {
    loop {
        tokio::time::sleep(POLL).await;
        tileset.tiles.poll().await;
    }
}

async fn bound(address: &ListenAddress) -> Result<HttpListener, ServeError> {
    HttpListener::bind(address).await.map_err(|source| ServeError::Listen { address: address.clone(), source })
}

// Settings that are read again while the server runs.

/// The settings that were read again.
pub struct RereadSettings {
    pub options: ServeOptions,
    /// The further headers of each tileset's tiles.
    pub headers: Vec<TilesetHeaders>,
}

/// Reads the settings again; the error is a message for the log.
pub type SettingsReader = Arc<dyn Fn() -> Result<RereadSettings, String> + Send + Sync>;

/// Settings that are read again at each SIGHUP. Once this value exists, SIGHUP no longer ends the program, and a SIGHUP
/// that comes before the server runs is not lost.
pub struct Rereader {
    read: SettingsReader,
    hangups: tokio::signal::unix::Signal,
}

impl Rereader {
    /// Listens to SIGHUP, on platforms that have it. `None`, with a warning in the log, if the system does not let the
    /// program listen.
    pub fn listening(read: SettingsReader) -> Option<Rereader> {
        let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
            .inspect_err(|error| tracing::warn!("SIGHUP cannot be listened to ({error})"))
            .ok()?;
        Some(Rereader { read, hangups })
    }

    /// The next request to read the settings again.
    async fn next(&mut self) -> Option<()> {
        self.hangups.recv().await
    }
}

/// The places in which settings that were read again are stored.
#[derive(Clone)]
pub(crate) struct Rereading {
    pub(crate) site: Arc<Site>,
    /// The limits that the listeners apply to connections from now on.
    pub(crate) address_limits: watch::Sender<AddressLimits>,
    /// The address of the public listener as a URL without a path; `None` if clients cannot name it.
    pub(crate) own_url: Option<String>,
    /// The path of all URLs, which does not change while the server runs.
    pub(crate) base_path: String,
}

/// Reads the settings again at each SIGHUP: [`SiteSettings`] and [`AddressLimits`]. If they have an error, it is logged
/// and the old settings stay. Listeners, paths, memory, workers and the number of all connections never change while
/// the server runs.
pub(crate) async fn reread_at_hangup(mut rereader: Rereader, rereading: Rereading) {
    while rereader.next().await.is_some() {
        tell(ServerState::Reloading);
        let (rereading, read) = (rereading.clone(), Arc::clone(&rereader.read));
        match tokio::task::spawn_blocking(move || rereading.replace(&read)).await {
            Ok(Ok(())) => tracing::warn!("the settings were read again"),
            Ok(Err(why)) => tracing::warn!("the settings stay as they were: {why}"),
            Err(error) => tracing::warn!("a thread died ({error})"),
        }
        tell(ServerState::Ready);
    }
}

impl Rereading {
    fn replace(&self, read: &SettingsReader) -> Result<(), String> {
        let RereadSettings { options, headers } = read()?;
        let options = ServeOptions { base_path: self.base_path.clone(), ..options };
        let is_versioned = |tileset: &Arc<SiteTileset>| tileset.tiles.last().template.is_versioned();
        if TileFreshness::is_immutable(&options) && !self.site.tilesets.all.iter().all(is_versioned) {
            return Err(ServeError::Immutable.to_string());
        }
        self.site.tilesets.can_have(&options).map_err(|error| error.to_string())?;
        let settings =
            SiteSettings::new(&options, headers, self.own_url.as_deref()).map_err(|error| with_causes(&error))?;
        self.site.replace_settings(settings);
        self.address_limits.send_replace(options.address_limits());
        Ok(())
    }
}
