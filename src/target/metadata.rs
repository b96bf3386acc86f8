//! The metadata of a target, in the form of each target format.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::encode::TileFormat;
use crate::tile::{LonLatBox, MapCenter, ZoomList};

/// What a target says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub name: String,
    /// How its tiles are encoded.
    pub format: TileFormat,
    pub description: Option<String>,
    /// Whom to credit, HTML allowed.
    pub attribution: Option<String>,
    /// The tileset's version.
    pub version: Option<String>,
    pub zooms: ZoomList,
    /// The box around all features.
    pub bounds: LonLatBox,
    /// Where a map begins; `None` for the middle of the bounds at the shallowest zoom.
    pub center: Option<MapCenter>,
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The manifest as JSON. It is empty in a copy of a target that another program wrote; an empty manifest is not
    /// written.
    pub manifest: String,
}

/// One layer as TileJSON and MBTiles describe it (TileJSON 3.0.0, section 3.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct VectorLayer {
    /// The layer's name.
    pub id: String,
    /// What it shows; may be empty.
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

/// The key of the manifest in a target's metadata.
pub(crate) const MANIFEST_KEY: &str = "oar_tiles_manifest";

/// The key, in the metadata of a PMTiles archive, of the number of bytes of its tile data that belong to no tile. It is
/// no part of the manifest, which goes with the tiles to other targets.
pub(crate) const DEAD_BYTES_KEY: &str = "oar_tiles_dead_bytes";

/// The program's name and version, as targets name it.
pub const GENERATOR: &str = concat!("oar-tiles ", env!("CARGO_PKG_VERSION"));

impl Metadata {
    /// Where a map may begin.
    pub fn center(&self) -> MapCenter {
        let LonLatBox { west, south, east, north } = self.bounds;
        self.center.unwrap_or_else(|| MapCenter {
            longitude: f64::midpoint(west, east),
            latitude: f64::midpoint(south, north),
            zoom: self.zooms.min().get(),
        })
    }

    /// The names and values of MBTiles 1.3, section "Metadata", which GDAL also reads from a directory's
    /// `metadata.json`. The manifest is the last. All values are text.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        self.every_row().into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The same rows, with `None` for names without a value: an edit deletes the target's rows of these names.
    pub(crate) fn every_row(&self) -> [(&'static str, Option<String>); 13] {
        let LonLatBox { west, south, east, north } = self.bounds;
        [
            ("name", Some(self.name.clone())),
            ("format", Some(self.format.extension.to_owned())),
            ("bounds", Some(format!("{west:.6},{south:.6},{east:.6},{north:.6}"))),
            ("center", Some(self.center().to_string())),
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

    /// The metadata object of a PMTiles archive (PMTiles v3, section 5), with the manifest as text. Bounds, zooms and
    /// center are in the header. `dead` is the number of bytes of its tile data that belong to no tile; `None` for an
    /// archive that was not edited.
    pub(crate) fn pmtiles(&self, dead: Option<u64>) -> Value {
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
        if let Some(dead) = dead {
            object.insert(DEAD_BYTES_KEY.to_owned(), dead.into());
        }
        Value::Object(object)
    }

    /// TileJSON 3.0.0; `addresses` are the URLs of tiles with placeholders, from which clients make their requests.
    pub(crate) fn tilejson(&self, addresses: &[String], layers: &[&VectorLayer]) -> Value {
        let MapCenter { longitude, latitude, zoom } = self.center();
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
        if let Some(encoding) = self.format.tilejson_encoding() {
            object["encoding"] = encoding.into();
        }
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
