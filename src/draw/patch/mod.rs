//! Patches tiles of points: replaces the features near changed positions instead of rendering the tile.
//!
//! ```text
//!  changed positions ─► parts of a tile ─► source: the rows there ─┐
//!  the stored tile ─► its layers ──────────────────────────────────┴─► those parts replaced ─► tile
//! ```
//!
//! The rows come from the database, one query for each part of each tile. If there are many parts, the rows near all of
//! them are cached, and most zooms use these.
//!
//! In a layer that can be patched, the current features near each changed position replace those that the stored tile
//! has there; the rest of the tile stays. The bytes equal those of a rendered tile. A layer of a tile is rendered in
//! full if the tile is not stored, does not have the expected form, or shows so few features that patching would not
//! pay.
//!
//! Patching the same part twice is harmless, and so is any state of the tile between the target's snapshot and this
//! run's: afterwards the part shows what this run's snapshot has.
//!
//! | file | what |
//! |---|---|
//! | `changed_positions` | changed positions of points: the tiles that show them, and the rows around them |

mod changed_positions;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::encode::{MAX_UNPACKED_TILE, TileFormat, Unpacker, most_packed};
use crate::mvt;
use crate::mvt::PointLayer;
use crate::source::{LayerIssue, LayerIssueKind, RenderedLayer, RenderedTile, Source, bytes_of};
use crate::target::{ReadError, TileReader, read_all};
use crate::threads::blocking;
use crate::tile::{
    Area, Batch, ChangedPart, GridBox, LayerCount, LayerId, LayerIndex, Margin, Order, PlannedTiles, SearchBox, Slice,
    TileBounds, TileCoord, TileId, TileRect, WORLD_UNITS, WorldRect, Zoom, ZoomLimits, ZoomList, latitude,
};

pub(crate) use changed_positions::{ChangedPositions, PositionsInTiles};

/// What patching needs to know of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PatchLayer {
    pub id: LayerId,
    pub name: String,
    pub zooms: ZoomList,
    /// The grid of its tiles.
    pub margin: Margin,
    /// How its points are encoded; `None` if the layer cannot be patched.
    pub points: Option<PointLayer>,
    /// The first zoom at which the source uses cached rows near the changed positions; `None` if it queries them for
    /// each tile.
    pub(crate) cached_from: Option<Zoom>,
    pub(crate) most_bytes: ZoomLimits,
}

/// The state that all patching sources of a run share.
#[derive(Debug)]
pub(crate) struct Patches {
    /// The layers, in the order of the source.
    layers: Vec<PatchLayer>,
    positions: PositionsInTiles,
    /// Tiles that are rendered in full in any case.
    always_rendered: HashSet<TileCoord>,
    /// How the target's tiles are encoded.
    format: TileFormat,
    /// True if the target stores each layer of a tile separately.
    layers_apart: bool,
    /// For each layer, in how many tiles it could not be patched up to now.
    unpatchable: Vec<AtomicU64>,
    /// How many tiles were patched up to now, in at least one layer.
    patched: AtomicU64,
}

/// How the new bytes of one layer in one tile are made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LayerPatch {
    /// Nothing changed: the stored bytes stay.
    Keep,
    /// These parts are replaced by rows queried in them.
    Query(Vec<ChangedPart>),
    /// These parts are replaced by cached rows.
    Cached(Vec<GridBox>),
    Render,
}

impl LayerPatch {
    /// The parts that are replaced, if any.
    fn boxes(&self) -> Option<Cow<'_, [GridBox]>> {
        match self {
            LayerPatch::Query(parts) => Some(parts.iter().map(|part| part.grid).collect()),
            LayerPatch::Cached(boxes) => Some(boxes.into()),
            LayerPatch::Keep | LayerPatch::Render => None,
        }
    }
}

/// The MVT bytes of each layer of a stored tile. `None` for a tile that is not stored, or does not have the expected
/// form.
type StoredLayers = Option<HashMap<LayerId, Vec<u8>>>;

struct TilePatch {
    area: Area,
    stored: StoredLayers,
    /// One for each layer that is drawn at the tile's zoom, with the layer's index in [`Patches::layers`].
    layers: Vec<(LayerIndex, LayerPatch)>,
}

impl TilePatch {
    fn all_are(&self, patch: &LayerPatch) -> bool {
        self.layers.iter().all(|(_, own)| own == patch)
    }

