//! The survey: reads the positions of all features once, for planning.
//!
//! | file | subject |
//! |---|---|
//! | `folding` | rows gathered in cells while they are read; the aggregates that are computed while rows are read, and the values that they need |
//! | `positions` | the positions of changed geometries |
//! | `repaired` | the shapes that the survey repaired, for the statements that draw |
//! | `outline` | the outline of a geometry, from its WKB; the positions of changed geometries for which the change log holds covers |

mod folding;
mod outline;
mod positions;
mod repaired;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use folding::{GatheredCells, Gatherer};
use futures_util::future::join_all;
pub(crate) use outline::Outlines;
use parking_lot::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::layer::{Facet, FrequentValue, Layer, QueryValues, explain, search_boxes};
use super::session::{Error, Param, Session, Snapshot};
use super::split::RowScan;
use super::sql::{FoldedValues, needs_only_counts};
use crate::cells::CellCounts;
use crate::postgis::{split, sql};
use crate::scratch::{MAX_POINTS_IN_MEMORY, PointFile, PointSorter, SortedPlaces};
use crate::threads::blocking;
use crate::tile::{
    BoxFootprint, Coverage, Footprints, LayerFootprints, SortedPoints, SourceBox, WorldBox, WorldRect, Zoom, ZoomList,
    single_above, single_below,
};

pub(crate) use folding::FoldReader;
pub(crate) use positions::{ChangedGeometries, changed_positions};
pub(crate) use repaired::RepairedShapes;

/// Rows that cannot be drawn, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Why: "NULL", "empty", "not finite" (NaN or infinite coordinates), "unsupported" (a TIN, TRIANGLE or
    /// POLYHEDRALSURFACE), "outside" (beyond ±85.0511° or ±180°) or, for a query, "foreign" (in another reference
    /// system than the others).
    pub reason: String,
    pub rows: u64,
    /// The keys of up to three of them.
    pub examples: Vec<String>,
}

/// The result of the survey of one layer.
#[derive(Debug)]
pub(crate) struct Surveyed {
    /// The positions of the layer's features, unless they are in `point_file`.
    pub footprints: LayerFootprints,
    /// The positions of the layer's features, if these are more points than should be kept in memory.
    pub point_file: Option<PointFile>,
    /// The counted cells, at the zooms at which the layer is drawn from them.
    pub(crate) counted: Option<Arc<CellCounts>>,
    /// The number of rows to be gathered when tiles are rendered, at each zoom whose cells are not counted.
    pub(crate) gathered: BTreeMap<Zoom, u64>,
    /// The number of rows that have a position, at the zoom with the most of them. `None` if the layer is not drawn at
    /// the zooms, or if its rows do not say where its tiles are.
    pub rows: Option<u64>,
    /// Rows that cannot be drawn.
    pub skipped: Vec<Skipped>,
    /// The number of large areas that are not valid polygons. Which tiles these fill is not known before they are
    /// rendered.
    pub(crate) invalid_areas: u64,
    /// The shapes of all rows that the survey repaired; `None` if it repaired none of the layer's rows because the
    /// layer does not ask for it, or too many.
    pub(crate) repaired: Option<Arc<RepairedShapes>>,
}

impl Surveyed {
    /// The result for a layer whose rows were read before, so that only their positions are known.
    pub(crate) fn of_footprints(footprints: LayerFootprints) -> Surveyed {
        Surveyed {
            rows: footprints.all().map(|footprints| footprints.len() as u64).max(),
            footprints,
            point_file: None,
            counted: None,
            gathered: BTreeMap::new(),
            skipped: Vec::new(),
            invalid_areas: 0,
            repaired: None,
        }
    }
}

/// Reads the positions of a layer's features. Features that are in no tile of the coverage at any of the zooms may be
/// left out. `folds` are the values that are folded while the rows are read (see [`foldable`]).
pub(crate) async fn survey(
    snapshot: &Snapshot,
    layer: &Layer,
    folds: Option<&FoldedValues>,
    coverage: &Coverage,
    zooms: &ZoomList,
) -> Result<Surveyed, Error> {
    survey_with(SurveyPass { snapshot, layer, folds, coverage, most_points: usize::MAX, readers: &[] }, zooms).await
}

/// Like [`survey`], but several sessions on the snapshot read in parallel if that is faster.
pub(crate) async fn survey_side_by_side(
    snapshot: &Snapshot,
    layer: &Layer,
    coverage: &Coverage,
    zooms: &ZoomList,
    readers: &[&Session],
) -> Result<Surveyed, Error> {
    let pass = SurveyPass { snapshot, layer, folds: None, coverage, most_points: usize::MAX, readers };
    survey_with(pass, zooms).await
}

