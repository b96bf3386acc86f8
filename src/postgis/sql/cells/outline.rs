//! The middle, sides and outline of a cell, computed from its code as [`CellGrid`] does.

use crate::cells::{Cell, CellGrid, CellShape, MIDDLE, SQRT_3, THIRD};
use crate::tile::{HALF_WORLD_METRES, LAST_UNIT};

/// Metres of a world unit.
fn metres() -> f64 {
    2.0 * HALF_WORLD_METRES / WORLD_UNITS_F64
}

/// World units along the world, as a double.
pub(in crate::postgis) const WORLD_UNITS_F64: f64 = 2.0 * MIDDLE;

/// A cell decoded from its code: its column, its row, its width in world units and its zoom, all as SQL.
pub(in crate::postgis) struct DecodedCell {
    pub(in crate::postgis) a: String,
    pub(in crate::postgis) b: String,
    pub(in crate::postgis) width: String,
    pub(in crate::postgis) zoom: String,
}

/// The sides of a box in world units as SQL: west, north, east, south.
pub(in crate::postgis) type BoxSides = [String; 4];

impl DecodedCell {
    /// Decodes a cell from its code, its width, and the zoom.
    pub(in crate::postgis) fn of(code: &str, width: &str, zoom: &str) -> DecodedCell {
        DecodedCell {
            a: format!("(({code} >> 32) - {})", Cell::OFFSET),
            b: format!("(({code} & 4294967295) - {})", Cell::OFFSET),
            width: width.to_owned(),
            zoom: zoom.to_owned(),
        }
    }

    /// [`CellGrid::middle`].
    pub(in crate::postgis) fn middle(&self, grid: CellGrid) -> [String; 2] {
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
    pub(in crate::postgis) fn bounds(&self, grid: CellGrid) -> BoxSides {
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
    pub(in crate::postgis) fn polygon(&self, grid: CellGrid) -> String {
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
                // A side of a hexagon is half as long as the hexagon is high, so the ends of the vertical sides lie at a quarter and at three
                // quarters of the height.
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
pub(in crate::postgis) fn unit(coordinate: &str) -> String {
    format!("least(greatest(floor({coordinate}), 0), {LAST_UNIT:?})::int8")
}

/// A point in EPSG:3857 from its position in world units, clamped to the world.
pub(in crate::postgis) fn point([x, y]: &[String; 2]) -> String {
    let clamped =
        |units: &str| format!("least(greatest({units}, 0), {WORLD_UNITS_F64:?}::float8) * {:?}::float8", metres());
    format!(
        "ST_SetSRID(ST_MakePoint({} - {HALF_WORLD_METRES:?}::float8, {HALF_WORLD_METRES:?}::float8 - {}), 3857)",
        clamped(x),
        clamped(y)
    )
}