    fn any_is(&self, is: impl Fn(&LayerPatch) -> bool) -> bool {
        self.layers.iter().any(|(_, own)| is(own))
    }
}

impl Patches {
    /// Patches of `layers` where `positions` changed. The tiles `always_rendered` are not patched; the target's tiles
    /// are encoded as `format`, and `layers_apart` says whether it stores each layer of a tile separately.
    pub(crate) fn new(
        layers: Vec<PatchLayer>,
        positions: PositionsInTiles,
        always_rendered: HashSet<TileCoord>,
        format: TileFormat,
        layers_apart: bool,
    ) -> Patches {
        let unpatchable = layers.iter().map(|_| AtomicU64::new(0)).collect();
        Patches { layers, positions, always_rendered, format, layers_apart, unpatchable, patched: AtomicU64::new(0) }
    }

    /// How many tiles were patched up to now, in at least one layer.
    pub(crate) fn patched(&self) -> u64 {
        self.patched.load(Relaxed)
    }

    /// Reads the stored tiles of `areas` and decides for each layer how it is patched.
    fn decide(&self, reader: &mut dyn TileReader, areas: &[Area]) -> Result<Vec<TilePatch>, ReadError> {
        let tiles = areas.iter().flat_map(|area| area.rect.iter().map(move |tile| (tile, area)));
        let tiles: Vec<(TileCoord, &Area)> = tiles.collect();
        let coords: Vec<TileCoord> = tiles.iter().map(|(tile, _)| *tile).collect();
        let mut all_stored = self.read_stored(reader, &coords)?;
        let decide = |(tile, area): (TileCoord, &Area)| {
            let stored = all_stored.remove(&tile).flatten();
            let layers = self.drawn_at(tile).map(|index| (index, self.decide_layer(index, tile, &stored))).collect();
            TilePatch { area: area.within(TileRect::from(tile)), stored, layers }
        };
        Ok(tiles.into_iter().map(decide).collect())
    }

