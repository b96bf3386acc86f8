//! A layer as SQL. Every statement about features is made here, from the same pieces, so that planning and rendering
//! cannot disagree about where a feature lies.
//!
//! Identifiers are quoted, values are parameters. Property expressions and filters are the configuration's own SQL.

mod bounds;
mod cached_rows;
mod cells;
mod edge;
mod locks;
mod render;
mod survey;
mod thin;

use super::layer::Layer;
use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

pub(super) use cached_rows::{RowChoice, cached_rows};
pub(crate) use cells::without_bounds;
pub(super) use cells::{AggregateFunction, FoldedValue, ValueKind, calls, fold_types, folded_alone, needs_only_counts};
pub(super) use edge::beyond;
pub(super) use locks::reading;
pub(super) use render::{Candidates, render, warm};
pub(super) use survey::{skipped, survey};

pub use cells::FoldedValues;

/// A world unit in metres, rounded up.
const WORLD_UNIT_METRES: f64 = 0.01;

/// The geometry of a row, in the reference system of its column.
fn geometry(layer: &Layer) -> String {
    if layer.shape.geography { format!("{}::geometry", layer.geometry) } else { layer.geometry.clone() }
}

/// A metre coordinate as world units: x from the west edge, y (negated) from the north edge.
#[expect(clippy::cast_precision_loss, reason = "2^32 is exact in a double")]
fn world_units(metres: &str) -> String {
    let scale = WORLD_UNITS as f64 / (2.0 * HALF_WORLD_METRES);
    // Truncated, not rounded down: what lies less than a unit beyond the western or northern edge belongs to the first unit, as what lies
    // beyond the others belongs to the last.
    format!("trunc(({metres} + {HALF_WORLD_METRES:?}) * {scale:?})::int8")
}

/// The same for an end of a box, which may lie outside of the world: cut to it, so that the number fits.
fn cut_world_units(metres: &str) -> String {
    let h = format!("{HALF_WORLD_METRES:?}");
    world_units(&format!("least(greatest({metres}, -{h}), {h})"))
}

/// The columns that say where a projected geometry `m` lies in world units: `west, north`, and for boxes `east, south`; for
/// members of cells `x, y`, which are no whole numbers. West is greater than east for a row that was wrapped around ±180°
/// ([`edge::raw_sides`] stand beside `m` then). Each
/// expression stands once: the planner would work out every mention again.
fn world_columns(layer: &Layer) -> String {
    if layer.cells.is_some() {
        let [x, y] = cells::position(layer, "m");
        return format!("{x} AS x, {y} AS y");
    }
    if layer.shape.points {
        return format!("{} AS west, {} AS north", world_units("ST_X(m)"), world_units("-ST_Y(m)"));
    }
    let [west, east] = edge::wrapped_sides(layer, [cut_world_units("ST_XMin(m)"), cut_world_units("ST_XMax(m)")]);
    format!(
        "{west} AS west, {} AS north, {east} AS east, {} AS south, ({}) AS inside",
        cut_world_units("-ST_YMax(m)"),
        cut_world_units("-ST_YMin(m)"),
        box_is_in_world()
    )
}

/// Whether the box of a projected geometry `m` touches the Web Mercator square, or misses it by no more than a world unit, as points
/// may: their positions are rounded down. NULL if `m` is.
fn box_is_in_world() -> String {
    let h = format!("{:?}", HALF_WORLD_METRES + WORLD_UNIT_METRES);
    format!("ST_XMax(m) >= -{h} AND ST_XMin(m) <= {h} AND ST_YMax(m) >= -{h} AND ST_YMin(m) <= {h}")
}

/// Whether the columns of [`world_columns`] lie in the world. NULL or false if the feature is to be skipped.
fn is_in_world(layer: &Layer) -> String {
    if layer.cells.is_some() {
        return cells::is_in_world("x", "y");
    }
    if layer.shape.points {
        // One unit more than there are, on all four sides (see `world_units`): by less everybody's limits of the world differ.
        return format!("west BETWEEN 0 AND {WORLD_UNITS} AND north BETWEEN 0 AND {WORLD_UNITS}");
    }
    "inside".to_owned()
}

/// West, north, east and south from the columns of [`world_columns`]. A position on the eastern or southern edge of the
/// world belongs to its last unit.
fn ends(layer: &Layer) -> [String; 4] {
    let columns =
        if layer.draws_points() { ["west", "north", "west", "north"] } else { ["west", "north", "east", "south"] };
    columns.map(|column| format!("least({column}, {})", WORLD_UNITS - 1))
}

/// The name of a value's type, as SQL; of a domain, the type that it is over: so `ST_AsMVT` encodes it.
pub(in crate::postgis) fn type_of(value: &str) -> String {
    format!(
        "COALESCE((SELECT format_type(typbasetype, NULL) FROM pg_catalog.pg_type
            WHERE oid = pg_typeof({value}) AND typtype = 'd'), pg_typeof({value})::text)"
    )
}

/// A row's key as a text for people, the values of several columns with a slash between them.
pub(in crate::postgis) fn key_text(layer: &Layer) -> String {
    // Not as casts to text: the owner of a key's type could have made one, and a reader would run it.
    let text = |key: &str| format!("CASE WHEN {key} IS NULL THEN 'NULL' ELSE pg_catalog.concat({key}) END");
    let columns = layer.key.iter().map(|key| text(&key.quoted));
    format!("pg_catalog.concat_ws('/', {})", columns.collect::<Vec<_>>().join(", "))
}

fn filter(layer: &Layer) -> String {
    layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default()
}

/// The condition by which the spatial index finds the rows of an area, and what the area has to know for it.
fn search(layer: &Layer) -> (String, String) {
    if !(layer.shape.geography && layer.shape.points) {
        let g = geometry(layer);
        let shifted = edge::shifted_boxes(layer, ["w", "s", "e", "n"]);
        if shifted.is_empty() {
            return (format!("{g} && oar_tiles_area.box"), String::new());
        }
        let names = (1..=shifted.len()).map(|n| format!("shifted_{n}"));
        let found: String = names.clone().map(|name| format!(" OR {g} && oar_tiles_area.{name}")).collect();
        let boxes = names.zip(&shifted).map(|(name, shifted)| format!(", {shifted} AS {name}")).collect();
        return (format!("({g} && oar_tiles_area.box{found})"), boxes);
    }
    // The index of a geography is asked by distance; the box then decides.
    let column = &layer.geometry;
    let search = format!(
        "ST_DWithin({column}, oar_tiles_area.centre, oar_tiles_area.radius, false)
            AND {column}::geometry && oar_tiles_area.box"
    );
    // Distances are measured within one reference system only.
    let place = |x: &str, y: &str| format!("ST_SetSRID(ST_MakePoint({x}, {y}), {})::geography", layer.shape.srid);
    let (centre, corner) = (place("(w + e) / 2", "(s + n) / 2"), place("w", "latitude"));
    let around = format!(
        ",
        {centre} AS centre,
        CASE WHEN e - w > 60 OR n - s > 60 THEN 2.1e7 ELSE 1000 + 1.1 * (
            SELECT max(ST_Distance({centre}, {corner}, false))
            FROM (VALUES (s), (n)) AS corner (latitude)) END AS radius"
    );
    (search, around)
}