/// Like [`survey`], for a plan of all features: more than [`MAX_POINTS_IN_MEMORY`] points are kept in a scratch file.
/// `readers` are sessions on the snapshot that may read in parallel. Fails if a query fails, a stop was requested, or
/// the scratch file cannot be written.
pub(crate) async fn survey_for_plan(
    snapshot: &Snapshot,
    layer: &Layer,
    folds: Option<&FoldedValues>,
    coverage: &Coverage,
    zooms: &ZoomList,
    readers: &[&Session],
) -> Result<Surveyed, Error> {
    survey_with(SurveyPass { snapshot, layer, folds, coverage, most_points: MAX_POINTS_IN_MEMORY, readers }, zooms)
        .await
}

/// Counts all rows of the table that a layer draws, those included that cannot be drawn. `None` if its rows come from a
/// query, a view or a foreign table, where counting them may take as long as reading them.
pub(crate) async fn count_of_table(snapshot: &Snapshot, layer: &Layer) -> Result<Option<u64>, Error> {
    if !split::is_table(&snapshot.keeper, layer).await? {
        return Ok(None);
    }
    let context = format!("layer \"{}\", counting its rows", layer.name);
    let counted = snapshot.keeper.one(&context, &sql::count_of_table(layer), &[]).await;
    Ok(Some(counted.map_err(|error| explain(error, layer))?.get::<_, i64>(0).cast_unsigned()))
}

/// The result of a survey of a whole table of which `footprints` are known from rows that were read before, on the same
/// snapshot. `all` is the number of rows that the table has.
pub(crate) async fn survey_of_read_rows(
    snapshot: &Snapshot,
    layer: &Layer,
    footprints: LayerFootprints,
    all: u64,
) -> Result<Surveyed, Error> {
    let surveyed = Surveyed::of_footprints(footprints);
    if surveyed.rows == Some(all) {
        return Ok(surveyed);
    }
    let world = Coverage::new(&[]);
    let pass = SurveyPass { snapshot, layer, folds: None, coverage: &world, most_points: usize::MAX, readers: &[] };
    Ok(Surveyed { skipped: pass.skipped(&layer.zooms().iter().collect::<Vec<_>>()).await?, ..surveyed })
}

async fn survey_with(pass: SurveyPass<'_>, zooms: &ZoomList) -> Result<Surveyed, Error> {
    let SurveyPass { snapshot, layer, folds, .. } = pass;
    if !zooms.iter().any(|zoom| layer.zooms.contains(zoom)) {
        return Ok(Surveyed::of_footprints(LayerFootprints::ByZoom(BTreeMap::new())));
    }
    let shown: Vec<Zoom> = zooms.iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
    if folds.is_some() {
        snapshot.keeper.set_savepoint().await?;
        match in_passes(pass, &shown).await {
            Err(Error::Query { source, .. } | Error::Layer { source: Some(source), .. }) => {
                // Perhaps no tile needs the row with the failing value, so the aggregates are computed when tiles are
                // rendered.
                tracing::debug!("layer \"{}\": its aggregates are not folded: {source}", layer.name);
                snapshot.keeper.return_to_savepoint().await?;
            }
            done => return done,
        }
    }
    in_passes(SurveyPass { folds: None, ..pass }, &shown).await
}

