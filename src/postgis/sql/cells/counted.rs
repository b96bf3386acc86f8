//! Cells that the survey has counted, and the values that it has folded of their rows: nothing is read again but rows that are
//! alone in their cells.

use super::super::edge::{projected, shifted_boxes};
use super::super::{filter, geometry, thin, type_of};
use super::aggregates::{AggregatePiece, pieces};
use super::folds::FoldedValues;
use super::outline::{DecodedCell, unit};
use super::{PropertiesOf, celled, columns, filled, position, standing_at, stands, values, without_bounds};
use crate::cells::Standing;
use crate::postgis::layer::{BoundProperty, Cells, ComputedFrom, Layer, PlaceholderSql};

/// The parameter with the first of the folded values.
const FIRST_FOLD: usize = 19;

/// The parameters that say where rows are that are alone in their cells.
const LONE: usize = 6;

/// An expression over aggregates with what the survey has counted and folded in their stead: columns of "cell".
fn counted(sql: &str, folds: Option<&FoldedValues>) -> String {
    let piece = |piece: AggregatePiece<'_>| match (piece, folds) {
        (AggregatePiece::Text(text), _) => text.to_owned(),
        (AggregatePiece::Rows, _) => "cell.members".to_owned(),
        (AggregatePiece::AggregateCall(call), Some(folds)) => {
            folds.stands_for(&call, |number| format!("cell.f{number}"))
        }
        // Nobody asks for that; if somebody did, the server would know no such column.
        (AggregatePiece::AggregateCall(_), None) => "cell.not_folded".to_owned(),
    };
    pieces(sql).unwrap_or_default().into_iter().map(piece).collect()
}

/// The types of some values of rows, asked over no row: one array of names; whether texts are equal only if their bytes are; and
/// whether the names of aggregate functions are the server's own for values of its own types.
pub(in crate::postgis) fn fold_types(layer: &Layer, values: &[&str]) -> String {
    let types: Vec<String> = (0..values.len()).map(|number| type_of(&format!("f{number}"))).collect();
    let values: String = numbered(values.iter().copied());
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

/// Asks whether nothing but what was counted and folded is needed; gives one row.
pub(in crate::postgis) fn folded_alone(layer: &Layer, folds: &FoldedValues) -> String {
    let types = folds.types().enumerate();
    let columns: String = types.map(|(number, array)| format!(", (NULL::{array})[1] AS f{number}")).collect();
    let values: String = layer
        .aggregates()
        .enumerate()
        .map(|(number, sql)| format!(", ({}\n) AS p{number}", without_bounds(&counted(sql, Some(folds)))))
        .collect();
    // Beside a plain column, no aggregate may be left.
    format!(
        "SELECT count(*) FROM (
    SELECT cell.members{values} FROM (SELECT NULL::int8 AS members{columns}) AS cell WHERE false) AS none"
    )
}

/// The values that are folded, as further columns of a relation, and their names.
pub(in crate::postgis) fn folded(folds: Option<&FoldedValues>) -> (String, String) {
    let Some(folds) = folds else { return (String::new(), String::new()) };
    (numbered(folds.values()), names(folds.values().count()))
}

/// Expressions as further columns called `f0`, `f1`, …
fn numbered<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.enumerate().map(|(number, sql)| format!(", {sql} AS f{number}")).collect()
}

fn names(many: usize) -> String {
    (0..many).map(|number| format!(", f{number}")).collect()
}

fn count(folds: Option<&FoldedValues>) -> usize {
    folds.map_or(0, |folds| folds.values().count())
}

/// The parameter behind those of counted cells.
pub(in crate::postgis) fn behind(layer: &Layer, folds: Option<&FoldedValues>) -> usize {
    FIRST_FOLD + count(folds) + if layer.keeps_lone() { LONE } else { 0 }
}

