//! Lines and polygons that are cached: read once, and drawn in every tile with the arithmetic of `ST_AsMVTGeom`. What
//! is not proven to come out equal, such as a polygon that touches itself, is drawn by the database, each in its tile.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::Row;

use super::shape_rules::drawn_by_server;
use super::shape_wkb::{Parsed, ReadShape};
use super::{DrawnAreas, MAX_LEFT_SHARE};
use crate::mvt::{
    Drawer, DrawingRules, Drawn, EncodedGeometry, Features, Form, Forms, Parts, ShapeDrawer, ShapeKind, TileGrid,
};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Session};
use crate::postgis::sql::MAX_TILES_OF_BOX;
use crate::postgis::survey::Outlines;
use crate::source::{RenderedLayer, RenderedTile};
use crate::tile::{
    Area, BoxFootprint, Footprints, Frame, HALF_WORLD_METRES, MIN_TILES_OF_OUTLINE, Order, Positions, SearchBox,
    SourceBox, TileCoord, TileRect, WorldBox, Zoom, latitude, longitude, metres, single_above, single_below,
};

/// The geometries of cached rows.
#[derive(Debug, Default)]
pub(crate) struct Geometries {
    /// The geometries as little-endian WKB (OGC 06-103r4, section 8).
    wkb: Vec<u8>,
    /// In the order of the rows while these are read.
    places: Vec<Place>,
}

/// Where the geometry of a row is, on the map and among the bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The number of its feature.
    row: u32,
    /// Its first byte, and the number of its bytes.
    start: usize,
    bytes: u32,
    /// The box in world units, as the survey computes it: west, north, east, south.
    sides: [u32; 4],
    /// The width and the height of the box in metres, as the server stores it.
    size: [f64; 2],
    kind: ShapeKind,
    /// True if the database draws the tiles that show it, with everything else in them, unless it is known what they
    /// show of it.
    is_heavy: bool,
}

/// A geometry with more vertices is left to the database, with the other features of its tiles: it costs little more
/// there, and sending it would cost more.
const MAX_VERTICES: u32 = 2_000;

impl Place {
    /// The longer side of its box, in world units.
    fn length(&self) -> u32 {
        let [west, north, east, south] = self.sides;
        east.saturating_sub(west).max(south.saturating_sub(north))
    }

    /// The size of its box: shapes of one size are at most 2^[`BITS_PER_SIZE`] times as long as one another.
    fn size_class(&self) -> u32 {
        (u32::BITS - self.length().leading_zeros()).div_ceil(BITS_PER_SIZE)
    }

    /// The middle of its box, in world units.
    fn middle(&self) -> [f64; 2] {
        let [west, north, east, south] = self.sides.map(f64::from);
        [f64::midpoint(west, east), f64::midpoint(north, south)]
    }
}

impl Geometries {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.wkb.len() + size_of_val(&self.places[..])
    }

    /// Adds a group of rows: columns 1 to 6 of the statement that reads them. `None` if one of them cannot be drawn as
    /// the database draws it.
    pub(crate) fn add(&mut self, row: &Row) -> Option<()> {
        let sides: [Vec<i64>; 4] = [1, 2, 3, 4].map(|column: usize| row.get(column));
        let (wkb, has_own_boxes): (&[u8], bool) = (row.get(5), row.get(6));
        if !has_own_boxes {
            return None;
        }
        let mut rest = wkb;
        for number in 0..sides[0].len() {
            let start = wkb.len() - rest.len();
            let parsed = Parsed::split(&mut rest)?;
            // An end on the edge of the world belongs to its last unit.
            let unit = |column: usize| u32::try_from((*sides[column].get(number)?).min(u32::MAX.into())).ok();
            let end = wkb.len() - rest.len();
            self.places.push(Place {
                row: u32::try_from(self.places.len()).ok()?,
                start: self.wkb.len() + start,
                bytes: u32::try_from(end - start).ok()?,
                sides: [unit(0)?, unit(1)?, unit(2)?, unit(3)?],
                size: parsed.size,
                kind: parsed.kind,
                is_heavy: parsed.vertices > MAX_VERTICES,
            });
        }
        self.wkb.extend_from_slice(wkb);
        rest.is_empty().then_some(())
    }

    /// Appends the geometries of the rows that follow. The rows are fewer than 2³².
    #[expect(clippy::cast_possible_truncation, reason = "the features are counted in 32 bits")]
    pub(crate) fn append(&mut self, other: &Geometries) {
        let (bytes, rows) = (self.wkb.len(), self.places.len() as u32);
        self.wkb.extend_from_slice(&other.wkb);
        let moved = |place: &Place| Place { row: rows + place.row, start: bytes + place.start, ..*place };
        self.places.extend(other.places.iter().map(moved));
    }

    /// Reserves memory for others.
    pub(crate) fn reserve<'g>(&mut self, others: impl Iterator<Item = &'g Geometries> + Clone) {
        self.wkb.reserve_exact(others.clone().map(|other| other.wkb.len()).sum());
        self.places.reserve_exact(others.map(|other| other.places.len()).sum());
    }

    fn wkb(&self, place: &Place) -> &[u8] {
        self.wkb.get(place.start..place.start + place.bytes as usize).unwrap_or_default()
    }
}

