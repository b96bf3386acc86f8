//! Where the rows of a layer lie: its geometry column, and what is drawn of rows beyond ±180°.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Layer;
use crate::cells::{CellGeometry, CellGrid};
use crate::tile::{
    Coverage, HALF_WORLD_METRES, SourceBox, TileRect, WORLD_UNITS, WorldRect, Zoom, latitude, longitude, metres,
};

/// How a layer's geometries are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The spatial reference system of the column.
    pub(crate) srid: i32,
    /// Whether every geometry is a single point, or a multipoint of one member.
    pub points: bool,
    /// True if some of the single points may be stored as multipoints of one member.
    pub(crate) members: bool,
    /// Whether the column is a geography.
    pub(crate) geography: bool,
    /// True if there may be curves, which are drawn as lines because tiles cannot hold curves, or surfaces, which are
    /// skipped.
    pub(crate) curves: bool,
    /// The units of the column, if rows may reach beyond ±180° in it.
    pub(crate) edge: Option<EdgeUnits>,
}

impl Shape {
    /// The shape of geometries if only the column's type is known.
    pub(crate) const fn of_any(srid: i32, geography: bool) -> Shape {
        Shape { srid, points: false, members: false, geography, curves: true, edge: None }
    }

    /// True if a closed formula gives, for an area of the world, the box in the layer's reference system that contains
    /// all features of the area. EPSG:4326 and EPSG:3857 have one: each axis of one is a monotone function of an axis
    /// of the other.
    pub(crate) fn has_closed_form(self) -> bool {
        matches!(self.srid, 3857 | 4326)
    }

    /// True if all geometries are points of a system with a closed formula, so that they can be found by area.
    pub(crate) fn has_closed_form_points(self) -> bool {
        self.points && self.has_closed_form()
    }
}

/// The column with the repaired geometry of a row, beside the relation ([`Placement::repair`]).
pub(crate) const REPAIRED: &str = "oar_tiles_repaired";

/// Everything that decides where the rows of a relation lie. Every statement about positions is built from it, both for
/// rows of a layer and for geometries of the change log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement<'a> {
    /// The geometry column, quoted.
    pub(crate) column: &'a str,
    /// How the geometries are stored.
    pub(crate) shape: Shape,
    /// What is drawn of rows that reach beyond ±180°.
    pub(crate) beyond: Beyond,
    /// True if a row may reach beyond ±180°.
    pub(crate) reaches_beyond: bool,
    /// The grid, if the rows are gathered in cells. Each row then has one position.
    pub(crate) grid: Option<CellGrid>,
    /// True if some rows may have another reference system, because the probe did not read them: the layer's query
    /// returns other rows at each zoom.
    pub(crate) srid_varies: bool,
    /// True if only features within a fraction of a tile's side are candidates; the box of the whole feature is
    /// compared.
    pub(crate) has_candidate_limit: bool,
    /// True if shapes are repaired before they are drawn. The column [`REPAIRED`] must then stand beside the relation.
    pub(crate) repair: bool,
}

impl Placement<'_> {
    /// A row's geometry as SQL, in the reference system of its column. A multipoint of one member is that member, which
    /// `ST_AsMVTGeom` and `ST_AsMVT` write as the same bytes. One with more members stays as it is: `ST_X` raises an
    /// error for it, so no member is ever left out silently.
    pub(crate) fn geometry(&self) -> String {
        if self.repair {
            return REPAIRED.to_owned();
        }
        let stored = self.stored();
        if self.shape.points && self.shape.members {
            return format!(
                "(CASE WHEN ST_NumGeometries({stored}) <= 1 THEN ST_GeometryN({stored}, 1) ELSE {stored} END)"
            );
        }
        stored
    }

    /// A row's geometry as it is stored, for conditions that a spatial index serves.
    pub(crate) fn stored(&self) -> String {
        if self.shape.geography { format!("{}::geometry", self.column) } else { self.column.to_owned() }
    }

    /// The units in which rows may jump from one side of ±180° to the other; `None` if none can.
    pub(crate) fn repair_units(&self) -> Option<EdgeUnits> {
        if self.shape.geography { Some(EdgeUnits::Degrees) } else { self.shape.edge }
    }

    /// Whether the rows are gathered in cells.
    pub(crate) fn is_gathered(&self) -> bool {
        self.grid.is_some()
    }

    /// True if parts of rows beyond ±180° are drawn on the other side of the world. Rows near an area are then also
    /// searched one world farther.
    pub(crate) fn is_wrapped(&self) -> bool {
        self.reaches_beyond && self.beyond == Beyond::Wrap && self.shape.edge.is_some()
    }

    /// True if a drawn row may lie on both sides of ±180° and nowhere in between. False with a limit for candidates,
    /// because the box of such a row reaches around the world.
    pub(crate) fn has_crossing_rows(&self) -> bool {
        self.is_wrapped() && !self.shape.points && !self.is_gathered() && !self.has_candidate_limit
    }

    /// Whether every feature in the tiles is a single point.
    pub(crate) fn draws_points(&self) -> bool {
        self.grid.map_or(self.shape.points, |grid| grid.geometry != CellGeometry::Polygon && !self.plans_cell_boxes())
    }

    /// True if cells are drawn at the mean of their members, but planned by the boxes of the cells. That is so if no
    /// closed formula finds the members: the mean alone does not show where to search for all of them.
    pub(crate) fn plans_cell_boxes(&self) -> bool {
        self.grid.is_some_and(|grid| grid.geometry == CellGeometry::Centroid) && !self.shape.has_closed_form()
    }
}

