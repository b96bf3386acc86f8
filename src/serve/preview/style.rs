//! The map's style as a file of its own: what the preview shows, for the user's own map (MapLibre Style Specification, version 8).

use serde_json::{Value, json};

use crate::sink::{Described, VectorLayer};

/// How a layer is drawn, with placeholders for its name, its source and its colour. The preview's script has the same text.
pub(super) const LAYERS: &str = include_str!("layers.json");

/// The colours of the layers, which the preview's script has, too.
pub(super) const COLOURS: [&str; 8] =
    ["#ffd166", "#06d6a0", "#4cc9f0", "#ef476f", "#b388eb", "#f78c6b", "#90be6d", "#f15bb5"];

/// The colour behind the map.
pub(super) const BACKGROUND: &str = "#0b1524";

/// The zoom from which features are labelled: at lower zooms, labels would hide the map.
const FIRST_LABEL_ZOOM: u8 = 9;

/// The style of a target's tiles. `base` is the URL, with a slash at its end, under which its `tiles.json` is; `label` is the property whose values
/// are shown next to features.
pub(crate) fn style(described: &Described, base: &str, label: Option<&str>) -> Value {
    let mut layers =
        vec![json!({ "id": "background", "type": "background", "paint": { "background-color": BACKGROUND } })];
    for (layer, colour) in described.vector_layers.iter().zip(COLOURS.iter().cycle()) {
        if let Ok(Value::Array(of_layer)) = serde_json::from_str(LAYERS) {
            layers.extend(of_layer.into_iter().map(|one| filled(one, layer, colour)));
        }
        if let Some(label) = label.filter(|label| layer.fields.contains_key(*label)) {
            layers.push(labels(layer, label));
        }
    }
    let mut style = json!({
        "version": 8,
        "name": described.name.as_deref().unwrap_or("tiles"),
        "sources": { "tiles": { "type": "vector", "url": format!("{base}tiles.json") } },
        "layers": layers,
    });
    if let Some(center) = described.center {
        style["center"] = json!([center.longitude, center.latitude]);
        style["zoom"] = center.zoom.into();
    }
    style
}

/// A layer of the style with its placeholders filled in.
fn filled(value: Value, layer: &VectorLayer, colour: &str) -> Value {
    match value {
        Value::String(text) => {
            text.replace("$LAYER", &layer.id).replace("$SOURCE", "tiles").replace("$COLOUR", colour).into()
        }
        Value::Array(values) => values.into_iter().map(|value| filled(value, layer, colour)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, filled(value, layer, colour))).collect(),
        other => other,
    }
}

fn labels(layer: &VectorLayer, property: &str) -> Value {
    json!({
        "id": format!("{}/label", layer.id),
        "type": "symbol",
        "source": "tiles",
        "source-layer": layer.id,
        "minzoom": FIRST_LABEL_ZOOM,
        "filter": ["has", property],
        "layout": {
            "text-field": ["to-string", ["get", property]],
            "text-size": 11,
            "text-variable-anchor": ["left", "right", "top", "bottom"],
            "text-radial-offset": 0.6,
            "text-optional": true,
        },
        "paint": { "text-color": "#ffffff", "text-halo-color": BACKGROUND, "text-halo-width": 1.2 },
    })
}
