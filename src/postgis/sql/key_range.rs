//! Parts of a layer's rows: the size of its table, ranges of its key, shares by a hash.

use super::filter;
use super::render::carried;
use super::survey::near;
use crate::postgis::layer::{KeyColumn, Layer, PlaceholderSql};
use crate::postgis::session::Param;
use tokio_postgres::types::Type;

/// The pages of the table `$1`; of a partitioned table, the pages of its largest partition. NULL if the table cannot be read in parts: on a server
/// before PostgreSQL 14, or if the role may read only some columns. No row for a view.
pub(in crate::postgis) const TABLE_PAGES: &str = "
    SELECT CASE WHEN current_setting('server_version_num')::int4 >= 140000 AND has_table_privilege(c.oid, 'SELECT') THEN greatest(
               pg_relation_size(c.oid),
               (SELECT max(pg_relation_size(relid)) FROM pg_partition_tree(c.oid))
           ) / current_setting('block_size')::int8 END
    FROM pg_class c WHERE c.oid = $1::regclass AND c.relkind IN ('r', 'p', 'm')";

/// The rows of a layer as an item of a FROM list, for a statement whose first parameters are those of `boxes` boxes.
fn scanned(layer: &Layer, boxes: usize) -> String {
    layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid))
}

/// The statement that the planner is asked to estimate: it reads the rows of a layer, all of them or those near some boxes, with the parameters of
/// the survey. It reads the rows' properties, too, if `with_values` is true.
pub(in crate::postgis) fn scan(layer: &Layer, boxes: usize, with_values: bool) -> String {
    let placement = layer.placement();
    let values = if with_values { carried(layer).values } else { String::new() };
    format!(
        "SELECT {}{values} FROM {} WHERE true {} {}",
        placement.stored(),
        scanned(layer, boxes),
        near(placement, boxes),
        filter(layer)
    )
}

/// A number below `shares` that depends only on the geometry of a row: rows with equal geometries have the same number. 0 without a geometry.
fn hash_share(layer: &Layer, shares: u64) -> String {
    // The mask drops the sign.
    format!("(coalesce(geometry_hash({}), 0) & 2147483647) % {shares}", layer.placement().stored())
}

/// Conditions that divide the rows of a layer into parts by a hash of the geometry: every row is in exactly one part. Each begins with AND, to follow
/// another condition. One empty condition if there is only one part.
pub(in crate::postgis) fn hash_conditions(layer: &Layer, parts: usize) -> Vec<String> {
    if parts < 2 {
        return vec![String::new()];
    }
    let share = hash_share(layer, parts as u64);
    (0..parts).map(|part| format!("AND {share} = {part}")).collect()
}

/// The types of keys that can be divided into ranges. A bound is read and passed as a text.
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
    /// The first key of the next range; `None` for the last range, which also has the rows without a key.
    below: Option<String>,
}

fn sorted_by(column: &KeyColumn) -> String {
    format!("{}{}", column.quoted, if column.collated { " COLLATE \"C\"" } else { "" })
}

/// Rows whose keys are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::postgis) enum KeySample {
    /// The rows of some percent of a table's pages.
    Pages { percent: f64 },
    /// One row in `one_in`, chosen by a hash of the geometry: of all rows, or of the rows near some boxes. The parameters are those of the survey.
    Rows { boxes: usize, one_in: u64 },
}

/// The keys of a sample that divide the rows of a layer into `parts` parts, as texts, and the type of the key. The keys are NULL if the sample is
/// empty, or if the type is not one of [`RANGE_TYPES`]. `None` if the layer has no key.
pub(in crate::postgis) fn key_bounds(layer: &Layer, parts: usize, sample: KeySample) -> Option<String> {
    let key = sorted_by(layer.key.first()?);
    let (relation, conditions) = match sample {
        KeySample::Pages { percent } => {
            (format!("{} TABLESAMPLE SYSTEM ({percent:.4})", layer.relation), String::new())
        }
        KeySample::Rows { boxes, one_in } => {
            let near = near(layer.placement(), boxes);
            (scanned(layer, boxes), format!(" {near} AND {} = 0", hash_share(layer, one_in)))
        }
    };
    let shares: Vec<String> = (1..parts).map(|part| format!("{part}.0 / {parts}")).collect();
    Some(format!(
        "SELECT CASE WHEN kind = ANY ({RANGE_TYPES}) THEN bounds END, CASE kind WHEN 'character' THEN 'bpchar' ELSE kind END FROM (
    SELECT percentile_disc(ARRAY[{}]::float8[]) WITHIN GROUP (ORDER BY {key})::text[] AS bounds, min(pg_typeof({key})::text) AS kind
    FROM {relation} WHERE {} IS NOT NULL{conditions}
) AS sample",
        shares.join(", "),
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

    /// The condition of the range. It begins with AND, to follow another condition. Its parameters are numbered from `first` on.
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
