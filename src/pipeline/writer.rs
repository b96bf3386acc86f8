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

/// A sink, and the figures of what it has stored.
pub(super) struct Storing<W> {
    sink: W,
    total: Written,
    tiles: u64,
    edits: u64,
    stats: Stats,
    layers: LayerFigures,
}

impl<W: Sink> Storing<W> {
    pub(super) fn new(sink: W) -> Storing<W> {
        let (stats, layers) = (Stats::default(), LayerFigures::default());
        Storing { sink, total: Written::default(), tiles: 0, edits: 0, stats, layers }
    }

    /// Stores the next batch, and gives its permit back.
    pub(super) fn add(&mut self, batch: PackedBatch, stored: impl Fn(&StoredBatch)) -> Result<(), W::Error> {
        let bytes = self.stats.add(&batch);
        let PackedBatch { zoom, tiles, edits, notes, planned_features, permit, .. } = batch;
        for note in notes {
            self.layers.add(note);
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

    /// The sink, and all figures.
    pub(super) fn end(self) -> (W, PipelineOutcome) {
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
