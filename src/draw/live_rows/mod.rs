//! Live rows: the rows of layers, kept by `reseed --watch` between its looks and by a server between its snapshots, so
//! that what is near a change is drawn without reading the table again.
//!
//! ```text
//!  a look that needs them ─► all rows ─► live rows at the snapshot ─► counted cells, tiles of points
//!  later look: changed positions since that snapshot ─► squares ─► their rows are replaced by those read now ─┘
//! ```
//!
//! The change log does not say which row left a position and which one came to it. So the rows of a small square around
//! each changed position are replaced as a group: what was there before by what is there on the new snapshot.
//!
//! | file | what |
//! |---|---|
//! | `cells` | the rows of a layer of cells: positions and folded values |
//! | `file` | rows of points in a file, which the next process takes over |
//! | `joining` | rows of points joined in the background with what has changed |
//! | `keys` | keys of rows as the parameters of a statement, and as a statement returns them |
//! | `members` | the rows of a layer of cells in a server, kept as points |
//! | `points` | the rows of a layer of points: positions and encoded features |
//! | `pool` | the rows of points that users in this process take from each other |
//! | `sets` | those of these rows that fulfil a request's conditions |

mod cells;
mod file;
mod joining;
mod keys;
mod members;
mod points;
mod pool;
mod sets;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use cells::AreProven;
use cells::{LiveCellRows, NeededPart};
pub(crate) use file::{SavedLayer, SavedRows, read_saved_rows, write_saved_rows};
use joining::Joining;
pub(crate) use members::CellMembers;
pub(crate) use points::{LivePoints, may_have_live_points};
pub(crate) use pool::{GivenCount, PooledRows, RowsAge, RowsPool};
use tokio::sync::Mutex;

use super::cached_rows::{KeptCellFeatures, KeptFeatures, has_cacheable_cells};
use crate::cells::{CellCounts, WantedFolds};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::shows_rows_as_written;
use crate::postgis::sql::FoldedValues;
use crate::threads::blocking;
use crate::tile::{ChangeLocation, TileRect, WorldBox, Zoom};

#[derive(Debug, Default)]
pub(crate) struct LiveRows(Mutex<Vec<LiveLayer>>);

/// The state to which live rows are brought, or at which they are read.
#[derive(Clone, Copy)]
pub(crate) struct LiveStep<'a> {
    pub snapshot: &'a Snapshot,
    /// The state of the database since which the changes are known; empty if rows are read. `reseed --watch` reads the
    /// change log from the state that its target shows.
    pub since: &'a str,
    /// The state that the snapshot sees.
    pub now: &'a str,
    /// The memory that live rows may take, in bytes.
    pub memory: usize,
}

/// The rows of a layer on a snapshot.
#[derive(Debug)]
struct LiveLayer {
    /// What the rows depend on besides the database.
    definition: String,
    /// The state of the database that the rows are of.
    cursor: String,
    /// The snapshot in which they are so. On a standby, snapshots with the same cursor may show different rows.
    snapshot: String,
    /// True if rows that were read to replace these could not be used: they did not fit into memory beside them, or
    /// could not be brought to a later snapshot.
    is_alone: bool,
    read: Instant,
    /// True if the rows may look different later without a change of the table.
    ages: bool,
    /// True if tiles can differ only where these rows do: what they hold of a row is all that tiles show of it, and it
    /// changes only if the row is written.
    hold_all: bool,
    /// The publication whose tiles show these rows, as they are now; `None` if that is not known.
    shown_by: Option<String>,
    rows: LiveKind,
    /// Why the facets that the layer has are not known.
    why_no_facets: Option<String>,
    joining: Joining,
}

#[derive(Debug)]
enum LiveKind {
    Cells {
        folds: Option<FoldedValues>,
        rows: Arc<LiveCellRows>,
        features: LiveCells,
        /// True if the cells of all zooms were encoded when the rows were read, as far as there was room.
        are_encoded: bool,
    },
    Points(KeptFeatures),
    /// Points that are not kept yet, with the number of their positions that changed in the looks so far.
    Awaited(usize),
    /// They cannot be kept, so they are not read again.
    Refused,
}

/// The encoded cells of a layer.
#[derive(Debug)]
enum LiveCells {
    /// Whether they are what the database draws has not been compared yet.
    Unproven(KeptCellFeatures),
    Kept(KeptCellFeatures),
    /// The database draws the layer's cells.
    Refused,
}

impl LiveCells {
    fn bytes(&self) -> usize {
        match self {
            LiveCells::Unproven(cells) | LiveCells::Kept(cells) => cells.bytes(),
            LiveCells::Refused => 0,
        }
    }
}

