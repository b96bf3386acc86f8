//! The source of a reseed: what the target holds, beside what the database renders.

use std::sync::Arc;

use super::{Patches, Tile, Way};
use crate::sink::TileReader;
use crate::source::{RenderedTile, Source};
use crate::tile::{Batch, Order};

/// A source that renders what has changed in a tile, and takes the rest from the target.
pub struct Patching<S> {
    source: S,
    /// What it reads the target with; `None` if everything is rendered, and once reading has failed.
    held: Option<(Box<dyn TileReader>, Arc<Patches>)>,
}

impl<S> Patching<S> {
    /// A source that reads what is held with a reader of its own. Without one it renders everything.
    pub fn new(source: S, held: Option<(Box<dyn TileReader>, Arc<Patches>)>) -> Patching<S> {
        Patching { source, held }
    }

    /// What becomes of the tiles of a batch; `None` if all of them are to be rendered.
    async fn ways(&mut self, batch: &Batch) -> Option<(Vec<Tile>, Arc<Patches>)> {
        let (mut reader, patches) = self.held.take()?;
        let (areas, reading) = (batch.areas.clone(), Arc::clone(&patches));
        let looked = tokio::task::spawn_blocking(move || {
            let ways = reading.ways(&mut *reader, &areas);
            (reader, ways)
        });
        let (reader, ways) = looked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        match ways {
            Ok(tiles) => {
                self.held = Some((reader, Arc::clone(&patches)));
                (!tiles.iter().all(|tile| tile.all(&Way::Whole))).then_some((tiles, patches))
            }
            Err(error) => {
                // Whatever is wrong with the target, writing it will tell.
                tracing::info!("{error}: rendering every tile whole");
                None
            }
        }
    }
}

impl<S: Source> Source for Patching<S> {
    type Error = S::Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, S::Error> {
        let Some((tiles, patches)) = self.ways(batch).await else { return self.source.render(batch).await };
        let asked = patches.asked(&tiles, batch.late);
        let rendered = if asked.tiles == 0 { Vec::new() } else { self.source.render(&asked).await? };
        let together = Arc::clone(&patches);
        let (mut done, again) = tokio::task::spawn_blocking(move || together.put_together(tiles, rendered))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if !again.is_empty() {
            tracing::debug!("{} tiles cannot be patched: rendering them whole", again.len());
            done.extend(self.source.render(&patches.asked(&again, batch.late)).await?);
            done.sort_by_key(|rendered| Order::ZoomColumnTmsRow.place(rendered.tile));
        }
        Ok(done)
    }
}
