//! `oar-tiles diff`: the tiles in which two targets of any kind differ, or a target and a running endpoint.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::dirty_file::{feature, listed as listed_in_file};
use super::endpoint::{Endpoint, EndpointError, EndpointOptions};
use super::target::Target;
use super::{CommandError, TilesetRun, interrupted};
use crate::encode::Unpacker;
use crate::mvt::{LayerDifference, MvtLayer, decode, differences};
use crate::report::{DiffReport, DiffZoom, DifferingTile, UnansweredTile, grouped, say};
use crate::stop::Stop;
use crate::target::{TileReader, read_all};
use crate::tile::{AreaPart, Coverage, Scope, Slice, TileCoord, TileId, ZoomList};

#[derive(Debug, Clone)]
pub(crate) struct DiffOptions {
    /// What the run's target is compared with.
    pub other: DiffOther,
    /// Only these zooms.
    pub zoom: Option<ZoomList>,
    /// Only the tiles that these boxes touch.
    pub bbox: Vec<AreaPart>,
}

impl DiffOptions {
    fn scope(&self) -> Scope {
        let zooms = self.zoom.clone().unwrap_or_else(ZoomList::all);
        Scope { zooms, coverage: Coverage::new(&self.bbox) }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum DiffOther {
    /// Another target, as a user writes it.
    Target(String),
    /// A running endpoint, and the tiles that it is asked for.
    Endpoint(EndpointOptions, EndpointTiles),
}

/// The tiles that a running endpoint is asked for.
#[derive(Debug, Clone)]
pub(crate) enum EndpointTiles {
    /// Those of a file of `z/x/y` lines; `-` for standard input.
    List(PathBuf),
    /// This number of the target's tiles, equally many of each zoom. For every tenth tile, its eastern neighbour is
    /// asked for, too, if the target does not have it.
    Sample(usize),
}

/// How two targets differ.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The counts, by zoom.
    pub report: DiffReport,
    /// Tiles that differ or that only one of the targets has, and which of these it is.
    pub tiles: Vec<(TileCoord, TileDifference)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileDifference {
    /// Both targets have it, with other content.
    Content,
    OnlyFirst,
    OnlySecond,
}

impl TileDifference {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            TileDifference::Content => "differs",
            TileDifference::OnlyFirst => "only_a",
            TileDifference::OnlySecond => "only_b",
        }
    }
}

/// The number of tiles that are read from each target at a time.
const TILES_AT_A_TIME: usize = 500;

/// Compares the run's target with another one. Fails if one of them cannot be read, or keeps the layers of a tile apart
/// and the other does not.
pub(crate) async fn diff(tileset_run: &TilesetRun, options: &DiffOptions) -> Result<Difference, CommandError> {
    let (owned, options) = (tileset_run.clone(), options.clone());
    let work = move || match &options.other {
        DiffOther::Target(other) => run(&owned, &options, other),
        DiffOther::Endpoint(endpoint, tiles) => run_beside_endpoint(&owned, &options, Endpoint::new(endpoint)?, tiles),
    };
    spawn_blocking(work).await?.map_err(|error| interrupted(error, &tileset_run.stop))
}

pub(crate) fn equal(found: &Difference) -> Result<(), CommandError> {
    let DiffReport { a, b, unanswered, .. } = &found.report;
    match (found.report.differences(), unanswered.first()) {
        (0, None) => Ok(()),
        (0, Some(first)) => {
            let (count, UnansweredTile { tile, why }) = (grouped(unanswered.len() as u64), first);
            let what = format!("tiles that cannot be compared: {count}, first {tile}: {why}. All others are equal");
            Err(CommandError::Endpoint { address: b.clone(), what })
        }
        (tiles, _) => Err(CommandError::Differ { a: a.clone(), b: b.clone(), tiles }),
    }
}

/// The differences as GeoJSON (RFC 7946): the square of each tile, with `difference` as a property.
pub(crate) fn geojson(found: &Difference) -> String {
    let features = found.tiles.iter().map(|(tile, difference)| {
        let mut feature = feature(tile);
        feature["properties"]["difference"] = difference.word().into();
        feature
    });
    let features: Vec<serde_json::Value> = features.collect();
    format!("{}\n", serde_json::json!({ "type": "FeatureCollection", "features": features }))
}

