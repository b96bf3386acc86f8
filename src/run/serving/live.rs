//! Tiles that the target does not hold. They are rendered on request by the same code as in a seed, with the same
//! bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::bounds::LiveBounds;
use super::filtered::{FilteredRows, MAX_WAIT_WITHOUT_WORKER, SetWait};
use super::follow::follow;
use super::maps::{have_maps, keep_maps, read_maps};
use super::request_filter::{NarrowedLayers, RequestFilter};
use super::rows::ServedRows;
use super::saved_rows_file::SavedRowsFile;
use super::search::NoBatch;
use super::sets::{FilterPart, ServedSets};
use super::shared_work::SharedWork;
use super::snapshot::{LiveSnapshot, SnapshotUse};
use crate::change_log::{Cursor, CursorError, newest_logged_now};
use crate::config::{AskedCondition, FilterSettings};
use crate::encode::{Packer, Packing};
use crate::error::{ErrorKind, with_causes};
use crate::postgis::{Database, Error, Layer};
use crate::run::describe::{fingerprint, of_no_target};
use crate::run::fitted_filters::{check_conditions, fitted_filters};
use crate::run::identity::LogIdentity;
use crate::run::{CommandError, TilesetRun};
use crate::serve::{
    CountRequest, GivenParameters, KnownChanges, LaterChanges, LayerCounts, LiveError, LiveLayer, LiveRequest,
    LiveRowsReport, LiveSource, LiveTile, LogFailure, SharedSecret, StateCheck,
};
use crate::source::{LayerIssueKind, RenderedTile, bytes_of};
use crate::stop::Stop;
use crate::target::Described;
use crate::tile::{Slice, TileId};

/// The pause after a snapshot could not be taken, in which the database is not asked again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A tile of at most this many bytes is packed at once: handing it to another thread takes as long.
const MAX_PACKED_HERE: usize = 16 << 10;

/// A snapshot, or why there is none.
type TakenSnapshot = Result<Arc<LiveSnapshot>, LiveError>;

/// The snapshot on which tiles are rendered.
enum Present {
    /// No snapshot is held. The next tile takes one.
    None,
    /// It has been taken or is being taken, since this time.
    Taken(Instant, SharedWork<TakenSnapshot>),
    /// It could not be taken at this time.
    Failed(Instant, LiveError),
}

#[derive(Clone)]
pub(crate) struct DatabaseTiles(Arc<DatabaseTilesShared>);

struct DatabaseTilesShared {
    run: TilesetRun,
    database: Database,
    packing: Packing,
    /// Those that pack no tile at the moment: a new one takes half as long as a small tile.
    packers: Arc<Mutex<Vec<Packer>>>,
    /// The limits on the database sessions of all tilesets together.
    bounds: Arc<LiveBounds>,
    /// The fingerprint when the server began. Tiles of another fingerprint would not fit the target's tiles.
    fingerprint: String,
    live_layers: Vec<LiveLayer>,
    layers: Vec<Arc<Layer>>,
    /// True if publications purge the tags of all dirty tiles.
    purges_filtered: bool,
    /// Identifies what parameters mean, with 16 hexadecimal digits.
    filters_digest: String,
    /// The key with which tiles in Redis are signed, if the change log has a key.
    shared_secret: Option<SharedSecret>,
    /// The tileset's description of itself, if it has no target.
    described: Option<Described>,
    /// Stops the preparation of snapshots. Nothing asks for it so far.
    stop: Stop,
    present: Mutex<Present>,
    rows: Arc<ServedRows>,
    /// What requests may ask.
    filters: FilterSettings,
    /// The last snapshot that was retired. It lives while tiles of it are being rendered.
    before: Mutex<Weak<LiveSnapshot>>,
}

