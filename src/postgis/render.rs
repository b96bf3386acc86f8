//! Rendering a batch: one statement a layer, the layers of a tile put together in the order of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::areas::{Areas, CellColumns, tiles_asked};
use super::budget::{OnTileError, is_of_a_tile};
use super::error::{Error, place_of};
use super::layer::Layer;
use super::miscounted::{miscounted, unselective};
use super::prepared::Prepared;
use super::session::{Database, Param, Session};
use super::snapshot::Snapshot;
use super::sql::Candidates;
use crate::encode::Packing;
use crate::source::{Note, Noted, RenderedLayer, RenderedTile, Source};
use crate::tile::{Area, Batch, LayerCount, Order, Planned, TileCoord, TileRect, Zoom};

/// How often a batch is tried again on a new connection while the snapshot lives.
const RECONNECTS: u32 = 2;

/// One of a run's workers: a session on the snapshot, and the layers.
pub struct Renderer {
    pub(super) database: Database,
    pub(super) snapshot: Arc<Snapshot>,
    /// Its own session; without one it uses the one that holds the snapshot.
    pub(super) session: Option<Session>,
    pub(super) layers: Vec<Prepared>,
    /// How the run packs tiles: budgets are of packed bytes.
    pub(super) packing: Packing,
}

/// The tiles of a batch, by their place in the archive's order.
pub(super) type Tiles = BTreeMap<i64, RenderedTile>;

/// What one statement renders.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The layer, by its place among the layers.
    pub(super) number: usize,
    pub(super) areas: &'a [Area],
    /// The most features of a tile, by zoom.
    pub(super) most: &'a Vec<Option<i64>>,
    pub(super) rows: Candidates,
}