impl LiveKind {
    fn bytes(&self) -> usize {
        match self {
            LiveKind::Cells { rows, features, .. } => rows.bytes() + features.bytes(),
            LiveKind::Points(rows) => rows.bytes(),
            LiveKind::Awaited(_) | LiveKind::Refused => 0,
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, LiveKind::Cells { .. } | LiveKind::Points(_))
    }
}

/// The most changed positions between two looks. With more, the rows are read anew. A list of facilities that is
/// switched off changes a tenth of 1,200,000 rows at once.
pub(crate) const MAX_CHANGED_POSITIONS: usize = 200_000;

/// Adds a change to the changed positions of a layer, in world units. They become `None` if it is no single position,
/// or one too many.
pub(crate) fn note_position(positions: &mut Option<Vec<[f64; 2]>>, spot: &ChangeLocation) {
    match (positions.as_mut(), spot.position()) {
        (Some(known), Some(at)) if known.len() < MAX_CHANGED_POSITIONS => known.push(at),
        _ => *positions = None,
    }
}

/// How far from a changed position its row may lie, in world units: the log and the survey compute positions alike, but
/// perhaps by another build of PostGIS since the row was read.
const TOLERANCE: f64 = 2.0;

/// The rows of a layer of cells are kept once a look wants cells of this zoom or a shallower one: its tiles span so
/// much of the world that counting them reads most rows.
const MAX_KEPT_ZOOM: u8 = 4;

/// The number of rows that the database reads and aggregates for a tile in the time in which it looks one lone row up.
const LONE_LOOKUP_COST: u64 = 2;

/// The longest time for which rows are kept. A condition may change without a change of the table, as one with `now()`
/// does.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(600);

/// True if live rows of the layer can be brought up to date position by position: an index finds the rows of a square.
fn is_suited(layer: &Layer) -> bool {
    layer.has_spatial_index
        && layer.shape.has_closed_form_points()
        && !layer.shape.geography
        && !layer.is_query()
        && !layer.differs_by_zoom()
        && !layer.repairs()
}

impl LiveRows {
    /// The number of layers of points whose rows are kept.
    pub(crate) async fn point_layers(&self) -> usize {
        self.0.lock().await.iter().filter(|kept| matches!(kept.rows, LiveKind::Points(_))).count()
    }

    /// True if each layer whose rows are kept has one of these definitions.
    pub(crate) async fn are_of(&self, definitions: &[String]) -> bool {
        let layers = self.0.lock().await;
        layers.iter().filter(|kept| kept.rows.is_kept()).all(|kept| definitions.contains(&kept.definition))
    }

    /// True if rows are so old that they are dropped by the next look.
    pub(crate) async fn are_old(&self) -> bool {
        self.0.lock().await.iter().any(|kept| kept.rows.is_kept() && kept.age() >= MAX_AGE)
    }

    /// The definitions of the layers whose rows are to be read: those of which much has changed that are not kept yet,
    /// those whose cells are not encoded, and those that are kept for half of the time after which they are dropped.
    pub(crate) async fn wanted(&self) -> Vec<String> {
        let is_wanted = |kept: &&LiveLayer| match kept.rows {
            LiveKind::Awaited(positions) => positions >= points::MIN_CHANGED_POSITIONS,
            LiveKind::Refused => false,
            LiveKind::Cells { features: LiveCells::Unproven(_) | LiveCells::Kept(_), are_encoded: false, .. } => {
                !kept.is_alone
            }
            LiveKind::Cells { .. } | LiveKind::Points(_) => !kept.is_alone && kept.age() >= MAX_AGE / 2,
        };
        self.0.lock().await.iter().filter(is_wanted).map(|kept| kept.definition.clone()).collect()
    }

    /// Takes the rows of `others` over. Rows that are kept stay if the others were refused.
    pub(crate) async fn take_over(&self, others: LiveRows) {
        let mut layers = self.0.lock().await;
        for other in others.0.into_inner() {
            let place = layers.iter().position(|kept| kept.definition == other.definition);
            match place {
                Some(place) if other.rows.is_kept() || !layers[place].rows.is_kept() => layers[place] = other,
                Some(place) => layers[place].is_alone = true,
                None => layers.push(other),
            }
        }
    }

    /// Notes that rows that were read to replace those of some layers could not be used: others are read once these are
    /// dropped.
    pub(crate) async fn note_not_replaced(&self, definitions: &[String]) {
        for kept in self.0.lock().await.iter_mut().filter(|kept| definitions.contains(&kept.definition)) {
            kept.is_alone = true;
        }
    }

