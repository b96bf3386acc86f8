//! Cells: rows grouped by their position. The arithmetic is that of [`CellGrid`], bit for bit.
//!
//! The statement's own names begin with `oar_tiles_`, so that they differ from the names of the relation's columns.

use tokio_postgres::types::Type;

use super::aggregates::{AggregateCall, AggregatePiece, only_counts, pieces};
use super::edge::{projected, shifted_boxes};
use super::{AREA_ZOOM, AreaSearch, RANK, area_of, filter_at, search, type_of};
use crate::cells::{
    Cell, CellEdges, CellGeometry, CellGrid, CellShape, Fold, INVERSE_SQRT_3, LAST_DIVISOR, MIDDLE, ROW_HEIGHT, SIXTH,
    SQRT_3, THIRD, TWICE_INVERSE_SQRT_3, code_step,
};
use crate::postgis::layer::{BoundProperty, Cells, ComputedFrom, KeyColumn, Layer, PlaceholderSql, Shape};
use crate::tile::{HALF_WORLD_METRES, LAST_UNIT, WORLD_UNITS};

pub(crate) use super::aggregates::{AggregateFunction, DependsOn, calls, depends_on, needs_only_counts};

/// The position of a row in world units, x and y, computed from its projected geometry `m` in double precision. The
/// position of a geometry that is not a point is the middle of its box.
pub(crate) fn position(shape: Shape, m: &str) -> [String; 2] {
    let scale = WORLD_UNITS_F64 / (2.0 * HALF_WORLD_METRES);
    let along = |metres: String| format!("({metres} + {HALF_WORLD_METRES:?}) * {scale:?}");
    if shape.points {
        return [along(format!("ST_X({m})")), along(format!("-ST_Y({m})"))];
    }
    [along(format!("(ST_XMin({m}) + ST_XMax({m})) * 0.5")), along(format!("-((ST_YMin({m}) + ST_YMax({m})) * 0.5)"))]
}

/// The condition that the position of a row lies in the world. NULL or false if the row must be skipped.
pub(crate) fn is_in_world(x: &str, y: &str) -> String {
    // A tolerance of one unit on all four sides.
    let end = WORLD_UNITS + 1;
    format!("{x} > -1 AND {x} < {end} AND {y} > -1 AND {y} < {end}")
}

/// An aggregate of the configuration with the cell's bounds, in degrees, and the cell's number in place of the
/// placeholders.
pub(crate) fn with_bounds(sql: &str, cell: &DecodedCell, grid: CellGrid) -> String {
    let DecodedCell { zoom, .. } = cell;
    let [west, north, east, south] = cell.bounds(grid);
    // Squares are numbered like the tiles of a deeper zoom: after the tiles of all shallower zooms, row by row.
    // Hexagons, whose columns and rows are counted in half steps from the middle of the world, are numbered like tiles
    // two zooms deeper still.
    #[expect(clippy::cast_possible_truncation, reason = "at most 7")]
    let deeper = -grid.size.log2().floor() as i32;
    let (level, first) = match grid.shape {
        CellShape::Square => (format!("({zoom} + {deeper})"), String::new()),
        CellShape::Hexagon => {
            let level = format!("({zoom} + {})", deeper + 2);
            let first = format!(" + (1::int8 << ({level} - 1))");
            (level, first)
        }
    };
    let number =
        format!("(((1::int8 << (2 * {level})) - 1) / 3 + (({}{first}) << {level}) + {}{first})", cell.b, cell.a);
    let world = format!("{WORLD_UNITS_F64:?}::float8");
    let longitude = |x: &str| format!("({x} / {world} * 360 - 180)");
    let latitude = |y: &str| format!("degrees(atan(sinh(pi() * (1 - 2 * ({y} / {world})))))");
    sql.replace("!xmin!", &longitude(&west))
        .replace("!xmax!", &longitude(&east))
        .replace("!ymin!", &latitude(&south))
        .replace("!ymax!", &latitude(&north))
        .replace("!cell!", &number)
}

/// An aggregate with NULL in place of the placeholders, so that the server can check it.
pub(crate) fn without_bounds(sql: &str) -> String {
    let nothing = "NULL::float8";
    let sql = sql.replace("!cell!", "NULL::int8");
    ["!xmin!", "!ymin!", "!xmax!", "!ymax!"].iter().fold(sql, |sql, name| sql.replace(name, nothing))
}

