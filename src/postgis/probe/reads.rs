//! The tables and views that the layers read: locks that keep others from rewriting them, and a hash that identifies them by more than their names.

use super::locks::LayerLocks;
use crate::postgis::session::{Error, Session, Snapshot, quoted};

/// The tables and views that layers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// A hash of the OIDs of the tables, including partitions and the tables beneath views, and of the views' definitions.
    pub digest: String,
    /// A table, quoted, in which this role may see only some rows. A change of its policies can hide rows without changing any row.
    pub row_security: Option<String>,
    /// True if one of these tables has partitions.
    pub has_partitions: bool,
}

/// Examines the tables that this transaction has locked, which are the tables that the layers' statements open. The catalog shows the file node at
/// the time of the snapshot, but `pg_relation_filenode` the present one. If they differ, the table was rewritten or truncated after the snapshot was
/// taken, and this transaction sees none of its old rows (PostgreSQL documentation, section 13.6, "Caveats").
const LOCKED: &str = "
    SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, (SELECT md5(r.ev_action::text) FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND c.relkind = 'v')), ',' ORDER BY c.oid), '')),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'p') AND row_security_active(c.oid)),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'm') AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode),
        coalesce(bool_or(c.relkind = 'p'), false)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// Locks everything that the layers read. Returns an error if a table was rewritten or created after the snapshot was taken.
pub(in crate::postgis) async fn reads(session: &Session, locks: &LayerLocks) -> Result<Reads, Error> {
    locks.take(session).await?;
    let row = session.one("checking whether tables were rewritten", LOCKED, &[]).await?;
    if let Some(table) = row.get(2) {
        return Err(Error::Rewritten { table });
    }
    let reads = Reads { digest: row.get(0), row_security: row.get(1), has_partitions: row.get(3) };
    let made = session.one("checking whether tables were rewritten", MADE, &[]).await?;
    made.get::<_, Option<String>>(0).map_or(Ok(reads), |table| Err(Error::Appeared { table, how: "made" }))
}

/// Finds the tables that this transaction has locked and whose policies may hide rows from this role. Tables whose policies let the role read every
/// row are left out.
const ROW_SECURITY: &str = "
    SELECT DISTINCT format('%I.%I', n.nspname, c.relname), current_user::text
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p') AND row_security_active(c.oid)
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND (EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive) OR NOT EXISTS (
          SELECT FROM pg_policy AS p
          WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
            AND EXISTS (SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE'))))
    ORDER BY 1";

/// A table whose policies may hide rows from a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgis) struct RowSecurity {
    /// Schema and name, quoted where necessary.
    pub(in crate::postgis) table: String,
    /// The role.
    role: String,
}

/// The tables that the session has locked and whose policies may hide rows from the role.
pub(in crate::postgis) async fn row_security(session: &Session) -> Result<Vec<RowSecurity>, Error> {
    let rows = session.all("looking for row level security", ROW_SECURITY, &[]).await?;
    Ok(rows.iter().map(|row| RowSecurity { table: row.get(0), role: row.get(1) }).collect())
}

/// The warning that policies may hide rows of these tables; `None` if there is no table.
pub(in crate::postgis) fn row_security_warning(found: &[RowSecurity]) -> Option<String> {
    let RowSecurity { table: first, role } = found.first()?;
    let tables: Vec<&str> = found.iter().map(|one| one.table.as_str()).collect();
    let (tables, role) = (tables.join(", "), quoted(role));
    Some(format!(
        "row level security: policies decide which rows of {tables} the role {role} sees, and only these are drawn. For all rows, connect as a role with BYPASSRLS, or run CREATE POLICY oar_tiles ON {first} FOR SELECT TO {role} USING (true) as its owner"
    ))
}

/// Finds a table that was created after the snapshot was taken. Such a table is locked, because names are looked up in the present state, but the
/// catalog, as of the snapshot, does not show it. If it replaced another table, this transaction sees no row of it.
const MADE: &str = "
    SELECT min(l.relation::regclass::text)
    FROM pg_locks AS l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)";

/// Finds a table that existed at the snapshot and has become a partition of a locked table since then: `pg_partition_tree` shows the present state,
/// the catalog the state of the snapshot. Statements that are planned later also read such a partition.
const ATTACHED: &str = "
    SELECT min(part.relid::text)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation CROSS JOIN LATERAL pg_partition_tree(c.oid) AS part
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'p'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND part.relid <> c.oid AND EXISTS (SELECT FROM pg_class AS k WHERE k.oid = part.relid)
      AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = part.relid)";

impl Snapshot {
    /// Checks that no partition was attached to a table while the run read it. Locks keep other sessions from altering the table, but no lock that a
    /// reader can take keeps them from attaching partitions.
    ///
    /// # Errors
    /// [`Error::Appeared`] if one was attached.
    pub async fn check_partitions(&self, reads: &Reads) -> Result<(), Error> {
        if !reads.has_partitions {
            return Ok(());
        }
        let attached = match self.keeper.one("checking whether tables were rewritten", ATTACHED, &[]).await {
            // The tiles are complete: the workers' sessions held the same locks.
            Err(error) if error.is_lost() => return Ok(()),
            attached => attached?.get::<_, Option<String>>(0),
        };
        attached.map_or(Ok(()), |table| Err(Error::Appeared { table, how: "attached as a partition" }))
    }
}
