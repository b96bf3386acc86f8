//! `oar-tiles inspect`: the content of a target, or of one of its tiles.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{CommandError, Target, TilesetRun, blocking_read, picture};
use crate::clock::{LAST_SECOND, moment};
use crate::manifest::Manifest;
use crate::mvt;
use crate::mvt::{Feature, MvtGeometry, MvtLayer, MvtValue as Property, Position};
use crate::pipeline::{LargestTile, TileSizes};
use crate::report::{Contents, ContentsBounds, ContentsZoom, ShownFeature};
use crate::target::{Described, TileReader, read_all};
use crate::tile::{Order, TileCoord, Zoom};

#[derive(Debug, Clone, Default)]
pub(crate) struct InspectOptions {
    /// A tile, as z/x/y; `None` for the whole target.
    pub tile: Option<String>,
    /// Only this layer of the tile.
    pub layer: Option<String>,
    /// The tile as GeoJSON.
    pub(crate) geojson: bool,
    /// The tile as a picture.
    pub(crate) png: bool,
}

#[derive(Debug)]
pub(crate) enum Inspection {
    /// The target as a whole.
    Summary(Box<Contents>),
    Features(Vec<ShownFeature>),
    /// The features of a tile as a GeoJSON text.
    GeoJson(String),
    /// A tile as a picture: a PNG.
    Picture(Vec<u8>),
}

/// The number of tiles that are read at a time.
const TILES_PER_CHUNK: usize = 1_000;

/// The memory in bytes that one tile may take when it is shown. A tile stores each value once, but all of its features
/// may refer to it.
const MAX_BYTES_SHOWN: usize = 1 << 30;

/// Inspects the run's target.
pub(crate) async fn inspect(tileset_run: &TilesetRun, options: InspectOptions) -> Result<Inspection, CommandError> {
    let target = tileset_run.target.clone();
    blocking_read(&tileset_run.stop, move || run(&options, &target)).await
}

fn run(options: &InspectOptions, target: &Target) -> Result<Inspection, CommandError> {
    let tile = options.tile.as_deref().map(parse).transpose()?;
    let mut reader = target.tileset_reader()?;
    let Some(tile) = tile else {
        return Ok(Inspection::Summary(Box::new(contents(&mut *reader, target.to_string())?)));
    };
    let Some(raw) = target.unpacked_tile(&mut *reader, tile)? else {
        return Err(CommandError::NotThere { target: target.to_string(), what: missing(&mut *reader, tile)? });
    };
    features(&raw, tile, options, target)
}

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

