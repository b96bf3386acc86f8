//! Rendered tiles become edits: compressed, or copied from another target of the run, in the order that the target needs.

use super::{EditContents, PipelineError, TileNote};
use crate::encode::Packer;
use crate::sink::{Needs, TileEdit};
use crate::source::{Noted, RenderedTile, SharedTile, bytes_of, split_layers};
use crate::tile::{LayerId, Slice, TileId};

/// Tiles as the target stores them.
pub(super) struct PackedTiles {
    pub(super) edits: Vec<TileEdit>,
    /// One for each of `edits`, in the same order.
    pub(super) contents: Vec<EditContents>,
    pub(super) notes: Vec<TileNote>,
}

/// The most bytes of a tile that is kept to compare the next tile with it: larger tiles are hardly ever equal.
const MAX_KEPT_FOR_NEXT: usize = 1 << 10;

/// Compresses tiles and puts them in the order that the target needs.
pub(super) fn pack<R, W>(
    mut tiles: Vec<RenderedTile>,
    packer: &mut Packer,
    needs: Needs,
) -> Result<PackedTiles, PipelineError<R, W>> {
    tiles.sort_by_cached_key(|rendered| needs.order.place(rendered.tile));
    let mut edits = Vec::with_capacity(tiles.len());
    let (mut contents, mut all_notes) = (Vec::with_capacity(tiles.len()), Vec::new());
    // Tiles inside of the same polygons are equal, and usually adjacent.
    let mut last: (Vec<u8>, Box<[u8]>) = Default::default();
    for RenderedTile { tile, mvt, layers, features, notes, shared } in tiles {
        let first = contents.len();
        let mut add = |slice, mvt: &[u8], is_known: bool| {
            let id = TileId { coord: tile, slice };
            let bytes = if mvt.is_empty() {
                None
            } else if mvt == last.0 {
                Some(last.1.clone())
            } else {
                let stored = packer.pack(mvt).map_err(|source| PipelineError::Encode { tile, source })?;
                if mvt.len() <= MAX_KEPT_FOR_NEXT {
                    last = (mvt.to_vec(), stored.clone());
                }
                Some(stored)
            };
            edits.push(match bytes {
                Some(bytes) if is_known => TileEdit::Put(id, bytes),
                None if is_known => TileEdit::Remove(id),
                rest => TileEdit::Keep(id, rest),
            });
            Ok(())
        };
        let is_failed =
            |layer: LayerId| notes.iter().any(|note| note.layer == layer && matches!(note.what, Noted::Failed { .. }));
        if needs.layers_apart {
            let mut slices: Vec<(LayerId, &[u8])> = split_layers(&mvt, &layers).collect();
            slices.sort_by_key(|(layer, _)| *layer);
            for (layer, own) in slices {
                add(Slice::Layer(layer), own, !is_failed(layer))?;
                contents.push(EditContents { features: 0, heaviest: layer });
            }
        } else {
            if let Some(known) = shared.as_deref().and_then(SharedTile::packed) {
                edits.push(TileEdit::Put(TileId { coord: tile, slice: Slice::Whole }, known.into()));
            } else {
                add(Slice::Whole, &mvt, !layers.iter().any(|rendered| is_failed(rendered.layer)))?;
                if let (Some(shared), Some(TileEdit::Put(_, bytes))) = (shared, edits.last()) {
                    shared.keep(bytes);
                }
            }
            let heaviest = layers.iter().max_by_key(|rendered| (rendered.bytes, std::cmp::Reverse(rendered.layer)));
            let heaviest = heaviest.map_or(LayerId(0), |rendered| rendered.layer);
            contents.push(EditContents { features: 0, heaviest });
        }
        if let Some(contents) = contents.get_mut(first) {
            contents.features = features;
        }
        for note in notes {
            let mut bytes = 0;
            if let Noted::Heavy { .. } = note.what {
                let part = bytes_of(&mvt, &layers, note.layer);
                // If the tile has only one layer, this layer is compressed already.
                bytes = match &edits[first..] {
                    [TileEdit::Put(_, stored)] if part.len() == mvt.len() => stored.len(),
                    _ => packer.pack(part).map_err(|source| PipelineError::Encode { tile, source })?.len(),
                } as u64;
            }
            all_notes.push(TileNote { tile, note, bytes });
        }
    }
    Ok(PackedTiles { edits, contents, notes: all_notes })
}
