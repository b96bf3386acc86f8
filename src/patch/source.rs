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
    /// Whether tiles made of rows that the source had read were compared with those that the database makes.
    is_checked: bool,
}

impl<S> Patching<S> {
    /// A source that reads what is held with a reader of its own. Without one it renders everything.
    pub fn new(source: S, held: Option<(Box<dyn TileReader>, Arc<Patches>)>) -> Patching<S> {
        Patching { source, held, is_checked: false }
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

impl<S: Source> Patching<S> {
    /// What the source gives for some tiles.
    async fn asked(&mut self, patches: &Patches, tiles: &[Tile], late: bool) -> Result<Vec<RenderedTile>, S::Error> {
        let asked = patches.asked(tiles, late);
        if asked.tiles == 0 { Ok(Vec::new()) } else { self.source.render(&asked).await }
    }

    /// Whether some tiles of a batch are the same if the database looks for their rows.
    async fn are_alike(
        &mut self,
        patches: &Patches,
        (tiles, rendered): (&[Tile], &[RenderedTile]),
        late: bool,
    ) -> Result<bool, S::Error> {
        let (near, searched): (Vec<Tile>, Vec<Tile>) = patches.samples(tiles).into_iter().unzip();
        let by_database = self.asked(patches, &searched, late).await?;
        Ok(patches.tiles(&near, rendered) == patches.tiles(&searched, &by_database))
    }
}

impl<S: Source> Source for Patching<S> {
    type Error = S::Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, S::Error> {
        let Some((mut tiles, patches)) = self.ways(batch).await else { return self.source.render(batch).await };
        let mut rendered = self.asked(&patches, &tiles, batch.late).await?;
        if !self.is_checked && tiles.iter().any(Tile::is_near) {
            self.is_checked = true;
            if !self.are_alike(&patches, (&tiles, &rendered), batch.late).await? {
                patches.distrust_near();
                tiles = tiles.into_iter().map(|one| if one.is_near() { patches.whole(one) } else { one }).collect();
                rendered = self.asked(&patches, &tiles, batch.late).await?;
            }
        }
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
