//! Tiles of points brought up to date where something has changed, instead of rendered anew.
//!
//! ```text
//!  changed places ─► parts of a tile ─► source: the rows there ─┐
//!  what the target holds ─► layers of the tile ─────────────────┴─► those parts replaced ─► tile
//! ```
//!
//! The rows come from the database, for each part of each tile; where there are many parts, the rows near all of them were read once,
//! and tiles of most zooms take theirs from these.
//!
//! Of a layer that can be patched, the features near each changed place, as they are now, stand in for those that the held tile has
//! there; the rest of the tile stays. The bytes are those of a tile rendered at once. Whatever is in the way of that, in any
//! layer of a tile, has that layer rendered whole: the tile is not held, is not written as expected, or shows too few
//! features for the trouble.
//!
//! It is right to replace the same part twice, and in any state of the tile between the target's snapshot and this run's: what lies
//! there afterwards is this run's.

mod parts;
mod source;
mod spots;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::encode::{Gunzip, most_packed};
use crate::mvt::{self, PointLayer};
use crate::sink::{ReadError, TileReader};
use crate::source::{Note, Noted, RenderedTile, part_of};
use crate::tile::{
    Area, Batch, GridBox, LayerCount, Part, Planned, SearchBox, Slice, TileCoord, TileId, TileRect, Zoom, ZoomLimits,
    ZoomList,
};

use parts::{boxes, parts};
pub use source::Patching;
pub use spots::{Spots, SpotsInTiles};

/// A layer, as far as patching needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchLayer {
    /// Its number.
    pub number: u16,
    /// Its name in the tile.
    pub name: String,
    /// The zooms at which it is drawn.
    pub zooms: ZoomList,
    /// Units of its grid along a tile's side.
    pub extent: u32,
    /// How it is written; `None` if it cannot be patched.
    pub points: Option<PointLayer>,
    /// The zoom from which on the source has read all rows near the changed places; `None` if it looks for them.
    pub stocked_from: Option<Zoom>,
    /// Bytes beyond which its part of a tile is to be named.
    pub most_bytes: ZoomLimits,
}

/// What all patching sources of a run know.
#[derive(Debug)]
pub struct Patches {
    /// The layers, as the source has them.
    layers: Vec<PatchLayer>,
    /// Where they have changed.
    spots: SpotsInTiles,
    /// Tiles to be rendered whole, whatever is known of them.
    whole: HashSet<TileCoord>,
    /// Whether the target holds each layer of a tile by itself.
    layers_apart: bool,
    /// In how many tiles each layer could not be patched, up to now.
    refused: Vec<AtomicU64>,
    /// How many tiles were patched up to now, in one layer or more.
    patched: AtomicU64,
}

/// What becomes of one layer in one tile.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Nothing has changed: it stays as it is held.
    Stays,
    /// These parts are replaced, by rows that are looked for in them.
    Patched(Vec<Part>),
    /// The same, by rows that the source has read.
    Stocked(Vec<GridBox>),
    /// It is rendered.
    Whole,
}

impl Way {
    /// The parts that are replaced, if any are.
    fn boxes(&self) -> Option<Cow<'_, [GridBox]>> {
        match self {
            Way::Patched(parts) => Some(parts.iter().map(|part| part.grid).collect()),
            Way::Stocked(boxes) => Some(boxes.into()),
            Way::Stays | Way::Whole => None,
        }
    }
}

/// The layers of a tile as they are held, by their numbers: the bytes of each. `None` for a tile that is not held, or is not what it
/// should be.
type Held = Option<HashMap<u16, Vec<u8>>>;

/// A tile on its way.
struct Tile {
    area: Area,
    held: Held,
    /// What becomes of each layer that is drawn at its zoom, by its place among the layers.
    ways: Vec<(usize, Way)>,
}

impl Tile {
    fn all(&self, way: &Way) -> bool {
        self.ways.iter().all(|(_, own)| own == way)
    }

    fn any(&self, is: impl Fn(&Way) -> bool) -> bool {
        self.ways.iter().any(|(_, own)| is(own))
    }
}

impl Patches {
    /// What is known of some layers and of where they have changed; `whole` are tiles to be rendered, whatever is known of them.
    #[must_use]
    pub fn new(layers: Vec<PatchLayer>, spots: SpotsInTiles, whole: HashSet<TileCoord>, layers_apart: bool) -> Patches {
        let refused = layers.iter().map(|_| AtomicU64::new(0)).collect();
        Patches { layers, spots, whole, layers_apart, refused, patched: AtomicU64::new(0) }
    }

    /// How many tiles were patched up to now, in one layer or more.
    #[must_use]
    pub fn patched(&self) -> u64 {
        self.patched.load(Relaxed)
    }