fn run(tileset_run: &TilesetRun, options: &DiffOptions, other: &str) -> Result<Difference, CommandError> {
    let targets = [tileset_run.target.clone(), tileset_run.target.beside(other)?];
    let [one, other] = &targets;
    let (mut a, mut b) = (one.tileset_reader()?, other.tileset_reader()?);
    let mut zooms: BTreeMap<u8, DiffZoom> = BTreeMap::new();
    let mut tiles = Vec::new();
    let mut both = Vec::new();
    let (in_a, in_b) = (listed(&mut *a, options)?, listed(&mut *b, options)?);
    let slices = [&in_a, &in_b].map(|ids| ids.first().map(|id| id.slice == Slice::Whole));
    if let [Some(one), Some(other)] = slices
        && one != other
    {
        let apart = &targets[usize::from(one)];
        let what = "it keeps the layers of a tile apart, and the other target does not: they cannot be compared";
        return Err(CommandError::Unfit { target: apart.to_string(), what: what.to_owned() });
    }
    let (mut one, mut other) = (in_a.iter().peekable(), in_b.iter().peekable());
    loop {
        let order = match (one.peek(), other.peek()) {
            (Some(x), Some(y)) => sort_key(x).cmp(&sort_key(y)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let (Some(id), difference) = (match order {
            Ordering::Less => (one.next(), Some(TileDifference::OnlyFirst)),
            Ordering::Greater => (other.next(), Some(TileDifference::OnlySecond)),
            Ordering::Equal => {
                other.next();
                (one.next(), None)
            }
        }) else {
            break;
        };
        match difference {
            None => both.push(*id),
            Some(difference) => {
                let counts = counts(&mut zooms, id.coord);
                if difference == TileDifference::OnlyFirst {
                    counts.only_a += 1;
                } else {
                    counts.only_b += 1;
                }
                tiles.push((id.coord, difference));
            }
        }
    }
    compare(&mut *a, &mut *b, &both, &tileset_run.stop, |id, compared| {
        let counts = counts(&mut zooms, id.coord);
        match compared {
            TileComparison::SameBytes => counts.equal += 1,
            TileComparison::SameContent => {
                counts.equal += 1;
                counts.packed_otherwise += 1;
            }
            TileComparison::Differs => {
                counts.differ += 1;
                tiles.push((id.coord, TileDifference::Content));
            }
        }
    })?;
    tiles.sort_by_key(|(tile, _)| (tile.zoom().get(), tile.x(), tile.y()));
    tiles.dedup();
    let [a, b] = targets.map(|target: Target| target.to_string());
    let zooms = zooms.into_values().collect();
    Ok(Difference { report: DiffReport { a, b, zooms, differing: Vec::new(), unanswered: Vec::new() }, tiles })
}

fn counts(zooms: &mut BTreeMap<u8, DiffZoom>, tile: TileCoord) -> &mut DiffZoom {
    let zoom = tile.zoom().get();
    zooms.entry(zoom).or_insert_with(|| DiffZoom { zoom, ..DiffZoom::default() })
}

/// The tiles of a target that are compared, in order.
fn listed(reader: &mut dyn TileReader, options: &DiffOptions) -> Result<Vec<TileId>, CommandError> {
    let mut ids = reader.list()?;
    if options.zoom.is_some() || !options.bbox.is_empty() {
        let scope = options.scope();
        ids.retain(|id| scope.holds(*id));
    }
    ids.sort_unstable_by_key(sort_key);
    Ok(ids)
}

fn sort_key(id: &TileId) -> (u8, u32, u32, Slice) {
    (id.coord.zoom().get(), id.coord.x(), id.coord.y(), id.slice)
}

/// The result of comparing the two tiles at an address.
enum TileComparison {
    SameBytes,
    /// The same tile, compressed by another program or at another level.
    SameContent,
    Differs,
}

/// Reads tiles that both targets have, and compares them.
fn compare(
    a: &mut dyn TileReader,
    b: &mut dyn TileReader,
    ids: &[TileId],
    stop: &Stop,
    mut each: impl FnMut(&TileId, TileComparison),
) -> Result<(), CommandError> {
    let mut unpackers = [Unpacker::new(a.describe()?.format), Unpacker::new(b.describe()?.format)];
    for chunk in ids.chunks(TILES_AT_A_TIME) {
        stop.check()?;
        let mut of_a = Vec::with_capacity(chunk.len());
        read_all(a, chunk, |_id, tile| {
            of_a.push(tile);
            Ok::<(), CommandError>(())
        })?;
        let mut number = 0;
        read_all(b, chunk, |id, tile| {
            let one = of_a.get_mut(number).and_then(Option::take);
            number += 1;
            let (Some(one), Some(other)) = (one, tile) else {
                return Err(CommandError::Vanished { tile: *id, changed: "a target changed meanwhile" });
            };
            let unpacked = |unpacker: &mut Unpacker, tile: &[u8]| {
                unpacker.mvt(tile).map_err(|cause| CommandError::Decode { tile: *id, cause })
            };
            let [of_one, of_other] = &mut unpackers;
            let compared = if one == other {
                TileComparison::SameBytes
            } else if unpacked(of_one, &one)? == unpacked(of_other, &other)? {
                TileComparison::SameContent
            } else {
                TileComparison::Differs
            };
            each(id, compared);
            Ok(())
        })?;
    }
    Ok(())
}

// Compares a target with a running endpoint, feature by feature.

/// The most tiles of which the differences are kept.
const MAX_DESCRIBED_TILES: usize = 1_000;

/// An endpoint that gives no usable answer for this many tiles in a row is not asked for more.
const MAX_UNANSWERED_IN_A_ROW: u32 = 5;

/// Of the tiles of a sample, every tenth is followed by its neighbour.
const SAMPLED_PER_NEIGHBOUR: usize = 10;

/// The time between two lines of progress.
const PROGRESS_PAUSE: Duration = Duration::from_secs(10);

fn run_beside_endpoint(
    tileset_run: &TilesetRun,
    options: &DiffOptions,
    mut endpoint: Endpoint,
    wanted: &EndpointTiles,
) -> Result<Difference, CommandError> {
    let (target, stop) = (&tileset_run.target, &tileset_run.stop);
    let mut reader = target.tileset_reader()?;
    let coords = chosen(&mut *reader, options, wanted)?;
    if coords.is_empty() {
        let what = "there is no tile to compare: name others with --tiles, or another --zoom or --bbox".to_owned();
        return Err(CommandError::Unfit { target: target.to_string(), what });
    }
    let count = grouped(coords.len() as u64);
    say(&format!("asking {endpoint} for {count} tiles, at most {} a second", endpoint.rate));
    let report = DiffReport { a: target.to_string(), b: endpoint.to_string(), ..DiffReport::default() };
    let mut found = Difference { report, tiles: Vec::new() };
    let mut zooms: BTreeMap<u8, DiffZoom> = BTreeMap::new();
    // A fault of the first tile is one of all tiles, until an answer has shown otherwise.
    let (mut unanswered_in_a_row, mut said) = (MAX_UNANSWERED_IN_A_ROW - 1, Instant::now());
    for (number, coord) in coords.into_iter().enumerate() {
        if said.elapsed() > PROGRESS_PAUSE {
            said = Instant::now();
            say(&format!("{} of {count} tiles", grouped(number as u64)));
        }
        let stored = target.unpacked_tile(&mut *reader, coord)?.unwrap_or_default();
        let ours = decode(&stored).map_err(|source| target.broken_tile(coord, source))?;
        let asked = target.options.runtime.block_on(async {
            tokio::select! {
                biased;
                signal = stop.wait() => Err(CommandError::Interrupted(signal)),
                answer = endpoint.tile(coord) => Ok(answer),
            }
        })?;
        let compared = asked.and_then(|answer| {
            let answer = answer.unwrap_or_default();
            let theirs =
                decode(&answer).map_err(|error| EndpointError::Tile(format!("it answers 200, but {error}")))?;
            let holds = |layers: &[MvtLayer<'_>]| layers.iter().any(|layer| !layer.features.is_empty());
            let layers = differences(&ours, &theirs);
            Ok(EndpointComparison {
                holds: [&ours, &theirs].map(|tile| holds(tile)),
                is_same: answer == stored,
                layers,
            })
        });
        match compared {
            Ok(compared) => found.add(&mut zooms, coord, compared),
            Err(EndpointError::All(what)) => return Err(endpoint.failed(what)),
            Err(EndpointError::Tile(why)) => {
                unanswered_in_a_row += 1;
                if unanswered_in_a_row >= MAX_UNANSWERED_IN_A_ROW {
                    return Err(endpoint.failed(format!("tile {coord}: {why}")));
                }
                found.report.unanswered.push(UnansweredTile { tile: coord, why });
                continue;
            }
        }
        unanswered_in_a_row = 0;
    }
    found.report.zooms = zooms.into_values().collect();
    Ok(found)
}

/// How a tile of a target and that of an endpoint compare.
struct EndpointComparison {
    /// Whether the target's tile, and the endpoint's, has features.
    holds: [bool; 2],
    /// True if the unpacked bytes are the same.
    is_same: bool,
    layers: Vec<LayerDifference>,
}

impl Difference {
    fn add(&mut self, zooms: &mut BTreeMap<u8, DiffZoom>, tile: TileCoord, compared: EndpointComparison) {
        let EndpointComparison { holds, is_same, layers } = compared;
        let counts = counts(zooms, tile);
        let difference = match holds {
            [false, false] => {
                counts.both_empty += 1;
                return;
            }
            [true, true] if layers.is_empty() => {
                counts.equal += 1;
                counts.packed_otherwise += u64::from(!is_same);
                return;
            }
            [true, true] => {
                counts.differ += 1;
                TileDifference::Content
            }
            [true, false] => {
                counts.only_a += 1;
                TileDifference::OnlyFirst
            }
            [false, true] => {
                counts.only_b += 1;
                TileDifference::OnlySecond
            }
        };
        self.tiles.push((tile, difference));
        if self.report.differing.len() < MAX_DESCRIBED_TILES {
            self.report.differing.push(DifferingTile { tile, layers });
        }
    }
}

/// The tiles that an endpoint is asked for, each once, by zoom, column and row.
fn chosen(
    reader: &mut dyn TileReader,
    options: &DiffOptions,
    wanted: &EndpointTiles,
) -> Result<Vec<TileCoord>, CommandError> {
    let sort_key = |tile: &TileCoord| (tile.zoom(), tile.x(), tile.y());
    let scope = options.scope();
    let mut coords: Vec<TileCoord> = match wanted {
        EndpointTiles::List(path) => {
            let listed = listed_in_file(path)?.into_iter().map(|(_line, tile)| tile);
            listed.filter(|tile| scope.holds((*tile).into())).collect()
        }
        EndpointTiles::Sample(count) => {
            let mut held: Vec<TileCoord> = listed(reader, options)?.into_iter().map(|id| id.coord).collect();
            held.dedup();
            sample(&held, *count, &scope)
        }
    };
    coords.sort_unstable_by_key(sort_key);
    coords.dedup();
    Ok(coords)
}

/// Tiles of a target: equally many of each zoom that has so many, spread evenly over the zoom; and neighbours that the
/// target does not have. `held` is in order.
fn sample(held: &[TileCoord], count: usize, scope: &Scope) -> Vec<TileCoord> {
    let mut zooms: Vec<&[TileCoord]> = held.chunk_by(|one, next| one.zoom() == next.zoom()).collect();
    // Those with the fewest first: what they do not need is left to the others.
    zooms.sort_by_key(|tiles| tiles.len());
    let (mut left, mut chosen) = (count, Vec::new());
    for (number, tiles) in zooms.iter().enumerate() {
        let share = left.div_ceil(zooms.len() - number).min(tiles.len());
        chosen.extend((0..share).map(|index| tiles[index * tiles.len() / share]));
        left -= share;
    }
    let held: HashSet<TileCoord> = held.iter().copied().collect();
    let beside = |tile: &TileCoord| TileCoord::new(tile.zoom(), tile.x() + 1, tile.y());
    let neighbours = chosen.iter().step_by(SAMPLED_PER_NEIGHBOUR).filter_map(beside);
    let absent: Vec<TileCoord> =
        neighbours.filter(|tile| !held.contains(tile) && scope.holds((*tile).into())).collect();
    chosen.extend(absent);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn a_sample_has_tiles_of_all_zooms_and_absent_neighbours() {
        let tile = |zoom: u8, x, y| TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap();
        let mut held = vec![tile(0, 0, 0), tile(1, 0, 0), tile(1, 1, 1)];
        held.extend((0..1_000).map(|x| tile(11, 2 * x, 7)));
        held.extend((0..2_000).map(|x| tile(12, 2 * x, 7)));
        let everything = Scope { zooms: ZoomList::all(), coverage: Coverage::new(&[]) };
        let of_zoom = |tiles: &[TileCoord], zoom: u8| {
            tiles.iter().filter(|tile| tile.zoom().get() == zoom && held.contains(tile)).count()
        };
        let found = sample(&held, 103, &everything);
        assert_eq!([0, 1, 11, 12].map(|zoom| of_zoom(&found, zoom)), [1, 2, 50, 50]);
        assert_eq!(found.len(), 103 + 10, "neighbours at zooms 11 and 12: {found:?}");
        assert!(found.contains(&tile(12, 2 * 1_960, 7)), "spread over the zoom");
        let shallow = Scope { zooms: "0-3".parse().unwrap(), coverage: Coverage::new(&[]) };
        assert_eq!(sample(&held[..3], 1_000, &shallow), held[..3]);
        assert_eq!(sample(&held, 2, &everything), held[..2]);
        assert_eq!(sample(&[], 10, &everything), []);
    }
}
