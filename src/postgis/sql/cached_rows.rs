//! The statement that reads the rows of a layer of points once, for tiles of all zooms.

use tokio_postgres::types::Type;

use super::cells::{FoldedValues, placed_counts};
use super::edge::projected;
use super::render::{Candidates, CarriedColumns, areas, carried_anywhere, placed};
use super::repair::Repair;
use super::survey::near;
use super::{RANK, filter, is_in_world, world_columns, world_sides};
use crate::mvt::FeatureKey;
use crate::postgis::layer::{Facet, KeyColumn, KeyType, KeyTypes, Layer, PlaceholderSql};
use crate::postgis::session::{Param, quoted};

/// The most rows that one call of `ST_AsMVT` encodes.
const MAX_ROWS_PER_GROUP: u32 = 1024;

/// The most bytes of values that one call of `ST_AsMVT` encodes. Only a single row may be larger.
const MAX_BYTES_PER_GROUP: u32 = 1_000_000;

/// The bytes of a rank or of a column of a key that is neither a text nor bytes, about.
const SHORT_BYTES: u32 = 8;

/// The number of rows that are going to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedRows {
    /// The exact number, counted by the survey on the same snapshot. If another number is read, the layer's rows differ
    /// from query to query.
    Counted(u64),
    /// An estimate.
    About(u64),
}

