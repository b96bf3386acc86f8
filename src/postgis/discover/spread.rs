//! How the lines and polygons of a column are spread over the tiles of each zoom, extrapolated from a sample.

use tokio_postgres::types::Type;

use crate::postgis::session::{Error, Param, Session};
use crate::tile::{LonLatBox, SourceBox, unit_y};

/// The deepest zoom of a draft, at which a street fills the screen, and the deepest one whose tiles are counted.
pub(crate) const DEEPEST: u8 = 14;

/// A large shape is as large on the map this many zooms before a shape of mean size.
pub(crate) const LARGE_ZOOMS: u8 = 4;

/// The number of rows, about, that are counted. Half a million rows that lie evenly over a continent took 10 s, because
/// almost each is alone in its tile.
const COUNTED_ROWS: f64 = 100_000.0;

/// The width and height of a box in degrees as shares of the Web Mercator world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorldShare {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl WorldShare {
    pub(crate) const WHOLE: WorldShare = WorldShare { width: 1.0, height: 1.0 };

    pub(crate) fn of(degrees: &LonLatBox) -> WorldShare {
        let width = ((degrees.east - degrees.west) / 360.0).clamp(0.0, 1.0);
        WorldShare { width, height: (unit_y(degrees.south) - unit_y(degrees.north)).clamp(0.0, 1.0) }
    }

    /// The number of tiles of a zoom that the box touches.
    pub(crate) fn tiles(self, zoom: u8) -> f64 {
        let side = f64::from(zoom).exp2();
        (self.width * side + 1.0).min(side) * (self.height * side + 1.0).min(side)
    }
}

/// Each shape is counted in the tile in which its box begins. Between the parallels of its extent, tiles are taken to
/// be equally high in the column's own units.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShapeSpread {
    /// The share of the shapes that are large.
    pub(crate) large: f64,
    /// The most shapes of a tile at each zoom, zoom 0 first.
    pub(crate) densest: Vec<f64>,
    /// The most tiles that can have shapes at each zoom.
    pub(crate) tiles: Vec<f64>,
}

/// What is read of a relation.
pub(crate) struct Sampled {
    /// An item of a FROM list.
    pub(crate) table: String,
    /// The number of its rows.
    pub(crate) rows: u64,
    /// The number of rows of the relation.
    pub(crate) all: u64,
}

impl ShapeSpread {
    /// Reads the geometries in `column`, quoted, within the box `own`, which is `share` of the world. Their mean side
    /// is `mean`, in the units of the column.
    pub(crate) async fn of(
        session: &Session,
        read: &Sampled,
        column: &str,
        own: &SourceBox,
        share: WorldShare,
        mean: f64,
    ) -> Result<ShapeSpread, Error> {
        let [west, south, east, north] = own.sides();
        let large = mean * f64::from(LARGE_ZOOMS).exp2();
        let counted = (COUNTED_ROWS / read.rows as f64).min(1.0);
        let per_unit = |share: f64, side: f64| if side > 0.0 { share * f64::from(DEEPEST).exp2() / side } else { 0.0 };
        let (across, up) = (per_unit(share.width, east - west), per_unit(share.height, north - south));
        let params: [Param<'_>; 6] =
            [&west, &south, &across, &up, &large, &counted].map(|value| (value as _, Type::FLOAT8));
        let context = format!("counting the shapes of {}", read.table);
        let row = session.one(&context, &statement(&read.table, column), &params).await?;
        let all = read.all as f64 / (read.rows as f64 * counted).max(1.0);
        let extrapolated = |counts: Vec<f64>| counts.into_iter().map(|count| count * all).collect();
        Ok(ShapeSpread { large: row.get(0), densest: extrapolated(row.get(1)), tiles: extrapolated(row.get(2)) })
    }
}

/// Counts in the tiles of the deepest zoom, and adds four tiles up at each other zoom. The parameters are the west and
/// south of the extent, the tiles of a unit across and up, the side of a large shape, and the share of the rows.
fn statement(table: &str, column: &str) -> String {
    let mut counts = format!(
        "z{DEEPEST} AS (
    SELECT floor((ST_XMin(g) - $1) * $3)::int AS x, floor((ST_YMin(g) - $2) * $4)::int AS y, count(*) AS shapes,
        count(*) FILTER (WHERE greatest(ST_XMax(g) - ST_XMin(g), ST_YMax(g) - ST_YMin(g)) >= $5) AS large
    FROM (SELECT {column}::geometry AS g FROM {table} WHERE random() < $6) AS drawn
    WHERE NOT ST_IsEmpty(g) GROUP BY 1, 2
)"
    );
    for zoom in (0..DEEPEST).rev() {
        counts.push_str(&format!(
            ", z{zoom} AS (SELECT x / 2 AS x, y / 2 AS y, sum(shapes)::int8 AS shapes FROM z{} GROUP BY 1, 2)",
            zoom + 1
        ));
    }
    let of_zoom = |zoom: u8| format!("SELECT {zoom} AS zoom, max(shapes) AS densest, count(*) AS tiles FROM z{zoom}");
    format!(
        "WITH {counts}
SELECT coalesce((SELECT sum(large) / sum(shapes) FROM z{DEEPEST}), 0)::float8,
    array_agg(coalesce(densest, 0) ORDER BY zoom)::float8[], array_agg(tiles ORDER BY zoom)::float8[]
FROM ({}) AS zooms",
        (0..=DEEPEST).map(of_zoom).collect::<Vec<_>>().join(" UNION ALL ")
    )
}
