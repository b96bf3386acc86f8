//! The source of a reseed: patches stored tiles with what another source renders.

use std::sync::Arc;

use super::{LayerPatch, Patches, TilePatch};
use crate::sink::TileReader;
use crate::source::{RenderedTile, Source};
use crate::tile::{Batch, Order};

/// A source that renders what changed in a tile and takes the rest from the target.
pub struct Patching<S> {
    source: S,
    /// Reads the target; `None` if everything is rendered, and after reading has failed.
    target: Option<(Box<dyn TileReader>, Arc<Patches>)>,
}

impl<S> Patching<S> {
    /// A source that reads stored tiles with a reader of its own. Without one it renders everything.
    pub fn new(source: S, target: Option<(Box<dyn TileReader>, Arc<Patches>)>) -> Patching<S> {
        Patching { source, target }
    }

    /// How the tiles of a batch are patched; `None` if all of them are rendered in full.
    async fn decide(&mut self, batch: &Batch) -> Option<(Vec<TilePatch>, Arc<Patches>)> {
        let (mut reader, patches) = self.target.take()?;
        let (areas, reading) = (batch.areas.clone(), Arc::clone(&patches));
        let deciding = tokio::task::spawn_blocking(move || {
            let tiles = reading.decide(&mut *reader, &areas);
            (reader, tiles)
        });
        let (reader, tiles) = deciding.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        match tiles {
            Ok(tiles) => {
                self.target = Some((reader, Arc::clone(&patches)));
                (!tiles.iter().all(|tile| tile.all_are(&LayerPatch::Render))).then_some((tiles, patches))
            }
            Err(error) => {
                // If the target is damaged, writing it reports that.
                tracing::info!("{error}: rendering every tile in full");
                None
            }
        }
    }
}

impl<S: Source> Source for Patching<S> {
    type Error = S::Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, S::Error> {
        let Some((tiles, patches)) = self.decide(batch).await else { return self.source.render(batch).await };
        let to_render = patches.to_render(&tiles, batch.needs_cell_counts);
        let rendered = if to_render.tiles == 0 { Vec::new() } else { self.source.render(&to_render).await? };
        let together = Arc::clone(&patches);
        let (mut done, again) = tokio::task::spawn_blocking(move || together.put_together(tiles, rendered))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if !again.is_empty() {
            tracing::debug!("{} tiles cannot be patched: rendering them in full", again.len());
            done.extend(self.source.render(&patches.to_render(&again, batch.needs_cell_counts)).await?);
            done.sort_by_key(|rendered| Order::ZoomColumnTmsRow.place(rendered.tile));
        }
        Ok(done)
    }
}
