//! Lines and polygons as they are cached and drawn, read from well-known binary.

use crate::mvt::{Parts, Shape, ShapeKind};
use crate::postgis::wkb::{WkbKind, WkbReader};
use crate::tile::{single_above, single_below};

/// What the bytes of a geometry say, but for its vertices.
pub(crate) struct Parsed {
    pub(crate) kind: ShapeKind,
    pub(crate) vertices: u32,
    /// The width and the height of the box in metres, as the server stores it.
    pub(crate) size: [f64; 2],
}

/// The kind of a geometry that was read. A polygon among several is of another kind; `None` for anything but lines and
/// polygons, such as points.
fn kind_of(kind: WkbKind) -> Option<ShapeKind> {
    match (kind.code, kind.members) {
        (2 | 5, _) => Some(ShapeKind::Lines),
        (3, _) | (6, 1) => Some(ShapeKind::Polygon),
        (6, _) => Some(ShapeKind::Other),
        _ => None,
    }
}

impl Parsed {
    /// Reads one geometry from the beginning of the bytes.
    pub(crate) fn split(rest: &mut &[u8]) -> Option<Parsed> {
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        let mut vertices = 0_u32;
        let mut wkb = WkbReader::new(rest);
        let read = wkb.read(&mut |part| {
            vertices = vertices.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
            // The box of a polygon is that of its outer ring (`lwpoly_calculate_gbox`), wherever its holes are.
            for at in part.vertices().filter(|_| !part.is_hole) {
                for axis in 0..2 {
                    low[axis] = low[axis].min(at[axis]);
                    high[axis] = high[axis].max(at[axis]);
                }
            }
            Some(())
        })?;
        *rest = wkb.rest();
        let kind = kind_of(read)?;
        // As the server stores a box: in single precision, rounded outwards.
        let size = [0, 1].map(|axis: usize| f64::from(single_above(high[axis])) - f64::from(single_below(low[axis])));
        Some(Parsed { kind, vertices, size })
    }
}

/// A geometry, read for drawing.
#[derive(Debug, Default)]
pub(crate) struct ReadShape {
    vertices: Vec<[f64; 2]>,
    ends: Vec<u32>,
}

impl ReadShape {
    /// Reads the geometry of a row.
    pub(crate) fn read(&mut self, wkb: &[u8]) -> Option<ShapeKind> {
        self.vertices.clear();
        self.ends.clear();
        let (vertices, ends) = (&mut self.vertices, &mut self.ends);
        let read = WkbReader::new(wkb).read(&mut |part| {
            vertices.extend(part.vertices());
            ends.push(u32::try_from(vertices.len()).ok()?);
            Some(())
        })?;
        kind_of(read)
    }

    /// Reads a geometry that the database has drawn, whose coordinates are grid units.
    #[expect(clippy::cast_possible_truncation, reason = "an extent and its buffer stay below 2^21")]
    pub(crate) fn drawn(&mut self, wkb: &[u8]) -> Option<(ShapeKind, Parts)> {
        let kind = self.read(wkb)?;
        // Several polygons are the rings of all of them.
        let kind = if kind == ShapeKind::Lines { kind } else { ShapeKind::Polygon };
        let (mut parts, mut begin) = (Parts::default(), 0);
        for end in &self.ends {
            let part = self.vertices.get(begin..*end as usize)?;
            begin = *end as usize;
            let open = if kind == ShapeKind::Polygon { part.len().checked_sub(1)? } else { part.len() };
            parts.vertices.extend(part[..open].iter().map(|at| at.map(|unit| unit as i32)));
            parts.end_part();
        }
        Some((kind, parts))
    }

    pub(crate) fn shape(&self, kind: ShapeKind, size: [f64; 2]) -> Shape<'_> {
        Shape { kind, vertices: &self.vertices, ends: &self.ends, size }
    }
}

/// The size of the box of a geometry, as the server stores it; `None` if the bytes are broken.
pub(crate) fn stored_size(wkb: &[u8]) -> Option<[f64; 2]> {
    let mut rest = wkb;
    Parsed::split(&mut rest).map(|parsed| parsed.size)
}