impl ExpectedRows {
    pub(crate) const fn count(self) -> u64 {
        match self {
            ExpectedRows::Counted(rows) | ExpectedRows::About(rows) => rows,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum RowChoice<'a> {
    /// Rows near some boxes, the parameters `$1..$4` of the [survey](mod@super::survey); all rows if `boxes` is 0. The
    /// values of a query's placeholders follow. `keys` are those of the session that reads; `None` if it reads all
    /// rows.
    Boxes { boxes: usize, rows: ExpectedRows, keys: Option<&'a KeyRange> },
    /// Rows in areas without a margin that do not overlap, the parameters `$1..$10`. At most `limit` rows are read; if
    /// that many are found, some may be missing.
    Areas { limit: u64 },
}

/// The numbers of the parameters that follow those of a [`RowChoice`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachedRowsParameters {
    /// The layer's name.
    pub(crate) name: usize,
    /// The layer's extent.
    pub(crate) extent: usize,
    /// The most bytes that the values of all rows may have; rows beyond are not read. The bounds of a range of keys
    /// follow.
    pub(crate) max_bytes: usize,
}

/// The rows of a layer that lie in the world, in the order of the keys, in groups: where they lie, and an MVT layer
/// that `ST_AsMVT` writes of them, all at one position. Points lie at arrays of positions in metres of EPSG:3857 (x,
/// y), and an array of their [ranks](Layer::cached_rank) follows, then one for each column of their keys, if `keys` are
/// read; lines and polygons are [shapes](shape_columns).
pub(crate) fn cached_rows(
    layer: &Layer,
    rows: RowChoice<'_>,
    parameters: CachedRowsParameters,
    keys: Option<&KeyTypes<'_>>,
) -> String {
    let CachedRowsParameters { name, extent, max_bytes } = parameters;
    let carried = carried_anywhere(layer);
    let (with, located) = match rows {
        RowChoice::Boxes { boxes, keys, .. } => {
            let keys = keys.map(|keys| keys.condition(max_bytes + 1)).unwrap_or_default();
            (String::new(), in_boxes(layer, &carried, boxes, &keys))
        }
        RowChoice::Areas { limit } => {
            let placed = placed(layer, Repair::Here, Candidates::Found, &carried.values, &carried.names);
            (format!("WITH {},\n{placed}\n", areas(layer)), in_areas(layer, &carried, limit))
        }
    };
    let is_whole = match rows {
        RowChoice::Boxes { .. } => format!("bytes < ${max_bytes}"),
        // No limit here, because nothing would show that rows were left out. The parameter must be mentioned for the
        // server to know its type.
        RowChoice::Areas { .. } => format!("${max_bytes} > 0"),
    };
    let CarriedColumns { names, row, order, arguments, .. } = carried;
    let order = order.trim_start_matches(", ");
    // Values other than texts count as two bytes each, which is about the size in which the program keeps a number.
    let texts = layer.properties.iter().enumerate().filter(|(_, property)| property.kind == "String");
    let size: String = texts.map(|(number, _)| format!(" + coalesce(octet_length(p{number}::text), 0)")).collect();
    // A rank that is not read is computed only so that the statement fails if a row's rank does.
    let rank = layer.rank.iter().map(|_| match layer.cached_rank() {
        Some(kind) => bytes_of(RANK, kind),
        None => format!(" + 0 * ({RANK} IS NULL)::int4"),
    });
    let keys = || keys.iter().flat_map(|types| types.read_as()).enumerate();
    let behind = rank.chain(keys().map(|(number, kind)| bytes_of(&format!("k{number}"), kind)));
    let size = format!("{}{size}{}", 2 * layer.properties.len() + 1, behind.collect::<String>());
    let (places, gathered) = if layer.shape.points {
        // As the type that its values are compared as: the base type of a domain, texts as text.
        let ranks = layer.cached_rank().map(|kind| format!(", array_agg(drawn.{RANK}::pg_catalog.{kind})"));
        let keys = keys().map(|(number, kind)| format!(", array_agg(drawn.k{number}::pg_catalog.{kind})"));
        let behind: String = ranks.into_iter().chain(keys).collect();
        ("x, y", format!("array_agg(drawn.x), array_agg(drawn.y){behind}"))
    } else {
        ("west, north, east, south, wkb, has_own_box", shape_columns())
    };
    let size = if layer.shape.points { size } else { format!("{size} + octet_length(wkb)") };
    format!(
        "{with}SELECT ST_AsMVT(feature.*, ${name}, ${extent}, {arguments}), {gathered}
FROM (
    SELECT greatest(number / {MAX_ROWS_PER_GROUP}, bytes / {MAX_BYTES_PER_GROUP}) AS part, number, {places}, NULL::int8 AS tile, ST_MakePoint(0, 0) AS mvt_geometry{names}
    FROM (
        SELECT row_number() OVER sorted - 1 AS number, sum({size}) OVER sorted AS bytes, {places}{names}
        FROM (
            {located}
            OFFSET 0
        ) AS located
        WHERE {in_world}
        WINDOW sorted AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)
    ) AS numbered
    WHERE {is_whole}
    -- In this order they are grouped: no other sort, which would lose it.
    ORDER BY part, number
    OFFSET 0
) AS drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.part",
        in_world = is_in_world(layer.placement()),
    )
}

/// The bytes that a value which is read as the type `kind` takes behind a row, about, as a term of a sum.
fn bytes_of(value: &str, kind: &str) -> String {
    match kind {
        "text" | "bytea" => format!(" + coalesce(octet_length({value}::pg_catalog.{kind}), 0)"),
        _ => format!(" + CASE WHEN {value} IS NULL THEN 0 ELSE {SHORT_BYTES} END"),
    }
}

/// Lines and polygons, gathered in the order of the keys: arrays of their boxes in world units (west, north, east,
/// south), their geometries in EPSG:3857 as little-endian WKB that follow each other, and whether the server knows the
/// box of each: `ST_AsMVTGeom` drops a geometry by it.
fn shape_columns() -> String {
    let sides = ["west", "north", "east", "south"].map(|side| format!("array_agg(drawn.{side})"));
    format!("{}, string_agg(drawn.wkb, ''::bytea), bool_and(drawn.has_own_box)", sides.join(", "))
}

/// The statement that draws geometries in tiles. The parameters: `$1` the geometries in EPSG:3857 as WKB; `$2..$5`
/// west, south, east and north of the tile of each; `$6` the extent, `$7` the buffer. Returns the geometries in the
/// order of the parameters, in grid units, as WKB; NULL where nothing is drawn.
pub(crate) const DRAWN_SHAPES: &str = "
    SELECT ST_AsBinary(ST_AsMVTGeom(ST_GeomFromWKB(wkb, 3857), ST_MakeEnvelope(w, s, e, n, 3857), $6, $7, true), 'NDR')
    FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS asked (wkb, w, s, e, n, number)
    ORDER BY number";

/// The statement that encodes counted cells once, in the order of zooms and codes. The parameters are those of
/// [`render`](super::render()), with one area for each zoom.
///
/// Returns a row for each group of cells: of each the zoom, the code, and the position of its geometry in metres, which
/// is NULL if it is not drawn; and the features of those that are.
pub(crate) fn encoded_cells(layer: &Layer, folds: Option<&FoldedValues>) -> String {
    let Some(cells) = layer.cells() else { return String::new() };
    let CarriedColumns { names, row, arguments, .. } = carried_anywhere(layer);
    format!(
        "WITH {areas},
{placed}
SELECT array_agg(drawn.z::int4), array_agg(drawn.k0), array_agg(drawn.x), array_agg(drawn.y), ST_AsMVT(feature.*, $11, $12, {arguments})
FROM (
    SELECT (row_number() OVER (ORDER BY z, k0) - 1) / {MAX_ROWS_PER_GROUP} AS part, z, NULL::int8 AS tile, ST_X(m) AS x, ST_Y(m) AS y,
        CASE WHEN m IS NOT NULL THEN ST_MakePoint(0, 0) END AS mvt_geometry{names}
    FROM placed
    WHERE $13 >= 0
    -- In this order they are grouped: no other sort, which would lose it.
    ORDER BY part, z, k0
    OFFSET 0
) AS drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.part",
        areas = areas(layer),
        placed = placed_counts(layer, cells, folds),
    )
}

pub(crate) fn in_boxes(
    layer: &Layer,
    CarriedColumns { values, names, .. }: &CarriedColumns,
    boxes: usize,
    keys: &str,
) -> String {
    let placement = layer.placement();
    let place = if layer.shape.points {
        "ST_X(m) AS x, ST_Y(m) AS y".to_owned()
    } else {
        // The box of a geometry that was transformed is its own. That of a stored one is whatever its writer made of
        // it.
        let is_own = if layer.shape.srid == 3857 {
            "postgis_hasbbox(m) AND m ~= postgis_addbbox(postgis_dropbbox(m)) OR ST_NPoints(m) = 2"
        } else {
            "postgis_hasbbox(m) OR ST_NPoints(m) = 2"
        };
        format!("ST_AsBinary(m, 'NDR') AS wkb, {is_own} AS has_own_box")
    };
    format!(
        "SELECT {place}, {world}{names}
            FROM (SELECT {projected} AS m{values} FROM {relation} WHERE true {near} {keys} {filter} OFFSET 0) AS placed",
        world = world_columns(placement),
        projected = projected(placement),
        relation = layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        near = near(placement, boxes),
        filter = filter(layer),
    )
}

/// The boxes of neighbouring areas may find the same row. Its position decides in which area it lies.
fn in_areas(layer: &Layer, CarriedColumns { names, .. }: &CarriedColumns, limit: u64) -> String {
    let [west, north, ..] = world_sides(layer.placement());
    format!(
        "SELECT ST_X(m) AS x, ST_Y(m) AS y, west, north{names}
            FROM placed
            WHERE {west} >> shift BETWEEN ax0 AND ax1 AND {north} >> shift BETWEEN ay0 AND ay1
            LIMIT {limit}"
    )
}

// Parts of a layer's rows: the size of its table, ranges of its key, shares by a hash.

/// The pages of the table `$1`; of a partitioned table, the pages of its largest partition. NULL if the table cannot be
/// read in parts: on a server before PostgreSQL 14, or if the role may read only some columns. No row for a view.
pub(crate) const TABLE_PAGES: &str = "
    SELECT CASE WHEN current_setting('server_version_num')::int4 >= 140000 AND has_table_privilege(c.oid, 'SELECT') THEN greatest(
               pg_relation_size(c.oid),
               (SELECT max(pg_relation_size(relid)) FROM pg_partition_tree(c.oid))
           ) / current_setting('block_size')::int8 END
    FROM pg_class c WHERE c.oid = $1::regclass AND c.relkind IN ('r', 'p', 'm')";

/// The rows of a layer as an item of a FROM list, for a statement whose first parameters are those of `boxes` boxes.
fn scanned(layer: &Layer, boxes: usize) -> String {
    layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid))
}