impl Layer {
    /// Where the layer's rows lie.
    pub(crate) fn placement(&self) -> Placement<'_> {
        Placement {
            column: &self.geometry,
            shape: self.shape,
            beyond: self.beyond,
            reaches_beyond: self.reaches_beyond,
            grid: self.grid(),
            srid_varies: self.asks_each_zoom(),
            has_candidate_limit: self.margin.candidates.is_some(),
            repair: self.repairs(),
        }
    }

    /// True if shapes are repaired before they are drawn: the layer says so, and its rows are no points.
    pub(crate) fn repairs(&self) -> bool {
        self.repair && !self.shape.points && self.cells().is_none() && self.function().is_none()
    }

    /// True if a survey repairs the shapes for all statements of its run. The rows of a query that runs for each tile
    /// may be others than the survey reads.
    pub(crate) fn is_repaired_once(&self) -> bool {
        self.repairs() && !self.asks_each_tile()
    }
}

// Boxes in the reference system of a layer's column.

/// World units that are added to a margin, on each side, for the rounding on the way from world units to coordinates.
pub(crate) const ROUNDING_UNITS: i64 = 2;

/// The boxes to search for the features of a coverage, as arrays of west, south, east and north with one element for
/// each box. `None` if all features are wanted, or the reference system has no closed formula.
pub(crate) fn search_boxes(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> Option<[Vec<f64>; 4]> {
    if coverage.is_world() || !layer.shape.has_closed_form() {
        return None;
    }
    let rects = widest_rects(coverage, zooms)?;
    if coverage.is_part() && spans_world(&rects) {
        return None;
    }
    let mut boxes: Vec<SourceBox> = rects.iter().map(|rect| area_box(layer, rect, rect.zoom)).collect();
    if coverage.is_part() {
        // The tiles of several zooms overlap, and a row must not be returned twice.
        boxes = boxes.into_iter().reduce(SourceBox::<f64>::joined).into_iter().collect();
    }
    let mut columns: [Vec<f64>; 4] = Default::default();
    for own in boxes {
        for source in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(source.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    Some(columns)
}

/// True if the smallest rectangle around `rects` is the world.
fn spans_world(rects: &[TileRect]) -> bool {
    let around = rects.iter().map(|rect| rect.world(0)).reduce(WorldRect::joined);
    around.is_some_and(|all| all.west <= 0 && all.north <= 0 && all.east >= WORLD_UNITS && all.south >= WORLD_UNITS)
}

/// The tiles of a coverage that reach farthest beyond its boxes: those of the shallowest zoom of `zooms`, or of all
/// zooms if the coverage has only some columns of tiles. `None` if `zooms` is empty.
pub(crate) fn widest_rects(coverage: &Coverage, zooms: &[Zoom]) -> Option<Vec<TileRect>> {
    let shallowest = zooms.first()?;
    let zooms = if coverage.is_part() { zooms } else { std::slice::from_ref(shallowest) };
    Some(zooms.iter().flat_map(|zoom| coverage.rects(*zoom)).collect())
}

/// The same box one world farther east and one world farther west, where the rows lie that are wrapped into it. Empty
/// if no row is wrapped.
pub(crate) fn shifted_boxes(layer: &Layer, own: SourceBox) -> impl Iterator<Item = SourceBox> {
    let world_width = layer.shape.edge.filter(|_| layer.placement().is_wrapped()).map(|units| 2.0 * units.half_world());
    world_width.into_iter().flat_map(move |width| {
        [width, -width].map(|by| SourceBox { min_x: own.min_x + by, max_x: own.max_x + by, ..own })
    })
}

/// The box, in degrees or metres, that contains a layer's features of an area, including the buffer.
pub(crate) fn area_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    world_box(layer, rect.world(layer.reach(zoom) + ROUNDING_UNITS))
}

/// A rectangle of the world in the coordinates of the layer's reference system: metres of EPSG:3857, else degrees.
pub(crate) fn world_box(layer: &Layer, rect: WorldRect) -> SourceBox {
    let WorldRect { west, north, east, south } = rect;
    let half = metres(WORLD_UNITS / 2);
    if layer.shape.srid == 3857 {
        return SourceBox {
            min_x: metres(west) - half,
            min_y: half - metres(south),
            max_x: metres(east) - half,
            max_y: half - metres(north),
        };
    }
    SourceBox {
        min_x: longitude(west).max(-180.0),
        min_y: latitude(south).max(-90.0),
        max_x: longitude(east).min(180.0),
        max_y: latitude(north).min(90.0),
    }
}

// The edge of the world at ±180°, and the rows of a layer that reach beyond it.

/// What is drawn of rows that reach beyond ±180°.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Beyond {
    /// They are cut at the edge, and the part beyond is drawn on the other side of the world.
    Wrap,
    /// They are cut at the edge, and the part beyond is not drawn.
    Clip,
    /// They are not drawn.
    Skip,
}

/// The units of a reference system whose x axis is linear in longitude, and 0 on the prime meridian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeUnits {
    /// Longitudes in degrees.
    Degrees,
    /// The metres of EPSG:3857.
    Metres,
}

