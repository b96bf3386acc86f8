//! Parts of a layer's rows that several sessions read in parallel, all on the run's snapshot.
//!
//! - The survey reads in any order. Its parts are ranges of pages, each read by one session. If there are no such ranges (for a view or query, a part
//!   of the world, a server before PostgreSQL 14, or a role that may read only some columns), each session scans all rows and takes its share of them
//!   by a hash of the geometry, if these are points.
//! - Cached rows are numbered in the order of their keys. Their parts are ranges of the key ([`key_ranges`]), whose rows are joined in the order of
//!   the ranges. The server scans all rows for each range if no index serves the key.
//!
//! Rows are scanned several times only if that is cheap (`scan`). The rows of a costly view, of an aggregate or of a foreign table are read by one
//! session.

mod scan;

use tokio_postgres::types::Type;

use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql::{self, KeyRange, KeySample};

pub(in crate::postgis) use scan::RowScan;

/// The fewest pages of a part: 512 kB. Reading fewer pages takes less time than the query for the parts.
const MIN_PAGES_PER_PART: u64 = 64;

/// The most ranges of a key. The server scans all rows of the table for each range if no index serves the key.
const MAX_KEY_RANGES: usize = 4;

/// The number of pages of the sample from which the bounds of key ranges are computed.
const SAMPLED_PAGES: u64 = 512;

/// The approximate number of rows of that sample if there are no pages.
const SAMPLED_ROWS: u64 = 16_384;

/// The source of a layer's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsOf {
    /// A table of this many pages.
    Pages(u64),
    /// A table whose pages cannot be read one by one.
    Table,
    /// A view, a query, or a foreign table.
    Other,
}

impl RowsOf {
    async fn look_up(session: &Session, layer: &Layer) -> Result<RowsOf, Error> {
        if layer.is_query() {
            return Ok(RowsOf::Other);
        }
        let context = format!("layer \"{}\", looking how large its table is", layer.name);
        let found = session.all(&context, sql::TABLE_PAGES, &[(&layer.relation, Type::TEXT)]).await?;
        Ok(found.first().map_or(RowsOf::Other, |row| {
            row.get::<_, Option<i64>>(0).map_or(RowsOf::Table, |pages| RowsOf::Pages(pages.cast_unsigned()))
        }))
    }
}

/// The number of parts in which a table of `pages` pages is read by at most `most` sessions.
fn parts(pages: u64, most: usize) -> usize {
    usize::try_from(pages / MIN_PAGES_PER_PART).unwrap_or(usize::MAX).min(most).max(1)
}

/// Conditions that divide the rows of a layer into at most `most` parts, to be read in any order. Each begins with AND, to follow another condition.
/// One empty condition if the rows are read as a whole.
///
/// # Errors
/// If the session is lost, or a stop was requested.
pub(in crate::postgis) async fn any_order(
    session: &Session,
    layer: &Layer,
    scan: RowScan<'_>,
    most: usize,
) -> Result<Vec<String>, Error> {
    if most < 2 {
        return Ok(vec![String::new()]);
    }
    let rows = RowsOf::look_up(session, layer).await?;
    let conditions = match rows {
        RowsOf::Pages(pages) if scan.boxes == 0 => page_conditions(pages, parts(pages, most)),
        // To compute the hash of a line or polygon, each session would read all of it.
        _ if !layer.shape.points => vec![String::new()],
        _ => sql::hash_conditions(layer, scan::scans(session, layer, scan, rows != RowsOf::Other, most).await?),
    };
    say(layer, conditions.len());
    Ok(conditions)
}

fn say(layer: &Layer, parts: usize) {
    if parts > 1 {
        tracing::debug!("layer \"{}\": {parts} parts of its rows are read side by side", layer.name);
    }
}

/// The last part has no end: a partition may be larger than another.
fn page_conditions(pages: u64, parts: usize) -> Vec<String> {
    let bound = |part: usize| pages * part as u64 / parts as u64;
    let condition = |part: usize| {
        let from = (part > 0).then(|| format!("AND ctid >= '({},0)'", bound(part)));
        let below = (part + 1 < parts).then(|| format!("AND ctid < '({},0)'", bound(part + 1)));
        from.into_iter().chain(below).collect::<Vec<_>>().join(" ")
    };
    (0..parts).map(condition).collect()
}

/// Ranges of the key that divide the rows of a layer into at most `most` parts of about the same size, in the order of the key. Empty if the rows are
/// read as a whole.
///
/// # Errors
/// If the session is lost, or a stop was requested.
pub(in crate::postgis) async fn key_ranges(
    session: &Session,
    layer: &Layer,
    scan: RowScan<'_>,
    most: usize,
) -> Result<Vec<KeyRange>, Error> {
    if most < 2 {
        return Ok(Vec::new());
    }
    let (parts, sample) = match RowsOf::look_up(session, layer).await? {
        RowsOf::Pages(pages) if scan.boxes == 0 => {
            #[expect(clippy::cast_precision_loss, reason = "a share of a table")]
            let percent = (SAMPLED_PAGES as f64 * 100.0 / pages as f64).min(100.0);
            (parts(pages, most.min(MAX_KEY_RANGES)), KeySample::Pages { percent })
        }
        rows => {
            let parts = scan::scans(session, layer, scan, rows != RowsOf::Other, most).await?;
            let known = scan.rows.unwrap_or_default().max(1);
            (parts, KeySample::Rows { boxes: scan.boxes, one_in: (known / SAMPLED_ROWS).max(1) })
        }
    };
    if parts < 2 {
        return Ok(Vec::new());
    }
    let Some(statement) = sql::key_bounds(layer, parts, sample) else { return Ok(Vec::new()) };
    let context = format!("layer \"{}\", sampling its keys", layer.name);
    let params: &[Param<'_>] = if matches!(sample, KeySample::Rows { .. }) { scan.params } else { &[] };
    let row = session.one(&context, &statement, params).await?;
    let (bounds, kind): (Option<Vec<String>>, Option<String>) = (row.get(0), row.get(1));
    let (Some(mut bounds), Some(kind)) = (bounds, kind) else { return Ok(Vec::new()) };
    bounds.dedup();
    let ranges = KeyRange::between(layer, &kind, &bounds);
    say(layer, ranges.len());
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_without_gaps() {
        assert_eq!(page_conditions(1_000, 1), [""]);
        assert_eq!(
            page_conditions(1_000, 3),
            ["AND ctid < '(333,0)'", "AND ctid >= '(333,0)' AND ctid < '(666,0)'", "AND ctid >= '(666,0)'"]
        );
        assert_eq!([parts(0, 8), parts(127, 8), parts(128, 8), parts(100_000, 8)], [1, 1, 2, 8]);
    }
}