    /// What becomes of the tiles of some areas.
    fn ways(&self, reader: &mut dyn TileReader, areas: &[Area]) -> Result<Vec<Tile>, ReadError> {
        let tiles = areas.iter().flat_map(|area| area.rect.iter().map(move |tile| (tile, area)));
        let tiles: Vec<(TileCoord, &Area)> = tiles.collect();
        let coords: Vec<TileCoord> = tiles.iter().map(|(tile, _)| *tile).collect();
        let mut held = self.held(reader, &coords)?;
        let one = |(tile, area): (TileCoord, &Area)| {
            let held = held.remove(&tile).flatten();
            let ways = self.shown(tile).map(|number| (number, self.way(number, tile, &held))).collect();
            Tile { area: area.within(TileRect::from(tile)), held, ways }
        };
        Ok(tiles.into_iter().map(one).collect())
    }

    /// The layers that are drawn at a tile's zoom, by their places.
    fn shown(&self, tile: TileCoord) -> impl Iterator<Item = usize> + '_ {
        (0..self.layers.len()).filter(move |number| self.layers[*number].zooms.contains(tile.zoom()))
    }

    fn held(&self, reader: &mut dyn TileReader, tiles: &[TileCoord]) -> Result<HashMap<TileCoord, Held>, ReadError> {
        let mut ids: Vec<TileId> = Vec::new();
        for tile in tiles {
            if self.layers_apart {
                let slice = |layer: usize| Slice::Layer(self.layers[layer].number);
                ids.extend(self.shown(*tile).map(|layer| TileId { coord: *tile, slice: slice(layer) }));
            } else {
                ids.push(TileId::from(*tile));
            }
        }
        let stored = reader.read(&ids)?;
        let (mut held, mut gunzip): (HashMap<TileCoord, Held>, _) = (HashMap::new(), Gunzip::new());
        for (id, stored) in ids.iter().zip(stored) {
            let Some(stored) = stored else { continue };
            let held = held.entry(id.coord).or_insert_with(|| Some(HashMap::new()));
            let Some(layers) = held else { continue };
            let raw = gunzip.unpack(&stored).unwrap_or_else(|error| {
                tracing::info!("tile {}: {error}: rendering it whole", id.coord);
                NO_TILE.to_vec()
            });
            let Some(split) = mvt::split(&raw) else {
                *held = None;
                continue;
            };
            for (name, bytes) in split {
                let same = |number: &usize| self.layers[*number].name == name;
                if let Some(number) = self.shown(id.coord).find(same) {
                    layers.insert(self.layers[number].number, bytes.to_vec());
                }
            }
        }
        Ok(held)
    }

    /// What becomes of a layer in a tile.
    fn way(&self, number: usize, tile: TileCoord, held: &Held) -> Way {
        let layer = &self.layers[number];
        let is_refused = self.refused[number].load(Relaxed) >= MOST_REFUSED;
        let may = layer.points.is_some() && !is_refused && !self.whole.contains(&tile);
        let held = held.as_ref().filter(|_| may);
        let (Some(held), Some(spots)) = (held, self.spots.of(number, tile)) else { return Way::Whole };
        // A layer that the tile does not hold shows nothing there, or was lost: one look tells.
        let Some(bytes) = held.get(&layer.number) else { return Way::Whole };
        if layer.stocked_from.is_some_and(|from| tile.zoom() >= from) {
            let boxes = boxes(tile, layer.extent, spots);
            return if boxes.is_empty() { Way::Stays } else { Way::Stocked(boxes) };
        }
        let Some(features) = mvt::count_features(bytes) else { return Way::Whole };
        match parts(tile, layer.extent, features / WORTH, spots) {
            Some(parts) if parts.is_empty() => Way::Stays,
            Some(parts) => Way::Patched(parts),
            None => Way::Whole,
        }
    }

    /// What is rendered for some tiles: layers as a whole, or parts of them.
    fn asked(&self, tiles: &[Tile], late: bool) -> Batch {
        let mut batch = Batch {
            areas: Vec::new(),
            planned: Planned::Every,
            tiles: 0,
            layers: vec![LayerCount::default(); self.layers.len()],
            late,
        };
        for one in tiles.iter().filter(|one| !one.all(&Way::Stays)) {
            batch.tiles += 1;
            let way_of = |layer: usize| one.ways.iter().find(|(number, _)| *number == layer).map(|(_, way)| way);
            let mut add = |search: Vec<SearchBox>| {
                for (count, search) in batch.layers.iter_mut().zip(&search) {
                    let is_asked = u64::from(*search != SearchBox::Nothing);
                    (count.tiles, count.features) = (count.tiles + is_asked, count.features + is_asked);
                }
                batch.areas.push(Area { rect: one.area.rect, search });
            };
            if one.any(|way| matches!(way, Way::Whole | Way::Stocked(_))) {
                let search = one.area.search.iter().cloned().enumerate();
                let at_once = |(layer, own)| match way_of(layer) {
                    Some(Way::Whole) => own,
                    Some(Way::Stocked(boxes)) => SearchBox::Near(boxes.clone()),
                    Some(Way::Patched(_) | Way::Stays) | None => SearchBox::Nothing,
                };
                add(search.map(at_once).collect());
            }
            for (layer, way) in &one.ways {
                let Way::Patched(parts) = way else { continue };
                for part in parts {
                    let mut search = vec![SearchBox::Nothing; self.layers.len()];
                    search[*layer] = SearchBox::World(part.world);
                    add(search);
                }
            }
        }
        batch
    }

    /// The tiles as they are now, and those that cannot be patched, to be rendered whole.
    fn put_together(&self, tiles: Vec<Tile>, rendered: Vec<RenderedTile>) -> (Vec<RenderedTile>, Vec<Tile>) {
        let rendered: HashMap<TileCoord, RenderedTile> = rendered.into_iter().map(|one| (one.tile, one)).collect();
        let (mut done, mut again) = (Vec::with_capacity(tiles.len()), Vec::new());
        for one in tiles {
            let Some(coord) = one.area.rect.first() else { continue };
            let nothing = RenderedTile::empty(coord);
            match self.tile(coord, &one, rendered.get(&coord).unwrap_or(&nothing)) {
                Some(tile) => {
                    let is_patched = one.any(|way| matches!(way, Way::Patched(_) | Way::Stocked(_)));
                    self.patched.fetch_add(u64::from(is_patched), Relaxed);
                    done.push(tile);
                }
                None => again.push(self.whole(one)),
            }
        }
        (done, again)
    }

    fn whole(&self, one: Tile) -> Tile {
        let all = one.area.rect.first().into_iter().flat_map(|coord| self.shown(coord));
        Tile { ways: all.map(|layer| (layer, Way::Whole)).collect(), ..one }
    }

    /// A tile of what is held and what was rendered for it; `None` if it has to be rendered whole.
    fn tile(&self, coord: TileCoord, one: &Tile, rendered: &RenderedTile) -> Option<RenderedTile> {
        let mut tile = RenderedTile::empty(coord);
        for (number, way) in &one.ways {
            let layer = &self.layers[*number];
            let notes = rendered.notes.iter().filter(|note| note.layer == layer.number);
            let (fresh, before) = (part_of(&rendered.mvt, &rendered.layers, layer.number), tile.mvt.len());
            if *way == Way::Whole {
                tile.notes.extend(notes.cloned());
                tile.mvt.extend_from_slice(fresh);
                for (_, bytes) in mvt::split(fresh)? {
                    tile.features += mvt::count_features(bytes)? as u64;
                }
            } else {
                // How heavy a part is says nothing of the tile.
                if notes.clone().any(|note| !matches!(note.what, Noted::Heavy { .. })) {
                    return None;
                }
                let held = one.held.as_ref()?.get(&layer.number);
                let patched = way.boxes().map(|boxes| patched(held?, fresh, &boxes, layer.points.as_ref()?));
                let (bytes, features) = match (&patched, held) {
                    (Some(Some((bytes, features))), _) => (&bytes[..], *features),
                    (Some(None), _) => {
                        self.refused[*number].fetch_add(1, Relaxed);
                        return None;
                    }
                    (None, Some(held)) => (&held[..], mvt::count_features(held)?),
                    (None, None) => (&[][..], 0),
                };
                if !bytes.is_empty() {
                    mvt::put_layer(&mut tile.mvt, bytes);
                }
                tile.features += features as u64;
            }
            let own = tile.mvt.len() - before;
            tile.layers.push((layer.number, own));
            // Of a layer that was rendered the source has said it.
            let limit = layer.most_bytes.at(coord.zoom()).filter(|_| *way != Way::Whole);
            if let Some(limit) = limit.filter(|limit| most_packed(own as u64) > limit.get()) {
                tile.notes.push(Note { layer: layer.number, what: Noted::Heavy { limit: limit.get() } });
            }
        }
        Some(tile)
    }
}

/// A layer with some parts replaced by what was rendered there, and how many features it has.
fn patched(held: &[u8], fresh: &[u8], boxes: &[GridBox], points: &PointLayer) -> Option<(Vec<u8>, usize)> {
    match mvt::split(fresh)?[..] {
        [] => mvt::replaced(held, &[], boxes, points),
        [(_, fresh)] => mvt::replaced(held, fresh, boxes, points),
        // A statement that was cut.
        _ => None,
    }
}

/// Bytes that are no tile.
const NO_TILE: &[u8] = &[0];

/// Looking at one part costs about as much as drawing so many features.
const WORTH: usize = 8;

/// A layer that so many tiles hold otherwise than as points in the order of their keys is rendered whole from then on.
const MOST_REFUSED: u64 = 8;
