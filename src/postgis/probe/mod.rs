//! The probe: checks, before the first tile, that everything that the configuration names exists in the database and
//! fits.
//!
//! | file | subject |
//! |---|---|
//! | `server` | the server, the database and the role |
//! | `layer` | one layer: names, expressions, rows |
//! | `geometry` | rows beyond ±180°; rows that jump from one side of ±180° to the other, or are not valid |
//! | `relation` | the columns of a relation, or of a query; locks on everything that the layers read, and a check whether it changed |
//! | `expressions` | lets the server check the expressions of the configuration with statements that read no row and return the expressions' types |
//! | `function` | looks up the function of a layer, and checks that it returns tiles |

mod expressions;
mod function;
mod geometry;
mod layer;
mod relation;
mod server;

use std::sync::Arc;

use relation::reads;
use server::superuser;

use super::layer::{Layer, LayerOptions};
use super::session::{Database, Error, LockAttempts, Session, Snapshot};
use crate::postgis::sql;

pub(crate) use geometry::{DeclaredGeometry, FlawedRows, MANY_VERTICES, Pieces, jumping_rows, repaired_while_drawn};
pub(crate) use layer::{LayerProbe, NamedLayer};
pub(crate) use relation::Reads;
pub use relation::shows_rows_as_written;
pub(crate) use relation::{RelationName, RowSecurity, look_up, row_security, row_security_warning};
pub(crate) use server::server;
pub(crate) use server::{Server, server_of};

#[derive(Debug)]
pub struct Probed {
    pub server: Server,
    /// The layers, in the order of the configuration.
    pub layers: Vec<Arc<Layer>>,
    /// The locks on everything that the layers read; the session that holds the snapshot has taken them.
    pub(crate) locks: LayerLocks,
    /// The tables and views that the layers read.
    pub reads: Reads,
    pub warnings: Vec<String>,
    /// The warning that the role is a superuser and that other roles could exploit that; `warnings` contains it, too.
    pub superuser: Option<String>,
}

/// Layers whose names and expressions are checked. The session that holds the snapshot has locked everything that they
/// read and has read no row yet, so other sessions of the run should take the same locks now.
pub(crate) struct NamedLayers<'a> {
    snapshot: &'a Snapshot,
    server: Server,
    layers: Vec<NamedLayer<'a>>,
    /// The locks on everything that the layers read.
    pub(crate) locks: LayerLocks,
    superuser: Option<String>,
}

/// Probes the server and the names and expressions of every layer, then takes the locks on everything that the layers
/// read. Fails if PostGIS is missing or too old, or a layer names something that does not exist, may not be read or
/// does not fit.
pub(crate) async fn probe_names<'a>(
    snapshot: &'a Snapshot,
    layers: &'a [LayerOptions],
) -> Result<NamedLayers<'a>, Error> {
    let session = &snapshot.keeper;
    // Before statements over the layers are planned: planning alone runs functions of other owners. The statements of
    // both are on their way at once.
    let (server, superuser) = tokio::join!(Box::pin(server(session)), Box::pin(superuser(session)));
    let (server, superuser) = (server?, superuser?);
    let (named, locks) = names_and_locks(session, layers).await?;
    Ok(NamedLayers { snapshot, server, layers: named, locks, superuser })
}

impl NamedLayers<'_> {
    /// Probes the rows: their reference systems, their types of geometry and their keys. Fails if the rows of a layer
    /// do not fit, or a table that it reads was rewritten or replaced after the snapshot was taken.
    pub(crate) async fn probe_rows(self) -> Result<Probed, Error> {
        let NamedLayers { snapshot, server, layers: named, locks, superuser } = self;
        let (mut layers, mut warnings) = (Vec::new(), Vec::from_iter(superuser.clone()));
        for named in named {
            layers.push(Arc::new(named.rows(&server.encoding, &mut warnings).await?));
        }
        locks.take(&snapshot.keeper).await?;
        let keeper = &snapshot.keeper;
        let (reads, hidden) = tokio::join!(Box::pin(reads(keeper)), Box::pin(row_security(keeper)));
        let (reads, hidden) = (reads?, hidden?);
        warnings.extend(row_security_warning(&hidden));
        Ok(Probed { server, layers, locks, reads, warnings, superuser })
    }
}

/// Probes the server and every layer.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that does not exist, may not be read or does not fit.
pub async fn probe(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Probed, Error> {
    probe_names(snapshot, layers).await?.probe_rows().await
}

// Takes locks on everything that layers read, before the work begins.
//
// Planning a statement takes locks on its tables, their partitions and indexes, and the tables beneath views and
// queries. `LOCK TABLE` would take no locks on indexes, would refuse materialized views and foreign tables, and would
// need more rights than grants on columns.

/// The statements whose planning locks everything that the layers of a run read. Clones share the statements.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerLocks(Arc<[LockStatement]>);

/// A statement that reads everything a layer reads.
#[derive(Debug)]
struct LockStatement {
    /// The layer, for messages.
    context: String,
    sql: String,
}

impl LayerLocks {
    pub(crate) fn of<'a>(layers: impl Iterator<Item = &'a Layer>) -> LayerLocks {
        let statement = |layer: &Layer, sql| LockStatement { context: layer.context(), sql };
        let statements =
            layers.flat_map(|layer| sql::read_statements(layer).into_iter().map(move |sql| statement(layer, sql)));
        LayerLocks(statements.collect())
    }

    /// Takes the locks, in several attempts if necessary.
    pub(crate) async fn take(&self, session: &Session) -> Result<(), Error> {
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
    pub(crate) async fn session(&self, database: &Database, snapshot: &Snapshot) -> Result<Session, Error> {
        let session = database.on(snapshot).await?;
        self.take(&session).await?;
        session.set_savepoint().await?;
        Ok(session)
    }

    /// A further session of a run. It holds the locks, and draws one variant after the other. Fails if the session
    /// cannot be opened, or a lock is not granted within `lock_timeout`.
    pub(crate) async fn further_session(
        &self,
        database: &Database,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Snapshot, Error> {
        snapshot.in_session(self.session(database, snapshot).await?).await
    }
}

/// Probes the names and expressions of layers, which locks what those read, then takes all remaining locks of the
/// layers.
pub(crate) async fn names_and_locks<'a>(
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
