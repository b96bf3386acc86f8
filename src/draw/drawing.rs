//! Renders a batch with one statement for each layer. The layers of a tile are joined in the order of the
//! configuration.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::areas::{Areas, joined, query_tiles};
use super::cached_rows::{AmbiguousPoint, CachedRows, MostFeatures};
use super::cells::CellColumns;
use super::function::{call, check_names};
use super::statements::{LayerStatements, RunLayers};
use super::{BatchTiles, PreparedLayer, Worker};
use crate::encode::most_packed;
use crate::postgis::layer::{Layer, OnLargeTile, OnTileError};
use crate::postgis::session::{Error, Param, Session, area_name};
use crate::postgis::sql::Candidates;
use crate::source::{LayerIssue, LayerIssueKind, RenderedLayer, RenderedTile};
use crate::tile::{Area, Batch, LayerCount, Order, PlannedTiles, TileCoord, TileRect, Zoom};

/// How the database would run the statement of a layer.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    pub layer: String,
    /// The plan, as EXPLAIN shows it.
    pub plan: String,
}

/// The work of one statement.
#[derive(Clone, Copy)]
pub(crate) struct LayerAreas<'a> {
    pub(crate) index: usize,
    pub(crate) areas: &'a [Area],
    /// The most features of a tile, by zoom.
    pub(crate) max_features: &'a Vec<Option<i64>>,
    pub(crate) candidates: Candidates,
}

#[derive(Clone, Copy)]
pub(crate) struct BatchDrawing<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) layers: &'a RunLayers,
}

