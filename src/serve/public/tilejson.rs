//! TileJSON 3.0.0 of the target, with the URLs of this server.

use serde_json::{Map, Value, json};

use crate::serve::live::LiveLayer;
use crate::serve::target::state::ServedState;
use crate::sink::VectorLayer;
use crate::tile::{LayerId, LonLatBox, MapCenter, Slice, Zoom};

/// The suffix of a single layer's document, if the target keeps layers apart.
const OF_A_LAYER: &str = ".tiles.json";

/// The document with this name: `tiles.json`, or `NAME.tiles.json` if the target keeps layers apart; `None` for other names. `public_url`
/// ends with a slash. With `live`, the zooms are those at which the layers are rendered, and the bounds are the world.
pub(crate) fn tilejson(state: &ServedState, name: &str, public_url: &str, live: Option<&[LiveLayer]>) -> Option<Value> {
    let layers: Vec<VectorLayer> =
        state.described.vector_layers.iter().map(|layer| with_live_zooms(layer, live.unwrap_or_default())).collect();
    let document = |slice, layers: &[VectorLayer]| document(state, slice, layers, public_url, live.is_some());
    if !state.template.layers_apart() {
        return (name == "tiles.json").then(|| document(Slice::Whole, &layers));
    }
    let own = name.strip_suffix(OF_A_LAYER)?;
    let index = layers.iter().position(|layer| layer.id == own)?;
    let slice = Slice::Layer(LayerId(u16::try_from(index).ok()?));
    Some(document(slice, &layers[index..=index]))
}

/// A layer of the target; if it is rendered on request, with the zooms at which that is done.
fn with_live_zooms(layer: &VectorLayer, live: &[LiveLayer]) -> VectorLayer {
    let zooms = live.iter().filter(|live| live.name == layer.id).flat_map(|live| live.zooms.iter()).map(Zoom::get);
    let (min, max) = zooms.fold((layer.minzoom, layer.maxzoom), |(min, max), zoom| (min.min(zoom), max.max(zoom)));
    VectorLayer { minzoom: min, maxzoom: max, ..layer.clone() }
}

fn document(state: &ServedState, slice: Slice, layers: &[VectorLayer], public_url: &str, is_live: bool) -> Value {
    let described = &state.described;
    let ends = described.zooms.map(|(min, max)| {
        let ends = layers.iter().filter(|_| is_live).map(|layer| (layer.minzoom, layer.maxzoom));
        ends.fold((min, max), |(min, max), (first, last)| (min.min(first), max.max(last)))
    });
    let mut object = Map::new();
    object.insert("tilejson".to_owned(), "3.0.0".into());
    object.insert("tiles".to_owned(), json!([format!("{public_url}{}", state.template.address(slice))]));
    object.insert("vector_layers".to_owned(), json!(layers));
    object.insert("scheme".to_owned(), "xyz".into());
    if let Some((min, max)) = ends {
        object.insert("minzoom".to_owned(), min.into());
        object.insert("maxzoom".to_owned(), max.into());
    }
    if let Some(LonLatBox { west, south, east, north }) = described.bounds {
        let bounds = if is_live { LonLatBox::WORLD.sides() } else { [west, south, east, north] };
        object.insert("bounds".to_owned(), json!(bounds));
        let middle = MapCenter {
            longitude: f64::midpoint(west, east),
            latitude: f64::midpoint(south, north),
            zoom: described.zooms.map_or(0, |(min, _)| min),
        };
        let MapCenter { longitude, latitude, zoom } = described.center.unwrap_or(middle);
        object.insert("center".to_owned(), json!([longitude, latitude, zoom]));
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