/// The part of the statement that finds the features of areas: `WITH` items, the last of which is called "placed". For
/// each area, and each cell and lone row in it, "placed" has the same columns as in the statement for rows; `k0` is the
/// cell.
pub(crate) fn placed(layer: &Layer, cells: &Cells, are_folded: bool) -> String {
    let grid = cells.grid;
    // Aggregates that can be folded do not depend on the order of rows.
    let keeps_order = !are_folded && !layer.aggregates().all(only_counts);
    let order: String = if keeps_order { layer.key.iter().map(by_key).collect() } else { String::new() };
    let (x, y) = ("oar_tiles_x", "oar_tiles_y");
    let placement = layer.placement();
    let [at_x, at_y] = position(placement.shape, "oar_tiles_m");
    let decoded = DecodedCell::of("oar_tiles_cell", "min(oar_tiles_width)", "min(oar_tiles_zoom)");
    let single = DecodedCell::of("oar_tiles_cell", "oar_tiles_width", "oar_tiles_zoom");
    let mut symbol = symbol(grid, &decoded);
    if placement.plans_cell_boxes() {
        symbol.sides = decoded.bounds(grid).map(|side| unit(&side)).to_vec();
    }
    let aggregate = |sql: &str| with_bounds(sql, &decoded, grid);
    let drawn = symbol.columns(cells.having.as_deref(), &aggregate);
    let grouped = |from: &str, condition: &str| {
        format!(
            "SELECT oar_tiles_n, oar_tiles_cell AS k0, {drawn}{} FROM {from} {condition}
    GROUP BY oar_tiles_cell, oar_tiles_n",
            values(layer, &PropertiesOf::Cell(&aggregate), "count(*)")
        )
    };
    let shown = if cells.keeps_lone {
        let own = if placement.plans_cell_boxes() { single.bounds(grid) } else { [x, y, x, y].map(str::to_owned) };
        let sides = ["west", "north", "east", "south"].iter().zip(own).take(symbol.sides.len());
        let sides: String = sides.map(|(name, column)| format!(", {} AS {name}", unit(&column))).collect();
        format!(
            "numbered AS (
    SELECT *, count(*) OVER (PARTITION BY oar_tiles_cell, oar_tiles_n) AS oar_tiles_members FROM sorted OFFSET 0
),
-- Clusters, and rows that are alone in their cells.
shown AS (
    {}
    UNION ALL
    SELECT oar_tiles_n, oar_tiles_cell, oar_tiles_m{sides}{} FROM numbered WHERE oar_tiles_members = 1
),",
            grouped("numbered", "WHERE oar_tiles_members > 1"),
            values(layer, &PropertiesOf::Row, "1::int8")
        )
    } else {
        format!("shown AS (\n    {}\n),", grouped("sorted", ""))
    };
    let carried = carried(layer);
    let AreaSearch { condition: search, .. } = search(placement);
    format!(
        "-- Members: every row that may lie in a cell that an area shows. OFFSET 0 keeps the planner from working an expression out
-- again wherever it is used.
located AS (
    SELECT near.*, oar_tiles_area.area AS oar_tiles_n, oar_tiles_area.width AS oar_tiles_width, oar_tiles_area.z AS oar_tiles_zoom,
        {at_x} AS {x}, {at_y} AS {y}
    FROM oar_tiles_area CROSS JOIN LATERAL (
        SELECT {columns}, {projected} AS oar_tiles_m FROM {relation} WHERE {search} {filter} OFFSET 0
    ) AS near
    OFFSET 0
),
{celled},{merged}
-- Only of cells that the area may show: of others not all members are here.
sorted AS (
    SELECT {members}.* FROM {members} {area}
    WHERE {touches_area}
    ORDER BY oar_tiles_cell, oar_tiles_n{order} OFFSET 0
),
{shown}
placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, m, west, north{east_south}{carried}, k0
    FROM shown {area}
    OFFSET 0
)",
        columns = columns(layer),
        projected = projected(placement),
        relation = layer.rows(&PlaceholderSql::of_area()),
        filter = filter_at(layer, AREA_ZOOM),
        area = area_of(layer, "oar_tiles_n"),
        touches_area = touches_area(grid, &single),
        celled = celled(grid, x, y, if grid.merges { "oar_tiles_own" } else { "oar_tiles_cell" }),
        merged = if grid.merges { merged(grid.shape) } else { String::new() },
        members = if grid.merges { "merged" } else { "celled" },
        east_south = if symbol.sides.len() == 4 { ", east, south" } else { "" },
    )
}

/// Where the properties of a feature come from.
pub(crate) enum PropertiesOf<'a> {
    /// From a row that is alone in its cell.
    Row,
    /// From a cell, with the function that completes the SQL of an aggregate.
    Cell(&'a dyn Fn(&str) -> String),
}

/// The properties of a row or cell as columns, and its rank if the layer is thinned. The rank is `members`, the number
/// of rows of the cell.
pub(crate) fn values(layer: &Layer, value: &PropertiesOf<'_>, members: &str) -> String {
    let of = |(number, property): (usize, &BoundProperty)| {
        let sql = match (property.of, value) {
            (ComputedFrom::Tile(_), _) => return None,
            (ComputedFrom::Row, PropertiesOf::Row) => property.sql.clone(),
            (ComputedFrom::Cell, PropertiesOf::Cell(aggregate)) => aggregate(&property.sql),
            (ComputedFrom::Row, PropertiesOf::Cell(_)) | (ComputedFrom::Cell, PropertiesOf::Row) => "NULL".to_owned(),
        };
        Some(format!(", {sql} AS p{number}"))
    };
    let rank = layer.budget.thins().then(|| format!(", {members} AS {RANK}"));
    layer.properties.iter().enumerate().filter_map(of).chain(rank).collect()
}

