//! The statement over cells that the survey has counted, with the values that the survey has folded. It reads only those rows again that are alone in
//! their cells.

use super::super::area_of;
use super::super::edge::{projected, shifted_boxes};
use super::super::{AREA_ZOOM, filter_at, thin, type_of};
use super::aggregates::{AggregatePiece, pieces};
use super::folds::FoldedValues;
use super::outline::{DecodedCell, unit};
use super::{PropertiesOf, celled, columns, position, symbol, symbol_at, values, with_bounds, without_bounds};
use crate::cells::CellGeometry;
use crate::postgis::layer::{BoundProperty, Cells, ComputedFrom, Layer, PlaceholderSql};

/// The number of the first parameter with folded values.
const FIRST_FOLD_PARAMETER: usize = 19;

/// The number of parameters that locate the rows that are alone in their cells.
const LONE_ROW_PARAMETERS: usize = 6;

/// An expression over aggregates, in which each aggregate is replaced by the column of "cell" with the value that the survey has counted or folded.
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

/// A statement that reads no row and returns three columns: the types of `values`, expressions over rows, as an array of names; whether texts are
/// equal only if their bytes are equal; and whether the names of the aggregate functions mean the server's own functions for values of the server's
/// own types.
pub(in crate::postgis) fn fold_types(layer: &Layer, values: &[&str]) -> String {
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

/// A statement that the server accepts only if the aggregates need nothing but counted and folded values. It returns one row.
pub(in crate::postgis) fn needs_only_folds(layer: &Layer, folds: &FoldedValues) -> String {
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
pub(in crate::postgis) fn folded(folds: Option<&FoldedValues>) -> (String, String) {
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
pub(in crate::postgis) fn next_parameter(layer: &Layer, folds: Option<&FoldedValues>) -> usize {
    FIRST_FOLD_PARAMETER + count(folds) + if layer.keeps_lone() { LONE_ROW_PARAMETERS } else { 0 }
}

/// Returns `WITH` items; the last is called "placed" and has the columns of [`placed`](super::placed). The parameters are arrays with one element for
/// each pair of a cell and an area in which the cell may be visible:
///
/// | number | value |
/// |---|---|
/// | `$14` | the index of the area in the arrays of areas, counted from 1 |
/// | `$15`, `$16` | the cell's code, the number of its members |
/// | `$17`, `$18` | the mean position of the members in world units: x, y |
/// | one for each folded value | the folded value |
/// | six more, if lone rows are drawn as themselves | of each lone row: area and code of its cell; west, south, east, north of its box |
pub(in crate::postgis) fn placed_counts(layer: &Layer, cells: &Cells, folds: Option<&FoldedValues>) -> String {
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
    let drawn = match &cells.having {
        Some(having) => format!("CASE WHEN ({}\n) THEN {} END", aggregate(having), symbol.geometry),
        None => symbol.geometry,
    };
    let sides = ["west", "north", "east", "south"].iter().zip(&symbol.sides);
    let sides: String = sides.map(|(name, side)| format!(", {side} AS {name}")).collect();
    let lone = cells.keeps_lone.then(|| lone_rows(layer, cells, FIRST_FOLD_PARAMETER + count(folds)));
    let (found, shown) = lone.map_or_else(Default::default, |LoneRows { found, shown }| {
        (found + ",\n", "\n    UNION ALL\n    ".to_owned() + &shown)
    });
    format!(
        "{found}placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, {drawn} AS m{sides}{values}, cell.code AS k0
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
    // The box may also find rows of the next cell. The values are computed in a subquery without the areas, because a column of the relation may have
    // the same name as a column of the areas.
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

/// The names of the columns that [`values`] returns for a row. An untyped NULL in place of an aggregate takes the type of the aggregate in the UNION.
fn names_of_row(layer: &Layer) -> String {
    let name = |(number, property): (usize, &BoundProperty)| match property.of {
        ComputedFrom::Tile(_) => String::new(),
        ComputedFrom::Row => format!(", p{number}"),
        ComputedFrom::Cell => ", NULL".to_owned(),
    };
    let rank = layer.budget.thins().then(|| format!(", {}", thin::RANK));
    layer.properties.iter().enumerate().map(name).chain(rank).collect()
}
