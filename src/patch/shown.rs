//! Checks whether a stored tile shows a point at a position.

use super::parts::TileGrid;
use crate::mvt;
use crate::tile::TileCoord;

/// True if a layer of a tile shows a feature at one of some positions (world units), or if that is not known. `raw` are the unpacked bytes
/// of the tile, `extent` is the number of grid units along its side. If the tile shows all rows of the layer as points, false means that no
/// row of the layer lies at any of the positions.
#[must_use]
pub fn may_show(
    raw: &[u8],
    tile: TileCoord,
    layer: &str,
    extent: u32,
    positions: impl Iterator<Item = [u32; 2]>,
) -> bool {
    let Ok(layers) = mvt::decode(raw) else { return true };
    let Some(own) = layers.iter().find(|one| one.name == layer) else { return false };
    if own.extent != extent {
        return true;
    }
    let grid = TileGrid::of(tile, extent);
    let boxes: Vec<_> = positions.map(|position| grid.around(position)).collect();
    let is_at = |[x, y]: [i32; 2]| {
        let (x, y) = (i64::from(x), i64::from(y));
        boxes.iter().any(|one| (one.west..=one.east).contains(&x) && (one.north..=one.south).contains(&y))
    };
    own.features.iter().any(|feature| match &feature.geometry {
        mvt::MvtGeometry::Points(points) => points.iter().copied().any(is_at),
        _other => true,
    })
}
