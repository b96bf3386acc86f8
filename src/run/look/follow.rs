//! Follows the change log for a server. Each look finds the tiles that have changed since the last one, at every zoom of the layers and not only
//! of the target.

use std::time::Instant;

use super::{DirtyFilter, Look, drawn};
use crate::changes::{Cursor, CursorError, StateInHistory, newest_logged, unseen_positions, unseen_transactions};
use crate::manifest::Witness;
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
    /// The witness of that state.
    witness: Option<Witness>,
    /// What the target showed at the last look.
    shown: Cursor,
}

impl LogFollower {
    /// Nothing is seen yet.
    pub(crate) fn new() -> LogFollower {
        LogFollower { seen: None, witness: None, shown: Cursor::default() }
    }

    pub(super) const fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref()
    }

    /// Finds what has changed since the last look; the first time, since the state that the target shows. If the database has another history than
    /// at the last look, or than the live tiles that show the states `kept`, any tile may differ, also those of which the target shows nothing.
    ///
    /// # Errors
    /// If the log cannot be trusted, or the database or the target cannot be reached.
    pub(crate) async fn look(&mut self, job: &Job, kept: &[StateInHistory]) -> Result<LogLook, CommandError> {
        let (filter, begun) = (DirtyFilter::default(), Instant::now());
        let look = Look::followed(job, &filter, false, Some(&*self)).await?;
        let shown = look.state.cursor.clone();
        let is_other = look
            .log
            .as_ref()
            .zip(self.witness.as_ref())
            .is_some_and(|(log, witness)| log.contradicts([witness]) || log.is_behind([witness]).is_some());
        let is_other = is_other || !look.has_all_of(kept).await?;
        // If the target went back to an older state, it may lack changes that looks before the last one have seen.
        let last = self.seen.take().filter(|_| shown.sees_all_of(&self.shown) && !is_other);
        let mut found = look.since(last.unwrap_or_else(|| shown.clone()), begun).await?;
        if is_other {
            (found.dirty, found.is_other_history) = (None, true);
        }
        (self.seen, self.shown) = (Some(found.seen.clone()), shown);
        self.witness = look.log.as_ref().and_then(|log| log.witness(look.snapshot.cursor()).cloned());
        Ok(found)
    }

    /// Forgets where the last look ended, because changes may have been missed since. True if there was one.
    pub(crate) fn begin_anew(&mut self) -> bool {
        self.seen = None;
        self.witness.take().is_some()
    }
}

impl Look<'_> {
    /// True if the database's history has these states.
    async fn has_all_of(&self, states: &[StateInHistory]) -> Result<bool, CommandError> {
        let schema = &self.job.settings.database.changes.schema;
        let now: Cursor = self.snapshot.cursor().parse().map_err(pipeline)?;
        let cursors: Vec<Cursor> = states.iter().map(|kept| kept.state.clone()).collect();
        let newest = newest_logged(&self.snapshot, schema, &cursors).await?;
        Ok(states.iter().zip(newest).all(|(kept, newest)| now.sees_all_of(&kept.state) && kept.newest == newest))
    }

    /// What has changed since a database state. The look was begun at the moment `begun`.
    async fn since(&self, since: Cursor, begun: Instant) -> Result<LogLook, CommandError> {
        let watches = self.watches(&since).await?;
        let seen = self.snapshot.cursor().parse().map_err(pipeline)?;
        let schema = &self.job.settings.database.changes.schema;
        let transactions = unseen_transactions(&self.snapshot, schema, &since).await?;
        let mut found = LogLook { since, seen, transactions, dirty: Some(Vec::new()), is_other_history: false, begun };
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

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn pipeline(error: CursorError) -> CommandError {
    CommandError::Pipeline(error.to_string())
}
