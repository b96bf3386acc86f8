//! The notes that the program keeps next to the tiles: their names, and their contents written and parsed.
//!
//! | name | what |
//! |---|---|
//! | `tiles.json`, or `NAME.tiles.json` for each layer kept apart | TileJSON 3.0.0 for clients |
//! | `metadata.json` | MBTiles' metadata as JSON, which GDAL reads, and the manifest: written last |
//! | `latest.json` | with versions: the current version and all others, written last |
//! | `.oar-tiles/versions/VERSION/…` | with versions: each version's own `tiles.json` and `metadata.json` |
//! | `.oar-tiles/…` | lock or lease, and what was begun |

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::publish::is_version_name;
use super::template::TemplateError;
use super::{Intent, IntentKind, Template, TreeOptions};
use crate::encode::TileFormat;
use crate::manifest::Region;
use crate::target::metadata::MANIFEST_KEY;
use crate::target::{Described, Metadata, VectorLayer};
use crate::tile::{LayerId, LonLatBox, Scope, Slice};

/// The name of the note with the metadata and the manifest.
pub(crate) const METADATA: &str = "metadata.json";
/// The name of the note with the versions.
pub(crate) const LATEST: &str = "latest.json";
const TILEJSON: &str = "tiles.json";
const TEMPLATE_KEY: &str = "oar_tiles_template";
/// The key of the names of all layers, by their [`LayerId`], in the metadata.
const LAYERS_KEY: &str = "oar_tiles_layers";
/// The key of the public URL in the metadata. The value is empty where addresses are relative on purpose.
const PUBLIC_URL_KEY: &str = "oar_tiles_public_url";

/// A note to be written: its name below the target, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoteFile {
    pub(crate) name: String,
    pub(crate) body: Vec<u8>,
}

/// What was begun in a target. With this note an interrupted run is continued, and a run of another tileset is
/// recognized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) fingerprint: String,
    /// A version that was begun and not published.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "pending")]
    pub(crate) pending: Option<String>,
    /// Runs that have not finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unfinished: Vec<Intent>,
}

impl Begun {
    /// The unfinished runs of a target with this manifest. An older version of the program noted no intents, only the
    /// fingerprint that it began to write. If that is not the manifest's fingerprint, it counts as an unknown run.
    pub(crate) fn unfinished(&self, manifest: Option<&str>) -> Vec<Intent> {
        let mut unfinished = self.unfinished.clone();
        let Some((manifest, now)) = manifest.and_then(|manifest| Some((manifest, fingerprint(manifest)?))) else {
            return unfinished;
        };
        let is_noted = unfinished.iter().any(|intent| intent.fingerprint == self.fingerprint);
        if now != self.fingerprint && !self.fingerprint.is_empty() && self.pending.is_none() && !is_noted {
            unfinished.push(Intent::unknown(&self.fingerprint));
        }
        // Tiles noted as replaced are not leftovers while the manifest still speaks for them.
        let parts: Vec<Scope> =
            regions(manifest).iter().filter_map(|region| Scope::read(&region.zooms, &region.bbox).ok()).collect();
        unfinished.retain(|intent| {
            intent.run != IntentKind::Replaced || intent.fingerprint != now || !intent.scope().is_within(&parts)
        });
        unfinished
    }
}

/// Ignores a text that cannot be the name of a version: this program did not write it.
fn pending<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let version = Option::<String>::deserialize(deserializer)?;
    Ok(version.filter(|version| is_version_name(version)))
}

pub(crate) fn of_version(version: &str, name: &str) -> String {
    format!("{}/versions/{version}/{name}", super::OWN_FOLDER)
}

/// The names of the documents that lead clients to tiles. `layers` are the names of the layers.
pub(crate) fn documents(template: &Template, layers: &[String]) -> Vec<String> {
    let mut names = vec![LATEST.to_owned(), METADATA.to_owned()];
    if template.layers_apart() {
        names.extend(layers.iter().map(|layer| tilejson_of(layer)));
    } else {
        names.push(TILEJSON.to_owned());
    }
    names
}

/// The name of the TileJSON of a layer that is kept apart.
fn tilejson_of(layer: &str) -> String {
    format!("{}.{TILEJSON}", super::template::escaped(layer))
}

