//! How layers are drawn: the colours and the layers of a style, which the page's script and `preview --style` share
//! (MapLibre Style Specification, version 8).

use serde_json::{Map, Value, json};

use super::embedded::FONT;
use crate::target::{Described, VectorLayer};

/// The layers of the style for one layer of the tiles, from the lowest to the highest, with placeholders.
pub(crate) const LAYERS: &str = include_str!("page/layers.json");

/// What the placeholders in [`LAYERS`] stand for that are expressions.
pub(crate) const EXPRESSIONS: &str = include_str!("page/expressions.json");

/// The colours of the base map and of the layers, on light and on dark ground. The ten colours of layers can be told
/// apart without red or green (after Okabe and Ito).
pub(crate) const COLOURS: &str = include_str!("page/colours.json");

/// The zoom from which features are labelled: at lower zooms, labels would hide the map.
const FIRST_LABEL_ZOOM: u8 = 9;

/// The dashes of lines by how often all colours were used before.
const DASHES: [&[f64]; 3] = [&[], &[4.0, 2.0], &[1.0, 1.5]];

/// The style of a target's tiles, on dark ground. `base` is the URL, with a slash at its end, under which its
/// `tiles.json` is; `label` is the property whose values are shown next to features; `glyphs` is the URL, with a slash
/// at its end, under which the glyphs of [`FONT`] are.
pub(crate) fn style(described: &Described, base: &str, label: Option<&str>, glyphs: Option<&str>) -> Value {
    let read = |text| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (colours, expressions, templates) = (read(COLOURS)["dark"].take(), read(EXPRESSIONS), read(LAYERS));
    let each: Vec<Vec<Value>> = (described.vector_layers.iter().enumerate())
        .map(|(number, layer)| {
            layers_of(layer, number, &templates, &Values { colours: &colours, expressions: &expressions })
        })
        .collect();
    // All polygons come first, then all lines, points and counts, whatever the order of the layers.
    let kinds = templates.as_array().map_or(0, Vec::len);
    let mut layers =
        vec![json!({ "id": "background", "type": "background", "paint": { "background-color": colours["sea"] } })];
    layers.extend((0..kinds).flat_map(|kind| each.iter().filter_map(move |of_layer| of_layer.get(kind)).cloned()));
    if let Some(label) = label {
        let labelled = described.vector_layers.iter().filter(|layer| layer.fields.contains_key(label));
        layers.extend(labelled.map(|layer| labels(layer, label, &colours)));
    }
    let mut style = json!({
        "version": 8,
        "name": described.name.as_deref().unwrap_or("tiles"),
        "sources": { "tiles": { "type": "vector", "url": format!("{base}tiles.json") } },
        "layers": layers,
    });
    if let Some(glyphs) = glyphs {
        style["glyphs"] = format!("{glyphs}{{fontstack}}/{{range}}.pbf").into();
        let layers = style["layers"].as_array_mut().into_iter().flatten();
        for layer in layers.filter(|layer| layer["type"] == "symbol") {
            layer["layout"]["text-font"] = json!([FONT]);
        }
    }
    if let Some(center) = described.center {
        style["center"] = json!([center.longitude, center.latitude]);
        style["zoom"] = center.zoom.into();
    }
    style
}

/// What the placeholders of the style stand for in all layers.
struct Values<'a> {
    colours: &'a Value,
    expressions: &'a Value,
}

/// The layers of the style for the tiles' layer of this number.
fn layers_of(layer: &VectorLayer, number: usize, templates: &Value, values: &Values<'_>) -> Vec<Value> {
    let palette = values.colours["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let colour = palette.get(number % palette.len().max(1)).cloned().unwrap_or_default();
    let dashes = DASHES[number / palette.len().max(1) % DASHES.len()];
    let texts: Map<String, Value> = [
        ("$LAYER", Value::from(layer.id.as_str())),
        ("$SOURCE", "tiles".into()),
        ("$COLOUR", colour),
        ("$HALO", values.colours["halo"].clone()),
        // The colours on dark ground are all light.
        ("$INK", "#000000".into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let mut layers = match filled(templates, &texts, values.expressions) {
        Value::Array(layers) => layers,
        _ => Vec::new(),
    };
    for line in layers.iter_mut().filter(|line| line["type"] == "line" && !dashes.is_empty()) {
        line["paint"]["line-dasharray"] = json!(dashes);
    }
    layers
}

/// A value of the style with its placeholders filled in: expressions as they are, texts also within other texts.
fn filled(value: &Value, texts: &Map<String, Value>, expressions: &Value) -> Value {
    match value {
        Value::String(text) => match expressions.get(text) {
            Some(expression) => filled(expression, texts, expressions),
            None => texts
                .iter()
                .fold(text.clone(), |text, (name, value)| text.replace(name, value.as_str().unwrap_or_default()))
                .into(),
        },
        Value::Array(values) => values.iter().map(|value| filled(value, texts, expressions)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), filled(value, texts, expressions))).collect()
        }
        other => other.clone(),
    }
}

fn labels(layer: &VectorLayer, property: &str, colours: &Value) -> Value {
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
        "paint": { "text-color": "#ffffff", "text-halo-color": colours["halo"], "text-halo-width": 1.2 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_style_are_json() {
        for text in [LAYERS, EXPRESSIONS, COLOURS] {
            serde_json::from_str::<Value>(text).unwrap();
        }
    }
}
