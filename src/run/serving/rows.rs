//! Live rows of a server: points from which live tiles are drawn without a statement.
//!
//! ```text
//!  the first tiles ─► a snapshot of its own ─► all rows, in the background
//!  each further snapshot of live tiles ─► changed positions by the change log ─► rows on that snapshot
//! ```
//!
//! A snapshot of live tiles has the rows in its own state, or none; then the database draws. Without a change log that
//! is known to be complete, nothing is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::live_layers::{KeptLayer, LiveLayers, RowOwners, RowsLayer};
use super::saved_rows_file::SavedRowsFile;
use super::sets::{FilterPart, LoggedParts, ServedSets, SetsState};
use crate::change_log::{ChangeLogError, Cursor, LogGap, Watch, tracked, tracked_each};
use crate::cursor::{NewestLogged, StateInHistory};
use crate::draw::{CellMembers, GivenCount, LiveRows, LiveStep, RowsPool, may_have_live_points};
use crate::error::{ErrorKind, Obstacle, with_causes};
use crate::postgis::{Database, Layer, Probed, Reads, Snapshot};
use crate::run::CommandError;
use crate::run::kept_rows::{RowsSnapshot, changed_positions, distinct, is_in_history};
use crate::serve::LiveRowsReport;
use crate::suggested::TRACK_INSTALL;

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
    pub(crate) owners: RowOwners,
    pub(crate) sets: ServedSets,
    /// The rows of others in this process.
    pub(crate) pool: Arc<RowsPool>,
    /// How many times others took these rows.
    pub(crate) given: GivenCount,
    /// The first database state that live tiles have shown, or since rows were lost.
    first_shown: parking_lot::Mutex<Option<Cursor>>,
    /// The memory that they may take, in bytes.
    pub(crate) memory: usize,
    pub(crate) kept: Mutex<RowsStage>,
    /// The live tiles that the database has drawn since rows were read last.
    drawn: AtomicU64,
    /// The rows as they are reported, but for what is counted elsewhere.
    pub(crate) report: parking_lot::Mutex<LiveRowsReport>,
    /// When they were brought to the state that they show; `None` if none are kept.
    brought_at: parking_lot::Mutex<Option<Instant>>,
    /// The file that keeps them between starts; `None` if there is no place for one.
    pub(crate) file: Option<SavedRowsFile>,
}

pub(crate) enum RowsStage {
    /// They are to be read, but not before this moment, and not before the database has drawn this number of tiles.
    Due(Instant, u64),
    Reading,
    Rows(RowsState),
    /// No layer has rows that can be kept.
    Never,
}

/// The state of the database that the rows are of.
#[derive(Clone)]
pub(crate) struct RowsState {
    pub(crate) shown: StateInHistory,
    /// What the layers read there ([`Reads::digest`]).
    pub(crate) reads: String,
}

impl RowsState {
    pub(crate) fn new(shown: &StateInHistory, reads: &Reads) -> RowsState {
        RowsState { shown: shown.clone(), reads: reads.digest.clone() }
    }
}

/// Where rows are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Obtained {
    Taken,
    /// Those of one layer at least were read.
    Read,
}

impl RowsStage {
    pub(crate) fn not_yet() -> RowsStage {
        RowsStage::Due(Instant::now(), MIN_TILES)
    }

    fn lost(pause: Duration) -> RowsStage {
        RowsStage::Due(Instant::now() + pause, MIN_TILES)
    }
}

/// Rows that could not be kept, or brought to a snapshot.
pub(crate) enum NotKept {
    /// The snapshot gets no rows; a later one may.
    NotNow,
    Lost(String),
}

/// Why the log cannot say what changed since rows were read, if it notes all changes by now. Such rows are read anew;
/// the target needs no seed for them.
fn noted_too_late(error: &CommandError) -> Option<String> {
    let CommandError::Changes(ChangeLogError::LogGap(gap)) = error else { return None };
    let (layer, what) = match gap {
        LogGap::InstalledSince { layer, table } => (layer, table.clone()),
        LogGap::ColumnSince { layer, table, column } => (layer, format!("{column} of {table}")),
        _ => return None,
    };
    Some(format!(
        "layer \"{layer}\": the change log notes changes of {what} only since a time after the rows were read"
    ))
}

