//! Follows the change log for a server. Each look finds the tiles that have changed since the last one, at every zoom of the layers and not only
//! of the target.

use std::time::Instant;

use super::{DirtyFilter, Look, drawn};
use crate::changes::{Cursor, unseen_positions, unseen_transactions};
use crate::plan::{Dirty, ScopePart};
use crate::run::{CommandError, Job};
use crate::serve::LogLook;
use crate::tile::{Coverage, TileCoord, ZoomList};

/// The most tiles that one look lists.
const MAX_LISTED: usize = 50_000;

/// Where the last look ended.
pub(crate) struct LogFollower {
    /// The database state of the last look.
    seen: Option<Cursor>,
    /// What the target showed at the last look.
    shown: Cursor,
}

impl LogFollower {
    /// Nothing is seen yet.
    pub(crate) fn new() -> LogFollower {
        LogFollower { seen: None, shown: Cursor::default() }
    }

    /// Finds what has changed since the last look; the first time, since the state that the target shows.
    ///
    /// # Errors
    /// If the log cannot be trusted, or the database or the target cannot be reached.
    pub(crate) async fn look(&mut self, job: &Job) -> Result<LogLook, CommandError> {
        let (filter, begun) = (DirtyFilter::default(), Instant::now());
        let look = Look::begin(job, &filter, false).await?;
        let shown = look.state.cursor.clone();
        // If the target went back to an older state, it may lack changes that looks before the last one have seen.
        let last = self.seen.take().filter(|_| shown.sees_all_of(&self.shown));
        let found = look.since(last.unwrap_or_else(|| shown.clone()), begun).await?;
        (self.seen, self.shown) = (Some(found.seen.clone()), shown);
        Ok(found)
    }

    /// Forgets where the last look ended, because changes may have been missed since.
    pub(crate) fn begin_anew(&mut self) {
        self.seen = None;
    }
}

impl Look<'_> {
    /// What has changed since a database state. The look was begun at the moment `begun`.
    async fn since(&self, since: Cursor, begun: Instant) -> Result<LogLook, CommandError> {
        let watches = self.watches(&since).await?;
        let seen = self
            .snapshot
            .cursor()
            .parse()
            .map_err(|error: crate::changes::CursorError| CommandError::Pipeline(error.to_string()))?;
        let schema = &self.job.settings.database.changes.schema;
        let transactions = unseen_transactions(&self.snapshot, schema, &since).await?;
        let mut found = LogLook { since, seen, transactions, dirty: Some(Vec::new()), begun };
        let zooms = ZoomList::of(self.layers.iter().flat_map(|layer| layer.zooms().iter()));
        let Some(zooms) = zooms.filter(|_| !found.transactions.is_empty()) else { return Ok(found) };
        let mut dirty = Dirty::new(&[ScopePart { zooms, coverage: Coverage::new(&[]) }], MAX_LISTED);
        let mut too_many = false;
        for (layer, watches) in self.layers.iter().zip(&watches) {
            let drawn = drawn(layer);
            for watch in watches {
                let each = |spot| too_many = too_many || dirty.mark(&drawn, &spot).is_err();
                unseen_positions(&self.snapshot, schema, &found.since, watch, layer, each).await?;
            }
        }
        found.dirty = (!too_many).then(|| dirty.iter().collect::<Vec<TileCoord>>());
        Ok(found)
    }
}
