//! What renders a reseed: sessions, the rows around what has changed, and readers of what the target holds.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::counts::{Counting, Counts};
use super::patches::patching;
use super::run::Run;
use crate::command::CommandError;
use crate::command::seed::aside;
use crate::encode::Packing;
use crate::patch::{Patches, Patching, PositionsInTiles};
use crate::postgis::{Database, Error, Layer, Renderer, Snapshot};
use crate::tile::LayerIndex;

/// So few batches are rendered before another session would be open.
pub(super) const FEW_BATCHES: usize = 2;

impl Run<'_> {
    /// As many as there is work for, and the layers with the rows near what has changed. The session that holds the snapshot is enough
    /// for one batch or two.
    pub(super) async fn renderers(
        &self,
        batches: usize,
        spots: &PositionsInTiles,
    ) -> Result<(Vec<Layer>, Vec<Renderer>), CommandError> {
        let (database, snapshot, packing) = (&self.database, &self.snapshot, self.settings.limits.packing);
        let near = Box::pin(near((database, snapshot), &self.layers, spots, (packing, self.settings.rows_memory)));
        if batches <= FEW_BATCHES {
            let layers = near.await?;
            let renderer = Renderer::alone(database, snapshot, &layers, packing).await?;
            return Ok((layers, vec![renderer]));
        }
        let workers = self.settings.workers.get().min(batches);
        let opening = async {
            let renderers = Renderer::several(database, snapshot, &self.layers, packing, workers).await?;
            try_join_all(renderers.iter().map(Renderer::warm)).await?;
            Ok::<_, Error>(renderers)
        };
        let (layers, renderers) = tokio::join!(near, opening);
        let (layers, mut renderers) = (layers?, renderers?);
        for renderer in &mut renderers {
            renderer.set_layers(&layers);
        }
        Ok((layers, renderers))
    }

    /// The sources of some renderers.
    pub(super) async fn sources(
        &self,
        renderers: Vec<Renderer>,
        counts: &watch::Receiver<Counts>,
        patches: Option<&Arc<Patches>>,
    ) -> Result<Vec<Patching<Counting>>, CommandError> {
        let counting = |renderer| Counting { renderer, counts: Some(counts.clone()) };
        let counting: Vec<Counting> = renderers.into_iter().map(counting).collect();
        // Each has a reader of the target for what is patched.
        let (place, reach, patches) = (self.place.clone(), self.reach.clone(), patches.cloned());
        aside(move || {
            let each = counting.into_iter().map(|source| patching(source, patches.as_ref(), (&place, &reach)));
            each.collect()
        })
        .await
    }
}

/// The layers, those of points with the rows around their changed places. All take about so many bytes of memory at most.
async fn near(
    (database, snapshot): (&Database, &Arc<Snapshot>),
    layers: &[Layer],
    spots: &PositionsInTiles,
    (packing, mut memory): (Packing, usize),
) -> Result<Vec<Layer>, Error> {
    let mut near = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        if memory > 0
            && layer.suits_neighbourhood()
            && let Some(around) = spots.neighbourhood(LayerIndex(number), layer.margin().extent)
        {
            let renderer = Renderer::alone(database, snapshot, &[], packing).await?;
            layer = layer.with_neighbourhood(renderer, &around, memory).await?;
            memory = memory.saturating_sub(layer.size_of_stock());
        }
        near.push(layer);
    }
    Ok(near)
}
