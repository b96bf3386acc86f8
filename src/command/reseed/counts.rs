//! The cells of layers of which all that is to be known is worked out while rows are read: one look at them serves every zoom.

use std::sync::Arc;

use tokio::sync::watch;

use crate::postgis::{Error, Layer, Renderer, Snapshot, survey};
use crate::source::{RenderedTile, Source};
use crate::tile::{Batch, Coverage, LonLatBox, TileCoord, TileRect, ZoomList};

/// So many boxes are asked for one by one; of more, the whole world is.
const MOST_BOXES: usize = 64;

/// What is known of the counts by now.
#[derive(Debug, Clone)]
pub(super) enum Counts {
    /// They are being looked up.
    Waiting,
    /// The layers with their cells.
    Known(Vec<Layer>),
    /// They will not be known: whoever looks them up says why.
    Failed,
}

/// A renderer that waits for the counts only where it needs them.
pub(super) struct Counting {
    pub(super) renderer: Renderer,
    /// `None` once it has them.
    pub(super) counts: Option<watch::Receiver<Counts>>,
}

impl Source for Counting {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        if let Some(counts) = self.counts.as_mut().filter(|_| batch.late) {
            let known = counts.wait_for(|counts| !matches!(counts, Counts::Waiting)).await;
            match known.as_deref() {
                Ok(Counts::Known(layers)) => self.renderer.set_layers(layers),
                _ => return Err(Error::Interrupted),
            }
            drop(known);
            self.counts = None;
        }
        self.renderer.render(batch).await
    }
}

/// The layers, with the cells that some tiles show where a look at the rows tells all of them.
pub(super) async fn counted(
    snapshot: &Arc<Snapshot>,
    layers: &[Layer],
    tiles: &[TileCoord],
) -> Result<Vec<Layer>, Error> {
    let mut counted = Vec::new();
    for layer in layers {
        let shown: Vec<TileCoord> = tiles.iter().copied().filter(|tile| layer.may_be_counted(tile.zoom())).collect();
        let Some(zooms) = ZoomList::of(shown.iter().map(|tile| tile.zoom())) else {
            counted.push(layer.clone());
            continue;
        };
        let layer = layer.clone().folded(snapshot).await?;
        counted.push(if layer.is_counted_by_survey() {
            let surveyed = survey(snapshot, &layer, &around(&shown), &zooms).await?;
            layer.with_counts(surveyed.counted)
        } else {
            layer
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
