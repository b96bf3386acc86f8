//! Draws a deeper tile from one of its ancestors: the ancestor's features are clipped to the area of the deeper tile
//! and scaled to it.
//!
//! The features keep their ids, properties and order. Detail that the deeper tile itself would have is missing, as when
//! a map client enlarges the ancestor.

use std::collections::HashMap;

use super::geometry::{MvtGeometry, Position, twice_the_area};
use super::wire::{put_bytes, put_number, put_packed};
use super::{MvtError, MvtLayer, MvtValue, decode};
use crate::tile::TileCoord;

/// The buffer around the deeper tile is the extent divided by this: 64 units of 4096, which is the default of a layer.
const EXTENT_PER_BUFFER: i64 = 64;

/// The place of a tile in one of its ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileDescent {
    /// The difference of the zooms.
    levels: u8,
    /// The column and the row among the ancestor's descendants of that zoom, counted from its upper left corner.
    column: u32,
    row: u32,
}

impl TileDescent {
    /// The place of `tile` in `ancestor`; `None` if `tile` does not lie in it.
    pub fn new(ancestor: TileCoord, tile: TileCoord) -> Option<TileDescent> {
        let levels = tile.zoom().get().checked_sub(ancestor.zoom().get())?;
        let is_below = tile.x() >> levels == ancestor.x() && tile.y() >> levels == ancestor.y();
        let mask = (1_u32 << levels) - 1;
        is_below.then_some(TileDescent { levels, column: tile.x() & mask, row: tile.y() & mask })
    }

    /// A position of the ancestor in units of the deeper tile.
    fn moved(self, [x, y]: Position, extent: u32) -> [i64; 2] {
        let along = |at: i32, place: u32| (i64::from(at) << self.levels) - i64::from(place) * i64::from(extent);
        [along(x, self.column), along(y, self.row)]
    }
}

/// Draws a deeper tile from its ancestor; empty if there is nothing to draw. `raw` is the ancestor's uncompressed tile.
/// Fails if the ancestor violates MVT 2.1.
pub fn overzoomed(raw: &[u8], descent: TileDescent) -> Result<Vec<u8>, MvtError> {
    let mut tile = Vec::new();
    for layer in decode(raw)? {
        let mut bytes = Vec::new();
        if put_layer(&mut bytes, &layer, descent) {
            put_bytes(&mut tile, 3, &bytes);
        }
    }
    Ok(tile)
}

/// Appends the part of a layer that is left after clipping; false if nothing is left.
fn put_layer(bytes: &mut Vec<u8>, layer: &MvtLayer<'_>, descent: TileDescent) -> bool {
    let buffer = (i64::from(layer.extent) / EXTENT_PER_BUFFER).max(1);
    let clip = TileSquare { min: -buffer, max: i64::from(layer.extent) + buffer };
    put_bytes(bytes, 1, layer.name.as_bytes());
    let (mut keys, mut values) = (Renumbered::default(), Renumbered::default());
    let mut is_drawn = false;
    for feature in &layer.features {
        let Some(geometry) = cut(&feature.geometry, layer.extent, descent, clip) else { continue };
        is_drawn = true;
        let mut tags = Vec::new();
        for tag in feature.tags.chunks_exact(2) {
            put_packed(&mut tags, keys.number(tag[0]));
            put_packed(&mut tags, values.number(tag[1]));
        }
        let mut own = Vec::new();
        if let Some(id) = feature.id {
            put_number(&mut own, 1, id);
        }
        if !tags.is_empty() {
            put_bytes(&mut own, 2, &tags);
        }
        put_geometry(&mut own, &geometry);
        put_bytes(bytes, 2, &own);
    }
    for key in &keys.old {
        put_bytes(bytes, 3, layer.keys[*key as usize].as_bytes());
    }
    for value in &values.old {
        put_bytes(bytes, 4, &value_bytes(layer.values[*value as usize]));
    }
    put_number(bytes, 5, layer.extent.into());
    put_number(bytes, 15, 2);
    is_drawn
}

/// Numbers the keys or values that are left, in the order of their first occurrence in the features.
#[derive(Default)]
struct Renumbered {
    old: Vec<u32>,
    new: HashMap<u32, u64>,
}

impl Renumbered {
    fn number(&mut self, old: u32) -> u64 {
        *self.new.entry(old).or_insert_with(|| {
            self.old.push(old);
            self.old.len() as u64 - 1
        })
    }
}

