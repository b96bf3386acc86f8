//! Rendering a batch: one statement a layer, the layers of a tile put together in the order of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::{Error, place_of};
use super::layer::Layer;
use super::session::{Database, Param, Session};
use super::snapshot::Snapshot;
use super::sql;
use super::survey::area_box;
use crate::source::{RenderedTile, Source};
use crate::tile::{Area, Batch, Order, Planned, SearchBox, TileCoord, TileRect, Zoom};

/// How often a batch is tried again on a new connection while the snapshot lives.
const RECONNECTS: u32 = 2;

/// A layer and its statement.
struct Prepared {
    layer: Layer,
    statement: String,
}

/// One of a run's workers: a session on the snapshot, and the layers.
pub struct Renderer {
    database: Database,
    snapshot: Arc<Snapshot>,
    /// Its own session; without one it uses the one that holds the snapshot.
    session: Option<Session>,
    layers: Vec<Prepared>,
}

/// The tiles of a batch, by their place in the archive's order.
type Tiles = BTreeMap<i64, RenderedTile>;

impl Renderer {
    /// Opens a session on the snapshot.
    ///
    /// # Errors
    /// If the session cannot be opened.
    pub async fn open(database: &Database, snapshot: &Arc<Snapshot>, layers: &[Layer]) -> Result<Renderer, Error> {
        let session = Some(database.on(snapshot).await?);
        Ok(Renderer { session, ..Renderer::without_session(database, snapshot, layers) })
    }

