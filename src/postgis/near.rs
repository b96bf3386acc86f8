//! What lies around changed places, read once: tiles of many zooms take it from there.

use std::sync::Arc;

use super::areas::Areas;
use super::error::Error;
use super::layer::Layer;
use super::render::{Asked, Renderer, Tiles};
use super::snapshot::Snapshot;
use super::sql::{Candidates, Stocked};
use super::stock::{Drawn, LEAST, Stock};
use crate::mvt::{self, PointLayer};
use crate::tile::{Area, ChangedPart, GridBox, Neighbourhood, Order, SearchBox, TileCoord, TileRect, Zoom};

/// How many tiles are drawn both ways before rows that were read are relied on.
const CHECKED: usize = 3;

/// So many rows around each place are about as many as the database looks at for all tiles: there it has no less to do.
const DENSE: u64 = 64;

impl Layer {
    /// Whether the rows around changed places may be read once: they are points, told apart by what stands in a tile, which show the same
    /// in every tile.
    #[must_use]
    pub fn suits_neighbourhood(&self) -> bool {
        self.as_points().is_some() && self.shows_points_alike()
    }

    /// The zoom from which on its rows around changed places are in stock, if they are.
    #[must_use]
    pub fn stocked_from(&self) -> Option<Zoom> {
        self.stock.as_ref().and_then(|stock| stock.near)
    }

    /// The layer with the rows around changed places in stock. Without them, if they take more memory than that (in bytes), cannot be
    /// read, or are not what the database draws. The renderer reads and compares; its own layers do not matter.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub async fn with_neighbourhood(
        self,
        mut renderer: Renderer,
        near: &Neighbourhood,
        memory: usize,
    ) -> Result<Layer, Error> {
        let snapshot = Arc::clone(&renderer.snapshot);
        let Some(points) = self.as_points() else { return Ok(self) };
        let read = Stock::of_cells(&snapshot, &self, near, memory).await;
        let stocked = self.clone().with_stock(&snapshot, read).await?;
        if !stocked.has_stock() {
            return Ok(self);
        }
        renderer.set_layers(std::slice::from_ref(&stocked));
        match renderer.draws_alike_near(&near.samples, &points).await {
            Ok(Some(true)) => return Ok(stocked),
            Ok(Some(false)) => tracing::warn!(
                "layer \"{}\": rows near what has changed, read once, do not give what the database draws there, so it draws all of them. Does a property change from one query to the next? If not, please report this",
                self.name
            ),
            Ok(None) => {
                let name = &self.name;
                tracing::info!("layer \"{name}\": its rows are not read once: nothing is left where it has changed");
            }
            Err(error @ (Error::Query { .. } | Error::Timeout { .. })) => {
                tracing::info!("layer \"{}\": its rows are not read once: {error}", self.name);
                snapshot.keeper.restart().await?;
            }
            Err(other) => return Err(other),
        }
        Ok(self)
    }
}

impl Renderer {
    /// Whether the database draws what is drawn from the stock, in parts of some tiles; `None` if nothing is drawn in any.
    async fn draws_alike_near(
        &self,
        samples: &[(TileCoord, Vec<ChangedPart>)],
        points: &PointLayer,
    ) -> Result<Option<bool>, Error> {
        let area = |tile: TileCoord, search| Area { rect: TileRect::from(tile), search: vec![search] };
        let boxes = |parts: &[ChangedPart]| -> Vec<GridBox> { parts.iter().map(|part| part.grid).collect() };
        let near: Vec<Area> = samples.iter().map(|(tile, parts)| area(*tile, SearchBox::Near(boxes(parts)))).collect();
        let Some(Drawn { tiles: stocked, .. }) = self.drawn_from_stock(0, &near).await? else { return Ok(Some(false)) };
        let shows = |(tile, _): &&(TileCoord, Vec<ChangedPart>)| !layer_of(&stocked, *tile).is_empty();
        let samples: Vec<&(TileCoord, Vec<ChangedPart>)> = samples.iter().filter(shows).take(CHECKED).collect();
        if samples.is_empty() {
            return Ok(None);
        }
        let parts = samples.iter().flat_map(|(tile, parts)| parts.iter().map(|part| (*tile, part.world)));
        let searched: Vec<Area> = parts.map(|(tile, world)| area(tile, SearchBox::World(world))).collect();
        let (mut drawn, most) = (Tiles::new(), Vec::new());
        self.layer(Asked { number: 0, areas: &searched, most: &most, rows: Candidates::Found }, &mut drawn).await?;
        let is_alike = |(tile, parts): &&(TileCoord, Vec<ChangedPart>)| {
            let (own, stocked) = (layer_of(&drawn, *tile), layer_of(&stocked, *tile));
            mvt::replaced(own, stocked, &boxes(parts), points).is_some_and(|(together, _)| together == own)
        };
        Ok(Some(samples.iter().all(is_alike)))
    }
}

/// The one layer of a tile; nothing if the tile is not there.
fn layer_of(tiles: &Tiles, tile: TileCoord) -> &[u8] {
    let tile = tiles.get(&Order::ZoomColumnTmsRow.place(tile).cast_signed());
    let layers = tile.and_then(|tile| mvt::split(&tile.mvt)).unwrap_or_default();
    layers.first().map_or(&[], |(_, layer)| layer)
}

impl Stock {
    async fn of_cells(
        snapshot: &Snapshot,
        layer: &Layer,
        near: &Neighbourhood,
        memory: usize,
    ) -> Result<Option<Stock>, Error> {
        let cells = Areas::of_cells(layer, &near.cells);
        // Each property takes some bytes, too: more rows would not fit.
        let most = memory as u64 / (LEAST + 2 * layer.properties.len() as u64) + 1;
        let most = most.min(DENSE * near.places);
        let stock = Stock::of_rows(snapshot, layer, (Stocked::Cells { most }, cells.params()), memory).await?;
        Ok(stock.map(|mut stock| {
            stock.near = Some(near.from);
            stock
        }))
    }
}
