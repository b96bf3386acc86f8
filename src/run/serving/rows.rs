//! Live rows of a server: points from which live tiles are drawn without a statement.
//!
//! ```text
//!  the first tiles ─► a snapshot of its own ─► all rows, in the background
//!  each further snapshot of live tiles ─► changed positions by the change log ─► rows on that snapshot
//! ```
//!
//! A snapshot of live tiles has the rows in its own state, or none; then the database draws. Without a change log that is
//! known to be complete, nothing is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::sets::{FilterPart, ServedSets, SetsState};
use crate::change_log::{Cursor, Watch, tracked, tracked_each};
use crate::config::ParameterSettings;
use crate::cursor::{NewestLogged, StateInHistory};
use crate::draw::{LiveLook, LiveRows, PreparedLayer, may_have_live_points};
use crate::error::{ErrorKind, Obstacle};
use crate::postgis::{Database, Layer, Probed, Snapshot};
use crate::run::CommandError;
use crate::run::kept_rows::{RowsSnapshot, changed_positions, is_in_history};
use crate::serve::LiveRowsReport;

/// The database draws this number of live tiles before rows are read: a server that is hardly used needs no rows.
const MIN_TILES: u64 = 50;

/// The pause after rows could not be read or brought to a snapshot, before they are read again.
const PAUSE_AFTER_LOSS: Duration = Duration::from_secs(30);

/// The pause after rows were read that cannot be kept: the cause may pass, but hardly soon.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// The live rows of a tileset that is served live.
pub(crate) struct ServedRows {
    rows: LiveRows,
    pub(crate) sets: ServedSets,
    /// The memory that they may take, in bytes.
    memory: usize,
    kept: Mutex<Kept>,
    /// The live tiles that the database has drawn since rows were read last.
    drawn: AtomicU64,
    told: parking_lot::Mutex<LiveRowsReport>,
}

enum Kept {
    /// They are to be read, but not before this moment, and not before the database has drawn this number of tiles.
    Due(Instant, u64),
    Reading,
    Rows(StateInHistory),
    /// No layer has rows that can be kept.
    Never,
}

impl Kept {
    fn lost(pause: Duration) -> Kept {
        Kept::Due(Instant::now() + pause, MIN_TILES)
    }
}

/// Rows that could not be kept, or brought to a snapshot.
enum NotKept {
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
            _ => NotKept::Lost(error.to_string()),
        }
    }
}