/// A geometry scaled to the deeper tile and clipped; `None` if nothing is left of it.
fn cut(geometry: &MvtGeometry, extent: u32, descent: TileDescent, clip: TileSquare) -> Option<MvtGeometry> {
    let moved = |path: &[Position]| -> Vec<[i64; 2]> { path.iter().map(|at| descent.moved(*at, extent)).collect() };
    match geometry {
        MvtGeometry::Unknown => None,
        MvtGeometry::Points(points) => {
            let points = clip.points(&moved(points));
            (!points.is_empty()).then_some(MvtGeometry::Points(points))
        }
        MvtGeometry::Lines(lines) => {
            let lines: Vec<_> = lines.iter().flat_map(|line| clip.line(&moved(line))).collect();
            (!lines.is_empty()).then_some(MvtGeometry::Lines(lines))
        }
        MvtGeometry::Polygons(polygons) => {
            let polygon = |rings: &Vec<Vec<Position>>| {
                let (outer, holes) = rings.split_first()?;
                let outer = clip.ring(moved(outer))?;
                let holes = holes.iter().filter_map(|hole| clip.ring(moved(hole)));
                Some(std::iter::once(outer).chain(holes).collect())
            };
            let polygons: Vec<_> = polygons.iter().filter_map(polygon).collect();
            (!polygons.is_empty()).then_some(MvtGeometry::Polygons(polygons))
        }
    }
}

/// Appends the type and the commands of a geometry to a feature (section 4.3).
fn put_geometry(feature: &mut Vec<u8>, geometry: &MvtGeometry) {
    let mut commands = CommandWriter::default();
    let kind = match geometry {
        MvtGeometry::Unknown => 0,
        MvtGeometry::Points(points) => {
            commands.positions(MOVE_TO, points);
            1
        }
        MvtGeometry::Lines(lines) => {
            for line in lines {
                commands.path(line);
            }
            2
        }
        MvtGeometry::Polygons(polygons) => {
            for ring in polygons.iter().flatten() {
                commands.path(ring);
                commands.command(CLOSE_PATH, 1);
            }
            3
        }
    };
    put_number(feature, 3, kind);
    put_bytes(feature, 4, &commands.bytes);
}

const MOVE_TO: u64 = 1;
const LINE_TO: u64 = 2;
const CLOSE_PATH: u64 = 7;

/// Writes commands; the cursor begins at the tile's upper left corner.
#[derive(Default)]
struct CommandWriter {
    bytes: Vec<u8>,
    cursor: Position,
}

impl CommandWriter {
    fn command(&mut self, command: u64, count: usize) {
        put_packed(&mut self.bytes, command | (count as u64) << 3);
    }

    fn positions(&mut self, command: u64, positions: &[Position]) {
        self.command(command, positions.len());
        for position in positions {
            for (to, from) in position.iter().zip(&self.cursor) {
                let step = i64::from(*to) - i64::from(*from);
                put_packed(&mut self.bytes, ((step << 1) ^ (step >> 63)).cast_unsigned());
            }
            self.cursor = *position;
        }
    }

    fn path(&mut self, path: &[Position]) {
        let (first, rest) = path.split_at(path.len().min(1));
        self.positions(MOVE_TO, first);
        self.positions(LINE_TO, rest);
    }
}

