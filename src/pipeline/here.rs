//! A run on one thread, for few features.

use std::sync::Arc;
use std::time::Instant;

use super::packing::{PackedTiles, pack};
use super::writer::Storing;
use super::{EditRules, PackedBatch, PipelineError, PipelineOutcome, StoredBatch};
use crate::encode::{Packer, Packing};
use crate::sink::Sink;
use crate::source::RenderedTile;
use crate::tile::Batch;

/// Renders and stores every batch on this thread, one after the other, with a `render` that does not wait. The result is that of [`run`](super::run). With few
/// features in all batches, handing them from thread to thread would take longer than to draw them.
///
/// # Errors
/// At the first failure of `render` or of the sink, or if a count is wrong. The sink is dropped then.
pub fn run_here<W: Sink, E>(
    batches: &[Batch],
    mut render: impl FnMut(&Batch) -> Result<Vec<RenderedTile>, E>,
    sink: W,
    packing: Packing,
    stored: impl Fn(&StoredBatch),
) -> Result<(W, PipelineOutcome), PipelineError<E, W::Error>> {
    let rules = EditRules { packing, needs: sink.needs(), failed: Arc::default(), turns: None };
    let (mut packer, mut storing) = (Packer::new(packing), Storing::new(sink));
    for (index, batch) in batches.iter().enumerate() {
        let Some(zoom) = batch.zoom() else { continue };
        let begun = Instant::now();
        let tiles = render(batch).map_err(PipelineError::Source)?;
        rules.check_count(batch, zoom, &tiles)?;
        let rendering = begun.elapsed();
        let begun = Instant::now();
        let PackedTiles { edits, contents, notes } = pack(tiles, &mut packer, rules.needs)?;
        let (tiles, planned_features, packing) = (batch.tiles, batch.features(), begun.elapsed());
        let done = PackedBatch {
            index,
            count: 1,
            zoom,
            tiles,
            edits,
            contents,
            notes,
            planned_features,
            rendering,
            packing,
            permit: None,
        };
        storing.add(done, &stored).map_err(PipelineError::Sink)?;
    }
    let (sink, outcome) = storing.end();
    outcome.check_complete(batches.iter().map(|batch| batch.tiles).sum())?;
    Ok((sink, outcome))
}
