//! Parts of a layer's rows that several sessions read in parallel, all on the run's snapshot.
//!
//! - The survey reads in any order. Its parts are ranges of pages, each read by one session. If there are no such
//!   ranges (for a view or query, a part of the world, a server before PostgreSQL 14, or a role that may read only some
//!   columns), each session scans all rows and takes its share of them by a hash of the geometry, if these are points.
//! - Cached rows are numbered in the order of their keys. Their parts are ranges of the key ([`key_ranges`]), whose
//!   rows are joined in the order of the ranges. The server scans all rows for each range if no index serves the key.
//!
//! Rows are scanned several times only if that is cheap (`scan`). The rows of a costly view, of an aggregate or of a
//! foreign table are read by one session.

use tokio_postgres::types::Type;

use super::layer::Layer;
use super::session::{Error, Param, Session};
use super::sql::{KeyRange, KeySample};
use crate::postgis::sql;
use crate::tile::TileCoord;

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

/// True if the layer's rows are those of a table, a partitioned one included, and not of a view, a query, a function or
/// a foreign table.
pub(crate) async fn is_table(session: &Session, layer: &Layer) -> Result<bool, Error> {
    Ok(layer.function().is_none() && RowsOf::look_up(session, layer).await? != RowsOf::Other)
}

/// The number of parts in which a table of `pages` pages is read by at most `most` sessions.
fn parts(pages: u64, most: usize) -> usize {
    usize::try_from(pages / MIN_PAGES_PER_PART).unwrap_or(usize::MAX).min(most).max(1)
}

/// Conditions that divide the rows of a layer into at most `most` parts, to be read in any order. Each begins with AND,
/// to follow another condition. One empty condition if the rows are read as a whole.
pub(crate) async fn any_order(
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
        RowsOf::Pages(pages) if scan.boxes == 0 => page_conditions(&layer.relation, pages, parts(pages, most)),
        // To compute the hash of a line or polygon, each session would read all of it.
        _ if !layer.shape.points => vec![String::new()],
        _ => sql::hash_conditions(layer, scans(session, layer, scan, rows != RowsOf::Other, most).await?),
    };
    say(layer, conditions.len());
    Ok(conditions)
}

fn say(layer: &Layer, parts: usize) {
    if parts > 1 {
        tracing::debug!("layer \"{}\": {parts} parts of its rows are read side by side", layer.name);
    }
}

/// The last part has no end: a partition may be larger than another. The column has the table's name, without which it
/// is not found if repaired shapes stand beside the table.
fn page_conditions(table: &str, pages: u64, parts: usize) -> Vec<String> {
    let bound = |part: usize| pages * part as u64 / parts as u64;
    let condition = |part: usize| {
        let from = (part > 0).then(|| format!("AND {table}.ctid >= '({},0)'", bound(part)));
        let below = (part + 1 < parts).then(|| format!("AND {table}.ctid < '({},0)'", bound(part + 1)));
        from.into_iter().chain(below).collect::<Vec<_>>().join(" ")
    };
    (0..parts).map(condition).collect()
}

/// Ranges of the key that divide the rows of a layer into at most `most` parts of about the same size, in the order of
/// the key. Empty if the rows are read as a whole.
pub(crate) async fn key_ranges(
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
            let percent = (SAMPLED_PAGES as f64 * 100.0 / pages as f64).min(100.0);
            (parts(pages, most.min(MAX_KEY_RANGES)), KeySample::Pages { percent })
        }
        rows => {
            let parts = scans(session, layer, scan, rows != RowsOf::Other, most).await?;
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

// The planner's estimate of the cost of scanning the rows of a layer once.

/// The rows of a layer that are read, and the columns of them.
#[derive(Clone, Copy)]
pub(crate) struct RowScan<'a> {
    /// The number of boxes near which rows are read; 0 for all rows.
    pub(crate) boxes: usize,
    /// The sides of the boxes, and the values of a query's placeholders, numbered as in the [survey](sql::survey).
    pub(crate) params: &'a [Param<'a>],
    /// True if the properties are read, too.
    pub(crate) with_values: bool,
    /// The number of rows, if it is known.
    pub(crate) rows: Option<u64>,
}

/// The fewest rows of a part. Reading fewer rows takes less time than the query for the parts.
const MIN_ROWS_PER_PART: f64 = 4_000.0;

/// The most parts if each session scans all rows.
const MAX_SCANS: usize = 4;

/// The most that a row of a view or query may cost, in the units of the planner (PostgreSQL documentation, section
/// 20.7.2: a page in sequence costs 1). A row of a table costs 0.03, of a view that joins another table 0.05, of a view
/// that makes points of two numbers 0.17, of a view that sorts 0.12. Encoding a row takes about fifty times as long as
/// scanning it.
const MAX_COST_PER_ROW: f64 = 0.25;

/// The most that a row of a table may cost if the spatial index finds it. Most of the cost is the page, which all
/// sessions read at about the same time.
const MAX_COST_PER_FOUND_ROW: f64 = 1.5;

/// Kinds of plan nodes that return the same rows to every session on a snapshot, at any time. The following are not
/// among them: LIMIT, DISTINCT and window functions, which may choose among rows in the order of their arrival;
/// aggregates, functions and samples; and foreign tables, which have their own snapshots.
const STEADY_NODES: [&str; 19] = [
    "Seq Scan",
    "Index Scan",
    "Index Only Scan",
    "Bitmap Heap Scan",
    "Bitmap Index Scan",
    "BitmapOr",
    "BitmapAnd",
    "Append",
    "Subquery Scan",
    "Result",
    "Values Scan",
    "Hash",
    "Hash ",
    "Nested Loop",
    "Merge ",
    "Sort",
    "Materialize",
    "Memoize",
    "Gather",
];