/// How far from the prime meridian a wrapped row may reach, in halves of the world: 3 is one world beyond the edge.
pub(crate) const MAX_WRAPPED_HALVES: f64 = 3.0;

impl EdgeUnits {
    /// The coordinate at which the world ends: half its width.
    pub(crate) const fn half_world(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 180.0,
            EdgeUnits::Metres => HALF_WORLD_METRES,
        }
    }

    /// How far beyond the edge a row may lie by rounding alone. In degrees, PROJ does not wrap a longitude that is up
    /// to 1e-12 radians beyond it (`adjlon`); in metres, less than a world unit (9.3 mm).
    pub(crate) const fn tolerance(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 5.7e-11,
            EdgeUnits::Metres => 0.009,
        }
    }

    /// The least difference in x that is taken for an edge around the whole world.
    pub(crate) const fn whole_step(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 359.999_999_999_9,
            EdgeUnits::Metres => 40_075_016.67,
        }
    }

    /// Where a ring around a pole is closed: at the pole, or in metres, where that lies infinitely far away, far
    /// outside of every tile.
    pub(crate) const fn beyond_pole(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 90.0,
            EdgeUnits::Metres => 2e8,
        }
    }

    /// The step to which x is snapped before a row is cut: 2^-40 of half the world. Half a step is more than PROJ
    /// leaves unwrapped.
    pub(crate) fn snap_step(self) -> f64 {
        self.half_world() * 2.0_f64.powi(-40)
    }

    /// The smallest single-precision number greater than half the world.
    #[expect(clippy::cast_possible_truncation, reason = "rounded up afterwards")]
    pub(crate) fn next_single(self) -> f64 {
        let half = self.half_world() as f32;
        f64::from(if f64::from(half) > self.half_world() { half } else { half.next_up() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snap_and_tolerance_fit_the_edge() {
        for units in [EdgeUnits::Degrees, EdgeUnits::Metres] {
            let half = units.half_world();
            assert!(units.next_single() > half && (units.next_single() - half) / half < 1.2e-7, "{units:?}");
            // The edge is a multiple of the step, to the bit.
            assert_eq!((half / units.snap_step()).to_bits(), 2.0_f64.powi(40).to_bits());
        }
        // Positions that PROJ does not wrap are snapped onto the edge.
        assert!(EdgeUnits::Degrees.tolerance().to_radians() < 1e-12);
        assert!(EdgeUnits::Degrees.snap_step() / 2.0 > 1e-12_f64.to_degrees());
    }
}