    /// The indexes of the layers that are drawn at a tile's zoom.
    fn drawn_at(&self, tile: TileCoord) -> impl Iterator<Item = LayerIndex> + '_ {
        let all = (0..self.layers.len()).map(LayerIndex);
        all.filter(move |index| self.layers[index.0].zooms.contains(tile.zoom()))
    }

    /// The stored tiles, split into their layers.
    fn read_stored(
        &self,
        reader: &mut dyn TileReader,
        tiles: &[TileCoord],
    ) -> Result<HashMap<TileCoord, StoredLayers>, ReadError> {
        let mut ids: Vec<TileId> = Vec::new();
        for tile in tiles {
            if self.layers_apart {
                let slice = |index: LayerIndex| Slice::Layer(self.layers[index.0].id);
                ids.extend(self.drawn_at(*tile).map(|index| TileId { coord: *tile, slice: slice(index) }));
            } else {
                ids.push(TileId::from(*tile));
            }
        }
        let mut tiles: HashMap<TileCoord, StoredLayers> = HashMap::new();
        let mut unpacker = Unpacker::new(self.format);
        // All of these tiles are in memory at once.
        let mut room = MAX_UNPACKED_TILE;
        read_all(reader, &ids, |id, bytes| {
            let Some(bytes) = bytes else { return Ok(()) };
            let tile = tiles.entry(id.coord).or_insert_with(|| Some(HashMap::new()));
            let Some(layers) = tile else { return Ok(()) };
            let raw = unpacker.mvt_of_at_most(&bytes, room).unwrap_or_else(|error| {
                tracing::info!("tile {}: {error}: rendering it in full", id.coord);
                NOT_A_TILE.to_vec()
            });
            room = room.saturating_sub(raw.len());
            let Some(split) = mvt::split(&raw) else {
                *tile = None;
                return Ok(());
            };
            for (name, bytes) in split {
                let has_name = |index: &LayerIndex| self.layers[index.0].name == name;
                if let Some(index) = self.drawn_at(id.coord).find(has_name) {
                    layers.insert(self.layers[index.0].id, bytes.to_vec());
                }
            }
            Ok::<(), ReadError>(())
        })?;
        Ok(tiles)
    }

    /// Decides whether one layer of a tile is kept, patched from a query or from cached rows, or rendered. If any
    /// condition is not met, the layer is rendered. If the layer can be patched at all, the log names that condition.
    fn decide_layer(&self, index: LayerIndex, tile: TileCoord, stored: &StoredLayers) -> LayerPatch {
        let layer = &self.layers[index.0];
        if layer.points.is_none() {
            return LayerPatch::Render;
        }
        self.patch_of_layer(index, tile, stored).unwrap_or_else(|why| {
            tracing::debug!("layer \"{}\", tile {tile}: rendered, not patched: {why}", layer.name);
            LayerPatch::Render
        })
    }

    /// How one layer of points is patched in a tile, or the reason why it must be rendered.
    fn patch_of_layer(
        &self,
        index: LayerIndex,
        tile: TileCoord,
        stored: &StoredLayers,
    ) -> Result<LayerPatch, &'static str> {
        let layer = &self.layers[index.0];
        if self.unpatchable[index.0].load(Relaxed) >= MAX_UNPATCHABLE_TILES {
            return Err("too many tiles of the layer could not be patched");
        }
        if self.always_rendered.contains(&tile) {
            return Err("the tile is to be rendered in any case");
        }
        let stored = stored.as_ref().ok_or("the target does not hold the tile")?;
        let positions = self.positions.of(index, tile).ok_or("not all positions of the changes are known")?;
        if layer.margin.bounds == TileBounds::Degrees && positions.clone().any(is_next_to_antimeridian) {
            return Err("the database may see a point next to ±180° at either end of the world");
        }
        // The layer may be empty in this tile, or damaged; only rendering can tell.
        let bytes = stored.get(&layer.id).ok_or("the stored tile does not hold the layer")?;
        if layer.cached_from.is_some_and(|from| tile.zoom() >= from) {
            let boxes = boxes(tile, layer.margin, positions);
            return Ok(if boxes.is_empty() { LayerPatch::Keep } else { LayerPatch::Cached(boxes) });
        }
        let features = mvt::count_features(bytes).ok_or("the stored layer cannot be read")?;
        match parts(tile, layer.margin, features / FEATURES_PER_QUERY, positions) {
            Some(parts) if parts.is_empty() => Ok(LayerPatch::Keep),
            Some(parts) => Ok(LayerPatch::Query(parts)),
            None => Err("too many of its features changed"),
        }
    }

    /// The batch that the source has to render for `tiles`: full layers, and parts of others.
    fn to_render(&self, tiles: &[TilePatch], needs_cell_counts: bool) -> Batch {
        let mut batch = Batch {
            areas: Vec::new(),
            repeats: Vec::new(),
            planned: PlannedTiles::Every,
            tiles: 0,
            layers: vec![LayerCount::default(); self.layers.len()],
            needs_cell_counts,
        };
        for one in tiles.iter().filter(|one| !one.all_are(&LayerPatch::Keep)) {
            batch.tiles += 1;
            let patch_of = |index: LayerIndex| one.layers.iter().find(|(own, _)| *own == index).map(|(_, patch)| patch);
            let mut add = |search: Vec<SearchBox>| {
                for (count, search) in batch.layers.iter_mut().zip(&search) {
                    let is_asked = u64::from(*search != SearchBox::Nothing);
                    (count.tiles, count.features) = (count.tiles + is_asked, count.features + is_asked);
                }
                batch.areas.push(Area { rect: one.area.rect, search });
            };
            if one.any_is(|patch| matches!(patch, LayerPatch::Render | LayerPatch::Cached(_))) {
                let search = one.area.search.iter().cloned().enumerate().map(|(index, own)| (LayerIndex(index), own));
                let at_once = |(index, own)| match patch_of(index) {
                    Some(LayerPatch::Render) => own,
                    Some(LayerPatch::Cached(boxes)) => SearchBox::Near(boxes.clone()),
                    Some(LayerPatch::Query(_) | LayerPatch::Keep) | None => SearchBox::Nothing,
                };
                add(search.map(at_once).collect());
            }
            for (index, patch) in &one.layers {
                let LayerPatch::Query(parts) = patch else { continue };
                for part in parts {
                    let mut search = vec![SearchBox::Nothing; self.layers.len()];
                    search[index.0] = SearchBox::World(part.world);
                    add(search);
                }
            }
        }
        batch
    }

    /// Assembles tiles from stored and rendered parts. Returns the finished tiles, and those that could not be patched
    /// and must be rendered.
    fn put_together(&self, tiles: Vec<TilePatch>, rendered: Vec<RenderedTile>) -> (Vec<RenderedTile>, Vec<TilePatch>) {
        let rendered: HashMap<TileCoord, RenderedTile> = rendered.into_iter().map(|one| (one.tile, one)).collect();
        let (mut done, mut again) = (Vec::with_capacity(tiles.len()), Vec::new());
        for one in tiles {
            let Some(coord) = one.area.rect.first() else { continue };
            let nothing = RenderedTile::empty(coord);
            match self.tile(coord, &one, rendered.get(&coord).unwrap_or(&nothing)) {
                Some(tile) => {
                    let is_patched = one.any_is(|patch| matches!(patch, LayerPatch::Query(_) | LayerPatch::Cached(_)));
                    self.patched.fetch_add(u64::from(is_patched), Relaxed);
                    done.push(tile);
                }
                None => again.push(self.in_full(one)),
            }
        }
        (done, again)
    }

    fn in_full(&self, one: TilePatch) -> TilePatch {
        let all = one.area.rect.first().into_iter().flat_map(|coord| self.drawn_at(coord));
        TilePatch { layers: all.map(|index| (index, LayerPatch::Render)).collect(), ..one }
    }

    /// Makes a tile of its stored layers and what was rendered for it; `None` if the tile must be rendered in full.
    fn tile(&self, coord: TileCoord, one: &TilePatch, rendered: &RenderedTile) -> Option<RenderedTile> {
        let mut tile = RenderedTile::empty(coord);
        for (index, patch) in &one.layers {
            let layer = &self.layers[index.0];
            let issues = rendered.issues.iter().filter(|issue| issue.layer == layer.id);
            let (fresh, before) = (bytes_of(&rendered.mvt, &rendered.layers, layer.id), tile.mvt.len());
            if *patch == LayerPatch::Render {
                tile.issues.extend(issues.cloned());
                tile.mvt.extend_from_slice(fresh);
                for (_, bytes) in mvt::split(fresh)? {
                    tile.features += mvt::count_features(bytes)? as u64;
                }
            } else {
                // The size of a part says nothing about the size of the tile.
                if issues.clone().any(|issue| !matches!(issue.kind, LayerIssueKind::Heavy { .. })) {
                    return None;
                }
                let stored = one.stored.as_ref()?.get(&layer.id);
                let patched = patch.boxes().map(|boxes| patched(stored?, fresh, &boxes, layer.points.as_ref()?));
                let (bytes, features) = match (&patched, stored) {
                    (Some(Some((bytes, features))), _) => (&bytes[..], *features),
                    (Some(None), _) => {
                        self.unpatchable[index.0].fetch_add(1, Relaxed);
                        return None;
                    }
                    (None, Some(stored)) => (&stored[..], mvt::count_features(stored)?),
                    (None, None) => (&[][..], 0),
                };
                if !bytes.is_empty() {
                    mvt::put_layer(&mut tile.mvt, bytes);
                }
                tile.features += features as u64;
            }
            let own = tile.mvt.len() - before;
            tile.layers.push(RenderedLayer { layer: layer.id, bytes: own });
            // The source has already noted the size of layers that it rendered.
            let limit = layer.most_bytes.at(coord.zoom()).filter(|_| *patch != LayerPatch::Render);
            if let Some(limit) = limit.filter(|limit| most_packed(own as u64) > limit.get()) {
                tile.issues.push(LayerIssue { layer: layer.id, kind: LayerIssueKind::Heavy { limit: limit.get() } });
            }
        }
        Some(tile)
    }
}

