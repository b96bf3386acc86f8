//! Opens a tileset of a server.

use std::sync::Arc;

use super::{SiteParameters, SiteTileset, SiteWriter, TilesetHeadersOf};
use crate::serve::error::ServeError;
use crate::serve::http::unread::UnreadAnswers;
use crate::serve::jobs::JobStore;
use crate::serve::known_changes::KnownChanges;
use crate::serve::known_changes::last_changed::TargetMemory;
use crate::serve::live::{FlightContext, LiveFlights, LiveSource};
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::{ServeOptions, TileHeaders};
use crate::serve::parameters::{KeyGate, PostedFilters, TilesetParameters};
use crate::serve::public::changes::ChangeEvents;
use crate::serve::public::freshness::TileFreshness;
use crate::serve::queue::WorkQueue;
use crate::serve::redis::{RedisCache, RedisTiles};
use crate::serve::target::served::{ServedSource, ServedTarget};
use crate::serve::tiles::cache::TileCache;
use crate::serve::tiles::served::ServedTiles;
use crate::serve::writer::{Writer, WriterHandle, WriterStatus, WrittenTarget};
use crate::target::ReadError;

/// The parts of a tileset that a server will serve.
pub struct TilesetParts {
    pub name: String,
    pub source: ServedSource,
    pub headers: TileHeaders,
    /// What requests for live tiles may ask.
    pub parameters: TilesetParameters,
    /// What renders tiles outside of the target's scope; `None` to answer 404 there.
    pub live: Option<Arc<dyn LiveSource>>,
    /// What keeps the target up to date while the server runs; `None` to leave that to others.
    pub writer: Option<Arc<dyn Writer<WrittenTarget>>>,
}

/// What the tilesets of a server share.
#[derive(Clone)]
pub(crate) struct SiteParts {
    pub(crate) options: ServeOptions,
    pub(crate) cache: TileCache,
    pub(crate) unread: UnreadAnswers,
    pub(crate) queue: WorkQueue,
    pub(crate) redis: Option<RedisCache>,
    pub(crate) posted: PostedFilters,
}

impl SiteParts {
    /// A tileset's tiles in Redis; `None`, with a warning if there is a Redis, without a key to sign them.
    fn tiles(&self, source: &dyn LiveSource, name: &str) -> Option<RedisTiles> {
        let redis = self.redis.as_ref()?;
        let secret = self.options.redis_secret.clone().or_else(|| source.shared_secret());
        if secret.is_none() {
            tracing::warn!(
                "the tiles of {name} are not shared in Redis: there is no key to sign them, so any client that can write to Redis could change the map. Install the change log, and let this role read it, or give redis_secret_file in [serve]; then restart the server"
            );
        }
        Some(redis.tiles(secret?))
    }
}

pub(crate) struct OpenedTarget {
    parts: TilesetParts,
    target: Arc<ServedTarget>,
    known: KnownChanges,
}

impl OpenedTarget {
    /// Opens the target, and checks that the live tiles fit it.
    /// Fails if it cannot be read, or the live tiles do not fit.
    pub(crate) async fn open(
        parts: TilesetParts,
        options: &ServeOptions,
        memory: TargetMemory,
    ) -> Result<OpenedTarget, ServeError> {
        let lists_tiles = options.lists_tiles && memory == TargetMemory::Usual;
        let known = KnownChanges::new(memory);
        let (source, of_target) = (parts.source.clone(), known.clone());
        let opening = move || {
            let target = ServedTarget::open(source, of_target, memory)?;
            if lists_tiles {
                target.can_list()?;
            }
            Ok::<_, ReadError>(target)
        };
        let target = Arc::new(tokio::task::spawn_blocking(opening).await??);
        if TileFreshness::is_immutable(options) && !target.last().template.is_versioned() {
            return Err(ServeError::Immutable);
        }
        if let Some(live) = &parts.live {
            target.last().is_of(live.fingerprint()).map_err(ServeError::Live)?;
        }
        Ok(OpenedTarget { parts, target, known })
    }

    /// The tileset, at `path` below the server. A variant has the further headers of its `family`.
    pub(crate) fn served(
        self,
        path: String,
        family: Option<&Arc<str>>,
        metrics: Metrics,
        shared: &SiteParts,
    ) -> SiteTileset {
        let OpenedTarget { parts, target, known } = self;
        let (metrics, cache) = (Arc::new(metrics), shared.cache.for_tileset());
        let flights = parts.live.clone().zip(shared.options.live.clone()).map(|(source, options)| {
            let (metrics, queue) = (Arc::clone(&metrics), shared.queue.clone());
            let shared = shared.tiles(&*source, &parts.name);
            LiveFlights::new(FlightContext { source, cache: cache.clone(), metrics, options, queue, shared, known })
        });
        let tiles = ServedTiles::new(Arc::clone(&target), cache, shared.unread.clone(), flights);
        let jobs = JobStore::new(Arc::clone(&parts.source.notes));
        let writer = parts.writer.map(|writer| {
            let written = WrittenTarget { tiles: tiles.clone(), jobs: jobs.clone(), shared: shared.redis.clone() };
            let handle = WriterHandle { written, queue: shared.queue.clone(), status: WriterStatus::default() };
            SiteWriter { writer, handle }
        });
        let declared = parts.live.as_ref().map(|_| parts.parameters).unwrap_or_default();
        let parameters = SiteParameters {
            declared,
            gate: Arc::new(KeyGate::new(shared.options.section.parameter_keys)),
            posted: shared.posted.clone(),
        };
        let changes = shared.options.section.changes.then(ChangeEvents::default);
        let name: Arc<str> = parts.name.into();
        SiteTileset {
            headers: TilesetHeadersOf { tileset: Arc::clone(family.unwrap_or(&name)), names: parts.headers.names },
            name,
            path,
            tiles,
            target,
            live: parts.live,
            changes,
            writer,
            jobs,
            parameters,
            metrics,
        }
    }
}