/// The statement that the planner is asked to estimate: it reads the rows of a layer, all of them or those near some
/// boxes, with the parameters of the survey. It reads the rows' properties, too, if `with_values` is true.
pub(crate) fn scan(layer: &Layer, boxes: usize, with_values: bool) -> String {
    let placement = layer.placement();
    let values = if with_values { carried_anywhere(layer).values } else { String::new() };
    format!(
        "SELECT {}{values} FROM {} WHERE true {} {}",
        placement.stored(),
        scanned(layer, boxes),
        near(placement, boxes),
        filter(layer)
    )
}

/// Some rows of a layer of lines and polygons: whether one is neither, or has more than two dimensions, and the bytes
/// of their geometries on average; NULL if there are none. The parameters are those of the survey.
pub(crate) fn some_shapes(layer: &Layer, boxes: usize) -> String {
    let placement = layer.placement();
    let g = placement.stored();
    format!(
        "SELECT bool_or(ST_NDims(g) > 2 OR GeometryType(g) NOT IN ('LINESTRING', 'MULTILINESTRING', 'POLYGON', 'MULTIPOLYGON')), avg(ST_MemSize(g))::float8
FROM (SELECT {g} AS g FROM {} WHERE {g} IS NOT NULL {} {} LIMIT {ROWS_LOOKED_AT}) AS first_rows",
        scanned(layer, boxes),
        near(placement, boxes),
        filter(layer)
    )
}