    /// True if rows of the layer are kept, or were refused.
    pub(crate) async fn has(&self, layer: &Layer) -> bool {
        let definition = layer.definition();
        self.0.lock().await.iter().any(|kept| kept.definition == definition)
    }

    /// The definitions of the layers whose rows are kept, or were refused.
    pub(crate) async fn definitions(&self) -> Vec<String> {
        self.0.lock().await.iter().map(|kept| kept.definition.clone()).collect()
    }

    pub(crate) async fn clear(&self) {
        self.0.lock().await.clear();
    }

    /// The number of rows of points that came or went since they were read, or joined with what had changed.
    pub(crate) async fn changed(&self) -> usize {
        let layers = self.0.lock().await;
        layers.iter().map(|kept| if let LiveKind::Points(rows) = &kept.rows { rows.changed() } else { 0 }).sum()
    }

    /// The number of kept rows of points, and the memory of all kept rows in bytes.
    pub(crate) async fn size(&self) -> (usize, usize) {
        let layers = self.0.lock().await;
        let points = layers.iter().map(|kept| if let LiveKind::Points(rows) = &kept.rows { rows.len() } else { 0 });
        (points.sum(), bytes(&layers))
    }

    /// The bytes of features of kept rows in scratch files.
    pub(crate) async fn file_bytes(&self) -> u64 {
        let layers = self.0.lock().await;
        layers.iter().map(|kept| if let LiveKind::Points(rows) = &kept.rows { rows.file_bytes() } else { 0 }).sum()
    }

    /// Brings the rows of a layer from the state `step.since` to the step's snapshot, if they are kept. They are
    /// dropped if they are of another state, or if the changed positions are not known. Returns where they differ now;
    /// `None` if that is not known.
    pub(crate) async fn bring(
        &self,
        step: LiveStep<'_>,
        layer: &Layer,
        changed: Option<&[[f64; 2]]>,
    ) -> Result<Option<DifferingSquares>, Error> {
        bring(&mut *self.0.lock().await, step, layer, changed).await
    }

    /// Notes that the tiles of a publication show the rows that are those of the step's snapshot.
    pub(crate) async fn note_shown(&self, step: LiveStep<'_>, publication: &str) {
        for kept in self.0.lock().await.iter_mut().filter(|kept| kept.is_of(step)) {
            kept.shown_by = Some(publication.to_owned());
        }
    }

    /// True if a layer's tiles in a publication, which shows the state `since`, differ from what the database shows now
    /// only where the layer's rows, once [brought](LiveRows::bring) to that state, do.
    pub(crate) async fn tell_differences(&self, layer: &Layer, since: &str, publication: &str) -> bool {
        let definition = layer.definition();
        let tells = |kept: &LiveLayer| {
            let is_shown = kept.cursor == since && kept.shown_by.as_deref() == Some(publication);
            kept.definition == definition && kept.rows.is_kept() && kept.hold_all && is_shown
        };
        self.0.lock().await.iter().any(tells)
    }

    pub(crate) async fn read_cells(
        &self,
        step: LiveStep<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
    ) -> Result<(), Error> {
        read_cells(&mut *self.0.lock().await, step, layer, folds).await
    }

    /// The counted cells of a layer around some tiles. Its rows are read if they are not kept yet and the tiles span
    /// much of the world. `None` if the rows are not kept, so that a survey has to count.
    pub(crate) async fn counts(
        &self,
        step: LiveStep<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        shown: &[TileRect],
    ) -> Result<Option<Arc<CellCounts>>, Error> {
        let Some(grid) = layer.grid().filter(|_| is_suited(layer) && step.memory > 0) else { return Ok(None) };
        let mut layers = self.0.lock().await;
        let definition = layer.definition();
        let is_current = |kept: &LiveLayer| match &kept.rows {
            LiveKind::Cells { folds: own, .. } => own.as_ref() == folds && kept.is_of(step),
            _ => true,
        };
        layers.retain(|kept| kept.definition != definition || is_current(kept));
        let place = match layers.iter().position(|kept| kept.definition == definition) {
            Some(place) => place,
            None if shown.iter().all(|tiles| tiles.zoom.get() > MAX_KEPT_ZOOM) => return Ok(None),
            None => {
                read_cells(&mut layers, step, layer, folds).await?;
                layers.len() - 1
            }
        };
        let LiveKind::Cells { rows, features, .. } = &layers[place].rows else { return Ok(None) };
        let wanted = folds.map(|folds| folds.wanted_folds(layer));
        // The rows are in memory: the choice is between lone rows that are looked up, once if their features are kept,
        // and the database, which reads and aggregates all rows near each tile.
        let lone_cost = if matches!(features, LiveCells::Refused) { LONE_LOOKUP_COST } else { 0 };
        let wanted = wanted.map(|wanted| WantedFolds { lone_cost: wanted.lone_cost.min(lone_cost), ..wanted });
        // Cells that a tile shows may have members as far beyond it as its own cells reach.
        let needed = NeededPart::around(shown, |zoom| 2 * layer.reach(zoom));
        let rows = Arc::clone(rows);
        let memory = step.memory.saturating_sub(bytes(&layers));
        let counted = blocking(move || rows.counted(grid, wanted.as_ref(), &needed, memory)).await;
        Ok(Some(Arc::new(counted)))
    }
}

