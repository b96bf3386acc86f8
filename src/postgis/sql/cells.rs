//! Cells: rows put together by where they lie. The numbers are worked out as [`Grid`] does.
//!
//! Names that begin with `oar_tiles_` are the statement's own: the columns of the relation stand beside them.

use super::cell::{Decoded, WORLD_UNITS_F64, point, unit};
use super::{filter, geometry, projected, search, thin};
use crate::postgis::layer::{BoundProperty, Cells, KeyColumn, Layer, Of};
use crate::postgis::query::Values;
use crate::tile::{
    Cell, CellShape, Grid, HALF_WORLD_METRES, INVERSE_SQRT_3, LAST_UNIT, MIDDLE, Standing, THIRD, WORLD_UNITS,
};

/// Where a row lies in world units, as exact as a double is, from its projected geometry `m`: x and y. A geometry that is no
/// point lies in the middle of its box.
pub(super) fn position(layer: &Layer, m: &str) -> [String; 2] {
    let scale = WORLD_UNITS_F64 / (2.0 * HALF_WORLD_METRES);
    let along = |metres: String| format!("({metres} + {HALF_WORLD_METRES:?}) * {scale:?}");
    if layer.shape.points {
        return [along(format!("ST_X({m})")), along(format!("-ST_Y({m})"))];
    }
    [along(format!("(ST_XMin({m}) + ST_XMax({m})) * 0.5")), along(format!("-((ST_YMin({m}) + ST_YMax({m})) * 0.5)"))]
}

/// Whether such a position lies in the world. NULL or false if the row is to be skipped.
pub(super) fn is_in_world(x: &str, y: &str) -> String {
    let end = WORLD_UNITS + 1;
    format!("{x} >= 0 AND {x} < {end} AND {y} >= 0 AND {y} < {end}")
}

/// An aggregate of the configuration, the cell's bounds in degrees and its number filled in.
fn filled(sql: &str, cell: &Decoded, grid: Grid) -> String {
    let Decoded { zoom, .. } = cell;
    let [west, north, east, south] = cell.bounds(grid);
    // Squares are numbered as tiles are, so many zooms deeper: all zooms above, then row by row.
    #[expect(clippy::cast_possible_truncation, reason = "at most 7")]
    let deeper = -grid.size.log2() as i32;
    let level = format!("({zoom} + {deeper})");
    let number = format!("(((1::int8 << (2 * {level})) - 1) / 3 + ({} << {level}) + {})", cell.b, cell.a);
    let world = format!("{WORLD_UNITS_F64:?}::float8");
    let longitude = |x: &str| format!("({x} / {world} * 360 - 180)");
    let latitude = |y: &str| format!("degrees(atan(sinh(pi() * (1 - 2 * ({y} / {world})))))");
    sql.replace("!xmin!", &longitude(&west))
        .replace("!xmax!", &longitude(&east))
        .replace("!ymin!", &latitude(&south))
        .replace("!ymax!", &latitude(&north))
        .replace("!cell!", &number)
}

/// An aggregate with the bounds as NULL, to ask the server about it.
pub(crate) fn without_bounds(sql: &str) -> String {
    let nothing = "NULL::float8";
    let sql = sql.replace("!cell!", "NULL::int8");
    ["!xmin!", "!ymin!", "!xmax!", "!ymax!"].iter().fold(sql, |sql, name| sql.replace(name, nothing))
}

/// Whether an aggregate gives the same in whatever order it sees its rows: those that are counted.
fn is_orderless(sql: &str) -> bool {
    if sql.contains(['\'', '"', '$']) {
        return false;
    }
    let text: String = sql.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let rest = text.replace("count(*)", "");
    let mut words = rest.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.all(|word| {
        word.parse::<f64>().is_ok()
            || matches!(word, "true" | "and" | "or" | "not" | "xmin" | "ymin" | "xmax" | "ymax" | "cell")
    })
}

/// An aggregate that is [orderless](is_orderless), with the count given.
fn with_count(sql: &str, count: &str) -> String {
    let mut filled = String::new();
    let mut rest = sql;
    // What is replaced has no letter that another case would lengthen.
    while let Some(at) = rest.to_ascii_lowercase().find("count") {
        filled.push_str(&rest[..at]);
        filled.push_str(count);
        rest = rest[at..].split_once(')').map_or("", |(_, rest)| rest);
    }
    filled + rest
}

/// Whether the number of its rows is all that has to be known of a cell.
pub(in crate::postgis) fn needs_only_counts(layer: &Layer) -> bool {
    layer.cells.as_ref().is_some_and(|cells| !cells.keeps_lone) && layer.aggregates().all(is_orderless)
}

