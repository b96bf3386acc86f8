//! Tiles that a function of the database gives: many calls a statement.

use std::collections::HashSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::Tiles;
use super::areas::query_tiles;
use super::drawing::{BatchDrawing, LayerAreas, coord};
use super::statements::LayerStatements;
use crate::encode::Gunzip;
use crate::mvt;
use crate::postgis::layer::{CalledFunction, Layer, OnTileError};
use crate::postgis::session::{Error, Param, area_name};
use crate::postgis::sql;
use crate::source::{Note, Noted, RenderedLayer, RenderedTile};
use crate::tile::{LayerCount, Order, TileCoord};

/// The tiles of a statement as arrays: zoom, column, row.
#[derive(Default)]
struct TileColumns {
    places: Vec<i64>,
    zooms: Vec<i32>,
    x: Vec<i32>,
    y: Vec<i32>,
}

impl TileColumns {
    fn add(&mut self, tile: TileCoord) {
        self.places.push(Order::ZoomColumnTmsRow.place(tile).cast_signed());
        self.zooms.push(tile.zoom().get().into());
        // Below 2^22 at every zoom.
        self.x.push(tile.x().cast_signed());
        self.y.push(tile.y().cast_signed());
    }
}

impl BatchDrawing<'_> {
    /// Calls the layer's function for each tile of some areas. All of these tiles are in the result, empty ones too.
    pub(super) async fn call(
        self,
        work: LayerAreas<'_>,
        function: &CalledFunction,
        tiles: &mut Tiles,
    ) -> Result<LayerCount, Error> {
        let layer = self.probed(work.index);
        let mut columns = TileColumns::default();
        for rect in work.areas.iter().flat_map(|area| query_tiles(area, work.index)) {
            rect.iter().for_each(|tile| columns.add(tile));
        }
        let mut params: Vec<Param<'_>> = vec![
            (&columns.places, Type::INT8_ARRAY),
            (&columns.zooms, Type::INT4_ARRAY),
            (&columns.x, Type::INT4_ARRAY),
            (&columns.y, Type::INT4_ARRAY),
        ];
        if let Some(query) = &function.query {
            params.push((query, Type::TEXT));
        }
        let context = || match (work.areas, work.areas.first()) {
            ([_], Some(area)) => format!("layer \"{}\", {}", layer.name(), area_name(&area.rect)),
            (_, Some(area)) => format!("layer \"{}\", {} and others", layer.name(), area_name(&area.rect)),
            _ => format!("layer \"{}\"", layer.name()),
        };
        let mut count = LayerCount::default();
        let each = |row: &Row| {
            let (place, bytes): (i64, Option<&[u8]>) = (row.get(0), row.get(1));
            let tile = given_tile(layer, function, coord(place), bytes.unwrap_or_default())?;
            count.features += tile.features;
            count.tiles += 1;
            match tiles.insert(place, tile) {
                None => Ok(()),
                Some(_) => Err(wrong_tile(layer, function, coord(place), "gave several rows")),
            }
        };
        self.session().each(&context(), &sql::call(function), &params, each).await?;
        Ok(count)
    }
}

/// The tile that a function gave.
fn given_tile(layer: &Layer, function: &CalledFunction, tile: TileCoord, bytes: &[u8]) -> Result<RenderedTile, Error> {
    let what = match unpacked(bytes) {
        Ok((mvt, features)) => {
            let layers = vec![RenderedLayer { layer: layer.id(), bytes: mvt.len() }];
            return Ok(RenderedTile { mvt, layers, features, ..RenderedTile::empty(tile) });
        }
        Err(what) => what,
    };
    if layer.on_tile_error == OnTileError::Fail {
        return Err(wrong_tile(layer, function, tile, &what));
    }
    let notes =
        vec![Note { layer: layer.id(), what: Noted::Failed { cause: format!("{} {what}", function.signature()) } }];
    let layers = vec![RenderedLayer { layer: layer.id(), bytes: 0 }];
    Ok(RenderedTile { layers, notes, ..RenderedTile::empty(tile) })
}

/// The MVT bytes of what a function gave, and the number of their features; or what is wrong with it. Functions for other servers may give
/// tiles that are packed with gzip already.
fn unpacked(bytes: &[u8]) -> Result<(Vec<u8>, u64), String> {
    let mvt =
        Gunzip::new().unpack(bytes).map_err(|error| format!("gave a packed tile that cannot be unpacked ({error})"))?;
    let features = match mvt::decode(&mvt) {
        Ok(layers) => layers.iter().map(|layer| layer.features.len() as u64).sum(),
        Err(error) => {
            return Err(match kind_of(bytes) {
                Some(kind) => format!("gave {kind}"),
                None => format!("gave bytes that are no vector tile ({error})"),
            });
        }
    };
    Ok((mvt, features))
}

fn wrong_tile(layer: &Layer, function: &CalledFunction, tile: TileCoord, what: &str) -> Error {
    Error::Layer {
        layer: layer.name().to_owned(),
        what: format!("{} {what} for tile {tile}", function.signature()),
        next: "Let it return what ST_AsMVT gives, in one row; several layers one after the other (||)".to_owned(),
        source: None,
    }
}

/// What bytes begin like, if they are of a kind that functions of other servers give.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 3] =
        [(b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"RIFF", "a WebP image")];
    kinds.into_iter().find(|(begin, _)| bytes.starts_with(begin)).map(|(_, kind)| kind)
}

/// Refuses tiles in which two layers have the same name (MVT 2.1, section 4.1), which functions can bring about.
pub(super) fn check_names(layers: &[LayerStatements], tiles: &Tiles) -> Result<(), Error> {
    let mut probed = layers.iter().map(|statements| statements.prepared.layer());
    let Some(layer) = probed.find(|layer| layer.function().is_some()) else { return Ok(()) };
    for tile in tiles.values() {
        let mut names = HashSet::new();
        let twice = mvt::split(&tile.mvt).into_iter().flatten().map(|(name, _)| name).find(|name| !names.insert(*name));
        if let Some(twice) = twice {
            return Err(Error::Layer {
                layer: layer.name().to_owned(),
                what: format!(
                    "tile {} has two layers named \"{twice}\", and at least one is given by a function",
                    tile.tile
                ),
                next: "Give each layer in a tile its own name, the second argument of ST_AsMVT".to_owned(),
                source: None,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_servers_would_send_is_told_by_its_first_bytes() {
        assert_eq!(kind_of(b"\x89PNG\r\n"), Some("a PNG image"));
        assert_eq!(kind_of(b"\x1a\x00"), None);
    }
}