/// An encoded value (section 4.1).
fn value_bytes(value: MvtValue<'_>) -> Vec<u8> {
    const FIXED_32: u64 = 5;
    const FIXED_64: u64 = 1;
    let mut bytes = Vec::new();
    match value {
        MvtValue::Text(text) => put_bytes(&mut bytes, 1, text.as_bytes()),
        MvtValue::Float(number) => {
            put_packed(&mut bytes, 2 << 3 | FIXED_32);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        MvtValue::Double(number) => {
            put_packed(&mut bytes, 3 << 3 | FIXED_64);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        MvtValue::Int(number) => put_number(&mut bytes, 4, number.cast_unsigned()),
        MvtValue::Uint(number) => put_number(&mut bytes, 5, number),
        MvtValue::Sint(number) => put_number(&mut bytes, 6, ((number << 1) ^ (number >> 63)).cast_unsigned()),
        MvtValue::Bool(is) => put_number(&mut bytes, 7, is.into()),
    }
    bytes
}

// Clipping to a square: points, lines by their segments, rings by Sutherland and Hodgman's algorithm (Communications of
// the ACM 17, 1974).

/// The square in which everything is kept, including its edges: from `min` to `max` along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileSquare {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// A position before clipping, which may lie far outside of the square.
type FarPosition = [i64; 2];

/// One side of the square: the axis across it, and the edge that bounds it.
#[derive(Debug, Clone, Copy)]
struct SquareEdge {
    axis: usize,
    at: i64,
    is_upper: bool,
}

impl SquareEdge {
    fn holds(self, position: FarPosition) -> bool {
        let along = position[self.axis];
        if self.is_upper { along <= self.at } else { along >= self.at }
    }

    /// The position at which the segment between two positions on different sides of the edge crosses it, rounded to
    /// the grid.
    fn crossing(self, from: FarPosition, to: FarPosition) -> FarPosition {
        let other = 1 - self.axis;
        let [across, part] = [to[self.axis] - from[self.axis], self.at - from[self.axis]].map(i128::from);
        let along = i128::from(to[other]) - i128::from(from[other]);
        // Half a unit is added so that the division rounds to the nearest.
        let numerator = 2 * along * part * across.signum() + across.abs();
        let step = numerator.div_euclid(2 * across.abs());
        let mut crossing = [0; 2];
        crossing[self.axis] = self.at;
        crossing[other] = i64::try_from(i128::from(from[other]) + step).unwrap_or(from[other]);
        crossing
    }
}

/// The position as it is written; `None` if its coordinates do not fit in 32 bits. Coordinates inside of the square
/// always fit.
fn near(position: FarPosition) -> Option<Position> {
    let [x, y] = position.map(|along| i32::try_from(along).ok());
    Some([x?, y?])
}

impl TileSquare {
    fn sides(self) -> [SquareEdge; 4] {
        let side = |axis, at, is_upper| SquareEdge { axis, at, is_upper };
        [side(0, self.min, false), side(0, self.max, true), side(1, self.min, false), side(1, self.max, true)]
    }

    pub(crate) fn points(self, points: &[FarPosition]) -> Vec<Position> {
        let is_inside = |point: &&FarPosition| self.sides().iter().all(|side| side.holds(**point));
        points.iter().filter(is_inside).filter_map(|point| near(*point)).collect()
    }

    /// The pieces of a line inside, each of at least two positions.
    pub(crate) fn line(self, line: &[FarPosition]) -> Vec<Vec<Position>> {
        let mut pieces: Vec<Vec<Position>> = Vec::new();
        for pair in line.windows(2) {
            let Some([from, to]) = self.segment([pair[0], pair[1]]) else { continue };
            let (Some(from), Some(to)) = (near(from), near(to)) else { continue };
            if from == to {
                continue;
            }
            match pieces.last_mut() {
                Some(piece) if piece.last() == Some(&from) => piece.push(to),
                _ => pieces.push(vec![from, to]),
            }
        }
        pieces
    }

    /// The part of a segment inside; `None` if it lies outside.
    fn segment(self, [mut from, mut to]: [FarPosition; 2]) -> Option<[FarPosition; 2]> {
        for side in self.sides() {
            match (side.holds(from), side.holds(to)) {
                (true, true) => {}
                (false, false) => return None,
                (true, false) => to = side.crossing(from, to),
                (false, true) => from = side.crossing(from, to),
            }
        }
        Some([from, to])
    }

    /// The part of a ring inside, in the same direction; `None` if it has no area there.
    pub(crate) fn ring(self, mut ring: Vec<FarPosition>) -> Option<Vec<Position>> {
        for side in self.sides() {
            let mut clipped = Vec::with_capacity(ring.len() + 4);
            let mut before = *ring.last()?;
            for at in ring {
                if side.holds(before) != side.holds(at) {
                    clipped.push(side.crossing(before, at));
                }
                if side.holds(at) {
                    clipped.push(at);
                }
                before = at;
            }
            ring = clipped;
        }
        let mut ring: Vec<Position> = ring.into_iter().map(near).collect::<Option<_>>()?;
        ring.dedup();
        while ring.len() > 1 && ring.first() == ring.last() {
            ring.pop();
        }
        (ring.len() >= 3 && twice_the_area(&ring) != 0).then_some(ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvt::Feature;
    use crate::mvt::wire::put_bytes;
    use crate::tile::Zoom;

    fn coord(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    fn descent(zoom: u8, x: u32, y: u32) -> TileDescent {
        TileDescent::new(coord(0, 0, 0), coord(zoom, x, y)).unwrap()
    }

    /// A tile with one layer of extent 4096, whose features have ids from 10 and a name.
    fn tile(geometries: &[MvtGeometry]) -> Vec<u8> {
        let mut layer = Vec::new();
        put_bytes(&mut layer, 1, b"things");
        for (number, geometry) in (0_u64..).zip(geometries) {
            let mut feature = Vec::new();
            put_number(&mut feature, 1, 10 + number);
            let mut tags = Vec::new();
            for tag in [0, number, 1, geometries.len() as u64] {
                put_packed(&mut tags, tag);
            }
            put_bytes(&mut feature, 2, &tags);
            put_geometry(&mut feature, geometry);
            put_bytes(&mut layer, 2, &feature);
        }
        for key in ["name", "is"] {
            put_bytes(&mut layer, 3, key.as_bytes());
        }
        for number in 0..geometries.len() {
            put_bytes(&mut layer, 4, &value_bytes(MvtValue::Text(&format!("number {number}"))));
        }
        put_bytes(&mut layer, 4, &value_bytes(MvtValue::Bool(true)));
        put_number(&mut layer, 5, 4096);
        put_number(&mut layer, 15, 2);
        let mut tile = Vec::new();
        put_bytes(&mut tile, 3, &layer);
        tile
    }

    /// The geometries of a deeper tile, with their features' ids.
    fn drawn(tile: &[u8], descent: TileDescent) -> Vec<(u64, MvtGeometry)> {
        let raw = overzoomed(tile, descent).unwrap();
        let layers = decode(&raw).unwrap();
        let features = |layer: &MvtLayer<'_>| -> Vec<Feature> { layer.features.clone() };
        layers.iter().flat_map(features).map(|feature| (feature.id.unwrap(), feature.geometry)).collect()
    }

    fn square(x: i32, y: i32, side: i32) -> Vec<Position> {
        vec![[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    }

    #[test]
    fn points_go_to_the_child_that_they_lie_in_with_their_ids_and_properties() {
        let tile = tile(&[
            MvtGeometry::Points(vec![[1024, 1024]]),
            MvtGeometry::Points(vec![[3072, 1024], [1, 2], [4000, 100]]),
            MvtGeometry::Points(vec![[2048, 2048]]),
        ]);
        let points = |points: &[Position]| MvtGeometry::Points(points.to_vec());
        assert_eq!(
            drawn(&tile, descent(1, 0, 0)),
            [(10, points(&[[2048, 2048]])), (11, points(&[[2, 4]])), (12, points(&[[4096, 4096]]))]
        );
        assert_eq!(
            drawn(&tile, descent(1, 1, 0)),
            [(11, points(&[[2048, 2048], [3904, 200]])), (12, points(&[[0, 4096]]))]
        );
        let raw = overzoomed(&tile, descent(1, 1, 0)).unwrap();
        let layers = decode(&raw).unwrap();
        let properties: Vec<_> = layers[0].properties(&layers[0].features[0]).collect();
        assert_eq!(properties, [("name", MvtValue::Text("number 1")), ("is", MvtValue::Bool(true))]);
        assert_eq!((layers[0].name, layers[0].extent), ("things", 4096));
        // Values that no feature has any more are left out.
        assert!(!String::from_utf8_lossy(&raw).contains("number 0"));
        // Nothing is left: no layer, no bytes.
        assert!(overzoomed(&tile, descent(5, 0, 31)).unwrap().is_empty());
        assert!(overzoomed(&[], descent(1, 0, 0)).unwrap().is_empty());
        assert!(overzoomed(&tile[..20], descent(1, 0, 0)).is_err());
    }

    #[test]
    fn a_tile_of_the_same_zoom_stays_as_it_is() {
        let geometries = [
            MvtGeometry::Points(vec![[-64, 4160], [4096, 0]]),
            MvtGeometry::Lines(vec![vec![[0, 0], [4096, 4096], [0, 4096]]]),
            MvtGeometry::Polygons(vec![vec![square(0, 0, 100), square(10, 10, 5).into_iter().rev().collect()]]),
        ];
        let same: Vec<_> = (10..).zip(geometries.iter().cloned()).collect();
        assert_eq!(drawn(&tile(&geometries), descent(0, 0, 0)), same);
    }

    #[test]
    fn lines_are_cut_at_the_buffer_and_may_fall_into_pieces() {
        // The line runs across the whole tile, leaves it and returns.
        let line = MvtGeometry::Lines(vec![vec![[0, 512], [4096, 512], [4096, 1536], [0, 1536]]]);
        let tile = tile(&[line, MvtGeometry::Lines(vec![vec![[3000, 3000], [3100, 3100]]])]);
        let pieces = MvtGeometry::Lines(vec![vec![[0, 1024], [4160, 1024]], vec![[4160, 3072], [0, 3072]]]);
        assert_eq!(drawn(&tile, descent(1, 0, 0)), [(10, pieces)]);
        let corner = MvtGeometry::Lines(vec![vec![[-64, 1024], [4096, 1024], [4096, 3072], [-64, 3072]]]);
        assert_eq!(drawn(&tile, descent(1, 1, 0)), [(10, corner)]);
    }

    #[test]
    fn polygons_keep_their_holes_and_their_direction_and_lose_what_lies_outside() {
        let hole: Vec<Position> = square(1000, 1000, 100).into_iter().rev().collect();
        let far_hole: Vec<Position> = square(3000, 3000, 100).into_iter().rev().collect();
        let tile = tile(&[
            MvtGeometry::Polygons(vec![vec![square(0, 0, 4096), hole, far_hole], vec![square(3900, 3900, 10)]]),
            // It touches the other child only in its border.
            MvtGeometry::Polygons(vec![vec![square(2080, 0, 10)]]),
        ]);
        let [(10, MvtGeometry::Polygons(polygons))] = &drawn(&tile, descent(1, 0, 0))[..] else { panic!() };
        let [rings] = &polygons[..] else { panic!("{polygons:?}") };
        assert_eq!(rings.len(), 2);
        let areas: Vec<i128> = rings.iter().map(|ring| crate::mvt::geometry::twice_the_area(ring)).collect();
        assert_eq!(areas, [2 * 4160 * 4160, -2 * 200 * 200]);
        let mut corners = rings[0].clone();
        corners.sort_unstable();
        assert_eq!(corners, [[0, 0], [0, 4160], [4160, 0], [4160, 4160]]);
    }

    #[test]
    fn the_deepest_tile_of_the_world_shows_what_lies_around_it() {
        let around = MvtGeometry::Polygons(vec![vec![square(-64, -64, 4224)]]);
        let tile = tile(&[around, MvtGeometry::Lines(vec![vec![[0, 0], [4096, 4096]]])]);
        let last = Zoom::MAX.last();
        let found = drawn(&tile, descent(Zoom::MAX.get(), last, last));
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].1, MvtGeometry::Lines(vec![vec![[-64, -64], [4096, 4096]]]));
        assert_eq!(TileDescent::new(coord(3, 4, 4), coord(4, 7, 8)), None);
        assert_eq!(TileDescent::new(coord(3, 4, 4), coord(2, 2, 2)), None);
    }

    /// Twice the areas of all rings, those of holes negative.
    fn area(geometry: &MvtGeometry) -> i128 {
        let MvtGeometry::Polygons(polygons) = geometry else { return 0 };
        polygons.iter().flatten().map(|ring| crate::mvt::geometry::twice_the_area(ring)).sum()
    }

    #[test]
    fn the_parts_of_a_ring_have_the_area_of_the_whole() {
        // Without the buffer the four quarters would share no area; with it they overlap in strips of a known width, so
        // the squares are clipped to exact quarters here.
        let ring: Vec<[i64; 2]> = vec![[10, 20], [900, 35], [1020, 700], [400, 1000], [500, 500], [40, 800]];
        let whole = twice(&ring);
        let parts: i128 = [(0, 0), (512, 0), (0, 512), (512, 512)]
            .into_iter()
            .map(|(x, y)| {
                let moved: Vec<[i64; 2]> = ring.iter().map(|[a, b]| [a - x, b - y]).collect();
                let clip = TileSquare { min: 0, max: 512 };
                clip.ring(moved).map_or(0, |ring| area(&MvtGeometry::Polygons(vec![vec![ring]])))
            })
            .sum();
        // Each crossing is rounded by up to half a unit.
        assert!((whole - parts).abs() < 4 * 2 * 1024, "{whole} {parts}");
    }

    fn twice(ring: &[[i64; 2]]) -> i128 {
        let next = ring.iter().cycle().skip(1);
        ring.iter().zip(next).map(|(a, b)| i128::from(a[0] * b[1] - b[0] * a[1])).sum()
    }
}