    /// Uses the session that holds the snapshot: for little work, before which no other session needs to be opened. It is the
    /// only one that uses it.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn alone(database: &Database, snapshot: &Arc<Snapshot>, layers: &[Layer]) -> Result<Renderer, Error> {
        snapshot.keeper.save().await?;
        Ok(Renderer::without_session(database, snapshot, layers))
    }

    fn without_session(database: &Database, snapshot: &Arc<Snapshot>, layers: &[Layer]) -> Renderer {
        let prepare = |layer: &Layer| Prepared { layer: layer.clone(), statement: sql::render(layer) };
        Renderer {
            database: database.clone(),
            snapshot: Arc::clone(snapshot),
            session: None,
            layers: layers.iter().map(prepare).collect(),
        }
    }

    fn session(&self) -> &Session {
        self.session.as_ref().unwrap_or(&self.snapshot.keeper)
    }

    /// One layer's part of some areas.
    async fn layer(&self, number: usize, areas: &[Area], tiles: &mut Tiles) -> Result<u64, Error> {
        let each = |row: &Row| {
            let (place, features, mvt): (i64, i64, &[u8]) = (row.get(0), row.get(1), row.get(2));
            let tile = tiles.entry(place).or_insert_with(|| RenderedTile {
                tile: coord(place),
                mvt: Vec::new(),
                layers: Vec::new(),
                features: 0,
            });
            let mvt = if features > 0 { mvt } else { &[] };
            tile.features += features.cast_unsigned();
            tile.mvt.extend_from_slice(mvt);
            tile.layers.push((self.layers[number].layer.number, mvt.len()));
        };
        self.rows(number, areas, each).await
    }

    /// Runs a layer's statement over some areas; gives the number of its rows.
    async fn rows(&self, number: usize, areas: &[Area], mut each: impl FnMut(&Row)) -> Result<u64, Error> {
        let Prepared { layer, statement } = &self.layers[number];
        let bound = Areas::bind(layer, number, areas);
        let rect = areas.first().map(|area| area.rect);
        let place = || match (areas, rect) {
            ([_], Some(rect)) => format!("layer \"{}\", {}", layer.name, place_of(&rect)),
            (_, Some(rect)) => format!("layer \"{}\", {} and others", layer.name, place_of(&rect)),
            _ => format!("layer \"{}\"", layer.name),
        };
        #[expect(clippy::cast_possible_wrap, reason = "checked when the configuration was read: both stay below 2^20")]
        let (extent, buffer) = (layer.margin.extent as i32, layer.margin.buffer as i32);
        let cells = CellColumns::bind(layer, number, areas);
        let mut params: Vec<Param<'_>> = vec![
            (&bound.zooms as _, Type::INT4_ARRAY),
            (&bound.margins as _, Type::INT8_ARRAY),
            (&bound.x0 as _, Type::INT8_ARRAY),
            (&bound.y0 as _, Type::INT8_ARRAY),
            (&bound.x1 as _, Type::INT8_ARRAY),
            (&bound.y1 as _, Type::INT8_ARRAY),
            (&bound.sides[0] as _, Type::FLOAT8_ARRAY),
            (&bound.sides[1] as _, Type::FLOAT8_ARRAY),
            (&bound.sides[2] as _, Type::FLOAT8_ARRAY),
            (&bound.sides[3] as _, Type::FLOAT8_ARRAY),
            (&layer.name as _, Type::TEXT),
            (&extent as _, Type::INT4),
            (&buffer as _, Type::INT4),
        ];
        if let Some(cells) = &cells {
            params.extend(cells.0.iter().map(|column| -> Param<'_> { (column as _, Type::INT8_ARRAY) }));
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

    /// One layer's part of some areas. Where the statement fails, the areas are cut until it goes through or the one tile
    /// that fails is known by name.
    async fn layer_or_parts(&self, number: usize, areas: &[Area], tiles: &mut Tiles) -> Result<u64, Error> {
        let mut found = 0;
        // Areas yet to be rendered, the first last.
        let mut waiting: Vec<Vec<Area>> = vec![areas.to_vec()];
        while let Some(areas) = waiting.pop() {
            let mut rendered = Tiles::new();
            match self.layer(number, &areas, &mut rendered).await {
                Ok(rows) => {
                    found += rows;
                    put_together(tiles, rendered);
                }
                Err(error @ (Error::Timeout { .. } | Error::Query { .. })) => {
                    self.session().restart().await?;
                    let Some((first, second)) = halves(&areas) else { return Err(error) };
                    tracing::debug!("{error}: trying again in two parts");
                    waiting.extend([second, first]);
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
            let found = self.rows(number, &batch.areas, |_row| ()).await?;
            debug_assert_eq!(found, planned.tiles);
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
            let found = self.layer_or_parts(number, &batch.areas, &mut tiles).await?;
            let right = match batch.planned {
                Planned::Occupied => found == planned.tiles,
                Planned::Every => tiles.len() as u64 == batch.tiles,
            };
            if !right {
                return Err(Error::Miscounted {
                    layer: self.layers[number].layer.name.clone(),
                    planned: planned.tiles,
                    found,
                    near: batch.areas.first().map(|area| place_of(&area.rect)).unwrap_or_default(),
                });
            }
        }
        Ok(tiles.into_values().collect())
    }

    /// Every tile of some areas with nothing drawn in it yet, and the layers that may be.
    fn empty(&self, areas: &[Area]) -> Tiles {
        let mut tiles = Tiles::new();
        for area in areas {
            let layers: Vec<(u16, usize)> = (self.layers.iter())
                .filter(|prepared| prepared.layer.zooms.contains(area.rect.zoom))
                .map(|prepared| (prepared.layer.number, 0))
                .collect();
            for tile in area.rect.iter() {
                let rendered = RenderedTile { tile, mvt: Vec::new(), layers: layers.clone(), features: 0 };
                tiles.insert(Order::ZoomColumnTmsRow.place(tile).cast_signed(), rendered);
            }
        }
        tiles
    }
}

impl Source for Renderer {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        let mut tries = 0;
        loop {
            match self.batch(batch).await {
                Err(error) if error.is_lost() && tries < RECONNECTS => {
                    tries += 1;
                    tracing::debug!("{error}: opening another connection");
                    // Fails if the snapshot is gone as well; the first error then says more than the second.
                    match self.database.on(&self.snapshot).await {
                        Ok(session) => self.session = Some(session),
                        Err(Error::Interrupted) => return Err(Error::Interrupted),
                        Err(_also_lost) => return Err(error),
                    }
                }
                done => return done,
            }
        }
    }
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
                let own = &mut occupied.get_mut().layers;
                for (number, bytes) in tile.layers {
                    match own.iter_mut().find(|(known, _)| *known == number) {
                        Some(known) => known.1 += bytes,
                        None => own.push((number, bytes)),
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

/// The areas of a batch as a statement's arrays.
#[derive(Default)]
struct Areas {
    zooms: Vec<i32>,
    margins: Vec<i64>,
    x0: Vec<i64>,
    y0: Vec<i64>,
    x1: Vec<i64>,
    y1: Vec<i64>,
    /// West, south, east, north of the search boxes.
    sides: [Vec<f64>; 4],
}

impl Areas {
    fn bind(layer: &Layer, number: usize, areas: &[Area]) -> Areas {
        let mut bound = Areas::default();
        for Area { rect, search } in areas {
            let TileRect { zoom, x0, y0, x1, y1 } = *rect;
            let sides = match search.get(number) {
                Some(SearchBox::Area) => area_box(layer, rect, zoom),
                Some(SearchBox::Source(sides)) => *sides,
                Some(SearchBox::Nothing) | None => continue,
            };
            bound.zooms.push(i32::from(zoom.get()));
            bound.margins.push(layer.margin.units(zoom));
            bound.x0.push(x0.into());
            bound.y0.push(y0.into());
            bound.x1.push(x1.into());
            bound.y1.push(y1.into());
            for (column, side) in bound.sides.iter_mut().zip(sides) {
                column.push(side);
            }
        }
        bound
    }
}

/// The counted cells that some areas may show, as a statement's arrays: the place of the area, counted from 1, the code, the
/// count, and where the cell stands.
struct CellColumns([Vec<i64>; 5]);

impl CellColumns {
    /// `None` if the layer's cells are not counted.
    fn bind(layer: &Layer, number: usize, areas: &[Area]) -> Option<CellColumns> {
        let (counted, grid) = (layer.counted.as_ref()?, layer.grid()?);
        let mut columns = CellColumns(Default::default());
        let searched = areas.iter().filter(|area| is_searched(area, number));
        for (place, area) in (1..).zip(searched) {
            for cell in counted.near(&grid, &area.rect, layer.margin.units(area.rect.zoom)) {
                let [west, north, _, _] = cell.world.map(i64::from);
                let values = [place, cell.code, cell.members.cast_signed(), west, north];
                columns.0.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
            }
        }
        Some(columns)
    }
}

/// Whether a layer may have features in an area.
fn is_searched(area: &Area, layer: usize) -> bool {
    !matches!(area.search.get(layer), Some(SearchBox::Nothing) | None)
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
