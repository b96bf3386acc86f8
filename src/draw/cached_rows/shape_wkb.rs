//! Lines and polygons as well-known binary, as the database sends them.

use crate::mvt::{Parts, Shape, ShapeKind};

/// What the bytes of a geometry say, but for its vertices.
pub(super) struct Parsed {
    pub(super) kind: ShapeKind,
    pub(super) vertices: u32,
    /// The number of lines or polygons.
    pub(super) members: u32,
    /// The width and the height of the box in metres, as the server stores it.
    pub(super) size: [f64; 2],
}

/// Reads WKB.
struct Wkb<'a>(&'a [u8]);

impl<'a> Wkb<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The type of the next geometry.
    fn kind(&mut self) -> Option<u32> {
        (self.take::<1>()? == [1]).then_some(())?;
        self.number()
    }

    /// The bytes of the next vertices, sixteen each.
    fn vertices(&mut self) -> Option<&'a [u8]> {
        let length = (self.number()? as usize).checked_mul(16)?;
        let (vertices, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(vertices)
    }

    /// Calls `each` with the parts of the next geometry, and whether each is a hole, and returns its kind. A polygon among several is of another
    /// kind, and so is everything else, whose parts are not read.
    fn parts(&mut self, each: &mut impl FnMut(&'a [u8], bool)) -> Option<ShapeKind> {
        match self.kind()? {
            2 => {
                each(self.vertices()?, false);
                Some(ShapeKind::Lines)
            }
            3 => {
                for number in 0..self.number()? {
                    each(self.vertices()?, number > 0);
                }
                Some(ShapeKind::Polygon)
            }
            kind @ (5 | 6) => {
                let parts = self.number()?;
                for _ in 0..parts {
                    self.parts(each)?;
                }
                match (kind, parts) {
                    (5, _) => Some(ShapeKind::Lines),
                    (_, 1) => Some(ShapeKind::Polygon),
                    _ => Some(ShapeKind::Other),
                }
            }
            _ => None,
        }
    }
}

fn vertex(bytes: &[u8]) -> Option<[f64; 2]> {
    let (x, y) = bytes.split_first_chunk::<8>()?;
    Some([f64::from_le_bytes(*x), f64::from_le_bytes(*y.first_chunk()?)])
}

impl Parsed {
    /// Reads one geometry from the beginning of the bytes.
    pub(super) fn split(rest: &mut &[u8]) -> Option<Parsed> {
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        let (mut vertices, mut members) = (0_u32, 0_u32);
        let mut wkb = Wkb(rest);
        let kind = wkb.parts(&mut |part, is_hole| {
            vertices += u32::try_from(part.len() / 16).unwrap_or(u32::MAX);
            members += u32::from(!is_hole);
            // The box of a polygon is that of its outer ring (`lwpoly_calculate_gbox`), wherever its holes are.
            for at in part.chunks_exact(16).filter_map(vertex).filter(|_| !is_hole) {
                for axis in 0..2 {
                    low[axis] = low[axis].min(at[axis]);
                    high[axis] = high[axis].max(at[axis]);
                }
            }
        })?;
        *rest = wkb.0;
        let size =
            [0, 1].map(|axis: usize| stored_end(high[axis], f32::next_up) - stored_end(low[axis], f32::next_down));
        Some(Parsed { kind, vertices, members, size })
    }
}

/// An end of a box as the server stores it: in single precision, rounded outwards (`next_float_down`, `next_float_up`
/// of liblwgeom).
#[expect(clippy::cast_possible_truncation, clippy::float_cmp, reason = "what is meant")]
fn stored_end(end: f64, outwards: fn(f32) -> f32) -> f64 {
    let single = end as f32;
    let rounded = f64::from(single);
    // The next number outwards is greater for an upper end, and less for a lower one.
    let is_inside = (rounded < end) == (outwards(0.0) > 0.0) && rounded != end;
    if is_inside { f64::from(outwards(single)) } else { rounded }
}

/// A geometry, read for drawing.
#[derive(Debug, Default)]
pub(super) struct ReadShape {
    vertices: Vec<[f64; 2]>,
    ends: Vec<u32>,
}

impl ReadShape {
    /// Reads the geometry of a row.
    pub(super) fn read(&mut self, wkb: &[u8]) -> Option<ShapeKind> {
        self.vertices.clear();
        self.ends.clear();
        let (vertices, ends) = (&mut self.vertices, &mut self.ends);
        Wkb(wkb).parts(&mut |part, _| {
            vertices.extend(part.chunks_exact(16).filter_map(vertex));
            ends.push(u32::try_from(vertices.len()).unwrap_or(u32::MAX));
        })
    }

    /// Reads a geometry that the database has drawn, whose coordinates are grid units.
    #[expect(clippy::cast_possible_truncation, reason = "an extent and its buffer stay below 2^21")]
    pub(super) fn drawn(&mut self, wkb: &[u8]) -> Option<(ShapeKind, Parts)> {
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

    pub(super) fn shape(&self, kind: ShapeKind, size: [f64; 2]) -> Shape<'_> {
        Shape { kind, vertices: &self.vertices, ends: &self.ends, size }
    }
}

/// The size of the box of a geometry, as the server stores it; `None` if the bytes are broken.
pub(super) fn stored_size(wkb: &[u8]) -> Option<[f64; 2]> {
    let mut rest = wkb;
    Parsed::split(&mut rest).map(|parsed| parsed.size)
}