/// A stored layer with the parts `boxes` replaced by `fresh`, and how many features it has then.
fn patched(stored: &[u8], fresh: &[u8], boxes: &[GridBox], points: &PointLayer) -> Option<(Vec<u8>, usize)> {
    match mvt::split(fresh)?[..] {
        [] => mvt::replaced(stored, &[], boxes, points),
        [(_, fresh)] => mvt::replaced(stored, fresh, boxes, points),
        // The tile has more than one layer.
        _ => None,
    }
}

/// Bytes that are not an MVT tile.
const NOT_A_TILE: &[u8] = &[0];

/// Querying one part costs about as much as rendering this many features.
const FEATURES_PER_QUERY: usize = 8;

/// After this many stored tiles do not hold a layer as points in the order of their keys, the layer is no longer
/// patched in this run.
const MAX_UNPATCHABLE_TILES: u64 = 8;

// Which parts of a tile can show a feature at a changed position.

/// The parts of a tile that show features at `positions` (world units); `None` once there are more than `max_parts`.
/// The world boxes of the parts do not touch each other, so that no row is found twice.
///
/// `ST_AsMVTGeom` rounds a position to the nearest grid point, so a feature is drawn at most one unit from its
/// position.
pub(crate) fn parts(
    tile: TileCoord,
    margin: Margin,
    max_parts: usize,
    positions: impl Iterator<Item = [u32; 2]>,
) -> Option<Vec<ChangedPart>> {
    let grid = TileGrid::of(tile, margin);
    let mut boxes: Vec<GridBox> = Vec::new();
    for position in positions {
        let mut one = grid.around(position);
        while let Some(near) = boxes.iter().position(|other| grid.is_near(&one, other)) {
            one = hull(one, boxes.swap_remove(near));
        }
        boxes.push(one);
        // Each position is compared with every box, so the number of boxes is bounded.
        if boxes.len() > max_parts {
            return None;
        }
    }
    Some(boxes.into_iter().map(|one| ChangedPart { grid: one, world: grid.world(&one) }).collect())
}