impl DatabaseTiles {
    /// Connects to the database and probes the layers. Fails if the database cannot be reached, or the layers do not
    /// fit it.
    pub(crate) async fn open(
        run: &TilesetRun,
        has_target: bool,
        bounds: &Arc<LiveBounds>,
    ) -> Result<DatabaseTiles, CommandError> {
        let settings = &run.settings;
        let stop = Stop::new();
        let database = bounds.database(&settings.database, &stop)?;
        let first = LiveSnapshot::take(&database, run, &stop, bounds, SnapshotUse::Check).await?;
        let of_maps = usize::from(have_maps(&settings.tileset.filters));
        check_room(&first, bounds.sessions() + of_maps).await?;
        let filters = fitted_filters(&first.snapshot, &first.layers, &settings.tileset.filters).await?;
        check_conditions(&first.snapshot, &settings.tileset.layers, &filters).await?;
        read_maps(&first.snapshot.keeper, &filters).await?;
        let log = match settings.server.redis {
            Some(_) => LogIdentity::read(&first.snapshot, &settings.database.changes.schema, []).await?,
            None => None,
        };
        let live_layers = first.layers.iter().map(|layer| LiveLayer {
            name: layer.name().to_owned(),
            id: layer.id(),
            zooms: layer.zooms().clone(),
        });
        let fingerprint = fingerprint(settings, &first.layers);
        let notes = if has_target { run.target.folder_notes() } else { None };
        let file = notes.map(|notes| SavedRowsFile::new(notes, &fingerprint));
        let sets = ServedSets::new(filters.clone());
        let purges_filtered = settings.tileset.purges_filtered();
        let tiles = DatabaseTiles(Arc::new(DatabaseTilesShared {
            fingerprint,
            live_layers: live_layers.collect(),
            shared_secret: log.and_then(|log| SharedSecret::new(log.key().derived("redis").as_bytes())),
            described: if has_target { None } else { Some(of_no_target(settings, &first.layers)?) },
            run: run.clone(),
            database,
            packing: settings.run.limits.packing,
            packers: Arc::default(),
            stop,
            bounds: Arc::clone(bounds),
            present: Mutex::new(Present::None),
            rows: Arc::new(ServedRows::new(
                bounds.rows_memory(settings.run.rows_memory),
                sets,
                file,
                run.pool.clone().unwrap_or_default(),
            )),
            layers: first.layers.clone(),
            purges_filtered,
            filters_digest: settings.tileset.filters.digest(),
            before: Mutex::default(),
            filters,
        }));
        drop(tokio::spawn(load_rows(Arc::clone(&tiles.0))));
        if have_maps(&tiles.0.filters) {
            let DatabaseTilesShared { filters, stop, .. } = &*tiles.0;
            drop(tokio::spawn(keep_maps(settings.database.clone(), filters.clone(), stop.clone())));
        }
        Ok(tiles)
    }
}

impl DatabaseTiles {
    /// The tileset's description of itself, if it has no target.
    pub(crate) fn described(&self) -> Option<&Described> {
        self.0.described.as_ref()
    }

    /// What requests may ask, within what the database can compare.
    pub(crate) fn filters(&self) -> &FilterSettings {
        &self.0.filters
    }
}

/// Checks that the server allows as many sessions as the live tiles may need, and warns if there are too many others
/// now.
async fn check_room(on: &LiveSnapshot, sessions: usize) -> Result<(), CommandError> {
    let room = on.snapshot.check_session_room(sessions, "serve.workers (--workers)").await?;
    if room.others.saturating_add(sessions as u64) > room.most {
        tracing::warn!(
            "live tiles need up to {sessions} sessions, and {} others are open of {} that the database allows: some tiles may fail",
            room.others,
            room.most
        );
    }
    Ok(())
}

impl LiveSource for DatabaseTiles {
    fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    fn layers(&self) -> &[LiveLayer] {
        &self.0.live_layers
    }

    fn render<'a>(&'a self, request: LiveRequest, stop: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>> {
        Box::pin(self.0.render(request, stop))
    }

