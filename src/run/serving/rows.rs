//! Live rows of a server: points from which live tiles are drawn without a statement.
//!
//! ```text
//!  the first tiles ─► a snapshot of its own ─► all rows, in the background
//!  each further snapshot of live tiles ─► changed positions by the change log ─► rows on that snapshot
//! ```
//!
//! A snapshot of live tiles has the rows in its own state, or none; then the database draws. Without a change log that
//! is known to be complete, nothing is kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::rows_file::RowsFile;
use super::sets::{FilterPart, LoggedParts, ServedSets, SetsState};
use crate::change_log::{Cursor, Watch, tracked, tracked_each};
use crate::cursor::{NewestLogged, StateInHistory};
use crate::draw::{CellMembers, LiveLook, LivePoints, LiveRows, PreparedLayer, may_have_live_points};
use crate::error::{ErrorKind, Obstacle, with_causes};
use crate::postgis::{Database, Layer, Probed, Reads, Snapshot, foldable};
use crate::run::CommandError;
use crate::run::kept_rows::{RowsSnapshot, changed_positions, is_in_history};
use crate::serve::LiveRowsReport;

/// The database draws this number of live tiles before rows are read: a server that is hardly used needs no rows.
const MIN_TILES: u64 = 50;

pub(crate) const FEW_TILES: &str = "few live tiles have been asked for so far";

/// The pause after rows could not be read or brought to a snapshot, before they are read again.
const PAUSE_AFTER_LOSS: Duration = Duration::from_secs(30);

/// The pause after rows were read that cannot be kept: the cause may pass, but hardly soon.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// The live rows of a tileset that is served live.
pub(crate) struct ServedRows {
    pub(crate) rows: LiveRows,
    /// How the rows of layers of cells are kept, by the layers' definitions; `None` if they are not.
    members: parking_lot::Mutex<HashMap<String, Option<Arc<CellMembers>>>>,
    pub(crate) sets: ServedSets,
    /// The memory that they may take, in bytes.
    pub(crate) memory: usize,
    pub(crate) kept: Mutex<Kept>,
    /// The live tiles that the database has drawn since rows were read last.
    drawn: AtomicU64,
    pub(crate) told: parking_lot::Mutex<LiveRowsReport>,
    /// When they were brought to the state that they show.
    looked: parking_lot::Mutex<Option<Instant>>,
    /// The file that keeps them between starts; `None` if there is no place for one.
    pub(crate) file: Option<RowsFile>,
}

pub(crate) enum Kept {
    /// They are to be read, but not before this moment, and not before the database has drawn this number of tiles.
    Due(Instant, u64),
    Reading,
    Rows(KeptState),
    /// No layer has rows that can be kept.
    Never,
}

/// The state of the database that the rows are of.
#[derive(Clone)]
pub(crate) struct KeptState {
    pub(crate) shown: StateInHistory,
    /// What the layers read there ([`Reads::digest`]).
    pub(crate) reads: String,
}

impl KeptState {
    pub(crate) fn new(shown: &StateInHistory, reads: &Reads) -> KeptState {
        KeptState { shown: shown.clone(), reads: reads.digest.clone() }
    }
}

impl Kept {
    pub(crate) fn not_yet() -> Kept {
        Kept::Due(Instant::now(), MIN_TILES)
    }

    fn lost(pause: Duration) -> Kept {
        Kept::Due(Instant::now() + pause, MIN_TILES)
    }
}

/// Rows that could not be kept, or brought to a snapshot.
pub(crate) enum NotKept {
    /// The snapshot gets no rows; a later one may.
    NotNow,
    Lost(String),
}

impl<E: Into<CommandError>> From<E> for NotKept {
    fn from(error: E) -> NotKept {
        let error = error.into();
        match error.kind() {
            // Tiles do not wait for a locked log.
            ErrorKind::Transient(Obstacle::HeldUp) => NotKept::NotNow,
            _ => NotKept::Lost(with_causes(&error)),
        }
    }
}

