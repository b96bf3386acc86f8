//! The statement that reads the rows of a layer of points once, for tiles of all zooms.

use super::KeyRange;
use super::edge::projected;
use super::render::{Candidates, CarriedColumns, areas, carried, placed};
use super::survey::near;
use super::thin::RANK;
use super::{filter, is_in_world, world_columns, world_sides};
use crate::postgis::layer::{Layer, PlaceholderSql};

/// The most rows that one call of `ST_AsMVT` encodes.
const MAX_ROWS_PER_GROUP: u32 = 1024;

/// The most bytes of values that one call of `ST_AsMVT` encodes. Only a single row may be larger.
const MAX_BYTES_PER_GROUP: u32 = 1_000_000;

/// The number of rows that are going to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedRows {
    /// The exact number, counted by the survey on the same snapshot. If another number is read, the layer's rows differ from query to query.
    Counted(u64),
    /// An estimate.
    About(u64),
}

impl ExpectedRows {
    /// The number.
    #[must_use]
    pub const fn count(self) -> u64 {
        match self {
            ExpectedRows::Counted(rows) | ExpectedRows::About(rows) => rows,
        }
    }
}

/// Which rows are read.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgis) enum RowChoice<'a> {
    /// Rows near some boxes, the parameters `$1..$4` of the [survey](mod@super::survey); all rows if `boxes` is 0. The values of a query's
    /// placeholders follow. `keys` are those of the session that reads; `None` if it reads all rows.
    Boxes { boxes: usize, rows: ExpectedRows, keys: Option<&'a KeyRange> },
    /// Rows in areas without a margin that do not overlap, the parameters `$1..$10`. At most `limit` rows are read; if that many are found, some
    /// may be missing.
    Areas { limit: u64 },
}

/// The numbers of the parameters that follow those of a [`RowChoice`].
#[derive(Debug, Clone, Copy)]
pub(in crate::postgis) struct CachedRowsParameters {
    /// The layer's name.
    pub(in crate::postgis) name: usize,
    /// The layer's extent.
    pub(in crate::postgis) extent: usize,
    /// The most bytes that the values of all rows may have; rows beyond are not read. The bounds of a range of keys follow.
    pub(in crate::postgis) max_bytes: usize,
}

/// The rows of a layer of points that lie in the world, in the order of the keys, in groups: arrays of their positions in metres of EPSG:3857
/// (x, y), and an MVT layer that `ST_AsMVT` writes of them, all at one position.
pub(in crate::postgis) fn cached_rows(layer: &Layer, rows: RowChoice<'_>, parameters: CachedRowsParameters) -> String {
    let CachedRowsParameters { name, extent, max_bytes } = parameters;
    let carried = carried(layer);
    let (with, located) = match rows {
        RowChoice::Boxes { boxes, keys, .. } => {
            let keys = keys.map(|keys| keys.condition(max_bytes + 1)).unwrap_or_default();
            (String::new(), in_boxes(layer, &carried, boxes, &keys))
        }
        RowChoice::Areas { limit } => {
            let placed = placed(layer, Candidates::Found, &carried.values, &carried.names);
            (format!("WITH {},\n{placed}\n", areas(layer)), in_areas(layer, &carried, limit))
        }
    };
    let is_whole = match rows {
        RowChoice::Boxes { .. } => format!("bytes < ${max_bytes}"),
        // No limit here, because nothing would show that rows were left out. The parameter must be mentioned for the server to know its type.
        RowChoice::Areas { .. } => format!("${max_bytes} > 0"),
    };
    let CarriedColumns { names, row, order, arguments, .. } = carried;
    let order = order.trim_start_matches(", ");
    // Values other than texts count as two bytes each, which is about the size in which the program keeps a number.
    let texts = layer.properties.iter().enumerate().filter(|(_, property)| property.kind == "String");
    let size: String = texts.map(|(number, _)| format!(" + coalesce(octet_length(p{number}::text), 0)")).collect();
    // The rank is computed only so that the statement fails if a row's rank does.
    let rank = layer.rank.iter().map(|_| format!(" + 0 * ({RANK} IS NULL)::int4"));
    let size = format!("{}{size}{}", 2 * layer.properties.len() + 1, rank.collect::<String>());
    format!(
        "{with}SELECT array_agg(drawn.x), array_agg(drawn.y), ST_AsMVT(feature.*, ${name}, ${extent}, {arguments})
FROM (
    SELECT greatest(number / {MAX_ROWS_PER_GROUP}, bytes / {MAX_BYTES_PER_GROUP}) AS part, number, x, y, ST_MakePoint(0, 0) AS mvt_geometry{names}
    FROM (
        SELECT row_number() OVER sorted - 1 AS number, sum({size}) OVER sorted AS bytes, x, y{names}
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

pub(super) fn in_boxes(
    layer: &Layer,
    CarriedColumns { values, names, .. }: &CarriedColumns,
    boxes: usize,
    keys: &str,
) -> String {
    let placement = layer.placement();
    format!(
        "SELECT ST_X(m) AS x, ST_Y(m) AS y, {world}{names}
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
