//! How the server at hand draws lines and polygons: examples that it draws are compared with the same ones drawn here.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::shape_wkb::{ReadShape, stored_size};
use crate::mvt::{DrawingRules, Drawn, Forms, Parts, ShapeDrawer, ShapeKind, TileGrid};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;

/// Lets the database draw geometries: WKB in EPSG:3857, and west, south, east and north of the tile of each. `frame` is
/// the extent and the buffer. Returns what each tile shows, `None` for nothing; `None` for all if the database returns
/// a geometry that is neither lines nor polygons.
pub(crate) async fn drawn_by_server<'a>(
    session: &Session,
    layer: &str,
    frame: [u32; 2],
    asked: impl Iterator<Item = (&'a [u8], [f64; 4])>,
) -> Result<Option<Vec<Option<(ShapeKind, Parts)>>>, Error> {
    let (wkb, sides): (Vec<&[u8]>, Vec<[f64; 4]>) = asked.unzip();
    let columns = [0, 1, 2, 3].map(|side: usize| sides.iter().map(|sides| sides[side]).collect::<Vec<f64>>());
    let [extent, buffer] = frame.map(u32::cast_signed);
    let context = format!("layer \"{layer}\", drawing single shapes");
    let mut params: Vec<Param<'_>> = vec![(&wkb, Type::BYTEA_ARRAY)];
    params.extend(columns.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) }));
    let own: [Param<'_>; 2] = [(&extent, Type::INT4), (&buffer, Type::INT4)];
    params.extend(own);
    let (mut drawn, mut read) = (Some(Vec::with_capacity(wkb.len())), ReadShape::default());
    let each = |row: &Row| {
        let shown = row.get::<_, Option<&[u8]>>(0).map(|wkb| read.drawn(wkb));
        match (shown, &mut drawn) {
            (Some(None), _) => drawn = None,
            (shown, Some(drawn)) => drawn.push(shown.flatten()),
            (_, None) => {}
        }
        Ok(())
    };
    session.each(&context, sql::DRAWN_SHAPES, &params, each).await?;
    Ok(drawn)
}

/// The rules by which the server draws the examples; `None` if it draws one of them in another way than is known.
pub(crate) async fn rules_of_server(session: &Session, layer: &str) -> Result<Option<DrawingRules>, Error> {
    let examples = examples();
    let asked = examples.iter().map(|wkb| (&wkb[..], SIDES));
    let Some(server) = drawn_by_server(session, layer, [EXTENT, BUFFER], asked).await? else { return Ok(None) };
    let are_same = |rules: &DrawingRules| {
        let own = examples.iter().map(|wkb| drawn_here(wkb, *rules));
        own.zip(&server).all(|(own, server)| own.as_ref() == Some(server))
    };
    Ok(DrawingRules::ALL.into_iter().find(are_same))
}

/// What a tile with the sides of the examples shows of one; `None` if that is not known.
#[expect(clippy::option_option, reason = "nothing is shown, or it is not known")]
fn drawn_here(wkb: &[u8], rules: DrawingRules) -> Option<Option<(ShapeKind, Parts)>> {
    let (mut read, mut drawer) = (ReadShape::default(), ShapeDrawer::default());
    let kind = read.read(wkb)?;
    let shape = read.shape(kind, stored_size(wkb)?);
    match drawer.draw(shape, &TileGrid::new(SIDES, EXTENT, BUFFER), rules, &Forms::default()) {
        Drawn::Unknown | Drawn::SameAnywhere(_) => None,
        Drawn::Nothing => Some(None),
        Drawn::Parts => Some(Some((kind, drawer.parts().clone()))),
    }
}

const EXTENT: u32 = 4096;

const BUFFER: u32 = 64;

/// The sides of the tile of all examples, 8514/5504 at zoom 14: west, south, east, north.
const SIDES: [f64; 4] = [787_607.139_450_457, 6_572_361.440_072_594, 790_053.124_355_580_7, 6_574_807.424_977_72];

/// A line, or a polygon with its rings, in grid units.
enum Example {
    Line(&'static [[f64; 2]]),
    Polygon(&'static [&'static [[f64; 2]]]),
}