    fn prepare<'a>(&'a self, request: &'a LiveRequest, stop: &'a Stop) -> BoxFuture<'a, ()> {
        Box::pin(self.0.prepare(request, stop))
    }

    fn count<'a>(
        &'a self,
        request: CountRequest,
        stop: &'a Stop,
    ) -> BoxFuture<'a, Result<Vec<LayerCounts>, LiveError>> {
        Box::pin(self.0.count(request, stop))
    }

    fn filters_digest(&self) -> String {
        self.0.filters_digest.clone()
    }

    fn finds_in_memory(&self, given: &GivenParameters) -> bool {
        let DatabaseTilesShared { rows, layers, filters, .. } = &*self.0;
        let asked = layers.iter().flat_map(|layer| filters.asked(given, layer));
        rows.are_kept() && asked.map(|asked| asked.facet).all(|facet| facet.is_some())
    }

    fn later_changes(&self, given: &GivenParameters, shown: &Cursor) -> LaterChanges {
        match self.0.logs_later_changes(given, shown) {
            false => LaterChanges::Unknown,
            true if self.0.purges_filtered => LaterChanges::Purged,
            true => LaterChanges::Published,
        }
    }

    fn shared_secret(&self) -> Option<SharedSecret> {
        self.0.shared_secret.clone()
    }

    fn ask_about<'a>(&'a self, state: &'a Cursor) -> BoxFuture<'a, Result<StateCheck, LiveError>> {
        Box::pin(async {
            let schema = &self.0.run.settings.database.changes.schema;
            let asked = newest_logged_now(&self.0.database, schema, state).await;
            let (present, newest) = asked.map_err(|error| live_error(&error, error.kind()))?;
            let present = present.parse().map_err(|error: CursorError| LiveError::Failed(error.to_string()))?;
            Ok(StateCheck { present, newest })
        })
    }

    fn sessions(&self) -> usize {
        self.0.database.sessions()
    }

    fn rows(&self) -> Option<LiveRowsReport> {
        Some(self.0.rows.report())
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        let DatabaseTilesShared { rows, database, run, stop, .. } = &*self.0;
        let database = database.for_another_run(stop);
        Box::pin(async move { rows.end(&database, &run.settings.database.changes.schema).await })
    }

    fn follow(self: Arc<Self>, known: KnownChanges) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.0.described.is_some() {
                // A look begins at the snapshot in the target's manifest. Without a target there is no manifest, so the
                // log is not read.
                known.record_failed_look("the tileset has no target".to_owned(), LogFailure::NoLog);
                return std::future::pending().await;
            }
            follow(&self.0.run, &known).await;
        })
    }
}

impl DatabaseTilesShared {
    async fn render(self: &Arc<Self>, request: LiveRequest, stop: &Stop) -> Result<LiveTile, LiveError> {
        let LiveRequest { tile, given, since } = request;
        let mut tries = SnapshotTries { source: self, has_values: given.is_some(), is_second: false };
        loop {
            let snapshot = self.snapshot_until(since, stop).await?;
            let begun = Instant::now();
            match self.on(&snapshot, tile, given.as_deref(), stop).await {
                Ok(rendered) => {
                    let in_database = begun.elapsed();
                    let stored = self.packed(rendered, tile).await?;
                    return Ok(LiveTile { stored, in_database, shown: snapshot.shown.clone() });
                }
                Err(error) => tries.failed(&snapshot, &error, stop)?,
            }
        }
    }

    /// True if a reseed finds, in the change log, every later change of tiles with these values that show a database
    /// state.
    fn logs_later_changes(&self, given: &GivenParameters, shown: &Cursor) -> bool {
        // The tables of maps and functions are not in the log as those of layers are. A materialized view is older than
        // the log says until a reseed has refreshed it.
        let sections = &self.run.settings.tileset.layers;
        if self.described.is_some()
            || self.filters.maps_any(given)
            || self.layers.iter().any(|layer| layer.function().is_some())
            || sections.iter().any(|layer| layer.section.refresh())
        {
            return false;
        }
        let asked = self.layers.iter().enumerate().flat_map(|(number, layer)| {
            let part = move |asked: AskedCondition| FilterPart { layer: number, condition: asked.key };
            self.filters.asked(given, layer).into_iter().map(part)
        });
        self.rows.logs_all_since(&asked.collect::<Vec<_>>(), shown)
    }