/// One pass for all zooms, or one for each zoom if the layer's rows differ from zoom to zoom.
async fn in_passes(pass: SurveyPass<'_>, shown: &[Zoom]) -> Result<Surveyed, Error> {
    let layer = pass.layer;
    if !layer.differs_by_zoom() {
        let PassResult { footprints, point_file, counts, gathered, rows, skipped, invalid_areas, repaired } =
            pass.at(shown).await?;
        let repaired = repaired.map(Arc::new);
        let skipped = if skipped > 0 { pass.skipped(shown).await? } else { Vec::new() };
        let counted = counts.map(Arc::new);
        let rows = layer.has_countable_rows().then_some(rows);
        return Ok(Surveyed { footprints, point_file, counted, gathered, rows, skipped, invalid_areas, repaired });
    }
    // Each zoom has its own positions, which are kept in memory.
    let pass = SurveyPass { most_points: usize::MAX, ..pass };
    let (mut all, mut counted, mut gathered, mut most_skipped) = (BTreeMap::new(), None, BTreeMap::new(), (0, None));
    let (mut most_rows, mut repaired) = (0, Some(RepairedShapes::default()));
    for &zoom in shown {
        let PassResult { footprints, counts, gathered: of_zoom, rows, skipped, repaired: own, .. } =
            pass.at(&[zoom]).await?;
        repaired = repaired.zip(own).and_then(|(all, own)| all.joined(own));
        gathered.extend(of_zoom);
        most_rows = most_rows.max(rows);
        if let Some(counts) = counts {
            counted.get_or_insert_with(CellCounts::default).join(counts);
        }
        match footprints {
            LayerFootprints::Same(footprints) if layer.is_found_by_area() => {
                drop(all.insert(zoom, footprints.compact()));
            }
            LayerFootprints::Same(footprints) => drop(all.insert(zoom, footprints)),
            LayerFootprints::ByZoom(own) => all.extend(own),
        }
        most_skipped = most_skipped.max((skipped, Some(zoom)));
    }
    // Usually the same rows are skipped at many zooms, so only the skipped rows of one zoom are reported.
    let skipped = match most_skipped {
        (1.., Some(zoom)) => pass.skipped(&[zoom]).await?,
        _ => Vec::new(),
    };
    Ok(Surveyed {
        footprints: LayerFootprints::ByZoom(all),
        point_file: None,
        counted: counted.map(Arc::new),
        gathered,
        rows: layer.has_countable_rows().then_some(most_rows),
        skipped,
        invalid_areas: 0,
        repaired: repaired.map(Arc::new),
    })
}

/// Counts the rows of a layer as a survey does ([`Surveyed::rows`]), without reading their positions.
pub(crate) async fn count_rows(
    snapshot: &Snapshot,
    layer: &Layer,
    coverage: &Coverage,
    zooms: &ZoomList,
) -> Result<Option<u64>, Error> {
    let shown: Vec<Zoom> = zooms.iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
    if shown.is_empty() || !layer.has_countable_rows() {
        return Ok(None);
    }
    let pass = SurveyPass { snapshot, layer, folds: None, coverage, most_points: usize::MAX, readers: &[] };
    if !layer.differs_by_zoom() {
        return pass.count(&shown).await.map(Some);
    }
    let mut most = 0;
    for zoom in shown {
        most = most.max(pass.count(&[zoom]).await?);
    }
    Ok(Some(most))
}

/// The rows of a layer that a survey finds a position of, and the box in which they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowCountAndBox {
    pub(crate) rows: u64,
    /// `None` without rows.
    pub(crate) within: Option<WorldRect>,
}

/// Counts the rows of a layer as [`count_rows`] does, at its deepest zoom, with the box in which they lie.
pub(crate) async fn count_rows_and_box(session: &Session, layer: &Layer) -> Result<RowCountAndBox, Error> {
    let (zoom, world) = (layer.zooms.max(), Coverage::new(&[]));
    let values = QueryValues::of_coverage(layer, &world, &[zoom]);
    let params: Vec<Param<'_>> = values.params(layer).collect();
    let context = format!("layer \"{}\", counting its rows", layer.name);
    let row = session.one(&context, &sql::row_count_and_box(layer, zoom), &params).await;
    let row = row.map_err(|error| explain(error, layer))?;
    let sides: [Option<i64>; 4] = [1, 2, 3, 4].map(|column| row.get(column));
    let within = match sides {
        [Some(west), Some(north), Some(east), Some(south)] => Some(WorldRect { west, north, east, south }),
        _ => None,
    };
    Ok(RowCountAndBox { rows: row.get::<_, i64>(0).cast_unsigned(), within })
}

/// The `most` most frequent values of a facet among a layer's rows.
pub(crate) async fn frequent_values(
    session: &Session,
    layer: &Layer,
    facet: &Facet,
    most: usize,
) -> Result<Vec<FrequentValue>, Error> {
    let context = format!("layer \"{}\", counting the values of its facet \"{}\"", layer.name, facet.column);
    let statement = sql::frequent_values(layer, facet, most);
    let mut values = Vec::new();
    let each = |row: &Row| {
        values.push(FrequentValue { value: row.get(0), rows: row.get::<_, i64>(1).cast_unsigned() });
        Ok(())
    };
    session.each(&context, &statement, &[], each).await?;
    Ok(values)
}

/// The values from which all aggregates of a layer's cells can be folded while its rows are read; `None` if not all of
/// them can be folded, or there are no aggregates.
pub(crate) async fn foldable(snapshot: &Snapshot, layer: &Layer) -> Result<Option<Arc<FoldedValues>>, Error> {
    Ok(FoldedValues::look_up(snapshot, layer).await?.map(Arc::new))
}

/// True if the cells of a layer are drawn from the counts and folded values of the survey.
pub(crate) fn counts_cells(layer: &Layer, folds: Option<&FoldedValues>) -> bool {
    folds.is_some() || needs_only_counts(layer)
}

