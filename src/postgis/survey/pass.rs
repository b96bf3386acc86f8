//! One pass over a layer, which reads the positions of its features at some zooms.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::gatherer::{GatheredCells, Gatherer};
use super::outline::Outlines;
use super::rows::box_footprint;
use super::{Skipped, counts_cells};
use crate::cells::CellCounts;
use crate::postgis::layer::{Layer, QueryValues, explain, search_boxes};
use crate::postgis::session::{Error, Param, Session, Snapshot};
use crate::postgis::split::{self, RowScan};
use crate::postgis::sql::{self, FoldedValues};
use crate::scratch::{PointFile, PointSorter, SortedPlaces};
use crate::tile::{Coverage, Footprints, LayerFootprints, SortedPoints, Zoom};

/// The result of one pass.
pub(in crate::postgis) struct PassResult {
    /// The positions of features, which are the same for all zooms unless rows are gathered in cells.
    pub(in crate::postgis) footprints: LayerFootprints,
    /// The points of all features, if they are more than the pass keeps in memory; the footprints are then empty.
    pub(in crate::postgis) point_file: Option<PointFile>,
    /// The counted cells, if the layer can be drawn from them.
    pub(in crate::postgis) counts: Option<CellCounts>,
    /// The number of rows to be gathered when tiles are rendered, at each zoom whose cells are not counted.
    pub(in crate::postgis) gathered: BTreeMap<Zoom, u64>,
    /// The number of rows that have a position.
    pub(in crate::postgis) rows: u64,
    /// The number of rows that cannot be drawn.
    pub(in crate::postgis) skipped: u64,
    /// The number of large areas that are not valid polygons.
    pub(in crate::postgis) invalid_areas: u64,
}

/// One pass over a layer.
#[derive(Clone, Copy)]
pub(in crate::postgis) struct SurveyPass<'a> {
    pub(in crate::postgis) snapshot: &'a Snapshot,
    pub(in crate::postgis) layer: &'a Layer,
    /// The values that are folded, if any.
    pub(in crate::postgis) folds: Option<&'a FoldedValues>,
    pub(in crate::postgis) coverage: &'a Coverage,
    /// The most points in memory; more are kept in a scratch file.
    pub(in crate::postgis) most_points: usize,
    /// Sessions on the snapshot that read parts of the layer's rows in parallel, unless these are gathered in cells. If there are none, the session
    /// that holds the snapshot reads everything.
    pub(in crate::postgis) readers: &'a [&'a Session],
}

impl SurveyPass<'_> {
    fn context(&self) -> String {
        format!("layer \"{}\", reading where its features lie", self.layer.name)
    }

    /// Reads the positions of the layer's features at `zooms`, at all of which the layer's query must return the same rows.
    pub(in crate::postgis) async fn at(&self, zooms: &[Zoom]) -> Result<PassResult, Error> {
        let SurveyPass { snapshot, layer, folds, coverage, most_points, readers } = *self;
        let searched = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = searched.iter().flatten().map(|column| (column as _, Type::FLOAT8_ARRAY));
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let (mut rows, mut skipped) = (0_u64, 0_u64);
        let (mut points, mut boxes) = (PointSorter::new(most_points), Vec::new());
        let clips_by_rings = layer.lists_tiles()
            && snapshot.keeper.one(&self.context(), sql::CLIPS_BY_RINGS, &[]).await?.get::<_, bool>(0);
        let mut outlines = Outlines::new(layer.is_same_in_each_tile(), clips_by_rings);
        let mut cells = layer.grid().map(|grid| Gatherer::start(layer, folds, grid, zooms));
        let no_room = |source: io::Error| Error::Scratch { layer: layer.name.clone(), source };
        let has_packed_points = layer.shape.has_closed_form_points();
        let each = |row: &Row| {
            let position = if let Some(cells) = &mut cells {
                cells.add(row)
            } else if has_packed_points {
                match row.get::<_, Option<i64>>(0) {
                    Some(position) => Some(points.add(position.cast_unsigned()).map_err(no_room)?),
                    None => None,
                }
            } else {
                box_footprint(row).map(|footprint| {
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
            let one = |row: &Row| (*each.lock().unwrap_or_else(PoisonError::into_inner))(row);
            session.each(&context, &statement, &params, one).await
        });
        // All statements are waited for, even if one failed, because the sessions are used again.
        for read in join_all(reading).await {
            read.map_err(|error| explain(error, layer))?;
        }
        let (mut counts, mut gathered, mut point_file) = (None, BTreeMap::new(), None);
        let invalid_areas = if layer.is_same_in_each_tile() { outlines.invalid() } else { 0 };
        let footprints = match cells {
            Some(cells) => {
                let GatheredCells { rows: members, footprints, counts: counted } = cells.finish().await;
                counts = counts_cells(layer, folds).then_some(counted);
                let is_counted = |zoom: &Zoom| counts.as_ref().is_some_and(|counts| counts.has(*zoom));
                gathered = zooms.iter().filter(|zoom| !is_counted(zoom)).map(|zoom| (*zoom, members)).collect();
                footprints
            }
            None if has_packed_points => {
                let sorting = tokio::task::spawn_blocking(move || points.finish());
                let sorted = sorting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
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
        Ok(PassResult { footprints, point_file, counts, gathered, rows, skipped, invalid_areas })
    }

    /// Counts the rows that [`SurveyPass::at`] would read a position of.
    pub(in crate::postgis) async fn count(&self, zooms: &[Zoom]) -> Result<u64, Error> {
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
    pub(in crate::postgis) async fn skipped(&self, zooms: &[Zoom]) -> Result<Vec<Skipped>, Error> {
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