/// The rows that are looked at before all are read.
const ROWS_LOOKED_AT: u32 = 1_000;

/// A number below `shares` that depends only on the geometry of a row: rows with equal geometries have the same number.
/// 0 without a geometry.
fn hash_share(layer: &Layer, shares: u64) -> String {
    // The mask drops the sign.
    format!("(coalesce(geometry_hash({}), 0) & 2147483647) % {shares}", layer.placement().stored())
}

/// Conditions that divide the rows of a layer into parts by a hash of the geometry: every row is in exactly one part.
/// Each begins with AND, to follow another condition. One empty condition if there is only one part.
pub(crate) fn hash_conditions(layer: &Layer, parts: usize) -> Vec<String> {
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
pub(crate) struct KeyRange {
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

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum KeySample {
    /// The rows of some percent of a table's pages.
    Pages { percent: f64 },
    /// One row in `one_in`, chosen by a hash of the geometry: of all rows, or of the rows near some boxes. The
    /// parameters are those of the survey.
    Rows { boxes: usize, one_in: u64 },
}

/// The keys of a sample that divide the rows of a layer into `parts` parts, as texts, and the type of the key. The keys
/// are NULL if the sample is empty, or if the type is not one of [`RANGE_TYPES`]. `None` if the layer has no key.
pub(crate) fn key_bounds(layer: &Layer, parts: usize, sample: KeySample) -> Option<String> {
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
    pub(crate) fn between(layer: &Layer, kind: &str, bounds: &[String]) -> Vec<KeyRange> {
        let Some(column) = layer.key.first().map(sorted_by) else { return Vec::new() };
        let range = |part: usize| KeyRange {
            column: column.clone(),
            kind: kind.to_owned(),
            from: part.checked_sub(1).map(|before| bounds[before].clone()),
            below: bounds.get(part).cloned(),
        };
        (0..=bounds.len()).map(range).collect()
    }

    /// The condition of the range. It begins with AND, to follow another condition. Its parameters are numbered from
    /// `first` on.
    pub(crate) fn condition(&self, first: usize) -> String {
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

    pub(crate) fn params(&self) -> impl Iterator<Item = Param<'_>> {
        self.from.iter().chain(&self.below).map(|bound| -> Param<'_> { (bound, Type::TEXT) })
    }
}

// The statements that find which rows of a layer belong to which variant.

/// The name of the relation with the variants' values, in a condition.
pub(crate) const VALUES: &str = "oar_tiles_values";

/// The name of the column with the value of a parameter, counted from 0.
pub(crate) fn value_column(parameter: usize) -> String {
    format!("{VALUES}.oar_tiles_value_{}", parameter + 1)
}

/// The keys of a layer's rows as texts, in the order of [`cached_rows`](self()) and with the same parameters.
pub(crate) fn row_keys(layer: &Layer, boxes: usize) -> String {
    let carried = carried_anywhere(layer);
    let located = in_boxes(layer, &carried, boxes, "");
    let names: Vec<String> = (0..layer.key.len()).map(|number| format!("k{number}")).collect();
    format!(
        "SELECT pg_catalog.concat(ROW({})) FROM (
    {located}
    OFFSET 0
) AS located
WHERE {}
ORDER BY {}",
        names.join(", "),
        is_in_world(layer.placement()),
        carried.order.trim_start_matches(", ")
    )
}

/// Finds the variants to which the rows of a layer belong: the number of the variant, from 1 on, and the key of the
/// row. `condition` is over the row and the [columns of the values](value_column). The parameters after those of
/// [`row_keys`] are arrays of texts, one for each of `kinds`.
pub(crate) fn members(layer: &Layer, boxes: usize, condition: &str, kinds: &[String]) -> String {
    let first = first_value(layer, boxes);
    let arrays: Vec<String> = (0..kinds.len()).map(|n| format!("${}::text[]", first + n)).collect();
    let columns: Vec<String> = (0..kinds.len()).map(|n| format!("oar_tiles_value_{}", n + 1)).collect();
    format!(
        "SELECT {VALUES}.oar_tiles_number, {} FROM {} CROSS JOIN unnest({}) WITH ORDINALITY AS {VALUES} ({}, oar_tiles_number)
WHERE true {} {} AND ({condition}\n)",
        key(layer),
        layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        arrays.join(", "),
        columns.join(", "),
        near(layer.placement(), boxes),
        filter(layer),
    )
}

/// The keys of the rows that belong to one variant. `condition` is over the row and the parameters after those of
/// [`row_keys`], which are texts.
pub(crate) fn members_of_one(layer: &Layer, boxes: usize, condition: &str) -> String {
    format!(
        "SELECT {} FROM {} WHERE true {} {} AND ({condition}\n)",
        key(layer),
        layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        near(layer.placement(), boxes),
        filter(layer),
    )
}

/// Finds the variants that have rows near some boxes now: the numbers of the variants, from 1 on. The parameters
/// `$1..$4` are arrays of the boxes' west, south, east and north in the column's reference system; an array of texts
/// for each of `kinds` follows. `condition` is over the row, which is called `name`, and the [columns of the
/// values](value_column).
///
/// The rows near the boxes are read once. For each variant, the condition is then planned as if its values were
/// constants. As the condition of a join, `id IN (SELECT … WHERE contributor = …)` would be evaluated for each pair of
/// a row and a variant.
pub(crate) fn members_near(layer: &Layer, name: &str, condition: &str, kinds: &[String]) -> String {
    let placement = layer.placement();
    let arrays: Vec<String> = (0..kinds.len()).map(|n| format!("${}::text[]", 5 + n)).collect();
    let columns: Vec<String> = (0..kinds.len()).map(|n| format!("oar_tiles_value_{}", n + 1)).collect();
    format!(
        "WITH oar_tiles_near AS MATERIALIZED (
    SELECT found.* FROM unnest($1::float8[], $2::float8[], $3::float8[], $4::float8[]) AS box (x0, y0, x1, y1),
        LATERAL (
            SELECT {read} FROM {relation}
            WHERE {g} && ST_MakeEnvelope(box.x0, box.y0, box.x1, box.y1, {srid}) {filter}
            OFFSET 0
        ) AS found
)
SELECT {VALUES}.oar_tiles_number FROM unnest({arrays}) WITH ORDINALITY AS {VALUES} ({columns}, oar_tiles_number),
    LATERAL (SELECT FROM (SELECT * FROM oar_tiles_near) AS {name} WHERE ({condition}\n) LIMIT 1) AS member",
        read = layer.columns.join(", "),
        relation = layer.relation,
        g = placement.stored(),
        srid = placement.shape.srid,
        filter = filter(layer),
        arrays = arrays.join(", "),
        columns = columns.join(", "),
    )
}

/// The number of the first parameter with values.
pub(crate) fn first_value(layer: &Layer, boxes: usize) -> usize {
    let boxes = if boxes > 0 { 4 } else { 0 };
    let query = if layer.is_query() { 6 } else { 0 };
    boxes + query + 1
}

fn key(layer: &Layer) -> String {
    let columns: Vec<String> = layer.key.iter().map(|key| key.quoted.clone()).collect();
    format!("pg_catalog.concat(ROW({}))", columns.join(", "))
}

// The keys of the rows that fulfil the conditions of a layer, one column each.

/// How the keys among which rows are sought are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyArray {
    Numbers,
    Texts,
    /// An array for each column, of its type.
    Columns,
}