/// The names of the columns of [`values`].
fn carried(layer: &Layer) -> String {
    layer
        .properties
        .iter()
        .enumerate()
        .filter(|(_, property)| !matches!(property.of, ComputedFrom::Tile(_)))
        .map(|(number, _)| format!(", p{number}"))
        .chain(layer.budget.thins().then(|| format!(", {RANK}")))
        .collect()
}

/// The condition that the geometry of a cell may touch the tiles of the area.
fn touches_area(grid: CellGrid, cell: &DecodedCell) -> String {
    let [west, north, east, south] = match grid.geometry {
        CellGeometry::Center => {
            let [x, y] = cell.middle(grid);
            [x.clone(), y.clone(), x, y]
        }
        CellGeometry::Centroid | CellGeometry::Polygon => cell.bounds(grid),
    }
    .map(|side| unit(&side));
    let tile = |side: &str, sign: char| format!("({side} {sign} oar_tiles_area.margin) >> oar_tiles_area.shift");
    format!(
        "{} <= oar_tiles_area.ax1 AND {} >= oar_tiles_area.ax0 AND {} <= oar_tiles_area.ay1 AND {} >= oar_tiles_area.ay0",
        tile(&west, '-'),
        tile(&east, '+'),
        tile(&north, '-'),
        tile(&south, '+')
    )
}

fn by_key(column: &KeyColumn) -> String {
    format!(", {}{}", column.quoted, if column.collated { " COLLATE \"C\"" } else { "" })
}

/// The columns that expressions may name: the columns that the role may read.
pub(crate) fn columns(layer: &Layer) -> String {
    if layer.columns.is_empty() { layer.placement().stored() } else { layer.columns.join(", ") }
}

/// The geometry by which a cell is drawn.
pub(crate) struct CellSymbol {
    /// SQL for the geometry, in EPSG:3857.
    pub(crate) geometry: String,
    /// The position of the geometry in world units: west and north of a point; west, north, east and south of a box.
    pub(crate) sides: Vec<String>,
}

impl CellSymbol {
    /// The columns of a cell's feature: its geometry `m`, NULL if `having` does not keep the cell, and the sides.
    fn columns(&self, having: Option<&str>, aggregate: &dyn Fn(&str) -> String) -> String {
        let drawn = match having {
            Some(having) => format!("CASE WHEN ({}\n) THEN {} END", aggregate(having), self.geometry),
            None => self.geometry.clone(),
        };
        let sides = ["west", "north", "east", "south"].iter().zip(&self.sides);
        let sides: String = sides.map(|(name, side)| format!(", {side} AS {name}")).collect();
        format!("{drawn} AS m{sides}")
    }
}

pub(crate) fn symbol(grid: CellGrid, cell: &DecodedCell) -> CellSymbol {
    match grid.geometry {
        CellGeometry::Center => {
            let middle = cell.middle(grid);
            CellSymbol { geometry: point(&middle), sides: middle.iter().map(|side| unit(side)).collect() }
        }
        CellGeometry::Centroid => {
            // A sum of whole numbers does not depend on their order.
            let mean = |column: &str| format!("div(sum({}), count(*))::int8", unit(column));
            symbol_at(&[mean("oar_tiles_x"), mean("oar_tiles_y")])
        }
        CellGeometry::Polygon => CellSymbol {
            geometry: cell.polygon(grid),
            sides: cell.bounds(grid).iter().map(|side| unit(side)).collect(),
        },
    }
}

/// A point in the middle of a world unit, which never lies halfway between two units of a tile's grid.
pub(crate) fn symbol_at(unit: &[String; 2]) -> CellSymbol {
    let [x, y] = unit;
    CellSymbol { geometry: point(&[format!("{x} + 0.5"), format!("{y} + 0.5")]), sides: unit.to_vec() }
}

/// The `WITH` items that assign each member to its cluster. A cluster has the code of its peak ([`CellGrid::merges`]).
/// They read "celled", where the member's own cell is called `oar_tiles_own`. Peaks are correct where all rows up to
/// two steps away are known.
///
/// The planner cannot estimate the number of cells, and nested loops that joined cells with their neighbours took
/// minutes. So each cell's row is copied to its neighbours, which needs only one aggregation, and the members are
/// joined by a full join, which is never a nested loop.
fn merged(shape: CellShape) -> String {
    let steps = std::iter::once(0).chain(shape.steps().iter().map(|step| code_step(*step)));
    let steps: Vec<String> = steps.map(|step| format!("({step}::int8)")).collect();
    format!(
        "
counted AS (
    SELECT oar_tiles_n AS n, oar_tiles_own AS cell, count(*) AS members FROM celled GROUP BY oar_tiles_n, oar_tiles_own OFFSET 0
),
step (by) AS (VALUES {}),
-- The cells that have the most members of themselves and their neighbours, the first by its code of equal ones.
peaks AS (
    SELECT n, cell + by AS cell, max(members) FILTER (WHERE by = 0) AS members
    FROM counted CROSS JOIN step GROUP BY n, cell + by
    HAVING max(ARRAY[members, -cell]) = max(ARRAY[members, -cell]) FILTER (WHERE by = 0) OFFSET 0
),
-- The largest peak of each cell and its neighbours.
climbed AS (
    SELECT n, cell + by AS cell, -(max(ARRAY[members, -cell]))[2] AS peak FROM peaks CROSS JOIN step GROUP BY n, cell + by OFFSET 0
),
merged AS (
    SELECT celled.*, coalesce(climbed.peak, oar_tiles_own) AS oar_tiles_cell
    FROM celled FULL JOIN climbed ON climbed.n = oar_tiles_n AND climbed.cell = oar_tiles_own
    OFFSET 0
),",
        steps.join(", ")
    )
}