/// One for each step, and for each rule one that comes out otherwise without it.
const EXAMPLES: &[Example] = &[
    Example::Line(&[[10.2, 10.0], [20.0, 10.4], [30.0, 10.0], [40.0, 20.0]]),
    // A vertex beside the straight line by less than half a unit, and by a whole one once all are rounded: PostGIS 3.1
    // leaves it out before it rounds.
    Example::Line(&[[100.2, 100.2], [150.4, 150.9], [200.2, 200.2]]),
    // Too small.
    Example::Line(&[[10.1, 10.1], [10.4, 10.4], [10.2, 10.5]]),
    // There and back, with and without a way on.
    Example::Line(&[[10.0, 10.0], [20.0, 10.0], [10.0, 10.0], [10.0, 30.0]]),
    Example::Line(&[[10.0, 10.0], [20.0, 10.0], [10.0, 10.0]]),
    // Cut where rounding decides.
    Example::Line(&[[4561.0, 0.0], [3007.0, 777.0]]),
    Example::Line(&[[4374.0, 0.0], [3042.0, 333.0], [3042.0, -500.0], [100.0, -64.0], [200.0, -64.0], [200.0, 10.0]]),
    // A square, and one with a hole; the rings in both directions.
    Example::Polygon(&[&[[10.0, 10.0], [30.0, 14.0], [26.0, 34.0], [6.0, 30.0], [10.0, 10.0]]]),
    Example::Polygon(&[&[[10.0, 10.0], [10.0, 30.0], [30.0, 30.0], [30.0, 10.0], [10.0, 10.0]]]),
    Example::Polygon(&[
        &[[10.0, 10.0], [40.0, 10.0], [40.0, 50.0], [10.0, 40.0], [10.0, 10.0]],
        &[[20.0, 20.0], [30.0, 20.0], [30.0, 30.0], [20.0, 30.0], [20.0, 20.0]],
    ]),
    // An edge in the north, with a step on the way up.
    Example::Polygon(&[&[
        [10.0, 10.0],
        [50.0, 10.0],
        [50.0, 30.0],
        [30.0, 30.0],
        [30.0, 50.0],
        [10.0, 50.0],
        [10.0, 10.0],
    ]]),
    Example::Polygon(&[&[
        [50.0, 10.0],
        [10.0, 10.0],
        [10.0, 30.0],
        [30.0, 30.0],
        [30.0, 50.0],
        [50.0, 50.0],
        [50.0, 10.0],
    ]]),
    // Cut at two sides of the tile and its buffer.
    Example::Polygon(&[&[[4100.0, -100.0], [4300.0, 20.0], [4111.0, 200.0], [3950.0, 30.0], [4100.0, -100.0]]]),
    Example::Polygon(&[&[[-200.0, -200.0], [5000.0, -200.0], [5000.0, 5000.0], [-200.0, 5000.0], [-200.0, -200.0]]]),
];

/// A line in metres, whose longitudes lie so near the middle of two grid units that they are rounded otherwise if a
/// product and a sum are computed in one step, as some processors can.
const NEAR_MIDDLES: [[f64; 2]; 4] = [
    [787_668.348_789_513_5, 6_573_000.0],
    [787_668.945_953_796_9, 6_573_100.0],
    [787_670.737_446_647_4, 6_573_000.0],
    [787_671.334_610_930_8, 6_573_100.0],
];

/// The examples in metres, as WKB.
fn examples() -> Vec<Vec<u8>> {
    let [west, south, east, north] = SIDES;
    let [width, height] = [east - west, north - south].map(|side| side / f64::from(EXTENT));
    let metres = |part: &&[[f64; 2]]| part.iter().map(|[x, y]| [west + x * width, north - y * height]).collect();
    let in_metres = EXAMPLES.iter().map(|example| match example {
        Example::Line(line) => wkb(LINE, &[metres(line)]),
        Example::Polygon(rings) => wkb(POLYGON, &rings.iter().map(metres).collect::<Vec<_>>()),
    });
    in_metres.chain([wkb(LINE, &[NEAR_MIDDLES.to_vec()])]).collect()
}

const LINE: u32 = 2;

const POLYGON: u32 = 3;

/// A line or a polygon as little-endian WKB (OGC 06-103r4, section 8).
fn wkb(kind: u32, parts: &[Vec<[f64; 2]>]) -> Vec<u8> {
    let mut bytes = vec![1];
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(kind.to_le_bytes());
    if kind == POLYGON {
        bytes.extend(count(parts.len()));
    }
    for part in parts {
        bytes.extend(count(part.len()));
        bytes.extend(part.iter().flatten().flat_map(|coordinate| coordinate.to_le_bytes()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rule shows in an example, and each example is drawn here.
    #[test]
    fn the_examples_tell_the_rules_apart() {
        let drawn = DrawingRules::ALL.map(|rules| {
            examples().iter().map(|wkb| drawn_here(wkb, rules).expect("a known way to draw it")).collect::<Vec<_>>()
        });
        for (number, one) in drawn.iter().enumerate() {
            assert!(drawn[..number].iter().all(|other| other != one), "{number}");
        }
        // They would not be where they are if a product and a sum were computed in one step.
        let [west, _, east, _] = SIDES;
        let (scale, offset) = (f64::from(EXTENT) / (east - west), -west * (f64::from(EXTENT) / (east - west)));
        for [x, _] in NEAR_MIDDLES {
            let [two_steps, one_step] = [scale * x + offset, scale.mul_add(x, offset)].map(f64::round_ties_even);
            assert!(two_steps.to_bits() != one_step.to_bits(), "{x}");
        }
    }
}
