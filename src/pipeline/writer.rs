//! The one writer: puts batches back in order and hands them to the sink.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;

use super::layers::LayerFigures;
use super::stats::Stats;
use super::{PackedBatch, PipelineOutcome, StoredBatch};
use crate::sink::{Sink, Written};

/// Stores batches in the order of the plan until all workers are gone.
pub(super) fn write<W: Sink>(
    mut packed: mpsc::Receiver<PackedBatch>,
    mut sink: W,
    stored: impl Fn(&StoredBatch),
) -> Result<(W, PipelineOutcome), W::Error> {
    let mut early: BTreeMap<usize, PackedBatch> = BTreeMap::new();
    let mut next = 0;
    let mut total = Written::default();
    let (mut all_tiles, mut all_edits) = (0, 0);
    let (mut stats, mut layers) = (Stats::default(), LayerFigures::default());
    while let Some(batch) = packed.blocking_recv() {
        early.insert(batch.index, batch);
        while let Some(batch) = early.remove(&next) {
            next += batch.count;
            let bytes = stats.add(&batch);
            let PackedBatch { zoom, tiles, edits, notes, planned_features, permit, .. } = batch;
            for note in notes {
                layers.add(note);
            }
            all_tiles += tiles;
            all_edits += edits.len() as u64;
            let begun = Instant::now();
            let written = sink.write(edits)?;
            stats.stages.writing += begun.elapsed();
            drop(permit);
            total += written;
            stored(&StoredBatch { zoom, written, planned_features, bytes });
        }
    }
    let LayerFigures { stats: layers, failed } = layers;
    Ok((
        sink,
        PipelineOutcome {
            written: total,
            stages: stats.stages,
            slowest: std::mem::take(&mut stats.slowest),
            zooms: stats.finish(),
            layers,
            failed,
            tiles: all_tiles,
            edits: all_edits,
        },
    ))
}