impl<'a> BatchDrawing<'a> {
    pub(crate) fn new(worker: &'a Worker, layers: &'a RunLayers) -> BatchDrawing<'a> {
        BatchDrawing { worker, layers }
    }

    pub(crate) fn session(self) -> &'a Session {
        self.worker.session()
    }

    pub(crate) fn statements(self, index: usize) -> &'a LayerStatements {
        &self.layers.all()[index]
    }

    pub(crate) fn prepared(self, index: usize) -> &'a PreparedLayer {
        &self.statements(index).prepared
    }

    pub(crate) fn probed(self, index: usize) -> &'a Layer {
        self.prepared(index).layer()
    }

    /// One layer's part of some areas. For a query that runs once for each tile, the result contains all of these
    /// tiles, including empty ones.
    pub(crate) async fn layer(self, work: LayerAreas<'_>, tiles: &mut BatchTiles) -> Result<LayerCount, Error> {
        if self.probed(work.index).function().is_some() {
            return call(self.session(), self.probed(work.index), work.index, work.areas, tiles).await;
        }
        let layer = self.probed(work.index).id;
        let mut drawn = 0;
        let each = |row: &Row| {
            let (place, features, mvt, left_out): (i64, i64, &[u8], i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let tile = tiles.entry(place).or_insert_with(|| RenderedTile::empty(coord(place)));
            let mvt = if features > 0 { mvt } else { &[] };
            // The plan also counts the features that are left out.
            drawn += features.cast_unsigned() + left_out.cast_unsigned();
            tile.features += features.cast_unsigned();
            tile.mvt.extend_from_slice(mvt);
            tile.layers.push(RenderedLayer { layer, bytes: mvt.len() });
            if left_out > 0 {
                tile.issues
                    .push(LayerIssue { layer, kind: LayerIssueKind::Thinned { left_out: left_out.cast_unsigned() } });
            }
        };
        let mut found = self.rows(work, each).await?;
        if self.probed(work.index).asks_each_tile() {
            let all = work.areas.iter().flat_map(|area| query_tiles(area, work.index));
            for tile in all.flat_map(TileRect::iter) {
                let layers = || vec![RenderedLayer { layer, bytes: 0 }];
                let rendered = || RenderedTile { layers: layers(), ..RenderedTile::empty(tile) };
                tiles.entry(Order::ZoomColumnTmsRow.sort_key(tile).cast_signed()).or_insert_with(rendered);
            }
            found = tiles.len() as u64;
        }
        Ok(LayerCount { tiles: found, features: drawn })
    }

    /// Runs a layer's statement over some areas. Returns the number of its rows.
    async fn rows(self, work: LayerAreas<'_>, each: impl FnMut(&Row)) -> Result<u64, Error> {
        self.run(self.statements(work.index).statement(work.candidates), work, each).await
    }

    /// Runs a statement with the parameters of the layer's own statement.
    async fn run(self, statement: &str, work: LayerAreas<'_>, mut each: impl FnMut(&Row)) -> Result<u64, Error> {
        let LayerAreas { index, areas, max_features, candidates } = work;
        let layer = self.probed(index);
        let bound = Areas::bind(layer, index, areas);
        let context = || layer.context_at(areas.first().map(|area| &area.rect), areas.len());
        #[expect(clippy::cast_possible_wrap, reason = "checked when the configuration was read: both stay below 2^20")]
        let (extent, buffer) = (layer.margin.extent as i32, layer.margin.buffer as i32);
        let cells = (candidates == Candidates::Counted)
            .then(|| CellColumns::bind(self.prepared(index), index, areas))
            .flatten();
        let mut params = bound.params();
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&buffer, Type::INT4)];
        params.extend(own);
        if let Some(cells) = &cells {
            params.extend(cells.params());
        }
        if layer.lists_tiles() {
            params.extend(bound.listed_params());
        }
        // After the parameters of counted cells.
        if layer.budget.thins() {
            params.push((max_features as _, Type::INT8_ARRAY));
        }
        let repaired = self.prepared(index).repaired().map(|shapes| shapes.near(layer, areas));
        if let Some(repaired) = &repaired {
            params.extend(repaired.params());
        }
        let mut found = 0;
        let count = |row: &Row| {
            found += 1;
            each(row);
            Ok(())
        };
        self.session().each(&context(), statement, &params, count).await?;
        Ok(found)
    }

    /// One layer's part of some areas, with at most `max_features` features in each tile, by zoom. If the statement
    /// fails, the areas are halved until it succeeds or the one failing tile is found. That tile ends the run, unless
    /// `on_tile_error` says to skip the layer there.
    ///
    /// Returns the number of tiles, including failed ones, and of features.
    pub(crate) async fn layer_or_parts(
        self,
        index: usize,
        areas: &[Area],
        max_features: &Vec<Option<i64>>,
        tiles: &mut BatchTiles,
    ) -> Result<LayerCount, Error> {
        let (statements, layer) = (self.statements(index), self.probed(index));
        let mut found = LayerCount::default();
        // A stack of the areas yet to be rendered.
        let mut waiting = match self.drawn_from_cached_rows(index, areas, max_features).await? {
            None => statements.parts(areas),
            Some(drawn) => {
                found = drawn.count;
                join_tiles(tiles, drawn.tiles);
                statements.parts(&drawn.left)
            }
        };
        while let Some((areas, candidates)) = waiting.pop() {
            let mut rendered = BatchTiles::new();
            match self.layer(LayerAreas { index, areas: &areas, max_features, candidates }, &mut rendered).await {
                Ok(part) => {
                    found.tiles += part.tiles;
                    found.features += part.features;
                    join_tiles(tiles, rendered);
                }
                Err(error) if error.is_of_statement() => {
                    self.session().return_to_savepoint().await?;
                    if candidates == Candidates::Found
                        && statements.has_touching()
                        && matches!(error, Error::Query { .. })
                    {
                        // The failing row may lie outside of these tiles.
                        waiting.push((areas, Candidates::Touching));
                    } else if let Some((first, second)) = halves(&areas) {
                        tracing::debug!("{error}: trying again in two parts");
                        waiting.extend([(second, candidates), (first, candidates)]);
                    } else if let Some(tile) = failed_tile(layer, &areas, &error) {
                        tracing::info!("{error}: leaving the layer out of this tile");
                        found.tiles += 1;
                        let place = Order::ZoomColumnTmsRow.sort_key(tile.tile).cast_signed();
                        join_tiles(tiles, BatchTiles::from([(place, tile)]));
                    } else {
                        return Err(error);
                    }
                }
                Err(other) => return Err(other),
            }
        }
        Ok(found)
    }

    /// One layer's part of a batch. In a reseed, the areas of lines and polygons are joined first; if that statement
    /// fails, perhaps at a row that no dirty tile shows, each area is rendered by itself.
    async fn joined_or_apart(
        self,
        index: usize,
        batch: &Batch,
        max_features: &Vec<Option<i64>>,
        tiles: &mut BatchTiles,
    ) -> Result<LayerCount, Error> {
        let is_reseed = batch.planned == PlannedTiles::Every;
        if let Some(areas) = joined(self.probed(index), index, &batch.areas).filter(|_| is_reseed) {
            let work = LayerAreas { index, areas: &areas, max_features, candidates: Candidates::Found };
            match self.layer(work, tiles).await {
                Err(error) if error.is_of_statement() => {
                    tracing::debug!("{error}: trying again area by area");
                    self.session().return_to_savepoint().await?;
                    tiles.clear();
                }
                drawn => return drawn,
            }
        }
        self.layer_or_parts(index, &batch.areas, max_features, tiles).await
    }

    pub(crate) async fn explain(self, batch: &Batch) -> Result<Vec<LayerPlan>, Error> {
        let mut plans = Vec::new();
        for (index, _) in batch.layers.iter().enumerate().filter(|(_, planned)| planned.tiles > 0) {
            let (layer, max_features) = (self.probed(index), &self.probed(index).budget.max_features());
            if layer.function().is_some() {
                continue;
            }
            for (areas, candidates) in self.statements(index).parts(&batch.areas) {
                let statement = format!("EXPLAIN {}", self.statements(index).statement(candidates));
                let mut lines: Vec<String> = Vec::new();
                let work = LayerAreas { index, areas: &areas, max_features, candidates };
                self.run(&statement, work, |row| lines.push(row.get(0))).await?;
                plans.push(LayerPlan { layer: layer.name.clone(), plan: lines.join("\n") });
            }
        }
        Ok(plans)
    }

    /// Every planned tile of a batch.
    pub(crate) async fn batch(self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        let mut tiles = match batch.planned {
            PlannedTiles::Occupied => BatchTiles::new(),
            PlannedTiles::Every => empty(self.layers, &batch.areas),
        };
        for (index, planned) in batch.layers.iter().enumerate() {
            if planned.tiles == 0 {
                continue;
            }
            let (mut part, max_features) = (BatchTiles::new(), self.probed(index).budget.max_features());
            let found = self.joined_or_apart(index, batch, &max_features, &mut part).await?;
            if batch.planned == PlannedTiles::Every {
                part.retain(|place, _| tiles.contains_key(place));
            }
            // A failed tile may be one that was not planned, because neighbouring cells can make its statement fail.
            let failed = part.values().filter(|tile| tile.is_failed()).count() as u64;
            self.fit(index, &batch.areas, &mut part).await?;
            join_tiles(&mut tiles, part);
            let right = match batch.planned {
                PlannedTiles::Occupied => (found.tiles - failed..=found.tiles).contains(&planned.tiles),
                PlannedTiles::Every => tiles.len() as u64 == batch.tiles,
            };
            let layer = self.probed(index);
            let near = || batch.areas.first().map(|area| area_name(&area.rect)).unwrap_or_default();
            if !right {
                return Err(miscounted(layer, planned.tiles, found.tiles, near()));
            }
            if layer.asks_box() && batch.planned == PlannedTiles::Occupied && found.features > planned.features {
                return Err(unselective(layer, *planned, found, &near()));
            }
        }
        self.repeats(batch, &mut tiles).await?;
        check_names(self.layers.all(), &tiles)?;
        Ok(tiles.into_values().collect())
    }
}

