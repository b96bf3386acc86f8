//! The content of a target, and of a tile, as tables and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::summary::{counted, table, table_of};
use super::{grouped, sized, visible_line};
use crate::manifest::Manifest;
use crate::pipeline::LargestTile;
use crate::tile::LonLatBox;

/// The content of a target.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Contents {
    /// The path or URL of the target.
    pub target: String,
    /// The tileset's name, if the target has one.
    pub name: Option<String>,
    /// The tileset's description, if the target has one.
    pub description: Option<String>,
    /// The bounds of the tileset.
    pub bounds: Option<ContentsBounds>,
    /// The lowest zoom that the target's metadata names.
    pub min_zoom: Option<u8>,
    /// The highest zoom that the target's metadata names.
    pub max_zoom: Option<u8>,
    /// The layers, as TileJSON describes them (`vector_layers`).
    pub vector_layers: serde_json::Value,
    /// The manifest; `None` if another program wrote the target.
    pub manifest: Option<Manifest>,
    /// Runs that began to change the target and did not finish, in words.
    pub unfinished: Vec<String>,
    /// When the run that wrote the manifest began (RFC 3339, UTC).
    pub seeded: Option<String>,
    /// The number of tiles.
    pub tiles: u64,
    /// Stored size of all tiles, in bytes.
    pub bytes: u64,
    /// Bytes of a PMTiles archive that belong to no tile, because edits have replaced or removed it; absent if there
    /// are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_bytes: Option<u64>,
    /// Figures for each zoom.
    pub zooms: Vec<ContentsZoom>,
}

/// The bounds of a tileset, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct ContentsBounds {
    /// The western longitude.
    pub west: f64,
    /// The southern latitude.
    pub south: f64,
    /// The eastern longitude.
    pub east: f64,
    /// The northern latitude.
    pub north: f64,
}

impl From<LonLatBox> for ContentsBounds {
    fn from(bounds: LonLatBox) -> ContentsBounds {
        let LonLatBox { west, south, east, north } = bounds;
        ContentsBounds { west, south, east, north }
    }
}

/// Figures of one zoom.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ContentsZoom {
    /// The zoom level.
    pub zoom: u8,
    /// The number of tiles stored.
    pub tiles: u64,
    /// Stored size of these tiles, in bytes.
    pub bytes: u64,
    /// The median of the tiles' stored sizes, in bytes.
    pub median: u64,
    /// The 95th percentile of the tiles' stored sizes, in bytes.
    pub p95: u64,
    /// The largest tile.
    pub largest: Option<LargestTile>,
}

/// A feature of a tile in words.
#[derive(Debug, Clone)]
pub struct ShownFeature {
    pub layer: String,
    /// Its id; empty if it has none.
    pub id: String,
    pub geometry: String,
    pub properties: String,
}

/// The summary of a target.
pub fn render_contents(contents: &Contents) -> String {
    let zoom = |zoom: &ContentsZoom| {
        let largest = zoom.largest.map(|largest| format!("{} {}", sized(largest.bytes), largest.tile));
        let (median, p95) = (sized(zoom.median), sized(zoom.p95));
        vec![zoom.zoom.to_string(), grouped(zoom.tiles), sized(zoom.bytes), median, p95, largest.unwrap_or_default()]
    };
    let nothing = String::new;
    let all = vec!["all".to_owned(), grouped(contents.tiles), sized(contents.bytes), nothing(), nothing(), nothing()];
    let rows: Vec<Vec<String>> = contents.zooms.iter().map(zoom).chain([all]).collect();
    let mut text = table(&["zoom", "tiles", "bytes", "median", "p95", "largest"], &rows);
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{what}: {value}\n"));
        }
    };
    line("name", contents.name.as_ref().map(|name| visible_line(name)));
    line("description", contents.description.as_ref().map(|text| visible_line(text)));
    line(
        "bounds",
        contents.bounds.map(|bounds| {
            let ContentsBounds { west, south, east, north } = bounds;
            LonLatBox { west, south, east, north }.to_string()
        }),
    );
    line("zooms", contents.min_zoom.zip(contents.max_zoom).map(|(from, to)| format!("{from}-{to}")));
    for layer in contents.vector_layers.as_array().into_iter().flatten() {
        let fields = layer["fields"].as_object().into_iter().flatten();
        let fields: Vec<String> =
            fields.map(|(name, kind)| format!("{} {}", visible_line(name), kind_of(kind))).collect();
        let (id, from, to) =
            (visible_line(layer["id"].as_str().unwrap_or_default()), &layer["minzoom"], &layer["maxzoom"]);
        line("layer", Some(format!("{id} (zooms {from}-{to}): {}", fields.join(", "))));
    }
    if let Some(manifest) = &contents.manifest {
        line("snapshot", Some(visible_line(&manifest.snapshot)));
        line("seeded", contents.seeded.clone());
        let unrendered = manifest.unrendered.len();
        line("could not be rendered", (unrendered > 0).then(|| counted(unrendered as u64, "tile")));
    } else {
        line("manifest", Some("none: oar-tiles did not seed it, or it is a part of something".to_owned()));
    }
    for run in &contents.unfinished {
        line("not finished", Some(format!("{} (under way, or interrupted)", visible_line(run))));
    }
    let dead = contents.dead_bytes.map(|bytes| format!("{} that belong to no tile any more", sized(bytes)));
    line("dead bytes", dead);
    line("target", Some(contents.target.clone()));
    text
}

fn kind_of(kind: &serde_json::Value) -> String {
    kind.as_str().map_or_else(|| kind.to_string(), visible_line)
}

pub fn render_features(features: &[ShownFeature]) -> String {
    let cells = |feature: &ShownFeature| {
        vec![visible_line(&feature.layer), feature.id.clone(), feature.geometry.clone(), feature.properties.clone()]
    };
    let rows: Vec<Vec<String>> = features.iter().map(cells).collect();
    table_of(&["layer", "id", "geometry", "properties"], &rows, |column| column == 1)
}