/// The `WITH` items that assign each member to its cell, as a column called `name`. They compute [`CellGrid::cell`]
/// step by step, so that nothing is computed twice.
pub(crate) fn celled(grid: CellGrid, x: &str, y: &str, name: &str) -> String {
    let in_world = is_in_world(x, y);
    let code = |a: &str, b: &str| {
        let offset = Cell::OFFSET;
        format!("(({a} + {offset}) << 32) | ({b} + {offset})")
    };
    let clamped = |column: &str| format!("least(greatest({column}, 0::float8), {LAST_UNIT:?}::float8)");
    match grid.shape {
        CellShape::Square => {
            let number = |column: &str| format!("floor({} / oar_tiles_width)::int8", clamped(column));
            format!(
                "celled AS (SELECT *, {} AS {name} FROM located WHERE {in_world} OFFSET 0)",
                code(&number(x), &number(y))
            )
        }
        CellShape::Hexagon if grid.edges == CellEdges::Degrees => {
            celled_in_degrees(&in_world, &[clamped(x), clamped(y)], &code, name)
        }
        CellShape::Hexagon => format!(
            "skewed AS (
    SELECT *, ({cut_x} - {MIDDLE:?}::float8) / oar_tiles_width AS oar_tiles_s,
        ({MIDDLE:?}::float8 - {cut_y}) / oar_tiles_width * {INVERSE_SQRT_3:?}::float8 - {THIRD:?}::float8 AS oar_tiles_t
    FROM located WHERE {in_world} OFFSET 0
),
-- The middles of the hexagons are two rectangular lattices: the nearest of each, and which of the two is nearer.
stepped AS (
    SELECT *, floor(oar_tiles_s + 0.5::float8) AS oar_tiles_s0, floor(oar_tiles_t + 0.5::float8) AS oar_tiles_t0,
        floor(oar_tiles_s) AS oar_tiles_s1, floor(oar_tiles_t) AS oar_tiles_t1
    FROM skewed OFFSET 0
),
celled AS (
    SELECT *, CASE WHEN {first} <= {second} THEN {one} ELSE {other} END AS {name} FROM stepped OFFSET 0
)",
            cut_x = clamped(x),
            cut_y = clamped(y),
            first = distance("oar_tiles_s - oar_tiles_s0", "oar_tiles_t - oar_tiles_t0"),
            second = distance("oar_tiles_s - oar_tiles_s1 - 0.5::float8", "oar_tiles_t - oar_tiles_t1 - 0.5::float8"),
            one = code("2 * oar_tiles_s0::int8", "2 * oar_tiles_t0::int8"),
            other = code("2 * oar_tiles_s1::int8 + 1", "2 * oar_tiles_t1::int8 + 1"),
        ),
    }
}

/// The same for hexagons with edges straight in degrees.
fn celled_in_degrees(
    in_world: &str,
    [cut_x, cut_y]: &[String; 2],
    code: &dyn Fn(&str, &str) -> String,
    name: &str,
) -> String {
    let column = |row: &str| {
        let odd = format!("(({row}) - 2::float8 * floor(({row}) * 0.5::float8))");
        format!("2::float8 * floor(oar_tiles_s + 0.5::float8 - {odd} * 0.5::float8) + {odd}")
    };
    let below = "oar_tiles_row - 1::float8";
    let square = "oar_tiles_middle * oar_tiles_middle";
    let tanh = (1..LAST_DIVISOR)
        .step_by(2)
        .rev()
        .fold(format!("{LAST_DIVISOR}::float8"), |rest, divisor| format!("({divisor}::float8 + {square} / {rest})"));
    let half = format!("{SIXTH:?}::float8 * oar_tiles_step");
    let at = latitude(&format!("(oar_tiles_up - {SIXTH:?}::float8) * oar_tiles_step"));
    let (first, last) = (latitude(&format!("-({half})")), latitude(&half));
    format!(
        "skewed AS (
    SELECT *, ({cut_x} - {MIDDLE:?}::float8) / oar_tiles_width AS oar_tiles_s,
        ({MIDDLE:?}::float8 - {cut_y}) / oar_tiles_width * {TWICE_INVERSE_SQRT_3:?}::float8 AS oar_tiles_v,
        {ROW_HEIGHT:?}::float8 * oar_tiles_width AS oar_tiles_step
    FROM located WHERE {in_world} OFFSET 0
),
stepped AS (
    SELECT *, floor(oar_tiles_v) AS oar_tiles_row, oar_tiles_v - floor(oar_tiles_v) AS oar_tiles_up,
        (floor(oar_tiles_v) + {SIXTH:?}::float8) * oar_tiles_step AS oar_tiles_middle
    FROM skewed OFFSET 0
),
slanted AS (
    SELECT *, {own} AS oar_tiles_column, oar_tiles_middle / {tanh} AS oar_tiles_t FROM stepped OFFSET 0
),
-- The lowest third of a row is crossed by the edges between it and the row below.
celled AS (
    SELECT *, CASE WHEN oar_tiles_up < {THIRD:?}::float8
            AND {at} - {first} < ({last} - {first}) * abs(2::float8 * oar_tiles_s - oar_tiles_column)
        THEN {lower} ELSE {upper} END AS {name} FROM slanted OFFSET 0
)",
        own = column("oar_tiles_row"),
        lower = code(&format!("({})::int8", column(below)), &format!("({below})::int8")),
        upper = code("oar_tiles_column::int8", "oar_tiles_row::int8"),
    )
}