    /// Waits for the matching set of a tile's filter. What fails here is found again by the rendering.
    async fn prepare(self: &Arc<Self>, request: &LiveRequest, stop: &Stop) {
        let until = Instant::now() + MAX_WAIT_WITHOUT_WORKER;
        let Some(given) = request.given.as_deref() else { return };
        let preparing = async {
            let snapshot = self.snapshot_until(request.since, stop).await.ok()?;
            let batch = snapshot.batch(request.tile).await.ok()??;
            let filter = RequestFilter::of(&self.filters, Some(given));
            let wait = SetWait::Until(until);
            let filtered = FilteredRows { rows: &self.rows, snapshot: &snapshot, filter: &filter, wait, stop };
            Box::pin(filtered.in_batch(&batch)).await.ok()
        };
        drop(tokio::time::timeout_at(until.into(), preparing).await);
    }

    async fn count(self: &Arc<Self>, request: CountRequest, stop: &Stop) -> Result<Vec<LayerCounts>, LiveError> {
        let CountRequest { counted, given, since } = request;
        let filter = RequestFilter::of(&self.filters, given.as_deref());
        let mut tries = SnapshotTries { source: self, has_values: given.is_some(), is_second: false };
        loop {
            let snapshot = self.snapshot_until(since, stop).await?;
            let filtered = FilteredRows {
                rows: &self.rows,
                snapshot: &snapshot,
                filter: &filter,
                wait: SetWait::WithWorker,
                stop,
            };
            match Box::pin(filtered.counted(counted)).await {
                Ok(rows) => return Ok(rows),
                Err(error) => tries.failed(&snapshot, &error, stop)?,
            }
        }
    }

    /// A snapshot that was taken at `since` or later.
    async fn snapshot_until(self: &Arc<Self>, since: Instant, stop: &Stop) -> TakenSnapshot {
        tokio::select! {
            taken = self.snapshot(since) => taken,
            _ = stop.wait() => Err(LiveError::Abandoned),
        }
    }

