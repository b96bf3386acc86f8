//! Geometries of two dimensions as little-endian well-known binary (OGC 06-103r4, section 8), part by part.

/// A point, a line, or a ring of a polygon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WkbPart<'a> {
    /// The number of the polygon that it is a ring of, counted over the whole geometry.
    pub(crate) polygon: Option<u32>,
    /// True if it is a further ring of its polygon.
    pub(crate) is_hole: bool,
    /// Its vertices, sixteen bytes each.
    bytes: &'a [u8],
}

impl WkbPart<'_> {
    /// The number of its vertices.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / VERTEX
    }

    /// Its vertices: x, y.
    pub(crate) fn vertices(&self) -> impl Iterator<Item = [f64; 2]> {
        self.bytes.chunks_exact(VERTEX).filter_map(|vertex| {
            let (x, y) = vertex.split_first_chunk::<8>()?;
            Some([f64::from_le_bytes(*x), f64::from_le_bytes(*y.first_chunk()?)])
        })
    }
}

/// The bytes of a vertex.
const VERTEX: usize = 16;

/// The type of a geometry, as its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WkbKind {
    /// 1 for a point, 2 for a line, 3 for a polygon; 4 to 6 for several of these, and 7 for a collection.
    pub(crate) code: u32,
    /// The number of its members; 1 for a geometry that has none.
    pub(crate) members: u32,
}

/// Reads geometries that follow each other.
#[derive(Debug)]
pub(crate) struct WkbReader<'a> {
    rest: &'a [u8],
    polygons: u32,
}

impl<'a> WkbReader<'a> {
    /// Collections in collections deeper than this are not read.
    const MAX_DEPTH: u32 = 16;

    pub(crate) fn new(bytes: &'a [u8]) -> WkbReader<'a> {
        WkbReader { rest: bytes, polygons: 0 }
    }

    /// The bytes behind the geometries that were read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The number of polygons in the geometries that were read.
    pub(crate) fn polygons(&self) -> u32 {
        self.polygons
    }

    /// Reads the next geometry, and calls `each` with its parts. `None` if the bytes are broken, or it has a type
    /// without straight edges or more than two dimensions, or if `each` returned `None`.
    pub(crate) fn read(&mut self, each: &mut impl FnMut(WkbPart<'a>) -> Option<()>) -> Option<WkbKind> {
        self.geometry(0, each)
    }

    fn geometry(&mut self, depth: u32, each: &mut impl FnMut(WkbPart<'a>) -> Option<()>) -> Option<WkbKind> {
        let is_little_endian = self.take::<1>()? == [1];
        if !is_little_endian || depth > WkbReader::MAX_DEPTH {
            return None;
        }
        let code = self.number()?;
        let mut members = 1;
        match code {
            1 => each(self.part(1)?)?,
            2 => {
                let vertices = self.number()?;
                each(self.part(vertices)?)?;
            }
            3 => {
                let polygon = Some(self.polygons);
                self.polygons += 1;
                for ring in 0..self.number()? {
                    let vertices = self.number()?;
                    each(WkbPart { polygon, is_hole: ring > 0, ..self.part(vertices)? })?;
                }
            }
            4..=7 => {
                members = self.number()?;
                for _ in 0..members {
                    self.geometry(depth + 1, each)?;
                }
            }
            _ => return None,
        }
        Some(WkbKind { code, members })
    }

    fn part(&mut self, vertices: u32) -> Option<WkbPart<'a>> {
        let (bytes, rest) = self.rest.split_at_checked((vertices as usize).checked_mul(VERTEX)?)?;
        self.rest = rest;
        Some(WkbPart { polygon: None, is_hole: false, bytes })
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*first)
    }
}
