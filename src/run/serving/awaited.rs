//! Live tiles of a server that began while its database was away. The target is served meanwhile; every other tile is
//! answered with 503, as in a later outage.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::bounds::LiveBounds;
use super::live::DatabaseTiles;
use crate::backoff::Backoff;
use crate::cursor::Cursor;
use crate::error::{ErrorKind, Obstacle, with_causes};
use crate::manifest::Manifest;
use crate::postgis::Error;
use crate::run::{CommandError, TilesetRun, blocking_read};
use crate::serve::{
    CountRequest, GivenParameters, KnownChanges, LaterChanges, LayerCounts, LiveError, LiveLayer, LiveRequest,
    LiveRowsReport, LiveSource, LiveTile, LogFailure, ServeOptions, StateCheck,
};
use crate::stop::Stop;

/// The pauses between two attempts to reach the database.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(8));

/// Live tiles once the database answers.
pub(crate) struct AwaitedTiles {
    run: TilesetRun,
    bounds: Arc<LiveBounds>,
    opened: OnceLock<Arc<DatabaseTiles>>,
    /// The fingerprint of the target when the server began. Whether it is that of the configuration is known once the
    /// database has answered.
    fingerprint: String,
    layers: Vec<LiveLayer>,
    /// Why there are no tiles yet.
    why: Mutex<LiveError>,
}

/// True if a server can begin without its database after this error: the database may be back later, and nothing that
/// is known only at the start depends on it.
pub(crate) fn may_be_awaited(error: &CommandError, options: &ServeOptions) -> bool {
    // The key with which tiles in Redis are signed is in the database, unless it is given.
    let needs_key = options.redis.is_some() && options.redis_secret.is_none();
    let is_named = !matches!(error, CommandError::Database(Error::NotNamed { .. }));
    let is_away = matches!(error.kind(), ErrorKind::Transient(Obstacle::Lost | Obstacle::Unreachable));
    is_away && is_named && !needs_key
}

impl AwaitedTiles {
    /// The tiles of a database that is away, for the reason `why`. `None` if the target does not say what it was made
    /// with, so that nobody knows later whether live tiles fit it.
    pub(crate) async fn new(
        run: &TilesetRun,
        bounds: &Arc<LiveBounds>,
        why: &str,
    ) -> Result<Option<AwaitedTiles>, CommandError> {
        let target = run.target.clone();
        let described = blocking_read(&run.stop, move || Ok(target.reader()?.describe()?)).await?;
        let manifest = described.manifest.and_then(|manifest| serde_json::from_str::<Manifest>(&manifest).ok());
        let Some(manifest) = manifest else { return Ok(None) };
        tracing::warn!("{}: it is served without live tiles until the database answers: {why}", run.target);
        Ok(Some(AwaitedTiles {
            layers: layers_of(run),
            run: run.clone(),
            bounds: Arc::clone(bounds),
            opened: OnceLock::new(),
            fingerprint: manifest.fingerprint,
            why: Mutex::new(LiveError::Away(why.to_owned())),
        }))
    }

    /// The tiles, or why there are none yet.
    fn tiles(&self) -> Result<&Arc<DatabaseTiles>, LiveError> {
        self.opened.get().ok_or_else(|| self.why.lock().clone())
    }

    /// Tries to reach the database until it answers. Reports to `known` why not.
    async fn open(&self, known: &KnownChanges) -> Arc<DatabaseTiles> {
        let (mut pauses, mut said) = (PAUSES, String::new());
        loop {
            let why = format!("no live tiles are rendered yet: {}", self.why.lock());
            known.record_failed_look(why, LogFailure::Passing);
            tokio::time::sleep(pauses.next_pause()).await;
            match DatabaseTiles::open(&self.run, true, &self.bounds).await {
                Ok(tiles) => {
                    tracing::warn!("{}: the database answers, and live tiles are rendered", self.run.target);
                    return Arc::clone(self.opened.get_or_init(|| Arc::new(tiles)));
                }
                Err(error) => {
                    let text = with_causes(&error);
                    if matches!(error.kind(), ErrorKind::Transient(_)) {
                        *self.why.lock() = LiveError::Away(text);
                        continue;
                    }
                    if said != text {
                        tracing::warn!("{}: live tiles cannot be rendered: {text}", self.run.target);
                        said.clone_from(&text);
                    }
                    *self.why.lock() = LiveError::Failed(text);
                }
            }
        }
    }
}

/// The layers as the configuration has them.
fn layers_of(run: &TilesetRun) -> Vec<LiveLayer> {
    let layers = run.settings.tileset.layers.iter();
    layers.map(|layer| LiveLayer { name: layer.name.clone(), id: layer.id, zooms: layer.zooms.clone() }).collect()
}

impl LiveSource for AwaitedTiles {
    fn fingerprint(&self) -> &str {
        self.opened.get().map_or(&self.fingerprint, |tiles| tiles.fingerprint())
    }

    fn layers(&self) -> &[LiveLayer] {
        &self.layers
    }

    fn render<'a>(&'a self, request: LiveRequest, stop: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>> {
        match self.tiles() {
            Ok(tiles) => tiles.render(request, stop),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn prepare<'a>(&'a self, request: &'a LiveRequest, stop: &'a Stop) -> BoxFuture<'a, ()> {
        match self.tiles() {
            Ok(tiles) => tiles.prepare(request, stop),
            Err(_) => Box::pin(std::future::ready(())),
        }
    }

    fn count<'a>(
        &'a self,
        request: CountRequest,
        stop: &'a Stop,
    ) -> BoxFuture<'a, Result<Vec<LayerCounts>, LiveError>> {
        match self.tiles() {
            Ok(tiles) => tiles.count(request, stop),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn filters_digest(&self) -> String {
        self.run.settings.tileset.filters.digest()
    }

    fn finds_in_memory(&self, given: &GivenParameters) -> bool {
        self.opened.get().is_some_and(|tiles| tiles.finds_in_memory(given))
    }

    fn later_changes(&self, given: &GivenParameters, shown: &Cursor) -> LaterChanges {
        self.opened.get().map_or(LaterChanges::Unknown, |tiles| tiles.later_changes(given, shown))
    }

    fn ask_about<'a>(&'a self, state: &'a Cursor) -> BoxFuture<'a, Result<StateCheck, LiveError>> {
        match self.tiles() {
            Ok(tiles) => tiles.ask_about(state),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn sessions(&self) -> usize {
        self.opened.get().map_or(0, |tiles| tiles.sessions())
    }

    fn rows(&self) -> Option<LiveRowsReport> {
        match self.tiles() {
            Ok(tiles) => tiles.rows(),
            Err(error) => Some(LiveRowsReport { why_not: Some(error.to_string()), ..LiveRowsReport::default() }),
        }
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        match self.opened.get() {
            Some(tiles) => tiles.end(),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn follow(self: Arc<Self>, known: KnownChanges) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let tiles = self.open(&known).await;
            tiles.follow(known).await;
        })
    }
}
