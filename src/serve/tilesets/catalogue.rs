//! The catalogue: the tilesets of a server as a document, and as a page with links to their maps.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::{SiteTileset, SiteTilesets};
use crate::json::JSON_VERSION;
use crate::serve::public::tilejson::document_names;
use crate::serve::tilesets;

pub(crate) const CATALOGUE_PATH: &str = "/catalog";

/// The tilesets that a server serves.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CatalogueDocument {
    /// The version of this form: 1.
    schema_version: u32,
    /// The tilesets, in the order of the configuration.
    tilesets: Vec<CatalogueTileset>,
    /// The tilesets with variants, in the order of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    families: Vec<CatalogueFamily>,
}

/// A tileset with variants in the catalogue, whose variants have a list of their own.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CatalogueFamily {
    /// Its name.
    name: String,
    /// The number of its variants.
    variants: usize,
    /// The URL of a variant, with `{name}` for its values; ends with a slash. Its TileJSON is `tiles.json` below it.
    url: String,
    /// The URL of the list of its variants.
    list: String,
}

/// A tileset in the catalogue.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CatalogueTileset {
    /// Its name.
    name: String,
    /// What it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The URLs of its TileJSON documents: one, or one for each layer if each layer of the tileset has tiles of its
    /// own.
    tilejson: Vec<String>,
    /// The names of its layers.
    layers: Vec<String>,
    /// Its first zoom.
    #[serde(skip_serializing_if = "Option::is_none")]
    minzoom: Option<u8>,
    /// Its last zoom.
    #[serde(skip_serializing_if = "Option::is_none")]
    maxzoom: Option<u8>,
    /// True if tiles that are not stored are rendered on request.
    live: bool,
    /// The page with its map, if the server shows maps.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<String>,
}

/// The document of some tilesets. `public_url` is the server's URL, with a slash at its end; `has_maps` is true if the
/// server shows maps.
pub(crate) fn document(site: &SiteTilesets, public_url: &str, has_maps: bool) -> CatalogueDocument {
    let one = |tileset: &SiteTileset| {
        let (state, url) = (tileset.tiles.last(), tileset.url(public_url));
        let ends = state.described.zooms;
        let live = tileset.tiles.live_layers().into_iter().flatten().flat_map(|layer| layer.zooms.iter());
        let (min, max) = live.map(crate::tile::Zoom::get).fold(ends.unzip(), |(min, max), zoom| {
            (Some(min.map_or(zoom, |min| zoom.min(min))), Some(max.map_or(zoom, |max| zoom.max(max))))
        });
        CatalogueTileset {
            name: tileset.name.to_string(),
            description: state.described.description.clone(),
            tilejson: document_names(&state).into_iter().map(|name| format!("{url}{name}")).collect(),
            layers: state.described.vector_layers.iter().map(|layer| layer.id.clone()).collect(),
            minzoom: min,
            maxzoom: max,
            live: tileset.live.is_some(),
            map: has_maps.then_some(url),
        }
    };
    let tilesets = site.all.iter().map(|tileset| one(tileset)).collect();
    let families = site.families.iter().map(|family| CatalogueFamily {
        name: family.name.to_string(),
        variants: family.known().listing.variants.len(),
        url: family.values.iter().fold(tilesets::url_of(family, public_url), |url, name| format!("{url}{{{name}}}/")),
        list: tilesets::list_url_of(family, public_url),
    });
    CatalogueDocument { schema_version: JSON_VERSION, tilesets, families: families.collect() }
}

impl CatalogueDocument {
    /// The document as a page with links to the maps.
    pub(crate) fn page(&self) -> String {
        let mut items = String::new();
        for tileset in &self.tilesets {
            let (name, url) = (escaped(&tileset.name), escaped(tileset.map.as_deref().unwrap_or_default()));
            let description = escaped(tileset.description.as_deref().unwrap_or_default());
            let layers = escaped(&tileset.layers.join(", "));
            // Writing to a string does not fail.
            if writeln!(items, "<li><a href=\"{url}\">{name}</a> <small>{layers}</small> {description}</li>").is_err() {
                break;
            }
        }
        for family in &self.families {
            let (name, list) = (escaped(&family.name), escaped(&family.list));
            if writeln!(items, "<li>{name}: <a href=\"{list}\">{} variants</a></li>", family.variants).is_err() {
                break;
            }
        }
        include_str!("index.html").replace("{{TILESETS}}", &items)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}
