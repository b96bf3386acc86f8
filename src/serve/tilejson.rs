//! TileJSON 3.0.0 of the target, with the addresses at which this server answers.

use serde_json::{Map, Value, json};

use super::tileset::ServedState;
use crate::sink::VectorLayer;
use crate::tile::{LayerId, LonLatBox, Slice};

/// The ending of the name of a layer's own document, where the target keeps layers apart.
const OF_A_LAYER: &str = ".tiles.json";

/// The document of a name: `tiles.json`, or `NAME.tiles.json` where the target keeps layers apart. `public_url` ends with a slash.
pub(crate) fn tilejson(state: &ServedState, name: &str, public_url: &str) -> Option<Value> {
    let layers = &state.described.vector_layers;
    if !state.template.layers_apart() {
        return (name == "tiles.json").then(|| document(state, Slice::Whole, layers, public_url));
    }
    let own = name.strip_suffix(OF_A_LAYER)?;
    let index = layers.iter().position(|layer| layer.id == own)?;
    let slice = Slice::Layer(LayerId(u16::try_from(index).ok()?));
    Some(document(state, slice, &layers[index..=index], public_url))
}

fn document(state: &ServedState, slice: Slice, layers: &[VectorLayer], public_url: &str) -> Value {
    let described = &state.described;
    let mut object = Map::new();
    object.insert("tilejson".to_owned(), "3.0.0".into());
    object.insert("tiles".to_owned(), json!([format!("{public_url}{}", state.template.address(slice))]));
    object.insert("vector_layers".to_owned(), json!(layers));
    object.insert("scheme".to_owned(), "xyz".into());
    if let Some((min, max)) = described.zooms {
        object.insert("minzoom".to_owned(), min.into());
        object.insert("maxzoom".to_owned(), max.into());
    }
    if let Some(LonLatBox { west, south, east, north }) = described.bounds {
        object.insert("bounds".to_owned(), json!([west, south, east, north]));
        let zoom = described.zooms.map_or(0, |(min, _)| min);
        object.insert("center".to_owned(), json!([f64::midpoint(west, east), f64::midpoint(south, north), zoom]));
    }
    for (name, value) in [
        ("name", &described.name),
        ("description", &described.description),
        ("attribution", &described.attribution),
        ("version", &described.version),
    ] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.clone().into());
        }
    }
    Value::Object(object)
}
