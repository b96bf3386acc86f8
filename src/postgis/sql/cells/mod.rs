//! Cells: rows grouped by their position. The arithmetic is that of [`CellGrid`], bit for bit.
//!
//! The statement's own names begin with `oar_tiles_`, so that they differ from the names of the relation's columns.

mod aggregates;
pub(super) mod counted;
mod folds;
mod outline;

use super::edge::projected;
use super::{AREA_ZOOM, AreaSearch, area_of, filter_at, search, thin};
use crate::cells::{Cell, CellGeometry, CellGrid, CellShape, INVERSE_SQRT_3, MIDDLE, THIRD, code_step};
use crate::postgis::layer::{BoundProperty, Cells, ComputedFrom, KeyColumn, Layer, PlaceholderSql, Shape};
use crate::tile::{HALF_WORLD_METRES, LAST_UNIT, WORLD_UNITS};

use aggregates::only_counts;
use outline::{DecodedCell, WORLD_UNITS_F64, point, unit};

pub(in crate::postgis) use aggregates::{AggregateFunction, calls, needs_only_counts};
pub(in crate::postgis) use counted::{fold_types, needs_only_folds};
pub(in crate::postgis) use folds::{FoldedValue, ValueKind};

pub use folds::FoldedValues;

/// The position of a row in world units, x and y, computed from its projected geometry `m` in double precision. The position of a geometry that is
/// not a point is the middle of its box.
pub(in crate::postgis) fn position(shape: Shape, m: &str) -> [String; 2] {
    let scale = WORLD_UNITS_F64 / (2.0 * HALF_WORLD_METRES);
    let along = |metres: String| format!("({metres} + {HALF_WORLD_METRES:?}) * {scale:?}");
    if shape.points {
        return [along(format!("ST_X({m})")), along(format!("-ST_Y({m})"))];
    }
    [along(format!("(ST_XMin({m}) + ST_XMax({m})) * 0.5")), along(format!("-((ST_YMin({m}) + ST_YMax({m})) * 0.5)"))]
}

/// The condition that the position of a row lies in the world. NULL or false if the row must be skipped.
pub(in crate::postgis) fn is_in_world(x: &str, y: &str) -> String {
    // A tolerance of one unit on all four sides.
    let end = WORLD_UNITS + 1;
    format!("{x} > -1 AND {x} < {end} AND {y} > -1 AND {y} < {end}")
}

/// An aggregate of the configuration with the cell's bounds, in degrees, and the cell's number in place of the placeholders.
pub(in crate::postgis) fn with_bounds(sql: &str, cell: &DecodedCell, grid: CellGrid) -> String {
    let DecodedCell { zoom, .. } = cell;
    let [west, north, east, south] = cell.bounds(grid);
    // Squares are numbered like the tiles of a deeper zoom: after the tiles of all shallower zooms, row by row. Hexagons, whose columns and rows are
    // counted in half steps from the middle of the world, are numbered like tiles two zooms deeper still.
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

/// The part of the statement that finds the features of areas: `WITH` items, the last of which is called "placed". For each area, and each cell and
/// lone row in it, "placed" has the same columns as in the statement for rows; `k0` is the cell.
pub(in crate::postgis) fn placed(layer: &Layer, cells: &Cells, are_folded: bool) -> String {
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
    let drawn = match &cells.having {
        Some(having) => format!("CASE WHEN ({}\n) THEN {} END", aggregate(having), symbol.geometry),
        None => symbol.geometry,
    };
    let sides = ["west", "north", "east", "south"].iter().zip(&symbol.sides);
    let sides: String = sides.map(|(name, side)| format!(", {side} AS {name}")).collect();
    let grouped = |from: &str, condition: &str| {
        format!(
            "SELECT oar_tiles_n, oar_tiles_cell AS k0, {drawn} AS m{sides}{} FROM {from} {condition}
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
pub(in crate::postgis) enum PropertiesOf<'a> {
    /// From a row that is alone in its cell.
    Row,
    /// From a cell, with the function that completes the SQL of an aggregate.
    Cell(&'a dyn Fn(&str) -> String),
}

/// The properties of a row or cell as columns, and its rank if the layer is thinned. The rank is `members`, the number of rows of the cell.
pub(in crate::postgis) fn values(layer: &Layer, value: &PropertiesOf<'_>, members: &str) -> String {
    let of = |(number, property): (usize, &BoundProperty)| {
        let sql = match (property.of, value) {
            (ComputedFrom::Tile(_), _) => return None,
            (ComputedFrom::Row, PropertiesOf::Row) => property.sql.clone(),
            (ComputedFrom::Cell, PropertiesOf::Cell(aggregate)) => aggregate(&property.sql),
            (ComputedFrom::Row, PropertiesOf::Cell(_)) | (ComputedFrom::Cell, PropertiesOf::Row) => "NULL".to_owned(),
        };
        Some(format!(", {sql} AS p{number}"))
    };
    let rank = layer.budget.thins().then(|| format!(", {members} AS {}", thin::RANK));
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
        .chain(layer.budget.thins().then(|| format!(", {}", thin::RANK)))
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
pub(in crate::postgis) fn columns(layer: &Layer) -> String {
    if layer.columns.is_empty() { layer.placement().stored() } else { layer.columns.join(", ") }
}

/// The geometry by which a cell is drawn.
pub(in crate::postgis) struct CellSymbol {
    /// SQL for the geometry, in EPSG:3857.
    pub(in crate::postgis) geometry: String,
    /// The position of the geometry in world units: west and north of a point; west, north, east and south of a box.
    pub(in crate::postgis) sides: Vec<String>,
}

pub(in crate::postgis) fn symbol(grid: CellGrid, cell: &DecodedCell) -> CellSymbol {
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
pub(in crate::postgis) fn symbol_at(unit: &[String; 2]) -> CellSymbol {
    let [x, y] = unit;
    CellSymbol { geometry: point(&[format!("{x} + 0.5"), format!("{y} + 0.5")]), sides: unit.to_vec() }
}

/// The `WITH` items that assign each member to its cluster. A cluster has the code of its peak ([`CellGrid::merges`]). They read "celled", where the
/// member's own cell is called `oar_tiles_own`. Peaks are correct where all rows up to two steps away are known.
///
/// The planner cannot estimate the number of cells, and nested loops that joined cells with their neighbours took minutes. So each cell's row is
/// copied to its neighbours, which needs only one aggregation, and the members are joined by a full join, which is never a nested loop.
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

/// The `WITH` items that assign each member to its cell, as a column called `name`. They compute [`CellGrid::cell`] step by step, so that nothing is
/// computed twice.
pub(in crate::postgis) fn celled(grid: CellGrid, x: &str, y: &str, name: &str) -> String {
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

/// The square of a distance, in the units of the two lattices.
fn distance(s: &str, t: &str) -> String {
    format!("({s}) * ({s}) + 3.0::float8 * (({t}) * ({t}))")
}