/// The greatest number of parts in which the rows of a layer are read, each part by a session that scans all rows.
pub(crate) async fn scans(
    session: &Session,
    layer: &Layer,
    scan: RowScan<'_>,
    is_table: bool,
    most: usize,
) -> Result<usize, Error> {
    let context = format!("layer \"{}\", asking what it costs to read its rows", layer.name);
    let statement = format!("EXPLAIN {}", sql::scan(layer, scan.boxes, scan.with_values));
    let plan = session.all(&context, &statement, scan.params).await?;
    let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let Some(ScanCost { cost, rows }) = ScanCost::of(&lines) else { return Ok(1) };
    let rows = scan.rows.map_or(rows, |known| known as f64);
    let is_found = is_table && scan.boxes > 0;
    let dear = if is_found { MAX_COST_PER_FOUND_ROW } else { MAX_COST_PER_ROW };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows")]
    let parts = (rows / MIN_ROWS_PER_PART) as usize;
    Ok(if cost > dear * rows { 1 } else { parts.clamp(1, most.min(MAX_SCANS)) })
}

/// The planner's estimate of the rows of a layer's table, all of them or those in a tile; 0 if it makes none.
pub(crate) async fn estimated_rows(session: &Session, layer: &Layer, tile: Option<TileCoord>) -> Result<f64, Error> {
    let context = format!("layer \"{}\", asking how many rows a tile shows", layer.name);
    let plan = session.all(&context, &sql::estimated_rows(layer, tile), &[]).await?;
    let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    Ok(ScanCost::of(&lines).map_or(0.0, |scan| scan.rows))
}

/// The planner's estimate of a scan.
#[derive(Debug, PartialEq)]
struct ScanCost {
    cost: f64,
    rows: f64,
}

impl ScanCost {
    /// Reads the estimate from the lines of a plan as EXPLAIN writes it; `None` if the rows may differ between
    /// sessions.
    fn of(lines: &[String]) -> Option<ScanCost> {
        let mut total = None;
        for line in lines {
            let Some((node, estimates)) = line.split_once("  (cost=") else { continue };
            let node = node.trim_start_matches([' ', '-', '>']);
            let node = node.strip_prefix("Parallel ").unwrap_or(node);
            let is_steady = STEADY_NODES.iter().any(|steady| match steady.strip_suffix(' ') {
                // A kind of join: "Hash Left Join".
                Some(kind) => node.starts_with(steady) && node.contains("Join") && !kind.is_empty(),
                None => node.strip_prefix(steady).is_some_and(|rest| {
                    rest.is_empty()
                        || rest.starts_with(" on ")
                        || rest.starts_with(" using ")
                        || rest.starts_with(" Backward ")
                        || *steady == "Nested Loop"
                }),
            });
            if !is_steady {
                return None;
            }
            if total.is_none() {
                // "0.00..692.00 rows=20000 width=46)"
                let cost = estimates.split_once("..")?.1.split_once(' ')?.0.parse().ok()?;
                let rows = estimates.split_once("rows=")?.1.split_once(' ')?.0.parse().ok()?;
                total = Some(ScanCost { cost, rows });
            }
        }
        total.filter(|_| !lines.iter().any(|line| line.contains("SubPlan") || line.contains("CTE ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_without_gaps() {
        assert_eq!(page_conditions("t", 1_000, 1), [""]);
        assert_eq!(
            page_conditions("t", 1_000, 3),
            ["AND t.ctid < '(333,0)'", "AND t.ctid >= '(333,0)' AND t.ctid < '(666,0)'", "AND t.ctid >= '(666,0)'"]
        );
        assert_eq!([parts(0, 8), parts(127, 8), parts(128, 8), parts(100_000, 8)], [1, 1, 2, 8]);
    }
}

#[cfg(test)]
mod scan_tests {
    use super::*;

    fn cost(plan: &str) -> Option<ScanCost> {
        ScanCost::of(&plan.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn only_plans_that_give_every_session_the_same_rows_are_read_by_several() {
        let joined = "Hash Left Join  (cost=28.50..995.50 rows=20000 width=46)
  Hash Cond: (pts.c = cs.c)
  ->  Seq Scan on pts  (cost=0.00..692.00 rows=20000 width=50)
  ->  Hash  (cost=16.00..16.00 rows=1000 width=4)
        ->  Index Scan using \"a on b\" on cs  (cost=0.00..16.00 rows=1000 width=4)";
        assert_eq!(cost(joined), Some(ScanCost { cost: 995.5, rows: 20_000.0 }));
        for node in [
            "Limit",
            "Unique",
            "WindowAgg",
            "HashAggregate",
            "Function Scan on f",
            "Foreign Scan on t",
            "Sample Scan on t",
            "Hash SetOp Except",
        ] {
            assert_eq!(cost(&joined.replace("Seq Scan on pts", node)), None, "{node}");
            assert_eq!(cost(&joined.replace("Hash Left Join", node)), None, "{node}");
        }
        for node in [
            "Gather",
            "Parallel Hash Join",
            "Bitmap Heap Scan on pts",
            "Nested Loop Left Join",
            "Nested Loop",
            "Merge Join",
            "Subquery Scan on v6",
        ] {
            assert!(cost(&joined.replace("Hash Left Join", node)).is_some(), "{node}");
        }
        assert_eq!(cost(&format!("{joined}\n  SubPlan 1")), None);
        assert_eq!(cost(""), None);
    }
}
