//! Parts of a table that several sessions read side by side, all on the run's snapshot.
//!
//! - The survey reads in any order: parts are ranges of pages ([`tid_ranges`]).
//! - Cached rows are numbered in the order of their keys: parts are ranges of the key ([`key_ranges`]), read one after the other's rows.
//!
//! A view, a query, a foreign table, or a server before PostgreSQL 14 (which has no scan of a range of pages) is read by one session.

use tokio_postgres::types::Type;

use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Session};
use crate::postgis::sql::{self, KeyRange};

/// The fewest pages of a part: 512 kB. Reading fewer takes less time than asking for the parts.
const MIN_PAGES_PER_PART: u64 = 64;

/// The most ranges of a key. For each of them the server goes through all rows of the table, if no index serves the key.
const MAX_KEY_RANGES: usize = 4;

/// A sample of this many pages gives the bounds of key ranges.
const SAMPLED_PAGES: u64 = 512;

/// The number of pages of a layer's table; `None` if parts of it cannot be read.
async fn pages(session: &Session, layer: &Layer) -> Result<Option<u64>, Error> {
    if layer.is_query() {
        return Ok(None);
    }
    let context = format!("layer \"{}\", looking how large its table is", layer.name);
    let found = session.all(&context, sql::TABLE_PAGES, &[(&layer.relation, Type::TEXT)]).await?;
    Ok(found.first().and_then(|row| row.get::<_, Option<i64>>(0)).map(i64::cast_unsigned))
}

/// How many parts a table of some pages is read in, by at most `most` sessions.
fn parts(pages: u64, most: usize) -> usize {
    usize::try_from(pages / MIN_PAGES_PER_PART).unwrap_or(usize::MAX).min(most).max(1)
}

/// Conditions that cut the rows of a layer into at most `most` parts by their pages: each to follow another condition. One empty condition if
/// the rows are read as a whole.
///
/// # Errors
/// If the session is lost, or a stop was asked for.
pub(in crate::postgis) async fn tid_ranges(
    session: &Session,
    layer: &Layer,
    most: usize,
) -> Result<Vec<String>, Error> {
    let whole = || vec![String::new()];
    if most < 2 {
        return Ok(whole());
    }
    let Some(pages) = pages(session, layer).await? else { return Ok(whole()) };
    let parts = parts(pages, most);
    say(layer, parts);
    Ok(page_conditions(pages, parts))
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

/// Ranges of the key that cut the rows of a layer into at most `most` parts of about the same size, in the order of the key. None if the rows
/// are read as a whole.
///
/// # Errors
/// If the session is lost, or a stop was asked for.
pub(in crate::postgis) async fn key_ranges(
    session: &Session,
    layer: &Layer,
    most: usize,
) -> Result<Vec<KeyRange>, Error> {
    if most < 2 {
        return Ok(Vec::new());
    }
    let Some(pages) = pages(session, layer).await? else { return Ok(Vec::new()) };
    let parts = parts(pages, most.min(MAX_KEY_RANGES));
    if parts < 2 {
        return Ok(Vec::new());
    }
    #[expect(clippy::cast_precision_loss, reason = "a share of a table")]
    let percent = (SAMPLED_PAGES as f64 * 100.0 / pages as f64).min(100.0);
    let Some(statement) = sql::key_bounds(layer, parts, percent) else { return Ok(Vec::new()) };
    let context = format!("layer \"{}\", sampling its keys", layer.name);
    let row = session.one(&context, &statement, &[]).await?;
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