/// The notes of a finished run: TileJSON, then the metadata with the manifest, which must be written last.
pub(crate) fn finished(
    metadata: &Metadata,
    layers: &[String],
    template: &Template,
    options: &TreeOptions,
) -> Result<Vec<NoteFile>, serde_json::Error> {
    let base = match options.public_url.as_deref() {
        None | Some("") => String::new(),
        Some(url) => format!("{}/", url.trim_end_matches('/')),
    };
    let mut notes = Vec::new();
    let address = |slice| vec![format!("{base}{}", template.address(slice))];
    if template.layers_apart() {
        for (layer_id, name) in (0_u16..).map(LayerId).zip(layers) {
            let of_layer: Vec<&VectorLayer> = metadata.vector_layers.iter().filter(|layer| layer.id == *name).collect();
            let Some(layer) = of_layer.first() else { continue };
            let mut body = metadata.tilejson(&address(Slice::Layer(layer_id)), &of_layer);
            // The layer's own zooms: clients ask for no tile outside of them, and enlarge the deepest beyond.
            body["minzoom"] = layer.minzoom.into();
            body["maxzoom"] = layer.maxzoom.into();
            if metadata.center.is_none() {
                body["center"][2] = layer.minzoom.into();
            }
            let name = tilejson_of(name);
            notes.push(NoteFile { name, body: serde_json::to_vec_pretty(&body)? });
        }
    } else {
        let all: Vec<&VectorLayer> = metadata.vector_layers.iter().collect();
        let body = metadata.tilejson(&address(Slice::Whole), &all);
        notes.push(NoteFile { name: TILEJSON.to_owned(), body: serde_json::to_vec_pretty(&body)? });
    }
    let mut object = Map::new();
    for (name, value) in metadata.rows() {
        object.insert(name.to_owned(), value.into());
    }
    object.insert(TEMPLATE_KEY.to_owned(), template.text().into());
    object.insert(LAYERS_KEY.to_owned(), layers.into());
    if let Some(url) = &options.public_url {
        object.insert(PUBLIC_URL_KEY.to_owned(), url.clone().into());
    }
    notes.push(NoteFile { name: METADATA.to_owned(), body: serde_json::to_vec_pretty(&Value::Object(object))? });
    Ok(notes)
}

/// True if a name directly below a target is that of a note, of this program or of another that publishes tiles.
pub(crate) fn is_note(name: &str) -> bool {
    [METADATA, LATEST].contains(&name) || is_tilejson(name)
}

/// True if a name directly below a target is that of the TileJSON of all layers, or of one.
pub(crate) fn is_tilejson(name: &str) -> bool {
    name.strip_suffix(TILEJSON).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The metadata of a version that was only begun: enough to find its tiles again.
pub(crate) fn begun(layers: &[String], template: &Template) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&serde_json::json!({ TEMPLATE_KEY: template.text(), LAYERS_KEY: layers }))
}

/// The contents of `metadata.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TargetNotes {
    pub(crate) described: Described,
    pub(crate) template: Option<String>,
    /// The names of all layers, by their [`LayerId`].
    pub(crate) layers: Vec<String>,
}

impl TargetNotes {
    /// The template of the tiles' names, with its layers: the noted one, or `otherwise`.
    pub(crate) fn template_or(&self, otherwise: &Template) -> Result<Template, TemplateError> {
        let template = self.template.as_deref().map_or_else(|| Ok(otherwise.clone()), Template::new)?;
        Ok(template.with_layers(self.layers.iter().map(String::as_str)))
    }
}