/// Every tile of some areas, empty, with the layers that may be drawn in it.
fn empty(layers: &RunLayers, areas: &[Area]) -> BatchTiles {
    let mut tiles = BatchTiles::new();
    for area in areas {
        let layers: Vec<RenderedLayer> = (layers.all().iter().map(|statements| statements.prepared.layer()))
            .filter(|layer| layer.zooms.contains(area.rect.zoom))
            .map(|layer| RenderedLayer { layer: layer.id, bytes: 0 })
            .collect();
        for tile in area.rect.iter() {
            let rendered = RenderedTile { layers: layers.clone(), ..RenderedTile::empty(tile) };
            tiles.insert(Order::ZoomColumnTmsRow.sort_key(tile).cast_signed(), rendered);
        }
    }
    tiles
}

// Tiles that live rows draw alone.

impl RunLayers {
    /// True if all layers that are drawn in a batch have cached rows, or rows in `instead`.
    pub(crate) fn have_rows_for(&self, batch: &Batch, instead: &BTreeMap<usize, CachedRows>) -> bool {
        let has_rows = |(index, statements): (usize, &LayerStatements)| {
            instead.contains_key(&index) || statements.prepared.has_cached_rows()
        };
        self.drawn_in(batch).all(has_rows)
    }

    /// True if a tile is drawn from few rows in memory: [`MAX_FEW_ROWS`] and [`MAX_FEW_BYTES`], about. The other
    /// parameters are those of [`RunLayers::drawn_from_rows`].
    pub(crate) fn are_few(&self, tile: TileCoord, batch: &Batch, instead: &BTreeMap<usize, CachedRows>) -> bool {
        let (mut count, mut bytes) = (0, 0);
        self.drawn_in(batch).all(|(index, statements)| {
            let rows = instead.get(&index).or(statements.prepared.cached_rows().map(|rows| &**rows));
            let size = rows.and_then(|rows| rows.size_in(statements.prepared.layer(), tile));
            let Some((rows, of_rows)) = size else { return false };
            (count, bytes) = (count + rows, bytes + of_rows);
            count <= MAX_FEW_ROWS && bytes <= MAX_FEW_BYTES
        })
    }