/// The layers of a snapshot with the rows that are kept of them.
#[derive(Default)]
pub(crate) struct LayersWithRows {
    /// All layers, those of points with their rows.
    pub(crate) prepared: Vec<PreparedLayer>,
    /// The rows that are kept, by the layers' numbers.
    pub(crate) rows: BTreeMap<usize, LivePoints>,
    /// The layers of cells among these.
    pub(crate) cells: BTreeMap<usize, Arc<CellMembers>>,
}

impl LayersWithRows {
    /// The layers without rows.
    pub(crate) fn without(layers: &[Arc<Layer>]) -> LayersWithRows {
        LayersWithRows { prepared: layers.iter().map(PreparedLayer::new).collect(), ..LayersWithRows::default() }
    }
}

impl ServedRows {
    /// No rows yet. They may take `memory` bytes. Requests may narrow them by `filters`.
    pub(crate) fn new(memory: usize, sets: ServedSets, file: Option<RowsFile>) -> ServedRows {
        ServedRows {
            rows: LiveRows::default(),
            members: parking_lot::Mutex::default(),
            sets,
            memory,
            kept: Mutex::new(Kept::not_yet()),
            drawn: AtomicU64::new(0),
            told: parking_lot::Mutex::new(LiveRowsReport {
                why_not: Some(FEW_TILES.to_owned()),
                why_not_saved: file
                    .is_none()
                    .then(|| "there is no local target beside which they could lie".to_owned()),
                ..LiveRowsReport::default()
            }),
            looked: parking_lot::Mutex::default(),
            file,
        }
    }

