//! Live rows of a server: points from which live tiles are drawn without a statement.
//!
//! ```text
//!  the first tiles ─► a snapshot of its own ─► all rows, in the background
//!  each further snapshot of live tiles ─► changed positions by the change log ─► rows on that snapshot
//! ```
//!
//! A snapshot of live tiles has the rows in its own state, or none; then the database draws. Without a change log that is
//! known to be complete, nothing is kept.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::snapshot::LiveSnapshot;
use crate::change_log::{PositionSource, UnseenLog, newest_logged, tracked};
use crate::cursor::{NewestLogged, StateInHistory};
use crate::draw::{
    LiveLook, LivePoints, LiveRows, MAX_CHANGED_POSITIONS, PreparedLayer, may_have_live_points, verify_cached_rows,
};
use crate::plan::batches;
use crate::postgis::{Database, Layer, Probed, Snapshot, count_rows};
use crate::run::CommandError;
use crate::serve::LiveRowsReport;
use crate::tile::{ChangeLocation, Coverage, SearchBox, TileCoord, TileRect};

/// The rows are read once so many live tiles have been drawn: a server that is hardly used needs none.
const MIN_TILES: u64 = 50;

/// The pause after rows could not be read or brought to a snapshot, before they are read again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The number of tiles that are drawn both ways before the rows of a layer are used.
const COMPARED_TILES: usize = 3;

/// Why no rows are kept of layers that have none.
const NOT_SUITED: &str = "no layer draws single points that can be followed in memory: it needs a key among its properties, a spatial index, a change log, no row level security, and room in rows_mb";

/// The live rows of a tileset that is served live.
pub(crate) struct ServedRows {
    rows: LiveRows,
    /// The memory that they may take, in bytes.
    memory: usize,
    kept: Mutex<Kept>,
    /// The live tiles that the database has drawn since rows were read last.
    drawn: AtomicU64,
    told: parking_lot::Mutex<LiveRowsReport>,
}

#[derive(Default)]
enum Kept {
    /// Not yet.
    #[default]
    Nothing,
    /// They were lost at this moment.
    Lost(Instant),
    Reading,
    /// Rows of this state.
    Rows(StateInHistory),
    /// They cannot be kept.
    Never,
}