    /// Every tile of a batch from cached rows, with the rows in `instead` for the layers with these numbers.
    pub(crate) fn drawn_from_rows(&self, batch: &Batch, instead: &BTreeMap<usize, CachedRows>) -> DrawnFromRows {
        let (mut tiles, mut unasked) = (empty(self, &batch.areas), BTreeMap::new());
        for (index, statements) in self.drawn_in(batch) {
            let layer = statements.prepared.layer();
            let Some(rows) = instead.get(&index).or(statements.prepared.cached_rows().map(|rows| &**rows)) else {
                return DrawnFromRows::Not;
            };
            let most = MostFeatures::of(layer, &layer.budget.max_features());
            let drawn = rows.draw(layer, index, &batch.areas, &most, None);
            let is_bounded = layer.budget.on_large_tile != OnLargeTile::Warn;
            if is_bounded && !drawn.tiles.values().all(|tile| is_light(layer, tile)) {
                return DrawnFromRows::Not;
            }
            if !drawn.left.is_empty() {
                if drawn.unasked.is_empty() {
                    return DrawnFromRows::Not;
                }
                unasked.insert(index, drawn.unasked);
            }
            join_tiles(&mut tiles, drawn.tiles);
        }
        if !unasked.is_empty() {
            return DrawnFromRows::Unasked(unasked);
        }
        match check_names(self.all(), &tiles) {
            Ok(()) => DrawnFromRows::Tiles(tiles.into_values().collect()),
            Err(_other_names) => DrawnFromRows::Not,
        }
    }

    /// Asks the database where some points of layers are drawn, by the layers' numbers. False if it does not say so of
    /// all of them. The other parameters are those of [`RunLayers::drawn_from_rows`].
    pub(crate) async fn ask_for_places(
        &self,
        session: &Session,
        instead: &BTreeMap<usize, CachedRows>,
        unasked: &BTreeMap<usize, Vec<AmbiguousPoint>>,
    ) -> Result<bool, Error> {
        for (index, points) in unasked {
            let prepared = &self.all()[*index].prepared;
            let rows = instead.get(index).or(prepared.cached_rows().map(|rows| &**rows));
            let asked = match rows {
                Some(rows) => rows.ask_for_places(session, prepared.layer(), points).await,
                None => Ok(false),
            };
            // The statement of the tile handles errors.
            if !session.at_savepoint(asked).await?.unwrap_or_default() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn drawn_in(&self, batch: &Batch) -> impl Iterator<Item = (usize, &LayerStatements)> {
        let planned = self.all().iter().enumerate().zip(&batch.layers);
        planned.filter(|(_, planned)| planned.tiles > 0).map(|(statements, _)| statements)
    }
}

/// Drawing a tile of this many rows takes as long as handing it to another thread.
const MAX_FEW_ROWS: usize = 300;

/// The same for the bytes of their features.
const MAX_FEW_BYTES: usize = 1 << 16;

/// What cached rows make of a batch.
pub(crate) enum DrawnFromRows {
    Tiles(Vec<RenderedTile>),
    /// The database has to say where these points are drawn, by the numbers of their layers.
    Unasked(BTreeMap<usize, Vec<AmbiguousPoint>>),
    /// They cannot draw all of it, or features may have to be left out.
    Not,
}

/// True if a tile is within the layer's budget of bytes even if packing gains nothing.
fn is_light(layer: &Layer, tile: &RenderedTile) -> bool {
    let most = layer.max_bytes().at(tile.tile.zoom());
    most.is_none_or(|most| most_packed(tile.mvt.len() as u64) <= most.get())
}

/// The one tile that is left in `areas`, without the layer that failed in it; `None` if such errors end the run.
fn failed_tile(layer: &Layer, areas: &[Area], error: &Error) -> Option<RenderedTile> {
    if layer.on_tile_error != OnTileError::Skip || !may_be_of_rows(error) {
        return None;
    }
    let tile = areas.first()?.rect.first()?;
    let cause = match error {
        Error::Timeout { after, .. } => format!("the database cancelled the query after {after}"),
        other => std::error::Error::source(other).map_or_else(|| other.to_string(), ToString::to_string),
    };
    let issues = vec![LayerIssue { layer: layer.id, kind: LayerIssueKind::Failed { cause } }];
    Some(RenderedTile {
        layers: vec![RenderedLayer { layer: layer.id, bytes: 0 }],
        issues,
        ..RenderedTile::empty(tile)
    })
}

/// True if a tile's rows may have caused an error. Errors of the statement, the role or the server would occur in every
/// tile.
fn may_be_of_rows(error: &Error) -> bool {
    // Classes of SQLSTATE (PostgreSQL documentation, appendix A): rights and syntax, resources, the state of objects,
    // the system, the configuration, authorization, the transaction, unsupported features, the catalog, conflicts with
    // recovery, administrators; damaged data. PostGIS itself raises XX000.
    const NOT_OF_ROWS: [&str; 13] =
        ["42", "53", "55", "58", "F0", "25", "28", "0A", "3D", "40", "57", "XX001", "XX002"];
    match error {
        Error::Timeout { .. } => true,
        Error::Query { source, .. } => {
            source.code.as_ref().is_some_and(|code| !NOT_OF_ROWS.iter().any(|class| code.code().starts_with(class)))
        }
        _ => false,
    }
}

/// Adds the tiles of a part, or of the next layer, to those already there.
pub(crate) fn join_tiles(tiles: &mut BatchTiles, more: BatchTiles) {
    if tiles.is_empty() {
        *tiles = more;
        return;
    }
    for (place, tile) in more {
        match tiles.entry(place) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(tile);
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                occupied.get_mut().features += tile.features;
                occupied.get_mut().mvt.extend_from_slice(&tile.mvt);
                occupied.get_mut().issues.extend(tile.issues);
                let own = &mut occupied.get_mut().layers;
                for more in tile.layers {
                    match own.iter_mut().find(|known| known.layer == more.layer) {
                        Some(known) => known.bytes += more.bytes,
                        None => own.push(more),
                    }
                }
            }
        }
    }
}

