//! The rows of a layer of points, read once: tiles of all zooms are drawn from them.
//!
//! A point shows the same at every zoom, and `ST_AsMVT` takes most of its time for what it shows. So the database writes each row
//! once, and says where it lies; which tiles it touches, and where in them, is worked out here, as planning and `ST_AsMVTGeom` work it
//! out. Where doubles might be rounded one way or the other, the database draws the tile.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::areas::is_searched;
use super::error::Error;
use super::layer::{Layer, Of};
use super::query_values::QueryValues;
use super::render::{Asked, Renderer, Tiles};
use super::session::Param;
use super::snapshot::Snapshot;
use super::sql::{self, Candidates, Stocked};
use super::survey::search_boxes;
use crate::mvt::{Drawer, Features};
use crate::source::{RenderedLayer, RenderedTile};
use crate::tile::{
    Area, Batch, Candidate, Coverage, GridBoxes, LayerCount, Order, Positions, SearchBox, TileBounds, TileCoord,
    TileRect, Unit, Zoom, ZoomList,
};

/// The rows of a layer, all of them or those of a neighbourhood: where they lie, and what they show.
#[derive(Debug, PartialEq)]
pub(super) struct Stock {
    positions: Positions,
    features: Features,
    /// Of a neighbourhood: areas that ask for no more than that are drawn from it, from this zoom on.
    pub(super) near: Option<Zoom>,
}

/// What was drawn from a stock.
pub(super) struct Drawn {
    pub(super) tiles: Tiles,
    pub(super) count: LayerCount,
    /// Areas that are not drawn: the database is to draw them.
    pub(super) left: Vec<Area>,
}

/// Every so many tiles at least may be left to the database one by one; of more, the whole batch is.
const UNSURE: u64 = 8;

/// A stock pays if its rows are drawn in so many tiles each, and in more than there are workers: one session reads them.
const WORTH: u64 = 3;

/// The least memory that a row takes, in bytes.
pub(super) const LEAST: u64 = Positions::SIZE as u64 + 8;

impl Layer {
    /// Whether its rows are to be read once: they are single points that show the same in every tile, and it pays. There are so many of
    /// them, so often are they drawn in a tile, by so many workers otherwise, and they may take so many bytes of memory.
    #[must_use]
    pub fn suits_stock(&self, (rows, drawn): (u64, u64), workers: usize, memory: usize) -> bool {
        self.shows_points_alike()
            && rows > 0
            && drawn / rows >= WORTH.max(workers as u64)
            && rows.saturating_mul(LEAST) < memory as u64
    }

    /// Whether its rows are single points that show the same in every tile: some of them may be [read once](Layer::with_neighbourhood).
    #[must_use]
    pub fn shows_points_alike(&self) -> bool {
        self.shape.points
            && self.cells.is_none()
            && !self.asks_each_tile()
            && !self.asks_each_zoom()
            && self.margin.bounds == TileBounds::Mercator
            && self.margin.candidates.is_none()
            && !self.budget.thins()
            && self.has_plain_values
            && self.properties.iter().all(|property| property.of == Of::Row)
    }

    /// The layer with its rows in stock; without, if they take more memory than that, or cannot be read.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub async fn stocked(
        self,
        snapshot: &Snapshot,
        (coverage, zooms): (&Coverage, &ZoomList),
        (rows, memory): (u64, usize),
    ) -> Result<Layer, Error> {
        snapshot.keeper.save().await?;
        let zooms: Vec<Zoom> = zooms.iter().filter(|zoom| self.zooms.contains(*zoom)).collect();
        let read = Stock::read(snapshot, &self, (coverage, &zooms), (rows, memory)).await;
        self.with_stock(snapshot, read).await
    }

    pub(super) async fn with_stock(
        self,
        snapshot: &Snapshot,
        read: Result<Option<Stock>, Error>,
    ) -> Result<Layer, Error> {
        let stock = match read {
            Ok(stock) => stock.map(Arc::new),
            Err(error @ (Error::Query { .. } | Error::Timeout { .. })) => {
                // It may be of a row that no tile needs, or the one statement takes too long: each batch will see.
                tracing::info!("layer \"{}\": its rows are not read once: {error}", self.name);
                snapshot.keeper.restart().await?;
                None
            }
            Err(other) => return Err(other),
        };
        Ok(Layer { stock, ..self })
    }
}

impl Layer {
    /// Whether its rows are in stock.
    #[must_use]
    pub fn has_stock(&self) -> bool {
        self.stock.is_some()
    }

    /// The memory that its stock takes, in bytes.
    #[must_use]
    pub fn size_of_stock(&self) -> usize {
        self.stock.as_ref().map_or(0, |stock| stock.features.size() + stock.positions.len() * Positions::SIZE)
    }
}

