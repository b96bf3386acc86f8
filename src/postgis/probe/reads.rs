//! What the layers read, held still: the tables are locked against rewriting, and known by what they are, not by their names.

use super::locks::LayerLocks;
use crate::postgis::session::{Error, Session, Snapshot};

/// The tables and views that layers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// A hash of the tables (by OID, partitions and what lies beneath views counted in) and of the views' definitions.
    pub digest: String,
    /// A table of which this role sees only some rows, quoted: its policies may hide rows without a row being changed.
    pub row_security: Option<String>,
    /// Whether a table among them has partitions.
    pub has_partitions: bool,
}

/// What this transaction holds locks on are the tables that the plans above have opened. The catalog is read as the snapshot
/// shows it, but `pg_relation_filenode` tells the present: where both differ, the table was rewritten or truncated after the
/// snapshot was taken, and shows this transaction nothing of what was in it (PostgreSQL documentation, section 13.6, "Caveats").
const HELD: &str = "
    SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, (SELECT md5(r.ev_action::text) FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND c.relkind = 'v')), ',' ORDER BY c.oid), '')),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'p') AND row_security_active(c.oid)),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'm') AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode),
        coalesce(bool_or(c.relkind = 'p'), false)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// Locks what the layers read, and looks whether it stood still since the snapshot was taken.
pub(in crate::postgis) async fn reads(session: &Session, locks: &LayerLocks) -> Result<Reads, Error> {
    locks.take(session).await?;
    let row = session.one("looking whether tables stood still", HELD, &[]).await?;
    if let Some(table) = row.get(2) {
        return Err(Error::Rewritten { table });
    }
    let reads = Reads { digest: row.get(0), row_security: row.get(1), has_partitions: row.get(3) };
    let made = session.one("looking whether tables stood still", MADE, &[]).await?;
    made.get::<_, Option<String>>(0).map_or(Ok(reads), |table| Err(Error::Appeared { table, how: "made" }))
}

/// What this transaction holds locks on and cannot see in the catalog was made after the snapshot was taken: a table that took the place of
/// another shows this transaction no row. Names are looked up in the present.
const MADE: &str = "
    SELECT min(l.relation::regclass::text)
    FROM pg_locks AS l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)";

/// Tables that are partitions of one that this transaction holds, and were none when the snapshot was taken, though they were there:
/// `pg_partition_tree` tells the present, the catalog is read as the snapshot shows it. Statements planned later read them, too.
const ATTACHED: &str = "
    SELECT min(part.relid::text)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation CROSS JOIN LATERAL pg_partition_tree(c.oid) AS part
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'p'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND part.relid <> c.oid AND EXISTS (SELECT FROM pg_class AS k WHERE k.oid = part.relid)
      AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = part.relid)";

impl Snapshot {
    /// Looks whether the tables that were read are still those of the beginning. Locks keep them from being altered, but no lock that a
    /// reader can have keeps partitions from being attached.
    ///
    /// # Errors
    /// [`Error::Appeared`] if one was.
    pub async fn stood_still(&self, reads: &Reads) -> Result<(), Error> {
        if !reads.has_partitions {
            return Ok(());
        }
        let attached = match self.keeper.one("looking whether tables stood still", ATTACHED, &[]).await {
            // The sessions that held the same locks have drawn everything.
            Err(error) if error.is_lost() => return Ok(()),
            attached => attached?.get::<_, Option<String>>(0),
        };
        attached.map_or(Ok(()), |table| Err(Error::Appeared { table, how: "attached as a partition" }))
    }
}
