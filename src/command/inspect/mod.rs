//! `oar-tiles inspect`: the content of a target, or of one of its tiles.

mod geojson;
mod png;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::encode::{Gunzip, MAX_UNPACKED_TILE};
use crate::manifest::Manifest;
use crate::mvt;
use crate::pipeline::{LargestTile, TileSizes};
use crate::report::{Contents, ContentsBounds, ContentsZoom, ShownFeature, write_document};
use crate::run::{CommandError, Job, Target, WrittenFileError};
use crate::sink::{Described, TileReader, read_all};
use crate::tile::{LayerId, Order, Slice, TileCoord, TileId, Zoom};

/// The options of `inspect`.
#[derive(Debug, Clone, Default)]
pub struct InspectOptions {
    /// A tile, as z/x/y; `None` for the whole target.
    pub tile: Option<String>,
    /// Only this layer of the tile.
    pub layer: Option<String>,
    /// The tile as GeoJSON.
    pub geojson: bool,
    /// The tile as a picture.
    pub png: bool,
}

/// The result of `inspect`.
#[derive(Debug)]
pub enum Inspection {
    /// The target as a whole.
    Summary(Box<Contents>),
    /// The features of a tile.
    Features(Vec<ShownFeature>),
    /// The features of a tile as a GeoJSON text.
    GeoJson(String),
    /// A tile as a picture: a PNG.
    Picture(Vec<u8>),
}

/// The number of tiles that are read at a time.
const TILES_PER_CHUNK: usize = 1_000;

/// The memory in bytes that one tile may take when it is shown. A tile stores each value once, but all of its features may refer to it.
const MAX_BYTES_SHOWN: usize = 1 << 30;