impl<E: Into<CommandError>> From<E> for NotKept {
    fn from(error: E) -> NotKept {
        let error = error.into();
        match error.kind() {
            // Tiles do not wait for a locked log.
            ErrorKind::Transient(Obstacle::HeldUp) => NotKept::NotNow,
            _ => NotKept::Lost(noted_too_late(&error).unwrap_or_else(|| with_causes(&error))),
        }
    }
}

impl ServedRows {
    /// No rows yet. They may take `memory` bytes.
    pub(crate) fn new(memory: usize, sets: ServedSets, file: Option<SavedRowsFile>, pool: Arc<RowsPool>) -> ServedRows {
        ServedRows {
            rows: LiveRows::default(),
            owners: RowOwners::default(),
            sets,
            pool,
            given: GivenCount::default(),
            first_shown: parking_lot::Mutex::default(),
            memory,
            kept: Mutex::new(RowsStage::not_yet()),
            drawn: AtomicU64::new(0),
            report: parking_lot::Mutex::new(LiveRowsReport {
                why_not: Some(FEW_TILES.to_owned()),
                why_not_saved: file
                    .is_none()
                    .then(|| "there is no local target beside which they could lie".to_owned()),
                ..LiveRowsReport::default()
            }),
            brought_at: parking_lot::Mutex::default(),
            file,
        }
    }