impl Layer {
    /// True if a survey of all rows may count the layer's cells at a zoom. The survey still does not count them if
    /// [`foldable`] finds that the aggregates cannot be folded.
    pub(crate) fn may_be_counted(&self, zoom: Zoom) -> bool {
        let has_few = self.grid().is_some_and(|grid| grid.has_few_cells(zoom));
        self.zooms.contains(zoom) && (has_few || needs_only_counts(self))
    }
}

// One pass over a layer, which reads the positions of its features at some zooms.

pub(crate) struct PassResult {
    /// The positions of features, which are the same for all zooms unless rows are gathered in cells.
    pub(crate) footprints: LayerFootprints,
    /// The points of all features, if they are more than the pass keeps in memory; the footprints are then empty.
    pub(crate) point_file: Option<PointFile>,
    /// The counted cells, if the layer can be drawn from them.
    pub(crate) counts: Option<CellCounts>,
    /// The number of rows to be gathered when tiles are rendered, at each zoom whose cells are not counted.
    pub(crate) gathered: BTreeMap<Zoom, u64>,
    /// The number of rows that have a position.
    pub(crate) rows: u64,
    /// The number of rows that cannot be drawn.
    pub(crate) skipped: u64,
    /// The number of large areas that are not valid polygons.
    pub(crate) invalid_areas: u64,
    pub(crate) repaired: Option<RepairedShapes>,
}

/// One pass over a layer.
#[derive(Clone, Copy)]
pub(crate) struct SurveyPass<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) layer: &'a Layer,
    pub(crate) folds: Option<&'a FoldedValues>,
    pub(crate) coverage: &'a Coverage,
    /// The most points in memory; more are kept in a scratch file.
    pub(crate) most_points: usize,
    /// Sessions on the snapshot that read parts of the layer's rows in parallel, unless these are gathered in cells. If
    /// there are none, the session that holds the snapshot reads everything.
    pub(crate) readers: &'a [&'a Session],
}