/// `latitude` of `cells/grid.rs`, above a place whose sine of the latitude is `oar_tiles_t`.
fn latitude(above: &str) -> String {
    let (above, t) = (format!("({above})"), "oar_tiles_t");
    let tt = format!("({t} * {t})");
    let fifth = format!(
        "((({tt} * 24::float8 - 28::float8) * {tt} + 5::float8) / 120::float8 + {above} * ({t} * ((180::float8 - {tt} * 120::float8) * {tt} - 61::float8) / 720::float8))"
    );
    let fourth = format!("({t} * (5::float8 - {tt} * 6::float8) / 24::float8 + {above} * {fifth})");
    let third = format!("(({tt} * 2::float8 - 1::float8) / 6::float8 + {above} * {fourth})");
    format!("({above} * (1::float8 + {above} * ({t} * -0.5::float8 + {above} * {third})))")
}

/// The square of a distance, in the units of the two lattices.
fn distance(s: &str, t: &str) -> String {
    format!("({s}) * ({s}) + 3.0::float8 * (({t}) * ({t}))")
}

// The statement over cells that the survey has counted, with the values that the survey has folded. It reads only those
// rows again that are alone in their cells.

/// The number of the first parameter with folded values.
const FIRST_FOLD_PARAMETER: usize = 19;

/// The number of parameters that locate the rows that are alone in their cells.
const LONE_ROW_PARAMETERS: usize = 6;

/// An expression over aggregates, in which each aggregate is replaced by the column of "cell" with the value that the
/// survey has counted or folded.
fn with_counts(sql: &str, folds: Option<&FoldedValues>) -> String {
    let piece = |piece: AggregatePiece<'_>| match (piece, folds) {
        (AggregatePiece::Text(text), _) => text.to_owned(),
        (AggregatePiece::Rows, _) => "cell.members".to_owned(),
        (AggregatePiece::AggregateCall(call), Some(folds)) => {
            folds.replacement(&call, |number| format!("cell.f{number}"))
        }
        // Never reached for a layer whose cells are counted. If it were, the server would report an unknown column.
        (AggregatePiece::AggregateCall(_), None) => "cell.not_folded".to_owned(),
    };
    pieces(sql).unwrap_or_default().into_iter().map(piece).collect()
}

/// A statement that reads no row and returns three columns: the types of `values`, expressions over rows, as an array
/// of names; whether texts are equal only if their bytes are equal; and whether the names of the aggregate functions
/// mean the server's own functions for values of the server's own types.
pub(crate) fn fold_types(layer: &Layer, values: &[&str]) -> String {
    let types: Vec<String> = (0..values.len()).map(|number| type_of(&format!("f{number}"))).collect();
    let values: String = numbered_columns(values.iter().copied());
    format!(
        "SELECT ARRAY[{}]::text[], NOT EXISTS (SELECT FROM pg_catalog.pg_collation WHERE NOT collisdeterministic),
    NOT EXISTS (SELECT FROM pg_catalog.pg_proc AS p
        WHERE proname = ANY (ARRAY['count', 'min', 'max', 'sum', 'avg', 'bool_and', 'bool_or', 'every', 'num_nonnulls'])
            AND pronamespace <> 'pg_catalog'::regnamespace AND pg_catalog.pg_function_is_visible(p.oid)
            AND (pronargs = 0 OR EXISTS (SELECT FROM pg_catalog.pg_type AS t
                WHERE t.oid = ANY (proargtypes) AND (typtype = 'd' OR typnamespace = 'pg_catalog'::regnamespace))))
FROM (SELECT) AS one LEFT JOIN (SELECT true{values} FROM {} WHERE false) AS none ON true",
        types.join(", "),
        layer.relation
    )
}

