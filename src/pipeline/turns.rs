//! The turns of a run's batches, if the run shares the database with others.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use super::{BatchGate, BatchKind, BatchPace};
use crate::source::{RenderedTile, Source};
use crate::tile::Batch;

/// The turns of a run's batches at a gate.
#[derive(Clone)]
pub struct BatchTurns {
    /// The gate.
    pub gate: Arc<dyn BatchGate>,
    /// The kind of the run.
    pub kind: BatchKind,
    /// The most features of a batch, however fast the server is.
    pub batch_features: NonZeroU64,
}

impl BatchTurns {
    /// Renders a batch when its turn comes. If the batch would hold the session too long as a whole, renders it in parts, with a turn for each.
    pub(super) async fn rendered<R: Source>(
        &self,
        source: &mut R,
        batch: &Batch,
    ) -> Result<Vec<RenderedTile>, R::Error> {
        let (mut tiles, mut rest) = (Vec::new(), Some(batch.clone()));
        while let Some(batch) = rest {
            let _pass = self.gate.enter(self.kind).await;
            // The server's pace may have been measured while the batch waited.
            let (first, others) = batch.cut(self.most_features());
            let begun = Instant::now();
            tiles.append(&mut source.render(&first).await?);
            self.pace().note(first.features(), begun.elapsed());
            rest = others;
        }
        Ok(tiles)
    }

    /// The features that a batch may have now.
    pub(super) fn most_features(&self) -> u64 {
        self.pace().features(self.batch_features.get())
    }

    /// The pace of the run's kind of batches.
    fn pace(&self) -> &BatchPace {
        self.gate.pace(self.kind)
    }
}