/// Parses `metadata.json`, of this program or another.
pub(crate) fn read(body: &[u8]) -> Result<TargetNotes, serde_json::Error> {
    #[derive(Deserialize)]
    struct Layers {
        #[serde(default)]
        vector_layers: Vec<VectorLayer>,
    }
    let object: Map<String, Value> = serde_json::from_slice(body)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| text(name).and_then(|text| text.parse::<u8>().ok());
    let bounds = text("bounds").and_then(|text| {
        let sides: Vec<f64> = text.split(',').map_while(|side| side.trim().parse().ok()).collect();
        <[f64; 4]>::try_from(sides).ok().map(LonLatBox::from_sides)
    });
    // Another program may describe its layers in a form that is not known here: then they are left out.
    let layers = text("json").and_then(|json| serde_json::from_str::<Layers>(&json).ok());
    let names = object.get(LAYERS_KEY).and_then(Value::as_array);
    Ok(TargetNotes {
        described: Described {
            name: text("name"),
            format: text("format").and_then(|format| TileFormat::named(&format)).unwrap_or_default(),
            description: text("description"),
            attribution: text("attribution"),
            version: text("version"),
            zooms: number("minzoom").zip(number("maxzoom")),
            bounds,
            center: text("center").and_then(|text| text.parse().ok()),
            vector_layers: layers.map_or_else(Vec::new, |layers| layers.vector_layers),
            generator: text("generator"),
            manifest: text(MANIFEST_KEY),
            public_url: text(PUBLIC_URL_KEY),
            unfinished: Vec::new(),
            dead: None,
        },
        template: text(TEMPLATE_KEY),
        layers: names
            .map_or_else(Vec::new, |names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
    })
}

/// The regions that a manifest speaks for; none if it has another form.
pub(crate) fn regions(manifest: &str) -> Vec<Region> {
    #[derive(Deserialize)]
    struct Regions {
        #[serde(flatten)]
        own: Region,
        #[serde(default)]
        kept: Vec<Region>,
    }
    match serde_json::from_str::<Regions>(manifest) {
        Ok(Regions { own, kept }) => std::iter::once(own).chain(kept).collect(),
        Err(_no_regions) => Vec::new(),
    }
}

pub(crate) fn fingerprint(manifest: &str) -> Option<String> {
    let manifest: Value = serde_json::from_str(manifest).ok()?;
    manifest.get("fingerprint")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tree::{Publishing, TargetSection};

    #[test]
    fn metadata_is_read_back_as_it_was_written() {
        let layer = |id: &str| VectorLayer { id: id.to_owned(), minzoom: 1, maxzoom: 2, ..VectorLayer::default() };
        let metadata = Metadata {
            name: "facilities".to_owned(),
            format: TileFormat::MVT,
            description: None,
            attribution: Some("©".to_owned()),
            version: None,
            zooms: "0-3".parse().unwrap(),
            bounds: LonLatBox::from_sides([-10.0, -5.5, 10.0, 5.5]),
            center: None,
            vector_layers: vec![layer("a"), layer("b c")],
            manifest: "{\"fingerprint\":\"f\"}".to_owned(),
        };
        let template = Template::new("{layer}/{z}/{x}/{y}.pbf").unwrap().with_layers(["a", "b c"]);
        let options = TreeOptions {
            template: template.clone(),
            publish: Publishing::InPlace,
            force: false,
            public_url: Some("https://tiles.example.org/x/".to_owned()),
            section: TargetSection::default(),
        };
        let layers = ["a".to_owned(), "b c".to_owned()];
        let notes = finished(&metadata, &layers, &template, &options).unwrap();
        let names: Vec<&str> = notes.iter().map(|note| note.name.as_str()).collect();
        assert_eq!(names, ["a.tiles.json", "b%20c.tiles.json", "metadata.json"]);
        let tilejson: Value = serde_json::from_slice(&notes[1].body).unwrap();
        assert_eq!(tilejson["tiles"][0], "https://tiles.example.org/x/b%20c/{z}/{x}/{y}.pbf");
        assert_eq!(
            (&tilejson["minzoom"], &tilejson["maxzoom"], &tilejson["center"][2]),
            (&1.into(), &2.into(), &1.into())
        );
        let back = read(&notes[2].body).unwrap();
        assert_eq!((back.described.bounds, back.described.zooms), (Some(metadata.bounds), Some((0, 3))));
        assert_eq!(back.described.vector_layers, metadata.vector_layers);
        assert_eq!(back.template.as_deref(), Some("{layer}/{z}/{x}/{y}.pbf"));
        assert_eq!(
            (back.layers, fingerprint(&back.described.manifest.unwrap())),
            (layers.to_vec(), Some("f".to_owned()))
        );
    }
}
