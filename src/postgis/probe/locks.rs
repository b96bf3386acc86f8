//! Takes locks on everything that layers read, before the work begins.
//!
//! Planning a statement takes locks on its tables, their partitions and indexes, and the tables beneath views and queries. `LOCK TABLE` would take no
//! locks on indexes, would refuse materialized views and foreign tables, and would need more rights than grants on columns.

use std::sync::Arc;

use super::layer::{LayerProbe, NamedLayer};
use crate::postgis::layer::{Layer, LayerOptions};
use crate::postgis::session::{Database, Error, LockAttempts, Session, Snapshot};
use crate::postgis::sql;

/// The statements whose planning locks everything that the layers of a run read. Clones share the statements.
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

    /// Takes the locks, in several attempts if necessary.
    pub(in crate::postgis) async fn take(&self, session: &Session) -> Result<(), Error> {
        let attempts = LockAttempts::begin(session).await?;
        loop {
            let attempt = self.take_at_once(session).await;
            if attempts.ended(attempt).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Takes the locks one after the other, in one attempt.
    async fn take_at_once(&self, session: &Session) -> Result<(), Error> {
        for LockStatement { context, sql } in &*self.0 {
            session.all(context, &format!("EXPLAIN {sql}"), &[]).await?;
        }
        Ok(())
    }

    /// A session on a snapshot that holds the locks. It keeps the locks when a statement fails.
    pub(in crate::postgis) async fn session(&self, database: &Database, snapshot: &Snapshot) -> Result<Session, Error> {
        let session = database.on(snapshot).await?;
        self.take(&session).await?;
        session.set_savepoint().await?;
        Ok(session)
    }

    /// A further session of a run. It holds the locks, and draws one variant after the other.
    ///
    /// # Errors
    /// If the session cannot be opened, or a lock is not granted within `lock_timeout`.
    pub async fn further_session(&self, database: &Database, snapshot: &Arc<Snapshot>) -> Result<Snapshot, Error> {
        snapshot.in_session(self.session(database, snapshot).await?).await
    }
}

/// Probes the names and expressions of layers, which locks what those read, then takes all remaining locks of the layers.
pub(in crate::postgis) async fn names_and_locks<'a>(
    session: &'a Session,
    layers: &'a [LayerOptions],
) -> Result<(Vec<NamedLayer<'a>>, LayerLocks), Error> {
    let attempts = LockAttempts::begin(session).await?;
    loop {
        let attempt = async {
            let mut named = Vec::new();
            for options in layers {
                named.push(LayerProbe { session, options }.names().await?);
            }
            let locks = LayerLocks::of(named.iter().map(NamedLayer::layer));
            locks.take_at_once(session).await?;
            Ok((named, locks))
        };
        if let Some(done) = attempts.ended(Box::pin(attempt).await).await? {
            return Ok(done);
        }
    }
}
