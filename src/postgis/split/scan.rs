//! The planner's estimate of the cost of scanning the rows of a layer once.

use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;

/// The rows of a layer that are read, and the columns of them.
#[derive(Clone, Copy)]
pub(in crate::postgis) struct RowScan<'a> {
    /// The number of boxes near which rows are read; 0 for all rows.
    pub(in crate::postgis) boxes: usize,
    /// The sides of the boxes, and the values of a query's placeholders, numbered as in the [survey](sql::survey).
    pub(in crate::postgis) params: &'a [Param<'a>],
    /// True if the properties are read, too.
    pub(in crate::postgis) with_values: bool,
    /// The number of rows, if it is known.
    pub(in crate::postgis) rows: Option<u64>,
}

/// The fewest rows of a part. Reading fewer rows takes less time than the query for the parts.
const MIN_ROWS_PER_PART: f64 = 4_000.0;

/// The most parts if each session scans all rows.
const MAX_SCANS: usize = 4;

/// The most that a row of a view or query may cost, in the units of the planner (PostgreSQL documentation, section 20.7.2: a page in sequence costs
/// 1). A row of a table costs 0.03, of a view that joins another table 0.05, of a view that makes points of two numbers 0.17, of a view that sorts
/// 0.12. Encoding a row takes about fifty times as long as scanning it.
const MAX_COST_PER_ROW: f64 = 0.25;

/// The most that a row of a table may cost if the spatial index finds it. Most of the cost is the page, which all sessions read at about the same
/// time.
const MAX_COST_PER_FOUND_ROW: f64 = 1.5;

/// Kinds of plan nodes that return the same rows to every session on a snapshot, at any time. The following are not among them: LIMIT, DISTINCT and
/// window functions, which may choose among rows in the order of their arrival; aggregates, functions and samples; and foreign tables, which have
/// their own snapshots.
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
///
/// # Errors
/// If the session is lost, or a stop was requested.
pub(super) async fn scans(
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
    #[expect(clippy::cast_precision_loss, reason = "numbers of rows are far below 2^52")]
    let rows = scan.rows.map_or(rows, |known| known as f64);
    let is_found = is_table && scan.boxes > 0;
    let dear = if is_found { MAX_COST_PER_FOUND_ROW } else { MAX_COST_PER_ROW };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows")]
    let parts = (rows / MIN_ROWS_PER_PART) as usize;
    Ok(if cost > dear * rows { 1 } else { parts.clamp(1, most.min(MAX_SCANS)) })
}

/// The planner's estimate of a scan.
#[derive(Debug, PartialEq)]
struct ScanCost {
    /// The cost of all rows.
    cost: f64,
    rows: f64,
}

impl ScanCost {
    /// Reads the estimate from the lines of a plan as EXPLAIN writes it; `None` if the rows may differ between sessions.
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