/// A statement that the server accepts only if the aggregates need nothing but counted and folded values. It returns
/// one row.
pub(crate) fn needs_only_folds(layer: &Layer, folds: &FoldedValues) -> String {
    let types = folds.types().enumerate();
    let columns: String = types.map(|(number, array)| format!(", (NULL::{array})[1] AS f{number}")).collect();
    let values: String = layer
        .aggregates()
        .enumerate()
        .map(|(number, sql)| format!(", ({}\n) AS p{number}", without_bounds(&with_counts(sql, Some(folds)))))
        .collect();
    // Next to a plain column, the server rejects any aggregate that is left.
    format!(
        "SELECT count(*) FROM (
    SELECT cell.members{values} FROM (SELECT NULL::int8 AS members{columns}) AS cell WHERE false) AS none"
    )
}

/// The folded values as further columns of a relation, and the names of these columns.
pub(crate) fn folded(folds: Option<&FoldedValues>) -> (String, String) {
    let Some(folds) = folds else { return (String::new(), String::new()) };
    (numbered_columns(folds.values()), column_names(folds.values().count()))
}

/// Expressions as further columns called `f0`, `f1`, …
fn numbered_columns<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.enumerate().map(|(number, sql)| format!(", {sql} AS f{number}")).collect()
}

fn column_names(count: usize) -> String {
    (0..count).map(|number| format!(", f{number}")).collect()
}

fn count(folds: Option<&FoldedValues>) -> usize {
    folds.map_or(0, |folds| folds.values().count())
}

/// The number of the parameter that follows those of counted cells.
pub(crate) fn next_parameter(layer: &Layer, folds: Option<&FoldedValues>) -> usize {
    FIRST_FOLD_PARAMETER + count(folds) + if layer.keeps_lone() { LONE_ROW_PARAMETERS } else { 0 }
}

/// Returns `WITH` items; the last is called "placed" and has the columns of [`placed`](placed). The parameters are
/// arrays with one element for each pair of a cell and an area in which the cell may be visible:
///
/// | number | value |
/// |---|---|
/// | `$14` | the index of the area in the arrays of areas, counted from 1 |
/// | `$15`, `$16` | the cell's code, the number of its members |
/// | `$17`, `$18` | the mean position of the members in world units: x, y |
/// | one for each folded value | the folded value |
/// | six more, if lone rows are drawn as themselves | of each lone row: area and code of its cell; west, south, east, north of its box |
pub(crate) fn placed_counts(layer: &Layer, cells: &Cells, folds: Option<&FoldedValues>) -> String {
    let grid = cells.grid;
    let decoded = DecodedCell::of("cell.code", "width", "z");
    let mut symbol = symbol(grid, &decoded);
    if grid.geometry == CellGeometry::Centroid {
        symbol = symbol_at(&["cell.x".to_owned(), "cell.y".to_owned()]);
    }
    if layer.placement().plans_cell_boxes() {
        symbol.sides = decoded.bounds(grid).map(|side| unit(&side)).to_vec();
    }
    let aggregate = |sql: &str| with_bounds(&with_counts(sql, folds), &decoded, grid);
    let drawn = symbol.columns(cells.having.as_deref(), &aggregate);
    let lone = cells.keeps_lone.then(|| lone_rows(layer, cells, FIRST_FOLD_PARAMETER + count(folds)));
    let (found, shown) = lone.map_or_else(Default::default, |LoneRows { found, shown }| {
        (found + ",\n", "\n    UNION ALL\n    ".to_owned() + &shown)
    });
    format!(
        "{found}placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, {drawn}{values}, cell.code AS k0
    FROM unnest($14, $15, $16, $17, $18{params}) AS cell (area, code, members, x, y{names})
    {area}{shown}
    OFFSET 0
)",
        values = values(layer, &PropertiesOf::Cell(&aggregate), "cell.members"),
        area = area_of(layer, "cell.area"),
        params = (0..count(folds)).map(|number| format!(", ${}", FIRST_FOLD_PARAMETER + number)).collect::<String>(),
        names = column_names(count(folds)),
    )
}

/// The part of the statement for rows that are alone in their cells.
struct LoneRows {
    /// `WITH` items that find them.
    found: String,
    /// The query that returns their rows of "placed".
    shown: String,
}