/// `WITH` items, the last of which is called "placed" and gives what [`placed`](super::placed) gives. Parameters `$14..$18`, one
/// array element a cell and area that it may show in: the area's place in the arrays of areas, the code, the count, and the mean
/// position of the members; then an array for each value that was folded; then, where rows are drawn as themselves that are alone in
/// their cells, such a cell's area and code, and west, south, east, north of the box in which its row lies.
pub(in crate::postgis) fn placed(layer: &Layer, cells: &Cells, folds: Option<&FoldedValues>) -> String {
    let grid = cells.grid;
    let decoded = DecodedCell::of("cell.code", "width", "z");
    let mut stands = stands(grid, &decoded);
    if grid.standing == Standing::Centroid {
        stands = standing_at(&["cell.x".to_owned(), "cell.y".to_owned()]);
    }
    if layer.is_found_in_boxes() {
        stands.ends = decoded.bounds(grid).map(|end| unit(&end)).to_vec();
    }
    let aggregate = |sql: &str| filled(&counted(sql, folds), &decoded, grid);
    let drawn = match &cells.having {
        Some(having) => format!("CASE WHEN ({}\n) THEN {} END", aggregate(having), stands.geometry),
        None => stands.geometry,
    };
    let ends = ["west", "north", "east", "south"].iter().zip(&stands.ends);
    let ends: String = ends.map(|(name, end)| format!(", {end} AS {name}")).collect();
    let lone = cells.keeps_lone.then(|| lone(layer, cells, FIRST_FOLD + count(folds)));
    let (found, shown) = lone.map_or_else(Default::default, |LoneRows { found, shown }| {
        (found + ",\n", "\n    UNION ALL\n    ".to_owned() + &shown)
    });
    format!(
        "{found}placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, {drawn} AS m{ends}{values}, cell.code AS k0
    FROM unnest($14, $15, $16, $17, $18{params}) AS cell (area, code, members, x, y{names})
    JOIN oar_tiles_area ON oar_tiles_area.area = cell.area{shown}
    OFFSET 0
)",
        values = values(layer, &PropertiesOf::Cell(&aggregate), "cell.members"),
        params = (0..count(folds)).map(|number| format!(", ${}", FIRST_FOLD + number)).collect::<String>(),
        names = names(count(folds)),
    )
}

/// Rows that are alone in their cells.
struct LoneRows {
    /// `WITH` items that find them.
    found: String,
    /// The statement that gives what "placed" has of them.
    shown: String,
}

fn lone(layer: &Layer, cells: &Cells, first: usize) -> LoneRows {
    let (x, y) = ("oar_tiles_x", "oar_tiles_y");
    let [at_x, at_y] = position(layer, "oar_tiles_m");
    let params: Vec<String> = (first..first + LONE).map(|number| format!("${number}")).collect();
    let sides = ["w", "s", "e", "n"].map(|side| format!("oar_tiles_lone.{side}"));
    let own = format!("ST_MakeEnvelope({}, {})", sides.join(", "), layer.shape.srid);
    let boxes = std::iter::once(own).chain(shifted_boxes(layer, sides.each_ref().map(String::as_str)));
    let boxes: Vec<String> = boxes.map(|one| format!("{} && {one}", geometry(layer))).collect();
    let found = format!(
        "located AS (
    SELECT near.*, oar_tiles_area.area AS oar_tiles_n, oar_tiles_area.width AS oar_tiles_width, oar_tiles_lone.code AS oar_tiles_code,
        {at_x} AS {x}, {at_y} AS {y}
    FROM unnest({params}) AS oar_tiles_lone (area, code, w, s, e, n)
    JOIN oar_tiles_area ON oar_tiles_area.area = oar_tiles_lone.area
    CROSS JOIN LATERAL (
        SELECT {columns}, {projected} AS oar_tiles_m FROM {relation}
        WHERE ({found}) {filter}
        OFFSET 0
    ) AS near
    OFFSET 0
),
{celled}",
        params = params.join(", "),
        columns = columns(layer),
        projected = projected(layer),
        relation = layer.rows(&PlaceholderSql::of_area()),
        found = boxes.join(" OR "),
        filter = filter(layer),
        celled = celled(cells.grid, x, y),
    );
    // Beside it there may be rows of the next cell. Its values are worked out apart from the areas: a column may be called as one of theirs.
    let shown = format!(
        "SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, m, west, north{}, k0
    FROM (
        SELECT oar_tiles_n, oar_tiles_m AS m, {} AS west, {} AS north{}, oar_tiles_cell AS k0
        FROM celled WHERE oar_tiles_cell = oar_tiles_code OFFSET 0
    ) AS alone JOIN oar_tiles_area ON oar_tiles_area.area = oar_tiles_n",
        names_of_row(layer),
        unit(x),
        unit(y),
        values(layer, &PropertiesOf::Row, "1::int8"),
    );
    LoneRows { found, shown }
}

/// What [`values`] gives of a row, by name. A NULL that stands for an aggregate has no type yet: it takes that of the aggregate.
fn names_of_row(layer: &Layer) -> String {
    let name = |(number, property): (usize, &BoundProperty)| match property.of {
        ComputedFrom::Tile(_) => String::new(),
        ComputedFrom::Row => format!(", p{number}"),
        ComputedFrom::Cell => ", NULL".to_owned(),
    };
    let rank = layer.budget.thins().then(|| format!(", {}", thin::RANK));
    layer.properties.iter().enumerate().map(name).chain(rank).collect()
}