impl ServedRows {
    /// No rows yet. They may take `memory` bytes.
    pub(crate) fn new(memory: usize) -> ServedRows {
        ServedRows {
            rows: LiveRows::default(),
            memory,
            kept: Mutex::default(),
            drawn: AtomicU64::new(0),
            told: parking_lot::Mutex::default(),
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
        let mut told = self.told.lock().clone();
        if told.snapshot.is_none() && told.why_not.is_none() {
            told.why_not = Some("few live tiles have been asked for so far".to_owned());
        }
        told
    }

    /// Notes which state the rows show now, or why there are none.
    async fn tell(&self, shown: Result<&StateInHistory, String>) {
        let (rows, bytes) = self.rows.size().await;
        let mut told = self.told.lock();
        (told.rows, told.bytes) = if shown.is_ok() { (rows, bytes) } else { (0, 0) };
        told.snapshot = shown.as_ref().ok().map(|shown| shown.state.to_string());
        told.why_not = shown.err();
    }

    /// True for one caller, who has to read the rows now.
    pub(crate) async fn have_to_be_read(&self, layers: &[Arc<Layer>]) -> bool {
        let mut kept = self.kept.lock().await;
        let is_due = match &*kept {
            Kept::Nothing => true,
            Kept::Lost(at) => at.elapsed() >= PAUSE_AFTER_FAILURE,
            Kept::Reading | Kept::Rows(_) | Kept::Never => false,
        };
        if !is_due || self.drawn.load(Ordering::Relaxed) < MIN_TILES {
            return false;
        }
        if self.memory == 0 || !layers.iter().any(|layer| may_have_live_points(layer)) {
            self.tell(Err(NOT_SUITED.to_owned())).await;
            *kept = Kept::Never;
            return false;
        }
        self.tell(Err("they are being read".to_owned())).await;
        *kept = Kept::Reading;
        true
    }

    /// Reads the rows on a snapshot that nobody else uses.
    pub(crate) async fn read(&self, on: Result<LiveSnapshot, CommandError>, schema: &str) {
        let read = async {
            let on = on?;
            Ok::<_, CommandError>(self.try_read(&on, schema).await?.then(|| on.shown.clone()))
        };
        let read = read.await;
        self.drawn.store(0, Ordering::Relaxed);
        let mut kept = self.kept.lock().await;
        *kept = match read {
            Ok(Some(shown)) => {
                self.told.lock().reads += 1;
                self.tell(Ok(&shown)).await;
                Kept::Rows(shown)
            }
            Ok(None) => {
                self.tell(Err(NOT_SUITED.to_owned())).await;
                Kept::Never
            }
            Err(error) => {
                tracing::info!("rows for live tiles cannot be read, so the database draws: {error}");
                self.tell(Err(error.to_string())).await;
                self.rows.clear().await;
                Kept::Lost(Instant::now())
            }
        };
    }

    /// True if the rows of a layer are kept now.
    async fn try_read(&self, on: &LiveSnapshot, schema: &str) -> Result<bool, CommandError> {
        if on.shown.newest == NewestLogged::NoLog || on.reads.row_security.is_some() {
            return Ok(false);
        }
        // The log has to be complete for all that comes.
        tracked(on.database(), &on.snapshot, schema, None, &of_points(&on.layers), &on.shown.state).await?;
        let look = self.look(&on.snapshot, "");
        let mut is_any_kept = false;
        for (number, layer) in on.layers.iter().enumerate().filter(|(_, layer)| may_have_live_points(layer)) {
            let count = count_rows(&on.snapshot, layer, &Coverage::new(&[]), layer.zooms()).await?.unwrap_or_default();
            let Some(points) = self.rows.read_points(look, layer, &[], count).await? else { continue };
            if on.draws_alike(number, &points).await? {
                is_any_kept = true;
            } else {
                self.rows.refuse(look, layer).await;
            }
        }
        Ok(is_any_kept)
    }

    /// The layers on a snapshot, with rows where they are kept.
    pub(crate) async fn prepared(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        probed: &Probed,
        shown: &StateInHistory,
        schema: &str,
    ) -> Vec<PreparedLayer> {
        let layers = &probed.layers;
        let mut kept = self.kept.lock().await;
        if let Kept::Rows(before) = &*kept {
            // Policies may change without a change of a row.
            let is_whole = probed.reads.row_security.is_none();
            let why = match self.brought(database, snapshot, layers, [before, shown], schema).await {
                Ok(Some(layers)) if is_whole => {
                    self.tell(Ok(shown)).await;
                    *kept = Kept::Rows(shown.clone());
                    return layers;
                }
                Ok(_) => "what changed since is not known".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::info!("rows for live tiles are read anew: {why}");
            self.tell(Err(why)).await;
            self.rows.clear().await;
            *kept = Kept::Lost(Instant::now());
        }
        layers.iter().map(PreparedLayer::new).collect()
    }

    /// The layers with rows that were of the state `before`; `None` if these cannot be brought to the state of the
    /// snapshot.
    async fn brought(
        &self,
        database: &Database,
        snapshot: &Snapshot,
        layers: &[Arc<Layer>],
        [before, shown]: [&StateInHistory; 2],
        schema: &str,
    ) -> Result<Option<Vec<PreparedLayer>>, CommandError> {
        let newest = newest_logged(snapshot, schema, std::slice::from_ref(&before.state)).await?;
        if newest != [before.newest] || !shown.state.sees_all_of(&before.state) {
            return Ok(None);
        }
        // The tables of the log are not locked for as long as the snapshot lives.
        let reading = async {
            let layers = of_points(layers);
            let watches = tracked(database, snapshot, schema, None, &layers, &before.state).await?;
            let log = UnseenLog { snapshot, schema, cursor: &before.state };
            let mut changed = Vec::new();
            for (layer, watches) in layers.iter().zip(&watches) {
                let mut positions = Vec::new();
                let mut is_known = !watches.iter().any(|watch| matches!(watch.source, PositionSource::Query { .. }));
                for watch in watches {
                    let each = |spot: ChangeLocation| match spot.position() {
                        Some(at) if positions.len() < MAX_CHANGED_POSITIONS => {
                            positions.push(at);
                            ControlFlow::Continue(())
                        }
                        _ => ControlFlow::Break(()),
                    };
                    is_known = is_known && log.positions(watch, layer, each).await?;
                }
                changed.push(is_known.then_some(positions));
            }
            Ok::<_, CommandError>(changed)
        };
        let changed = snapshot.without_keeping_locks(Box::pin(reading)).await?;
        let since = before.state.to_string();
        let look = self.look(snapshot, &since);
        let (mut prepared, mut is_any_kept, mut changed) = (Vec::new(), false, changed.into_iter());
        for layer in layers {
            let plain = PreparedLayer::new(layer);
            if !may_have_live_points(layer) {
                prepared.push(plain);
                continue;
            }
            let positions = changed.next().flatten();
            let points = self.rows.points(look, layer, positions.as_deref()).await?;
            is_any_kept |= points.is_some();
            prepared.push(match points {
                Some(points) => plain.with_live_points(&points),
                None => plain,
            });
        }
        Ok(is_any_kept.then_some(prepared))
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

impl LiveSnapshot {
    /// True if the database draws the same tiles around some rows of a layer as the rows do.
    async fn draws_alike(&self, layer: usize, points: &LivePoints) -> Result<bool, CommandError> {
        let zoom = self.layers[layer].zooms().max();
        let tiles: Vec<TileCoord> = points.sample(zoom, COMPARED_TILES).iter().filter_map(TileRect::first).collect();
        let batches = batches(&tiles, &self.drawn, std::num::NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area);
        let mut layers: Vec<PreparedLayer> = self.layers.iter().map(PreparedLayer::new).collect();
        layers[layer] = layers[layer].clone().with_live_points(points);
        let worker = self.keeper().await?;
        let verified = verify_cached_rows(&worker, layers, &batches).await?;
        Ok(verified[layer].has_cached_rows())
    }
}