/// The part for lone rows. `first` is the number of its first parameter.
fn lone_rows(layer: &Layer, cells: &Cells, first: usize) -> LoneRows {
    let (x, y) = ("oar_tiles_x", "oar_tiles_y");
    let placement = layer.placement();
    let [at_x, at_y] = position(placement.shape, "oar_tiles_m");
    let params: Vec<String> = (first..first + LONE_ROW_PARAMETERS).map(|number| format!("${number}")).collect();
    let sides = ["w", "s", "e", "n"].map(|side| format!("oar_tiles_lone.{side}"));
    let own = format!("ST_MakeEnvelope({}, {})", sides.join(", "), layer.shape.srid);
    let boxes = std::iter::once(own).chain(shifted_boxes(placement, sides.each_ref().map(String::as_str)));
    let boxes: Vec<String> = boxes.map(|one| format!("{} && {one}", placement.stored())).collect();
    let found = format!(
        "located AS (
    SELECT near.*, oar_tiles_lone.area AS oar_tiles_n, oar_tiles_area.width AS oar_tiles_width, oar_tiles_lone.code AS oar_tiles_code,
        {at_x} AS {x}, {at_y} AS {y}
    FROM unnest({params}) AS oar_tiles_lone (area, code, w, s, e, n)
    {area}
    CROSS JOIN LATERAL (
        SELECT {columns}, {projected} AS oar_tiles_m FROM {relation}
        WHERE ({found}) {filter}
        OFFSET 0
    ) AS near
    OFFSET 0
),
{celled}",
        params = params.join(", "),
        // A query may need the area's box.
        area = if layer.is_query() {
            "JOIN oar_tiles_area ON oar_tiles_area.area = oar_tiles_lone.area".to_owned()
        } else {
            area_of(layer, "oar_tiles_lone.area")
        },
        columns = columns(layer),
        projected = projected(placement),
        relation = layer.rows(&PlaceholderSql::of_area()),
        found = boxes.join(" OR "),
        filter = filter_at(layer, AREA_ZOOM),
        celled = celled(cells.grid, x, y, "oar_tiles_cell"),
    );
    // The box may also find rows of the next cell. The values are computed in a subquery without the areas, because a
    // column of the relation may have the same name as a column of the areas.
    let shown = format!(
        "SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, m, west, north{}, k0
    FROM (
        SELECT oar_tiles_n, oar_tiles_m AS m, {} AS west, {} AS north{}, oar_tiles_cell AS k0
        FROM celled WHERE oar_tiles_cell = oar_tiles_code OFFSET 0
    ) AS alone {}",
        names_of_row(layer),
        unit(x),
        unit(y),
        values(layer, &PropertiesOf::Row, "1::int8"),
        area_of(layer, "oar_tiles_n"),
    );
    LoneRows { found, shown }
}

/// The names of the columns that [`values`] returns for a row. An untyped NULL in place of an aggregate takes the type
/// of the aggregate in the UNION.
fn names_of_row(layer: &Layer) -> String {
    let name = |(number, property): (usize, &BoundProperty)| match property.of {
        ComputedFrom::Tile(_) => String::new(),
        ComputedFrom::Row => format!(", p{number}"),
        ComputedFrom::Cell => ", NULL".to_owned(),
    };
    let rank = layer.budget.thins().then(|| format!(", {RANK}"));
    layer.properties.iter().enumerate().map(name).chain(rank).collect()
}

// The values from which the survey folds the aggregates of cells, as SQL.

/// The values from which a layer's aggregates are folded, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoldedValues(pub(crate) Vec<FoldedValue>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoldedValue {
    /// SQL over a row.
    pub(crate) sql: String,
    pub(crate) fold: Fold,
    pub(crate) kind: ValueKind,
}

/// The type of a value, as far as it matters for reading its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Bool,
    Int2,
    Int4,
    Int8,
    Date,
    /// Microseconds.
    Timestamp,
    /// Microseconds.
    TimestampTz,
    /// Values that are equal if, and only if, their bytes are equal.
    Bytes,
}

impl FoldedValues {
    /// The values as SQL over a row.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|value| value.sql.as_str())
    }

    /// The SQL that replaces a call; `column` returns the name of the column with the folded value of a number.
    pub(crate) fn replacement(&self, call: &AggregateCall<'_>, column: impl Fn(usize) -> String) -> String {
        let folded = |fold: Fold| {
            let sql = call.value(fold);
            let number = self.0.iter().position(|value| value.fold == fold && value.sql == sql).unwrap_or(self.0.len());
            let exact = self.0.get(number).is_some_and(FoldedValue::is_numeric);
            format!("{}{}", column(number), if exact { "::numeric" } else { "" })
        };
        match call.function.folds() {
            // The same division as that of avg() over integers (int8_avg, numeric_poly_avg).
            [sum, count] => format!("({}::numeric / nullif({}, 0)::numeric)", folded(*sum), folded(*count)),
            [fold, ..] => folded(*fold),
            [] => String::new(),
        }
    }

    pub(crate) fn types(&self) -> impl Iterator<Item = Type> {
        self.0.iter().map(FoldedValue::folded_type)
    }
}

impl FoldedValue {
    /// True if the folded value may exceed a bigint, because it is a sum of bigints. It is then sent as text.
    fn is_numeric(&self) -> bool {
        self.fold == Fold::Sum && self.kind == ValueKind::Int8
    }