/// Inspects the job's target.
///
/// # Errors
/// If the target cannot be read, or does not hold the tile.
pub async fn inspect(job: &Job, options: InspectOptions) -> Result<Inspection, CommandError> {
    let target = job.target.clone();
    let looking = tokio::task::spawn_blocking(move || run(&options, &target));
    // Nothing is written, so nothing has to be cleaned up.
    tokio::select! {
        shown = looking => shown.unwrap_or_else(|error| Err(CommandError::Died(error.to_string()))),
        signal = job.stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}

/// Writes a picture of a tile of `target` into a file.
///
/// # Errors
/// If the file cannot be written, or is the target.
pub fn write_picture(path: &Path, target: &Path, picture: &[u8]) -> Result<(), CommandError> {
    write_document(path, target, picture, |moment, source| {
        WrittenFileError::NoPicture { path: path.to_owned(), moment, source }.into()
    })
}

fn run(options: &InspectOptions, target: &Target) -> Result<Inspection, CommandError> {
    let tile = options.tile.as_deref().map(parse).transpose()?;
    let mut reader = target.reader()?;
    let Some(tile) = tile else {
        return Ok(Inspection::Summary(Box::new(contents(&mut *reader, target.to_string())?)));
    };
    let raw = raw(&mut *reader, tile, target)?;
    features(&raw, tile, options, target)
}

/// The tile that a text names.
fn parse(text: &str) -> Result<TileCoord, CommandError> {
    let wrong = |what: String| CommandError::NoTile { text: text.to_owned(), what };
    let parts: Vec<u64> = text
        .split('/')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()
        .filter(|parts: &Vec<u64>| parts.len() == 3)
        .ok_or_else(|| wrong("write zoom/column/row, such as 4/13/6".to_owned()))?;
    let zoom = u8::try_from(parts[0]).ok().and_then(Zoom::new);
    let zoom = zoom.ok_or_else(|| wrong(format!("the deepest zoom is {}", Zoom::MAX)))?;
    let [x, y] = [parts[1], parts[2]].map(|part| u32::try_from(part).unwrap_or(u32::MAX));
    TileCoord::new(zoom, x, y).ok_or_else(|| wrong(format!("columns and rows of zoom {zoom} are 0 to {}", zoom.last())))
}

/// A tile's MVT bytes, concatenated if the target stores layers separately.
fn raw(reader: &mut dyn TileReader, tile: TileCoord, target: &Target) -> Result<Vec<u8>, CommandError> {
    let layers = reader.describe()?.vector_layers.len();
    let apart = (0..layers).filter_map(|layer| Some(Slice::Layer(LayerId(u16::try_from(layer).ok()?))));
    let ids: Vec<TileId> = [Slice::Whole].into_iter().chain(apart).map(|slice| TileId { coord: tile, slice }).collect();
    let mut gunzip = Gunzip::new();
    let mut raw: Option<Vec<u8>> = None;
    read_all(reader, &ids, |_, stored| {
        let Some(stored) = stored else { return Ok(()) };
        let raw = raw.get_or_insert_default();
        let room = MAX_UNPACKED_TILE.saturating_sub(raw.len());
        raw.extend(gunzip.unpack_at_most(&stored, room).map_err(|source| broken(target, tile, source))?);
        Ok::<(), CommandError>(())
    })?;
    raw.ok_or_else(|| CommandError::NotThere { target: target.to_string(), what: format!("tile {tile}") })
}

fn broken(target: &Target, tile: TileCoord, source: impl std::error::Error + Send + Sync + 'static) -> CommandError {
    CommandError::BrokenTile { target: target.to_string(), tile, source: Box::new(source) }
}

/// An upper bound of the memory in bytes that layers take when they are shown. A table holds each text three times.
fn memory_to_show(layers: &[mvt::MvtLayer<'_>]) -> usize {
    let of_feature = |layer: &mvt::MvtLayer<'_>, feature: &mvt::Feature| {
        let properties = layer.size_of_properties(feature).saturating_mul(3);
        properties.saturating_add(600 + 160 * feature.geometry.positions().count())
    };
    let each = layers.iter().flat_map(|layer| layer.features.iter().map(move |feature| of_feature(layer, feature)));
    each.fold(0, usize::saturating_add)
}

/// The features of a tile.
fn features(
    raw: &[u8],
    tile: TileCoord,
    options: &InspectOptions,
    target: &Target,
) -> Result<Inspection, CommandError> {
    let mut layers = mvt::decode(raw).map_err(|source| broken(target, tile, source))?;
    if let Some(wanted) = &options.layer {
        let there: Vec<&str> = layers.iter().map(|layer| layer.name).collect();
        let there = there.join(", ");
        layers.retain(|layer| layer.name == wanted);
        if layers.is_empty() {
            let what = format!("layer {wanted:?} in tile {tile}: there is {there}");
            return Err(CommandError::NotThere { target: target.to_string(), what });
        }
    }
    if options.png {
        let picture = png::picture(&layers).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        return Ok(Inspection::Picture(picture));
    }
    if memory_to_show(&layers) > MAX_BYTES_SHOWN {
        let what = format!(
            "tile {tile} holds more than can be shown: its features, each with its properties written out, take more than 1 GB of memory. Name a smaller --layer, if there is one"
        );
        return Err(CommandError::Unfit { target: target.to_string(), what });
    }
    if options.geojson {
        return Ok(Inspection::GeoJson(geojson::collection(tile, &layers).map_err(std::io::Error::from)?));
    }
    let shown: Vec<ShownFeature> = layers
        .iter()
        .flat_map(|layer| {
            layer.features.iter().map(|feature| ShownFeature {
                layer: layer.name.to_owned(),
                id: feature.id.map(|id| id.to_string()).unwrap_or_default(),
                geometry: feature.geometry.kind().to_owned(),
                properties: serde_json::Value::Object(geojson::properties(layer, feature)).to_string(),
            })
        })
        .collect();
    Ok(Inspection::Features(shown))
}

/// The figures of one zoom, while tiles are counted.
#[derive(Default)]
struct Figures {
    tiles: u64,
    bytes: u64,
    sizes: TileSizes,
    largest: Option<LargestTile>,
}

fn contents(reader: &mut dyn TileReader, target: String) -> Result<Contents, CommandError> {
    let Described { name, description, zooms, bounds, vector_layers, manifest, unfinished, .. } = reader.describe()?;
    let mut tiles = reader.list()?;
    // In the order of the file, so that it is read sequentially.
    tiles.sort_by_cached_key(|id| (Order::ZoomColumnTmsRow.place(id.coord), id.slice));
    let mut by_zoom: BTreeMap<Zoom, Figures> = BTreeMap::new();
    for chunk in tiles.chunks(TILES_PER_CHUNK) {
        read_all(reader, chunk, |id, stored| {
            let bytes = stored.map_or(0, |stored| stored.len() as u64);
            let zoom = by_zoom.entry(id.coord.zoom()).or_default();
            zoom.tiles += 1;
            zoom.bytes += bytes;
            zoom.sizes.add(bytes);
            if zoom.largest.is_none_or(|largest| bytes > largest.bytes) {
                zoom.largest = Some(LargestTile { tile: id.coord, bytes });
            }
            Ok::<(), CommandError>(())
        })?;
    }
    // A manifest that cannot be parsed is left out here; `verify` reports it.
    let manifest = manifest.and_then(|text| serde_json::from_str::<Manifest>(&text).ok());
    let seeded = manifest.as_ref().and_then(|manifest| {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(manifest.started))?;
        (manifest.started < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(time).to_string())
    });
    Ok(Contents {
        target,
        name,
        description,
        bounds: bounds.map(ContentsBounds::from),
        min_zoom: zooms.map(|(from, _)| from),
        max_zoom: zooms.map(|(_, to)| to),
        vector_layers: serde_json::to_value(vector_layers).map_err(std::io::Error::from)?,
        manifest,
        unfinished: unfinished.iter().map(ToString::to_string).collect(),
        seeded,
        tiles: by_zoom.values().map(|zoom| zoom.tiles).sum(),
        bytes: by_zoom.values().map(|zoom| zoom.bytes).sum(),
        zooms: by_zoom
            .into_iter()
            .map(|(level, zoom)| ContentsZoom {
                zoom: level.get(),
                tiles: zoom.tiles,
                bytes: zoom.bytes,
                median: zoom.sizes.quantile(0.5),
                p95: zoom.sizes.quantile(0.95),
                largest: zoom.largest,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_tile_says_what_to_write() {
        assert_eq!(parse("4/13/6").unwrap().to_string(), "4/13/6");
        for (text, what) in [
            ("4/13", "write zoom/column/row, such as 4/13/6"),
            ("4/13/6/1", "write zoom/column/row, such as 4/13/6"),
            ("a/b/c", "write zoom/column/row, such as 4/13/6"),
            ("4/-1/6", "write zoom/column/row, such as 4/13/6"),
            ("23/0/0", "the deepest zoom is 22"),
            ("300/0/0", "the deepest zoom is 22"),
            ("3/8/0", "columns and rows of zoom 3 are 0 to 7"),
            ("3/0/99999999999", "columns and rows of zoom 3 are 0 to 7"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("{text:?} is no tile: {what}"));
        }
    }
}