/// The keys of the rows of a layer: at most `$1` of them, or, with `among`, those of an array `$1`. The layer is drawn
/// from a relation. Its key is a column, as a text; or, if kept rows have the `key` behind them, as many as the key
/// has, each of the [type](KeyTypes::read_as) as which it is read, and those among which they are sought are arrays
/// from `$1` on. `None` if it has no key.
pub(crate) fn matching_keys(layer: &Layer, key: &FeatureKey, among: Option<KeyArray>) -> Option<String> {
    let sought = among.map_or_else(|| Some("LIMIT $1".to_owned()), |among| is_among(layer, among));
    keyed_rows(layer, key, "", &sought?)
}

/// The keys of the rows of a layer, as those of [`matching_keys`], and the values of each of its facets, as arrays of
/// texts; with `among`, of those rows alone whose keys are among the parameters. `None` if the layer has no key.
pub(crate) fn facet_values(layer: &Layer, key: &FeatureKey, among: Option<KeyArray>) -> Option<String> {
    let values = |facet: &Facet| {
        let column = quoted(&facet.column);
        if facet.is_array {
            format!(", ({column})::pg_catalog.text[]")
        } else {
            format!(", ARRAY[({column})::pg_catalog.text]")
        }
    };
    let sought = among.map_or_else(|| Some(String::new()), |among| is_among(layer, among));
    keyed_rows(layer, key, &layer.facets.iter().map(values).collect::<String>(), &sought?)
}