/// The same as [`placed`] where the survey has counted the cells: parameters `$14..$18`, one array element a cell and area that it
/// may show in: the area's place in the arrays of areas, the code, the count, and the mean position of the members.
pub(super) fn placed_counted(layer: &Layer, cells: &Cells) -> String {
    let grid = cells.grid;
    let decoded = Decoded::of("cell.code", "width", "z");
    let mut stands = stands(grid, &decoded);
    if grid.standing == Standing::Centroid {
        stands = standing_at(&["cell.x".to_owned(), "cell.y".to_owned()]);
    }
    if layer.is_found_in_boxes() {
        stands.ends = decoded.bounds(grid).map(|end| unit(&end)).to_vec();
    }
    let value = |sql: &str| with_count(&filled(sql, &decoded, grid), "cell.members");
    let drawn = match &cells.having {
        Some(having) => format!("CASE WHEN ({}\n) THEN {} END", value(having), stands.geometry),
        None => stands.geometry,
    };
    let ends = ["west", "north", "east", "south"].iter().zip(&stands.ends);
    let ends: String = ends.map(|(name, end)| format!(", {end} AS {name}")).collect();
    let values = layer.properties.iter().enumerate().filter(|(_, property)| property.of == Of::Cell);
    let mut values: String =
        values.map(|(number, property)| format!(", {} AS p{number}", value(&property.sql))).collect();
    if layer.budget.thins() {
        values.push_str(&format!(", cell.members AS {}", thin::RANK));
    }
    format!(
        "placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, {drawn} AS m{ends}{values}, cell.code AS k0
    FROM unnest($14, $15, $16, $17, $18) AS cell (area, code, members, x, y)
    JOIN oar_tiles_area ON oar_tiles_area.area = cell.area
    OFFSET 0
)"
    )
}

/// The part of the statement that leads from the areas to what is drawn: `WITH` items, the last of which is called "placed" and
/// gives, for each area, cell and lone row in it, the columns that the plain statement's "placed" gives; `k0` is the cell.
pub(super) fn placed(layer: &Layer, cells: &Cells) -> String {
    let grid = cells.grid;
    let ordered = |property: &BoundProperty| property.of == Of::Cell && !is_orderless(&property.sql);
    let keeps_order =
        layer.properties.iter().any(ordered) || cells.having.as_deref().is_some_and(|having| !is_orderless(having));
    let order: String = if keeps_order { layer.key.iter().map(by_key).collect() } else { String::new() };
    let (x, y) = ("oar_tiles_x", "oar_tiles_y");
    let [at_x, at_y] = position(layer, "oar_tiles_m");
    let decoded = Decoded::of("oar_tiles_cell", "min(oar_tiles_width)", "min(oar_tiles_zoom)");
    let single = Decoded::of("oar_tiles_cell", "oar_tiles_width", "oar_tiles_zoom");
    let mut stands = stands(grid, &decoded);
    if layer.is_found_in_boxes() {
        stands.ends = decoded.bounds(grid).map(|end| unit(&end)).to_vec();
    }
    let names = |alone: bool| -> String {
        let of = |(number, property): (usize, &BoundProperty)| {
            let sql = match (property.of, alone) {
                (Of::Tile(_), _) => return None,
                (Of::Row, true) => property.sql.clone(),
                (Of::Cell, false) => filled(&property.sql, &decoded, grid),
                _ => "NULL".to_owned(),
            };
            Some(format!(", {sql} AS p{number}"))
        };
        let rank = match (layer.budget.thins(), alone) {
            (false, _) => String::new(),
            (true, true) => format!(", 1::int8 AS {}", thin::RANK),
            (true, false) => format!(", count(*) AS {}", thin::RANK),
        };
        layer.properties.iter().enumerate().filter_map(of).chain([rank]).collect()
    };
    let drawn = match &cells.having {
        Some(having) => format!("CASE WHEN ({}\n) THEN {} END", filled(having, &decoded, grid), stands.geometry),
        None => stands.geometry,
    };
    let ends = ["west", "north", "east", "south"].iter().zip(&stands.ends);
    let ends: String = ends.map(|(name, end)| format!(", {end} AS {name}")).collect();
    let grouped = |from: &str, condition: &str| {
        format!(
            "SELECT oar_tiles_n, oar_tiles_cell AS k0, {drawn} AS m{ends}{} FROM {from} {condition}
    GROUP BY oar_tiles_cell, oar_tiles_n",
            names(false)
        )
    };
    let cells_of = if cells.keeps_lone {
        let own = if layer.is_found_in_boxes() { single.bounds(grid) } else { [x, y, x, y].map(str::to_owned) };
        let ends = ["west", "north", "east", "south"].iter().zip(own).take(stands.ends.len());
        let ends: String = ends.map(|(name, column)| format!(", {} AS {name}", unit(&column))).collect();
        format!(
            "numbered AS (
    SELECT *, count(*) OVER (PARTITION BY oar_tiles_cell, oar_tiles_n) AS oar_tiles_members FROM sorted OFFSET 0
),
-- Clusters, and rows that are alone in their cells.
shown AS (
    {}
    UNION ALL
    SELECT oar_tiles_n, oar_tiles_cell, oar_tiles_m{ends}{} FROM numbered WHERE oar_tiles_members = 1
),",
            grouped("numbered", "WHERE oar_tiles_members > 1"),
            names(true)
        )
    } else {
        format!("shown AS (\n    {}\n),", grouped("sorted", ""))
    };
    let carried = carried(layer);
    let (search, _) = search(layer);
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
{celled},
-- Only of cells that the area may show: of others not all members are here.
sorted AS (
    SELECT celled.* FROM celled JOIN oar_tiles_area ON oar_tiles_area.area = oar_tiles_n
    WHERE {shown}
    ORDER BY oar_tiles_cell, oar_tiles_n{order} OFFSET 0
),
{cells_of}
placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, m, west, north{and_ends}{carried}, k0
    FROM shown JOIN oar_tiles_area ON oar_tiles_area.area = shown.oar_tiles_n
    OFFSET 0
)",
        columns = columns(layer),
        projected = projected(layer),
        relation = layer.rows(&Values::of_area()),
        filter = filter(layer),
        shown = is_shown(grid, &single),
        celled = celled(grid, x, y),
        and_ends = if stands.ends.len() == 4 { ", east, south" } else { "" },
    )
}