/// Divides areas into two parts: the first half of several areas and the others, or the halves of one area. `None` for
/// a single tile.
fn halves(areas: &[Area]) -> Option<(Vec<Area>, Vec<Area>)> {
    if let [area] = areas {
        return area.halves().map(|(first, second)| (vec![first], vec![second]));
    }
    let (first, second) = areas.split_at_checked(areas.len() / 2)?;
    (!first.is_empty()).then(|| (first.to_vec(), second.to_vec()))
}

/// The tile with this number in the statements: zoom from bit 58 on, column from bit 29 on, TMS row.
#[expect(clippy::cast_sign_loss, reason = "each part is masked to its bits")]
fn coord(place: i64) -> TileCoord {
    const LOW: i64 = (1 << 29) - 1;
    let zoom = Zoom::new((place >> 58) as u8 & 0x1f).unwrap_or(Zoom::MAX);
    TileCoord::from_tms(zoom, (place >> 29 & LOW) as u32, (place & LOW) as u32)
}

// Errors for statements that return other tiles or features than planned.

/// The error if the database returned another number of tiles than planned. Without a defect of this program, that only
/// happens with queries.
pub(crate) fn miscounted(layer: &Layer, planned: u64, found: u64, near: String) -> Error {
    if !layer.is_query() {
        return Error::Miscounted { layer: layer.name.clone(), planned, found, near };
    }
    Error::Unsteady {
        layer: layer.name.clone(),
        what: format!(
            "its query gave other rows when it was asked again, {found} tiles came back for {planned} planned around {near}"
        ),
        next: "Let it give the same rows whenever it is asked: order what LIMIT or DISTINCT ON choose from by something unique, and leave out random(), TABLESAMPLE and the like",
    }
}

/// The error if a query returned more features for the boxes of tiles than the survey found in these tiles.
fn unselective(layer: &Layer, planned: LayerCount, found: LayerCount, near: &str) -> Error {
    Error::Unsteady {
        layer: layer.name.clone(),
        what: format!(
            "its query gives more for the boxes of tiles than for the box of the world, {} features came for {} planned around {near}",
            found.features, planned.features
        ),
        next: "Use !bbox! only to select, as in location && !bbox!: leave out LIMIT and whatever else depends on how large the box is. For less detail at low zooms use !zoom! or !pixel_width!",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_tile_is_read_back() {
        let zoom = Zoom::new(22).unwrap();
        let place = 22_i64 << 58 | 4_194_303 << 29 | 5;
        assert_eq!(coord(place), TileCoord::from_tms(zoom, 4_194_303, 5));
        assert_eq!(coord(0), TileCoord::from_tms(Zoom::new(0).unwrap(), 0, 0));
    }
}