impl ServedRows {
    /// No rows yet. They may take `memory` bytes. Requests may narrow them by `parameters`.
    pub(crate) fn new(memory: usize, parameters: Vec<ParameterSettings>) -> ServedRows {
        ServedRows {
            rows: LiveRows::default(),
            sets: ServedSets::new(parameters),
            memory,
            kept: Mutex::new(Kept::Due(Instant::now(), MIN_TILES)),
            drawn: AtomicU64::new(0),
            told: parking_lot::Mutex::new(LiveRowsReport {
                why_not: Some("few live tiles have been asked for so far".to_owned()),
                ..LiveRowsReport::default()
            }),
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

    /// What is kept now.
    pub(crate) fn report(&self) -> LiveRowsReport {
        self.sets.report(self.told.lock().clone())
    }

    async fn drop_rows(&self) {
        self.rows.clear().await;
        self.sets.clear();
    }

    fn tell_why_not(&self, why: &str) {
        let mut told = self.told.lock();
        let LiveRowsReport { tiles, reads, .. } = *told;
        *told = LiveRowsReport { why_not: Some(why.to_owned()), tiles, reads, ..LiveRowsReport::default() };
    }

    /// Notes which state the rows show now.
    async fn tell_shown(&self, shown: &StateInHistory) {
        let (rows, bytes) = self.rows.size().await;
        self.sets.bound(self.memory, bytes);
        let mut told = self.told.lock();
        (told.rows, told.bytes) = (rows, bytes);
        (told.snapshot, told.why_not) = (Some(shown.state.to_string()), None);
    }

    /// True for one caller, who has to read the rows now.
    pub(crate) fn have_to_be_read(&self, layers: &[Arc<Layer>]) -> bool {
        // If others look at the rows at this moment, the next snapshot asks again.
        let Ok(mut kept) = self.kept.try_lock() else { return false };
        let Kept::Due(from, tiles) = *kept else { return false };
        if Instant::now() < from || self.drawn.load(Ordering::Relaxed) < tiles {
            return false;
        }
        if self.memory == 0 || of_points(layers).is_empty() {
            self.tell_why_not(if self.memory == 0 {
                "rows_mb leaves no room"
            } else {
                "no layer draws single points in EPSG:4326 or 3857 with a key among their properties, from a table with a spatial index"
            });
            *kept = Kept::Never;
            return false;
        }
        self.tell_why_not("they are being read");
        *kept = Kept::Reading;
        true
    }

    /// Reads the rows on a snapshot that nobody else uses.
    pub(crate) async fn read(&self, on: Result<RowsSnapshot<'_>, CommandError>, schema: &str) {
        let read = async {
            let on = on?;
            let is_any_kept = self.try_read(&on, schema).await?;
            Ok::<_, NotKept>(is_any_kept.then(|| on.shown.clone()))
        };
        let read = read.await;
        self.drawn.store(0, Ordering::Relaxed);
        let mut kept = self.kept.lock().await;
        let (why, pause) = match read {
            Ok(Some(shown)) => {
                self.told.lock().reads += 1;
                self.tell_shown(&shown).await;
                *kept = Kept::Rows(shown);
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
        // The log has to be complete for all that comes.
        let layers = of_points(on.layers);
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
            let Some(points) = self.rows.read_points(look, layer).await? else { continue };
            if on.draws_alike(number, &points).await? {
                is_any_kept = true;
            } else {
                self.rows.refuse(look, layer).await;
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
    ) -> (Vec<PreparedLayer>, SetsState) {
        let plain = || (probed.layers.iter().map(PreparedLayer::new).collect(), SetsState::default());
        let mut kept = self.kept.lock().await;
        let Kept::Rows(before) = &*kept else { return plain() };
        // An older snapshot that was taken beside a newer one gets no rows.
        let is_older = before.state != shown.state && before.state.sees_all_of(&shown.state);
        if is_older || shown.newest == NewestLogged::NoLog {
            return plain();
        }
        if self.rows.are_old().await {
            self.tell_why_not("they are read anew after ten minutes");
            self.drop_rows().await;
            *kept = Kept::Due(Instant::now(), 0);
            return plain();
        }
        match self.brought(database, snapshot, probed, before, schema).await {
            Ok(layers) => {
                let logged = self.logged(database, snapshot, probed, &before.state, schema).await;
                self.tell_shown(shown).await;
                *kept = Kept::Rows(shown.clone());
                (layers, self.sets.next_state(logged.into_iter()))
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
    async fn brought(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        before: &StateInHistory,
        schema: &str,
    ) -> Result<Vec<PreparedLayer>, NotKept> {
        let lost = |why: &str| NotKept::Lost(why.to_owned());
        if probed.reads.row_security.is_some() {
            // Policies may change without a change of a row.
            return Err(lost("a table has row level security"));
        }
        if !is_in_history(snapshot, schema, before).await? {
            return Err(lost("the database has another history"));
        }
        let layers = of_points(&probed.layers);
        // The tables of the log are not locked for as long as the snapshot lives.
        let asking = Box::pin(changed_positions(database, snapshot, &layers, &before.state, schema));
        let changed = snapshot.without_keeping_locks(asking).await?;
        let since = before.state.to_string();
        let (look, kept_before) = (self.look(snapshot, &since), self.rows.point_layers().await);
        let mut changed = changed.into_iter();
        let mut prepared = Vec::new();
        for layer in &probed.layers {
            let plain = PreparedLayer::new(layer);
            if !may_have_live_points(layer) {
                prepared.push(plain);
                continue;
            }
            let positions = changed.next().flatten();
            prepared.push(
                match self
                    .rows
                    .points(look, layer, positions.as_deref())
                    .await
                    .map_err(|error| lost(&error.to_string()))?
                {
                    Some(points) => plain.with_live_points(&points),
                    None => plain,
                },
            );
        }
        if self.rows.point_layers().await < kept_before {
            return Err(lost("what changed since is not known, or too much"));
        }
        snapshot.check_partitions(&probed.reads).await?;
        Ok(prepared)
    }

    /// The conditions of kept sets, each with whether the log has every change since a state that it sees.
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
    fn look<'s>(&self, snapshot: &'s Snapshot, since: &'s str) -> LiveLook<'s> {
        LiveLook { snapshot, since, now: snapshot.cursor(), memory: self.memory }
    }
}

/// The layers whose rows may be live.
fn of_points(layers: &[Arc<Layer>]) -> Vec<Arc<Layer>> {
    layers.iter().filter(|layer| may_have_live_points(layer)).cloned().collect()
}
