//! Tiles with the same content: one is rendered, and stored for all.

use std::sync::Arc;

use super::BatchTiles;
use super::areas::moved;
use super::drawing::{BatchDrawing, join_tiles, miscounted};
use super::statements::RepeatedContent;
use crate::postgis::session::{Error, area_name};
use crate::source::RenderedTile;
use crate::tile::{Area, Batch, Order, Repeat, SearchBox, TileCoord, TileRect};

/// Two tiles with the same content, to compare: the tile that is rendered for all, and the last of the batch.
struct Compared {
    rendered: TileCoord,
    other: TileCoord,
}

impl BatchDrawing<'_> {
    pub(crate) async fn repeats(self, batch: &Batch, tiles: &mut BatchTiles) -> Result<(), Error> {
        self.render_missing(&batch.repeats).await?;
        let mut plain = Vec::new();
        for Repeat { rendered, tiles: rects } in &batch.repeats {
            match rendered.rect.first().and_then(|tile| self.layers.repeated.get(tile)) {
                Some(RepeatedContent::Same(content)) => {
                    for tile in rects.iter().flat_map(TileRect::iter) {
                        tiles.insert(sort_key(tile), RenderedTile { tile, ..(*content).clone() });
                    }
                }
                Some(RepeatedContent::Differs) | None => plain.extend(rects.iter().map(|rect| moved(rendered, *rect))),
            }
        }
        if !plain.is_empty() {
            let drawn = self.areas(&plain).await?;
            join_tiles(tiles, drawn);
        }
        Ok(())
    }

    /// Renders the contents that no earlier batch has rendered.
    async fn render_missing(self, repeats: &[Repeat]) -> Result<(), Error> {
        let (mut areas, mut compared) = (Vec::new(), Vec::new());
        for Repeat { rendered, tiles } in repeats {
            let (Some(first), Some(last)) = (rendered.rect.first(), tiles.iter().flat_map(TileRect::iter).last())
            else {
                continue;
            };
            if self.layers.repeated.get(first).is_none() {
                areas.push((**rendered).clone());
                if last != first {
                    areas.push(moved(rendered, TileRect::from(last)));
                }
                compared.push(Compared { rendered: first, other: last });
            }
        }
        if areas.is_empty() {
            return Ok(());
        }
        let drawn = self.areas(&areas).await?;
        for Compared { rendered, other } in compared {
            let other = drawn.get(&sort_key(other)).cloned();
            let tile = drawn.get(&sort_key(rendered)).cloned();
            let (Some(tile), Some(other)) = (tile, other) else {
                let layer = self.probed(0);
                return Err(miscounted(layer, 1, 0, area_name(&TileRect::from(rendered))));
            };
            let is_alike = tile.mvt == other.mvt && !tile.is_failed() && !other.is_failed();
            if !is_alike {
                tracing::debug!(
                    "{rendered} and {} differ: tiles inside of the same features are rendered one by one",
                    other.tile
                );
            }
            let content = if is_alike { RepeatedContent::Same(Arc::new(tile)) } else { RepeatedContent::Differs };
            self.layers.repeated.insert(rendered, content);
        }
        Ok(())
    }

    /// All layers of some areas.
    async fn areas(self, areas: &[Area]) -> Result<BatchTiles, Error> {
        let mut tiles = BatchTiles::new();
        for index in 0..self.layers.all().len() {
            let searched: Vec<Area> = areas
                .iter()
                .filter(|area| area.search.get(index).is_some_and(|search| *search != SearchBox::Nothing))
                .cloned()
                .collect();
            if searched.is_empty() {
                continue;
            }
            let (mut part, max_features) = (BatchTiles::new(), self.probed(index).budget.max_features());
            self.layer_or_parts(index, &searched, &max_features, &mut part).await?;
            self.fit(index, &searched, &mut part).await?;
            join_tiles(&mut tiles, part);
        }
        Ok(tiles)
    }
}

fn sort_key(tile: TileCoord) -> i64 {
    Order::ZoomColumnTmsRow.sort_key(tile).cast_signed()
}