    /// The type of the array parameter with the folded values of some cells.
    pub(crate) fn folded_type(&self) -> Type {
        match (self.fold, self.kind) {
            (Fold::Sum, ValueKind::Int8) => Type::TEXT_ARRAY,
            (Fold::Values | Fold::Distinct | Fold::Sum, _) | (_, ValueKind::Int8) => Type::INT8_ARRAY,
            (_, ValueKind::Bool) => Type::BOOL_ARRAY,
            (_, ValueKind::Int2) => Type::INT2_ARRAY,
            (_, ValueKind::Int4) => Type::INT4_ARRAY,
            (_, ValueKind::Date) => Type::DATE_ARRAY,
            (_, ValueKind::Timestamp) => Type::TIMESTAMP_ARRAY,
            (_, ValueKind::TimestampTz) => Type::TIMESTAMPTZ_ARRAY,
            (_, ValueKind::Bytes) => Type::BYTEA_ARRAY,
        }
    }
}

// The middle, sides and outline of a cell, computed from its code as [`CellGrid`] does.

/// Metres of a world unit.
fn metres() -> f64 {
    2.0 * HALF_WORLD_METRES / WORLD_UNITS_F64
}

/// World units along the world, as a double.
pub(crate) const WORLD_UNITS_F64: f64 = 2.0 * MIDDLE;

/// A cell decoded from its code: its column, its row, its width in world units and its zoom, all as SQL.
pub(crate) struct DecodedCell {
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) width: String,
    pub(crate) zoom: String,
}

/// The sides of a box in world units as SQL: west, north, east, south.
pub(crate) type BoxSides = [String; 4];

impl DecodedCell {
    pub(crate) fn of(code: &str, width: &str, zoom: &str) -> DecodedCell {
        DecodedCell {
            a: format!("(({code} >> 32) - {})", Cell::OFFSET),
            b: format!("(({code} & 4294967295) - {})", Cell::OFFSET),
            width: width.to_owned(),
            zoom: zoom.to_owned(),
        }
    }

    pub(crate) fn middle(&self, grid: CellGrid) -> [String; 2] {
        let DecodedCell { a, b, width, .. } = self;
        match grid.shape {
            CellShape::Square => [format!("({a} + 0.5::float8) * {width}"), format!("({b} + 0.5::float8) * {width}")],
            CellShape::Hexagon => [
                format!("{MIDDLE:?}::float8 + {a} * 0.5::float8 * {width}"),
                format!("{MIDDLE:?}::float8 - ({b} * 0.5::float8 + {THIRD:?}::float8) * {SQRT_3:?}::float8 * {width}"),
            ],
        }
    }

    /// [`CellGrid::bounds`], not cut to the world.
    pub(crate) fn bounds(&self, grid: CellGrid) -> BoxSides {
        let ([x, y], width) = (self.middle(grid), &self.width);
        let [across, along] =
            grid.shape.half_box(grid.cluster_steps()).map(|half| format!("{width} * {half:?}::float8"));
        [
            format!("({x} - {across})"),
            format!("({y} - {along})"),
            format!("({x} + {across})"),
            format!("({y} + {along})"),
        ]
    }

    /// The cell's outline in EPSG:3857.
    pub(crate) fn polygon(&self, grid: CellGrid) -> String {
        let [west, north, east, south] = self.bounds(grid);
        let (x, y) = (
            |units: &str| format!("{units} * {:?}::float8 - {HALF_WORLD_METRES:?}::float8", metres()),
            |units: &str| format!("{HALF_WORLD_METRES:?}::float8 - {units} * {:?}::float8", metres()),
        );
        match grid.shape {
            CellShape::Square => {
                format!("ST_MakeEnvelope({}, {}, {}, {}, 3857)", x(&west), y(&south), x(&east), y(&north))
            }
            CellShape::Hexagon => {
                let [middle, _] = self.middle(grid);
                // A side of a hexagon is half as long as the hexagon is high, so the ends of the vertical sides lie at
                // a quarter and at three quarters of the height.
                let quarter = |near: &str, far: &str| format!("({near} * 0.75::float8 + {far} * 0.25::float8)");
                let (upper, lower) = (quarter(&north, &south), quarter(&south, &north));
                let corners = [
                    (&middle, &south),
                    (&east, &lower),
                    (&east, &upper),
                    (&middle, &north),
                    (&west, &upper),
                    (&west, &lower),
                    (&middle, &south),
                ];
                let points: Vec<String> = corners
                    .iter()
                    .map(|(across, along)| format!("ST_MakePoint({}, {})", x(&format!("({across})")), y(along)))
                    .collect();
                format!("ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[{}])), 3857)", points.join(", "))
            }
        }
    }
}

/// The world unit in which a coordinate lies, clamped to the world.
pub(crate) fn unit(coordinate: &str) -> String {
    format!("least(greatest(floor({coordinate}), 0), {LAST_UNIT:?})::int8")
}

/// A point in EPSG:3857 from its position in world units, clamped to the world.
pub(crate) fn point([x, y]: &[String; 2]) -> String {
    let clamped =
        |units: &str| format!("least(greatest({units}, 0), {WORLD_UNITS_F64:?}::float8) * {:?}::float8", metres());
    format!(
        "ST_SetSRID(ST_MakePoint({} - {HALF_WORLD_METRES:?}::float8, {HALF_WORLD_METRES:?}::float8 - {}), 3857)",
        clamped(x),
        clamped(y)
    )
}