/// The cached lines and polygons of a layer.
#[derive(Debug)]
pub(crate) struct ShapeRows {
    pub(crate) features: Features,
    /// Those of one size follow each other in the order of a Z-curve, so that neighbours on the map are neighbours in
    /// memory.
    geometries: Geometries,
    rules: DrawingRules,
    forms: Forms,
    /// By the size of their boxes, so that small ones are not searched as far as large ones.
    sizes: Vec<ShapesOfSize>,
}

/// Shapes whose boxes have about the same size.
#[derive(Debug)]
struct ShapesOfSize {
    /// The index of the first place.
    first: u32,
    /// How far a shape reaches from the middle of its box, at most, in world units.
    reach: i64,
    middles: Positions,
}

/// The quotient of the greatest lengths of two sizes, as a power of 2.
const BITS_PER_SIZE: u32 = 2;

impl ShapeRows {
    pub(crate) fn new(features: Features, mut geometries: Geometries, rules: DrawingRules) -> ShapeRows {
        let key = |place: &Place| (place.size_class(), Frame::WorldUnits.z_order(place.middle()));
        geometries.places.sort_unstable_by_key(key);
        let mut sizes: Vec<ShapesOfSize> = Vec::new();
        let mut first = 0_u32;
        for places in geometries.places.chunk_by(|one, next| one.size_class() == next.size_class()) {
            let reach = places.iter().map(|place| i64::from(place.length()) / 2 + 1).max().unwrap_or_default();
            let middles = Positions::new(places.iter().map(Place::middle).collect(), Frame::WorldUnits);
            sizes.push(ShapesOfSize { first, reach, middles });
            first = first.saturating_add(u32::try_from(places.len()).unwrap_or(u32::MAX));
        }
        ShapeRows { features, geometries, rules, forms: Forms::default(), sizes }
    }

    /// Where the shapes of a layer lie whose reference system has a closed formula, with the outlines of those that
    /// touch many tiles of the deepest zoom. `None` if polygons are among these: whether they are valid is not known.
    pub(crate) fn footprints(&self, layer: &Layer, deepest: Zoom, mut outlines: Outlines) -> Option<Footprints> {
        let tile = |unit: u32| u64::from(unit) >> (32 - deepest.get());
        let mut boxes = Vec::with_capacity(self.geometries.len());
        for place in &self.geometries.places {
            let [west, north, east, south] = place.sides;
            if west > east || north > south {
                return None;
            }
            let world = WorldBox::new(west, north, east, south);
            if (tile(east) - tile(west) + 1) * (tile(south) - tile(north) + 1) > MAX_TILES_OF_BOX.into() {
                if place.kind != ShapeKind::Lines {
                    return None;
                }
                outlines.add_shape(boxes.len(), self.geometries.wkb(place), false);
            }
            boxes.push(BoxFootprint { world, source: source_within(world, layer.srid()) });
        }
        Some(outlines.with(boxes))
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let sizes = self.sizes.iter().map(|size| size.middles.bytes());
        self.features.size() + self.geometries.bytes() + sizes.sum::<usize>()
    }

    /// True if the rows are searched in an area as a statement would search them.
    pub(crate) fn serve(area: &Area, index: usize) -> bool {
        matches!(area.search.get(index), Some(SearchBox::Area | SearchBox::Source(_) | SearchBox::Listed(..)))
    }