impl LiveLayer {
    fn new(definition: String, step: LiveStep<'_>, rows: LiveKind) -> LiveLayer {
        let snapshot = step.snapshot.exported().id.clone();
        LiveLayer {
            definition,
            cursor: step.now.to_owned(),
            snapshot,
            is_alone: false,
            read: Instant::now(),
            ages: true,
            hold_all: false,
            shown_by: None,
            rows,
            why_no_facets: None,
            joining: Joining::default(),
        }
    }

    /// The memory that the rows take, in bytes.
    fn bytes(&self) -> usize {
        self.rows.bytes() + self.joining.bytes()
    }

    /// The time since the rows were read, as far as it matters.
    fn age(&self) -> Duration {
        if self.ages { self.read.elapsed() } else { Duration::ZERO }
    }

    /// True if the rows are those of the step's snapshot.
    fn is_of(&self, step: LiveStep<'_>) -> bool {
        self.cursor == step.now && self.snapshot == step.snapshot.exported().id
    }

    /// Replaces the rows at changed positions. Returns where they differ from those before; `None` if they must not be
    /// used after that.
    async fn advance(
        &mut self,
        step: LiveStep<'_>,
        layer: &Layer,
        changed: &[[f64; 2]],
    ) -> Result<Option<DifferingSquares>, Error> {
        if changed.len() > MAX_CHANGED_POSITIONS {
            return Ok(None);
        }
        if let LiveKind::Points(rows) = &mut self.rows
            && (rows.have_failed() || !self.joining.go_on(rows).await)
        {
            return Ok(None);
        }
        let squares = Squares::around(changed);
        step.snapshot.keeper.set_savepoint().await?;
        match &mut self.rows {
            LiveKind::Cells { .. } if changed.is_empty() => Ok(Some(DifferingSquares::default())),
            LiveKind::Cells { folds, rows, features, .. } => match Arc::get_mut(rows) {
                Some(rows) => rows.advance(step, layer, folds.as_ref(), &squares, features).await,
                None => Ok(None),
            },
            LiveKind::Points(rows) => {
                let room = LiveStep { memory: step.memory.saturating_sub(self.joining.bytes()), ..step };
                let advanced = points::advance(rows, &mut self.why_no_facets, room, layer, squares).await?;
                let may_stay = self.joining.begin_if_due(rows, layer, step.memory);
                Ok(advanced.filter(|_| may_stay))
            }
            LiveKind::Awaited(_) | LiveKind::Refused => Ok(Some(DifferingSquares::default())),
        }
    }
}

/// The memory that rows take, in bytes.
fn bytes(layers: &[LiveLayer]) -> usize {
    layers.iter().map(LiveLayer::bytes).sum()
}

/// Reads the rows of a layer of cells, of which `layers` has none.
async fn read_cells(
    layers: &mut Vec<LiveLayer>,
    step: LiveStep<'_>,
    layer: &Layer,
    folds: Option<&FoldedValues>,
) -> Result<(), Error> {
    let memory = step.memory.saturating_sub(bytes(layers));
    step.snapshot.keeper.set_savepoint().await?;
    let read = LiveCellRows::read(step, layer, folds, memory).await;
    let rows = step.snapshot.keeper.or_without(read, &layer.name, NOT_KEPT).await?.flatten();
    let features =
        if has_cacheable_cells(layer) { LiveCells::Unproven(KeptCellFeatures::default()) } else { LiveCells::Refused };
    let rows = rows.map_or(LiveKind::Refused, |rows| LiveKind::Cells {
        folds: folds.cloned(),
        rows: Arc::new(rows),
        features,
        are_encoded: false,
    });
    // A row that is alone in its cell may be drawn with more than what is kept of it.
    let hold_all = rows.is_kept() && !layer.keeps_lone() && {
        let values = folds.map_or(&[][..], |folds| &folds.0);
        let values: Vec<&str> = values.iter().map(|value| value.sql.as_str()).collect();
        shows_rows_as_written(step.snapshot, layer, &values).await?
    };
    layers.push(LiveLayer { hold_all, ..LiveLayer::new(layer.definition(), step, rows) });
    Ok(())
}