/// For each of `positions`, the box of grid points at which its feature may be drawn.
pub(crate) fn boxes(tile: TileCoord, margin: Margin, positions: impl Iterator<Item = [u32; 2]>) -> Vec<GridBox> {
    let grid = TileGrid::of(tile, margin);
    let mut boxes: Vec<GridBox> = positions.map(|position| grid.around(position)).collect();
    boxes.sort_unstable();
    boxes.dedup();
    boxes
}

/// How far from ±180° a position in world units may lie that the database may see at either end of the world, if it
/// computes in degrees (see `tile/positions.rs`).
const NEXT_TO_ANTIMERIDIAN: u32 = 1_000;

fn is_next_to_antimeridian([x, _]: [u32; 2]) -> bool {
    !(NEXT_TO_ANTIMERIDIAN..=u32::MAX - NEXT_TO_ANTIMERIDIAN).contains(&x)
}

/// The grid of a tile, to look at changed positions with.
pub(crate) struct TileGrid {
    west: f64,
    /// World units of one unit of the grid, from west to east.
    unit: f64,
    rows: GridRows,
    /// The fewest world units that a unit of the grid spans, in both directions.
    least_unit: f64,
}

/// How the rows of a tile's grid lie in the world.
enum GridRows {
    /// From the northern edge in world units, each as high as a column is wide.
    Mercator { north: f64 },
    /// From the northern edge in degrees of latitude, each of the same height in degrees.
    Degrees { north: f64, unit: f64 },
}

/// The most world units by which our arithmetic and that of PostGIS differ, on either side.
const ROUNDING_SLACK: f64 = 2.0;

/// Boxes that are this many world units apart may still meet in a spatial index, which keeps single-precision floats
/// (PostGIS, `BOX2DF`). Rows that are wrapped lie up to 540° from the prime meridian, where these floats are 6.1e-5°
/// (728 world units) apart: the boxes of two parts and that of a row between them are rounded by one step each.
const INDEX_SLACK: f64 = 1_500.0;

/// The latitude beyond which no position lies: the world ends at 85.05°. Tiles in degrees have buffers beyond it.
const MAX_LATITUDE: f64 = 89.0;

#[expect(clippy::cast_possible_truncation, reason = "world units are exact in doubles")]
impl TileGrid {
    pub(crate) fn of(tile: TileCoord, margin: Margin) -> TileGrid {
        let WorldRect { west, north, east, south } = TileRect::from(tile).world(0);
        let extent = f64::from(margin.extent);
        let unit = (east - west) as f64 / extent;
        let (rows, least_unit) = match margin.bounds {
            TileBounds::Mercator => (GridRows::Mercator { north: north as f64 }, unit),
            TileBounds::Degrees => {
                let [north, south] = [north, south].map(latitude);
                let degrees = (north - south) / extent;
                // At the equator, where a degree of latitude is as long as one of longitude. Elsewhere it is longer.
                (GridRows::Degrees { north, unit: degrees }, unit.min(degrees * WORLD_UNITS as f64 / 360.0))
            }
        };
        TileGrid { west: west as f64, unit, rows, least_unit }
    }