    /// The rows that a statement would look at in an area's tiles, each with its tile.
    fn candidates(&self, layer: &Layer, index: usize, area: &Area, found: &mut Vec<Candidate>) {
        let (rect, margin) = (&area.rect, layer.margin.units(area.rect.zoom));
        let listed: Option<HashSet<u64>> = match area.search.get(index) {
            Some(SearchBox::Listed(_, tiles)) => {
                let tiles = tiles.iter().flat_map(TileRect::iter);
                Some(tiles.map(|tile| Order::ZoomColumnTmsRow.sort_key(tile)).collect())
            }
            _ => None,
        };
        let tile = |unit: i64| unit >> (32 - rect.zoom.get());
        for size in &self.sizes {
            let part = rect.world(margin + size.reach + 1);
            for number in size.middles.near(&[part]).into_iter().flatten() {
                let at = size.first + number;
                let place = &self.geometries.places[at as usize];
                let [west, north, east, south] = place.sides.map(i64::from);
                let [columns, rows] =
                    [[west, east], [north, south]].map(|[low, high]| [tile(low - margin), tile(high + margin)]);
                // The plan lists tiles only of shapes whose boxes touch many.
                let is_small =
                    ((columns[1] - columns[0] + 1) * (rows[1] - rows[0] + 1)).cast_unsigned() < MIN_TILES_OF_OUTLINE;
                for x in columns[0].max(rect.x0.into())..=columns[1].min(rect.x1.into()) {
                    for y in rows[0].max(rect.y0.into())..=rows[1].min(rect.y1.into()) {
                        let coord = u32::try_from(x).ok().zip(u32::try_from(y).ok());
                        let Some(coord) = coord.and_then(|(x, y)| TileCoord::new(rect.zoom, x, y)) else { continue };
                        let tile = Order::ZoomColumnTmsRow.sort_key(coord);
                        if is_small || listed.as_ref().is_none_or(|listed| listed.contains(&tile)) {
                            found.push(Candidate { tile, row: place.row, place: at });
                        }
                    }
                }
            }
        }
    }

