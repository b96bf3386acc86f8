//! Takes locks on everything that layers read, before the work.
//!
//! Planning a statement takes locks on its tables, their partitions and indexes, and the tables beneath views and queries. `LOCK TABLE` would
//! take none on indexes, refuse materialized views and foreign tables, and need more rights than grants on columns.

use std::sync::Arc;

use crate::postgis::layer::Layer;
use crate::postgis::session::{Database, Error, Session, Snapshot};
use crate::postgis::sql;

/// The statements whose planning locks everything that the layers of a run read. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LayerLocks(Arc<[LockStatement]>);

/// A statement that reads everything a layer reads.
#[derive(Debug)]
struct LockStatement {
    /// The layer, for messages.
    context: String,
    sql: String,
}

impl LayerLocks {
    /// The locks of some layers.
    pub(in crate::postgis) fn of<'a>(layers: impl Iterator<Item = &'a Layer>) -> LayerLocks {
        let statement = |layer: &Layer, sql| LockStatement { context: format!("layer \"{}\"", layer.name()), sql };
        let statements =
            layers.flat_map(|layer| sql::read_statements(layer).into_iter().map(move |sql| statement(layer, sql)));
        LayerLocks(statements.collect())
    }

    /// Takes the locks.
    pub(in crate::postgis) async fn take(&self, session: &Session) -> Result<(), Error> {
        for LockStatement { context, sql } in &*self.0 {
            session.all(context, &format!("EXPLAIN {sql}"), &[]).await?;
        }
        Ok(())
    }

    /// A session on a snapshot that holds the locks. It keeps them when a statement fails.
    pub(in crate::postgis) async fn session(&self, database: &Database, snapshot: &Snapshot) -> Result<Session, Error> {
        let session = database.on(snapshot).await?;
        self.take(&session).await?;
        session.set_savepoint().await?;
        Ok(session)
    }

    /// A further session of a run that holds the locks, and draws one variant after the other.
    ///
    /// # Errors
    /// If it cannot be opened, or a lock is not granted within `lock_timeout`.
    pub async fn further_session(&self, database: &Database, snapshot: &Arc<Snapshot>) -> Result<Snapshot, Error> {
        snapshot.in_session(self.session(database, snapshot).await?).await
    }
}