    async fn on(
        &self,
        snapshot: &Arc<LiveSnapshot>,
        tile: TileId,
        given: Option<&GivenParameters>,
        stop: &Stop,
    ) -> Result<RenderedTile, Arc<Error>> {
        let batch = tokio::select! {
            batch = snapshot.batch(tile) => batch,
            _ = stop.wait() => return Err(Arc::new(Error::Interrupted)),
        };
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(RenderedTile::empty(tile.coord)),
            Err(NoBatch::Failed(error)) => return Err(error),
            Err(NoBatch::Died) => return Err(Arc::new(Error::Interrupted)),
        };
        let filter = given.map(|given| RequestFilter::of(&self.filters, Some(given)));
        let own = |tiles: Vec<RenderedTile>| {
            let own = tiles.into_iter().find(|rendered| rendered.tile == tile.coord);
            own.unwrap_or_else(|| RenderedTile::empty(tile.coord))
        };
        let rows = match &filter {
            None => Some(BTreeMap::new()),
            Some(filter) => {
                let filtered = FilteredRows { rows: &self.rows, snapshot, filter, wait: SetWait::WithWorker, stop };
                Box::pin(filtered.in_batch(&batch)).await.map_err(Arc::new)?
            }
        };
        let has_sets = rows.as_ref().is_some_and(|rows| !rows.is_empty());
        let from_rows = match rows {
            Some(rows) if snapshot.has_cells_for(&batch) => {
                let drawing = Box::pin(snapshot.drawn_with_cells(&batch, rows, filter.as_ref(), stop));
                if let Some(drawn) = drawing.await.map_err(Arc::new)? {
                    self.rows.note_counted(has_sets, drawn.by_database);
                    return Ok(own(drawn.tiles));
                }
                None
            }
            Some(rows) => snapshot.drawn_from_rows(&batch, rows, stop).await.map_err(Arc::new)?,
            None => None,
        };
        self.rows.note_drawn(from_rows.is_some());
        if let Some(tiles) = from_rows {
            if has_sets {
                self.rows.sets.note_drawn();
            }
            return Ok(own(tiles));
        }
        let narrowed = filter.map(|filter| NarrowedLayers::of(&snapshot.layers, filter));
        let tiles = Box::pin(snapshot.render(&batch, narrowed.as_ref(), stop)).await.map_err(Arc::new)?;
        snapshot.snapshot.check_partitions(&snapshot.reads).await.map_err(Arc::new)?;
        Ok(own(tiles))
    }

    /// The tile as the target would store it; `None` if it is empty.
    async fn packed(&self, rendered: RenderedTile, tile: TileId) -> Result<Option<Box<[u8]>>, LiveError> {
        let failed = rendered.issues.iter().find_map(|issue| match &issue.kind {
            LayerIssueKind::Failed { cause } => Some(cause.clone()),
            _ => None,
        });
        if let Some(cause) = failed {
            return Err(LiveError::Failed(cause));
        }
        let (packing, packers) = (self.packing, Arc::clone(&self.packers));
        let is_small = rendered.mvt.len() <= MAX_PACKED_HERE;
        let pack = move || {
            let mvt = match tile.slice {
                Slice::Whole => &*rendered.mvt,
                Slice::Layer(layer) => bytes_of(&rendered.mvt, &rendered.layers, layer),
            };
            if mvt.is_empty() {
                return Ok(None);
            }
            let free = packers.lock().pop();
            let mut packer = free.unwrap_or_else(|| Packer::new(packing));
            let stored = packer.pack(mvt);
            packers.lock().push(packer);
            stored.map(Some)
        };
        let packed = if is_small { Ok(pack()) } else { tokio::task::spawn_blocking(pack).await };
        match packed {
            Ok(packed) => packed.map_err(|error| LiveError::Failed(error.to_string())),
            Err(error) => Err(LiveError::Failed(format!("a thread died: {error}"))),
        }
    }

    /// The present snapshot. A new snapshot is taken if no snapshot is held, or if the present one was taken before
    /// `since`.
    async fn snapshot(self: &Arc<Self>, since: Instant) -> TakenSnapshot {
        let work = {
            let mut present = self.present.lock();
            match &*present {
                Present::Taken(begun, work) if *begun >= since && !work.is_dead() => work.clone(),
                Present::Failed(at, error) if at.elapsed() < PAUSE_AFTER_FAILURE => return Err(error.clone()),
                _ => {
                    let work = SharedWork::start(Arc::clone(self).take());
                    *present = Present::Taken(Instant::now(), work.clone());
                    work
                }
            }
        };
        work.done().await.unwrap_or_else(|| Err(LiveError::Failed("a thread died".to_owned())))
    }

    /// Takes a snapshot, and makes sure that it is retired.
    async fn take(self: Arc<Self>) -> TakenSnapshot {
        let taken =
            LiveSnapshot::take(&self.database, &self.run, &self.stop, &self.bounds, SnapshotUse::Tiles(&self.rows))
                .await;
        let taken = taken.map_err(|error| live_error(&error, error.kind())).and_then(|snapshot| {
            let found = fingerprint(&self.run.settings, &snapshot.layers);
            if found == self.fingerprint {
                return Ok(Arc::new(snapshot));
            }
            Err(LiveError::OtherTileset { target: self.fingerprint.clone(), settings: found })
        });
        match &taken {
            Ok(snapshot) => {
                drop(tokio::spawn(retire(Arc::clone(&self), Arc::downgrade(snapshot))));
                if self.rows.have_to_be_read(&snapshot.layers) {
                    drop(tokio::spawn(read_and_save_rows(Arc::clone(&self))));
                } else if self.rows.have_to_be_saved() {
                    drop(tokio::spawn(save_rows(Arc::clone(&self))));
                }
            }
            Err(error) => *self.present.lock() = Present::Failed(Instant::now(), error.clone()),
        }
        taken
    }

    /// Stops using a snapshot.
    fn forget(&self, old: &Arc<LiveSnapshot>) {
        let mut present = self.present.lock();
        if let Present::Taken(_, work) = &*present
            && work.peek().is_some_and(|taken| taken.is_ok_and(|snapshot| Arc::ptr_eq(&snapshot, old)))
        {
            *present = Present::None;
        }
    }
}