impl Stock {
    async fn read(
        snapshot: &Snapshot,
        layer: &Layer,
        (coverage, zooms): (&Coverage, &[Zoom]),
        (rows, memory): (u64, usize),
    ) -> Result<Option<Stock>, Error> {
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        Stock::of_rows(snapshot, layer, (Stocked::Boxes { boxes, rows }, params), memory).await
    }

    /// Reads some rows; `None` if they are others than expected, or take more memory than that.
    pub(super) async fn of_rows(
        snapshot: &Snapshot,
        layer: &Layer,
        (which, mut params): (Stocked, Vec<Param<'_>>),
        memory: usize,
    ) -> Result<Option<Stock>, Error> {
        let statement = sql::stock(layer, which, [1, 2, 3].map(|number| params.len() + number));
        let (extent, most) = (layer.margin.extent.cast_signed(), i64::try_from(memory).unwrap_or(i64::MAX));
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&most, Type::INT8)];
        params.extend(own);
        let properties: Vec<String> = layer.properties.iter().map(|property| property.name.clone()).collect();
        let (expected, most_rows) = match which {
            Stocked::Boxes { rows, .. } => (usize::try_from(rows).unwrap_or_default(), usize::MAX),
            Stocked::Cells { most } => (0, usize::try_from(most).unwrap_or(usize::MAX)),
        };
        let (mut at, mut features) = (Vec::with_capacity(expected), Some(Features::new(properties, expected, memory)));
        let mut fits = true;
        let each = |row: &Row| {
            let (x, y, mvt): (Vec<f64>, Vec<f64>, &[u8]) = (row.get(0), row.get(1), row.get(2));
            let Some(own) = features.as_mut().filter(|_| fits) else { return Ok(()) };
            let is_whole = own.add(mvt) == Some(x.len());
            at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
            fits = own.size() + at.len() * Positions::SIZE <= memory;
            if !is_whole {
                features = None;
            }
            Ok(())
        };
        let place = format!("layer \"{}\", reading its rows", layer.name);
        snapshot.keeper.each(&place, &statement, &params, each).await?;
        let features = match features {
            None => Err("ST_AsMVT does not write them as plain points"),
            Some(features) if features.len() >= most_rows => Err("they are too many"),
            // The statement ends where the memory does.
            Some(features) if fits && (expected == features.len() || most_rows < usize::MAX) => Ok(features),
            Some(_) => Err("they take more memory than rows_mb allows, or are others with each query"),
        };
        let features = match features {
            Ok(features) => features,
            Err(why) => {
                tracing::info!("layer \"{}\": its rows are not read once: {why}", layer.name);
                return Ok(None);
            }
        };
        let size = features.size() + at.len() * Positions::SIZE;
        tracing::debug!("layer \"{}\": {} rows are read once, in {size} bytes", layer.name, at.len());
        let sorting = tokio::task::spawn_blocking(move || Positions::new(at));
        let positions = sorting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        Ok(Some(Stock { positions, features, near: None }))
    }

    /// Whether all that the layer is asked for in an area is here.
    fn holds(&self, area: &Area, number: usize) -> bool {
        let is_near = |zoom| area.rect.zoom >= zoom && matches!(area.search.get(number), Some(SearchBox::Near(_)));
        self.near.is_none_or(is_near)
    }

    /// The layer's part of some areas.
    fn draw(&self, layer: &Layer, number: usize, areas: &[Area]) -> Drawn {
        let searched = areas.iter().filter(|area| is_searched(area, number)).cloned();
        let (areas, others): (Vec<Area>, Vec<Area>) = searched.partition(|area| self.holds(area, number));
        let mut drawn = self.draw_all(layer, number, areas);
        drawn.left.extend(others);
        drawn
    }

    fn draw_all(&self, layer: &Layer, number: usize, areas: Vec<Area>) -> Drawn {
        let mut candidates = Vec::new();
        for area in &areas {
            let before = candidates.len();
            self.positions.candidates(&area.rect, layer.margin, &mut candidates);
            if let Some(SearchBox::Near(boxes)) = area.search.get(number) {
                let boxes = GridBoxes::new(boxes);
                let is_asked = |one: &Candidate| match one.at {
                    Unit::At(at) => boxes.hold(at.map(i64::from)),
                    Unit::Beyond => false,
                    Unit::Unsure => true,
                };
                let asked: Vec<Candidate> = candidates.drain(before..).filter(is_asked).collect();
                candidates.extend(asked);
            }
        }
        candidates.sort_unstable();
        let (mut drawer, mut unsure) = (Drawer::new(&self.features), BTreeSet::new());
        let (mut tiles, mut count) = (Vec::new(), LayerCount::default());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = of_tile.first().and_then(|one| Order::ZoomColumnTmsRow.tile(one.tile)) else { continue };
            let is_sure = of_tile.iter().all(|one| one.at != Unit::Unsure);
            let Some(mvt) = is_sure.then(|| drawer.tile(of_tile.iter().filter_map(drawn))).flatten() else {
                unsure.insert(of_tile[0].tile);
                continue;
            };
            let features = of_tile.iter().filter_map(drawn).count() as u64;
            count.tiles += 1;
            count.features += features;
            let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
            tiles
                .push((of_tile[0].tile.cast_signed(), RenderedTile { tile, mvt, layers, features, notes: Vec::new() }));
        }
        let unsure: Vec<TileCoord> =
            unsure.into_iter().filter_map(|place| Order::ZoomColumnTmsRow.tile(place)).collect();
        let left = if unsure.len() as u64 * UNSURE > count.tiles {
            (tiles, count) = (Vec::new(), LayerCount::default());
            areas
        } else {
            let area_of = |tile: TileCoord| {
                let rect = TileRect::from(tile);
                areas.iter().find(|area| area.rect.common(&rect).is_some()).map(|area| area.within(rect))
            };
            unsure.into_iter().filter_map(area_of).collect()
        };
        if !left.is_empty() {
            let (layer, areas) = (&layer.name, left.len());
            tracing::debug!("layer \"{layer}\": areas left to the database, for points between two units: {areas}");
        }
        Drawn { tiles: tiles.into_iter().collect(), count, left }
    }
}