/// What happens to a layer whose rows cannot be read.
const NOT_KEPT: &str = "its rows are not kept";

async fn bring(
    layers: &mut Vec<LiveLayer>,
    step: LiveStep<'_>,
    layer: &Layer,
    changed: Option<&[[f64; 2]]>,
) -> Result<Option<DifferingSquares>, Error> {
    let definition = layer.definition();
    let Some(place) = layers.iter().position(|kept| kept.definition == definition) else { return Ok(None) };
    let others = bytes(layers) - layers[place].bytes();
    let step = LiveStep { memory: step.memory.saturating_sub(others), ..step };
    let kept = &mut layers[place];
    if !kept.rows.is_kept() || kept.is_of(step) {
        return Ok(None);
    }
    // If this look publishes nothing, no tiles show what the rows are now.
    kept.shown_by = None;
    let brought = match changed.filter(|_| kept.cursor == step.since && kept.age() < MAX_AGE) {
        Some(changed) => kept.advance(step, layer, changed).await,
        None => Ok(None),
    };
    // Whatever fails now, the rows are no longer of the state that they are said to be of.
    if let Ok(Some(differing)) = brought {
        step.now.clone_into(&mut kept.cursor);
        kept.snapshot.clone_from(&step.snapshot.exported().id);
        return Ok(Some(differing));
    }
    layers.swap_remove(place);
    let brought = step.snapshot.keeper.or_without(brought, &layer.name, "its live rows are dropped").await?;
    if brought.is_some() {
        tracing::debug!("layer \"{}\": its live rows are of another state: they are read anew", layer.name);
    }
    Ok(None)
}

/// The squares around changed positions in which rows came, went or are others than before.
#[derive(Debug, Default)]
pub(crate) struct DifferingSquares(BTreeSet<[u32; 2]>);

impl DifferingSquares {
    /// These squares, and those of some positions in world units.
    fn and_at(mut self, positions: &[[f64; 2]]) -> DifferingSquares {
        self.0.extend(positions.iter().map(|at| Squares::square(*at)));
        self
    }

    /// True if a row at this changed position, in world units, may differ from before.
    pub(crate) fn are_at(&self, position: [f64; 2]) -> bool {
        Squares::near(position).iter().any(|square| self.0.contains(square))
    }
}

/// Squares of the world whose rows are replaced, each a tile of the deepest zoom by its column and row.
#[derive(Debug)]
struct Squares {
    all: BTreeSet<[u32; 2]>,
    /// A bit for each column: it has a square. Most rows are in other columns.
    columns: Vec<u64>,
}

impl Squares {
    /// The squares around some positions in world units.
    fn around(positions: &[[f64; 2]]) -> Squares {
        let all: BTreeSet<[u32; 2]> = positions.iter().flat_map(|at| Squares::near(*at)).collect();
        let mut columns = vec![0; 1 << (Zoom::MAX.get() - 6)];
        for [x, _] in &all {
            columns[*x as usize / 64] |= 1 << (x % 64);
        }
        Squares { all, columns }
    }

    /// The squares in which the row of a position may lie.
    fn near([x, y]: [f64; 2]) -> [[u32; 2]; 4] {
        let corners =
            [[-TOLERANCE, -TOLERANCE], [TOLERANCE, -TOLERANCE], [-TOLERANCE, TOLERANCE], [TOLERANCE, TOLERANCE]];
        corners.map(|[dx, dy]| Squares::square([x + dx, y + dy]))
    }

    fn square(at: [f64; 2]) -> [u32; 2] {
        at.map(|unit| WorldBox::unit(unit) >> (32 - Zoom::MAX.get()))
    }

    /// True if a position in world units lies in one of them.
    fn hold(&self, at: [f64; 2]) -> bool {
        let square = Squares::square(at);
        self.columns[square[0] as usize / 64] & 1 << (square[0] % 64) != 0 && self.all.contains(&square)
    }

    /// Those of the squares, in their order, for which `differ` is true.
    fn some(&self, differ: &[bool]) -> DifferingSquares {
        DifferingSquares(self.all.iter().zip(differ).filter(|(_, differs)| **differs).map(|(at, _)| *at).collect())
    }

    fn rects(&self) -> Vec<TileRect> {
        self.all.iter().map(|[x, y]| TileRect { zoom: Zoom::MAX, x0: *x, y0: *y, x1: *x, y1: *y }).collect()
    }
}
