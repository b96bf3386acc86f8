//! The check that the server's lock table has room for the locks of all sessions of a run.

use tokio_postgres::types::Type;

use super::super::Session;
use super::super::error::Error;

/// Three numbers: the relations and indexes that this session has locked, the entries of the server's lock table, and the entries that other sessions
/// take. The table has twice as many entries as the configured number of locks, on the assumption that two sessions share a lock (`InitLocks` in
/// PostgreSQL's lock.c).
const ROOM: &str = "
    SELECT count(*) FILTER (WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation'),
        2 * current_setting('max_locks_per_transaction')::int8
            * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8),
        count(*) FILTER (WHERE NOT fastpath AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid())
    FROM pg_catalog.pg_locks";

impl Session {
    /// Checks that the server's lock table has room if `sessions` further sessions take the same locks as this one.
    ///
    /// # Errors
    /// [`Error::Setting`] if it has no room for them.
    pub(in crate::postgis) async fn check_lock_room(&self, sessions: usize) -> Result<(), Error> {
        let row = self.one("counting locks", ROOM, &[]).await?;
        let [own, room, taken] = [0, 1, 2].map(|column| row.get::<_, i64>(column).cast_unsigned());
        let needed = own.saturating_mul(sessions as u64 + 1);
        if needed.saturating_add(taken) <= room {
            return Ok(());
        }
        let per_transaction =
            (needed + taken).saturating_mul(self.locks_per_transaction().await?).div_ceil(room.max(1));
        Err(Error::Setting {
            what: format!(
                "the layers read {own} tables, partitions and indexes: {} sessions take {needed} locks on them, and the lock table of {} has room for {} more",
                sessions + 1,
                self.server(),
                room.saturating_sub(taken)
            ),
            next: format!(
                "lower --workers, or set max_locks_per_transaction to at least {per_transaction} in the server and restart it"
            ),
        })
    }

    async fn locks_per_transaction(&self) -> Result<u64, Error> {
        let sql = "SELECT current_setting($1)::int8";
        let row = self.one("counting locks", sql, &[(&"max_locks_per_transaction", Type::TEXT)]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }
}