    /// What the areas show, as far as it is known without the database.
    pub(crate) fn scene(&self, layer: &Layer, index: usize, areas: Vec<Area>) -> Scene {
        let mut candidates = Vec::new();
        for area in &areas {
            self.candidates(layer, index, area, &mut candidates);
        }
        candidates.sort_unstable();
        let mut scene = Scene {
            areas,
            seen: Vec::with_capacity(candidates.len()),
            commands: Vec::new(),
            forms: BTreeMap::new(),
            heavy: Vec::new(),
        };
        let (mut drawer, mut read) = (ShapeDrawer::default(), ReadShape::default());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = Order::ZoomColumnTmsRow.tile(of_tile[0].tile) else { continue };
            let grid = tile_grid(layer, tile);
            let before = scene.seen.len();
            for candidate in of_tile {
                let place = &self.geometries.places[candidate.place as usize];
                let drawn = if place.kind != ShapeKind::Other && grid.drops(place.size) {
                    Drawn::Nothing
                } else {
                    match read.read(self.geometries.wkb(place)) {
                        Some(kind) => drawer.draw(read.shape(kind, place.size), &grid, self.rules, &self.forms),
                        None => Drawn::Unknown,
                    }
                };
                if drawn == Drawn::Unknown && place.is_heavy {
                    scene.seen.truncate(before);
                    scene.forms.split_off(&before);
                    scene.heavy.push(tile);
                    break;
                }
                // One candidate is enough to count the tile.
                if drawn == Drawn::Nothing && scene.seen.len() > before {
                    continue;
                }
                let shown = match drawn {
                    Drawn::Nothing => Shown::Nothing,
                    Drawn::Unknown => Shown::Unknown,
                    Drawn::Parts => scene.put(place.kind, drawer.parts()),
                    Drawn::SameAnywhere(first) => {
                        if !self.forms.is_full(drawer.form()) {
                            scene.forms.insert(scene.seen.len(), (drawer.form().clone(), first));
                        }
                        Shown::Unknown
                    }
                };
                scene.seen.push(Seen { candidate: *candidate, shown });
            }
        }
        scene
    }

    /// Fills in what is shown of polygons whose forms are known by now. Returns what is still unknown, each form once.
    fn still_unknown(&self, scene: &mut Scene) -> Vec<usize> {
        let (mut unknown, mut asked, mut parts) = (Vec::new(), HashSet::new(), Parts::default());
        for at in 0..scene.seen.len() {
            if scene.seen[at].shown != Shown::Unknown {
                continue;
            }
            let Some((form, first)) = scene.forms.get(&at).cloned() else {
                unknown.push(at);
                continue;
            };
            match self.forms.find(&form, first, &mut parts) {
                Some(false) => scene.seen[at].shown = Shown::Nothing,
                Some(true) => scene.seen[at].shown = scene.put(ShapeKind::Polygon, &parts),
                // A form that is not kept is not known in the next round either.
                None => {
                    if self.forms.is_full(&form) || asked.insert(form) {
                        unknown.push(at);
                    }
                }
            }
        }
        unknown
    }

    /// Lets the database draw what is not known, and returns how many shapes that were.
    pub(crate) async fn ask(&self, session: &Session, layer: &Layer, scene: &mut Scene) -> Result<usize, Error> {
        let mut asked_for = 0;
        if scene.is_left() {
            return Ok(0);
        }
        loop {
            let mut unknown = self.still_unknown(scene);
            unknown.truncate(MAX_ASKED);
            if unknown.is_empty() {
                return Ok(asked_for);
            }
            asked_for += unknown.len();
            let asked = unknown.iter().map(|at| {
                let Candidate { tile, place, .. } = scene.seen[*at].candidate;
                let sides = Order::ZoomColumnTmsRow.tile(tile).map_or([0.0, 0.0, 1.0, 1.0], sides_of);
                (self.geometries.wkb(&self.geometries.places[place as usize]), sides)
            });
            let frame = [layer.margin.extent, layer.margin.buffer];
            let Some(drawn) = drawn_by_server(session, &layer.name, frame, asked).await? else {
                scene.leave_unknown();
                return Ok(asked_for);
            };
            for (at, shown) in unknown.into_iter().zip(drawn) {
                if let Some((form, first)) = scene.forms.get(&at) {
                    self.forms.keep(form, *first, shown.as_ref().map(|(_, parts)| parts));
                }
                scene.seen[at].shown = match shown {
                    None => Shown::Nothing,
                    Some((kind, parts)) => scene.put(kind, &parts),
                };
            }
        }
    }

    /// The tiles of a scene of which everything is known.
    pub(crate) fn draw(&self, layer: &Layer, scene: &Scene) -> DrawnAreas {
        let mut drawer = Drawer::new(&self.features);
        let mut drawn = DrawnAreas::default();
        let mut left: Vec<TileCoord> = scene.heavy.clone();
        for of_tile in scene.seen.chunk_by(|one, next| one.candidate.tile == next.candidate.tile) {
            let place = of_tile[0].candidate.tile;
            let Some(tile) = Order::ZoomColumnTmsRow.tile(place) else { continue };
            let shown = of_tile.iter().filter_map(|seen| Some((seen.candidate.row, scene.geometry(seen.shown)?)));
            let features = shown.clone().count() as u64;
            let Some(mvt) = drawer.tile(&layer.constants(tile), shown) else {
                left.push(tile);
                continue;
            };
            drawn.count.tiles += 1;
            drawn.count.features += features;
            let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
            let rendered = RenderedTile { tile, mvt, layers, features, issues: Vec::new(), shared: None };
            drawn.tiles.insert(place.cast_signed(), rendered);
        }
        if scene.is_left() || left.len() as u64 * MAX_LEFT_SHARE > drawn.count.tiles {
            return DrawnAreas { left: scene.areas.clone(), ..DrawnAreas::default() };
        }
        let area_of = |tile: TileCoord| {
            let rect = TileRect::from(tile);
            scene.areas.iter().find(|area| area.rect.common(&rect).is_some()).map(|area| area.within(rect))
        };
        drawn.left = left.into_iter().filter_map(area_of).collect();
        drawn
    }
}

/// The sides of a shape with this box of the world in EPSG:4326 or 3857, each moved inwards until the shape surely
/// reaches it. A search has to touch them, and a statement that searched a little beyond the shape would not find it.
/// `min_x` and `min_y` of a small shape may be greater than `max_x` and `max_y`.
fn source_within(world: WorldBox, srid: i32) -> SourceBox<f32> {
    // A side lies somewhere in its unit, which is rounded.
    let [west, north, east, south] =
        [i64::from(world.west) + 3, i64::from(world.north) + 3, i64::from(world.east) - 2, i64::from(world.south) - 2];
    let ([x0, x1], [y0, y1]) = if srid == 4326 {
        ([west, east].map(longitude), [south, north].map(latitude))
    } else {
        let middle = HALF_WORLD_METRES;
        ([west, east].map(|x| metres(x) - middle), [south, north].map(|y| middle - metres(y)))
    };
    SourceBox { min_x: single_above(x0), min_y: single_above(y0), max_x: single_below(x1), max_y: single_below(y1) }
}