/// What is tried once more on a new snapshot, if the first one was lost or had to release its locks for others.
struct SnapshotTries<'a> {
    source: &'a DatabaseTilesShared,
    /// True if a request gives values, which the database may refuse.
    has_values: bool,
    is_second: bool,
}

impl SnapshotTries<'_> {
    /// Fails if it is not tried again.
    fn failed(&mut self, snapshot: &Arc<LiveSnapshot>, error: &Error, stop: &Stop) -> Result<(), LiveError> {
        if stop.asked().is_some() {
            return Err(LiveError::Abandoned);
        }
        if self.has_values
            && let Error::Query { source, .. } = error
            && source.is_data_exception()
        {
            return Err(LiveError::Refused(source.to_string()));
        }
        let error = live_error(error, error.kind());
        if !matches!(error, LiveError::Away(_)) {
            return Err(error);
        }
        // The snapshot is lost with the session that held it.
        self.source.forget(snapshot);
        if std::mem::replace(&mut self.is_second, true) { Err(error) } else { Ok(()) }
    }
}

/// Retires a snapshot when its life is over and no tile of the one before it is still being rendered, so that there are
/// never more than two, beside one on which rows are read.
async fn retire(source: Arc<DatabaseTilesShared>, snapshot: Weak<LiveSnapshot>) {
    loop {
        let Some(life) = snapshot.upgrade().map(|snapshot| snapshot.life()) else { return };
        tokio::time::sleep(life).await;
        let Some(present) = snapshot.upgrade() else { return };
        let mut before = source.before.lock();
        if before.strong_count() == 0 {
            *before = snapshot;
            drop(before);
            return source.forget(&present);
        }
    }
}

/// Reads the live rows; if that dies, they may be read again later.
async fn read_and_save_rows(source: Arc<DatabaseTilesShared>) {
    if let Err(died) = tokio::spawn(read_rows(Arc::clone(&source))).await {
        source.rows.read(Err(died.into()), &source.run.settings.database.changes.schema).await;
    }
    if source.rows.have_to_be_saved() {
        save_rows(source).await;
    }
}

/// Writes the live rows to the file beside the target.
async fn save_rows(source: Arc<DatabaseTilesShared>) {
    let DatabaseTilesShared { database, run, stop, bounds, rows, .. } = &*source;
    let _reading = bounds.reading().await;
    rows.save(&database.for_another_run(stop), &run.settings.database.changes.schema).await;
}

/// Takes the live rows of an earlier server over, if it has left some; if that dies, rows are read as without them.
async fn load_rows(source: Arc<DatabaseTilesShared>) {
    if !source.rows.have_to_be_loaded().await {
        return;
    }
    let loading = Arc::clone(&source);
    let loaded = tokio::spawn(async move {
        let DatabaseTilesShared { database, run, stop, bounds, rows, .. } = &*loading;
        let schema = &run.settings.database.changes.schema;
        match LiveSnapshot::take(database, run, stop, bounds, SnapshotUse::Rows).await {
            Ok(taken) => rows.load(taken.for_rows().await.map_err(CommandError::from), schema).await,
            Err(error) => rows.load(Err(error), schema).await,
        }
    });
    if let Err(died) = loaded.await {
        source.rows.load(Err(died.into()), &source.run.settings.database.changes.schema).await;
    }
}

async fn read_rows(source: Arc<DatabaseTilesShared>) {
    let DatabaseTilesShared { database, run, stop, bounds, rows, .. } = &*source;
    let schema = &run.settings.database.changes.schema;
    match LiveSnapshot::take(database, run, stop, bounds, SnapshotUse::Rows).await {
        Ok(taken) => rows.read(taken.for_rows().await.map_err(CommandError::from), schema).await,
        Err(error) => rows.read(Err(error), schema).await,
    }
}

/// An error in the server's terms: whether the database or the tile is the cause.
fn live_error(error: &dyn std::error::Error, kind: ErrorKind) -> LiveError {
    let text = with_causes(error);
    match kind {
        ErrorKind::Transient(_) => LiveError::Away(text),
        _ => LiveError::Failed(text),
    }
}