    /// Notes that a live tile was drawn, from rows or by the database.
    pub(crate) fn note_drawn(&self, from_rows: bool) {
        if from_rows {
            self.told.lock().tiles += 1;
        } else {
            self.drawn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a live tile was drawn whose cells were counted from rows, perhaps from those of matching sets.
    pub(crate) fn note_counted(&self, has_sets: bool, by_database: bool) {
        let mut told = self.told.lock();
        told.counted_tiles += 1;
        told.tiles += u64::from(!by_database);
        drop(told);
        if has_sets {
            self.sets.note_drawn();
        }
    }

    pub(crate) fn are_kept(&self) -> bool {
        self.told.lock().snapshot.is_some()
    }

    /// True if the change log holds every change of what some conditions see that came after a database state. False if
    /// that is not known, such as while no rows are kept.
    pub(crate) fn logs_all_since(&self, parts: &[FilterPart], shown: &Cursor) -> bool {
        self.are_kept() && self.sets.logs_all_since(parts, shown)
    }

    /// What is kept now.
    pub(crate) fn report(&self) -> LiveRowsReport {
        let last_look_seconds = self.looked.lock().map(|looked| looked.elapsed().as_secs());
        let saved_seconds = self.file.as_ref().and_then(RowsFile::age).map(|age| age.as_secs());
        let told = self.told.lock().clone();
        self.sets.report(LiveRowsReport { last_look_seconds, saved_seconds, ..told })
    }

    pub(crate) async fn drop_rows(&self) {
        self.rows.clear().await;
        self.sets.clear();
    }

    pub(crate) fn tell_why_not(&self, why: &str) {
        *self.looked.lock() = None;
        let mut told = self.told.lock();
        let was_kept = told.snapshot.take().is_some();
        told.drops += u64::from(was_kept);
        (told.rows, told.bytes, told.changed) = (0, 0, 0);
        (told.being_read, told.why_not) = (false, Some(why.to_owned()));
    }

    /// Notes that rows are being read.
    pub(crate) fn tell_reading(&self, why: &str) {
        self.tell_why_not(why);
        self.told.lock().being_read = true;
    }

    /// Notes which state the rows show now.
    pub(crate) async fn tell_shown(&self, shown: &StateInHistory) {
        let ((rows, bytes), changed) = (self.rows.size().await, self.rows.changed().await);
        let cells = self.members.lock().values().flatten().map(|members| members.bytes()).sum::<usize>();
        let bytes = bytes + cells;
        self.sets.bound(self.memory, bytes);
        *self.looked.lock() = Some(Instant::now());
        let mut told = self.told.lock();
        (told.rows, told.bytes, told.changed) = (rows, bytes, changed);
        (told.being_read, told.snapshot, told.why_not) = (false, Some(shown.state.to_string()), None);
    }

    /// True for one caller, who has to read the rows now.
    pub(crate) fn have_to_be_read(&self, layers: &[Arc<Layer>]) -> bool {
        // If others look at the rows at this moment, the next snapshot asks again.
        let Ok(mut kept) = self.kept.try_lock() else { return false };
        let Kept::Due(from, tiles) = *kept else { return false };
        if Instant::now() < from || self.drawn.load(Ordering::Relaxed) < tiles {
            return false;
        }
        if self.memory == 0 || !layers.iter().any(|layer| may_be_kept(layer)) {
            self.tell_why_not(if self.memory == 0 {
                "rows_mb leaves no room"
            } else {
                "no layer draws single points in EPSG:4326 or 3857 with a key among their properties, or cells of such points, from a table with a spatial index"
            });
            *kept = Kept::Never;
            return false;
        }
        self.tell_reading("they are being read");
        *kept = Kept::Reading;
        true
    }

    /// Reads the rows on a snapshot that nobody else uses.
    pub(crate) async fn read(&self, on: Result<RowsSnapshot<'_>, CommandError>, schema: &str) {
        let read = async {
            let on = on?;
            let is_any_kept = self.try_read(&on, schema).await?;
            Ok::<_, NotKept>(is_any_kept.then(|| KeptState::new(on.shown, on.reads)))
        };
        let read = read.await;
        self.drawn.store(0, Ordering::Relaxed);
        let mut kept = self.kept.lock().await;
        let (why, pause) = match read {
            Ok(Some(state)) => {
                self.told.lock().reads += 1;
                self.sets.note_rows_read(&state.shown.state);
                self.tell_shown(&state.shown).await;
                *kept = Kept::Rows(state);
                if let Some(file) = &self.file {
                    file.note_read();
                }
                return;
            }
            Ok(None) => (
                "no layer's rows can be kept: they need a change log of their own table, no row level security, keys of ASCII letters or numbers, and room in rows_mb".to_owned(),
                PAUSE_AFTER_REFUSAL,
            ),
            Err(NotKept::NotNow) => ("the change log is locked".to_owned(), PAUSE_AFTER_LOSS),
            Err(NotKept::Lost(why)) => (why, PAUSE_AFTER_LOSS),
        };
        tracing::info!("rows for live tiles are not kept, so the database draws: {why}");
        self.tell_why_not(&why);
        self.drop_rows().await;
        *kept = Kept::lost(pause);
    }

    /// True if the rows of a layer are kept now.
    async fn try_read(&self, on: &RowsSnapshot<'_>, schema: &str) -> Result<bool, NotKept> {
        if on.shown.newest == NewestLogged::NoLog || on.reads.row_security.is_some() {
            return Ok(false);
        }
        self.drop_rows().await;
        self.look_up_members(on.snapshot, on.layers).await?;
        // The log has to be complete for all that comes.
        let layers = self.kept_layers(on.layers);
        let asking = tracked(on.database, on.snapshot, schema, None, &layers, &on.shown.state);
        let watches = on.snapshot.without_keeping_locks(Box::pin(asking)).await?;
        let look = self.look(on.snapshot, "");
        let mut is_any_kept = false;
        for (layer, watches) in layers.iter().zip(&watches) {
            let Some(number) = on.layers.iter().position(|own| Arc::ptr_eq(own, layer)) else { continue };
            // The positions of a materialized view, for one, are known by no table.
            if watches.iter().all(Watch::is_query) {
                continue;
            }
            let Some(rows) = self.rows_layer(layer) else { continue };
            let Some(points) = self.rows.read_points(look, &rows).await? else { continue };
            self.rows.read_facets(look, &rows).await?;
            // The cells of all rows are counted as the survey of a seed counts them.
            if layer.grid().is_some() || on.draws_alike(number, &points).await? {
                is_any_kept = true;
            } else {
                self.rows.refuse(look, &rows).await;
            }
        }
        on.snapshot.check_partitions(on.reads).await?;
        Ok(is_any_kept)
    }

    /// The layers on a snapshot, with rows where they are kept, and which sets hold for these.
    pub(crate) async fn prepared(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        shown: &StateInHistory,
        schema: &str,
    ) -> (LayersWithRows, SetsState) {
        let plain = || (LayersWithRows::without(&probed.layers), SetsState::default());
        let mut kept = self.kept.lock().await;
        let Kept::Rows(KeptState { shown: before, .. }) = &*kept else { return plain() };
        // An older snapshot that was taken beside a newer one gets no rows.
        let is_older = before.state != shown.state && before.state.sees_all_of(&shown.state);
        if is_older || shown.newest == NewestLogged::NoLog {
            return plain();
        }
        if self.rows.are_old().await || self.sets.facets_are_due() {
            self.tell_why_not("they are read anew after ten minutes");
            self.drop_rows().await;
            *kept = Kept::Due(Instant::now(), 0);
            return plain();
        }
        match self.brought(database, snapshot, &probed.layers, &probed.reads, before, schema).await {
            Ok(layers) => {
                let parts = self.logged(database, snapshot, probed, &before.state, schema).await;
                let state = self.sets.next_state(&LoggedParts { before: &before.state, parts });
                self.tell_shown(shown).await;
                *kept = Kept::Rows(KeptState::new(shown, &probed.reads));
                let lacks_facets = |(number, layer): (usize, &Arc<Layer>)| {
                    !layer.facets.is_empty() && layers.rows.get(&number).is_some_and(|rows| rows.facets.is_none())
                };
                let mut numbered = probed.layers.iter().enumerate();
                self.sets.note_lacking_facets(state.lacks_facets() || numbered.any(lacks_facets));
                (layers, state)
            }
            Err(NotKept::NotNow) => plain(),
            Err(NotKept::Lost(why)) => {
                tracing::info!("rows for live tiles are read anew: {why}");
                self.tell_why_not(&why);
                self.drop_rows().await;
                *kept = Kept::lost(PAUSE_AFTER_LOSS);
                plain()
            }
        }
    }

    /// The layers with rows that were of the state `before`, brought to the state of the snapshot.
    pub(crate) async fn brought(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        all: &[Arc<Layer>],
        reads: &Reads,
        before: &StateInHistory,
        schema: &str,
    ) -> Result<LayersWithRows, NotKept> {
        let lost = |why: &str| NotKept::Lost(why.to_owned());
        if reads.row_security.is_some() {
            // Policies may change without a change of a row.
            return Err(lost("a table has row level security"));
        }
        if !is_in_history(snapshot, schema, before).await? {
            return Err(lost("the database has another history"));
        }
        let layers = self.kept_layers(all);
        // The tables of the log are not locked for as long as the snapshot lives.
        let asking = Box::pin(changed_positions(database, snapshot, &layers, &before.state, schema));
        let changed = snapshot.without_keeping_locks(asking).await?;
        let since = before.state.to_string();
        let (look, kept_before) = (self.look(snapshot, &since), self.rows.point_layers().await);
        let mut changed = changed.into_iter();
        let mut with_rows = LayersWithRows::default();
        for (number, layer) in all.iter().enumerate() {
            let plain = PreparedLayer::new(layer);
            let Some(rows) = self.rows_layer(layer) else {
                with_rows.prepared.push(plain);
                continue;
            };
            let positions = changed.next().flatten();
            let brought = self.rows.points(look, &rows, positions.as_deref()).await;
            let points = brought.map_err(|error| lost(&with_causes(&error)))?;
            with_rows.prepared.push(match (&points, self.members_of(layer)) {
                (Some(_), Some(members)) => {
                    with_rows.cells.insert(number, members);
                    plain
                }
                (Some(points), None) => plain.with_live_points(points),
                (None, _) => plain,
            });
            with_rows.rows.extend(points.map(|points| (number, points)));
        }
        if self.rows.point_layers().await < kept_before {
            return Err(lost("what changed since is not known, or too much"));
        }
        // The rows are of another state than before by now.
        snapshot.check_partitions(reads).await.map_err(|error| lost(&with_causes(&error)))?;
        Ok(with_rows)
    }

    /// The conditions of kept sets, each with true if the change log holds, since the state `since`, every change of
    /// the columns that the condition reads.
    async fn logged(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        since: &Cursor,
        schema: &str,
    ) -> Vec<(FilterPart, bool)> {
        let narrowed = self.sets.narrowed(&probed.layers);
        if narrowed.is_empty() {
            return Vec::new();
        }
        let plain = narrowed.iter().map(|(part, _)| Arc::clone(&probed.layers[part.layer]));
        let layers: Vec<Arc<Layer>> = plain.chain(narrowed.iter().map(|(_, layer)| Arc::clone(layer))).collect();
        let asking = Box::pin(tracked_each(database, snapshot, schema, None, &layers, since));
        let watches = snapshot.without_keeping_locks(asking).await.unwrap_or_default();
        let is_logged = |number: usize| match (watches.get(number), watches.get(narrowed.len() + number)) {
            // The positions of the rows come from the layer's own watches.
            (Some(Ok(own)), Some(Ok(of_condition))) => of_condition.iter().all(|watch| own.contains(watch)),
            _ => false,
        };
        let logged: Vec<bool> = (0..narrowed.len()).map(is_logged).collect();
        narrowed.into_iter().map(|(part, _)| part).zip(logged).collect()
    }

    /// Where a snapshot of live tiles stands for live rows.
    pub(crate) fn look<'s>(&self, snapshot: &'s Snapshot, since: &'s str) -> LiveLook<'s> {
        LiveLook { snapshot, since, now: snapshot.cursor(), memory: self.memory }
    }
}

impl ServedRows {
    /// Finds out how the rows of layers of cells can be kept.
    pub(crate) async fn look_up_members(
        &self,
        snapshot: &Snapshot,
        layers: &[Arc<Layer>],
    ) -> Result<(), crate::postgis::Error> {
        self.members.lock().clear();
        for layer in layers.iter().filter(|layer| CellMembers::may_be_of(layer)) {
            let members = CellMembers::of(layer, foldable(snapshot, layer).await?);
            self.members.lock().insert(layer.definition(), members.map(Arc::new));
        }
        Ok(())
    }

    fn members_of(&self, layer: &Layer) -> Option<Arc<CellMembers>> {
        layer.grid()?;
        self.members.lock().get(&layer.definition()).cloned().flatten()
    }

    /// The layer as which the rows of a layer are read; `None` if they are not kept.
    pub(crate) fn rows_layer(&self, layer: &Arc<Layer>) -> Option<Arc<Layer>> {
        if may_have_live_points(layer) {
            return Some(Arc::clone(layer));
        }
        Some(Arc::clone(self.members_of(layer)?.rows()))
    }

    /// The layers whose rows may be kept.
    fn kept_layers(&self, layers: &[Arc<Layer>]) -> Vec<Arc<Layer>> {
        layers.iter().filter(|layer| self.rows_layer(layer).is_some()).cloned().collect()
    }
}

/// True if the rows of a layer may be kept, as far as its definition says.
fn may_be_kept(layer: &Layer) -> bool {
    may_have_live_points(layer) || CellMembers::may_be_of(layer)
}