/// What is missing where a target does not hold a tile: where its zooms end, if the tile lies beyond them.
fn missing(reader: &mut dyn TileReader, tile: TileCoord) -> Result<String, CommandError> {
    Ok(match reader.describe()?.zooms {
        Some((first, last)) if !(first..=last).contains(&tile.zoom().get()) => {
            format!("tile {tile}: its zooms are {first} to {last}")
        }
        _ => format!("tile {tile}: nothing is drawn there"),
    })
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

fn features(
    raw: &[u8],
    tile: TileCoord,
    options: &InspectOptions,
    target: &Target,
) -> Result<Inspection, CommandError> {
    let mut layers = mvt::decode(raw).map_err(|source| target.broken_tile(tile, source))?;
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
        let picture = picture::of_tile(&layers).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        return Ok(Inspection::Picture(picture));
    }
    if memory_to_show(&layers) > MAX_BYTES_SHOWN {
        let what = format!(
            "tile {tile} holds more than can be shown: its features, each with its properties written out, take more than 1 GB of memory. Name a smaller --layer, if there is one"
        );
        return Err(CommandError::Unfit { target: target.to_string(), what });
    }
    if options.geojson {
        return Ok(Inspection::GeoJson(collection(tile, &layers).map_err(std::io::Error::from)?));
    }
    let shown: Vec<ShownFeature> = layers
        .iter()
        .flat_map(|layer| {
            layer.features.iter().map(|feature| ShownFeature {
                layer: layer.name.to_owned(),
                id: feature.id.map(|id| id.to_string()).unwrap_or_default(),
                geometry: feature.geometry.kind().to_owned(),
                properties: serde_json::Value::Object(properties(layer, feature)).to_string(),
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
    let Described { name, description, zooms, bounds, vector_layers, manifest, unfinished, dead, .. } =
        reader.describe()?;
    let mut tiles = reader.list()?;
    // In the order of the file, so that it is read sequentially.
    tiles.sort_by_cached_key(|id| (Order::ZoomColumnTmsRow.sort_key(id.coord), id.slice));
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
    let started = manifest.as_ref().map(|manifest| manifest.started).filter(|started| *started <= LAST_SECOND);
    let seeded = started.map(moment);
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
        dead_bytes: dead.map(|dead| dead.bytes).filter(|bytes| *bytes > 0),
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

// A tile as GeoJSON in WGS 84 (RFC 7946).

/// The features of a tile as GeoJSON text. Each has its layer's name as the foreign member "layer" (RFC 7946, section
/// 6.1).
pub(crate) fn collection(tile: TileCoord, layers: &[MvtLayer<'_>]) -> serde_json::Result<String> {
    // Serializes feature by feature, because all features as JSON values would take ten times the memory of the text.
    let mut text = "{\"features\":[".to_owned();
    let features = layers.iter().flat_map(|layer| layer.features.iter().map(move |feature| (layer, feature)));
    for (number, (layer, feature)) in features.enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(&one(&Grid { tile, extent: layer.extent }, layer, feature))?);
    }
    text.push_str(&format!("],\"tile\":\"{tile}\",\"type\":\"FeatureCollection\"}}\n"));
    Ok(text)
}

fn one(grid: &Grid, layer: &MvtLayer<'_>, feature: &Feature) -> Value {
    let mut shown = Map::new();
    shown.insert("type".to_owned(), "Feature".into());
    if let Some(id) = feature.id {
        shown.insert("id".to_owned(), id.into());
    }
    shown.insert("layer".to_owned(), layer.name.into());
    shown.insert("geometry".to_owned(), grid.geometry(&feature.geometry));
    shown.insert("properties".to_owned(), Value::Object(properties(layer, feature)));
    Value::Object(shown)
}

/// The properties of a feature as JSON. Numbers that JSON cannot express (NaN, infinity) become null.
pub(crate) fn properties(layer: &MvtLayer<'_>, feature: &Feature) -> Map<String, Value> {
    let value = |value| match value {
        Property::Text(text) => text.into(),
        // Converted through its decimal digits, so that an f32 of 0.1 does not become 0.10000000149011612.
        Property::Float(number) => number.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Property::Double(number) => number.into(),
        Property::Int(number) | Property::Sint(number) => number.into(),
        Property::Uint(number) => number.into(),
        Property::Bool(yes) => yes.into(),
    };
    layer.properties(feature).map(|(key, property)| (key.to_owned(), value(property))).collect()
}

/// The grid of a tile's layer.
struct Grid {
    tile: TileCoord,
    extent: u32,
}

impl Grid {
    /// Longitude and latitude, with nine decimals: a tenth of a millimetre, less than a grid unit of the deepest tile.
    fn position(&self, [x, y]: Position) -> Value {
        let tiles = f64::from(self.tile.zoom().last()) + 1.0;
        let share = |tile: u32, along: i32| (f64::from(tile) + f64::from(along) / f64::from(self.extent)) / tiles;
        let turned = std::f64::consts::PI * (1.0 - 2.0 * share(self.tile.y(), y));
        let (longitude, latitude) = (share(self.tile.x(), x) * 360.0 - 180.0, turned.sinh().atan().to_degrees());
        json!([longitude, latitude].map(|degrees| (degrees * 1e9).round() / 1e9))
    }

    fn line(&self, positions: &[Position]) -> Value {
        positions.iter().map(|position| self.position(*position)).collect()
    }

    /// Rings, closed and reversed: exterior rings run clockwise in a tile and counterclockwise in GeoJSON (section
    /// 3.1.6).
    fn polygon(&self, rings: &[Vec<Position>]) -> Value {
        let ring = |ring: &Vec<Position>| {
            ring.first()
                .into_iter()
                .chain(ring.iter().rev())
                .map(|position| self.position(*position))
                .collect::<Value>()
        };
        rings.iter().map(ring).collect()
    }

    fn geometry(&self, geometry: &MvtGeometry) -> Value {
        let coordinates = match geometry {
            // A feature without a known geometry has the value null (section 3.2).
            MvtGeometry::Unknown => return Value::Null,
            MvtGeometry::Points(points) => match &points[..] {
                [point] => self.position(*point),
                points => self.line(points),
            },
            MvtGeometry::Lines(lines) => match &lines[..] {
                [line] => self.line(line),
                lines => lines.iter().map(|line| self.line(line)).collect(),
            },
            MvtGeometry::Polygons(polygons) => match &polygons[..] {
                [polygon] => self.polygon(polygon),
                polygons => polygons.iter().map(|polygon| self.polygon(polygon)).collect(),
            },
        };
        json!({ "type": geometry.kind(), "coordinates": coordinates })
    }
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

#[cfg(test)]
mod geojson_tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn positions_are_degrees_and_rings_are_closed_and_counterclockwise() {
        let grid = Grid { tile: TileCoord::new(Zoom::new(1).unwrap(), 1, 0).unwrap(), extent: 4096 };
        let point = grid.geometry(&MvtGeometry::Points(vec![[0, 4096]]));
        assert_eq!(point, json!({ "type": "Point", "coordinates": [0.0, 0.0] }));
        let square = vec![vec![vec![[0, 2048], [2048, 2048], [2048, 4096], [0, 4096]]]];
        let north = 66.513_260_443;
        assert_eq!(
            grid.geometry(&MvtGeometry::Polygons(square)),
            json!({ "type": "Polygon", "coordinates":
                [[[0.0, north], [0.0, 0.0], [90.0, 0.0], [90.0, north], [0.0, north]]] })
        );
        assert_eq!(grid.geometry(&MvtGeometry::Unknown), Value::Null);
        let lines = grid.geometry(&MvtGeometry::Lines(vec![vec![[0, 4096], [4096, 4096]]; 2]));
        assert_eq!(lines["type"], "MultiLineString");
        assert_eq!(lines["coordinates"][1], json!([[0.0, 0.0], [180.0, 0.0]]));
    }
}
