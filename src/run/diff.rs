//! `oar-tiles diff`: the tiles in which two targets of any kind differ.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use tokio::task::spawn_blocking;

use super::dirty_file::feature;
use super::target::Target;
use super::{CommandError, Job, interrupted};
use crate::encode::{Gunzip, is_gzip};
use crate::report::{DiffReport, DiffZoom};
use crate::stop::Stop;
use crate::target::{TileReader, read_all};
use crate::tile::{AreaPart, Coverage, Scope, Slice, TileCoord, TileId, ZoomList};

#[derive(Debug, Clone)]
pub(crate) struct DiffOptions {
    /// The target that the job's target is compared with.
    pub other: String,
    /// Only these zooms.
    pub zoom: Option<ZoomList>,
    /// Only the tiles that these boxes touch.
    pub bbox: Vec<AreaPart>,
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

/// Compares the job's target with another one. Fails if one of them cannot be read, or keeps the layers of a tile apart
/// and the other does not.
pub(crate) async fn diff(job: &Job, options: &DiffOptions) -> Result<Difference, CommandError> {
    let (owned, options) = (job.clone(), options.clone());
    spawn_blocking(move || run(&owned, &options)).await?.map_err(|error| interrupted(error, &job.stop))
}

pub(crate) fn equal(found: &Difference) -> Result<(), CommandError> {
    match found.report.differences() {
        0 => Ok(()),
        tiles => Err(CommandError::Differ { a: found.report.a.clone(), b: found.report.b.clone(), tiles }),
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

fn run(job: &Job, options: &DiffOptions) -> Result<Difference, CommandError> {
    let targets = [job.target.clone(), job.target.beside(&options.other)?];
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
            (Some(x), Some(y)) => place(x).cmp(&place(y)),
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
    compare(&mut *a, &mut *b, &both, &job.stop, |id, compared| {
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
    Ok(Difference { report: DiffReport { a, b, zooms: zooms.into_values().collect() }, tiles })
}

fn counts(zooms: &mut BTreeMap<u8, DiffZoom>, tile: TileCoord) -> &mut DiffZoom {
    let zoom = tile.zoom().get();
    zooms.entry(zoom).or_insert_with(|| DiffZoom { zoom, ..DiffZoom::default() })
}

/// The tiles of a target that are compared, in order.
fn listed(reader: &mut dyn TileReader, options: &DiffOptions) -> Result<Vec<TileId>, CommandError> {
    let mut ids = reader.list()?;
    if options.zoom.is_some() || !options.bbox.is_empty() {
        let zooms = options.zoom.clone().unwrap_or_else(ZoomList::all);
        let scope = Scope { zooms, coverage: Coverage::new(&options.bbox) };
        ids.retain(|id| scope.holds(*id));
    }
    ids.sort_unstable_by_key(place);
    Ok(ids)
}

fn place(id: &TileId) -> (u8, u32, u32, Slice) {
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
    let mut gunzip = Gunzip::new();
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
            let mut unpacked = |tile: &[u8]| {
                if !is_gzip(tile) {
                    return Ok(tile.to_vec());
                }
                gunzip.unpack(tile).map_err(|cause| CommandError::Decode { tile: *id, cause })
            };
            let compared = if one == other {
                TileComparison::SameBytes
            } else if unpacked(&one)? == unpacked(&other)? {
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
