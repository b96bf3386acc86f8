//! Reads from the log what changed since a cursor, and where.

use super::check::{PositionSource, Watch};
use crate::cursor::Cursor;
use crate::postgis::{ChangedGeometries, Error, Layer, Snapshot, changed_positions, quoted};
use crate::tile::Spot;

/// The changes of one watch that a target has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct UnseenChanges {
    /// The id of the watch.
    pub watch: i32,
    /// The number of changed rows.
    pub rows: u64,
    /// The age of the oldest change, in seconds.
    pub age: f64,
}

/// The FROM and WHERE of the entries that this snapshot sees and the cursor does not. The first condition uses the index; the second leaves out
/// entries that the cursor has seen although older transactions were running.
fn unseen_entries(schema: &str, cursor: &Cursor) -> String {
    format!(
        "FROM {}.change AS noted WHERE noted.xid >= '{}'::xid8 AND NOT pg_visible_in_snapshot(noted.xid, '{cursor}'::pg_snapshot)",
        quoted(schema),
        cursor.xmin()
    )
}

/// The changes since a cursor, for each watch.
///
/// # Errors
/// If the log cannot be read.
pub async fn unseen_changes(snapshot: &Snapshot, schema: &str, cursor: &Cursor) -> Result<Vec<UnseenChanges>, Error> {
    let sql = format!(
        "SELECT noted.watch, sum(noted.rows)::int8, extract(epoch FROM clock_timestamp() - min(noted.at))::float8 {}
         GROUP BY noted.watch ORDER BY noted.watch",
        unseen_entries(schema, cursor)
    );
    let rows = snapshot.all("reading the change log", &sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| UnseenChanges { watch: row.get(0), rows: row.get::<_, i64>(1).cast_unsigned(), age: row.get(2) })
        .collect())
}

/// The transactions that have logged a change since a cursor.
///
/// # Errors
/// If the log cannot be read.
pub async fn unseen_transactions(snapshot: &Snapshot, schema: &str, cursor: &Cursor) -> Result<Vec<u64>, Error> {
    let sql = format!("SELECT DISTINCT noted.xid::text::int8 {}", unseen_entries(schema, cursor));
    let rows = snapshot.all("reading the change log", &sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect())
}

/// Calls `each` with the old and new positions of the rows that a watch has logged since a cursor, computed as the survey computes positions.
///
/// # Errors
/// If the log cannot be read, or a declared query fails.
pub async fn unseen_positions(
    snapshot: &Snapshot,
    schema: &str,
    cursor: &Cursor,
    watch: &Watch,
    layer: &Layer,
    each: impl FnMut(Spot),
) -> Result<(), Error> {
    let context = format!("layer \"{}\", reading what changed in {}", layer.name(), watch.table);
    let unseen = format!("{} AND noted.watch = {}", unseen_entries(schema, cursor), watch.id);
    let (from, conditions) = unseen.split_once(" WHERE ").unwrap_or((&unseen, "true"));
    let relation = match &watch.source {
        PositionSource::Geometry { .. } => format!(
            "(SELECT ST_SetSRID(ST_MakePoint(point.x, point.y), {srid}) AS place
              {from}, unnest(noted.x, noted.y) AS point (x, y) WHERE {conditions}
              UNION ALL
              SELECT other.place {from}, unnest(noted.places) AS other (place) WHERE {conditions}) AS changed_place",
            srid = layer.srid()
        ),
        PositionSource::Query { sql, columns } => {
            // Each column separately, because a record made from JSON would read texts as JSON strings, and run the CHECKs of domains.
            let columns: Vec<String> = columns
                .iter()
                .zip(&watch.methods)
                .map(|((name, kind), method)| format!("{} AS {}", method.value(&watch.table, name, kind), quoted(name)))
                .collect();
            format!(
                "(SELECT found.place
              {from}, unnest(noted.keys) AS row_of (keys),
                  LATERAL (SELECT {}) AS changed,
                  LATERAL ({sql}
                  ) AS found (place) WHERE {conditions}
              -- So that the query runs once for each row, wherever its result is asked for.
              OFFSET 0) AS changed_place",
                columns.join(", ")
            )
        }
    };
    let are_rows = matches!(watch.source, PositionSource::Geometry { .. });
    let geometries = ChangedGeometries { relation: &relation, column: "place", are_rows };
    let reading = Box::pin(changed_positions(snapshot, layer, &context, geometries, each));
    match watch.source {
        PositionSource::Geometry { .. } => reading.await,
        PositionSource::Query { .. } => snapshot.keeper.with_logged_texts(&context, reading).await,
    }
}