/// The most shapes that one statement draws.
const MAX_ASKED: usize = 1_000;

/// A row and a tile that its box touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// The tile's place in the order of archives.
    tile: u64,
    row: u32,
    /// The index of its place among the geometries.
    place: u32,
}

/// What some areas show of the cached rows.
pub(crate) struct Scene {
    areas: Vec<Area>,
    /// Sorted by tile and row.
    seen: Vec<Seen>,
    /// The geometries that are drawn, as the commands of features.
    commands: Vec<u8>,
    /// The forms of some that are unknown, with the places of their first vertices, by their index.
    forms: BTreeMap<usize, (Form, [i32; 2])>,
    /// The tiles that are left to the database.
    heavy: Vec<TileCoord>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    candidate: Candidate,
    shown: Shown,
}

/// What a tile shows of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Unknown,
    /// The commands from one offset to another.
    Commands {
        geometry_type: u64,
        from: usize,
        end: usize,
    },
}

impl Scene {
    /// True if more than one tile in [`MAX_LEFT_SHARE`] is left to the database, which then draws all of them.
    pub(crate) fn is_left(&self) -> bool {
        let seen = self.seen.chunk_by(|one, next| one.candidate.tile == next.candidate.tile).count();
        self.heavy.len() as u64 * MAX_LEFT_SHARE > seen as u64
    }

    /// Leaves the tiles that show something unknown to the database.
    pub(crate) fn leave_unknown(&mut self) {
        let unknown = self.seen.iter().filter(|seen| seen.shown == Shown::Unknown);
        let tiles: HashSet<u64> = unknown.map(|seen| seen.candidate.tile).collect();
        self.seen.retain(|seen| !tiles.contains(&seen.candidate.tile));
        self.heavy.extend(tiles.into_iter().filter_map(|tile| Order::ZoomColumnTmsRow.tile(tile)));
        self.forms.clear();
    }

    fn put(&mut self, kind: ShapeKind, parts: &Parts) -> Shown {
        let from = self.commands.len();
        parts.put(kind, &mut self.commands);
        Shown::Commands { geometry_type: kind.geometry_type(), from, end: self.commands.len() }
    }

    fn geometry(&self, shown: Shown) -> Option<EncodedGeometry<'_>> {
        let Shown::Commands { geometry_type, from, end } = shown else { return None };
        Some(EncodedGeometry { geometry_type, commands: self.commands.get(from..end)? })
    }
}

fn tile_grid(layer: &Layer, tile: TileCoord) -> TileGrid {
    TileGrid::new(sides_of(tile), layer.margin.extent, layer.margin.buffer)
}

/// The sides of a tile in metres: west, south, east, north, in the arithmetic of the statement that renders.
fn sides_of(tile: TileCoord) -> [f64; 4] {
    let side = 2.0 * HALF_WORLD_METRES / f64::from(1_u32 << tile.zoom().get());
    let [x, y] = [tile.x(), tile.y()].map(f64::from);
    [
        -HALF_WORLD_METRES + x * side,
        HALF_WORLD_METRES - (y + 1.0) * side,
        -HALF_WORLD_METRES + (x + 1.0) * side,
        HALF_WORLD_METRES - y * side,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Positions;

    #[test]
    fn a_shape_reaches_the_sides_that_a_search_touches() {
        for [x0, y0, x1, y1] in [
            [0.0, 0.0, 11_131.9, 11_131.9],
            [-5_500_000.123, -0.004, -5_499_999.9, 0.0],
            [1.0, 1.0, 1.001, 1.001],
            [-20_037_508.3, -20_037_508.3, 20_037_508.3, 20_037_508.3],
        ] {
            let [west, north] = Positions::world([x0, y1]);
            let [east, south] = Positions::world([x1, y0]);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the world")]
            let world = WorldBox::new(west as u32, north as u32, east as u32, south as u32);
            let SourceBox { min_x, min_y, max_x, max_y } = source_within(world, 3857);
            let [min_x, min_y, max_x, max_y] = [min_x, min_y, max_x, max_y].map(f64::from);
            assert!(max_x <= x1 && max_y <= y1 && min_x >= x0 && min_y >= y0, "{x0} {y0} {x1} {y1}");
        }
    }
}