/// Whether an index of the relation `$1` finds rows by the column `$2`, a quoted name. One row.
pub(crate) const HAS_INDEX_ON: &str = "SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = $1::text::pg_catalog.regclass AND i.indisvalid AND i.indpred IS NULL
      AND $2 IN (pg_catalog.quote_ident(a.attname), pg_catalog.format('\"%s\"', pg_catalog.replace(a.attname::text, '\"', '\"\"'))))";

/// The keys of the rows of a layer, and further columns.
fn keyed_rows(layer: &Layer, key: &FeatureKey, further: &str, sought: &str) -> Option<String> {
    let first = &layer.key.first()?.quoted;
    let key = match layer.key_types_of(key) {
        None => format!("pg_catalog.concat({first})"),
        Some(types) => {
            let columns = layer.key.iter().zip(types.read_as());
            let columns = columns.map(|(column, kind)| format!("{}::pg_catalog.{kind}", column.quoted));
            columns.collect::<Vec<_>>().join(", ")
        }
    };
    let (relation, filter) = (&layer.relation, filter(layer));
    Some(format!("SELECT {key}{further} FROM {relation} WHERE {first} IS NOT NULL {filter} {sought}"))
}

/// The condition that a row's key is in an array `$1`. It begins with AND, to follow another condition.
fn is_among(layer: &Layer, among: KeyArray) -> Option<String> {
    let key = layer.key.first()?;
    let column = &key.quoted;
    Some(match among {
        KeyArray::Numbers => format!("AND {column} = ANY ($1::int8[])"),
        KeyArray::Texts if key.collated => format!("AND {column} = ANY ($1::text[])"),
        KeyArray::Texts => format!("AND {column} = ANY ($1::text[]::uuid[])"),
        KeyArray::Columns => {
            let columns: Vec<&str> = layer.key.iter().map(|column| &*column.quoted).collect();
            // Of the columns' own types, so that an index on them finds the rows.
            let kinds = layer.key.iter().map(|column| column.kind.as_ref());
            let array =
                |(number, kind): (usize, Option<&KeyType>)| Some(format!("${number}::pg_catalog.{}[]", kind?.name));
            let arrays = (1..).zip(kinds).map(array).collect::<Option<Vec<_>>>()?;
            let (columns, arrays) = (columns.join(", "), arrays.join(", "));
            format!("AND ({columns}) IN (SELECT * FROM unnest({arrays}) AS oar_tiles_keys)")
        }
    })
}
