//! What a target says about itself, in the words of each format.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::tile::{LonLatBox, ZoomList};

/// What a target says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// The tileset's name.
    pub name: String,
    /// What it shows.
    pub description: Option<String>,
    /// Whom to credit, HTML allowed.
    pub attribution: Option<String>,
    /// The tileset's version.
    pub version: Option<String>,
    /// The zooms that were asked for.
    pub zooms: ZoomList,
    /// The box around what the tiles show.
    pub bounds: LonLatBox,
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The manifest as JSON; empty if there is none, as in a copy of what another program made. It is then not written.
    pub manifest: String,
}

/// One layer as TileJSON and MBTiles describe it (TileJSON 3.0.0, section 3.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct VectorLayer {
    /// The layer's name.
    pub id: String,
    /// What it shows; empty if nothing is said.
    #[serde(default)]
    pub description: String,
    /// Its shallowest zoom.
    #[serde(default)]
    pub minzoom: u8,
    /// Its deepest zoom.
    #[serde(default)]
    pub maxzoom: u8,
    /// The properties: name to "Number", "Boolean" or "String".
    #[serde(default)]
    pub fields: Map<String, Value>,
}

/// The name under which the manifest is kept in a target's metadata.
pub(super) const MANIFEST_KEY: &str = "oar_tiles_manifest";

/// The program, as targets name it.
pub const GENERATOR: &str = concat!("oar-tiles ", env!("CARGO_PKG_VERSION"));

impl Metadata {
    /// Longitude, latitude and zoom at which a map may begin.
    #[must_use]
    pub fn center(&self) -> (f64, f64, u8) {
        let LonLatBox { west, south, east, north } = self.bounds;
        (f64::midpoint(west, east), f64::midpoint(south, north), self.zooms.min().get())
    }

    /// The names and values of MBTiles 1.3, section "Metadata", which GDAL also reads from a directory's `metadata.json`;
    /// the manifest is the last. All values are text.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        self.every_row().into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The same, with the names of those that have no value: what a target said there is to go.
    pub(super) fn every_row(&self) -> [(&'static str, Option<String>); 13] {
        let LonLatBox { west, south, east, north } = self.bounds;
        let (longitude, latitude, zoom) = self.center();
        [
            ("name", Some(self.name.clone())),
            ("format", Some("pbf".to_owned())),
            ("bounds", Some(format!("{west:.6},{south:.6},{east:.6},{north:.6}"))),
            ("center", Some(format!("{longitude:.6},{latitude:.6},{zoom}"))),
            ("minzoom", Some(self.zooms.min().to_string())),
            ("maxzoom", Some(self.zooms.max().to_string())),
            ("attribution", self.attribution.clone()),
            ("description", self.description.clone()),
            ("type", Some("overlay".to_owned())),
            ("version", self.version.clone()),
            ("json", Some(json!({ "vector_layers": self.vector_layers }).to_string())),
            ("generator", Some(GENERATOR.to_owned())),
            (MANIFEST_KEY, Some(self.manifest.clone()).filter(|manifest| !manifest.is_empty())),
        ]
    }

    /// The JSON object of a PMTiles archive (PMTiles v3, section 5), the manifest as an object in it. Bounds, zooms and center
    /// stand in the header.
    pub(super) fn pmtiles(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), self.name.clone().into());
        for (name, value) in
            [("description", &self.description), ("attribution", &self.attribution), ("version", &self.version)]
        {
            if let Some(value) = value {
                object.insert(name.to_owned(), value.clone().into());
            }
        }
        object.insert("type".to_owned(), "overlay".into());
        object.insert("vector_layers".to_owned(), json!(self.vector_layers));
        object.insert("generator".to_owned(), GENERATOR.into());
        if !self.manifest.is_empty() {
            object.insert(MANIFEST_KEY.to_owned(), self.manifest.clone().into());
        }
        Value::Object(object)
    }

    /// TileJSON 3.0.0, with the addresses of the tiles as a client is to ask for them.
    pub(super) fn tilejson(&self, addresses: &[String], layers: &[&VectorLayer]) -> Value {
        let (longitude, latitude, zoom) = self.center();
        let mut object = json!({
            "tilejson": "3.0.0",
            "name": self.name,
            "tiles": addresses,
            "vector_layers": layers,
            "bounds": self.bounds.sides(),
            "center": [longitude, latitude, zoom],
            "minzoom": self.zooms.min().get(),
            "maxzoom": self.zooms.max().get(),
            "scheme": "xyz",
        });
        for (name, value) in
            [("description", &self.description), ("attribution", &self.attribution), ("version", &self.version)]
        {
            if let Some(value) = value {
                object[name] = value.clone().into();
            }
        }
        object
    }
}
