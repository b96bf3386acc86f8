//! Where the rows of a layer lie: its geometry column, and what is drawn of rows beyond ±180°.

use super::{Beyond, EdgeUnits, Layer};
use crate::cells::{CellGeometry, CellGrid};

/// How a layer's geometries are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the column")]
pub(crate) struct Shape {
    /// The spatial reference system of the column.
    pub srid: i32,
    /// Whether every geometry is a single point, or a multipoint of one member.
    pub points: bool,
    /// True if some of the single points may be stored as multipoints of one member.
    pub members: bool,
    /// Whether the column is a geography.
    pub geography: bool,
    /// True if there may be curves, which are drawn as lines because tiles cannot hold curves, or surfaces, which are skipped.
    pub curves: bool,
    /// The units of the column, if rows may reach beyond ±180° in it.
    pub edge: Option<EdgeUnits>,
}

impl Shape {
    /// The shape of geometries if only the column's type is known.
    pub(in crate::postgis) const fn of_any(srid: i32, geography: bool) -> Shape {
        Shape { srid, points: false, members: false, geography, curves: true, edge: None }
    }

    /// True if a closed formula gives, for an area of the world, the box in the layer's reference system that contains all features of the
    /// area. EPSG:4326 and EPSG:3857 have one: each axis of one is a monotone function of an axis of the other.
    pub(in crate::postgis) fn has_closed_form(self) -> bool {
        matches!(self.srid, 3857 | 4326)
    }

    /// True if all geometries are points of a system with a closed formula, so that they can be found by area.
    pub(in crate::postgis) fn has_closed_form_points(self) -> bool {
        self.points && self.has_closed_form()
    }
}

/// Everything that decides where the rows of a relation lie. Every statement about positions is built from it, both for rows of a layer and for
/// geometries of the change log.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgis) struct Placement<'a> {
    /// The geometry column, quoted.
    pub(in crate::postgis) column: &'a str,
    /// How the geometries are stored.
    pub(in crate::postgis) shape: Shape,
    /// What is drawn of rows that reach beyond ±180°.
    pub(in crate::postgis) beyond: Beyond,
    /// True if a row may reach beyond ±180°.
    pub(in crate::postgis) reaches_beyond: bool,
    /// The grid, if the rows are gathered in cells. Each row then has one position.
    pub(in crate::postgis) grid: Option<CellGrid>,
    /// True if some rows may have another reference system, because the probe did not read them: the layer's query returns other rows at each zoom.
    pub(in crate::postgis) srid_varies: bool,
    /// True if only features within a fraction of a tile's side are candidates; the box of the whole feature is compared.
    pub(in crate::postgis) has_candidate_limit: bool,
}

impl Placement<'_> {
    /// A row's geometry as SQL, in the reference system of its column. A multipoint of one member is that member, which `ST_AsMVTGeom` and `ST_AsMVT`
    /// write as the same bytes. One with more members stays as it is: `ST_X` raises an error for it, so no member is ever left out silently.
    pub(in crate::postgis) fn geometry(&self) -> String {
        let stored = self.stored();
        if self.shape.points && self.shape.members {
            return format!(
                "(CASE WHEN ST_NumGeometries({stored}) <= 1 THEN ST_GeometryN({stored}, 1) ELSE {stored} END)"
            );
        }
        stored
    }

    /// A row's geometry as it is stored, for conditions that a spatial index serves.
    pub(in crate::postgis) fn stored(&self) -> String {
        if self.shape.geography { format!("{}::geometry", self.column) } else { self.column.to_owned() }
    }

    /// Whether the rows are gathered in cells.
    pub(in crate::postgis) fn is_gathered(&self) -> bool {
        self.grid.is_some()
    }

    /// True if parts of rows beyond ±180° are drawn on the other side of the world. Rows near an area are then also searched one world farther.
    pub(in crate::postgis) fn is_wrapped(&self) -> bool {
        self.reaches_beyond && self.beyond == Beyond::Wrap && self.shape.edge.is_some()
    }

    /// True if a drawn row may lie on both sides of ±180° and nowhere in between. False with a limit for candidates, because the box of
    /// such a row reaches around the world.
    pub(in crate::postgis) fn has_crossing_rows(&self) -> bool {
        self.is_wrapped() && !self.shape.points && !self.is_gathered() && !self.has_candidate_limit
    }

    /// Whether every feature in the tiles is a single point.
    pub(in crate::postgis) fn draws_points(&self) -> bool {
        self.grid.map_or(self.shape.points, |grid| grid.geometry != CellGeometry::Polygon && !self.plans_cell_boxes())
    }

    /// True if cells are drawn at the mean of their members, but planned by the boxes of the cells. That is so if no closed formula finds the
    /// members: the mean alone does not show where to search for all of them.
    pub(in crate::postgis) fn plans_cell_boxes(&self) -> bool {
        self.grid.is_some_and(|grid| grid.geometry == CellGeometry::Centroid) && !self.shape.has_closed_form()
    }
}

impl Layer {
    /// Where the layer's rows lie.
    pub(in crate::postgis) fn placement(&self) -> Placement<'_> {
        Placement {
            column: &self.geometry,
            shape: self.shape,
            beyond: self.beyond,
            reaches_beyond: self.reaches_beyond,
            grid: self.grid(),
            srid_varies: self.asks_each_zoom(),
            has_candidate_limit: self.margin.candidates.is_some(),
        }
    }
}
