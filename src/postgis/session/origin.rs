//! The origin of a session: its server and its snapshot.
//!
//! An address may stand for several servers: a reader address of a cluster picks one for each connection. The id of an
//! exported snapshot means nothing on another server, or names another snapshot there, so the origins of a run's
//! sessions are compared.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::SimpleQueryRow;

/// Columns that give the origin of a session: the address of its server, the time when that server started (different
/// for any two servers), the database's oid, and the transaction's snapshot.
pub(crate) const ORIGIN_COLUMNS: &str =
    "coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a local socket') AS origin_address,
    pg_postmaster_start_time()::timestamptz(6)::text AS origin_started,
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AS origin_database,
    pg_current_snapshot()::text AS origin_snapshot";

/// The server of a session, and its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionOrigin {
    address: String,
    started: String,
    database: String,
    snapshot: String,
}

/// A snapshot that sessions import. Sessions of other processes can import it, too, as long as the session that
/// exported it lasts: it is serializable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportedSnapshot {
    /// The id that `pg_export_snapshot()` gave.
    pub(crate) id: String,
    pub(crate) origin: SessionOrigin,
}

impl ExportedSnapshot {
    /// `pg_current_snapshot()` of the session that exported it.
    pub(crate) fn seen(&self) -> &str {
        &self.origin.snapshot
    }
}

impl SessionOrigin {
    pub(crate) fn of(row: &SimpleQueryRow) -> Option<SessionOrigin> {
        let column = |name| row.get(name).map(str::to_owned);
        Some(SessionOrigin {
            address: column("origin_address")?,
            started: column("origin_started")?,
            database: column("origin_database")?,
            snapshot: column("origin_snapshot")?,
        })
    }

    /// True if both sessions see the same snapshot of the same database of the same server. Their addresses may differ,
    /// because a server can listen at several.
    pub(crate) fn is_same(&self, other: &SessionOrigin) -> bool {
        self.is_same_server(other) && self.snapshot == other.snapshot
    }

    /// True if both sessions are in the same database of the same server, even if their snapshots differ.
    pub(crate) fn is_same_server(&self, other: &SessionOrigin) -> bool {
        (&self.started, &self.database) == (&other.started, &other.database)
    }
}

impl fmt::Display for SessionOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (started {}, snapshot {})", self.address, self.started, self.snapshot)
    }
}