    /// The row of the grid at a distance from the northern edge of the world, in world units.
    fn row(&self, y: f64) -> f64 {
        match self.rows {
            GridRows::Mercator { north } => (y - north) / self.unit,
            GridRows::Degrees { north, unit } => (north - latitude(y as i64)) / unit,
        }
    }

    /// The distance of a row of the grid from the northern edge of the world, in world units.
    fn world_y(&self, row: i64) -> f64 {
        match self.rows {
            GridRows::Mercator { north } => row as f64 * self.unit + north,
            GridRows::Degrees { north, unit } => {
                let degrees = (north - row as f64 * unit).clamp(-MAX_LATITUDE, MAX_LATITUDE);
                (1.0 - degrees.to_radians().tan().asinh() / std::f64::consts::PI) / 2.0 * WORLD_UNITS as f64
            }
        }
    }

    /// The grid points at which a feature at a position (world units) may be drawn.
    pub(crate) fn around(&self, [x, y]: [u32; 2]) -> GridBox {
        let column = |units: f64| (units - self.west) / self.unit;
        let (x, y) = (f64::from(x), f64::from(y));
        GridBox {
            west: column(x).floor() as i64 - 1,
            north: self.row(y).floor() as i64 - 1,
            east: column(x + 1.0).ceil() as i64 + 1,
            south: self.row(y + 1.0).ceil() as i64 + 1,
        }
    }

    /// The world units of every feature that may be drawn in a box.
    pub(crate) fn world(&self, one: &GridBox) -> WorldRect {
        let column = |grid: i64| grid as f64 * self.unit + self.west;
        let least = |units: f64| (units - ROUNDING_SLACK).floor() as i64;
        let most = |units: f64| (units + ROUNDING_SLACK).ceil() as i64;
        WorldRect {
            west: least(column(one.west - 1)),
            north: least(self.world_y(one.north - 1)),
            east: most(column(one.east + 1)),
            south: most(self.world_y(one.south + 1)),
        }
    }

    /// True if two grid boxes may come from world boxes that touch.
    fn is_near(&self, one: &GridBox, other: &GridBox) -> bool {
        let gap = 3 + (2.0 * (ROUNDING_SLACK + 2.0 + INDEX_SLACK) / self.least_unit).ceil() as i64;
        one.west - gap <= other.east
            && other.west - gap <= one.east
            && one.north - gap <= other.south
            && other.north - gap <= one.south
    }
}

fn hull(one: GridBox, other: GridBox) -> GridBox {
    GridBox {
        west: one.west.min(other.west),
        north: one.north.min(other.north),
        east: one.east.max(other.east),
        south: one.south.max(other.south),
    }
}

// Checks whether a stored tile shows a point at a position.

/// True if a layer of a tile shows a feature at one of some positions (world units), or if that is not known. `raw` are
/// the unpacked bytes of the tile, `margin` is the layer's. If the tile shows all rows of
/// the layer as points, false means that no row of the layer lies at any of the positions.
pub(crate) fn may_show(
    raw: &[u8],
    tile: TileCoord,
    layer: &str,
    margin: Margin,
    positions: impl Iterator<Item = [u32; 2]> + Clone,
) -> bool {
    if margin.bounds == TileBounds::Degrees && positions.clone().any(is_next_to_antimeridian) {
        return true;
    }
    let Ok(layers) = mvt::decode(raw) else { return true };
    let Some(own) = layers.iter().find(|one| one.name == layer) else { return false };
    if own.extent != margin.extent {
        return true;
    }
    let grid = TileGrid::of(tile, margin);
    let boxes: Vec<_> = positions.map(|position| grid.around(position)).collect();
    let is_at = |[x, y]: [i32; 2]| {
        let (x, y) = (i64::from(x), i64::from(y));
        boxes.iter().any(|one| (one.west..=one.east).contains(&x) && (one.north..=one.south).contains(&y))
    };
    own.features.iter().any(|feature| match &feature.geometry {
        mvt::MvtGeometry::Points(points) => points.iter().copied().any(is_at),
        _other => true,
    })
}

// The source of a reseed: patches stored tiles with what another source renders.

/// A source that renders what changed in a tile and takes the rest from the target.
pub(crate) struct Patching<S> {
    source: S,
    /// Reads the target; `None` if everything is rendered, and after reading has failed.
    target: Option<(Box<dyn TileReader>, Arc<Patches>)>,
}

