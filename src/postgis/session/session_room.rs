//! The check that the server allows as many sessions as a program is going to open.

use super::error::Error;
use super::snapshot::Snapshot;

/// The most sessions that the server, the database and the role allow, and the number of other sessions. Some sessions are reserved for superusers,
/// since PostgreSQL 16 also for members of `pg_use_reserved_connections`. In `pg_database` and `pg_roles`, -1 means no limit.
const ROOM: &str = "
    SELECT CASE WHEN role.rolsuper THEN setting.connections
            ELSE least(
                setting.connections - setting.reserved, nullif(role.rolconnlimit, -1), nullif(database.datconnlimit, -1))
            END::int8,
        (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
    FROM pg_catalog.pg_roles AS role, pg_catalog.pg_database AS database,
        (SELECT current_setting('max_connections')::int4 AS connections,
            current_setting('superuser_reserved_connections')::int4
                + coalesce(current_setting('reserved_connections', true)::int4, 0) AS reserved) AS setting
    WHERE role.rolname = session_user AND database.datname = current_database()";

/// How many sessions the server allows, and how many others there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRoom {
    /// The most sessions that the server allows this role at once.
    pub most: u64,
    /// The number of other sessions at present.
    pub others: u64,
}

impl Snapshot {
    /// Checks that the server allows `sessions` sessions, as many as the caller is going to have. `settings` names for the message the settings to
    /// lower.
    ///
    /// # Errors
    /// [`Error::Setting`] if the server does not allow them, or the error of the query.
    pub async fn check_session_room(&self, sessions: usize, settings: &str) -> Result<SessionRoom, Error> {
        let rows = self.all("counting sessions", ROOM, &[]).await?;
        let Some(row) = rows.first() else { return Ok(SessionRoom { most: u64::MAX, others: 0 }) };
        let [most, others] = [0, 1].map(|column| row.get::<_, i64>(column).max(0).cast_unsigned());
        if sessions as u64 <= most {
            return Ok(SessionRoom { most, others });
        }
        Err(Error::Setting {
            what: format!("{sessions} sessions are needed, and {} allows {most}", self.keeper.server()),
            next: format!(
                "lower {settings}, or raise what limits them: max_connections of the server, CONNECTION LIMIT of the database or of the role"
            ),
        })
    }
}