    /// Notes that a live tile was drawn, from rows or by the database.
    pub(crate) fn note_drawn(&self, from_rows: bool) {
        let mut report = self.report.lock();
        if from_rows {
            report.tiles += 1;
        } else {
            report.database_tiles += u64::from(report.snapshot.is_some());
            self.drawn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a live tile was drawn whose cells were counted from rows, perhaps from those of matching sets.
    pub(crate) fn note_counted(&self, has_sets: bool, by_database: bool) {
        let mut report = self.report.lock();
        report.counted_tiles += 1;
        *(if by_database { &mut report.database_tiles } else { &mut report.tiles }) += 1;
        drop(report);
        if has_sets {
            self.sets.note_drawn();
        }
    }

    pub(crate) fn are_kept(&self) -> bool {
        self.report.lock().snapshot.is_some()
    }

    /// True if the change log holds every change of what some conditions see that came after a database state. False if
    /// that is not known, such as while no rows are kept.
    pub(crate) fn logs_all_since(&self, parts: &[FilterPart], shown: &Cursor) -> bool {
        self.are_kept() && self.sets.logs_all_since(parts, shown)
    }

    /// What is kept now.
    pub(crate) fn report(&self) -> LiveRowsReport {
        let last_look_seconds = self.brought_at.lock().map(|at| at.elapsed().as_secs());
        let saved_seconds = self.file.as_ref().and_then(SavedRowsFile::age).map(|age| age.as_secs());
        let report = self.report.lock().clone();
        self.sets.report(LiveRowsReport { last_look_seconds, saved_seconds, given: self.given.get(), ..report })
    }

    pub(crate) async fn drop_rows(&self) {
        self.rows.ages().await.into_iter().for_each(|age| self.pool.forget(age));
        self.rows.clear().await;
        self.sets.clear();
    }

    /// Notes that no rows are kept, and why.
    pub(crate) fn note_why_not(&self, why: &str) {
        *self.brought_at.lock() = None;
        self.sets.note_lacking_facets(None);
        let mut report = self.report.lock();
        let was_kept = report.snapshot.take().is_some();
        report.drops += u64::from(was_kept);
        (report.rows, report.bytes, report.shared_bytes, report.file_bytes, report.changed) = (0, 0, 0, 0, 0);
        (report.being_read, report.why_not) = (false, Some(why.to_owned()));
    }

    /// Notes that rows are being read.
    pub(crate) fn note_reading(&self, why: &str) {
        self.note_why_not(why);
        self.report.lock().being_read = true;
    }

    /// Notes which state the rows show now, and in the same moment what `counts` adds.
    pub(crate) async fn note_shown(&self, shown: &StateInHistory, counts: impl FnOnce(&mut LiveRowsReport)) {
        let ((rows, bytes), changed) = (self.rows.size().await, self.rows.changed().await);
        let (shared_bytes, file_bytes) = (self.rows.shared_bytes().await, self.rows.file_bytes().await);
        let bytes = self.owners.bound(self.memory, bytes);
        self.sets.bound(self.memory, bytes);
        *self.brought_at.lock() = Some(Instant::now());
        let mut report = self.report.lock();
        (report.rows, report.bytes, report.changed) = (rows, bytes, changed);
        (report.shared_bytes, report.file_bytes) = (shared_bytes, file_bytes);
        (report.being_read, report.snapshot, report.why_not) = (false, Some(shown.state.to_string()), None);
        counts(&mut report);
    }

    /// True for one caller, who has to read the rows now.
    pub(crate) fn have_to_be_read(&self, layers: &[Arc<Layer>]) -> bool {
        // If others hold the rows at this moment, the next snapshot asks again.
        let Ok(mut kept) = self.kept.try_lock() else { return false };
        let RowsStage::Due(from, tiles) = *kept else { return false };
        if Instant::now() < from || self.drawn.load(Ordering::Relaxed) < tiles {
            return false;
        }
        if self.memory == 0 || !layers.iter().any(|layer| may_be_kept(layer)) {
            self.note_why_not(if self.memory == 0 {
                "rows_mb leaves no room"
            } else {
                "no layer draws single points in EPSG:4326 or 3857, or cells of such points, from a table with a spatial index and a key whose order is known (docs/serving.md)"
            });
            *kept = RowsStage::Never;
            return false;
        }
        self.note_reading("they are being read");
        *kept = RowsStage::Reading;
        true
    }

    /// Reads the rows on a snapshot that nobody else uses.
    pub(crate) async fn read(&self, on: Result<RowsSnapshot<'_>, CommandError>, schema: &str) {
        let read = async {
            let on = on?;
            let obtained = self.try_read(&on, schema).await?;
            if obtained.is_none() {
                return Ok::<_, NotKept>(None);
            }
            self.offer(self.pool_step(on.database, on.snapshot, schema), on.layers, on.shown).await;
            Ok(obtained.map(|obtained| (RowsState::new(on.shown, on.reads), obtained)))
        };
        let read = read.await;
        self.drawn.store(0, Ordering::Relaxed);
        let mut kept = self.kept.lock().await;
        let (why, pause) = match read {
            Ok(Some((state, obtained))) => {
                self.sets.note_rows_read();
                let counts = |report: &mut LiveRowsReport| match obtained {
                    Obtained::Read => report.reads += 1,
                    Obtained::Taken => report.taken += 1,
                };
                self.note_shown(&state.shown, counts).await;
                *kept = RowsStage::Rows(state);
                if let Some(file) = &self.file {
                    file.note_read();
                }
                return;
            }
            Ok(None) => (
                "no layer's rows can be kept: they need a change log of their own table, no row level security, keys that are unique and not NULL, and room in rows_mb or in the temporary folder".to_owned(),
                PAUSE_AFTER_REFUSAL,
            ),
            Err(NotKept::NotNow) => ("the change log is locked".to_owned(), PAUSE_AFTER_LOSS),
            Err(NotKept::Lost(why)) => (why, PAUSE_AFTER_LOSS),
        };
        tracing::info!("rows for live tiles are not kept, so the database draws: {why}");
        self.note_why_not(&why);
        self.drop_rows().await;
        *kept = RowsStage::lost(pause);
    }

    /// Where the rows that are kept now are from; `None` if none are.
    async fn try_read(&self, on: &RowsSnapshot<'_>, schema: &str) -> Result<Option<Obtained>, NotKept> {
        if on.shown.newest == NewestLogged::NoLog || on.reads.row_security.is_some() {
            return Ok(None);
        }
        self.drop_rows().await;
        self.owners.find(on.snapshot, on.layers).await?;
        // The log has to be complete for all that comes.
        let layers = self.owners.kept_layers(on.layers);
        let asking = tracked(on.database, on.snapshot, schema, None, &layers, &on.shown.state);
        let watches = on.snapshot.without_keeping_locks(Box::pin(asking)).await?;
        let number = |layer| on.layers.iter().position(|own| Arc::ptr_eq(own, layer));
        let mut numbered: Vec<(usize, &Vec<Watch>)> =
            layers.iter().zip(&watches).filter_map(|(layer, watches)| Some((number(layer)?, watches))).collect();
        // Cells have rows of their own where no layer of points could keep them.
        numbered.sort_by_key(|(number, _)| on.layers[*number].grid().is_some());
        let mut all_obtained = None;
        for (number, watches) in numbered {
            let rows = self.owners.rows_layers(on.layers).swap_remove(number);
            let Some(rows) = rows.filter(|rows| rows.owner == number) else { continue };
            let obtained = self.obtain_layer(on, &rows, watches, schema).await?;
            all_obtained = all_obtained.max(obtained);
            if obtained.is_none() {
                let definition = on.layers[number].definition();
                self.owners.share_only_with(|points| points != definition);
            }
        }
        self.compare_cells(on).await?;
        on.snapshot.check_partitions(on.reads).await?;
        Ok(if self.rows.point_layers().await > 0 { all_obtained } else { None })
    }

    /// Compares tiles of cells that are counted from kept rows with those that the database counts. It draws layers of
    /// which any differs.
    pub(crate) async fn compare_cells(&self, on: &RowsSnapshot<'_>) -> Result<(), NotKept> {
        for (number, rows) in self.owners.rows_layers(on.layers).into_iter().enumerate() {
            let (layer, step) = (&on.layers[number], self.step(on.snapshot, ""));
            let (Some(rows), Some(members)) = (rows, self.owners.members_of(layer)) else { continue };
            let Some(points) = self.rows.points(step, &rows.layer, None).await? else { continue };
            if on.counts_alike(number, &members, &points).await? {
                continue;
            }
            tracing::warn!(
                "layer \"{}\": the cells that are counted from its kept rows are not those that the database draws, so the database draws all of them. Does its condition change from one query to the next? If not, please report this",
                layer.name()
            );
            self.owners.leave_to_database(layer);
            if rows.owner == number {
                self.rows.refuse(step, &rows.layer).await;
            }
        }
        Ok(())
    }

    /// Takes the rows of a layer from others in this process, or reads them. `None` if they are not kept.
    async fn obtain_layer(
        &self,
        on: &RowsSnapshot<'_>,
        rows: &RowsLayer,
        watches: &[Watch],
        schema: &str,
    ) -> Result<Option<Obtained>, NotKept> {
        // The positions of a materialized view, for one, are known by no table.
        if watches.iter().all(Watch::is_query) {
            return Ok(None);
        }
        let (step, layer) = (self.step(on.snapshot, ""), &rows.layer);
        if self.take(self.pool_step(on.database, on.snapshot, schema), on.layers, rows, None).await {
            if self.are_right(on, rows).await? {
                return Ok(Some(Obtained::Taken));
            }
            // Those that are read may be right, and take the place of these.
            self.rows.age_of(layer).await.into_iter().for_each(|age| self.pool.forget(age));
        }
        if self.rows.read_points(step, layer).await?.is_none() {
            return Ok(None);
        }
        if self.are_right(on, rows).await? {
            return Ok(Some(Obtained::Read));
        }
        self.rows.refuse(step, layer).await;
        Ok(None)
    }

    /// Reads the facets of a layer's rows, and compares what these draw with what the database draws.
    async fn are_right(&self, on: &RowsSnapshot<'_>, RowsLayer { owner, layer }: &RowsLayer) -> Result<bool, NotKept> {
        let step = self.step(on.snapshot, "");
        self.rows.read_facets(step, layer).await?;
        // Cells are compared once all rows are there.
        if on.layers[*owner].grid().is_some() {
            return Ok(true);
        }
        match self.rows.points(step, layer, None).await? {
            Some(points) => Ok(on.draws_alike(*owner, &points).await?),
            None => Ok(false),
        }
    }

    /// The layers on a snapshot, which was begun at the moment `begun`, with rows where they are kept, and which sets
    /// hold for these.
    pub(crate) async fn prepared(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        shown: &StateInHistory,
        begun: Instant,
        schema: &str,
    ) -> (LiveLayers, SetsState) {
        let plain = || (LiveLayers::without_rows(&probed.layers), SetsState::default());
        self.first_shown.lock().get_or_insert_with(|| shown.state.clone());
        let mut kept = self.kept.lock().await;
        let RowsStage::Rows(RowsState { shown: before, .. }) = &*kept else { return plain() };
        // An older snapshot that was taken beside a newer one gets no rows.
        let is_older = before.state != shown.state && before.state.sees_all_of(&shown.state);
        let is_later = || self.brought_at.lock().is_some_and(|brought| begun > brought);
        // A standby may lag behind another one that was asked before.
        if is_older && is_later() && !snapshot.is_of_standby() {
            self.lose(&mut kept, "the database has another history: it is at an earlier state than before").await;
            return plain();
        }
        if is_older || shown.newest == NewestLogged::NoLog {
            return plain();
        }
        if self.rows.are_old().await || self.sets.facets_are_due() {
            self.note_why_not("they are read anew after ten minutes");
            self.drop_rows().await;
            *kept = RowsStage::Due(Instant::now(), 0);
            return plain();
        }
        match self.brought(database, snapshot, &probed.layers, &probed.reads, before, schema).await {
            Ok(layers) => {
                let mut logged = self.logged(database, snapshot, probed, &before.state, schema).await;
                let first = self.first_shown.lock().clone();
                if let Some(first) = first.filter(|_| self.sets.are_new(&logged)) {
                    // Tiles in memory may be of any state since the first one.
                    let earlier = self.logged(database, snapshot, probed, &first, schema).await;
                    let earlier: BTreeMap<FilterPart, Option<Cursor>> = earlier.into_iter().collect();
                    for (part, from) in logged.iter_mut().filter(|(_, from)| from.is_some()) {
                        *from = earlier.get(part).cloned().flatten().or(from.take());
                    }
                }
                let state = self.sets.next_state(&logged);
                self.note_shown(shown, |_report| ()).await;
                self.offer(self.pool_step(database, snapshot, schema), &probed.layers, shown).await;
                *kept = RowsStage::Rows(RowsState::new(shown, &probed.reads));
                self.sets.note_lacking_facets(why_no_facets(&probed.layers, &layers, &state));
                (layers, state)
            }
            Err(NotKept::NotNow) => plain(),
            Err(NotKept::Lost(why)) => {
                self.lose(&mut kept, &why).await;
                plain()
            }
        }
    }

    /// Drops the rows, so that they are read anew.
    async fn lose(&self, kept: &mut RowsStage, why: &str) {
        tracing::info!("rows for live tiles are read anew: {why}");
        self.note_why_not(why);
        self.drop_rows().await;
        *kept = RowsStage::lost(PAUSE_AFTER_LOSS);
        *self.first_shown.lock() = None;
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
    ) -> Result<LiveLayers, NotKept> {
        let lost = |why: &str| NotKept::Lost(why.to_owned());
        if reads.row_security.is_some() {
            // Policies may change without a change of a row.
            return Err(lost("a table has row level security"));
        }
        if !is_in_history(snapshot, schema, before).await? {
            return Err(lost("the database has another history"));
        }
        let own = self.owners.own_rows_layers(all);
        if !self.rows.are_of(&own.iter().map(|rows| rows.layer.definition()).collect::<Vec<_>>()).await {
            return Err(lost("the geometry, the spatial index or the key of a layer was altered or dropped"));
        }
        self.go_on_from_newer(self.pool_step(database, snapshot, schema), all).await;
        let (layers, rows_layers) = (self.owners.kept_layers(all), self.owners.rows_layers(all));
        // The tables of the log are not locked for as long as the snapshot lives.
        let asking = Box::pin(changed_positions(database, snapshot, &layers, &before.state, schema));
        let changed = snapshot.without_keeping_locks(asking).await?;
        let since = before.state.to_string();
        let (step, kept_before) = (self.step(snapshot, &since), self.rows.point_layers().await);
        let owners = rows_layers.iter().flatten().map(|rows| rows.owner);
        let changed = changed_by_owner(owners.zip(changed));
        let mut with_rows = LiveLayers::default();
        for (layer, rows) in all.iter().zip(&rows_layers) {
            let Some(RowsLayer { owner, layer: rows }) = rows else {
                with_rows.push(layer, None);
                continue;
            };
            let positions = changed.get(owner).and_then(Option::as_deref);
            let brought = self.rows.points(step, rows, positions).await;
            let points = brought.map_err(|error| lost(&with_causes(&error)))?;
            let kept = |points| KeptLayer { points, members: self.owners.members_of(layer), owner: *owner };
            with_rows.push(layer, points.map(kept));
        }
        if self.rows.point_layers().await < kept_before {
            return Err(lost("what changed since is not known, too much, or does not fit into rows_mb with the rows"));
        }
        // The rows are of another state than before by now.
        snapshot.check_partitions(reads).await.map_err(|error| lost(&with_causes(&error)))?;
        Ok(with_rows)
    }

    /// The conditions of kept sets, each with `since` if the change log holds, since that state, every change of the
    /// columns that the condition reads.
    async fn logged(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        since: &Cursor,
        schema: &str,
    ) -> LoggedParts {
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
        narrowed
            .into_iter()
            .zip(logged)
            .map(|((part, _), is_logged)| (part, is_logged.then(|| since.clone())))
            .collect()
    }

    /// The step of the rows to a snapshot of live tiles.
    pub(crate) fn step<'s>(&self, snapshot: &'s Snapshot, since: &'s str) -> LiveStep<'s> {
        LiveStep { snapshot, since, now: snapshot.cursor(), memory: self.memory }
    }
}

/// Why facets of kept rows cannot be used; `None` if all can. They are read again with the rows.
fn why_no_facets(all: &[Arc<Layer>], kept: &LiveLayers, state: &SetsState) -> Option<String> {
    let of_layer = |(number, layer): (usize, &Arc<Layer>)| {
        let points = kept.points(number).filter(|points| !layer.facets.is_empty() && points.facets.is_none())?;
        let unknown = || format!("layer \"{}\": its facets are read anew within ten minutes", layer.name());
        Some(points.why_no_facets.clone().unwrap_or_else(unknown))
    };
    all.iter().enumerate().find_map(of_layer).or_else(|| {
        let (part, is_lacking_now) = state.lacking_facet()?;
        let (layer, parameter) = (all.get(part.layer)?.name(), part.condition.parameter().unwrap_or_default());
        Some(if is_lacking_now {
            format!("layer \"{layer}\": the change log lacks changes of the column by which the parameter \"{parameter}\" chooses rows, so that the database does. Run {TRACK_INSTALL}")
        } else {
            format!("layer \"{layer}\": the change log has lacked changes of the column by which the parameter \"{parameter}\" chooses rows; facets are read anew within ten minutes")
        })
    })
}

/// The changed positions of rows, by the number of the layer that keeps them; `None` where they are not known. The log
/// says of each layer by itself where its rows have changed: one of them may name a further table (`[[layer.track]]`).
fn changed_by_owner(
    of_layers: impl Iterator<Item = (usize, Option<Vec<[f64; 2]>>)>,
) -> BTreeMap<usize, Option<Vec<[f64; 2]>>> {
    let mut all: BTreeMap<usize, Option<Vec<[f64; 2]>>> = BTreeMap::new();
    for (owner, own) in of_layers {
        match (all.remove(&owner), own) {
            (None, own) => all.insert(owner, own),
            (Some(Some(mut known)), Some(own)) => {
                known.extend(own);
                all.insert(owner, Some(distinct(known)))
            }
            (Some(_), _) => all.insert(owner, None),
        };
    }
    all
}

/// True if the rows of a layer may be kept, as far as its definition says.
fn may_be_kept(layer: &Layer) -> bool {
    may_have_live_points(layer) || CellMembers::may_be_of(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_layers_share_change_where_the_log_says_so_of_one_of_them() {
        let at = |positions: &[f64]| Some(positions.iter().map(|x| [*x, 1.0]).collect::<Vec<_>>());
        let of_layers = [(3, at(&[5.0, 2.0])), (1, at(&[7.0, 7.0])), (3, at(&[2.0, 4.0])), (4, at(&[1.0])), (4, None)];
        let changed = changed_by_owner(of_layers.into_iter());
        assert_eq!(changed, BTreeMap::from([(1, at(&[7.0, 7.0])), (3, at(&[2.0, 4.0, 5.0])), (4, None)]));
        assert_eq!(changed_by_owner([(4, None), (4, at(&[1.0]))].into_iter()), BTreeMap::from([(4, None)]));
    }
}
