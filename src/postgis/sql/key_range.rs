//! Parts of a table: how large it is, and ranges of its key.

use crate::postgis::layer::{KeyColumn, Layer};
use crate::postgis::session::Param;
use tokio_postgres::types::Type;

/// The pages of the table `$1`, of the largest one of a partitioned table. NULL if parts of it cannot be read: by a server before PostgreSQL 14,
/// or by a role that may read some columns only. No row for a view.
pub(in crate::postgis) const TABLE_PAGES: &str = "
    SELECT CASE WHEN current_setting('server_version_num')::int4 >= 140000 AND has_table_privilege(c.oid, 'SELECT') THEN greatest(
               pg_relation_size(c.oid),
               (SELECT max(pg_relation_size(relid)) FROM pg_partition_tree(c.oid))
           ) / current_setting('block_size')::int8 END
    FROM pg_class c WHERE c.oid = $1::regclass AND c.relkind IN ('r', 'p', 'm')";

/// The types of keys that are cut into ranges: a bound is read and given as a text.
const RANGE_TYPES: &str = "'{text,\"character varying\",character,smallint,integer,bigint,uuid}'";

/// A range of a layer's rows by the first column of its key, in the order in which a tile sorts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgis) struct KeyRange {
    /// The column, with its collation.
    column: String,
    /// The type of the bounds.
    kind: String,
    /// The first key; `None` for the first range.
    from: Option<String>,
    /// The first key of the next range; `None` for the last range, which has the rows without a key, too.
    below: Option<String>,
}

fn sorted_by(column: &KeyColumn) -> String {
    format!("{}{}", column.quoted, if column.collated { " COLLATE \"C\"" } else { "" })
}

/// Keys of a sample of some percent of a table's pages that cut it into `parts` parts, as texts, and the type of the key; NULL if there are none,
/// or the key has a type that is not cut. `None` if the layer has no key.
pub(in crate::postgis) fn key_bounds(layer: &Layer, parts: usize, percent: f64) -> Option<String> {
    let key = sorted_by(layer.key.first()?);
    let shares: Vec<String> = (1..parts).map(|part| format!("{part}.0 / {parts}")).collect();
    Some(format!(
        "SELECT CASE WHEN kind = ANY ({RANGE_TYPES}) THEN bounds END, CASE kind WHEN 'character' THEN 'bpchar' ELSE kind END FROM (
    SELECT percentile_disc(ARRAY[{}]::float8[]) WITHIN GROUP (ORDER BY {key})::text[] AS bounds, min(pg_typeof({key})::text) AS kind
    FROM {} TABLESAMPLE SYSTEM ({percent:.4}) WHERE {} IS NOT NULL
) AS sample",
        shares.join(", "),
        layer.relation,
        layer.key.first()?.quoted,
    ))
}

impl KeyRange {
    /// The ranges between some bounds.
    pub(in crate::postgis) fn between(layer: &Layer, kind: &str, bounds: &[String]) -> Vec<KeyRange> {
        let Some(column) = layer.key.first().map(sorted_by) else { return Vec::new() };
        let range = |part: usize| KeyRange {
            column: column.clone(),
            kind: kind.to_owned(),
            from: part.checked_sub(1).map(|before| bounds[before].clone()),
            below: bounds.get(part).cloned(),
        };
        (0..=bounds.len()).map(range).collect()
    }

    /// The condition, to follow another one. Its parameters are numbered from `first` on.
    pub(in crate::postgis) fn condition(&self, first: usize) -> String {
        let KeyRange { column, kind, from, below } = self;
        let bound = |number: usize| format!("${number}::{kind}");
        match (from, below) {
            (None, None) => String::new(),
            (None, Some(_)) => format!("AND {column} < {}", bound(first)),
            (Some(_), Some(_)) => {
                format!("AND {column} >= {} AND {column} < {}", bound(first), bound(first + 1))
            }
            (Some(_), None) => format!("AND ({column} >= {} OR {column} IS NULL)", bound(first)),
        }
    }

    /// Its parameters.
    pub(in crate::postgis) fn params(&self) -> impl Iterator<Item = Param<'_>> {
        self.from.iter().chain(&self.below).map(|bound| -> Param<'_> { (bound, Type::TEXT) })
    }
}
