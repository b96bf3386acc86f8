//! Outlines of lines and polygons, from WKB.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::tile::{BoxFootprint, Footprints, HALF_WORLD_METRES, Outline, OutlinedBoxes};

/// The most memory for the outlines of a layer. Further features are planned by their boxes.
const MAX_OUTLINES_BYTES: usize = 64 << 20;

/// The outlines of a layer's features.
pub(super) struct Outlines {
    /// True if a feature looks the same in all tiles that it fills.
    are_alike: bool,
    /// True if `ST_AsMVTGeom` clips each ring of a polygon by itself ([`Outline`]).
    are_clipped_by_rings: bool,
    known: BTreeMap<u32, Outline>,
    bytes: usize,
    /// The number of outlines of areas that are not valid.
    invalid: u64,
}

impl Outlines {
    /// An empty collection. The arguments are the fields of [`Outlines`].
    pub(super) const fn new(are_alike: bool, are_clipped_by_rings: bool) -> Outlines {
        Outlines { are_alike, are_clipped_by_rings, known: BTreeMap::new(), bytes: 0, invalid: 0 }
    }

    /// Adds the outline of the feature with this index, if the row has one in its columns 6 and 7 (`postgis/sql/survey.rs`).
    pub(super) fn add(&mut self, index: usize, row: &Row) {
        let (Some(wkb), Ok(index)) = (row.get::<_, Option<&[u8]>>(6), u32::try_from(index)) else { return };
        // WKB takes sixteen bytes for a vertex.
        if self.bytes + wkb.len() / 16 * Outline::VERTEX_SIZE > MAX_OUTLINES_BYTES {
            return;
        }
        let Some((mut outline, polygons)) = outline(wkb) else { return };
        let is_valid_area = row.get::<_, Option<bool>>(7) == Some(true);
        outline.has_interior = self.are_alike && (is_valid_area || self.are_clipped_by_rings);
        outline.is_clipped_by_rings = self.are_clipped_by_rings;
        self.invalid += u64::from(polygons > 0 && !is_valid_area);
        self.bytes += outline.bytes();
        self.known.insert(index, outline);
    }

    /// The number of outlines of areas that are not valid polygons. It is meaningful only if the statement checked validity.
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

/// A reader of WKB.
struct Wkb<'a> {
    bytes: &'a [u8],
    /// The number of polygons read so far.
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
    use crate::tile::{OutlineRun, RingDirection, TileRect, Zoom};

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
        outline.has_interior = true;
        let zoom = Zoom::new(3).unwrap();
        let tiles = outline.tiles(0.02, &TileRect { zoom, x0: 0, y0: 0, x1: 7, y1: 7 });
        let run = |x, y0, y1, is_interior: bool| OutlineRun {
            x,
            y0,
            y1,
            interior: is_interior.then_some(RingDirection::Clockwise),
        };
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

    /// The tile 4/4 of zoom 3: the direction of the one outer ring around it; empty if the tile is not planned.
    fn inside(rings: &[&[[f64; 2]]], is_clipped_by_rings: bool) -> Vec<Option<RingDirection>> {
        let (mut outline, _) = outline(&polygon(rings)).unwrap();
        (outline.has_interior, outline.is_clipped_by_rings) = (true, is_clipped_by_rings);
        let runs = outline.tiles(0.02, &TileRect { zoom: Zoom::new(3).unwrap(), x0: 0, y0: 0, x1: 7, y1: 7 });
        runs.iter().filter(|run| run.x == 4 && (run.y0..=run.y1).contains(&4)).map(|run| run.interior).collect()
    }

    #[test]
    fn what_a_tile_shows_follows_from_the_rings_around_it_whether_the_polygon_is_valid_or_not() {
        let ring = |from: f64, to: f64| [[from, from], [to, from], [to, to], [from, to], [from, from]];
        let turned = |ring: [[f64; 2]; 5]| {
            let mut turned = ring;
            turned.reverse();
            turned
        };
        let (clockwise, counterclockwise) = (Some(RingDirection::Clockwise), Some(RingDirection::Counterclockwise));
        let outer = ring(0.1, 0.9);
        let far = [[0.2, 2.5], [0.8, 2.5], [0.5, 2.5], [0.2, 2.5]];
        let beside = ring(0.1, 0.2);
        let twice = [ring(0.1, 0.9).as_slice(), &ring(0.12, 0.88)[..], &[[0.1, 0.1]]].concat();
        // The western lobe of a bow tie.
        let bow = [[0.3, 0.3], [0.3, 0.9], [3.0, 0.3], [3.0, 0.9], [0.3, 0.3]];
        for (rings, expected) in [
            (vec![&outer[..]], vec![clockwise]),
            (vec![&turned(outer)[..]], vec![counterclockwise]),
            // Crossed elsewhere.
            (
                vec![&[&outer[..4], &[[0.1, 0.15], [0.05, 0.12], [0.15, 0.1], [0.1, 0.1]][..]].concat()[..]],
                vec![clockwise],
            ),
            // A hole around the tile in an outer ring around it, and one elsewhere.
            (vec![&outer[..], &ring(0.3, 0.8)[..]], vec![]),
            (vec![&outer[..], &beside[..]], vec![clockwise]),
            // Around the tile twice, as one ring.
            (vec![&twice[..]], vec![]),
            // A hole outside of its outer ring, which lies next to the tile: what is drawn depends on the tile.
            (vec![&beside[..], &outer[..]], vec![None]),
            // The outer ring lies beyond all tiles, as that of Antarctica may: nothing is drawn.
            (vec![&far[..], &outer[..]], vec![]),
            (vec![&bow[..]], vec![counterclockwise]),
            (vec![&turned(bow)[..]], vec![clockwise]),
        ] {
            assert_eq!(inside(&rings, true), expected, "{rings:?}");
        }
        // Unless rings are clipped one by one.
        assert_eq!(inside(&[&far[..], &outer[..]], false), [None]);
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
