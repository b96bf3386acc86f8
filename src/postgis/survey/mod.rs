//! The survey: where every feature lies, read once, for planning.

mod changes;
mod fold_reader;
mod folding;
mod gatherer;
mod look;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layer::Layer;
use super::session::{Error, Snapshot};
use super::sql::{FoldedValues, needs_only_counts};
use crate::cells::CellCounts;
use crate::tile::{Coverage, LayerFootprints, Zoom, ZoomList};

use look::{PassResult, SurveyPass};

pub use changes::changed_positions;

/// Rows that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Why: "NULL", "empty", "not finite" (NaN or infinite coordinates), "unsupported" (a TIN, TRIANGLE or POLYHEDRALSURFACE),
    /// "outside" (beyond ±85.0511° or ±180°) or, of a query, "foreign" (in another reference system than the others).
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The keys of a few of them.
    pub examples: Vec<String>,
}

/// What one layer holds.
#[derive(Debug)]
pub struct Surveyed {
    /// Where its features lie.
    pub places: LayerFootprints,
    /// The cells, at the zooms at which nothing else has to be known of them.
    pub counted: Option<Arc<CellCounts>>,
    /// The rows that have to be gathered in cells when they are rendered, at the zooms at which they have to be.
    pub gathered: BTreeMap<Zoom, u64>,
    /// Rows that were left out.
    pub skipped: Vec<Skipped>,
}

/// Reads where a layer's features lie. Those that no tile of the coverage at one of the zooms shows may be left out. `folds` are the
/// values that are folded while the rows are read, if they are to be (see [`foldable`]).
///
/// # Errors
/// If the database cannot be asked, or a stop was asked for.
pub async fn survey(
    snapshot: &Snapshot,
    layer: &Layer,
    folds: Option<&FoldedValues>,
    coverage: &Coverage,
    zooms: &ZoomList,
) -> Result<Surveyed, Error> {
    if !zooms.iter().any(|zoom| layer.zooms.contains(zoom)) {
        return Ok(Surveyed {
            places: LayerFootprints::ByZoom(BTreeMap::new()),
            counted: None,
            gathered: BTreeMap::new(),
            skipped: Vec::new(),
        });
    }
    let shown: Vec<Zoom> = zooms.iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
    if folds.is_some() {
        snapshot.keeper.save().await?;
        match looked(SurveyPass { snapshot, layer, folds, coverage }, &shown).await {
            Err(Error::Query { source, .. } | Error::Layer { source: Some(source), .. }) => {
                // A value may be folded of a row that no tile needs: it is left to the tiles.
                tracing::debug!("layer \"{}\": its aggregates are not folded: {source}", layer.name);
                snapshot.keeper.restart().await?;
            }
            done => return done,
        }
    }
    looked(SurveyPass { snapshot, layer, folds: None, coverage }, &shown).await
}

async fn looked(look: SurveyPass<'_>, shown: &[Zoom]) -> Result<Surveyed, Error> {
    let layer = look.layer;
    if !layer.asks_each_zoom() {
        let PassResult { places, counts, gathered, left_out } = look.at(shown).await?;
        let skipped = if left_out > 0 { look.skipped(shown).await? } else { Vec::new() };
        return Ok(Surveyed { places, counted: counts.map(Arc::new), gathered, skipped });
    }
    let (mut all, mut counted, mut gathered, mut most) = (BTreeMap::new(), None, BTreeMap::new(), (0, None));
    for &zoom in shown {
        let PassResult { places, counts, gathered: rows, left_out } = look.at(&[zoom]).await?;
        gathered.extend(rows);
        if let Some(counts) = counts {
            counted.get_or_insert_with(CellCounts::default).join(counts);
        }
        match places {
            LayerFootprints::Same(footprints) if layer.is_found_by_area() => {
                drop(all.insert(zoom, footprints.compact()));
            }
            LayerFootprints::Same(footprints) => drop(all.insert(zoom, footprints)),
            LayerFootprints::ByZoom(own) => all.extend(own),
        }
        most = most.max((left_out, Some(zoom)));
    }
    // Mostly the same rows are left out at many zooms: they are named once.
    let skipped = match most {
        (1.., Some(zoom)) => look.skipped(&[zoom]).await?,
        _ => Vec::new(),
    };
    Ok(Surveyed { places: LayerFootprints::ByZoom(all), counted: counted.map(Arc::new), gathered, skipped })
}

/// The values from which all aggregates of a layer's cells can be folded while its rows are read; `None` if they cannot, or there are none.
///
/// # Errors
/// If the session is lost, or a stop was asked for.
pub async fn foldable(snapshot: &Snapshot, layer: &Layer) -> Result<Option<Arc<FoldedValues>>, Error> {
    Ok(FoldedValues::look_up(snapshot, layer).await?.map(Arc::new))
}

/// Whether a survey counts the cells of a layer: everything that is drawn of them is a number of rows, or is folded.
#[must_use]
pub fn counts_cells(layer: &Layer, folds: Option<&FoldedValues>) -> bool {
    folds.is_some() || needs_only_counts(layer)
}

impl Layer {
    /// Whether a survey of all rows may count the layer's cells at a zoom. Whether their aggregates can be folded is not looked at:
    /// [`foldable`] does.
    #[must_use]
    pub fn may_be_counted(&self, zoom: Zoom) -> bool {
        let has_few = self.grid().is_some_and(|grid| grid.has_few_cells(zoom));
        self.zooms.contains(zoom) && (has_few || needs_only_counts(self))
    }
}