fn drawn(candidate: &Candidate) -> Option<(u32, [i32; 2])> {
    match candidate.at {
        Unit::At(at) => Some((candidate.number, at)),
        Unit::Beyond | Unit::Unsure => None,
    }
}

/// How many tiles are drawn both ways before a stock is relied on.
const CHECKED: usize = 3;

impl Renderer {
    /// The layer's part of some areas, as far as it can be drawn from its stock; `None` if it has none.
    pub(super) async fn drawn_from_stock(&self, number: usize, areas: &[Area]) -> Result<Option<Drawn>, Error> {
        let layer = &self.layers[number].layer;
        let Some(stock) = layer.stock.clone() else { return Ok(None) };
        let (layer, areas) = (layer.clone(), areas.to_vec());
        let drawing = tokio::task::spawn_blocking(move || stock.draw(&layer, number, &areas));
        let drawn = tokio::select! {
            biased;
            _ = self.database.stop.wait() => return Err(Error::Interrupted),
            drawn = drawing => drawn.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        };
        Ok(Some(drawn))
    }

    /// The layers, those in stock only if the database draws some of the tiles of a plan with the same bytes: PostGIS may come to write them
    /// otherwise.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub async fn checked(&self, batches: &[Batch]) -> Result<Vec<Layer>, Error> {
        let mut layers: Vec<Layer> = self.layers.iter().map(|prepared| prepared.layer.clone()).collect();
        for (number, layer) in layers.iter_mut().enumerate().filter(|(_, layer)| layer.stock.is_some()) {
            if !self.draws_alike(number, batches).await? {
                tracing::warn!(
                    "layer \"{}\": its rows, read once, do not give the tiles that the database draws, so it draws all of them. Does a property change from one query to the next? If not, please report this",
                    layer.name
                );
                layer.stock = None;
            }
        }
        Ok(layers)
    }

    async fn draws_alike(&self, number: usize, batches: &[Batch]) -> Result<bool, Error> {
        let of_layer: Vec<&Batch> = batches.iter().filter(|batch| batch.layers[number].tiles > 0).collect();
        let step = (of_layer.len() / CHECKED).max(1);
        for batch in of_layer.iter().rev().step_by(step).take(CHECKED) {
            let Some(Drawn { tiles, .. }) = self.drawn_from_stock(number, &batch.areas).await? else {
                return Ok(false);
            };
            // The lightest: it is checked, not its database.
            let Some(tile) = tiles.into_values().min_by_key(|tile| tile.features) else { continue };
            let rect = TileRect::from(tile.tile);
            let areas: Vec<Area> = batch
                .areas
                .iter()
                .filter(|area| area.rect.common(&rect).is_some())
                .map(|area| area.within(rect))
                .collect();
            let mut rendered = Tiles::new();
            let asked = Asked { number, areas: &areas, most: &Vec::new(), rows: Candidates::Found };
            match self.layer(asked, &mut rendered).await {
                Ok(_) if rendered.values().eq([&tile]) => {}
                Ok(_) => return Ok(false),
                Err(Error::Query { .. } | Error::Timeout { .. }) => {
                    self.session().restart().await?;
                    return Ok(false);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(true)
    }
}
