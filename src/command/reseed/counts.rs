//! The cells of layers that need nothing but a count: one look at the rows serves every zoom.

use std::sync::Arc;

use crate::command::CommandError;
use crate::postgis::{Layer, Snapshot, survey};
use crate::tile::{Coverage, LonLatBox, TileCoord, TileRect, ZoomList};

/// So many boxes are asked for one by one; of more, the whole world is.
const MOST_BOXES: usize = 64;

/// The layers, those that only count with the cells that some tiles show.
pub(super) async fn counted(
    snapshot: &Arc<Snapshot>,
    layers: &[Layer],
    tiles: &[TileCoord],
) -> Result<Vec<Layer>, CommandError> {
    let mut counted = Vec::new();
    for layer in layers {
        let shown: Vec<TileCoord> = tiles.iter().copied().filter(|tile| layer.zooms().contains(tile.zoom())).collect();
        let zooms = ZoomList::of(shown.iter().map(|tile| tile.zoom()));
        counted.push(match zooms {
            Some(zooms) if layer.needs_only_counts() => {
                let surveyed = survey(snapshot, layer, &around(&shown), &zooms).await?;
                layer.clone().with_counts(surveyed.counted)
            }
            _ => layer.clone(),
        });
    }
    Ok(counted)
}

/// The part of the world that some tiles lie in.
fn around(tiles: &[TileCoord]) -> Coverage {
    let mut outer: Vec<TileRect> = Vec::new();
    let mut sorted = tiles.to_vec();
    sorted.sort_unstable_by_key(|tile| tile.zoom());
    for tile in sorted {
        let (west, north, ..) = TileRect::from(tile).world(0);
        let holds = |rect: &TileRect| {
            let (w, n, e, s) = rect.world(0);
            (w..e).contains(&west) && (n..s).contains(&north)
        };
        if !outer.iter().any(holds) {
            outer.push(TileRect::from(tile));
        }
        if outer.len() > MOST_BOXES {
            return Coverage::new(&[]);
        }
    }
    let boxes: Vec<LonLatBox> = outer.into_iter().map(LonLatBox::from).collect();
    Coverage::new(&boxes)
}