/// The names of what is carried along from a cell to its feature.
fn carried(layer: &Layer) -> String {
    layer
        .properties
        .iter()
        .enumerate()
        .filter(|(_, property)| !matches!(property.of, Of::Tile(_)))
        .map(|(number, _)| format!(", p{number}"))
        .chain(layer.budget.thins().then(|| format!(", {}", thin::RANK)))
        .collect()
}

/// Whether what stands for a cell may touch the tiles of the area.
fn is_shown(grid: Grid, cell: &Decoded) -> String {
    let [west, north, east, south] = match grid.standing {
        Standing::Center => {
            let [x, y] = cell.middle(grid);
            [x.clone(), y.clone(), x, y]
        }
        Standing::Centroid | Standing::Polygon => cell.bounds(grid),
    }
    .map(|end| unit(&end));
    let tile = |end: &str, sign: char| format!("({end} {sign} oar_tiles_area.margin) >> oar_tiles_area.shift");
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

/// The columns that expressions may name: those that the role may read.
fn columns(layer: &Layer) -> String {
    if layer.columns.is_empty() { geometry(layer) } else { layer.columns.join(", ") }
}

/// What stands for a cell.
struct Stands {
    /// Its geometry in EPSG:3857.
    geometry: String,
    /// Where it lies: a point's west and north, or a box, in world units.
    ends: Vec<String>,
}

fn stands(grid: Grid, cell: &Decoded) -> Stands {
    match grid.standing {
        Standing::Center => {
            let middle = cell.middle(grid);
            Stands { geometry: point(&middle), ends: middle.iter().map(|end| unit(end)).collect() }
        }
        Standing::Centroid => {
            // Whole numbers: the sum is the same in any order.
            let mean = |column: &str| format!("div(sum({}), count(*))::int8", unit(column));
            standing_at(&[mean("oar_tiles_x"), mean("oar_tiles_y")])
        }
        Standing::Polygon => {
            Stands { geometry: cell.polygon(grid), ends: cell.bounds(grid).iter().map(|end| unit(end)).collect() }
        }
    }
}

/// A point in the middle of a world unit: no position there lies halfway between two units of a tile's grid.
fn standing_at(unit: &[String; 2]) -> Stands {
    let [x, y] = unit;
    Stands { geometry: point(&[format!("{x} + 0.5"), format!("{y} + 0.5")]), ends: unit.to_vec() }
}

/// The items that give each member its cell: [`Grid::cell`], step by step, so that nothing is worked out twice.
fn celled(grid: Grid, x: &str, y: &str) -> String {
    let in_world = is_in_world(x, y);
    let code = |a: &str, b: &str| {
        let offset = Cell::OFFSET;
        format!("(({a} + {offset}) << 32) | ({b} + {offset})")
    };
    let cut = |column: &str| format!("least({column}, {LAST_UNIT:?}::float8)");
    match grid.shape {
        CellShape::Square => {
            let number = |column: &str| format!("floor({} / oar_tiles_width)::int8", cut(column));
            format!(
                "celled AS (SELECT *, {} AS oar_tiles_cell FROM located WHERE {in_world} OFFSET 0)",
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
    SELECT *, CASE WHEN {first} <= {second} THEN {one} ELSE {other} END AS oar_tiles_cell FROM stepped OFFSET 0
)",
            cut_x = cut(x),
            cut_y = cut(y),
            first = distance("oar_tiles_s - oar_tiles_s0", "oar_tiles_t - oar_tiles_t0"),
            second = distance("oar_tiles_s - oar_tiles_s1 - 0.5::float8", "oar_tiles_t - oar_tiles_t1 - 0.5::float8"),
            one = code("2 * oar_tiles_s0::int8", "2 * oar_tiles_t0::int8"),
            other = code("2 * oar_tiles_s1::int8 + 1", "2 * oar_tiles_t1::int8 + 1"),
        ),
    }
}

fn distance(s: &str, t: &str) -> String {
    format!("({s}) * ({s}) + 3.0::float8 * (({t}) * ({t}))")
}
