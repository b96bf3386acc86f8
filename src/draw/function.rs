//! Tiles that a database function returns, with many calls in one statement.

use std::collections::HashSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::BatchTiles;
use super::areas::query_tiles;
use super::statements::LayerStatements;
use crate::encode::Gunzip;
use crate::mvt;
use crate::postgis::layer::{CalledFunction, Layer, OnTileError};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;
use crate::source::{LayerIssue, LayerIssueKind, RenderedLayer, RenderedTile};
use crate::tile::{Area, LayerCount, Order, TileCoord};

/// The tiles of a statement, and their addresses as arrays.
#[derive(Default)]
struct CalledTiles {
    tiles: Vec<TileCoord>,
    numbers: Vec<i32>,
    zooms: Vec<i32>,
    x: Vec<i32>,
    y: Vec<i32>,
}

impl CalledTiles {
    fn add(&mut self, tile: TileCoord) {
        self.numbers.push(i32::try_from(self.tiles.len()).unwrap_or(i32::MAX));
        self.tiles.push(tile);
        self.zooms.push(tile.zoom().get().into());
        // Below 2^22 at every zoom.
        self.x.push(tile.x().cast_signed());
        self.y.push(tile.y().cast_signed());
    }
}

/// Calls a layer's function for each tile of some areas. `index` is the index of the layer. The result contains all of
/// these tiles, including empty ones.
pub(crate) async fn call(
    session: &Session,
    layer: &Layer,
    index: usize,
    areas: &[Area],
    tiles: &mut BatchTiles,
) -> Result<LayerCount, Error> {
    let Some(function) = layer.function() else { return Ok(LayerCount::default()) };
    let mut called = CalledTiles::default();
    for rect in areas.iter().flat_map(|area| query_tiles(area, index)) {
        rect.iter().for_each(|tile| called.add(tile));
    }
    let mut params: Vec<Param<'_>> = vec![
        (&called.numbers, Type::INT4_ARRAY),
        (&called.zooms, Type::INT4_ARRAY),
        (&called.x, Type::INT4_ARRAY),
        (&called.y, Type::INT4_ARRAY),
    ];
    if let Some(query) = &function.query {
        params.push((query, Type::TEXT));
    }
    let context = || layer.context_at(areas.first().map(|area| &area.rect), areas.len());
    let mut count = LayerCount::default();
    let each = |row: &Row| {
        let (number, bytes): (i32, Option<&[u8]>) = (row.get(0), row.get(1));
        let Some(coord) = usize::try_from(number).ok().and_then(|number| called.tiles.get(number)) else {
            return Ok(());
        };
        let tile = given_tile(layer, function, *coord, bytes.unwrap_or_default())?;
        count.features += tile.features;
        count.tiles += 1;
        match tiles.insert(Order::ZoomColumnTmsRow.sort_key(*coord).cast_signed(), tile) {
            None => Ok(()),
            Some(_) => Err(wrong_tile(layer, function, *coord, "gave several rows")),
        }
    };
    session.each(&context(), &sql::call(function), &params, each).await?;
    Ok(count)
}

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
    let issues = vec![LayerIssue {
        layer: layer.id(),
        kind: LayerIssueKind::Failed { cause: format!("{} {what}", function.signature()) },
    }];
    let layers = vec![RenderedLayer { layer: layer.id(), bytes: 0 }];
    Ok(RenderedTile { layers, issues, ..RenderedTile::empty(tile) })
}

/// The MVT bytes of a function's result, and the number of their features; or a description of what is wrong. Functions
/// written for other servers may return tiles that are already packed with gzip.
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

/// The kind of the bytes by their first ones, if it is a kind of image that functions for other servers return.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 3] =
        [(b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"RIFF", "a WebP image")];
    kinds.into_iter().find(|(begin, _)| bytes.starts_with(begin)).map(|(_, kind)| kind)
}

/// Returns an error if two layers of a tile have the same name (MVT 2.1, section 4.1), which can happen with functions.
pub(crate) fn check_names(layers: &[LayerStatements], tiles: &BatchTiles) -> Result<(), Error> {
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
