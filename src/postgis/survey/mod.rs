//! The survey: reads the positions of all features once, for planning.
//!
//! | file | subject |
//! |---|---|
//! | `pass` | one pass over a layer |
//! | `outline` | the outline of a geometry, from its WKB |
//! | `rows` | the position or box in a row |
//! | `gatherer` | rows gathered in cells while they are read |
//! | `folding`, `fold_reader` | the aggregates that are computed while rows are read, and the values that they need |
//! | `positions` | the positions of changed geometries |
//! | `covers` | the positions of changed geometries for which the change log holds covers |

mod covers;
mod fold_reader;
mod folding;
mod gatherer;
mod outline;
mod pass;
mod positions;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layer::Layer;
use super::session::{Error, Session, Snapshot};
use super::sql::{FoldedValues, needs_only_counts};
use crate::cells::CellCounts;
use crate::scratch::{MAX_POINTS_IN_MEMORY, PointFile};
use crate::tile::{Coverage, LayerFootprints, Zoom, ZoomList};

use pass::{PassResult, SurveyPass};

pub use positions::{ChangedGeometries, changed_positions};

/// Rows that cannot be drawn, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Why: "NULL", "empty", "not finite" (NaN or infinite coordinates), "unsupported" (a TIN, TRIANGLE or POLYHEDRALSURFACE), "outside" (beyond
    /// ±85.0511° or ±180°) or, for a query, "foreign" (in another reference system than the others).
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The keys of up to three of them.
    pub examples: Vec<String>,
}

/// The result of the survey of one layer.
#[derive(Debug)]
pub struct Surveyed {
    /// The positions of the layer's features, unless they are in `point_file`.
    pub places: LayerFootprints,
    /// The positions of the layer's features, if these are more points than should be kept in memory.
    pub point_file: Option<PointFile>,
    /// The counted cells, at the zooms at which the layer is drawn from them.
    pub counted: Option<Arc<CellCounts>>,
    /// The number of rows to be gathered when tiles are rendered, at each zoom whose cells are not counted.
    pub gathered: BTreeMap<Zoom, u64>,
    /// The number of rows that have a position, at the zoom with the most of them. `None` if the layer is not drawn at
    /// the zooms, or if its rows do not say where its tiles are.
    pub rows: Option<u64>,
    /// Rows that cannot be drawn.
    pub skipped: Vec<Skipped>,
    /// The number of large areas that are not valid polygons. Which tiles these fill is not known before they are rendered.
    pub invalid_areas: u64,
}

impl Surveyed {
    /// The result for a layer whose rows were read before, so that only their positions are known.
    #[must_use]
    pub fn of_places(places: LayerFootprints) -> Surveyed {
        Surveyed {
            rows: places.all().map(|places| places.len() as u64).max(),
            places,
            point_file: None,
            counted: None,
            gathered: BTreeMap::new(),
            skipped: Vec::new(),
            invalid_areas: 0,
        }
    }
}

/// Reads the positions of a layer's features. Features that are in no tile of the coverage at any of the zooms may be left out. `folds` are the
/// values that are folded while the rows are read (see [`foldable`]).
///
/// # Errors
/// If a query fails, or a stop was requested.
pub async fn survey(
    snapshot: &Snapshot,
    layer: &Layer,
    folds: Option<&FoldedValues>,
    coverage: &Coverage,
    zooms: &ZoomList,
) -> Result<Surveyed, Error> {
    survey_with(SurveyPass { snapshot, layer, folds, coverage, most_points: usize::MAX, readers: &[] }, zooms).await
}

/// Like [`survey`], but several sessions on the snapshot read in parallel if that is faster.
///
/// # Errors
/// If a query fails, or a stop was requested.
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

/// Like [`survey`], for a plan of all features: more than [`MAX_POINTS_IN_MEMORY`] points are kept in a scratch file. `readers` are sessions on the
/// snapshot that may read in parallel.
///
/// # Errors
/// If a query fails, a stop was requested, or the scratch file cannot be written.
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

async fn survey_with(pass: SurveyPass<'_>, zooms: &ZoomList) -> Result<Surveyed, Error> {
    let SurveyPass { snapshot, layer, folds, .. } = pass;
    if !zooms.iter().any(|zoom| layer.zooms.contains(zoom)) {
        return Ok(Surveyed {
            places: LayerFootprints::ByZoom(BTreeMap::new()),
            point_file: None,
            counted: None,
            gathered: BTreeMap::new(),
            rows: None,
            skipped: Vec::new(),
            invalid_areas: 0,
        });
    }
    let shown: Vec<Zoom> = zooms.iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
    if folds.is_some() {
        snapshot.keeper.set_savepoint().await?;
        match in_passes(pass, &shown).await {
            Err(Error::Query { source, .. } | Error::Layer { source: Some(source), .. }) => {
                // Perhaps no tile needs the row with the failing value, so the aggregates are computed when tiles are rendered.
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
        let PassResult { footprints, point_file, counts, gathered, rows, skipped, invalid_areas } =
            pass.at(shown).await?;
        let skipped = if skipped > 0 { pass.skipped(shown).await? } else { Vec::new() };
        let counted = counts.map(Arc::new);
        let rows = layer.has_countable_rows().then_some(rows);
        return Ok(Surveyed { places: footprints, point_file, counted, gathered, rows, skipped, invalid_areas });
    }
    // Each zoom has its own positions, which are kept in memory.
    let pass = SurveyPass { most_points: usize::MAX, ..pass };
    let (mut all, mut counted, mut gathered, mut most_skipped) = (BTreeMap::new(), None, BTreeMap::new(), (0, None));
    let mut most_rows = 0;
    for &zoom in shown {
        let PassResult { footprints, counts, gathered: of_zoom, rows, skipped, .. } = pass.at(&[zoom]).await?;
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
        places: LayerFootprints::ByZoom(all),
        point_file: None,
        counted: counted.map(Arc::new),
        gathered,
        rows: layer.has_countable_rows().then_some(most_rows),
        skipped,
        invalid_areas: 0,
    })
}

/// Counts the rows of a layer as a survey does ([`Surveyed::rows`]), without reading their positions.
///
/// # Errors
/// If a query fails, or a stop was requested.
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

/// The values from which all aggregates of a layer's cells can be folded while its rows are read; `None` if not all of them can be folded, or there
/// are no aggregates.
///
/// # Errors
/// If the session is lost, or a stop was requested.
pub async fn foldable(snapshot: &Snapshot, layer: &Layer) -> Result<Option<Arc<FoldedValues>>, Error> {
    Ok(FoldedValues::look_up(snapshot, layer).await?.map(Arc::new))
}

/// True if the cells of a layer are drawn from the counts and folded values of the survey.
#[must_use]
pub fn counts_cells(layer: &Layer, folds: Option<&FoldedValues>) -> bool {
    folds.is_some() || needs_only_counts(layer)
}

impl Layer {
    /// True if a survey of all rows may count the layer's cells at a zoom. The survey still does not count them if [`foldable`] finds that the
    /// aggregates cannot be folded.
    #[must_use]
    pub fn may_be_counted(&self, zoom: Zoom) -> bool {
        let has_few = self.grid().is_some_and(|grid| grid.has_few_cells(zoom));
        self.zooms.contains(zoom) && (has_few || needs_only_counts(self))
    }
}
