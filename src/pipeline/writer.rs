//! The one writer: puts batches back in order and hands them to the sink.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;

use super::stats::Stats;
use super::{EditContents, LayerFigures, PackedBatch, PipelineError, PipelineOutcome, StoredBatch, TileIssue};
use crate::encode::Packer;
use crate::source::{LayerIssueKind, PackedOnce, RenderedTile, bytes_of, split_layers};
use crate::target::{Needs, Sink, TileEdit, Written};
use crate::tile::{LayerId, Slice, TileId};

/// Stores batches in the order of the plan until all workers are gone.
pub(crate) fn write<W: Sink>(
    mut packed: mpsc::Receiver<PackedBatch>,
    sink: W,
    stored: impl Fn(&StoredBatch),
) -> Result<(W, PipelineOutcome), W::Error> {
    let mut early: BTreeMap<usize, PackedBatch> = BTreeMap::new();
    let mut next = 0;
    let mut storing = Storing::new(sink);
    while let Some(batch) = packed.blocking_recv() {
        early.insert(batch.index, batch);
        while let Some(batch) = early.remove(&next) {
            next += batch.count;
            storing.add(batch, &stored)?;
        }
    }
    Ok(storing.end())
}

pub(crate) struct Storing<W> {
    sink: W,
    total: Written,
    tiles: u64,
    edits: u64,
    stats: Stats,
    layers: LayerFigures,
}

impl<W: Sink> Storing<W> {
    pub(crate) fn new(sink: W) -> Storing<W> {
        let (stats, layers) = (Stats::default(), LayerFigures::default());
        Storing { sink, total: Written::default(), tiles: 0, edits: 0, stats, layers }
    }

    /// Stores the next batch, and gives its permit back.
    pub(crate) fn add(&mut self, batch: PackedBatch, stored: impl Fn(&StoredBatch)) -> Result<(), W::Error> {
        let bytes = self.stats.add(&batch);
        let PackedBatch { zoom, tiles, made: PackedTiles { edits, issues, .. }, planned_features, permit, .. } = batch;
        for issue in issues {
            self.layers.add(issue);
        }
        self.tiles += tiles;
        self.edits += edits.len() as u64;
        let begun = Instant::now();
        let written = self.sink.write(edits)?;
        self.stats.stages.writing += begun.elapsed();
        drop(permit);
        self.total += written;
        stored(&StoredBatch { zoom, written, planned_features, bytes });
        Ok(())
    }

    pub(crate) fn end(self) -> (W, PipelineOutcome) {
        let Storing { sink, total, tiles, edits, mut stats, layers: LayerFigures { stats: layers, failed } } = self;
        let outcome = PipelineOutcome {
            written: total,
            stages: stats.stages,
            slowest: std::mem::take(&mut stats.slowest),
            zooms: stats.finish(),
            layers,
            failed,
            tiles,
            edits,
        };
        (sink, outcome)
    }
}

// Rendered tiles become edits: compressed, or copied from another target of the run, in the order that the target
// needs.

pub(crate) struct PackedTiles {
    pub(crate) edits: Vec<TileEdit>,
    /// One for each of `edits`, in the same order.
    pub(crate) contents: Vec<EditContents>,
    pub(crate) issues: Vec<TileIssue>,
}

/// The most bytes of a tile that is kept to compare the next tile with it: larger tiles are hardly ever equal.
const MAX_KEPT_FOR_NEXT: usize = 1 << 10;

/// Compresses tiles and puts them in the order that the target needs.
pub(crate) fn pack<R, W>(
    mut tiles: Vec<RenderedTile>,
    packer: &mut Packer,
    needs: Needs,
) -> Result<PackedTiles, PipelineError<R, W>> {
    tiles.sort_by_cached_key(|rendered| needs.order.sort_key(rendered.tile));
    let mut edits = Vec::with_capacity(tiles.len());
    let (mut contents, mut all_issues) = (Vec::with_capacity(tiles.len()), Vec::new());
    // Tiles inside of the same polygons are equal, and usually adjacent.
    let mut last: (Vec<u8>, Box<[u8]>) = Default::default();
    for RenderedTile { tile, mvt, layers, features, issues, shared } in tiles {
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
        let is_failed = |layer: LayerId| {
            issues.iter().any(|issue| issue.layer == layer && matches!(issue.kind, LayerIssueKind::Failed { .. }))
        };
        if needs.layers_apart {
            let mut slices: Vec<(LayerId, &[u8])> = split_layers(&mvt, &layers).collect();
            slices.sort_by_key(|(layer, _)| *layer);
            for (layer, own) in slices {
                add(Slice::Layer(layer), own, !is_failed(layer))?;
                contents.push(EditContents { features: 0, heaviest: layer });
            }
        } else {
            if let Some(known) = shared.as_deref().and_then(PackedOnce::packed) {
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
        for issue in issues {
            let mut bytes = 0;
            if let LayerIssueKind::Heavy { .. } = issue.kind {
                let part = bytes_of(&mvt, &layers, issue.layer);
                // If the tile has only one layer, this layer is compressed already.
                bytes = match &edits[first..] {
                    [TileEdit::Put(_, stored)] if part.len() == mvt.len() => stored.len(),
                    _ => packer.pack(part).map_err(|source| PipelineError::Encode { tile, source })?.len(),
                } as u64;
            }
            all_issues.push(TileIssue { tile, issue, bytes });
        }
    }
    Ok(PackedTiles { edits, contents, issues: all_issues })
}
