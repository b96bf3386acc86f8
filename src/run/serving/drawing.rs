//! Live tiles that are drawn from kept rows, or whose cells are counted from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::request_filter::{NarrowedLayers, RequestFilter};
use super::snapshot::LiveSnapshot;
use crate::draw::{CachedRows, CellValues, DrawnFromRows, LivePoints, PreparedLayer, RowReaders, RunLayers};
use crate::postgis::{Error, Layer};
use crate::source::RenderedTile;
use crate::stop::Stop;
use crate::threads::blocking;
use crate::tile::{Batch, TileRect};

/// Tiles whose cells were counted from kept rows.
pub(crate) struct DrawnWithCells {
    pub(crate) tiles: Vec<RenderedTile>,
    /// True if the database drew them.
    pub(crate) by_database: bool,
}

impl LiveSnapshot {
    /// The layers that are drawn in a batch, by their numbers, with the rows that are kept of them. `None` if those of
    /// a layer are not kept.
    pub(crate) fn points_in(&self, batch: &Batch) -> Option<BTreeMap<usize, LivePoints>> {
        let drawn = self.statements.drawn_in(batch);
        drawn.map(|(index, _)| Some((index, self.live.points(index)?.clone()))).collect()
    }

    /// True if the rows of a layer of cells that is drawn in a batch are kept.
    pub(crate) fn has_cells_for(&self, batch: &Batch) -> bool {
        self.statements.drawn_in(batch).any(|(index, _)| self.live.cells(index).is_some())
    }

    /// Draws a tile of whose cells the rows are kept. The cells are counted from these rows. Cells whose encoded values
    /// are known are drawn here; the database draws the others, without reading a row. `filter` narrows the layers, and
    /// `rows` are those that it leaves, by the layers' numbers. `None` if the cells of a layer cannot be counted.
    pub(crate) async fn drawn_with_cells(
        &self,
        batch: &Batch,
        mut rows: BTreeMap<usize, CachedRows>,
        filter: Option<&RequestFilter<'_>>,
        stop: &Stop,
    ) -> Result<Option<DrawnWithCells>, Error> {
        let Some(tile) = batch.areas.first().map(|area| area.rect) else { return Ok(None) };
        let mut counted: BTreeMap<usize, PreparedLayer> = BTreeMap::new();
        let mut is_composed = true;
        for (index, statements) in self.statements.drawn_in(batch) {
            let Some((members, points)) = self.live.cells(index) else { continue };
            let layer = LiveSnapshot::narrowed(statements.prepared.layer(), filter);
            let (own, all, of_cells) = (rows.remove(&index), Arc::clone(&points.rows), Arc::clone(members));
            let prepared = blocking(move || of_cells.counted(&layer, &tile, own.as_ref().unwrap_or(&*all))).await;
            let Some(prepared) = prepared else { return Ok(None) };
            let composed = match members.values() {
                Some(values) => self.composed(values, &prepared, &tile, stop).await?,
                None => None,
            };
            is_composed &= composed.is_some();
            rows.extend(composed.map(|composed| (index, composed)));
            counted.insert(index, prepared);
        }
        if is_composed && self.statements.have_rows_for(batch, &rows) {
            if let Some(tiles) = self.drawn_from_rows(batch, rows, stop).await? {
                return Ok(Some(DrawnWithCells { tiles, by_database: false }));
            }
            rows = BTreeMap::new();
        }
        let mut layers = Vec::new();
        for (index, prepared) in self.live.prepared.iter().enumerate() {
            let narrowed = LiveSnapshot::narrowed(prepared.layer(), filter);
            let is_narrowed = !Arc::ptr_eq(&narrowed, prepared.layer());
            layers.push(match (counted.remove(&index), rows.remove(&index)) {
                (Some(counted), _) => counted,
                (None, Some(own)) => PreparedLayer::new(&narrowed).with_cached_rows(Some(Arc::new(own))),
                (None, None) if is_narrowed => PreparedLayer::new(&narrowed),
                (None, None) => prepared.clone(),
            });
        }
        let values = filter.map(|filter| filter.values.clone()).unwrap_or_default();
        let narrowed = NarrowedLayers { statements: RunLayers::new(&layers), values };
        let tiles = Box::pin(self.render(batch, Some(&narrowed), stop)).await?;
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(Some(DrawnWithCells { tiles, by_database: true }))
    }

    /// A layer with the rows that a request wants of it; the same one if it wants all.
    fn narrowed(layer: &Arc<Layer>, filter: Option<&RequestFilter<'_>>) -> Arc<Layer> {
        match filter.filter(|filter| !filter.of_layer(layer).is_empty()) {
            Some(filter) => Arc::new(filter.narrowed(layer)),
            None => Arc::clone(layer),
        }
    }

    /// The counted cells of a tile as rows. The database encodes what is not known yet. `None` if they cannot be put
    /// together.
    async fn composed(
        &self,
        values: &CellValues,
        prepared: &PreparedLayer,
        tile: &TileRect,
        stop: &Stop,
    ) -> Result<Option<CachedRows>, Error> {
        if let Some(rows) = values.rows(prepared, tile) {
            return Ok(Some(rows));
        }
        let learning = self.in_session(stop, async |worker| {
            let readers = RowReaders { keeper: worker.session(), others: &[] };
            values.learn(readers, prepared, tile).await
        });
        Ok(if learning.await? { values.rows(prepared, tile) } else { None })
    }

    /// The tiles of a batch from kept rows, with the rows in `instead` for the layers with these numbers. The database
    /// is asked where ambiguous points are drawn, once for each. `None` if the rows cannot draw them.
    pub(crate) async fn drawn_from_rows(
        &self,
        batch: &Batch,
        instead: BTreeMap<usize, CachedRows>,
        stop: &Stop,
    ) -> Result<Option<Vec<RenderedTile>>, Error> {
        if !self.statements.have_rows_for(batch, &instead) {
            return Ok(None);
        }
        let instead = Arc::new(instead);
        let tile = batch.areas.first().and_then(|area| area.rect.first());
        let is_small = tile.is_some_and(|tile| self.statements.are_few(tile, batch, &instead));
        let draw = async || {
            if is_small {
                return self.statements.drawn_from_rows(batch, &instead);
            }
            let (layers, batch, instead) = (Arc::clone(&self.statements), batch.clone(), Arc::clone(&instead));
            blocking(move || layers.drawn_from_rows(&batch, &instead)).await
        };
        let unasked = match draw().await {
            DrawnFromRows::Tiles(tiles) => return Ok(Some(tiles)),
            DrawnFromRows::Not => return Ok(None),
            DrawnFromRows::Unasked(unasked) => unasked,
        };
        let asking = self.in_session(stop, async |worker| {
            self.statements.ask_for_places(worker.session(), &instead, &unasked).await
        });
        if !asking.await? {
            return Ok(None);
        }
        Ok(match draw().await {
            DrawnFromRows::Tiles(tiles) => Some(tiles),
            DrawnFromRows::Unasked(_) | DrawnFromRows::Not => None,
        })
    }
}