impl<S> Patching<S> {
    /// A source that reads stored tiles with a reader of its own. Without one it renders everything.
    pub(crate) fn new(source: S, target: Option<(Box<dyn TileReader>, Arc<Patches>)>) -> Patching<S> {
        Patching { source, target }
    }

    /// How the tiles of a batch are patched; `None` if all of them are rendered in full.
    async fn decide(&mut self, batch: &Batch) -> Option<(Vec<TilePatch>, Arc<Patches>)> {
        let (mut reader, patches) = self.target.take()?;
        let (areas, reading) = (batch.areas.clone(), Arc::clone(&patches));
        let (reader, tiles) = blocking(move || {
            let tiles = reading.decide(&mut *reader, &areas);
            (reader, tiles)
        })
        .await;
        match tiles {
            Ok(tiles) => {
                self.target = Some((reader, Arc::clone(&patches)));
                (!tiles.iter().all(|tile| tile.all_are(&LayerPatch::Render))).then_some((tiles, patches))
            }
            Err(error) => {
                // If the target is damaged, writing it reports that.
                tracing::info!("{error}: rendering every tile in full");
                None
            }
        }
    }
}

impl<S: Source> Source for Patching<S> {
    type Error = S::Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, S::Error> {
        let Some((tiles, patches)) = self.decide(batch).await else { return self.source.render(batch).await };
        let to_render = patches.to_render(&tiles, batch.needs_cell_counts);
        let rendered = if to_render.tiles == 0 { Vec::new() } else { self.source.render(&to_render).await? };
        let together = Arc::clone(&patches);
        let (mut done, again) = blocking(move || together.put_together(tiles, rendered)).await;
        if !again.is_empty() {
            tracing::debug!("{} tiles cannot be patched: rendering them in full", again.len());
            done.extend(self.source.render(&patches.to_render(&again, batch.needs_cell_counts)).await?);
            done.sort_by_key(|rendered| Order::ZoomColumnTmsRow.sort_key(rendered.tile));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    #[test]
    fn a_place_is_looked_at_with_what_lies_a_rounding_away() {
        // At zoom 8 a unit of the grid is 4096 world units wide.
        let parts = parts(
            tile(8, 1, 2),
            Margin::plain(4096, 64),
            9,
            [[(1 << 24) + 4096 * 10, (2 << 24) + 4096 * 7 + 5]].into_iter(),
        );
        let grid = GridBox { west: 9, north: 6, east: 12, south: 9 };
        let (west, north) = (1 << 24, 2 << 24);
        let world = WorldRect {
            west: west + 4096 * 8 - 2,
            north: north + 4096 * 5 - 2,
            east: west + 4096 * 13 + 2,
            south: north + 4096 * 10 + 2,
        };
        assert_eq!(parts, Some(vec![ChangedPart { grid, world }]));
    }

    #[test]
    fn parts_of_a_tile_share_no_row() {
        let mut chance = 7_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((chance >> 33) % below).unwrap()
        };
        let grids = [(0, 4096), (8, 4096), (8, 1000), (20, 4096), (22, 65536)];
        let both =
            grids.into_iter().flat_map(|grid| [TileBounds::Mercator, TileBounds::Degrees].map(|bounds| (grid, bounds)));
        for ((zoom, extent), bounds) in both {
            let (side, margin) = (1_u64 << (32 - zoom), Margin { bounds, ..Margin::plain(extent, 64) });
            for many in [2, 20, 200] {
                let places: Vec<[u32; 2]> =
                    (0..many).map(|_| [next(side.min(1 << 31)), next(side.min(1 << 20))]).collect();
                let parts = parts(tile(zoom, 0, 0), margin, many, places.iter().copied()).unwrap();
                for (number, one) in parts.iter().enumerate() {
                    for other in &parts[..number] {
                        let (a, b) = (&one.world, &other.world);
                        let are_beside = a.east < b.west || b.east < a.west;
                        let are_below = a.south < b.north || b.south < a.north;
                        assert!(are_beside || are_below, "{zoom}: {one:?} {other:?}");
                    }
                }
                for [x, y] in places.into_iter().map(|place| place.map(i64::from)) {
                    let holds = |part: &&ChangedPart| {
                        let WorldRect { west, north, east, south } = part.world;
                        (west..=east).contains(&x) && (north..=south).contains(&y)
                    };
                    assert_eq!(parts.iter().filter(holds).count(), 1);
                }
            }
        }
    }
}
