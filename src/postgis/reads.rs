//! What the layers read, held still: the tables are locked against rewriting, and known by what they are, not by their names.

use super::error::Error;
use super::layer::Layer;
use super::session::Session;
use super::sql;

/// The tables and views that layers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// A hash of the tables (by OID, partitions and what lies beneath views counted in) and of the views' definitions.
    pub digest: String,
    /// A table of which this role sees only some rows, quoted: its policies may hide rows without a row being changed.
    pub row_security: Option<String>,
}

/// What this transaction holds locks on are the tables that the plans above have opened. The catalog is read as the snapshot
/// shows it, but `pg_relation_filenode` tells the present: where both differ, the table was rewritten or truncated after the
/// snapshot was taken, and shows this transaction nothing of what was in it (PostgreSQL documentation, section 13.6, "Caveats").
const HELD: &str = "
    SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, (SELECT md5(r.ev_action::text) FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND c.relkind = 'v')), ',' ORDER BY c.oid), '')),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'p') AND row_security_active(c.oid)),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'm') AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// Locks what the layers read, and looks whether it stood still since the snapshot was taken. Planning a statement locks every
/// table that it would read.
pub(super) async fn reads(session: &Session, layers: &[Layer]) -> Result<Reads, Error> {
    for layer in layers {
        let columns = layer.row_sql().chain([layer.geometry.as_str()]);
        let columns = columns.collect::<Vec<_>>().join(", ");
        let filter = layer.filter.as_ref().map(|filter| format!("WHERE ({filter}\n)")).unwrap_or_default();
        let sql = format!("EXPLAIN SELECT {columns} FROM {} {filter}", layer.relation);
        session.all(&format!("layer \"{}\"", layer.name), &sql, &[]).await?;
        let aggregates: Vec<String> =
            layer.aggregates().map(|sql| format!("({}\n)", sql::without_bounds(sql))).collect();
        if !aggregates.is_empty() {
            let sql = format!("EXPLAIN SELECT {} FROM {} {filter}", aggregates.join(", "), layer.relation);
            session.all(&format!("layer \"{}\"", layer.name), &sql, &[]).await?;
        }
    }
    let row = session.one("looking whether tables stood still", HELD, &[]).await?;
    match row.get::<_, Option<String>>(2) {
        Some(table) => Err(Error::Rewritten { table }),
        None => Ok(Reads { digest: row.get(0), row_security: row.get(1) }),
    }
}
