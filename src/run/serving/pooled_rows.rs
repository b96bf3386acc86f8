//! Live rows that a tileset takes from others in this server, in place of reading a table, and offers to them.

use std::sync::Arc;

use super::live_layers::RowsLayer;
use super::rows::ServedRows;
use crate::cursor::StateInHistory;
use crate::draw::RowsAge;
use crate::postgis::{Database, Layer, Snapshot};
use crate::run::kept_rows::PoolStep;

impl ServedRows {
    pub(crate) fn pool_step<'a>(
        &'a self,
        database: &'a Database,
        snapshot: &'a Snapshot,
        schema: &'a str,
    ) -> PoolStep<'a> {
        PoolStep { pool: &self.pool, database, snapshot, schema }
    }

    /// True if the rows of a layer were taken from others, in place of those of the age `own`, if there are such.
    pub(crate) async fn take(
        &self,
        step: PoolStep<'_>,
        all: &[Arc<Layer>],
        RowsLayer { owner, layer }: &RowsLayer,
        own: Option<RowsAge>,
    ) -> bool {
        let with_these = all.iter().zip(self.owners.rows_layers(all));
        let with_these = with_these.filter(|(_, rows)| rows.as_ref().is_some_and(|rows| rows.owner == *owner));
        let with_these: Vec<Arc<Layer>> = with_these.map(|(layer, _)| Arc::clone(layer)).collect();
        let memory = self.memory.saturating_sub(self.rows.bytes_besides(layer).await);
        match step.taken(layer, &with_these, own, memory).await {
            Some(rows) => {
                self.rows.take_over(rows).await;
                true
            }
            None => false,
        }
    }

    /// Goes on from the rows of others where these were read or joined later, so that all share them again. Facets
    /// would have to be read anew, so that rows with facets stay.
    pub(crate) async fn go_on_from_newer(&self, step: PoolStep<'_>, all: &[Arc<Layer>]) {
        for rows in self.owners.own_rows_layers(all).iter().filter(|rows| rows.layer.facets.is_empty()) {
            if let Some(age) = self.rows.age_of(&rows.layer).await {
                self.take(step, all, rows, Some(age)).await;
            }
        }
    }

    /// Offers the rows, which are those of the snapshot, to others.
    pub(crate) async fn offer(&self, step: PoolStep<'_>, all: &[Arc<Layer>], shown: &StateInHistory) {
        for RowsLayer { layer, .. } in self.owners.own_rows_layers(all) {
            step.offer(&self.rows, &layer, shown, &self.given).await;
        }
    }
}