impl SurveyPass<'_> {
    fn context(&self) -> String {
        format!("layer \"{}\", reading where its features lie", self.layer.name)
    }

    /// Reads the positions of the layer's features at `zooms`, at all of which the layer's query must return the same
    /// rows.
    pub(crate) async fn at(&self, zooms: &[Zoom]) -> Result<PassResult, Error> {
        let SurveyPass { snapshot, layer, folds, coverage, most_points, readers } = *self;
        let searched = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = searched.iter().flatten().map(|column| (column as _, Type::FLOAT8_ARRAY));
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let (mut rows, mut skipped) = (0_u64, 0_u64);
        let (mut points, mut boxes) = (PointSorter::new(most_points), Vec::new());
        let mut outlines = Outlines::of(layer, &snapshot.keeper, &self.context()).await?;
        let mut cells = layer.grid().map(|grid| Gatherer::start(layer, folds, grid, zooms));
        let no_room = |source: io::Error| Error::Scratch { layer: layer.name.clone(), source };
        let has_packed_points = layer.shape.has_closed_form_points();
        let mut repaired = layer.is_repaired_once().then(RepairedShapes::default);
        let each = |row: &Row| {
            let position = if let Some(cells) = &mut cells {
                cells.add(row)
            } else if has_packed_points {
                match row.get::<_, Option<i64>>(0) {
                    Some(position) => Some(points.add(position.cast_unsigned()).map_err(no_room)?),
                    None => None,
                }
            } else {
                let footprint = box_footprint(row);
                repaired = repaired.take().and_then(|shapes| shapes.with_row(row, footprint));
                footprint.map(|footprint| {
                    if layer.lists_tiles() {
                        outlines.add(boxes.len(), row);
                    }
                    boxes.push(footprint);
                })
            };
            rows += u64::from(position.is_some());
            skipped += u64::from(position.is_none());
            Ok(())
        };
        let (near, deepest) = (searched.as_ref().map_or(0, |columns| columns[0].len()), zooms.last().copied());
        let in_parts = layer.grid().is_none() && layer.function().is_none();
        let scan = RowScan { boxes: near, params: &params, with_values: false, rows: None };
        let parts = split::any_order(&snapshot.keeper, layer, scan, if in_parts { readers.len() } else { 1 }).await?;
        let sessions = if parts.len() > 1 { readers } else { &[&snapshot.keeper] };
        let (context, each) = (self.context(), Mutex::new(each));
        let reading = sessions.iter().zip(&parts).map(async |(session, part)| {
            let statement = sql::survey(layer, folds, near, deepest.unwrap_or(layer.zooms.max()), part);
            let one = |row: &Row| (*each.lock())(row);
            session.each(&context, &statement, &params, one).await
        });
        // All statements are waited for, even if one failed, because the sessions are used again.
        for read in join_all(reading).await {
            read.map_err(|error| explain(error, layer))?;
        }
        let (mut counts, mut gathered, mut point_file) = (None, BTreeMap::new(), None);
        let invalid_areas = if layer.is_same_in_each_tile() { outlines.invalid } else { 0 };
        let footprints = match cells {
            Some(cells) => {
                let GatheredCells { rows: members, footprints, counts: counted } = cells.finish().await;
                counts = counts_cells(layer, folds).then_some(counted);
                let is_counted = |zoom: &Zoom| counts.as_ref().is_some_and(|counts| counts.has(*zoom));
                gathered = zooms.iter().filter(|zoom| !is_counted(zoom)).map(|zoom| (*zoom, members)).collect();
                footprints
            }
            None if has_packed_points => {
                let sorted = blocking(move || points.finish()).await;
                let points = match sorted.map_err(no_room)? {
                    SortedPlaces::Memory(points) => points,
                    SortedPlaces::File(file) => {
                        point_file = Some(file);
                        SortedPoints::default()
                    }
                };
                LayerFootprints::Same(Footprints::Points(points))
            }
            None => LayerFootprints::Same(outlines.with(boxes)),
        };
        Ok(PassResult { footprints, point_file, counts, gathered, rows, skipped, invalid_areas, repaired })
    }

    /// Counts the rows that [`SurveyPass::at`] would read a position of.
    pub(crate) async fn count(&self, zooms: &[Zoom]) -> Result<u64, Error> {
        let SurveyPass { snapshot, layer, coverage, .. } = *self;
        let searched = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = searched.iter().flatten().map(|column| (column as _, Type::FLOAT8_ARRAY));
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let near = searched.as_ref().map_or(0, |columns| columns[0].len());
        let statement = sql::row_count(layer, near, zooms.last().copied().unwrap_or(layer.zooms.max()));
        let context = format!("layer \"{}\", counting its rows", layer.name);
        let counted = snapshot.keeper.one(&context, &statement, &params).await;
        Ok(counted.map_err(|error| explain(error, layer))?.get::<_, i64>(0).cast_unsigned())
    }

    /// Reads which rows cannot be drawn, and why.
    pub(crate) async fn skipped(&self, zooms: &[Zoom]) -> Result<Vec<Skipped>, Error> {
        let values = QueryValues::of_coverage(self.layer, self.coverage, zooms);
        let params: Vec<Param<'_>> = values.params(self.layer).collect();
        let rows = self.snapshot.keeper.all(&self.context(), &sql::skipped(self.layer), &params).await?;
        let skipped = rows.iter().map(|row| {
            let rows: i64 = row.get(1);
            Skipped { reason: row.get(0), rows: rows.cast_unsigned(), examples: row.get(2) }
        });
        Ok(skipped.collect())
    }
}

// Reads the rows of a survey.

/// The box of a row, from six columns: its corners, packed in two integers, and the sides of [`source_box`]. `None` for
/// a row that is skipped.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the halves are 32 bits wide")]
pub(crate) fn box_footprint(row: &Row) -> Option<BoxFootprint> {
    let (first, second): (i64, i64) = (row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?);
    let world = WorldBox::new((first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32);
    Some(BoxFootprint { world, source: source_box(row)? })
}

/// The position of a row that is gathered in a cell, from its first two columns: x, y in world units. `None` for a row
/// that is skipped.
pub(crate) fn position(row: &Row) -> Option<[f64; 2]> {
    Some([row.get::<_, Option<f64>>(0)?, row.get::<_, Option<f64>>(1)?])
}

/// The box of a row in the reference system of its column, rounded outwards, from the columns 2 to 5. `min_x` is
/// greater than `max_x` for a box that crosses ±180°.
pub(crate) fn source_box(row: &Row) -> Option<SourceBox<f32>> {
    let side = |column: usize| row.get::<_, Option<f64>>(column);
    let (x0, y0, x1, y1) = (side(2)?, side(3)?, side(4)?, side(5)?);
    let (below, above) = (single_below, single_above);
    if x0 > x1 {
        // A box that crosses ±180° is searched on each side of ±180° separately, so each side must lie inside the row.
        return Some(SourceBox { min_x: above(x0), min_y: below(y0), max_x: below(x1), max_y: above(y1) });
    }
    Some(SourceBox { min_x: below(x0), min_y: below(y0), max_x: above(x1), max_y: above(y1) })
}
