//! The one writer: puts batches back in order and hands them to the sink.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::layers::Layers;
use super::stats::Stats;
use super::{Outcome, Packed, Stored};
use crate::sink::{Sink, TileEdit, Written};

/// Stores what comes, in order, until all senders are gone.
pub(super) fn write<W: Sink>(
    mut packed: mpsc::Receiver<Packed>,
    mut sink: W,
    stored: impl Fn(&Stored),
) -> Result<(W, Outcome), W::Error> {
    let mut early: BTreeMap<usize, Packed> = BTreeMap::new();
    let mut next = 0;
    let mut total = Written::default();
    let (mut all_tiles, mut handed) = (0, 0);
    let (mut stats, mut layers) = (Stats::default(), Layers::default());
    while let Some(batch) = packed.blocking_recv() {
        early.insert(batch.index, batch);
        while let Some(batch) = early.remove(&next) {
            next += 1;
            let bytes = stats.add(&batch);
            let Packed { zoom, tiles, edits, notes, planned_features, permit, .. } = batch;
            for said in notes {
                layers.add(said);
            }
            all_tiles += tiles;
            handed += edits.len() as u64;
            let written = sink.write(edits)?;
            drop(permit);
            total += written;
            stored(&Stored { zoom, written, planned_features, bytes });
        }
    }
    let Layers { stats: layers, failed } = layers;
    Ok((sink, Outcome { written: total, zooms: stats.finish(), layers, failed, tiles: all_tiles, handed }))
}

/// Bytes that an edit stores.
pub(super) fn size(edit: &TileEdit) -> Option<usize> {
    match edit {
        TileEdit::Put(_, bytes) => Some(bytes.len()),
        TileEdit::Remove(_) | TileEdit::Keep(..) => None,
    }
}
