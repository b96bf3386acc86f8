//! The rows near what has changed, read once for tiles of most zooms.

use crate::patch::Spots;
use crate::postgis::{Error, Layer, Snapshot};

/// The layers, those of points with the rows near their changed places. All take so many bytes of memory at most.
pub(super) async fn near(
    snapshot: &Snapshot,
    layers: &[Layer],
    spots: &Spots,
    mut memory: usize,
) -> Result<Vec<Layer>, Error> {
    let mut near = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        let suits = memory > 0 && layer.point_key().is_some() && layer.shows_points_alike();
        if suits
            && let Some((zoom, cells)) = spots.neighbourhood(number, layer.margin().extent)
            && layer.zooms().iter().any(|drawn| drawn >= zoom)
        {
            layer = layer.with_neighbourhood(snapshot, (zoom, &cells), memory).await?;
            memory = memory.saturating_sub(layer.size_of_stock());
        }
        near.push(layer);
    }
    Ok(near)
}
