//! Outlines of lines and polygons, from WKB.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::tile::{BoxFootprint, Footprints, HALF_WORLD_METRES, Outline, OutlinedBoxes};

/// The most memory for the outlines of a layer. Further features are planned by their boxes.
const MAX_OUTLINES_BYTES: usize = 64 << 20;

/// The outlines of a layer's features.
#[derive(Default)]
pub(super) struct Outlines {
    known: BTreeMap<u32, Outline>,
    bytes: usize,
    /// How many of them are of areas that are not valid.
    invalid: u64,
}

impl Outlines {
    /// Adds the outline of the feature with an index, if the row has one: the columns 6 and 7 (`postgis/sql/survey.rs`).
    pub(super) fn add(&mut self, index: usize, row: &Row) {
        let (Some(wkb), Ok(index)) = (row.get::<_, Option<&[u8]>>(6), u32::try_from(index)) else { return };
        // WKB takes sixteen bytes for a vertex.
        if self.bytes + wkb.len() / 16 * Outline::VERTEX_SIZE > MAX_OUTLINES_BYTES {
            return;
        }
        let Some((mut outline, polygons)) = outline(wkb) else { return };
        outline.is_valid_area = row.get::<_, Option<bool>>(7) == Some(true);
        self.invalid += u64::from(polygons > 0 && !outline.is_valid_area);
        self.bytes += outline.bytes();
        self.known.insert(index, outline);
    }

    /// How many of the outlines are of areas that are not valid polygons, if that was asked for.
    pub(super) const fn invalid(&self) -> u64 {
        self.invalid
    }

    /// The boxes of all features with these outlines.
    pub(super) fn with(self, boxes: Vec<BoxFootprint>) -> Footprints {
        if self.known.is_empty() {
            return Footprints::Boxes(boxes);
        }
        Footprints::Outlined(OutlinedBoxes { boxes, outlines: self.known })
    }
}

/// The outline of a geometry in EPSG:3857, as little-endian WKB of two dimensions (OGC 06-103r4, section 8), and how many polygons it has. `None`
/// if it has a type without straight edges, or lies far outside of the world.
pub(super) fn outline(wkb: &[u8]) -> Option<(Outline, u32)> {
    let mut reader = Wkb { bytes: wkb, polygons: 0, outline: Outline::default() };
    reader.geometry(0)?;
    Some((reader.outline, reader.polygons))
}

/// WKB that is read.
struct Wkb<'a> {
    bytes: &'a [u8],
    /// The number of polygons up to now.
    polygons: u32,
    outline: Outline,
}

impl Wkb<'_> {
    /// Collections in collections deeper than this are not read.
    const MAX_DEPTH: u32 = 16;

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn geometry(&mut self, depth: u32) -> Option<()> {
        let little_endian = self.take::<1>()? == [1];
        if !little_endian || depth > Wkb::MAX_DEPTH {
            return None;
        }
        match self.number()? {
            1 => self.part(1, None),
            2 => {
                let vertices = self.number()?;
                self.part(vertices, None)
            }
            3 => {
                let polygon = self.polygons;
                self.polygons += 1;
                for _ in 0..self.number()? {
                    let vertices = self.number()?;
                    self.part(vertices, Some(polygon))?;
                }
                Some(())
            }
            4..=7 => {
                for _ in 0..self.number()? {
                    self.geometry(depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// The vertices of a point, a line or a ring.
    fn part(&mut self, vertices: u32, polygon: Option<u32>) -> Option<()> {
        self.outline.begin(polygon);
        for _ in 0..vertices {
            let [x, y] = [self.take().map(f64::from_le_bytes)?, self.take().map(f64::from_le_bytes)?];
            let share = |metres: f64| (metres + HALF_WORLD_METRES) / (2.0 * HALF_WORLD_METRES);
            if !self.outline.add([share(x), share(-y)]) {
                return None;
            }
        }
        self.outline.end();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{OutlineRun, TileRect, Zoom};

    fn polygon(rings: &[&[[f64; 2]]]) -> Vec<u8> {
        let mut wkb = vec![1, 3, 0, 0, 0];
        wkb.extend(u32::try_from(rings.len()).unwrap().to_le_bytes());
        for ring in rings {
            wkb.extend(u32::try_from(ring.len()).unwrap().to_le_bytes());
            // Shares of the world.
            for [x, y] in *ring {
                wkb.extend(((x - 0.5) * 2.0 * HALF_WORLD_METRES).to_le_bytes());
                wkb.extend(((0.5 - y) * 2.0 * HALF_WORLD_METRES).to_le_bytes());
            }
        }
        wkb
    }

    #[test]
    fn a_polygon_with_a_hole_touches_its_edges_and_its_inside() {
        let ring = |from: f64, to: f64| [[from, from], [to, from], [to, to], [from, to], [from, from]];
        let (outer, hole) = (ring(0.06, 0.94), ring(0.32, 0.68));
        let (mut outline, polygons) = outline(&polygon(&[&outer, &hole])).unwrap();
        assert_eq!(polygons, 1);
        outline.is_valid_area = true;
        let zoom = Zoom::new(3).unwrap();
        let tiles = outline.tiles(0.02, &TileRect { zoom, x0: 0, y0: 0, x1: 7, y1: 7 });
        let run = |x, y0, y1, is_interior| OutlineRun { x, y0, y1, is_interior };
        let column = |x: u32| tiles.iter().filter(|run| run.x == x).copied().collect::<Vec<_>>();
        assert_eq!(column(0), [run(0, 0, 7, false)]);
        assert_eq!(column(1), [run(1, 0, 0, false), run(1, 1, 6, true), run(1, 7, 7, false)]);
        // The tiles 3 and 4 of the columns 3 and 4 lie in the hole.
        assert_eq!(
            column(3),
            [
                run(3, 0, 0, false),
                run(3, 1, 1, true),
                run(3, 2, 2, false),
                run(3, 5, 5, false),
                run(3, 6, 6, true),
                run(3, 7, 7, false)
            ]
        );
    }

    #[test]
    fn what_is_no_wkb_of_straight_edges_has_no_outline() {
        assert_eq!(outline(&[]), None);
        assert_eq!(outline(&[0, 0, 0, 0, 1]), None);
        assert_eq!(outline(&[1, 8, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(outline(&[1, 2, 0, 0, 0, 255, 255, 255, 255]), None);
        let far = polygon(&[&[[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]]);
        assert_eq!(outline(&far), None);
    }
}