impl Renderer {
    /// The same with its layers as they are known by now: those that only count with their counts.
    pub fn set_layers(&mut self, layers: &[Layer]) {
        self.layers = layers.iter().map(Prepared::of).collect();
    }

    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().unwrap_or(&self.snapshot.keeper)
    }

    /// One layer's part of some areas. A tile for which the layer was asked by itself is there though nothing came for it.
    pub(super) async fn layer(&self, asked: Asked<'_>, tiles: &mut Tiles) -> Result<LayerCount, Error> {
        let layer = self.layers[asked.number].layer.id;
        let mut drawn = 0;
        let each = |row: &Row| {
            let (place, features, mvt, left_out): (i64, i64, &[u8], i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let tile = tiles.entry(place).or_insert_with(|| RenderedTile::empty(coord(place)));
            let mvt = if features > 0 { mvt } else { &[] };
            // What is left out was found, too: the plan knows it.
            drawn += features.cast_unsigned() + left_out.cast_unsigned();
            tile.features += features.cast_unsigned();
            tile.mvt.extend_from_slice(mvt);
            tile.layers.push(RenderedLayer { layer, bytes: mvt.len() });
            if left_out > 0 {
                tile.notes.push(Note { layer, what: Noted::Thinned { left_out: left_out.cast_unsigned() } });
            }
        };
        let mut found = self.rows(asked, each).await?;
        if self.layers[asked.number].layer.asks_each_tile() {
            let all = asked.areas.iter().flat_map(|area| tiles_asked(area, asked.number));
            for tile in all.flat_map(TileRect::iter) {
                let layers = || vec![RenderedLayer { layer, bytes: 0 }];
                let rendered = || RenderedTile { layers: layers(), ..RenderedTile::empty(tile) };
                tiles.entry(Order::ZoomColumnTmsRow.place(tile).cast_signed()).or_insert_with(rendered);
            }
            found = tiles.len() as u64;
        }
        Ok(LayerCount { tiles: found, features: drawn })
    }

    /// Runs a layer's statement over some areas; gives the number of its rows.
    async fn rows(&self, asked: Asked<'_>, mut each: impl FnMut(&Row)) -> Result<u64, Error> {
        let Asked { number, areas, most, rows } = asked;
        let (layer, statement) = (&self.layers[number].layer, self.layers[number].over(rows));
        let bound = Areas::bind(layer, number, areas);
        let rect = areas.first().map(|area| area.rect);
        let place = || match (areas, rect) {
            ([_], Some(rect)) => format!("layer \"{}\", {}", layer.name, place_of(&rect)),
            (_, Some(rect)) => format!("layer \"{}\", {} and others", layer.name, place_of(&rect)),
            _ => format!("layer \"{}\"", layer.name),
        };
        #[expect(clippy::cast_possible_wrap, reason = "checked when the configuration was read: both stay below 2^20")]
        let (extent, buffer) = (layer.margin.extent as i32, layer.margin.buffer as i32);
        let cells = (rows == Candidates::Counted).then(|| CellColumns::bind(layer, number, areas)).flatten();
        let mut params = bound.params();
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&buffer, Type::INT4)];
        params.extend(own);
        if let Some(cells) = &cells {
            params.extend(cells.params());
        }
        // The last one, behind those of counted cells.
        if layer.budget.thins() {
            params.push((most as _, Type::INT8_ARRAY));
        }
        let mut found = 0;
        let count = |row: &Row| {
            found += 1;
            each(row);
            Ok(())
        };
        self.session().each(&place(), statement, &params, count).await?;
        Ok(found)
    }

    /// One layer's part of some areas, with so many features a tile at most, by zoom. Where the statement fails, the areas are cut
    /// until it goes through or the one tile that fails is known by name; that ends the run, unless the layer says otherwise.
    ///
    /// Gives the number of tiles; those that failed are counted in.
    pub(super) async fn layer_or_parts(
        &self,
        number: usize,
        areas: &[Area],
        most: &Vec<Option<i64>>,
        tiles: &mut Tiles,
    ) -> Result<LayerCount, Error> {
        let Prepared { layer, careful, .. } = &self.layers[number];
        let mut found = LayerCount::default();
        // Areas yet to be rendered, the first last.
        let mut waiting = match self.drawn_from_stock(number, areas).await? {
            None => self.layers[number].parts(areas),
            Some(drawn) => {
                found = drawn.count;
                put_together(tiles, drawn.tiles);
                self.layers[number].parts(&drawn.left)
            }
        };
        while let Some((areas, rows)) = waiting.pop() {
            let mut rendered = Tiles::new();
            match self.layer(Asked { number, areas: &areas, most, rows }, &mut rendered).await {
                Ok(part) => {
                    found.tiles += part.tiles;
                    found.features += part.features;
                    put_together(tiles, rendered);
                }
                Err(error @ (Error::Timeout { .. } | Error::Query { .. })) => {
                    self.session().restart().await?;
                    if rows == Candidates::Found && careful.is_some() && matches!(error, Error::Query { .. }) {
                        // The row may lie beside these tiles.
                        waiting.push((areas, Candidates::Touching));
                    } else if let Some((first, second)) = halves(&areas) {
                        tracing::debug!("{error}: trying again in two parts");
                        waiting.extend([(second, rows), (first, rows)]);
                    } else if let Some(tile) = failing(layer, &areas, &error) {
                        tracing::info!("{error}: leaving the layer out of this tile");
                        found.tiles += 1;
                        let place = Order::ZoomColumnTmsRow.place(tile.tile).cast_signed();
                        put_together(tiles, Tiles::from([(place, tile)]));
                    } else {
                        return Err(error);
                    }
                }
                Err(other) => return Err(other),
            }
        }
        Ok(found)
    }

    /// Runs the statements of a batch and throws the tiles away: what the database alone takes.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn discard(&self, batch: &Batch) -> Result<(), Error> {
        for (number, planned) in batch.layers.iter().enumerate().filter(|(_, planned)| planned.tiles > 0) {
            let most = &self.layers[number].layer.budget.most_features();
            let mut found = 0;
            for (areas, rows) in self.layers[number].parts(&batch.areas) {
                found += self.rows(Asked { number, areas: &areas, most, rows }, |_row| ()).await?;
            }
            debug_assert!(found == planned.tiles || self.layers[number].layer.asks_each_tile());
        }
        Ok(())
    }

    async fn batch(&self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        let mut tiles = match batch.planned {
            Planned::Occupied => Tiles::new(),
            Planned::Every => self.empty(&batch.areas),
        };
        for (number, planned) in batch.layers.iter().enumerate() {
            if planned.tiles == 0 {
                continue;
            }
            let (mut part, most) = (Tiles::new(), self.layers[number].layer.budget.most_features());
            let found = self.layer_or_parts(number, &batch.areas, &most, &mut part).await?;
            // Whether a failed tile was planned cannot be told where cells beside it may have failed it.
            let failed = part.values().filter(|tile| tile.is_failed()).count() as u64;
            self.fit(number, &batch.areas, &mut part).await?;
            put_together(&mut tiles, part);
            let right = match batch.planned {
                Planned::Occupied => (found.tiles - failed..=found.tiles).contains(&planned.tiles),
                Planned::Every => tiles.len() as u64 == batch.tiles,
            };
            let layer = &self.layers[number].layer;
            let near = || batch.areas.first().map(|area| place_of(&area.rect)).unwrap_or_default();
            if !right {
                return Err(miscounted(layer, planned.tiles, found.tiles, near()));
            }
            if layer.asks_each_tile() && batch.planned == Planned::Occupied && found.features > planned.features {
                return Err(unselective(layer, *planned, found, &near()));
            }
        }
        Ok(tiles.into_values().collect())
    }

    /// A further session on the snapshot, with the locks of the one that was lost.
    async fn again(&self) -> Result<Session, Error> {
        let session = self.database.on(&self.snapshot).await?;
        for prepared in &self.layers {
            session.plan(std::slice::from_ref(&prepared.layer)).await?;
        }
        session.save().await?;
        Ok(session)
    }

    /// Every tile of some areas with nothing drawn in it yet, and the layers that may be.
    fn empty(&self, areas: &[Area]) -> Tiles {
        let mut tiles = Tiles::new();
        for area in areas {
            let layers: Vec<RenderedLayer> = (self.layers.iter())
                .filter(|prepared| prepared.layer.zooms.contains(area.rect.zoom))
                .map(|prepared| RenderedLayer { layer: prepared.layer.id, bytes: 0 })
                .collect();
            for tile in area.rect.iter() {
                let rendered = RenderedTile { layers: layers.clone(), ..RenderedTile::empty(tile) };
                tiles.insert(Order::ZoomColumnTmsRow.place(tile).cast_signed(), rendered);
            }
        }
        tiles
    }
}

