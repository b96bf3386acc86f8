//! The rows around what has changed, read once for tiles of many zooms.

use std::sync::Arc;

use crate::encode::Packing;
use crate::patch::SpotsInTiles;
use crate::postgis::{Database, Error, Layer, Renderer, Snapshot};

/// The layers, those of points with the rows around their changed places. All take about so many bytes of memory at most.
pub(super) async fn near(
    (database, snapshot): (&Database, &Arc<Snapshot>),
    layers: &[Layer],
    spots: &SpotsInTiles,
    (packing, mut memory): (Packing, usize),
) -> Result<Vec<Layer>, Error> {
    let mut near = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        if memory > 0
            && layer.suits_neighbourhood()
            && let Some(around) = spots.neighbourhood(number, layer.margin().extent)
        {
            let renderer = Renderer::alone(database, snapshot, &[], packing).await?;
            layer = layer.with_neighbourhood(renderer, &around, memory).await?;
            memory = memory.saturating_sub(layer.size_of_stock());
        }
        near.push(layer);
    }
    Ok(near)
}
