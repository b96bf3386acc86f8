//! One look at a layer: where its features lie at some zooms.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::gatherer::Gatherer;
use super::rows::box_footprint;
use super::{Skipped, counts_cells};
use crate::cells::CellCounts;
use crate::postgis::layer::{Layer, QueryValues, explained, search_boxes};
use crate::postgis::session::{Error, Param, Snapshot};
use crate::postgis::sql::{self, FoldedValues};
use crate::tile::{Coverage, Footprints, LayerFootprints, Zoom};

/// What one look has seen.
pub(in crate::postgis) struct PassResult {
    /// The same for all the zooms, unless features are put together in cells.
    pub(in crate::postgis) places: LayerFootprints,
    /// The cells, if their counts are all that is to be known.
    pub(in crate::postgis) counts: Option<CellCounts>,
    /// Else the rows that are put together.
    pub(in crate::postgis) gathered: BTreeMap<Zoom, u64>,
    /// Rows that cannot be drawn.
    pub(in crate::postgis) left_out: u64,
}

/// A look at where a layer's features lie.
pub(in crate::postgis) struct SurveyPass<'a> {
    pub(in crate::postgis) snapshot: &'a Snapshot,
    pub(in crate::postgis) layer: &'a Layer,
    /// The values that are folded, if any.
    pub(in crate::postgis) folds: Option<&'a FoldedValues>,
    pub(in crate::postgis) coverage: &'a Coverage,
}

impl SurveyPass<'_> {
    fn place(&self) -> String {
        format!("layer \"{}\", reading where its features lie", self.layer.name)
    }

    /// Where its features lie at some zooms.
    pub(in crate::postgis) async fn at(&self, zooms: &[Zoom]) -> Result<PassResult, Error> {
        let SurveyPass { snapshot, layer, folds, coverage } = *self;
        let boxes = search_boxes(layer, coverage, zooms);
        let statement = sql::survey(layer, folds, boxes.as_ref().map_or(0, |columns| columns[0].len()));
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| (column as _, Type::FLOAT8_ARRAY));
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let mut left_out = 0_u64;
        let (mut points, mut boxes) = (Vec::new(), Vec::new());
        let mut cells = layer.grid().map(|grid| Gatherer::start(layer, folds, grid, zooms));
        let each = |row: &Row| {
            let seen = if let Some(cells) = &mut cells {
                cells.add(row)
            } else if layer.shape.is_closed_form() {
                row.get::<_, Option<i64>>(0).map(|position| points.push(position.cast_unsigned()))
            } else {
                box_footprint(row).map(|footprint| boxes.push(footprint))
            };
            left_out += u64::from(seen.is_none());
            Ok(())
        };
        snapshot
            .keeper
            .each(&self.place(), &statement, &params, each)
            .await
            .map_err(|error| explained(error, layer))?;
        let (mut counts, mut gathered) = (None, BTreeMap::new());
        let places = match cells {
            Some(cells) => {
                let (rows, (places, counted)) = cells.finish().await;
                counts = counts_cells(layer, folds).then_some(counted);
                let is_counted = |zoom: &Zoom| counts.as_ref().is_some_and(|counts| counts.has(*zoom));
                gathered = zooms.iter().filter(|zoom| !is_counted(zoom)).map(|zoom| (*zoom, rows)).collect();
                places
            }
            None if layer.shape.is_closed_form() => LayerFootprints::Same(Footprints::Points(points)),
            None => LayerFootprints::Same(Footprints::Boxes(boxes)),
        };
        Ok(PassResult { places, counts, gathered, left_out })
    }

    /// The rows that cannot be drawn.
    pub(in crate::postgis) async fn skipped(&self, zooms: &[Zoom]) -> Result<Vec<Skipped>, Error> {
        let values = QueryValues::of_coverage(self.layer, self.coverage, zooms);
        let params: Vec<Param<'_>> = values.params(self.layer).collect();
        let rows = self.snapshot.keeper.all(&self.place(), &sql::skipped(self.layer), &params).await?;
        let skipped = rows.iter().map(|row| {
            let rows: i64 = row.get(1);
            Skipped { reason: row.get(0), rows: rows.cast_unsigned(), examples: row.get(2) }
        });
        Ok(skipped.collect())
    }
}