impl Source for Renderer {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        // Rows that were read before may do for this batch, but hardly for all that follow.
        if let Some(gave_way) = self.database.locks.gave_way() {
            return Err(gave_way);
        }
        let mut tries = 0;
        loop {
            match self.batch(batch).await {
                Err(error) if error.is_lost() && tries < RECONNECTS => {
                    tries += 1;
                    tracing::debug!("{error}: opening another connection");
                    // Fails if the snapshot is gone as well; the first error then says more than the second.
                    match self.again().await {
                        Ok(session) => self.session = Some(session),
                        Err(other) if other.ends_the_run() => return Err(other),
                        Err(_also_lost) => return Err(error),
                    }
                }
                done => return done,
            }
        }
    }
}

/// The one tile of some areas without a layer that cannot be rendered in it, if the layer is to be skipped there.
fn failing(layer: &Layer, areas: &[Area], error: &Error) -> Option<RenderedTile> {
    if layer.on_tile_error != OnTileError::Skip || !is_of_a_tile(error) {
        return None;
    }
    let tile = areas.first()?.rect.first()?;
    let cause = match error {
        Error::Timeout { after, .. } => format!("the database cancelled the query after {after}"),
        other => std::error::Error::source(other).map_or_else(|| other.to_string(), ToString::to_string),
    };
    let notes = vec![Note { layer: layer.id, what: Noted::Failed { cause } }];
    Some(RenderedTile { layers: vec![RenderedLayer { layer: layer.id, bytes: 0 }], notes, ..RenderedTile::empty(tile) })
}

/// Adds the tiles of a part, or of the next layer, to those already there.
fn put_together(tiles: &mut Tiles, more: Tiles) {
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
                occupied.get_mut().notes.extend(tile.notes);
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

/// Areas in two parts: some and the others, or one cut across. `None` for a single tile.
fn halves(areas: &[Area]) -> Option<(Vec<Area>, Vec<Area>)> {
    if let [area] = areas {
        return area.halves().map(|(first, second)| (vec![first], vec![second]));
    }
    let (first, second) = areas.split_at_checked(areas.len() / 2)?;
    (!first.is_empty()).then(|| (first.to_vec(), second.to_vec()))
}

/// The tile that a statement's number stands for: zoom above bit 58, column above bit 29, TMS row.
#[expect(clippy::cast_sign_loss, reason = "each part is masked to its bits")]
fn coord(place: i64) -> TileCoord {
    const LOW: i64 = (1 << 29) - 1;
    let zoom = Zoom::new((place >> 58) as u8 & 0x1f).unwrap_or(Zoom::MAX);
    TileCoord::from_tms(zoom, (place >> 29 & LOW) as u32, (place & LOW) as u32)
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
